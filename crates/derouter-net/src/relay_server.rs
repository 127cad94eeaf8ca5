//! What this node gives as a relay, counted. Pure but for the counters.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use libp2p::relay::{Event, StatusCode};

use crate::counters::count;

/// What a relay gave and refused since the start. `reserved_peers` and `circuits` rise and fall,
/// all others only rise.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Peers that are reached through this node now.
    pub reserved_peers: AtomicU64,
    /// Circuits open now.
    pub circuits: AtomicU64,
    /// Reservations made.
    pub reservations_accepted: AtomicU64,
    /// Reservations renewed.
    pub reservations_renewed: AtomicU64,
    /// Reservations refused: over a limit, or too often.
    pub reservations_refused: AtomicU64,
    /// Reservations that were not renewed in time.
    pub reservations_expired: AtomicU64,
    /// Circuits made.
    pub circuits_accepted: AtomicU64,
    /// Circuits refused: over a limit, or too often.
    pub circuits_refused_limit: AtomicU64,
    /// Circuits refused: nobody of that name has a reservation here.
    pub circuits_refused_unknown: AtomicU64,
    /// Circuits refused: the peer at the other end did not take them, or was not reached.
    pub circuits_refused_failed: AtomicU64,
    /// Circuits that ended with an error: a limit, or a connection that broke.
    pub circuits_broken: AtomicU64,
}

/// The peers that are reached through this node, or are about to be. As many as may be at the most.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayPlaces(Arc<Mutex<HashSet<PeerId>>>);

impl RelayPlaces {
    /// Whether the peer has one of so many places, or gets one now.
    pub(crate) fn take(&self, peer: PeerId, places: usize) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&peer) {
            return true;
        }
        held.len() < places && held.insert(peer)
    }

    fn give_back(&self, peer: &PeerId) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(peer);
    }
}

/// Keeps [`RelayCounters`] true, and gives places back.
#[derive(Debug, Default)]
pub(crate) struct RelayTally {
    counters: Arc<RelayCounters>,
    places: RelayPlaces,
    /// Connected peers only, so no more than there are connections.
    reserved: HashSet<PeerId>,
    circuits: u64,
}

impl RelayTally {
    pub(crate) fn new(counters: Arc<RelayCounters>, places: RelayPlaces) -> Self {
        Self {
            counters,
            places,
            ..Self::default()
        }
    }

    /// Takes an event in. `is_connected` says whether a peer still has a connection: libp2p tells
    /// of a closed reservation whenever one of them closes, whether or not it had one.
    pub(crate) fn on_event(&mut self, event: &Event, is_connected: impl Fn(&PeerId) -> bool) {
        let counters = &self.counters;
        match event {
            Event::ReservationReqAccepted {
                src_peer_id,
                renewed,
            } => {
                count(match renewed {
                    true => &counters.reservations_renewed,
                    false => &counters.reservations_accepted,
                });
                self.reserved.insert(*src_peer_id);
            }
            Event::ReservationReqDenied { .. } => count(&counters.reservations_refused),
            Event::ReservationTimedOut { src_peer_id } => {
                count(&counters.reservations_expired);
                self.reserved.remove(src_peer_id);
                self.places.give_back(src_peer_id);
            }
            Event::ReservationClosed { src_peer_id } if !is_connected(src_peer_id) => {
                self.reserved.remove(src_peer_id);
                self.places.give_back(src_peer_id);
            }
            Event::CircuitReqAccepted { .. } => {
                count(&counters.circuits_accepted);
                self.circuits += 1;
            }
            Event::CircuitReqDenied { status, .. } => count(match status {
                StatusCode::ResourceLimitExceeded => &counters.circuits_refused_limit,
                StatusCode::NoReservation => &counters.circuits_refused_unknown,
                _ => &counters.circuits_refused_failed,
            }),
            Event::CircuitClosed { error, .. } => {
                if error.is_some() {
                    count(&counters.circuits_broken);
                }
                self.circuits = self.circuits.saturating_sub(1);
            }
            _ => {}
        }
        let reserved = u64::try_from(self.reserved.len()).unwrap_or(u64::MAX);
        counters.reserved_peers.store(reserved, Ordering::Relaxed);
        counters.circuits.store(self.circuits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> RelayTally {
        RelayTally::new(Arc::default(), RelayPlaces::default())
    }

    fn now(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn accepted(src_peer_id: PeerId, renewed: bool) -> Event {
        Event::ReservationReqAccepted {
            src_peer_id,
            renewed,
        }
    }

    #[test]
    fn a_peer_counts_once_until_its_last_connection_closes() {
        let (mut tally, peer) = (tally(), PeerId::random());
        tally.on_event(&accepted(peer, false), |_| true);
        tally.on_event(&accepted(peer, true), |_| true);
        assert_eq!(now(&tally.counters.reserved_peers), 1);
        let closed = Event::ReservationClosed { src_peer_id: peer };
        tally.on_event(&closed, |_| true);
        assert_eq!(now(&tally.counters.reserved_peers), 1);
        tally.on_event(&closed, |_| false);
        assert_eq!(now(&tally.counters.reserved_peers), 0);
        assert_eq!(now(&tally.counters.reservations_accepted), 1);
        assert_eq!(now(&tally.counters.reservations_renewed), 1);
    }

    #[test]
    fn a_place_is_kept_by_who_has_it_and_free_when_it_is_gone() {
        let mut tally = tally();
        let places = tally.places.clone();
        let (one, other) = (PeerId::random(), PeerId::random());
        assert!(places.take(one, 1));
        assert!(places.take(one, 1), "a renewal");
        assert!(!places.take(other, 1));
        let closed = Event::ReservationClosed { src_peer_id: one };
        tally.on_event(&closed, |_| true);
        assert!(!places.take(other, 1), "another connection holds it");
        tally.on_event(&closed, |_| false);
        assert!(places.take(other, 1));
        let late = Event::ReservationTimedOut { src_peer_id: other };
        tally.on_event(&late, |_| true);
        assert!(places.take(one, 1));
    }

    #[test]
    fn circuits_are_counted_up_and_down_and_refusals_by_their_reason() {
        let mut tally = tally();
        let (src_peer_id, dst_peer_id) = (PeerId::random(), PeerId::random());
        let made = Event::CircuitReqAccepted {
            src_peer_id,
            dst_peer_id,
        };
        tally.on_event(&made, |_| true);
        tally.on_event(&made, |_| true);
        let ended = Event::CircuitClosed {
            src_peer_id,
            dst_peer_id,
            error: Some(std::io::ErrorKind::ConnectionReset.into()),
        };
        tally.on_event(&ended, |_| true);
        assert_eq!(now(&tally.counters.circuits), 1);
        assert_eq!(now(&tally.counters.circuits_broken), 1);
        for status in [StatusCode::NoReservation, StatusCode::ResourceLimitExceeded] {
            let denied = Event::CircuitReqDenied {
                src_peer_id,
                dst_peer_id,
                status,
            };
            tally.on_event(&denied, |_| true);
        }
        assert_eq!(now(&tally.counters.circuits_refused_limit), 1);
        assert_eq!(now(&tally.counters.circuits_refused_unknown), 1);
        assert_eq!(now(&tally.counters.circuits_refused_failed), 0);
    }
}

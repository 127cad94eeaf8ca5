//! Which peers' addresses are being looked up, and for whom. Pure.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;

use crate::limits;

/// Lookups that go on, with those who wait for them, and those that failed of late.
#[derive(Debug)]
pub(crate) struct Lookups<W> {
    active: HashMap<PeerId, Active<W>>,
    missed: HashMap<PeerId, Instant>,
}

#[derive(Debug)]
struct Active<W> {
    waiters: Vec<W>,
    /// Queries that may still find it.
    queries: usize,
}

/// What to do for one who wants a peer's address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun<W> {
    /// Start the queries.
    Start,
    /// It waits for those that go on.
    Joined,
    /// Not now.
    Refused(W),
}

impl<W> Default for Lookups<W> {
    fn default() -> Self {
        Self {
            active: HashMap::new(),
            missed: HashMap::new(),
        }
    }
}

impl<W> Lookups<W> {
    /// Somebody wants to know where `peer` is; `queries` would be made for it. Refused when too many
    /// go on, or when it was not found a moment ago.
    pub(crate) fn begin(
        &mut self,
        peer: PeerId,
        waiter: W,
        queries: usize,
        now: Instant,
    ) -> Begun<W> {
        let room = self.active.len() < limits::KADEMLIA_LOOKUPS;
        if let Some(active) = self.active.get_mut(&peer) {
            if active.waiters.len() >= limits::KADEMLIA_WAITERS {
                return Begun::Refused(waiter);
            }
            active.waiters.push(waiter);
            return Begun::Joined;
        }
        self.missed
            .retain(|_, at| now.duration_since(*at) < limits::KADEMLIA_MISSED);
        if !room || self.missed.contains_key(&peer) {
            return Begun::Refused(waiter);
        }
        let waiters = vec![waiter];
        self.active.insert(peer, Active { waiters, queries });
        Begun::Start
    }

    /// Whether this peer is being looked for.
    pub(crate) fn is_active(&self, peer: &PeerId) -> bool {
        self.active.contains_key(peer)
    }

    /// It was found. Gives those who wait.
    pub(crate) fn found(&mut self, peer: &PeerId) -> Vec<W> {
        let active = self.active.remove(peer);
        active.map_or_else(Vec::new, |active| active.waiters)
    }

    /// One of its queries ended without it. Gives those who wait, once it was the last one.
    pub(crate) fn ended(&mut self, peer: &PeerId, now: Instant) -> Vec<W> {
        let Some(active) = self.active.get_mut(peer) else {
            return Vec::new();
        };
        active.queries = active.queries.saturating_sub(1);
        if active.queries > 0 {
            return Vec::new();
        }
        if self.missed.len() < limits::KADEMLIA_MISSED_PEERS {
            self.missed.insert(*peer, now);
        }
        self.found(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lookup_serves_all_who_wait_for_the_peer() {
        let mut lookups = Lookups::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        assert_eq!(lookups.begin(peer, 1, 2, now), Begun::Start);
        assert_eq!(lookups.begin(peer, 2, 2, now), Begun::Joined);
        assert_eq!(lookups.found(&peer), [1, 2]);
        assert_eq!(lookups.ended(&peer, now), []);
        assert_eq!(lookups.begin(peer, 3, 2, now), Begun::Start);
    }

    #[test]
    fn a_peer_that_no_query_found_is_not_looked_for_again_at_once() {
        let mut lookups = Lookups::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        assert_eq!(lookups.begin(peer, 1, 2, now), Begun::Start);
        assert_eq!(lookups.ended(&peer, now), []);
        assert_eq!(lookups.ended(&peer, now), [1]);
        assert_eq!(lookups.begin(peer, 2, 2, now), Begun::Refused(2));
        let later = now + limits::KADEMLIA_MISSED;
        assert_eq!(lookups.begin(peer, 2, 2, later), Begun::Start);
    }

    #[test]
    fn lookups_and_those_who_wait_are_bounded() {
        let mut lookups = Lookups::default();
        let now = Instant::now();
        let first = PeerId::random();
        lookups.begin(first, 0, 1, now);
        let others = (0..1000).map(|_| lookups.begin(PeerId::random(), 0, 1, now));
        let started = others.filter(|begun| *begun == Begun::Start).count();
        assert_eq!(started, limits::KADEMLIA_LOOKUPS - 1);
        let joined = (0..1000).map(|_| lookups.begin(first, 0, 1, now));
        let joined = joined.filter(|begun| *begun == Begun::Joined).count();
        assert_eq!(joined, limits::KADEMLIA_WAITERS - 1);
    }
}

//! When a peer that is only reached through a relay is tried directly again, and when relayed
//! connections make place. Pure.
//!
//! libp2p tries to punch a hole once for each relayed connection, on the side that accepted it. So
//! the side that opened it opens another one now and then.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::limits;

/// Waiting before each try: the first only dials known addresses, as libp2p punches at once.
const STEPS: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
];
/// How long a relayed connection that was made for punching stays when it did not help.
const EXTRA: Duration = Duration::from_secs(20);
/// How long a direct connection holds before relayed ones are given up for it.
const PROVEN: Duration = Duration::from_secs(10);

/// A connection of a peer that has a relayed one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) relayed: bool,
    pub(crate) outbound: bool,
    pub(crate) address: Multiaddr,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Dial the known direct addresses of the peer, if any.
    DialDirect(PeerId),
    /// Dial the peer through the relay once more, then say so by [`Punching::dialled`].
    DialRelayed(PeerId, Multiaddr),
    /// Close the connection when nothing goes over it.
    Retire(ConnectionId),
}

#[derive(Debug)]
struct Try {
    step: usize,
    next: Instant,
    /// Connections made for punching, and since when.
    extra: Option<(ConnectionId, Instant)>,
    direct_since: Option<Instant>,
}

/// The peers with a relayed connection.
#[derive(Debug, Default)]
pub(crate) struct Punching {
    peers: HashMap<PeerId, Try>,
}

impl Punching {
    /// Looks at the connections of all peers that have a relayed one. `chance` from 0 to 1.
    pub(crate) fn poll(&mut self, links: &[Link], now: Instant, chance: f64) -> Vec<Action> {
        let relayed: HashSet<PeerId> = links
            .iter()
            .filter(|link| link.relayed)
            .map(|link| link.peer)
            .collect();
        self.peers.retain(|peer, _| relayed.contains(peer));
        let mut actions = Vec::new();
        for peer in relayed {
            if self.peers.len() >= limits::PUNCHED_PEERS && !self.peers.contains_key(&peer) {
                continue;
            }
            let attempt = self.peers.entry(peer).or_insert_with(|| Try::new(now));
            let links: Vec<&Link> = links.iter().filter(|link| link.peer == peer).collect();
            attempt.poll(peer, &links, (now, chance), &mut actions);
        }
        actions
    }

    /// The relayed connection that was asked for has this id.
    pub(crate) fn dialled(&mut self, peer: &PeerId, connection: ConnectionId, now: Instant) {
        if let Some(attempt) = self.peers.get_mut(peer) {
            attempt.extra = Some((connection, now));
        }
    }

    /// The machine changed its network or slept: all are tried at once.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        for attempt in self.peers.values_mut() {
            attempt.next = now;
            attempt.step = 1;
        }
    }
}

impl Try {
    fn new(now: Instant) -> Self {
        Self {
            step: 0,
            next: now + Duration::from_secs(2),
            extra: None,
            direct_since: None,
        }
    }

    fn poll(
        &mut self,
        peer: PeerId,
        links: &[&Link],
        (now, chance): (Instant, f64),
        actions: &mut Vec<Action>,
    ) {
        if links.iter().any(|link| !link.relayed) {
            let since = *self.direct_since.get_or_insert(now);
            if now.duration_since(since) >= PROVEN {
                let relayed = links.iter().filter(|link| link.relayed);
                actions.extend(relayed.map(|link| Action::Retire(link.connection)));
            }
            return;
        }
        if self.direct_since.take().is_some() {
            // The direct connection broke: there will be another.
            self.step = 1;
            self.next = now;
        }
        self.end_extra(links, now, actions);
        if self.next > now {
            return;
        }
        actions.push(Action::DialDirect(peer));
        let outbound = links.iter().find(|link| link.outbound);
        if let Some(link) = outbound.filter(|_| self.step > 0 && self.extra.is_none()) {
            actions.push(Action::DialRelayed(peer, link.address.clone()));
        }
        self.step = (self.step + 1).min(STEPS.len() - 1);
        let delay = STEPS.get(self.step).copied().unwrap_or(EXTRA);
        self.next = now + delay.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0);
    }

    fn end_extra(&mut self, links: &[&Link], now: Instant, actions: &mut Vec<Action>) {
        let Some((extra, since)) = self.extra else {
            return;
        };
        if now.duration_since(since) < EXTRA {
            return;
        }
        self.extra = None;
        // The first one may have closed meanwhile: the last way to the peer stays.
        if links.len() > 1 && links.iter().any(|link| link.connection == extra) {
            actions.push(Action::Retire(extra));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(peer: PeerId, id: usize, relayed: bool, outbound: bool) -> Link {
        Link {
            peer,
            connection: ConnectionId::new_unchecked(id),
            relayed,
            outbound,
            address: Multiaddr::empty(),
        }
    }

    /// Seconds at which the peer is dialled through the relay, and directly.
    fn dials(links: &[Link], seconds: u64) -> (Vec<u64>, Vec<u64>) {
        let start = Instant::now();
        let mut punching = Punching::default();
        let (mut relayed, mut direct) = (Vec::new(), Vec::new());
        for second in 0..seconds {
            for action in punching.poll(links, start + Duration::from_secs(second), 0.5) {
                match action {
                    Action::DialRelayed(..) => relayed.push(second),
                    Action::DialDirect(_) => direct.push(second),
                    Action::Retire(_) => panic!("there is no better connection"),
                }
            }
        }
        (relayed, direct)
    }

    #[test]
    fn a_peer_behind_a_relay_is_tried_again_less_and_less_often_by_who_dialled() {
        let peer = PeerId::random();
        let (relayed, direct) = dials(&[link(peer, 1, true, true)], 1400);
        assert_eq!(relayed, [17, 77, 377, 1277]);
        assert_eq!(direct, [2, 17, 77, 377, 1277]);
        let (relayed, direct) = dials(&[link(peer, 1, true, false)], 1400);
        assert!(relayed.is_empty(), "its other side does that");
        assert_eq!(direct, [2, 17, 77, 377, 1277]);
    }

    #[test]
    fn an_extra_relayed_connection_that_did_not_help_is_closed_and_the_first_one_stays() {
        let peer = PeerId::random();
        let start = Instant::now();
        let mut punching = Punching::default();
        let first = link(peer, 1, true, true);
        let second = |seconds| start + Duration::from_secs(seconds);
        punching.poll(std::slice::from_ref(&first), start, 0.5);
        punching.dialled(&peer, ConnectionId::new_unchecked(2), start);
        let both = [first, link(peer, 2, true, true)];
        assert!(
            !punching
                .poll(&both, second(19), 0.5)
                .iter()
                .any(|action| matches!(action, Action::Retire(_)))
        );
        let actions = punching.poll(&both, second(20), 0.5);
        assert!(actions.contains(&Action::Retire(ConnectionId::new_unchecked(2))));
        assert!(!actions.contains(&Action::Retire(ConnectionId::new_unchecked(1))));
    }

    #[test]
    fn a_direct_connection_that_holds_replaces_the_relayed_ones() {
        let peer = PeerId::random();
        let start = Instant::now();
        let mut punching = Punching::default();
        let links = [link(peer, 1, true, true), link(peer, 2, false, false)];
        assert!(punching.poll(&links, start, 0.5).is_empty());
        assert!(
            punching
                .poll(&links, start + Duration::from_secs(9), 0.5)
                .is_empty()
        );
        let actions = punching.poll(&links, start + PROVEN, 0.5);
        assert_eq!(actions, [Action::Retire(ConnectionId::new_unchecked(1))]);
    }

    #[test]
    fn after_a_change_of_network_or_the_loss_of_a_direct_connection_it_is_tried_at_once() {
        let peer = PeerId::random();
        let start = Instant::now();
        let mut punching = Punching::default();
        let relayed = link(peer, 1, true, true);
        let both = [relayed.clone(), link(peer, 2, false, true)];
        let dials = |actions: &[Action]| {
            actions
                .iter()
                .any(|action| matches!(action, Action::DialRelayed(..)))
        };
        punching.poll(&both, start, 0.5);
        assert!(dials(&punching.poll(
            std::slice::from_ref(&relayed),
            start,
            0.5
        )));
        assert!(!dials(&punching.poll(
            std::slice::from_ref(&relayed),
            start,
            0.5
        )));
        punching.network_changed(start);
        assert!(dials(&punching.poll(
            std::slice::from_ref(&relayed),
            start,
            0.5
        )));
    }
}

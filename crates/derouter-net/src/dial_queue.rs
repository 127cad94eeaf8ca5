//! Which peers are dialled now because somebody wants a substream with them, and which have to wait.
//! Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use crate::limits;

/// The dials of one peer that are under way.
#[derive(Debug, Default)]
struct Dials {
    ids: Vec<ConnectionId>,
    last: Option<Instant>,
}

/// Peers in the order in which they were first wanted, [`limits::DIALS_ON_REQUEST`] at a time.
#[derive(Debug, Default)]
pub(crate) struct DialQueue {
    dialling: HashMap<PeerId, Dials>,
    waiting: VecDeque<PeerId>,
}

impl DialQueue {
    /// Somebody wants the peer.
    pub(crate) fn want(&mut self, peer: PeerId) {
        if !self.dialling.contains_key(&peer) && !self.waiting.contains(&peer) {
            self.waiting.push_back(peer);
        }
    }

    /// The next peer to dial, if there is a place; it then counts as being dialled. Those that
    /// nobody wants any more are left out.
    pub(crate) fn take(&mut self, wanted: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
        self.waiting.retain(&wanted);
        if self.dialling.len() >= limits::DIALS_ON_REQUEST {
            return None;
        }
        let peer = self.waiting.pop_front()?;
        self.dialling.insert(peer, Dials::default());
        Some(peer)
    }

    /// The peer is being dialled now.
    pub(crate) fn dials(&mut self, peer: PeerId, dial: ConnectionId, now: Instant) {
        if let Some(dials) = self.dialling.get_mut(&peer) {
            dials.ids.push(dial);
            dials.last = Some(now);
        }
    }

    /// Whether a peer whose dial takes long is to be dialled once more beside it: a relay that was
    /// not connected may be by now, or the peer has come back to it.
    pub(crate) fn may_dial_again(&self, peer: &PeerId, now: Instant) -> bool {
        let Some(dials) = self.dialling.get(peer) else {
            return false;
        };
        let lately = |last: Instant| now.duration_since(last) < limits::DIAL_AGAIN;
        dials.ids.len() < limits::DIALS_OF_PEER && !dials.last.is_some_and(lately)
    }

    /// A dial has failed. True when it was the last of this queue's dials of the peer: those that
    /// others make go elsewhere, and say nothing of whether it is reached.
    pub(crate) fn failed(&mut self, peer: &PeerId, dial: ConnectionId) -> bool {
        let Some(dials) = self.dialling.get_mut(peer) else {
            return false;
        };
        let before = dials.ids.len();
        dials.ids.retain(|id| *id != dial);
        if dials.ids.len() == before || !dials.ids.is_empty() {
            return false;
        }
        self.dialling.remove(peer);
        true
    }

    /// The peer is connected.
    pub(crate) fn ended(&mut self, peer: &PeerId) {
        self.dialling.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_dialled_at_a_time_and_the_others_in_their_order() {
        let mut queue = DialQueue::default();
        let peers: Vec<PeerId> = (0..limits::DIALS_ON_REQUEST + 3)
            .map(|_| PeerId::random())
            .collect();
        for peer in peers.iter().chain(&peers) {
            queue.want(*peer);
        }
        let taken: Vec<PeerId> = std::iter::from_fn(|| queue.take(|_| true)).collect();
        assert_eq!(taken, peers[..limits::DIALS_ON_REQUEST]);
        let gave_up = peers[limits::DIALS_ON_REQUEST];
        queue.ended(&peers[7]);
        let wanted = |peer: &PeerId| *peer != gave_up;
        assert_eq!(
            queue.take(wanted),
            Some(peers[limits::DIALS_ON_REQUEST + 1])
        );
        assert_eq!(queue.take(wanted), None, "no place");
        for peer in &peers {
            queue.ended(peer);
        }
        assert_eq!(
            queue.take(wanted),
            Some(peers[limits::DIALS_ON_REQUEST + 2])
        );
        assert_eq!(queue.take(wanted), None, "nobody is left");
    }

    #[test]
    fn what_others_dial_does_not_end_a_wait_and_a_slow_dial_is_joined_by_few_more() {
        let mut queue = DialQueue::default();
        let (peer, start) = (PeerId::random(), Instant::now());
        let [own, second, others] = [1, 2, 3].map(ConnectionId::new_unchecked);
        queue.want(peer);
        assert!(!queue.may_dial_again(&peer, start), "it is not its turn");
        queue.take(|_| true);
        queue.dials(peer, own, start);
        assert!(!queue.may_dial_again(&peer, start));
        let later = start + limits::DIAL_AGAIN;
        assert!(queue.may_dial_again(&peer, later));
        queue.dials(peer, second, later);
        assert!(!queue.failed(&peer, others));
        assert!(!queue.failed(&peer, own), "the second one goes on");
        assert!(queue.failed(&peer, second));
        assert!(!queue.failed(&peer, second));
        queue.want(peer);
        queue.take(|_| true);
        let mut now = start;
        for dial in 0..limits::DIALS_OF_PEER {
            assert!(queue.may_dial_again(&peer, now));
            queue.dials(peer, ConnectionId::new_unchecked(dial), now);
            now += limits::DIAL_AGAIN;
        }
        assert!(!queue.may_dial_again(&peer, now));
    }
}

//! Which peers are dialled now because somebody wants a substream with them, and which have to wait.
//! Pure.

use std::collections::{HashSet, VecDeque};

use libp2p::PeerId;

use crate::limits;

/// Peers in the order in which they were first wanted, [`limits::DIALS_ON_REQUEST`] at a time.
#[derive(Debug, Default)]
pub(crate) struct DialQueue {
    dialling: HashSet<PeerId>,
    waiting: VecDeque<PeerId>,
}

impl DialQueue {
    /// Somebody wants the peer.
    pub(crate) fn want(&mut self, peer: PeerId) {
        if !self.dialling.contains(&peer) && !self.waiting.contains(&peer) {
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
        self.dialling.insert(peer);
        Some(peer)
    }

    /// A dial of the peer has ended, this queue's or another.
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
}

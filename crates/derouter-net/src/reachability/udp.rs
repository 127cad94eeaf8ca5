//! Whether peers are reached over UDP. Pure.

use std::collections::HashSet;

use libp2p::PeerId;

/// Peers that have to be unreachable by QUIC, and reachable by TCP, before UDP counts as blocked.
const FAILED: usize = 2;

/// What QUIC dials came to.
#[derive(Debug, Default)]
pub(crate) struct Udp {
    worked: bool,
    failed: HashSet<PeerId>,
}

impl Udp {
    /// A QUIC connection is there.
    pub(crate) fn worked(&mut self) {
        self.worked = true;
    }

    /// A QUIC dial failed to a peer that is connected by TCP.
    pub(crate) fn failed(&mut self, peer: PeerId) {
        if self.failed.len() < FAILED {
            self.failed.insert(peer);
        }
    }

    /// The network changed: nothing is known.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// See `NetworkReport::udp`.
    pub(crate) fn works(&self) -> Option<bool> {
        match self.failed.len() {
            _ if self.worked => Some(true),
            FAILED.. => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_peers_that_are_not_reached_by_quic_say_that_udp_is_blocked_and_one_that_is_says_not() {
        let mut udp = Udp::default();
        let peer = PeerId::random();
        udp.failed(peer);
        udp.failed(peer);
        assert_eq!(udp.works(), None);
        udp.failed(PeerId::random());
        assert_eq!(udp.works(), Some(false));
        udp.worked();
        assert_eq!(udp.works(), Some(true));
        udp.clear();
        assert_eq!(udp.works(), None);
    }
}

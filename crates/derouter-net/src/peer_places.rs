//! Places that are counted for each peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use libp2p::PeerId;
use tokio::sync::Semaphore;

/// A semaphore for each peer that somebody holds one of. Its size is bounded by those holders:
/// connections, and substreams that are served.
#[derive(Debug)]
pub(crate) struct PeerPlaces {
    places: usize,
    peers: Mutex<HashMap<PeerId, Weak<Semaphore>>>,
}

impl PeerPlaces {
    /// Each peer gets so many places.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places,
            peers: Mutex::default(),
        }
    }

    /// The places of a peer: the same for all who hold them at the same time. A permit holds them.
    pub(crate) fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = peers.get(&peer).and_then(Weak::upgrade) {
            return held;
        }
        peers.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.places));
        peers.insert(peer, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_holders_of_a_peer_share_its_places_and_other_peers_have_their_own() {
        let all = PeerPlaces::new(2);
        let peer = PeerId::random();
        let first = all.of(peer).try_acquire_owned().unwrap();
        let _second = all.of(peer).try_acquire_owned().unwrap();
        assert!(all.of(peer).try_acquire_owned().is_err());
        assert!(all.of(PeerId::random()).try_acquire_owned().is_ok());
        drop(first);
        assert!(all.of(peer).try_acquire_owned().is_ok());
    }

    #[test]
    fn peers_of_whom_nobody_holds_a_place_are_forgotten() {
        let all = PeerPlaces::new(2);
        for _ in 0..100 {
            drop(all.of(PeerId::random()));
        }
        assert_eq!(all.peers.lock().unwrap().len(), 1);
    }
}

//! Bounded places, shared out among peers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use derouter_sdk::PeerId;

/// Gives so many places at once, and each peer at most a part of them.
pub(crate) struct PeerPlaces {
    most: usize,
    most_of_peer: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_peer: HashMap<PeerId, usize>,
}

/// A place; dropping it frees it.
pub(crate) struct PeerPlace {
    peer: PeerId,
    taken: Arc<Mutex<Taken>>,
}

impl PeerPlaces {
    pub(crate) fn new(most: usize, most_of_peer: usize) -> Self {
        Self {
            most,
            most_of_peer,
            taken: Arc::default(),
        }
    }

    /// A place for this peer, unless all are taken, or all of its own.
    pub(crate) fn take(&self, peer: PeerId) -> Option<PeerPlace> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = taken.of_peer.get(&peer).copied().unwrap_or_default();
        if taken.all >= self.most || of_peer >= self.most_of_peer {
            return None;
        }
        taken.all += 1;
        taken.of_peer.insert(peer, of_peer + 1);
        Some(PeerPlace {
            peer,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.of_peer.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.of_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_places_and_no_more() {
        let places = PeerPlaces::new(4, 2);
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let first = places.take(greedy);
        let second = places.take(greedy);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(greedy).is_none());
        assert!(places.take(other).is_some());
        drop(first);
        assert!(places.take(greedy).is_some());
        drop(second);
        assert!(
            places.taken.lock().unwrap().of_peer.is_empty(),
            "no peer is kept for ever"
        );
    }

    #[test]
    fn all_peers_together_have_no_more_than_there_are() {
        let places = PeerPlaces::new(3, 2);
        let taken: Vec<_> = (0..5).map(|_| places.take(PeerId::random())).collect();
        assert_eq!(taken.iter().flatten().count(), 3);
        drop(taken);
        assert!(places.take(PeerId::random()).is_some());
    }
}

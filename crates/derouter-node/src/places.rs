//! Bounded places for each peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use derouter_sdk::PeerId;

/// Gives each peer at most so many places at once.
pub(crate) struct PeerPlaces {
    most: usize,
    taken: Arc<Mutex<HashMap<PeerId, usize>>>,
}

/// A place; dropping it frees it.
pub(crate) struct PeerPlace {
    peer: PeerId,
    taken: Arc<Mutex<HashMap<PeerId, usize>>>,
}

impl PeerPlaces {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// A place for this peer, unless it has all of its own already.
    pub(crate) fn take(&self, peer: PeerId) -> Option<PeerPlace> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(PeerPlace {
            peer,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_places_and_no_more() {
        let places = PeerPlaces::new(2);
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
            places.taken.lock().unwrap().is_empty(),
            "no peer is kept for ever"
        );
    }
}

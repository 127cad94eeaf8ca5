//! What each peer has brought into the directory: announcements and bytes of lists. When there is
//! no room, those who brought most make some, so that nobody fills the directory alone.

use std::collections::HashMap;

use libp2p::PeerId;

/// Stands for a peer that brought something: four bytes in each entry, where its id takes eighty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Bringer(u32);

/// What one peer brought that is here now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) peer: PeerId,
    pub(super) entries: usize,
    pub(super) list_bytes: usize,
}

/// Bounded by the entries of the directory: who brought nothing that is still here is forgotten.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_peer: HashMap<PeerId, Bringer>,
    shares: HashMap<Bringer, Share>,
    last: u32,
}

impl Shares {
    /// Counts an entry that this peer brought.
    pub(super) fn add(&mut self, peer: PeerId) -> Bringer {
        let bringer = match self.by_peer.get(&peer) {
            Some(known) => *known,
            None => self.make(peer),
        };
        if let Some(share) = self.shares.get_mut(&bringer) {
            share.entries += 1;
        }
        bringer
    }

    fn make(&mut self, peer: PeerId) -> Bringer {
        let mut bringer = Bringer(self.last.wrapping_add(1));
        // After four thousand million of them some may still be in use.
        while self.shares.contains_key(&bringer) {
            bringer = Bringer(bringer.0.wrapping_add(1));
        }
        self.last = bringer.0;
        self.by_peer.insert(peer, bringer);
        let share = Share {
            peer,
            entries: 0,
            list_bytes: 0,
        };
        self.shares.insert(bringer, share);
        bringer
    }

    /// One of its entries is gone.
    pub(super) fn remove(&mut self, bringer: Bringer) {
        let Some(share) = self.shares.get_mut(&bringer) else {
            return;
        };
        share.entries = share.entries.saturating_sub(1);
        if share.entries == 0 {
            self.by_peer.remove(&share.peer);
            self.shares.remove(&bringer);
        }
    }

    /// A list of one of its entries came or went.
    pub(super) fn change_list_bytes(&mut self, bringer: Bringer, came: usize, went: usize) {
        if let Some(share) = self.shares.get_mut(&bringer) {
            share.list_bytes = share.list_bytes.saturating_add(came).saturating_sub(went);
        }
    }

    /// What it is and brought, while something of it is here.
    pub(super) fn get(&self, bringer: Bringer) -> Option<Share> {
        self.shares.get(&bringer).copied()
    }

    /// What this peer brought.
    pub(super) fn of(&self, peer: &PeerId) -> Share {
        let known = self.by_peer.get(peer);
        let share = known.and_then(|bringer| self.shares.get(bringer));
        share.copied().unwrap_or(Share {
            peer: *peer,
            entries: 0,
            list_bytes: 0,
        })
    }

    /// Who brought most, by what `measure` counts.
    pub(super) fn largest(&self, measure: impl Fn(&Share) -> usize) -> Option<(Bringer, Share)> {
        let largest = self.shares.iter().max_by_key(|(_, share)| measure(share));
        largest.map(|(bringer, share)| (*bringer, *share))
    }
}

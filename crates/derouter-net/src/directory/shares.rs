//! What each network has brought into the directory: announcements and bytes of lists. When there
//! is no room, those who brought most make some, so that nobody fills the directory alone.

use std::collections::HashMap;

use libp2p::PeerId;

use crate::address::Subnet;

/// What counts as one: new names cost nothing, new networks do. A peer of this machine, of a private
/// network or behind a relay stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    Network(Subnet),
    Peer(PeerId),
}

/// Stands for a peer that brought something: four bytes in each entry, where its id takes eighty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Bringer(u32);

/// What is here now of what somebody brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) entries: usize,
    pub(super) list_bytes: usize,
}

#[derive(Debug)]
struct Known {
    peer: PeerId,
    origin: Origin,
    share: Share,
}

/// Bounded by the entries of the directory: who brought nothing that is still here is forgotten.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_peer: HashMap<PeerId, Bringer>,
    known: HashMap<Bringer, Known>,
    last: u32,
}

impl Shares {
    /// Counts an entry that this peer brought.
    pub(super) fn add(&mut self, peer: PeerId, origin: Origin) -> Bringer {
        let bringer = match self.by_peer.get(&peer) {
            Some(known) => *known,
            None => self.make(peer, origin),
        };
        if let Some(known) = self.known.get_mut(&bringer) {
            known.share.entries += 1;
        }
        bringer
    }

    fn make(&mut self, peer: PeerId, origin: Origin) -> Bringer {
        let mut bringer = Bringer(self.last.wrapping_add(1));
        // After four thousand million of them some may still be in use.
        while self.known.contains_key(&bringer) {
            bringer = Bringer(bringer.0.wrapping_add(1));
        }
        self.last = bringer.0;
        self.by_peer.insert(peer, bringer);
        let known = Known {
            peer,
            origin,
            share: Share::default(),
        };
        self.known.insert(bringer, known);
        bringer
    }

    /// One of its entries is gone.
    pub(super) fn remove(&mut self, bringer: Bringer) {
        let Some(known) = self.known.get_mut(&bringer) else {
            return;
        };
        known.share.entries = known.share.entries.saturating_sub(1);
        if known.share.entries == 0 {
            self.by_peer.remove(&known.peer);
            self.known.remove(&bringer);
        }
    }

    /// A list of one of its entries came or went.
    pub(super) fn change_list_bytes(&mut self, bringer: Bringer, came: usize, went: usize) {
        if let Some(known) = self.known.get_mut(&bringer) {
            let bytes = &mut known.share.list_bytes;
            *bytes = bytes.saturating_add(came).saturating_sub(went);
        }
    }

    /// Who it is, while something that it brought is here.
    pub(super) fn peer(&self, bringer: Bringer) -> Option<PeerId> {
        self.known.get(&bringer).map(|known| known.peer)
    }

    /// Where it is, likewise.
    pub(super) fn origin(&self, bringer: Bringer) -> Option<Origin> {
        self.known.get(&bringer).map(|known| known.origin)
    }

    /// What all of this origin brought.
    pub(super) fn of(&self, origin: Origin) -> Share {
        let of_origin = self.known.values().filter(|known| known.origin == origin);
        of_origin.fold(Share::default(), |sum, known| sum.plus(known.share))
    }

    /// Who brought most, by what `measure` counts.
    pub(super) fn largest(&self, measure: impl Fn(&Share) -> usize) -> Option<(Origin, Share)> {
        let mut sums: HashMap<Origin, Share> = HashMap::new();
        for known in self.known.values() {
            let sum = sums.entry(known.origin).or_default();
            *sum = sum.plus(known.share);
        }
        sums.into_iter().max_by_key(|(_, share)| measure(share))
    }
}

impl Share {
    fn plus(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            list_bytes: self.list_bytes.saturating_add(other.list_bytes),
        }
    }
}

#[cfg(test)]
impl Shares {
    pub(super) fn share(&self, bringer: Bringer) -> Share {
        self.known[&bringer].share
    }
}

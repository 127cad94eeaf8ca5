//! The last sequence numbers of providers whose announcements are over, so that a recording does
//! not bring them back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::limits;

/// The last announcement of a provider that was heard and holds no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) sequence: u64,
    /// Until then it may be taken back in, if somebody has it with time left: who gave it to us may
    /// have said too little.
    pub(super) latest: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Floors(HashMap<PeerId, Floor>);

impl Floors {
    pub(super) fn get(&self, peer: &PeerId) -> Option<Floor> {
        self.0.get(peer).copied()
    }

    /// Remembers a sequence number. When there is no room, it is not: a recording may then be
    /// believed until its own time is over.
    pub(super) fn keep(&mut self, peer: PeerId, floor: Floor) {
        if self.0.len() >= limits::SEQUENCE_FLOORS && !self.0.contains_key(&peer) {
            return;
        }
        let known = self.0.entry(peer).or_insert(floor);
        if known.sequence < floor.sequence {
            *known = floor;
        }
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Forgets those of which a recording would be refused for its age: `age` after their end.
    pub(super) fn expire(&mut self, age: Duration, now: Instant) {
        self.0.retain(|_, floor| floor.latest + age > now);
    }

    /// All are nearer to their end.
    pub(super) fn slept(&mut self, unseen: Duration, now: Instant) {
        for floor in self.0.values_mut() {
            floor.latest = floor.latest.checked_sub(unseen).unwrap_or(now);
        }
    }
}

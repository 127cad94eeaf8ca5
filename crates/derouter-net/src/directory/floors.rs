//! The last sequence numbers of providers whose announcements are over, so that a recording does
//! not bring them back.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;

use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Floors(HashMap<PeerId, (u64, Instant)>);

impl Floors {
    pub(super) fn get(&self, peer: &PeerId) -> Option<u64> {
        self.0.get(peer).map(|(sequence, _)| *sequence)
    }

    /// Remembers a sequence number. When there is no room, it is not: a recording may then be
    /// believed until its own time is over.
    pub(super) fn keep(&mut self, peer: PeerId, sequence: u64, until: Instant) {
        if self.0.len() >= limits::SEQUENCE_FLOORS && !self.0.contains_key(&peer) {
            return;
        }
        let floor = self.0.entry(peer).or_insert((sequence, until));
        floor.0 = floor.0.max(sequence);
        floor.1 = floor.1.max(until);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, until)| *until > now);
    }
}

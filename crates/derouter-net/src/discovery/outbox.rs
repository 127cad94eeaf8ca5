//! Providers whose announcements are handed to the neighbours next: those that come soon after each
//! other go together. Pure.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use libp2p::PeerId;

use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In the order in which they came.
    providers: VecDeque<PeerId>,
    waiting: HashSet<PeerId>,
    /// When some were taken last.
    last: Option<Instant>,
}

impl Outbox {
    /// Beyond [`limits::OUTBOX`] providers the new one is left to reconciliations.
    pub(super) fn add(&mut self, provider: PeerId) {
        if self.providers.len() < limits::OUTBOX && self.waiting.insert(provider) {
            self.providers.push_back(provider);
        }
    }

    /// When some are to be taken: at once, or [`limits::HAND_ON_GATHER`] behind the last ones.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.providers.is_empty() {
            return None;
        }
        Some(self.last.map_or(now, |last| last + limits::HAND_ON_GATHER))
    }

    /// Those that are to be handed on now, [`limits::OUTBOX_PER_TURN`] at most.
    pub(super) fn take(&mut self, now: Instant) -> Vec<PeerId> {
        if self.due(now).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.last = Some(now);
        let count = self.providers.len().min(limits::OUTBOX_PER_TURN);
        let taken: Vec<PeerId> = self.providers.drain(..count).collect();
        for provider in &taken {
            self.waiting.remove(provider);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_and_the_next_together() {
        let mut outbox = Outbox::default();
        let now = Instant::now();
        let [first, second, third] = [(); 3].map(|()| PeerId::random());
        assert_eq!(outbox.due(now), None);
        outbox.add(first);
        assert_eq!(outbox.due(now), Some(now));
        assert_eq!(outbox.take(now), [first]);
        outbox.add(second);
        outbox.add(third);
        outbox.add(second);
        assert!(outbox.take(now).is_empty());
        let due = outbox.due(now).unwrap();
        assert_eq!(due, now + limits::HAND_ON_GATHER);
        assert_eq!(outbox.take(due), [second, third]);
        assert_eq!(outbox.due(due), None);
        outbox.add(second);
        let later = due + limits::HAND_ON_GATHER;
        assert_eq!(outbox.take(later), [second], "a newer one of the same");
    }

    #[test]
    fn so_many_wait_and_so_many_go_at_once() {
        let mut outbox = Outbox::default();
        let mut now = Instant::now();
        for _ in 0..limits::OUTBOX + 5 {
            outbox.add(PeerId::random());
        }
        let mut taken = 0;
        while let Some(due) = outbox.due(now) {
            now = due;
            let some = outbox.take(now).len();
            assert!(some > 0 && some <= limits::OUTBOX_PER_TURN);
            taken += some;
        }
        assert_eq!(taken, limits::OUTBOX);
        assert!(outbox.waiting.is_empty());
    }
}

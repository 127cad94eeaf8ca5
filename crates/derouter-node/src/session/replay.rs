//! The last bytes that a session sent, for the other side to ask for again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one session keeps at most: what may be on its way over an ordinary line.
const MOST: usize = 256 * 1024;

/// What all sessions of a node keep together: a thousand answers of text.
const MOST_IN_ALL: usize = 64 * 1024 * 1024;

/// The bytes that all sessions of a node keep. At its limit each keeps what it has, and newer bytes push
/// out older ones of the same session.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayBudget(Arc<AtomicUsize>);

impl ReplayBudget {
    /// Takes as much of `wanted` as there is.
    fn take(&self, wanted: usize) -> usize {
        let taken = |used: usize| wanted.min(MOST_IN_ALL.saturating_sub(used));
        let update = |used: usize| Some(used.saturating_add(taken(used)));
        // The closure never says no.
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        before.map_or(0, taken)
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// See the module. Positions count from the first byte that was ever sent.
#[derive(Debug)]
pub(crate) struct Replay {
    kept: VecDeque<u8>,
    /// The position of the first byte that is kept.
    start: u64,
    /// How many bytes may be kept: what was taken of the budget.
    room: usize,
    budget: ReplayBudget,
}

impl Replay {
    pub(crate) fn new(budget: ReplayBudget) -> Self {
        Self {
            kept: VecDeque::new(),
            start: 0,
            room: 0,
            budget,
        }
    }

    /// The position behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(super::to_u64(self.kept.len()))
    }

    /// Keeps bytes that were sent, and forgets the oldest for which there is no room.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let wanted = self.kept.len().saturating_add(bytes.len()).min(MOST);
        if wanted > self.room {
            self.room += self.budget.take(wanted - self.room);
        }
        let skipped = bytes.len().saturating_sub(self.room);
        let bytes = bytes.get(skipped..).unwrap_or_default();
        let surplus = (self.kept.len() + bytes.len()).saturating_sub(self.room);
        self.kept.drain(..surplus);
        self.start = self.start.saturating_add(super::to_u64(surplus + skipped));
        self.kept.extend(bytes);
    }

    /// Whether everything from a position on is kept.
    pub(crate) fn holds_from(&self, position: u64) -> bool {
        (self.start..=self.end()).contains(&position)
    }

    /// Some of the bytes from a position on; empty at the end, and for what is not kept.
    pub(crate) fn from(&self, position: u64) -> &[u8] {
        let Some(skip) = position.checked_sub(self.start) else {
            return &[];
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let (first, second) = self.kept.as_slices();
        match first.get(skip..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => second
                .get(skip.saturating_sub(first.len())..)
                .unwrap_or_default(),
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.budget.give_back(self.room);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_from(replay: &Replay, mut position: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let some = replay.from(position);
            if some.is_empty() {
                return bytes;
            }
            bytes.extend(some);
            position += super::super::to_u64(some.len());
        }
    }

    #[test]
    fn the_last_bytes_are_kept_and_older_ones_forgotten() {
        let mut replay = Replay::new(ReplayBudget::default());
        replay.push(&vec![1; MOST]);
        assert!(replay.holds_from(0));
        replay.push(&[2; 10]);
        assert!(!replay.holds_from(9) && replay.holds_from(10));
        assert_eq!(
            all_from(&replay, super::super::to_u64(MOST) - 1),
            [&[1][..], &[2; 10]].concat()
        );
        replay.push(&vec![3; 3 * MOST]);
        assert_eq!(replay.end(), super::super::to_u64(4 * MOST) + 10);
        assert_eq!(all_from(&replay, replay.end() - 5), [3; 5]);
        assert!(!replay.holds_from(replay.end() + 1));
    }

    #[test]
    fn sessions_share_a_budget_and_give_it_back() {
        let budget = ReplayBudget::default();
        let fill = || {
            let mut replay = Replay::new(budget.clone());
            replay.push(&vec![1; MOST]);
            replay
        };
        let full: Vec<Replay> = (0..MOST_IN_ALL / MOST).map(|_| fill()).collect();
        let late = fill();
        assert!(!late.holds_from(0) && late.holds_from(late.end()));
        drop(full);
        assert!(fill().holds_from(0));
        drop(late);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_kept_is_what_was_sent(pieces in prop::collection::vec(0_usize..100_000, 0..20)) {
            let mut replay = Replay::new(ReplayBudget::default());
            let mut sent = Vec::new();
            for (number, length) in (0_u8..).zip(pieces) {
                let piece = vec![number; length];
                replay.push(&piece);
                sent.extend(piece);
                let first = sent.len().saturating_sub(MOST);
                prop_assert!(replay.holds_from(super::super::to_u64(first)));
                prop_assert_eq!(&all_from(&replay, super::super::to_u64(first)), &sent[first..]);
            }
        }
    }
}

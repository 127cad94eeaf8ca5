//! The latest events, numbered, for watchers who are at different places. Bounded: whoever is behind
//! the oldest event starts anew from the full state, so nothing is lost; it only costs more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Events kept. At a thousand providers with a heartbeat each 30 s, two minutes.
const EVENTS: usize = 4096;

/// Bytes of their texts: an offer's payload may have 64 KB.
const BYTES: usize = 16 * 1024 * 1024;

/// Some events behind a place are not kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld;

/// A log of events, which count from 1. The place 0 is before the first.
pub(crate) struct EventLog<T> {
    kept: Mutex<Kept<T>>,
    last: watch::Sender<u64>,
}

struct Kept<T> {
    events: VecDeque<(Arc<T>, usize)>,
    bytes: usize,
    /// The number of the last event.
    last: u64,
}

impl<T> Default for EventLog<T> {
    fn default() -> Self {
        Self {
            kept: Mutex::new(Kept {
                events: VecDeque::new(),
                bytes: 0,
                last: 0,
            }),
            last: watch::Sender::new(0),
        }
    }
}

impl<T> Kept<T> {
    fn push(&mut self, event: T, bytes: usize) {
        self.events.push_back((Arc::new(event), bytes));
        self.bytes += bytes;
        self.last += 1;
        while self.events.len() > EVENTS || (self.bytes > BYTES && self.events.len() > 1) {
            let oldest = self.events.pop_front();
            self.bytes -= oldest.map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The place before the oldest event.
    fn begin(&self) -> u64 {
        let kept = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        self.last.saturating_sub(kept)
    }
}

impl<T> EventLog<T> {
    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, with the bytes of its texts.
    pub(crate) fn push(&self, event: T, bytes: usize) {
        let last = {
            let mut kept = self.kept();
            kept.push(event, bytes);
            kept.last
        };
        // Two that push at once may come here in either order.
        self.last.send_if_modified(|seen| {
            let later = last > *seen;
            *seen = last.max(*seen);
            later
        });
    }

    /// The place behind the last event.
    pub(crate) fn end(&self) -> u64 {
        self.kept().last
    }

    /// The events behind a place, at most `most`, each with its number.
    pub(crate) fn behind(&self, place: u64, most: usize) -> Result<Vec<(u64, Arc<T>)>, TooOld> {
        let kept = self.kept();
        let skipped = place.checked_sub(kept.begin()).ok_or(TooOld)?;
        if place > kept.last {
            return Err(TooOld);
        }
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let events = kept.events.iter().skip(skipped).take(most);
        let numbered = (place + 1..).zip(events.map(|(event, _)| Arc::clone(event)));
        Ok(numbered.collect())
    }

    /// Waits until there are events behind a place.
    pub(crate) async fn wait_behind(&self, place: u64) {
        let mut last = self.last.subscribe();
        // Fails only when the sender is gone, which is part of this.
        let _ = last.wait_for(|last| *last > place).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(log: &EventLog<u64>, place: u64) -> Result<Vec<u64>, TooOld> {
        let events = log.behind(place, 10)?;
        assert!(events.iter().all(|(number, event)| *number == **event));
        Ok(events.into_iter().map(|(number, _)| number).collect())
    }

    #[test]
    fn events_are_numbered_and_read_from_a_place() {
        let log = EventLog::default();
        assert_eq!(numbers(&log, 0), Ok(vec![]));
        for event in 1..=3 {
            log.push(event, 1);
        }
        assert_eq!((log.end(), numbers(&log, 0)), (3, Ok(vec![1, 2, 3])));
        assert_eq!(numbers(&log, 2), Ok(vec![3]));
        assert_eq!(numbers(&log, 3), Ok(vec![]));
        assert_eq!(numbers(&log, 4), Err(TooOld), "not yet");
    }

    #[test]
    fn the_oldest_are_forgotten_by_number_and_by_bytes() {
        let log = EventLog::default();
        let count = u64::try_from(EVENTS).unwrap();
        for event in 1..=count + 5 {
            log.push(event, 1);
        }
        assert_eq!(numbers(&log, 4), Err(TooOld));
        assert_eq!(numbers(&log, 5).unwrap().first(), Some(&6));
        log.push(count + 6, BYTES);
        assert_eq!(numbers(&log, count + 4), Err(TooOld));
        assert_eq!(
            numbers(&log, count + 5),
            Ok(vec![count + 6]),
            "one is always kept"
        );
    }
}

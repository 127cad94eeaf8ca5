//! When this node's provider records are published. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use derouter_wire::kademlia::KEY_BYTES;

/// How long after the one before: the first ones come soon, because a young routing table knows
/// few of those that are closest to a key. A record lives for 24 hours.
const DELAYS: [Duration; 4] = [
    Duration::from_secs(30),
    Duration::from_secs(10 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(6 * 3600),
];

pub(crate) type Key = [u8; KEY_BYTES];

#[derive(Debug)]
struct Publication {
    due: Instant,
    published: usize,
}

/// What this node publishes.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    keys: HashMap<Key, Publication>,
}

impl Publications {
    /// What is published from now on. Gives the keys that no longer are.
    pub(crate) fn set(&mut self, keys: &[Key], now: Instant) -> Vec<Key> {
        let gone = self.keys.keys().filter(|key| !keys.contains(*key));
        let gone: Vec<Key> = gone.copied().collect();
        self.keys.retain(|key, _| keys.contains(key));
        for key in keys {
            let new = Publication {
                due: now,
                published: 0,
            };
            self.keys.entry(*key).or_insert(new);
        }
        gone
    }

    /// Addresses changed, or there was nobody to tell: all of it again, after `delay`.
    pub(crate) fn restart(&mut self, now: Instant, delay: Duration) {
        for publication in self.keys.values_mut() {
            publication.due = now + delay;
            publication.published = 0;
        }
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.keys.values().map(|publication| publication.due).min()
    }

    /// One that is due; it then counts as published. `chance` from 0 to 1.
    pub(crate) fn take(&mut self, now: Instant, chance: f64) -> Option<Key> {
        let mut due = self.keys.iter_mut().filter(|(_, known)| known.due <= now);
        let (key, publication) = due.next()?;
        let delay = DELAYS.get(publication.published).or(DELAYS.last())?;
        publication.due = now + delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        publication.published = publication.published.saturating_add(1);
        Some(*key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Key = [1; KEY_BYTES];
    const OTHER: Key = [2; KEY_BYTES];

    #[test]
    fn a_record_is_published_soon_again_and_then_ever_more_rarely() {
        let mut publications = Publications::default();
        let start = Instant::now();
        assert!(publications.set(&[ONE], start).is_empty());
        let mut now = start;
        let mut delays = Vec::new();
        for _ in 0..6 {
            assert_eq!(publications.take(now, 0.5), Some(ONE));
            assert_eq!(publications.take(now, 0.5), None);
            let due = publications.due().unwrap();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [30, 600, 7200, 21600, 21600, 21600]);
        publications.restart(now, Duration::from_secs(5));
        assert_eq!(publications.due(), Some(now + Duration::from_secs(5)));
    }

    #[test]
    fn what_is_published_already_stays_as_it_is_and_the_rest_is_withdrawn() {
        let mut publications = Publications::default();
        let now = Instant::now();
        publications.set(&[ONE], now);
        assert_eq!(publications.take(now, 0.0), Some(ONE));
        assert!(publications.set(&[ONE, OTHER], now).is_empty());
        assert_eq!(publications.take(now, 0.0), Some(OTHER));
        assert_eq!(publications.take(now, 0.0), None);
        assert_eq!(publications.set(&[], now).len(), 2);
        assert_eq!(publications.due(), None);
    }
}

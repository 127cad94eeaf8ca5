//! Which providers failed lately. It changes the order in which they are asked, and nothing else:
//! a provider that is the only one is asked all the same.

use std::collections::HashMap;
use std::time::Duration;

use derouter_sdk::PeerId;
use tokio::time::Instant;

/// How long a provider that failed is asked after all others: about a heartbeat, in which it may
/// have come back.
const COOLDOWN: Duration = Duration::from_secs(30);

/// When a failure no longer counts.
const MEMORY: Duration = Duration::from_secs(10 * 60);

/// Providers that are remembered. Those that failed longest ago are forgotten first.
const MAX_PROVIDERS: usize = 1024;

/// How a provider did lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    /// It failed within the cooldown.
    pub(crate) cooling: bool,
    /// Failures in a row.
    pub(crate) failures: u32,
}

/// The providers that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: HashMap<PeerId, Failed>,
}

#[derive(Debug)]
struct Failed {
    failures: u32,
    at: Instant,
}

impl Health {
    /// A provider failed.
    pub(crate) fn failed(&mut self, provider: PeerId, now: Instant) {
        if !self.failed.contains_key(&provider) && self.failed.len() >= MAX_PROVIDERS {
            self.make_room(now);
        }
        let entry = self.failed.entry(provider).or_insert(Failed {
            failures: 0,
            at: now,
        });
        entry.failures = entry.failures.saturating_add(1);
        entry.at = now;
    }

    /// A provider did what it should.
    pub(crate) fn succeeded(&mut self, provider: &PeerId) {
        self.failed.remove(provider);
    }

    /// How a provider did lately.
    pub(crate) fn standing(&self, provider: &PeerId, now: Instant) -> Standing {
        let Some(failed) = self.failed.get(provider) else {
            return Standing::default();
        };
        let age = now.saturating_duration_since(failed.at);
        if age >= MEMORY {
            return Standing::default();
        }
        Standing {
            cooling: age < COOLDOWN,
            failures: failed.failures,
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.failed
            .retain(|_, failed| now.saturating_duration_since(failed.at) < MEMORY);
        if self.failed.len() < MAX_PROVIDERS {
            return;
        }
        let oldest = self.failed.iter().min_by_key(|(_, failed)| failed.at);
        if let Some(provider) = oldest.map(|(provider, _)| *provider) {
            self.failed.remove(&provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_cools_down_and_is_forgotten() {
        let mut health = Health::default();
        let provider = PeerId::random();
        let start = Instant::now();
        health.failed(provider, start);
        health.failed(provider, start);
        let standing = |health: &Health, later| health.standing(&provider, start + later);
        let cooling = Standing {
            cooling: true,
            failures: 2,
        };
        assert_eq!(standing(&health, Duration::ZERO), cooling);
        let cooled = Standing {
            cooling: false,
            failures: 2,
        };
        assert_eq!(standing(&health, COOLDOWN), cooled);
        assert_eq!(standing(&health, MEMORY), Standing::default());
        health.succeeded(&provider);
        assert_eq!(standing(&health, Duration::ZERO), Standing::default());
    }

    #[test]
    fn the_oldest_failures_make_room() {
        let mut health = Health::default();
        let start = Instant::now();
        let first = PeerId::random();
        health.failed(first, start);
        for n in 1..=MAX_PROVIDERS {
            let later = Duration::from_millis(u64::try_from(n).unwrap());
            health.failed(PeerId::random(), start + later);
        }
        assert_eq!(health.failed.len(), MAX_PROVIDERS);
        assert_eq!(health.standing(&first, start), Standing::default());
    }
}

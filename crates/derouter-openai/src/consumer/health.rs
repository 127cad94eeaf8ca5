//! Which providers failed lately. It changes the order in which they are asked, and nothing else:
//! a provider that is the only one is asked all the same.

use std::collections::HashMap;
use std::time::Duration;

use derouter_sdk::PeerId;
use tokio::time::Instant;

/// How long a provider that failed is asked after all others: about a heartbeat, in which it may
/// have come back. It doubles with each further failure in a row.
const COOLDOWN: Duration = Duration::from_secs(30);

/// The longest that it gets.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(8 * 60);

/// How long one that declines again and again is asked after all others; it doubles too. Short: a
/// busy provider does nothing wrong, and may have room soon.
const DECLINE_COOLDOWN: Duration = Duration::from_secs(5);

/// The longest that this gets.
const LONGEST_DECLINE_COOLDOWN: Duration = Duration::from_secs(60);

/// When a failure no longer counts: well after the longest cooldown, so that a streak goes on.
const MEMORY: Duration = Duration::from_secs(20 * 60);

/// Providers that are remembered. Those that failed longest ago are forgotten first.
const MAX_PROVIDERS: usize = 1024;

/// What a provider did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// It was gone, unreachable or too slow, or answered badly.
    Failed,
    /// It had no room, or refused the request: once is nothing, a streak costs others time.
    Declined,
}

/// How a provider did lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    /// It failed, or declined repeatedly, within the cooldown.
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
    declines: u32,
    at: Instant,
    cooling_until: Instant,
}

impl Failed {
    fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            declines: 0,
            at: now,
            cooling_until: now,
        }
    }

    /// Requests that run at the same time may fail for one reason: while the provider cools, a
    /// further failure is counted and lengthens nothing.
    fn blame(&mut self, blame: Blame, now: Instant) {
        self.at = now;
        let cooldown = match blame {
            Blame::Failed => {
                let cooldown = doubled(COOLDOWN, self.failures, LONGEST_COOLDOWN);
                self.failures = self.failures.saturating_add(1);
                cooldown
            }
            Blame::Declined => {
                self.declines = self.declines.saturating_add(1);
                let Some(streak) = self.declines.checked_sub(2) else {
                    return;
                };
                doubled(DECLINE_COOLDOWN, streak, LONGEST_DECLINE_COOLDOWN)
            }
        };
        if now >= self.cooling_until {
            self.cooling_until = now + cooldown;
        }
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

impl Health {
    /// A provider failed or declined.
    pub(crate) fn blame(&mut self, provider: PeerId, blame: Blame, now: Instant) {
        if !self.failed.contains_key(&provider) && self.failed.len() >= MAX_PROVIDERS {
            self.make_room(now);
        }
        let entry = self.failed.entry(provider).or_insert(Failed::new(now));
        if now.saturating_duration_since(entry.at) >= MEMORY {
            *entry = Failed::new(now);
        }
        entry.blame(blame, now);
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
            cooling: now < failed.cooling_until,
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
        health.blame(provider, Blame::Failed, start);
        health.blame(provider, Blame::Failed, start);
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

    fn cools_for(health: &Health, provider: &PeerId, now: Instant) -> Duration {
        let seconds = (0..3600).map(Duration::from_secs);
        let cools = |later: &Duration| health.standing(provider, now + *later).cooling;
        seconds
            .take_while(cools)
            .count()
            .try_into()
            .map(Duration::from_secs)
            .unwrap()
    }

    #[test]
    fn the_cooldown_doubles_with_each_failure_in_a_row() {
        let mut health = Health::default();
        let provider = PeerId::random();
        let mut now = Instant::now();
        for seconds in [30, 60, 120, 240, 480, 480, 480] {
            health.blame(provider, Blame::Failed, now);
            let cooldown = cools_for(&health, &provider, now);
            assert_eq!(cooldown, Duration::from_secs(seconds));
            now += cooldown;
        }
        health.succeeded(&provider);
        health.blame(provider, Blame::Failed, now);
        assert_eq!(cools_for(&health, &provider, now), COOLDOWN);
    }

    #[test]
    fn who_declines_again_and_again_cools_briefly() {
        let mut health = Health::default();
        let provider = PeerId::random();
        let mut now = Instant::now();
        for seconds in [0, 5, 10, 20, 40, 60, 60] {
            health.blame(provider, Blame::Declined, now);
            let cooldown = cools_for(&health, &provider, now);
            assert_eq!(cooldown, Duration::from_secs(seconds));
            now += cooldown;
        }
        assert_eq!(health.standing(&provider, now).failures, 0);
    }

    #[test]
    fn the_oldest_failures_make_room() {
        let mut health = Health::default();
        let start = Instant::now();
        let first = PeerId::random();
        health.blame(first, Blame::Failed, start);
        for n in 1..=MAX_PROVIDERS {
            let later = Duration::from_millis(u64::try_from(n).unwrap());
            health.blame(PeerId::random(), Blame::Failed, start + later);
        }
        assert_eq!(health.failed.len(), MAX_PROVIDERS);
        assert_eq!(health.standing(&first, start), Standing::default());
    }
}

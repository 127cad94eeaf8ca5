//! Who failed just now. It changes the order in which providers are asked, and nothing else: one
//! that is the only one is asked all the same.

use std::collections::HashMap;
use std::time::Duration;

use derouter_sdk::PeerId;
use tokio::time::Instant;

use super::kept::{KeptCooldown, PeerName, seconds};

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

/// Failures that are counted: more would not lengthen the cooldown, and would take longer to live down.
const MOST_FAILURES: u32 = 5;

/// Providers that are remembered. Those that failed longest ago are forgotten first.
const MAX_PROVIDERS: usize = 1024;

/// What a provider did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It was gone, unreachable or too slow, or answered badly.
    Failed,
    /// It had no room, or refused the request: once is nothing, a streak costs others time.
    Declined,
}

/// The providers that failed lately.
#[derive(Debug, Default)]
pub(super) struct Cooldowns {
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
    /// further failure lengthens nothing.
    fn blame(&mut self, blame: Blame, now: Instant) {
        self.at = now;
        let cooldown = match blame {
            Blame::Failed => {
                let cooldown = doubled(COOLDOWN, self.failures, LONGEST_COOLDOWN);
                self.failures = self.failures.saturating_add(1).min(MOST_FAILURES);
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

impl Cooldowns {
    /// A provider failed or declined.
    pub(super) fn blame(&mut self, provider: PeerId, blame: Blame, now: Instant) {
        if !self.failed.contains_key(&provider) && self.failed.len() >= MAX_PROVIDERS {
            self.make_room(now);
        }
        let entry = self.failed.entry(provider).or_insert(Failed::new(now));
        if now.saturating_duration_since(entry.at) >= MEMORY {
            *entry = Failed::new(now);
        }
        entry.blame(blame, now);
    }

    /// A provider did what it should: it cools no longer. Half of its failures stay, so that one
    /// that fails every other time is left alone for longer each time.
    pub(super) fn succeeded(&mut self, provider: &PeerId, now: Instant) {
        let Some(failed) = self.failed.get_mut(provider) else {
            return;
        };
        failed.failures /= 2;
        failed.declines = 0;
        failed.cooling_until = now;
        if failed.failures == 0 {
            self.failed.remove(provider);
        }
    }

    /// Whether a provider is to be asked after all others.
    pub(super) fn cooling(&self, provider: &PeerId, now: Instant) -> bool {
        self.cools_for(provider, now).is_some()
    }

    /// For how long yet.
    pub(super) fn cools_for(&self, provider: &PeerId, now: Instant) -> Option<Duration> {
        let until = self.failed.get(provider)?.cooling_until;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// What is to be kept.
    pub(super) fn keep(&self, now: Instant) -> Vec<KeptCooldown> {
        let keep = |(provider, failed): (&PeerId, &Failed)| KeptCooldown {
            provider: PeerName(*provider),
            failures: failed.failures,
            declines: failed.declines,
            age: now.saturating_duration_since(failed.at).as_secs_f64(),
            left: failed
                .cooling_until
                .saturating_duration_since(now)
                .as_secs_f64(),
        };
        self.failed.iter().map(keep).collect()
    }

    /// Takes over what was kept, so long ago.
    pub(super) fn recall(&mut self, kept: &[KeptCooldown], down: Duration, now: Instant) {
        for kept in kept.iter().take(MAX_PROVIDERS) {
            let age = seconds(kept.age).saturating_add(down);
            let Some(at) = now.checked_sub(age.min(MEMORY)).filter(|_| age < MEMORY) else {
                continue;
            };
            let left = seconds(kept.left).min(LONGEST_COOLDOWN);
            let failed = Failed {
                failures: kept.failures.min(MOST_FAILURES),
                declines: kept.declines,
                at,
                cooling_until: now + left.saturating_sub(down),
            };
            self.failed.insert(kept.provider.0, failed);
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

    fn cools_for(cooldowns: &Cooldowns, provider: &PeerId, now: Instant) -> u64 {
        let cools = |later: &u64| cooldowns.cooling(provider, now + Duration::from_secs(*later));
        (0..3600).take_while(cools).count().try_into().unwrap()
    }

    #[test]
    fn the_cooldown_doubles_with_each_failure_in_a_row() {
        let mut cooldowns = Cooldowns::default();
        let provider = PeerId::random();
        let mut now = Instant::now();
        for seconds in [30, 60, 120, 240, 480, 480, 480] {
            cooldowns.blame(provider, Blame::Failed, now);
            assert_eq!(cools_for(&cooldowns, &provider, now), seconds);
            now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn a_success_ends_it_and_halves_the_next() {
        let mut cooldowns = Cooldowns::default();
        let provider = PeerId::random();
        let mut now = Instant::now();
        for _ in 0..5 {
            cooldowns.blame(provider, Blame::Failed, now);
            now += LONGEST_COOLDOWN;
        }
        for seconds in [120, 60, 60] {
            cooldowns.succeeded(&provider, now);
            assert_eq!(cools_for(&cooldowns, &provider, now), 0);
            cooldowns.blame(provider, Blame::Failed, now);
            assert_eq!(cools_for(&cooldowns, &provider, now), seconds);
        }
        cooldowns.succeeded(&provider, now);
        cooldowns.succeeded(&provider, now);
        assert!(cooldowns.failed.is_empty());
    }

    #[test]
    fn failures_of_long_ago_count_no_more() {
        let mut cooldowns = Cooldowns::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        for _ in 0..5 {
            cooldowns.blame(provider, Blame::Failed, now);
        }
        let later = now + MEMORY;
        cooldowns.blame(provider, Blame::Failed, later);
        assert_eq!(cools_for(&cooldowns, &provider, later), 30);
    }

    #[test]
    fn who_declines_again_and_again_cools_briefly() {
        let mut cooldowns = Cooldowns::default();
        let provider = PeerId::random();
        let mut now = Instant::now();
        for seconds in [0, 5, 10, 20, 40, 60, 60] {
            cooldowns.blame(provider, Blame::Declined, now);
            assert_eq!(cools_for(&cooldowns, &provider, now), seconds);
            now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn the_oldest_failures_make_room() {
        let mut cooldowns = Cooldowns::default();
        let start = Instant::now();
        let first = PeerId::random();
        cooldowns.blame(first, Blame::Failed, start);
        for n in 1..=MAX_PROVIDERS {
            let later = Duration::from_millis(u64::try_from(n).unwrap());
            cooldowns.blame(PeerId::random(), Blame::Failed, start + later);
        }
        assert_eq!(cooldowns.failed.len(), MAX_PROVIDERS);
        assert!(!cooldowns.cooling(&first, start));
    }
}

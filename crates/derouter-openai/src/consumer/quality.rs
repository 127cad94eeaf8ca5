//! How well providers serve, as this gateway saw it: time to the first token, tokens a second, how
//! many answers were good, how long they are there, what runs with them, and who failed just now.
//!
//! It ages, so that nobody pays for what a provider was long ago, and is kept over restarts (`memory`).
//! Pure; the time is given.

mod cooldown;
mod kept;
mod presence;
mod recent;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use derouter_sdk::{OfferId, PeerId};
use tokio::time::Instant;

pub use cooldown::Blame;
use cooldown::Cooldowns;
pub(crate) use kept::Kept;
use presence::Presences;
use recent::Recent;
pub(crate) use recent::Spread;

/// Providers with their models that are remembered. Those not asked for longest are forgotten first.
const MAX_ENTRIES: usize = 4096;

/// How long it takes until something seen counts half: providers change their load within hours.
const HALF_LIFE: Duration = Duration::from_secs(30 * 60);

/// What all that was seen counts at most, in answers: a change shows after about ten of them.
const MOST_WEIGHT: f64 = 10.0;

/// What was seen one by one is forgotten when it counts less than this: after an hour without anything.
const OLD: f64 = 0.25;

/// Answers without failure that a newcomer is given, and failures. Together a success rate of 95 %,
/// which three answers outweigh.
const GIVEN_GOOD: f64 = 1.9;
const GIVEN_BAD: f64 = 0.1;

/// Tokens from which an answer says how fast a provider is.
const TOKENS_TO_MEASURE: u64 = 16;

/// Times shorter than this are of buffers, not of a model.
const SHORTEST_GENERATION: Duration = Duration::from_millis(20);

/// An average of what was seen lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The average: geometric, so that one stall does not outweigh ten good answers.
    pub value: f64,
    /// How many answers it stands for, at most ten.
    pub weight: f64,
}

/// What is known of a provider and a model of it at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Seconds to the first token.
    pub first_token: Option<Estimate>,
    /// Tokens a second, once they come.
    pub speed: Option<Estimate>,
    /// The share of good answers, with what is assumed of a newcomer mixed in.
    pub success: f64,
    /// Answers that `success` stands for, decayed.
    pub tried: f64,
    /// The share of the time since it was first seen that it was on the market.
    pub uptime: f64,
    /// It failed, or declined repeatedly, just now.
    pub cooling: bool,
    /// Requests of this gateway that it answers now.
    pub in_flight: u32,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            first_token: None,
            speed: None,
            success: GIVEN_GOOD / (GIVEN_GOOD + GIVEN_BAD),
            tried: 0.0,
            uptime: 1.0,
            cooling: false,
            in_flight: 0,
        }
    }
}

/// What an answer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Tokens that were seen.
    pub tokens: u64,
    /// How long the provider was waited for while they came.
    pub waited: Duration,
}

/// A provider and a hash of one of its models: the name itself may be long. Models with one hash could
/// only be of one provider, which would spoil its own figures.
type Key = (PeerId, u64);

/// The same in each run of a build.
fn hash(model: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    model.hash(&mut hasher);
    hasher.finish()
}

fn key(provider: &PeerId, model: &str) -> Key {
    (*provider, hash(model))
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Quality {
    seen: HashMap<Key, Seen>,
    /// Bounded by the requests that run at once.
    in_flight: HashMap<Key, u32>,
    cooldowns: Cooldowns,
    presences: Presences,
    /// What was learned of answers, counted: whether there is news to keep.
    lessons: u64,
}

/// A decayed average of logarithms.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    logarithm: f64,
    weight: f64,
}

impl Average {
    fn add(&mut self, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        self.weight = (self.weight + 1.0).min(MOST_WEIGHT);
        self.logarithm += (value.ln() - self.logarithm) / self.weight;
    }

    fn estimate(&self, decay: f64) -> Option<Estimate> {
        let weight = self.weight * decay;
        (weight > 0.0).then(|| Estimate {
            value: self.logarithm.exp(),
            weight,
        })
    }
}

/// What was seen of a provider and a model.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first_token: Average,
    /// The same, one by one.
    recent: Recent,
    speed: Average,
    speeds: Recent,
    good: f64,
    bad: f64,
    at: Instant,
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self {
            first_token: Average::default(),
            recent: Recent::default(),
            speed: Average::default(),
            speeds: Recent::default(),
            good: 0.0,
            bad: 0.0,
            at: now,
        }
    }

    fn decay(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        (-age / HALF_LIFE.as_secs_f64()).exp2()
    }

    /// Lets all that was seen age up to now.
    fn age(&mut self, now: Instant) {
        let decay = self.decay(now);
        self.first_token.weight *= decay;
        self.speed.weight *= decay;
        self.good *= decay;
        self.bad *= decay;
        if decay < OLD {
            self.recent = Recent::default();
        }
        self.at = self.at.max(now);
    }

    fn count(&mut self, good: bool) {
        let tried = self.good + self.bad;
        let room = ((MOST_WEIGHT - 1.0) / tried.max(1.0)).min(1.0);
        self.good *= room;
        self.bad *= room;
        *(if good { &mut self.good } else { &mut self.bad }) += 1.0;
    }
}

impl Quality {
    /// A request begins with a provider.
    pub fn began(&mut self, provider: &PeerId, model: &str) {
        let running = self.in_flight.entry(key(provider, model)).or_default();
        *running = running.saturating_add(1);
    }

    /// A request with a provider is over, however it went.
    pub fn ended(&mut self, provider: &PeerId, model: &str) {
        let key = key(provider, model);
        let Some(running) = self.in_flight.get_mut(&key) else {
            return;
        };
        *running = running.saturating_sub(1);
        if *running == 0 {
            self.in_flight.remove(&key);
        }
    }

    /// The first token of a streamed answer came.
    pub fn first_token(&mut self, provider: &PeerId, model: &str, after: Duration, now: Instant) {
        let seen = self.seen(provider, model, now);
        seen.first_token.add(after.as_secs_f64().max(0.001));
        seen.recent.add(after);
    }

    /// The time to the first token that so many percent of a provider's latest answers kept; `None` where
    /// too few are known.
    pub fn slow_first_token(
        &self,
        provider: &PeerId,
        model: &str,
        percent: f64,
    ) -> Option<Duration> {
        let seen = self.seen.get(&key(provider, model))?;
        seen.recent.percentile(percent)
    }

    /// An answer was good.
    pub fn succeeded(&mut self, provider: &PeerId, model: &str, sample: Sample, now: Instant) {
        self.cooldowns.succeeded(provider, now);
        let seen = self.seen(provider, model, now);
        seen.count(true);
        if sample.tokens >= TOKENS_TO_MEASURE && sample.waited >= SHORTEST_GENERATION {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let tokens = sample.tokens as f64;
            let speed = tokens / sample.waited.as_secs_f64();
            seen.speed.add(speed);
            seen.speeds.add_rate(speed);
        }
    }

    /// A provider failed or declined.
    pub fn blame(&mut self, provider: &PeerId, model: &str, blame: Blame, now: Instant) {
        self.lessons = self.lessons.wrapping_add(1);
        self.cooldowns.blame(*provider, blame, now);
        if blame == Blame::Failed {
            self.seen(provider, model, now).count(false);
        }
    }

    /// An offer is on the market.
    pub fn offered(&mut self, provider: PeerId, offer: &OfferId, now: Instant) {
        self.presences.offered(provider, offer, now);
    }

    /// An offer is gone.
    pub fn withdrawn(&mut self, provider: &PeerId, offer: &OfferId, now: Instant) {
        self.presences.withdrawn(provider, offer, now);
    }

    /// All offers are gone, or told anew in what follows.
    pub fn all_withdrawn(&mut self, now: Instant) {
        self.presences.all_withdrawn(now);
    }

    /// What is known now.
    pub fn observed(&self, provider: &PeerId, model: &str, now: Instant) -> Observed {
        let key = key(provider, model);
        let mut observed = Observed {
            uptime: self.presences.uptime(provider, now),
            cooling: self.cooldowns.cooling(provider, now),
            in_flight: self.in_flight.get(&key).copied().unwrap_or(0),
            ..Observed::default()
        };
        let Some(seen) = self.seen.get(&key) else {
            return observed;
        };
        let decay = seen.decay(now);
        let (good, bad) = (seen.good * decay, seen.bad * decay);
        observed.tried = good + bad;
        observed.success = (good + GIVEN_GOOD) / (good + bad + GIVEN_GOOD + GIVEN_BAD);
        observed.first_token = seen.first_token.estimate(decay);
        observed.speed = seen.speed.estimate(decay);
        observed
    }

    /// How the latest answers of a provider and model were spread: seconds to the first token, and
    /// tokens a second.
    pub(crate) fn spreads(
        &self,
        provider: &PeerId,
        model: &str,
    ) -> (Option<Spread>, Option<Spread>) {
        let seen = self.seen.get(&key(provider, model));
        seen.map_or((None, None), |seen| {
            (seen.recent.spread(), seen.speeds.spread())
        })
    }

    /// For how long a provider is still asked after all others; `None` when it is not.
    pub(crate) fn cools_for(&self, provider: &PeerId, now: Instant) -> Option<Duration> {
        self.cooldowns.cools_for(provider, now)
    }

    /// A number that grows with what is learned of answers.
    pub(crate) fn lessons(&self) -> u64 {
        self.lessons
    }

    fn seen(&mut self, provider: &PeerId, model: &str, now: Instant) -> &mut Seen {
        self.lessons = self.lessons.wrapping_add(1);
        let key = key(provider, model);
        if !self.seen.contains_key(&key) && self.seen.len() >= MAX_ENTRIES {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.seen.remove(&oldest);
            }
        }
        let seen = self.seen.entry(key).or_insert_with(|| Seen::new(now));
        seen.age(now);
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: u64, millis: u64) -> Sample {
        Sample {
            tokens,
            waited: Duration::from_millis(millis),
        }
    }

    #[test]
    fn what_was_measured_is_averaged_and_ages() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        assert_eq!(quality.observed(&provider, "m", now), Observed::default());
        for _ in 0..50 {
            quality.first_token(&provider, "m", Duration::from_millis(500), now);
            quality.succeeded(&provider, "m", sample(100, 2000), now);
        }
        let seen = quality.observed(&provider, "m", now);
        let first = seen.first_token.unwrap();
        assert!((first.value - 0.5).abs() < 1e-9 && first.weight <= MOST_WEIGHT);
        assert!((seen.speed.unwrap().value - 50.0).abs() < 1e-9);
        assert!(seen.success > 0.98 && seen.tried <= MOST_WEIGHT);
        let later = quality.observed(&provider, "m", now + HALF_LIFE * 2);
        assert!((later.first_token.unwrap().weight - first.weight / 4.0).abs() < 1e-9);
        assert!((later.first_token.unwrap().value - 0.5).abs() < 1e-9);
        assert_eq!(quality.observed(&provider, "other", now).tried, 0.0);
    }

    #[test]
    fn a_change_shows_after_some_answers_and_one_stall_does_not() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        let first = |quality: &mut Quality, seconds: f64| {
            quality.first_token(&provider, "m", Duration::from_secs_f64(seconds), now);
            let seen = quality.observed(&provider, "m", now);
            seen.first_token.unwrap().value
        };
        for _ in 0..20 {
            first(&mut quality, 0.5);
        }
        assert!(first(&mut quality, 60.0) < 1.0, "one stall");
        for _ in 0..20 {
            first(&mut quality, 5.0);
        }
        assert!(first(&mut quality, 5.0) > 3.0, "it has become slow");
    }

    #[test]
    fn short_answers_say_nothing_of_the_speed() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        quality.succeeded(&provider, "m", sample(3, 100), now);
        quality.succeeded(&provider, "m", sample(1000, 1), now);
        assert_eq!(quality.observed(&provider, "m", now).speed, None);
    }

    #[test]
    fn who_fails_half_of_the_time_is_known_for_it() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        for _ in 0..20 {
            quality.succeeded(&provider, "m", sample(0, 0), now);
            quality.blame(&provider, "m", Blame::Failed, now);
            quality.blame(&provider, "m", Blame::Declined, now);
        }
        let success = quality.observed(&provider, "m", now).success;
        assert!((0.4..0.65).contains(&success), "{success}");
    }

    #[test]
    fn what_runs_is_counted_until_it_ends() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        quality.began(&provider, "m");
        quality.began(&provider, "m");
        quality.ended(&provider, "m");
        assert_eq!(quality.observed(&provider, "m", now).in_flight, 1);
        quality.ended(&provider, "m");
        quality.ended(&provider, "m");
        assert!(quality.in_flight.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut quality = Quality::default();
        let start = Instant::now();
        for n in 0..u64::try_from(MAX_ENTRIES).unwrap() + 10 {
            let now = start + Duration::from_millis(n);
            quality.blame(&PeerId::random(), "m", Blame::Failed, now);
        }
        assert_eq!(quality.seen.len(), MAX_ENTRIES);
    }
}

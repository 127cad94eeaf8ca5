//! What one consumer may ask for in a minute. Pure.
//!
//! Both limits are buckets: a consumer that was quiet for a minute has all of it at once, and from then on
//! it comes back evenly. Tokens are known only when an answer has ended, so they are taken then, and a
//! consumer that took more than it had waits until that is made up for.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Consumers that are remembered: the longest unheard goes first, and begins anew. 100 bytes each.
const MAX_CONSUMERS: usize = 4_096;

/// The deepest that tokens can be in debt, in minutes: one huge answer must not shut a consumer out
/// for a day.
const MOST_DEBT_MINUTES: f64 = 10.0;

/// What one consumer may ask for in a minute; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Jobs.
    pub requests_per_minute: Option<u32>,
    /// Tokens, of prompts and answers together.
    pub tokens_per_minute: Option<u64>,
}

/// Which limit a consumer has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooFast {
    Requests,
    Tokens,
}

/// What each consumer has left. `C` is a consumer.
#[derive(Debug)]
pub(super) struct Rates<C> {
    limits: RateLimits,
    consumers: HashMap<C, Left>,
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    requests: f64,
    tokens: f64,
    at: Instant,
}

impl<C: Clone + Eq + Hash> Rates<C> {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self {
            limits,
            consumers: HashMap::new(),
            most: MAX_CONSUMERS,
        }
    }

    /// Whether a consumer may have a job now.
    pub(super) fn check(&self, consumer: &C, now: Instant) -> Result<(), TooFast> {
        let left = self.left(consumer, now);
        if self.limits.requests_per_minute.is_some() && left.requests < 1.0 {
            return Err(TooFast::Requests);
        }
        if self.limits.tokens_per_minute.is_some() && left.tokens <= 0.0 {
            return Err(TooFast::Tokens);
        }
        Ok(())
    }

    /// A consumer gets a job, if it may.
    pub(super) fn take(&mut self, consumer: &C, now: Instant) -> Result<(), TooFast> {
        self.check(consumer, now)?;
        self.change(consumer, now, |left| left.requests -= 1.0);
        Ok(())
    }

    /// A consumer had an answer.
    pub(super) fn charge(&mut self, consumer: &C, tokens: u64, now: Instant) {
        let minute = self.minute();
        self.change(consumer, now, |left| {
            let least = -MOST_DEBT_MINUTES * minute.tokens;
            left.tokens = (left.tokens - as_float(tokens)).max(least);
        });
    }

    fn change(&mut self, consumer: &C, now: Instant, change: impl FnOnce(&mut Left)) {
        if self.limits == RateLimits::default() {
            return;
        }
        let mut left = self.left(consumer, now);
        change(&mut left);
        if !self.consumers.contains_key(consumer) && self.consumers.len() >= self.most {
            self.forget_one();
        }
        self.consumers.insert(consumer.clone(), left);
    }

    fn forget_one(&mut self) {
        let oldest = self.consumers.iter().min_by_key(|(_, left)| left.at);
        if let Some(oldest) = oldest.map(|(consumer, _)| consumer.clone()) {
            self.consumers.remove(&oldest);
        }
    }

    /// What a consumer has at a time.
    fn left(&self, consumer: &C, now: Instant) -> Left {
        let most = self.minute();
        let Some(left) = self.consumers.get(consumer) else {
            return Left { at: now, ..most };
        };
        let minutes = now.saturating_duration_since(left.at).as_secs_f64()
            / Duration::from_secs(60).as_secs_f64();
        Left {
            requests: (left.requests + minutes * most.requests).min(most.requests),
            tokens: (left.tokens + minutes * most.tokens).min(most.tokens),
            at: now.max(left.at),
        }
    }

    /// A whole minute's.
    fn minute(&self) -> Left {
        Left {
            requests: self.limits.requests_per_minute.map_or(0.0, f64::from),
            tokens: self.limits.tokens_per_minute.map_or(0.0, as_float),
            at: Instant::now(),
        }
    }
}

/// Exact up to 2^53, which no count of tokens reaches.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(requests: Option<u32>, tokens: Option<u64>) -> Rates<u32> {
        Rates::new(RateLimits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
        })
    }

    #[test]
    fn a_consumer_has_a_minutes_requests_at_once_and_then_one_each_while() {
        let (mut rates, now) = (rates(Some(6), None), Instant::now());
        for _ in 0..6 {
            assert_eq!(rates.take(&1, now), Ok(()));
        }
        assert_eq!(rates.take(&1, now), Err(TooFast::Requests));
        assert_eq!(rates.take(&2, now), Ok(()), "another consumer");
        let later = now + Duration::from_secs(11);
        assert_eq!(rates.take(&1, later), Ok(()));
        assert_eq!(rates.take(&1, later), Err(TooFast::Requests));
    }

    #[test]
    fn tokens_are_taken_afterwards_and_have_to_be_made_up_for() {
        let (mut rates, now) = (rates(None, Some(1_000)), Instant::now());
        assert_eq!(rates.take(&1, now), Ok(()));
        rates.charge(&1, 2_000, now);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(rates.check(&1, after(59)), Err(TooFast::Tokens));
        assert_eq!(rates.check(&1, after(62)), Ok(()));
        rates.charge(&1, u64::MAX, after(62));
        assert_eq!(rates.check(&1, after(62 + 599)), Err(TooFast::Tokens));
        assert_eq!(rates.check(&1, after(62 + 601)), Ok(()));
    }

    #[test]
    fn without_limits_nobody_is_remembered() {
        let (mut rates, now) = (rates(None, None), Instant::now());
        for _ in 0..10_000 {
            assert_eq!(rates.take(&1, now), Ok(()));
        }
        rates.charge(&1, u64::MAX, now);
        assert!(rates.consumers.is_empty());
    }

    #[test]
    fn only_so_many_consumers_are_remembered_and_the_longest_unheard_goes() {
        let (mut rates, now) = (rates(Some(1), None), Instant::now());
        rates.most = 3;
        for consumer in 0..5 {
            let at = now + Duration::from_millis(u64::from(consumer));
            assert_eq!(rates.take(&consumer, at), Ok(()));
        }
        let mut known: Vec<u32> = rates.consumers.keys().copied().collect();
        known.sort_unstable();
        assert_eq!(known, [2, 3, 4]);
    }

    proptest! {
        #[test]
        fn no_consumer_gets_more_than_a_minutes_burst_and_the_rate(
            gaps in prop::collection::vec(0_u64..5_000, 1..200)
        ) {
            let (mut rates, begin) = (rates(Some(10), None), Instant::now());
            let (mut now, mut taken) = (begin, 0.0);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if rates.take(&1, now).is_ok() {
                    taken += 1.0;
                }
                let minutes = now.duration_since(begin).as_secs_f64() / 60.0;
                prop_assert!(taken <= 10.0 * (1.0 + minutes) + 1e-6);
            }
        }
    }
}

//! Token buckets. Pure: the caller gives the time.

use std::time::{Duration, Instant};

/// How many tokens a bucket holds, and how fast they come back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// One token comes back after this.
    pub(crate) every: Duration,
    /// What a full bucket holds.
    pub(crate) burst: u32,
}

/// A token bucket, kept as the time at which it will be full again. Starts full.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes `tokens` if that many are there.
    pub(crate) fn try_take(&mut self, rate: Rate, tokens: u32, now: Instant) -> bool {
        let ready = self.ready_at(rate, tokens, now) <= now;
        if ready {
            self.take(rate, tokens, now);
        }
        ready
    }

    /// When `tokens` will be there.
    pub(crate) fn ready_at(&self, rate: Rate, tokens: u32, now: Instant) -> Instant {
        let full_at = self.full_after(rate, tokens, now);
        let ready = full_at.checked_sub(rate.every * rate.burst);
        ready.map_or(now, |ready| ready.max(now))
    }

    /// Takes `tokens`, even those that are not there yet.
    pub(crate) fn take(&mut self, rate: Rate, tokens: u32, now: Instant) {
        self.full_at = Some(self.full_after(rate, tokens, now));
    }

    fn full_after(&self, rate: Rate, tokens: u32, now: Instant) -> Instant {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        full_at + rate.every * tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        every: Duration::from_secs(2),
        burst: 3,
    };

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_token_at_a_time() {
        let mut bucket = Bucket::default();
        let now = Instant::now();
        assert!(!bucket.try_take(RATE, 4, now), "more than it holds");
        assert!(bucket.try_take(RATE, 3, now));
        assert!(!bucket.try_take(RATE, 1, now + Duration::from_millis(1999)));
        assert!(bucket.try_take(RATE, 1, now + Duration::from_secs(2)));
        assert!(!bucket.try_take(RATE, 1, now + Duration::from_secs(2)));
        let later = now + Duration::from_secs(3600);
        assert!(bucket.try_take(RATE, 3, later));
        assert!(!bucket.try_take(RATE, 1, later), "full is full");
    }

    #[test]
    fn tokens_taken_ahead_are_missing_later() {
        let mut bucket = Bucket::default();
        let now = Instant::now();
        bucket.take(RATE, 4, now);
        assert_eq!(bucket.ready_at(RATE, 1, now), now + Duration::from_secs(4));
    }
}

//! What all connections of a relay may read together, shared fairly between them.
//!
//! Bytes through a relay are read once and written once; reading is where they are limited, and the
//! muxers' windows make the sender wait. A connection reserves a portion of time, at most one
//! ahead, so that those who want more than there is take turns, whatever they want.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// What a connection reserves at once. With 300 busy connections at 1 MB/s a turn comes every 5 s,
/// so that pings still pass.
const PORTION: u64 = 16 * 1024;
/// What was left unused is kept for so long.
const BURST: Duration = Duration::from_millis(100);

/// When portions may be read. Pure: the caller gives the time.
#[derive(Debug)]
struct Schedule {
    portion_time: Duration,
    /// When the next portion may be read.
    next: Option<Instant>,
}

impl Schedule {
    fn new(bytes_per_second: u64) -> Self {
        let nanos = PORTION.saturating_mul(1_000_000_000) / bytes_per_second.max(1);
        Self {
            portion_time: Duration::from_nanos(nanos),
            next: None,
        }
    }

    /// Reserves a portion; the time from when on it may be read.
    fn reserve(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(start + self.portion_time);
        start
    }
}

/// The limit of a node.
#[derive(Debug)]
pub(crate) struct RateLimiter(Mutex<Schedule>);

impl RateLimiter {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self(Mutex::new(Schedule::new(bytes_per_second)))
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut schedule = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        schedule.reserve(now)
    }
}

/// The part of one connection.
#[derive(Debug)]
pub(crate) struct Share {
    limiter: Arc<RateLimiter>,
    portion: Mutex<Portion>,
}

#[derive(Debug, Default)]
struct Portion {
    left: u64,
    from: Option<Instant>,
}

impl Share {
    pub(super) fn new(limiter: Arc<RateLimiter>) -> Self {
        Self {
            limiter,
            portion: Mutex::default(),
        }
    }

    /// What may be read now, or when to ask again.
    fn available(&self, now: Instant) -> Result<u64, Instant> {
        let mut portion = self.portion();
        if portion.left == 0 {
            portion.from = Some(self.limiter.reserve(now));
            portion.left = PORTION;
        }
        match portion.from {
            Some(from) if from > now => Err(from),
            _ => Ok(portion.left),
        }
    }

    /// Bytes that were read. Substreams of one connection may together read more than there was;
    /// no more than a portion each.
    pub(super) fn take(&self, bytes: usize) {
        let mut portion = self.portion();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        portion.left = portion.left.saturating_sub(bytes);
    }

    fn portion(&self) -> std::sync::MutexGuard<'_, Portion> {
        self.portion.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a substream waits with for its connection's turn.
#[derive(Debug, Default)]
pub(super) struct Turn(Option<Pin<Box<Sleep>>>);

impl Turn {
    /// How many bytes may be read, at least one.
    pub(super) fn poll(&mut self, share: &Share, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(sleep) = &mut self.0 {
                ready!(sleep.as_mut().poll(cx));
                self.0 = None;
            }
            match share.available(Instant::now()) {
                Ok(bytes) => return Poll::Ready(usize::try_from(bytes).unwrap_or(usize::MAX)),
                Err(from) => self.0 = Some(Box::pin(tokio::time::sleep_until(from.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each connection has read after `time`, when each wants all it can get.
    fn run(rate: u64, connections: usize, time: Duration) -> Vec<u64> {
        let limiter = Arc::new(RateLimiter::new(rate));
        let shares: Vec<Share> = (0..connections)
            .map(|_| Share::new(limiter.clone()))
            .collect();
        let start = Instant::now() + BURST;
        let mut read = vec![0; connections];
        let steps = u32::try_from(time.as_millis()).unwrap();
        for step in 0..steps {
            let now = start + Duration::from_millis(1) * step;
            // The first connection asks first, always, and a hundred times as often.
            for (index, share) in shares.iter().enumerate() {
                for _ in 0..if index == 0 { 100 } else { 1 } {
                    if let Ok(bytes) = share.available(now) {
                        share.take(usize::try_from(bytes).unwrap());
                        read[index] += bytes;
                    }
                }
            }
        }
        read
    }

    #[test]
    fn connections_that_want_all_get_the_rate_together_and_no_more() {
        let read: u64 = run(10_000_000, 5, Duration::from_secs(10)).iter().sum();
        assert!((99_000_000..102_000_000).contains(&read), "{read}");
    }

    #[test]
    fn one_that_asks_more_often_takes_nothing_from_the_others() {
        let read = run(10_000_000, 5, Duration::from_secs(10));
        let fair = 10 * 10_000_000 / 5;
        assert!(
            read.iter().all(|bytes| *bytes >= fair * 95 / 100),
            "{read:?}"
        );
    }

    #[test]
    fn one_that_reads_little_is_served_at_once_beside_one_that_reads_all() {
        let limiter = Arc::new(RateLimiter::new(1_000_000));
        let (busy, quiet) = (Share::new(limiter.clone()), Share::new(limiter));
        let mut now = Instant::now() + BURST;
        for _ in 0..1_000 {
            now += Duration::from_millis(1);
            if let Ok(bytes) = busy.available(now) {
                busy.take(usize::try_from(bytes).unwrap());
            }
        }
        let wait = match quiet.available(now) {
            Ok(_) => Duration::ZERO,
            Err(from) => from - now,
        };
        assert!(wait <= Duration::from_millis(40), "{wait:?}");
    }
}

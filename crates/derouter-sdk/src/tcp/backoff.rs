//! Waiting between attempts: longer each time, and not in step with others.

use std::time::Duration;

/// A node that restarts is back within seconds.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s; each wait is a random part of it, from half to all.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LAST);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= FIRST);
        for _ in 0..20 {
            assert!(backoff.next() <= LAST);
        }
        assert!(backoff.next() >= LAST / 2);
    }
}

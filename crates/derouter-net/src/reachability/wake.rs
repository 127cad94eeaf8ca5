//! Notices that the machine slept or the process was stopped. Pure.

use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;

/// A tick that comes later than this was slept through: ticks come every 5 s.
const GAP: Duration = Duration::from_secs(20);

/// A sleep, or a stop of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slept {
    /// How long, by the clock that shows more.
    pub(crate) whole: Duration,
    /// What the monotonic clock does not show of it: what is timed by it is this much older.
    pub(crate) unseen: Duration,
}

/// The last tick, by both clocks: one stands still while a machine sleeps, the other jumps.
#[derive(Debug)]
pub(crate) struct Wake {
    last: (Instant, UnixSeconds),
}

impl Wake {
    pub(crate) fn new(now: Instant, unix: UnixSeconds) -> Self {
        Self { last: (now, unix) }
    }

    /// How long was slept before this tick, if it was. A clock that was set forward counts as well:
    /// at worst what others announce is learned again.
    pub(crate) fn tick(&mut self, now: Instant, unix: UnixSeconds) -> Option<Slept> {
        let (last, last_unix) = std::mem::replace(&mut self.last, (now, unix));
        let elapsed = now.duration_since(last);
        let by_clock = Duration::from_secs(unix.0.saturating_sub(last_unix.0));
        let whole = elapsed.max(by_clock);
        let unseen = by_clock.saturating_sub(elapsed);
        (whole > GAP).then_some(Slept { whole, unseen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_by_either_clock_is_noticed_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut wake = Wake::new(start, UnixSeconds(1000));
        assert_eq!(wake.tick(at(5), UnixSeconds(1005)), None);
        // Stopped: both clocks went on.
        assert_eq!(
            wake.tick(at(185), UnixSeconds(1185)),
            Some(Slept {
                whole: Duration::from_secs(180),
                unseen: Duration::ZERO,
            })
        );
        assert_eq!(wake.tick(at(190), UnixSeconds(1190)), None);
        // Slept: the monotonic clock stood still.
        assert_eq!(
            wake.tick(at(195), UnixSeconds(4795)),
            Some(Slept {
                whole: Duration::from_secs(3605),
                unseen: Duration::from_secs(3600),
            })
        );
        // Set back.
        assert_eq!(wake.tick(at(200), UnixSeconds(100)), None);
    }
}

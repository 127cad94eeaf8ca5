//! Notices that the machine slept or the process was stopped. Pure.

use std::time::{Duration, Instant};

/// A tick that comes later than this was slept through: ticks come every 5 s.
const GAP: Duration = Duration::from_secs(20);

/// A sleep, or a stop of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slept {
    /// How long.
    pub(crate) whole: Duration,
    /// What `Instant`s do not show of it: what is timed by them is this much older.
    pub(crate) unseen: Duration,
}

/// The last tick, by a clock that may stand still while the machine sleeps and by one that goes on
/// ([`crate::boot_time`]). Setting the wall clock is no sleep.
#[derive(Debug)]
pub(crate) struct Wake {
    last: (Instant, Duration),
}

impl Wake {
    pub(crate) fn new(now: Instant, boot_time: Duration) -> Self {
        Self {
            last: (now, boot_time),
        }
    }

    /// How long was slept before this tick, if it was.
    pub(crate) fn tick(&mut self, now: Instant, boot_time: Duration) -> Option<Slept> {
        let (last, last_boot_time) = std::mem::replace(&mut self.last, (now, boot_time));
        let elapsed = now.duration_since(last);
        let whole = boot_time.saturating_sub(last_boot_time).max(elapsed);
        let unseen = whole.saturating_sub(elapsed);
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
        let boot = Duration::from_secs;
        let mut wake = Wake::new(start, boot(1000));
        assert_eq!(wake.tick(at(5), boot(1005)), None);
        // Stopped: both clocks went on.
        assert_eq!(
            wake.tick(at(185), boot(1185)),
            Some(Slept {
                whole: Duration::from_secs(180),
                unseen: Duration::ZERO,
            })
        );
        assert_eq!(wake.tick(at(190), boot(1190)), None);
        // Slept: one of them stood still.
        assert_eq!(
            wake.tick(at(195), boot(4795)),
            Some(Slept {
                whole: Duration::from_secs(3605),
                unseen: Duration::from_secs(3600),
            })
        );
        assert_eq!(wake.tick(at(200), boot(4800)), None);
    }
}

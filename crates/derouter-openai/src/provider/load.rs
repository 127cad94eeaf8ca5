//! How loaded an offer says it is. Pure.
//!
//! Each change of it is a new offer: its provider announces, everybody pulls the list again and keeps another
//! snapshot, and jobs for the one before are refused for a moment. So it has two states only, `busy` or nothing said,
//! changes when a minute's average has clearly crossed the half, and no more often than offers are announced
//! anyway. An offer that is full is withdrawn, which says more. Who lies gains little: the gateway's own
//! requests count besides, and the rest is a small part of a score.

use std::time::Duration;

use tokio::time::Instant;

/// What is announced of a busy offer, in percent: more than half of its places are taken.
pub(super) const BUSY: u8 = 75;

/// The averages of taken places at which it becomes busy, and at which it is no more.
const BECOMES: f64 = 0.6;
const CEASES: f64 = 0.3;

/// The time over which is averaged.
const OVER: Duration = Duration::from_secs(60);

/// The least time between two changes: a provider announces every 4 to 5 minutes.
const LEAST_GAP: Duration = Duration::from_secs(300);

/// What an offer says.
#[derive(Debug, Default)]
pub(super) struct LoadSign {
    average: f64,
    seen_at: Option<Instant>,
    busy: bool,
    changed_at: Option<Instant>,
}

impl LoadSign {
    /// Takes a look at the share of places that are taken. What is to be said, in percent.
    pub(super) fn see(&mut self, taken: f64, now: Instant) -> Option<u8> {
        let passed = self.seen_at.map_or(Duration::ZERO, |before| {
            now.saturating_duration_since(before)
        });
        self.seen_at = Some(now);
        let weight = 1.0 - (-passed.as_secs_f64() / OVER.as_secs_f64()).exp();
        self.average += (taken.clamp(0.0, 1.0) - self.average) * weight;
        let other = match self.busy {
            false => self.average > BECOMES,
            true => self.average < CEASES,
        };
        let may = self
            .changed_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LEAST_GAP);
        if other && may {
            self.busy = !self.busy;
            self.changed_at = Some(now);
        }
        self.busy.then_some(BUSY)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is said after so many seconds of each load.
    fn said(loads: &[(f64, u32)]) -> Option<u8> {
        let (mut sign, mut now) = (LoadSign::default(), Instant::now());
        let mut last = None;
        for (taken, seconds) in loads {
            for _ in 0..*seconds {
                now += SECOND;
                last = sign.see(*taken, now);
            }
        }
        last
    }

    #[test]
    fn a_minute_of_work_is_told_and_a_burst_is_not() {
        assert_eq!(said(&[(0.0, 100)]), None);
        assert_eq!(said(&[(1.0, 20)]), None, "a burst");
        assert_eq!(said(&[(0.5, 1000)]), None, "half is free");
        assert_eq!(said(&[(1.0, 90)]), Some(BUSY));
        assert_eq!(said(&[(1.0, 90), (0.0, 200)]), Some(BUSY), "so soon");
        assert_eq!(said(&[(1.0, 90), (0.0, 301)]), None);
        assert_eq!(said(&[(1.0, 90), (0.45, 2000)]), Some(BUSY), "it stays");
    }

    proptest! {
        #[test]
        fn it_changes_no_more_often_than_offers_are_announced(loads in prop::collection::vec((0.0..1.0_f64, 1..400_u64), 0..200)) {
            let (mut sign, mut now) = (LoadSign::default(), Instant::now());
            let (mut last, mut changes) = (None, Vec::new());
            for (taken, seconds) in loads {
                now += Duration::from_secs(seconds);
                let said = sign.see(taken, now);
                if said != last {
                    changes.push(now);
                    last = said;
                }
            }
            for pair in changes.windows(2) {
                prop_assert!(pair[1] - pair[0] >= LEAST_GAP);
            }
        }
    }
}

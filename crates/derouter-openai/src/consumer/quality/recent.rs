//! The latest times to the first token of a provider, for percentiles: an average tells nothing of its slow
//! ones.

use std::time::Duration;

/// Times that are kept.
const KEPT: usize = 32;

/// Fewer say nothing of a percentile.
const LEAST: usize = 8;

/// The latest times, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    times: [u32; KEPT],
    /// How many were added, of which the last [`KEPT`] are there.
    added: usize,
}

impl Recent {
    pub(super) fn add(&mut self, time: Duration) {
        let place = self.added % KEPT;
        if let Some(slot) = self.times.get_mut(place) {
            *slot = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        }
        // Stays in the range that is taken modulo the size.
        self.added = match self.added >= 2 * KEPT - 1 {
            true => KEPT,
            false => self.added + 1,
        };
    }

    /// The time that so many percent of them were not over; `None` with too few.
    pub(super) fn percentile(&self, percent: f64) -> Option<Duration> {
        let many = self.added.min(KEPT);
        if many < LEAST {
            return None;
        }
        let mut times = self.times;
        let times = times.get_mut(..many)?;
        times.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 32"
        )]
        let rank = (percent.clamp(0.0, 100.0) / 100.0 * many as f64).ceil() as usize;
        let time = times.get(rank.clamp(1, many) - 1)?;
        Some(Duration::from_millis(u64::from(*time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Recent {
        let mut recent = Recent::default();
        for time in times {
            recent.add(Duration::from_millis(time));
        }
        recent
    }

    #[test]
    fn a_percentile_is_of_the_latest_times() {
        let millis = |recent: Recent, percent| recent.percentile(percent).map(|it| it.as_millis());
        assert_eq!(millis(of(1..8), 95.0), None, "too few");
        assert_eq!(millis(of(1..=20), 95.0), Some(19));
        assert_eq!(millis(of(1..=20), 50.0), Some(10));
        assert_eq!(millis(of(1..=20), 99.9), Some(20));
        for many in 32..200 {
            let latest = of(1..=many);
            assert_eq!(millis(latest, 100.0), Some(u128::from(many)));
            assert_eq!(millis(latest, 0.0), Some(u128::from(many) - 31));
        }
    }
}

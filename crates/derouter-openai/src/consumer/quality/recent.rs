//! The latest times to the first token of a provider, and its latest speeds, for percentiles: an average tells
//! nothing of its slow ones.

use std::time::Duration;

/// Values that are kept.
const KEPT: usize = 32;

/// Fewer say nothing of a percentile.
const LEAST: usize = 8;

/// The latest values, in thousandths: milliseconds, or of a token a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    values: [u32; KEPT],
    /// How many were added, of which the last [`KEPT`] are there.
    added: usize,
}

/// The middle and the worse end of what was seen lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// Half of the values are no larger.
    pub(crate) p50: f64,
    /// Nine of ten are no larger.
    pub(crate) p90: f64,
    /// How many values these are, at most 32.
    pub(crate) samples: usize,
}

impl Recent {
    /// Adds a time.
    pub(super) fn add(&mut self, time: Duration) {
        self.add_thousandths(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    }

    /// Adds a number of something a second.
    pub(super) fn add_rate(&mut self, rate: f64) {
        let thousandths = (rate * 1000.0).clamp(0.0, f64::from(u32::MAX));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped; no number becomes 0"
        )]
        self.add_thousandths(thousandths as u32);
    }

    fn add_thousandths(&mut self, value: u32) {
        let place = self.added % KEPT;
        if let Some(slot) = self.values.get_mut(place) {
            *slot = value;
        }
        // Stays in the range that is taken modulo the size.
        self.added = match self.added >= 2 * KEPT - 1 {
            true => KEPT,
            false => self.added + 1,
        };
    }

    /// The time that so many percent of them were not over; `None` with too few.
    pub(super) fn percentile(&self, percent: f64) -> Option<Duration> {
        if self.samples() < LEAST {
            return None;
        }
        let millis = self.rank(percent)?;
        Some(Duration::from_millis(u64::from(millis)))
    }

    /// For whoever looks, in seconds, or in tokens a second; `None` when nothing was seen.
    pub(super) fn spread(&self) -> Option<Spread> {
        let of = |percent| Some(f64::from(self.rank(percent)?) / 1000.0);
        Some(Spread {
            p50: of(50.0)?,
            p90: of(90.0)?,
            samples: self.samples(),
        })
    }

    /// The values that are kept, oldest first.
    pub(super) fn latest(&self) -> Vec<u32> {
        let samples = self.samples();
        let first = self.added.saturating_sub(samples);
        let places = (first..self.added).map(|place| place % KEPT);
        places
            .filter_map(|place| self.values.get(place).copied())
            .collect()
    }

    /// Those with these values.
    pub(super) fn of(values: &[u32]) -> Self {
        let mut recent = Self::default();
        values
            .iter()
            .for_each(|value| recent.add_thousandths(*value));
        recent
    }

    fn samples(&self) -> usize {
        self.added.min(KEPT)
    }

    fn rank(&self, percent: f64) -> Option<u32> {
        let many = self.samples();
        let mut values = self.values;
        let values = values.get_mut(..many).filter(|values| !values.is_empty())?;
        values.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 32"
        )]
        let rank = (percent.clamp(0.0, 100.0) / 100.0 * many as f64).ceil() as usize;
        values.get(rank.clamp(1, many) - 1).copied()
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
            let again = Recent::of(&latest.latest());
            assert_eq!(again.latest(), latest.latest());
            assert_eq!(again.latest().last().copied().map(u64::from), Some(many));
        }
    }

    #[test]
    fn whoever_looks_sees_the_middle_and_the_worse_end() {
        assert_eq!(Recent::default().spread(), None);
        let spread = of([500]).spread().unwrap();
        assert_eq!((spread.p50, spread.p90, spread.samples), (0.5, 0.5, 1));
        let mut speeds = Recent::default();
        for speed in 1..=10 {
            speeds.add_rate(f64::from(speed));
        }
        speeds.add_rate(f64::NAN);
        let spread = speeds.spread().unwrap();
        assert_eq!((spread.p50, spread.p90, spread.samples), (5.0, 9.0, 11));
    }
}

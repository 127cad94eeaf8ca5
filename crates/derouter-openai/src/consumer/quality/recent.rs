//! The latest few values of something, for its median and its slow end.

/// Values that are kept of one thing: enough for a ninth decile, few enough to be kept for each
/// provider and model (256 bytes for both).
const KEPT: usize = 32;

/// The latest values, oldest overwritten first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    values: [f32; KEPT],
    len: usize,
    next: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            values: [0.0; KEPT],
            len: 0,
            next: 0,
        }
    }
}

/// The middle and the worse end of what was seen lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the values are no larger.
    pub p50: f64,
    /// Nine of ten are no larger.
    pub p90: f64,
    /// How many values these are, at most 32.
    pub samples: usize,
}

impl Recent {
    pub(super) fn add(&mut self, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        let value = value as f32;
        if let Some(place) = self.values.get_mut(self.next) {
            *place = value;
        }
        self.next = (self.next + 1) % KEPT;
        self.len = (self.len + 1).min(KEPT);
    }

    /// `None` when nothing was seen.
    pub(super) fn spread(&self) -> Option<Spread> {
        let mut sorted: Vec<f32> = self.values.iter().take(self.len).copied().collect();
        sorted.sort_by(f32::total_cmp);
        Some(Spread {
            p50: rank(&sorted, 50)?,
            p90: rank(&sorted, 90)?,
            samples: self.len,
        })
    }
}

/// The value at a percentile, by the nearest rank.
fn rank(sorted: &[f32], percent: usize) -> Option<f64> {
    let place = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
    sorted.get(place).map(|value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_values_alone_count_and_nonsense_does_not() {
        let mut recent = Recent::default();
        assert_eq!(recent.spread(), None);
        recent.add(f64::NAN);
        recent.add(-1.0);
        assert_eq!(recent.spread(), None);
        recent.add(2.0);
        let spread = recent.spread().unwrap();
        assert_eq!((spread.p50, spread.p90, spread.samples), (2.0, 2.0, 1));
        for value in 1..=100_u8 {
            recent.add(value.into());
        }
        // 69 to 100.
        let spread = recent.spread().unwrap();
        assert_eq!((spread.p50, spread.p90, spread.samples), (84.0, 97.0, KEPT));
    }
}

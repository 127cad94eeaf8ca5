//! Whether something grows: the slope of a line through samples, tested against zero. Pure.

/// How many blocks samples are averaged to: neighbours are alike, and alike samples counted one by one
/// would make any drift look certain.
const BLOCKS: usize = 12;

/// The one-sided 99 % point of Student's t for ten degrees of freedom, which twelve blocks leave.
const T_99: f64 = 2.764;

/// A line through samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The mean of the samples.
    pub mean: f64,
    /// Growth in a unit of time.
    pub slope: f64,
    /// Half of the width of its interval: it is within `slope` minus and plus this, each with 99 %.
    pub margin: f64,
}

impl Slope {
    /// Whether growth of more than `tolerated` in a unit of time is certain to 99 %.
    pub fn grows(&self, tolerated: f64) -> bool {
        self.slope - self.margin > tolerated
    }
}

/// The line through samples of (time, value) in the order of time; `None` with less than two for each
/// block.
pub fn slope(samples: &[(f64, f64)]) -> Option<Slope> {
    let each = samples.len() / BLOCKS;
    if each < 2 {
        return None;
    }
    // The oldest are left out where they do not fill a block.
    let blocks = samples.rchunks_exact(each).take(BLOCKS);
    let points: Vec<(f64, f64)> = blocks.map(center).collect();
    let count = points.len() as f64;
    let (middle, mean) = center(&points);
    let spread: f64 = points.iter().map(|(x, _)| (x - middle).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - middle) * (y - mean)).sum();
    let slope = common / spread;
    let rest = |(x, y): &(f64, f64)| (y - mean - slope * (x - middle)).powi(2);
    let rest: f64 = points.iter().map(rest).sum();
    let error = (rest / (count - 2.0) / spread).sqrt();
    Some(Slope {
        mean,
        slope,
        margin: T_99 * error,
    })
}

fn center(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    let sum = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (sum.0 / count, sum.1 / count)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn samples(slope: f64, seed: u64) -> Vec<(f64, f64)> {
        let mut random = StdRng::seed_from_u64(seed);
        let sample = |time: u32| {
            let noise = random.random::<f64>() - 0.5;
            (f64::from(time), 100.0 + slope * f64::from(time) + noise)
        };
        (0..240).map(sample).collect()
    }

    #[test]
    fn a_line_through_noise_has_its_slope_and_is_told_from_none() {
        let line = slope(&samples(0.01, 1)).unwrap();
        assert!((line.slope - 0.01).abs() < 0.002, "{line:?}");
        assert!(line.grows(0.0));
        assert!(!line.grows(0.02), "{line:?}");
    }

    #[test]
    fn noise_alone_rarely_grows() {
        let grown = (0..1000).filter(|seed| slope(&samples(0.0, *seed)).unwrap().grows(0.0));
        let grown = grown.count();
        assert!(grown < 30, "{grown} of 1000, and one in a hundred is right");
    }

    #[test]
    fn what_shrinks_or_stands_still_does_not_grow() {
        assert!(!slope(&samples(-0.01, 3)).unwrap().grows(0.0));
        let still: Vec<_> = (0..100).map(|time| (f64::from(time), 5.0)).collect();
        let still = slope(&still).unwrap();
        assert!(!still.grows(0.0) && still.mean == 5.0, "{still:?}");
        assert_eq!(slope(&[(0.0, 1.0); 23]), None);
    }
}

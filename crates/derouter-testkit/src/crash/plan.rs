//! What a run does to its nodes. All of it follows from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::points::{self, START, STORE, Side};

/// Runs in a cycle that end a node at no named point, but at a random time.
const AT_RANDOM: usize = 9;

/// The longest that a node is left alone when it is to end at a random time: jobs of the workload take
/// up to a second.
const LATEST: Duration = Duration::from_millis(2500);

/// How a node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// At a named point, which it passed so often before.
    Point {
        /// The point.
        name: &'static str,
        /// How often it is passed.
        passed: u32,
    },
    /// Killed at a random time, and then at a named point of its next start.
    Start(&'static str),
    /// Killed so long after the first jobs began.
    AtRandom(Duration),
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From which everything follows.
    pub seed: u64,
    /// The node that ends.
    pub side: Side,
    /// How it ends.
    pub how: How,
    /// How long after its return it is killed once more.
    pub again: Option<Duration>,
    /// Whether the other node is killed too, at the same time.
    pub both: bool,
}

fn up_to(random: &mut StdRng, longest: Duration) -> Duration {
    longest.mul_f64(random.random::<f64>())
}

impl Plan {
    /// How many seeds in a row name every point once.
    pub fn cycle() -> u64 {
        let slots = points::all().len() + AT_RANDOM;
        u64::try_from(slots).unwrap_or(u64::MAX)
    }

    /// The plan of a seed. Seeds in a row take points of all kinds in turn.
    pub fn of(seed: u64) -> Self {
        // A stride without a common divisor with the cycle: it visits every slot, and jumps about.
        const STRIDE: u64 = 17;
        let slot = (seed % Self::cycle()).wrapping_mul(STRIDE) % Self::cycle();
        let mut random = StdRng::seed_from_u64(seed);
        let point = usize::try_from(slot).ok();
        let point = point.and_then(|slot| points::all().get(slot).copied());
        let (side, how) = match point {
            Some((side, name)) if START.contains(&name) => (side, How::Start(name)),
            Some((side, name)) => {
                // A start writes a little, and each job some ten times.
                let most = match name {
                    "store::sync" => 30,
                    name if STORE.contains(&name) => 60,
                    _ => 3,
                };
                let passed = random.random_range(0..most);
                (side, How::Point { name, passed })
            }
            None => {
                let side = Side::BOTH[usize::from(random.random::<bool>())];
                (side, How::AtRandom(up_to(&mut random, LATEST)))
            }
        };
        let again = random.random_bool(0.25);
        let again = again.then(|| up_to(&mut random, LATEST / 2));
        let both = point.is_none() && random.random_bool(0.3);
        Self {
            seed,
            side,
            how,
            again,
            both,
        }
    }

    /// The setting of the points for the first start of its node.
    pub fn setting(&self) -> String {
        match &self.how {
            How::Point { name, passed: 0 } => format!("{name}=return(crash)"),
            How::Point { name, passed } => format!("{name}={passed}*off->return(crash)"),
            How::Start(_) | How::AtRandom(_) => String::new(),
        }
    }

    /// In a few words.
    pub fn title(&self) -> String {
        let who = match self.both {
            true => "both nodes",
            false => self.side.name(),
        };
        let how = match &self.how {
            How::Point { name, passed } => format!("{name} +{passed}"),
            How::Start(name) => (*name).to_owned(),
            How::AtRandom(after) => format!("after {} ms", after.as_millis()),
        };
        let again = match self.again {
            Some(after) => format!(", again {} ms later", after.as_millis()),
            None => String::new(),
        };
        format!("{who}: {how}{again}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_cycle_of_seeds_names_every_point_once() {
        let mut named = HashSet::new();
        let mut at_random = 0;
        for seed in 1000..1000 + Plan::cycle() {
            let plan = Plan::of(seed);
            match plan.how {
                How::Point { name, .. } | How::Start(name) => {
                    assert!(named.insert((plan.side, name)), "{name} twice");
                }
                How::AtRandom(_) => at_random += 1,
            }
        }
        assert_eq!(named, points::all().into_iter().collect());
        assert_eq!(at_random, AT_RANDOM);
    }

    #[test]
    fn a_seed_is_one_plan() {
        for seed in 0..200 {
            assert_eq!(Plan::of(seed), Plan::of(seed));
        }
        assert_ne!(Plan::of(1), Plan::of(2));
    }
}

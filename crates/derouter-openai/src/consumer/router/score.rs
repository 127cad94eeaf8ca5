//! How good an offer is for a request. Each part compares it with the best of those that fit, on a
//! scale of ratios: 0 for the best, 0.69 for twice the price or half the speed. Floats are for the
//! order only; whether a price is allowed is decided on whole wei.

use derouter_sdk::Wei;

use super::{Candidate, Path};
use crate::consumer::quality::Estimate;

/// What is assumed when nobody of those that fit was measured.
const USUAL_FIRST_TOKEN: f64 = 1.0;
const USUAL_SPEED: f64 = 30.0;

/// Answers that the average of the others counts for in an offer's own estimate.
const GIVEN_WEIGHT: f64 = 1.0;

/// Bounds of what is believed of a measurement.
const FIRST_TOKEN_SECONDS: (f64, f64) = (0.01, 600.0);
const TOKENS_A_SECOND: (f64, f64) = (0.1, 10_000.0);

/// Time that nobody notices: added before first tokens are compared.
const UNNOTICED_SECONDS: f64 = 0.1;

/// From here on a part grows slowly (about 20 times the price), so that nothing makes up for
/// everything else: an offer for nothing is no reason to wait for ever.
const STEEP_UP_TO: f64 = 3.0;

/// Answers at once of a provider that does not say how many it gives.
const USUAL_CONCURRENCY: u32 = 8;

/// The lowest success rate that is believed; nobody is ever without hope.
const LEAST_SUCCESS: f64 = 0.01;

/// How much each part counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// What this request will cost.
    pub price: f64,
    /// Time to the first token.
    pub latency: f64,
    /// Tokens a second.
    pub throughput: f64,
    /// Share of good answers.
    pub success: f64,
    /// Share of the time on the market.
    pub uptime: f64,
    /// How much of its places the provider has taken.
    pub load: f64,
    /// Whether a relay is between.
    pub path: f64,
}

impl Default for Weights {
    /// Twice the price is worth four times the speed, or 1.4 times as many good answers.
    fn default() -> Self {
        Self {
            price: 1.0,
            latency: 0.25,
            throughput: 0.25,
            success: 2.0,
            uptime: 0.5,
            load: 0.25,
            path: 0.1,
        }
    }
}

impl Weights {
    /// The largest weight.
    pub const MOST: f64 = 100.0;

    /// The names of all weights, as configuration and requests have them.
    pub const NAMES: [&str; 7] = [
        "price",
        "latency",
        "throughput",
        "success",
        "uptime",
        "load",
        "path",
    ];

    /// A weight by its name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "price" => &mut self.price,
            "latency" => &mut self.latency,
            "throughput" => &mut self.throughput,
            "success" => &mut self.success,
            "uptime" => &mut self.uptime,
            "load" => &mut self.load,
            "path" => &mut self.path,
            _ => return None,
        })
    }

    /// The same with some of them replaced.
    #[must_use]
    pub fn with(mut self, others: &[(&str, f64)]) -> Self {
        for (name, weight) in others {
            if let Some(own) = self.get_mut(name) {
                *own = *weight;
            }
        }
        self
    }
}

/// How offers are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// How much each part counts.
    pub weights: Weights,
    /// Offers whose score is over the best by no more than this share the requests.
    pub near: f64,
    /// The share of requests with which offers that nobody knows are tried.
    pub explore: f64,
}

impl Default for Tuning {
    /// Offers within 10 % take turns, and one request in 20 goes to a newcomer, if there is one.
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            near: 0.1,
            explore: 0.05,
        }
    }
}

/// What a score consists of: 0 is best.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Dearer than the cheapest.
    pub price: f64,
    /// Slower to begin than the quickest.
    pub latency: f64,
    /// Slower than the fastest.
    pub throughput: f64,
    /// Failures.
    pub success: f64,
    /// Absences.
    pub uptime: f64,
    /// Places that are taken.
    pub load: f64,
    /// A relay between.
    pub path: f64,
}

impl Parts {
    /// The sum. Terms that a weight of 0 leaves out are left out.
    pub fn weighted(&self, weights: &Weights) -> f64 {
        self.named(weights)
            .iter()
            .map(|(_, part)| part)
            .filter(|part| part.is_finite())
            .sum()
    }

    /// Each part with its weight applied.
    pub fn named(&self, weights: &Weights) -> [(&'static str, f64); 7] {
        [
            ("price", self.price * weights.price),
            ("latency", self.latency * weights.latency),
            ("throughput", self.throughput * weights.throughput),
            ("success", self.success * weights.success),
            ("uptime", self.uptime * weights.uptime),
            ("load", self.load * weights.load),
            ("path", self.path * weights.path),
        ]
    }
}

/// What all offers that fit have in common: what each is compared with.
#[derive(Debug)]
pub(super) struct Field {
    cheapest: f64,
    usual_first_token: f64,
    usual_speed: f64,
    quickest: f64,
    fastest: f64,
}

impl Field {
    pub(super) fn of<'a>(
        candidates: impl Iterator<Item = &'a Candidate> + Clone,
        costs: &[Wei],
    ) -> Self {
        let cheapest = costs.iter().min().map_or(0.0, |cost| cost.approximately());
        let firsts = candidates.clone().filter_map(|it| it.quality.first_token);
        let speeds = candidates.clone().filter_map(|it| it.quality.speed);
        let mut field = Self {
            cheapest,
            usual_first_token: median(firsts.map(|it| it.value)).unwrap_or(USUAL_FIRST_TOKEN),
            usual_speed: median(speeds.map(|it| it.value)).unwrap_or(USUAL_SPEED),
            quickest: FIRST_TOKEN_SECONDS.1,
            fastest: TOKENS_A_SECOND.0,
        };
        for candidate in candidates {
            field.quickest = field.quickest.min(field.first_token(candidate));
            field.fastest = field.fastest.max(field.speed(candidate));
        }
        field
    }

    fn first_token(&self, candidate: &Candidate) -> f64 {
        let measured = candidate.quality.first_token;
        blend(measured, self.usual_first_token, FIRST_TOKEN_SECONDS)
    }

    fn speed(&self, candidate: &Candidate) -> f64 {
        blend(candidate.quality.speed, self.usual_speed, TOKENS_A_SECOND)
    }

    pub(super) fn parts(&self, candidate: &Candidate, cost: Wei) -> Parts {
        let quality = &candidate.quality;
        let first_token = self.first_token(candidate) + UNNOTICED_SECONDS;
        Parts {
            // One wei more on both sides, so that nothing is divided by nothing.
            price: ratio(cost.approximately() + 1.0, self.cheapest + 1.0),
            latency: ratio(first_token, self.quickest + UNNOTICED_SECONDS),
            throughput: ratio(self.fastest, self.speed(candidate)),
            success: rarity(quality.success),
            uptime: rarity(quality.uptime),
            load: crowding(load(candidate)),
            path: match candidate.path {
                Path::Own | Path::Direct => 0.0,
                Path::Unknown => 0.5,
                Path::Relayed | Path::Barred => 1.0,
            },
        }
    }
}

/// The share of its places that a provider has taken, by what runs with it from here and what it
/// says itself; over 1 when more runs than it takes.
pub(super) fn load(candidate: &Candidate) -> f64 {
    let places = candidate.terms.max_concurrency.unwrap_or(USUAL_CONCURRENCY);
    let from_here = f64::from(candidate.quality.in_flight) / f64::from(places.max(1));
    let told = f64::from(candidate.terms.load.unwrap_or(0).min(100)) / 100.0;
    from_here.max(told).min(2.0)
}

/// How much a load is felt: little up to the half, as queues are, then more and more.
fn crowding(load: f64) -> f64 {
    let waiting = load.min(1.0) / (1.1 - load.min(1.0));
    waiting + (load - 1.0).max(0.0) * 10.0
}

/// How rare something good is: 0 when it always is, 0.69 for every other time.
fn rarity(share: f64) -> f64 {
    let share = if share.is_finite() { share } else { 1.0 };
    -share.clamp(LEAST_SUCCESS, 1.0).ln()
}

/// How much more one is than the other, as a logarithm that bends where it would get too large.
fn ratio(more: f64, less: f64) -> f64 {
    let logarithm = (more / less).ln().max(0.0);
    if logarithm <= STEEP_UP_TO {
        return logarithm;
    }
    STEEP_UP_TO + (logarithm - STEEP_UP_TO).ln_1p()
}

/// What was measured, mixed with what is usual for as long as little was measured.
fn blend(measured: Option<Estimate>, usual: f64, (least, most): (f64, f64)) -> f64 {
    let usual = usual.clamp(least, most);
    let Some(Estimate { value, weight }) = measured else {
        return usual;
    };
    if !(value.is_finite() && weight.is_finite() && weight > 0.0) {
        return usual;
    }
    let value = value.clamp(least, most);
    let sum = weight * value.ln() + GIVEN_WEIGHT * usual.ln();
    (sum / (weight + GIVEN_WEIGHT)).exp().clamp(least, most)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_bends_where_it_gets_large() {
        assert_eq!(ratio(1.0, 1.0), 0.0);
        assert!((ratio(2.0, 1.0) - 2.0_f64.ln()).abs() < 1e-12);
        assert!(ratio(1e18, 1.0) < 7.0 && ratio(1e18, 1.0) > ratio(1e17, 1.0));
        assert!(ratio(Wei::MAX.approximately() + 1.0, 1.0).is_finite());
    }

    #[test]
    fn a_full_provider_is_felt() {
        assert!(crowding(0.5) < 1.0 && crowding(1.0) > 5.0);
        assert!(crowding(1.5) > crowding(1.0));
    }

    #[test]
    fn little_that_was_measured_counts_little() {
        let estimate = |weight| {
            Some(Estimate {
                value: 100.0,
                weight,
            })
        };
        let bounds = (1.0, 1000.0);
        assert_eq!(blend(None, 10.0, bounds), 10.0);
        let (once, often) = (
            blend(estimate(0.5), 10.0, bounds),
            blend(estimate(10.0), 10.0, bounds),
        );
        assert!(once < 25.0 && often > 75.0, "{once} {often}");
    }

    #[test]
    fn every_weight_has_a_name() {
        for name in Weights::NAMES {
            let weights = Weights::default().with(&[(name, 7.0)]);
            let parts = Parts {
                price: 1.0,
                latency: 1.0,
                throughput: 1.0,
                success: 1.0,
                uptime: 1.0,
                load: 1.0,
                path: 1.0,
            };
            let of_name = parts
                .named(&weights)
                .into_iter()
                .find(|(own, _)| *own == name);
            assert_eq!(of_name, Some((name, 7.0)));
        }
    }
}

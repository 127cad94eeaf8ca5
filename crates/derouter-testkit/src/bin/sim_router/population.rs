//! Synthetic markets.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::market::{Provider, Request, spread};

/// A kind of market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Population {
    Mixed,
    Traps,
    Load,
    Newcomers,
    Change,
    Flaky,
}

impl Population {
    pub(crate) const ALL: [Self; 6] = [
        Self::Mixed,
        Self::Traps,
        Self::Load,
        Self::Newcomers,
        Self::Change,
        Self::Flaky,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Traps => "traps",
            Self::Load => "load",
            Self::Newcomers => "newcomers",
            Self::Change => "change",
            Self::Flaky => "flaky",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Mixed => "20 honest ones, cheap slow to dear fast, and 3 dead ones",
            Self::Traps => {
                "8 honest ones; the cheapest 8 are dead, stall, fail, or lie about their places"
            }
            Self::Load => {
                "12 alike with 3 places each, which get slow when they are full; many requests"
            }
            Self::Newcomers => {
                "6 honest ones; after half of the time 2 come that are twice as fast for less"
            }
            Self::Change => {
                "11 honest ones; after half of the time the best 3 are ten times slower"
            }
            Self::Flaky => "10 of which the cheap ones answer 30 to 90 % of requests",
        }
    }

    /// Seconds between two requests on average.
    fn pause(self) -> f64 {
        match self {
            Self::Load => 1.0,
            _ => 2.0,
        }
    }

    /// Requests of all sizes.
    pub(crate) fn requests(self, count: usize, seed: u64) -> Vec<Request> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(77));
        let mut at = 0.0;
        let mut request = || {
            at -= random.random_range(1e-9..1.0_f64).ln() * self.pause();
            // Long prompts with short answers, and the other way round.
            let long = random.random_bool(0.3);
            Request {
                at,
                input: random.random_range(if long { 4000..30_000 } else { 50..2000 }),
                output: random.random_range(if long { 50..500 } else { 100..1500 }),
            }
        };
        (0..count).map(|_| request()).collect()
    }

    /// The providers. `end` is when the last request comes.
    pub(crate) fn providers(self, end: f64, seed: u64) -> Vec<Provider> {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        match self {
            Self::Mixed => {
                let mut all: Vec<Provider> = (0..20).map(|_| honest(0.0..1.0, random)).collect();
                all.extend((0..3).map(|_| Provider {
                    dead: true,
                    ..honest(0.0..0.5, random)
                }));
                all
            }
            Self::Traps => traps(random),
            Self::Load => (0..12)
                .map(|_| Provider {
                    places: 3,
                    told_places: random.random_bool(0.5).then_some(3),
                    others: 0.0,
                    ..priced(1.0 + random.random_range(0.0..0.05))
                })
                .collect(),
            Self::Newcomers => {
                let mut all: Vec<Provider> = (0..6).map(|_| honest(0.3..0.6, random)).collect();
                all.extend((0..2).map(|_| Provider {
                    from: end / 2.0,
                    speed: 120.0,
                    first_token: 0.2,
                    ..priced(0.9)
                }));
                all
            }
            Self::Change => {
                let mut all: Vec<Provider> = (0..8).map(|_| honest(0.3..0.6, random)).collect();
                all.extend((0..3).map(|_| Provider {
                    slower: Some((end / 2.0, 10.0)),
                    speed: 90.0,
                    ..priced(0.8)
                }));
                all
            }
            Self::Flaky => {
                let flaky = |step: u32, random: &mut StdRng| Provider {
                    success: 0.3 + 0.15 * f64::from(step),
                    ..priced(0.6 + 0.08 * f64::from(step) + random.random_range(0.0..0.05))
                };
                let mut all: Vec<Provider> = (0..5).map(|step| flaky(step, random)).collect();
                all.extend((0..5).map(|_| honest(0.3..0.6, random)));
                all
            }
        }
    }
}

/// The cheapest are the worst.
fn traps(random: &mut StdRng) -> Vec<Provider> {
    let mut all: Vec<Provider> = (0..8).map(|_| honest(0.2..0.8, random)).collect();
    let cheap = |random: &mut StdRng| priced(random.random_range(0.2..0.4));
    all.extend((0..2).map(|_| Provider {
        dead: true,
        ..cheap(random)
    }));
    all.extend((0..2).map(|_| Provider {
        stalls: true,
        ..cheap(random)
    }));
    all.extend((0..2).map(|_| Provider {
        success: 0.2,
        ..cheap(random)
    }));
    all.extend((0..2).map(|_| Provider {
        places: 1,
        told_places: Some(64),
        speed: 15.0,
        others: 0.8,
        ..cheap(random)
    }));
    all
}

/// One at a price relative to the usual.
fn priced(times: f64) -> Provider {
    Provider {
        prices: (0.1 * times, 0.4 * times),
        ..Provider::default()
    }
}

/// One that is as fast as it is dear, more or less: of rank 0 for cheap and slow to 1.
fn honest(rank: std::ops::Range<f64>, random: &mut StdRng) -> Provider {
    let rank = random.random_range(rank);
    let times = 0.5 * 4.0_f64.powf(rank) * spread(0.15, random);
    let speed = 25.0 * 5.0_f64.powf(rank) * spread(0.25, random);
    let ratio = random.random_range(2.0..6.0);
    Provider {
        prices: (0.1 * times, 0.1 * ratio * times),
        first_token: 1.2 * 0.25_f64.powf(rank) * spread(0.3, random),
        speed,
        success: 1.0 - random.random_range(0.0..0.02),
        others: random.random_range(0.0..0.5),
        ..Provider::default()
    }
}

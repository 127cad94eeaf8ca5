//! A provider as it really is, and what asking it leads to.

use std::f64::consts::TAU;

use rand::Rng;
use rand::rngs::StdRng;

/// Seconds until an unreachable provider is given up.
const UNREACHABLE_SECONDS: f64 = 2.0;

/// Seconds until one that is full says so.
const BUSY_SECONDS: f64 = 0.15;

/// Seconds until a stalled answer is given up.
const STALL_SECONDS: f64 = 120.0;

/// How much more of its places others may take than usual, as the oracle reckons.
const MORE_OTHERS: f64 = 1.25;

/// A provider as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// POL for a million tokens of prompt and of answer.
    pub(crate) prices: (f64, f64),
    /// Seconds to the first token when it is idle.
    pub(crate) first_token: f64,
    /// Tokens a second when it is idle.
    pub(crate) speed: f64,
    /// The share of requests that it answers.
    pub(crate) success: f64,
    /// Requests at once.
    pub(crate) places: u32,
    /// What it says of that; `None`: nothing.
    pub(crate) told_places: Option<u32>,
    /// The share of its places that others take.
    pub(crate) others: f64,
    /// From when it is on the market, in seconds.
    pub(crate) from: f64,
    /// From when on it is so many times slower.
    pub(crate) slower: Option<(f64, f64)>,
    /// Nobody answers there.
    pub(crate) dead: bool,
    /// It takes the request and never answers.
    pub(crate) stalls: bool,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            prices: (0.1, 0.4),
            first_token: 0.5,
            speed: 50.0,
            success: 0.995,
            places: 8,
            told_places: None,
            others: 0.2,
            from: 0.0,
            slower: None,
            dead: false,
            stalls: false,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) at: f64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// What asking a provider led to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// An answer, with its first token and all of it after so many seconds.
    Answer { first_token: f64, whole: f64 },
    /// None, after so many seconds.
    Failed(f64),
    /// No room, after so many seconds.
    Busy(f64),
}

impl Provider {
    pub(crate) fn price(&self, request: &Request) -> f64 {
        let (input, output) = (tokens(request.input), tokens(request.output));
        (self.prices.0 * input + self.prices.1 * output) / 1e6
    }

    /// The share of its places that is taken.
    fn load(&self, in_flight: u32) -> f64 {
        f64::from(in_flight) / f64::from(self.places.max(1)) + self.others
    }

    fn slowness(&self, at: f64, in_flight: u32) -> f64 {
        let slower = self.slower.filter(|(from, _)| at >= *from);
        let load = self.load(in_flight).min(1.0);
        slower.map_or(1.0, |(_, times)| times) * (1.0 + load * load * 2.0)
    }

    /// Seconds that an answer takes on average.
    fn whole(&self, request: &Request, in_flight: u32) -> f64 {
        let idle = self.first_token + tokens(request.output) / self.speed;
        idle * self.slowness(request.at, in_flight)
    }

    /// How good it is for a request, if all of that is known: the lower the better.
    pub(crate) fn true_score(&self, request: &Request, in_flight: u32) -> f64 {
        // What others take varies: a little more than usual must fit, too.
        let own = f64::from(in_flight) / f64::from(self.places.max(1));
        if self.dead || self.stalls || own + self.others * MORE_OTHERS >= 1.0 {
            return f64::INFINITY;
        }
        let whole = self.whole(request, in_flight) / self.success.max(0.01);
        value(self.price(request), whole)
    }

    /// Asks it.
    pub(crate) fn ask(&self, request: &Request, in_flight: u32, random: &mut StdRng) -> Asked {
        if self.dead {
            return Asked::Failed(UNREACHABLE_SECONDS);
        }
        // Others come and go.
        let others = (self.others * random.random_range(0.5..1.5)).min(1.0);
        let own = f64::from(in_flight) / f64::from(self.places.max(1));
        if own + others >= 1.0 {
            return Asked::Busy(BUSY_SECONDS);
        }
        if self.stalls {
            return Asked::Failed(STALL_SECONDS);
        }
        let slowness = self.slowness(request.at, in_flight);
        let first_token = self.first_token * slowness * spread(0.3, random);
        if random.random_range(0.0..1.0) > self.success {
            return Asked::Failed(first_token);
        }
        let rest = tokens(request.output) / self.speed * slowness * spread(0.2, random);
        Asked::Answer {
            first_token,
            whole: first_token + rest,
        }
    }
}

/// What a price and a time are worth, the lower the better: a fourth of the price makes up for 16
/// times the time.
pub(crate) fn value(price: f64, seconds: f64) -> f64 {
    price.max(1e-9).ln() + 0.5 * seconds.max(1e-3).ln()
}

/// Token counts of a simulation are small.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn tokens(count: u64) -> f64 {
    count as f64
}

/// A factor around 1 whose logarithm is normal.
pub(crate) fn spread(deviation: f64, random: &mut StdRng) -> f64 {
    let (one, other): (f64, f64) = (
        random.random_range(1e-9..1.0),
        random.random_range(0.0..TAU),
    );
    ((-2.0 * one.ln()).sqrt() * other.cos() * deviation).exp()
}

//! One run: requests come, are sent on, fail, and are answered, in the order of time.

use std::collections::BTreeMap;
use std::time::Duration;

use derouter_openai::consumer::sim::{Blame, Quality, Sample};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::market::{Asked, Request, value};
use crate::policy::{MODEL, Offers, Policy};
use crate::population::Population;

/// Attempts for one request, as the gateway makes them.
const MAX_ATTEMPTS: usize = 6;

/// Seconds that a client waits for an answer to begin.
const MOST_SECONDS: f64 = 570.0;

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    prices: f64,
    values: f64,
    seconds: Vec<f64>,
    tries: usize,
    failed: usize,
}

/// What happens later.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A provider is asked for the request of a number, as its attempt of a number, at a time.
    Ask(usize, usize),
    FirstToken(usize, f64),
    /// It answered so many tokens, in so many seconds from the first.
    Answered(usize, u64, f64),
    Failed(usize),
    Busy(usize),
}

struct Run {
    start: Instant,
    quality: Quality,
    in_flight: Vec<u32>,
    /// By time in microseconds, then by number.
    events: BTreeMap<(u64, usize), Event>,
    numbers: usize,
}

impl Run {
    fn later(&mut self, at: f64, event: Event) {
        self.numbers += 1;
        self.events.insert((micros(at), self.numbers), event);
    }

    fn now(&self, micros: u64) -> Instant {
        self.start + Duration::from_micros(micros)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of a run"
)]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// Runs a policy.
pub(crate) fn run(population: Population, policy: Policy, count: usize, seed: u64) -> Outcome {
    let requests = population.requests(count, seed);
    let end = requests.last().map_or(0.0, |request| request.at);
    let providers = population.providers(end, seed);
    let offers = Offers::of(&providers);
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(1000));
    let mut run = Run {
        start: Instant::now(),
        quality: Quality::default(),
        in_flight: vec![0; providers.len()],
        events: BTreeMap::new(),
        numbers: 0,
    };
    for (index, request) in requests.iter().enumerate() {
        run.later(request.at, Event::Ask(index, 0));
    }
    let mut orders: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut outcome = Outcome::default();
    while let Some(((micros, _), event)) = run.events.pop_first() {
        let now = run.now(micros);
        match event {
            Event::Ask(index, attempt) => {
                let Some(request) = requests.get(index).copied() else {
                    continue;
                };
                #[expect(clippy::cast_precision_loss, reason = "times of a run")]
                let at = micros as f64 / 1e6;
                if attempt == 0 {
                    let state = (index, run.in_flight.as_slice(), &mut random);
                    let known = (&run.quality, now);
                    let order = offers.order(policy, &providers, &request, known, state);
                    orders.insert(index, order);
                }
                let late = at - request.at > MOST_SECONDS;
                let next = orders
                    .get(&index)
                    .and_then(|order| order.get(attempt).copied());
                let (Some(chosen), false) = (next, late || attempt >= MAX_ATTEMPTS) else {
                    orders.remove(&index);
                    outcome.failed += 1;
                    continue;
                };
                outcome.tries += 1;
                let Some(provider) = providers.get(chosen) else {
                    continue;
                };
                let in_flight = run.in_flight.get(chosen).copied().unwrap_or(0);
                begin(&mut run, &offers, chosen);
                let here = Request { at, ..request };
                match provider.ask(&here, in_flight, &mut random) {
                    Asked::Answer { first_token, whole } => {
                        orders.remove(&index);
                        run.later(at + first_token, Event::FirstToken(chosen, first_token));
                        let rest = whole - first_token;
                        run.later(at + whole, Event::Answered(chosen, request.output, rest));
                        let seconds = at + whole - request.at;
                        let price = provider.price(&request);
                        outcome.prices += price;
                        outcome.values += value(price, seconds);
                        outcome.seconds.push(seconds);
                    }
                    Asked::Failed(after) => {
                        run.later(at + after, Event::Failed(chosen));
                        run.later(at + after, Event::Ask(index, attempt + 1));
                    }
                    Asked::Busy(after) => {
                        run.later(at + after, Event::Busy(chosen));
                        run.later(at + after, Event::Ask(index, attempt + 1));
                    }
                }
            }
            Event::FirstToken(index, seconds) => {
                if let Some(peer) = offers.peers.get(index) {
                    let after = Duration::from_secs_f64(seconds);
                    run.quality.first_token(peer, MODEL, after, now);
                }
            }
            Event::Answered(index, tokens, seconds) => {
                finish(&mut run, &offers, index);
                if let Some(peer) = offers.peers.get(index) {
                    let waited = Duration::from_secs_f64(seconds);
                    let sample = Sample { tokens, waited };
                    run.quality.succeeded(peer, MODEL, sample, now);
                }
            }
            Event::Failed(index) => blame(&mut run, &offers, index, (Blame::Failed, now)),
            Event::Busy(index) => blame(&mut run, &offers, index, (Blame::Declined, now)),
        }
    }
    outcome
}

fn begin(run: &mut Run, offers: &Offers, index: usize) {
    if let (Some(count), Some(peer)) = (run.in_flight.get_mut(index), offers.peers.get(index)) {
        *count += 1;
        run.quality.began(peer, MODEL);
    }
}

fn finish(run: &mut Run, offers: &Offers, index: usize) {
    if let (Some(count), Some(peer)) = (run.in_flight.get_mut(index), offers.peers.get(index)) {
        *count = count.saturating_sub(1);
        run.quality.ended(peer, MODEL);
    }
}

fn blame(run: &mut Run, offers: &Offers, index: usize, (blame, now): (Blame, Instant)) {
    finish(run, offers, index);
    if let Some(peer) = offers.peers.get(index) {
        run.quality.blame(peer, MODEL, blame, now);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run")]
impl Outcome {
    pub(crate) fn merge(outcomes: impl Iterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for outcome in outcomes {
            all.prices += outcome.prices;
            all.values += outcome.values;
            all.seconds.extend(outcome.seconds);
            all.tries += outcome.tries;
            all.failed += outcome.failed;
        }
        all.seconds.sort_by(f64::total_cmp);
        all
    }

    fn answered(&self) -> f64 {
        self.seconds.len().max(1) as f64
    }

    fn all(&self) -> f64 {
        (self.seconds.len() + self.failed).max(1) as f64
    }

    /// POL of an answer.
    pub(crate) fn price(&self) -> f64 {
        self.prices / self.answered()
    }

    pub(crate) fn value(&self) -> f64 {
        self.values / self.answered()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.seconds.iter().sum::<f64>() / self.answered()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let place = (self.answered() * share) as usize;
        self.seconds.get(place).copied().unwrap_or(0.0)
    }

    /// Attempts of a request.
    pub(crate) fn tries(&self) -> f64 {
        self.tries as f64 / self.all()
    }

    /// The share of requests without an answer.
    pub(crate) fn failed(&self) -> f64 {
        self.failed as f64 / self.all()
    }
}

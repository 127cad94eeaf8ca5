//! Which offers can serve a request, best first, and why each is where it is or is not there. Pure:
//! what is known and what is wanted go in, an order comes out. docs/router.md explains it.

mod explain;
mod filter;
mod needs;
pub(crate) mod preferences;
#[cfg(test)]
mod properties;
mod score;

use std::collections::HashSet;
use std::sync::Arc;

use derouter_sdk::{OfferId, PeerId, Wei};
use rand::Rng;
use rand::seq::SliceRandom;

pub(crate) use explain::{explain, near_names};
pub use filter::{Exclusion, Rules};
pub use needs::Needs;
pub use preferences::{MaxPrice, Preferences, ProviderName, Sort};
use score::{Field, load};
pub use score::{Parts, Tuning, Weights};

use super::quality::Observed;
use crate::terms::{Endpoint, Metered, Terms};

/// What an offer has to be asked for so often before it is known.
const KNOWN_AFTER: f64 = 3.0;

/// How much dearer than the first choice a newcomer may be to be tried out.
const MOST_DEARER_TO_EXPLORE: f64 = 2.0;

/// An offer that might serve a request.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who offers it.
    pub provider: PeerId,
    /// Its name there.
    pub offer: OfferId,
    /// What it says.
    pub terms: Arc<Terms>,
    /// How well the provider served this model.
    pub quality: Observed,
    /// How the provider is reached.
    pub path: Path,
}

/// How a provider is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// It is this node.
    Own,
    /// Without a relay.
    Direct,
    /// Through a relay.
    Relayed,
    /// It is not connected, or the node does not tell.
    #[default]
    Unknown,
    /// This node keeps it out: no job reaches it.
    Barred,
}

impl Path {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Unknown => "unknown",
            Self::Barred => "barred",
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The model, by any of its names.
    pub model: String,
    /// What is asked.
    pub endpoint: Endpoint,
    /// What the model must be able to do and read.
    pub needs: Needs,
    /// The fewest tokens that the prompt can be.
    pub least_prompt_tokens: u64,
    /// What the request will probably use.
    pub typical: Metered,
    /// What the configuration says.
    pub rules: Arc<Rules>,
    /// What the request says.
    pub preferences: Preferences,
}

impl Wanted {
    /// What it will probably cost on an offer; the highest amount when it has no number.
    pub fn typical_cost(&self, terms: &Terms) -> Wei {
        terms.prices.cost(&self.typical).unwrap_or(Wei::MAX)
    }

    /// How offers are chosen for this request.
    pub fn tuning(&self) -> Tuning {
        let tuning = self.rules.tuning;
        Tuning {
            weights: tuning.weights.with(&self.preferences.weights),
            ..tuning
        }
    }

    fn sort(&self) -> Option<Sort> {
        self.preferences.sort.or(self.rules.sort)
    }
}

/// The outcome. Numbers are places in the list that was ranked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranked {
    /// Those that fit, best first.
    pub order: Vec<usize>,
    /// How each of `order` was scored, in the same order.
    pub why: Vec<Why>,
    /// Those that do not fit, each with the first rule that it breaks.
    pub excluded: Vec<(usize, Exclusion)>,
}

/// Why an offer is where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Why {
    /// What the request will probably cost.
    pub cost: Wei,
    /// What its score consists of.
    pub parts: Parts,
    /// The sum, weighted: the lowest goes first.
    pub score: f64,
    /// Its place in the request's own order, if it has one.
    pub ordered: Option<usize>,
    /// It failed just now, and so comes after those that did not.
    pub cooling: bool,
    /// It was put first to learn about it.
    pub explored: bool,
    /// It was put first because others nearly as good have more to do.
    pub balanced: bool,
}

/// Ranks offers for a request.
pub fn rank(candidates: &[Candidate], wanted: &Wanted, random: &mut impl Rng) -> Ranked {
    let mut ranked = Ranked::default();
    let mut fitting = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match filter::excludes(candidate, wanted) {
            Some(exclusion) => ranked.excluded.push((index, exclusion)),
            None => fitting.push((index, candidate)),
        }
    }
    let mut scored = scored(&fitting, wanted);
    // Offers that are alike in everything take turns by chance.
    scored.shuffle(random);
    scored.sort_by(|(_, _, a), (_, _, b)| compare(a, b, wanted.sort()));
    if wanted.sort().is_none() {
        balance(&mut scored, wanted, random);
        explore(&mut scored, wanted, random);
    }
    if !wanted.preferences.allow_fallbacks && wanted.preferences.order.is_empty() {
        let rest = scored.split_off(scored.len().min(1)).into_iter();
        ranked
            .excluded
            .extend(rest.map(|(index, ..)| (index, Exclusion::Fallback)));
    }
    for (index, _, why) in scored {
        ranked.order.push(index);
        ranked.why.push(why);
    }
    ranked
}

type Scored<'a> = (usize, &'a Candidate, Why);

fn scored<'a>(fitting: &[(usize, &'a Candidate)], wanted: &Wanted) -> Vec<Scored<'a>> {
    let tuning = wanted.tuning();
    let costs = fitting
        .iter()
        .map(|(_, candidate)| wanted.typical_cost(&candidate.terms));
    let costs: Vec<Wei> = costs.collect();
    let field = Field::of(fitting.iter().map(|(_, candidate)| *candidate), &costs);
    let entries = fitting.iter().zip(costs);
    let score = |((index, candidate), cost): (&(usize, &'a Candidate), Wei)| {
        let parts = field.parts(candidate, cost);
        let why = Why {
            cost,
            parts,
            score: parts.weighted(&tuning.weights),
            ordered: wanted.preferences.place(&candidate.provider),
            cooling: candidate.quality.cooling,
            explored: false,
            balanced: false,
        };
        (*index, *candidate, why)
    };
    entries.map(score).collect()
}

/// The request's own order first, then whoever did not fail just now, then the score.
fn compare(a: &Why, b: &Why, sort: Option<Sort>) -> std::cmp::Ordering {
    let place = |why: &Why| why.ordered.unwrap_or(usize::MAX);
    let tier = place(a).cmp(&place(b)).then(a.cooling.cmp(&b.cooling));
    let sorted = match sort {
        None => std::cmp::Ordering::Equal,
        Some(Sort::Price) => a.cost.cmp(&b.cost),
        Some(Sort::Latency) => a.parts.latency.total_cmp(&b.parts.latency),
        Some(Sort::Throughput) => a.parts.throughput.total_cmp(&b.parts.throughput),
    };
    tier.then(sorted)
        .then(a.score.total_cmp(&b.score))
        .then(a.cost.cmp(&b.cost))
}

/// Of two drawn from those that are nearly as good as the first, the one with less to do goes
/// first. Always taking the best would send every request of every gateway to one provider until
/// it is full.
fn balance(scored: &mut [Scored<'_>], wanted: &Wanted, random: &mut impl Rng) {
    let Some((_, _, first)) = scored.first() else {
        return;
    };
    let most = first.score + wanted.rules.tuning.near;
    let alike = |why: &Why| {
        why.ordered == first.ordered && why.cooling == first.cooling && why.score <= most
    };
    let alike = scored.iter().take_while(|(_, _, why)| alike(why));
    let places = one_of_each_provider(alike.map(|(_, candidate, _)| *candidate));
    if places.len() < 2 || first.ordered.is_some() {
        return;
    }
    let one = random.random_range(0..places.len());
    let other = (one + random.random_range(1..places.len())) % places.len();
    let place_of = |drawn: usize| places.get(drawn).copied().unwrap_or(0);
    let (one, other) = (place_of(one), place_of(other));
    let better = |a: &Scored<'_>, b: &Scored<'_>| {
        let by_load = load(a.1).total_cmp(&load(b.1));
        by_load.then(a.2.score.total_cmp(&b.2.score)).is_lt()
    };
    // Of two that are alike in that, too, the one that was drawn first.
    let chosen = match scored.get(one).zip(scored.get(other)) {
        Some((first, second)) if better(second, first) => other,
        _ => one,
    };
    move_first(scored, chosen, |why| why.balanced = true);
}

/// The places of the first offer of each provider: who lists many is drawn no more often.
fn one_of_each_provider<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Vec<usize> {
    let mut seen = HashSet::new();
    candidates
        .enumerate()
        .filter(|(_, candidate)| seen.insert(candidate.provider))
        .map(|(place, _)| place)
        .collect()
}

/// Now and then an offer that nobody has tried goes before one that is known, for else nobody
/// would ever learn that it is better.
fn explore(scored: &mut [Scored<'_>], wanted: &Wanted, random: &mut impl Rng) {
    let Some((_, known, first)) = scored.first() else {
        return;
    };
    if known.quality.tried < KNOWN_AFTER || first.ordered.is_some() {
        return;
    }
    if !random.random_bool(wanted.rules.tuning.explore.clamp(0.0, 1.0)) {
        return;
    }
    let most = first.cost.approximately() * MOST_DEARER_TO_EXPLORE;
    let unknown = |(_, candidate, why): &Scored<'_>| {
        candidate.quality.tried < KNOWN_AFTER && !why.cooling && why.cost.approximately() <= most
    };
    let mut places = one_of_each_provider(scored.iter().map(|(_, candidate, _)| *candidate));
    places.retain(|place| scored.get(*place).is_some_and(unknown));
    if places.is_empty() {
        return;
    }
    if let Some(place) = places.get(random.random_range(0..places.len())) {
        move_first(scored, *place, |why| why.explored = true);
    }
}

/// Moves one to the front; the others keep their order.
fn move_first(scored: &mut [Scored<'_>], place: usize, mark: impl FnOnce(&mut Why)) {
    if place == 0 {
        return;
    }
    let Some(front) = scored.get_mut(..=place) else {
        return;
    };
    front.rotate_right(1);
    if let Some((_, _, why)) = front.first_mut() {
        mark(why);
    }
}

//! Ways to choose.

use std::sync::Arc;

use derouter_openai::consumer::PriceCap;
use derouter_openai::consumer::sim::{
    Candidate, Needs, Path, Preferences, Quality, Rules, Sort, Tuning, Wanted, rank,
};
use derouter_openai::terms::{Endpoint, Metered, Prices, Rate, Terms};
use derouter_sdk::{OfferId, PeerId, Wei};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use crate::market::{Provider, Request};

/// The model of all offers.
pub(crate) const MODEL: &str = "m";

/// A way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Knows everything.
    Oracle,
    /// The gateway.
    Router,
    /// The gateway when a request sorts by price: cheapest first, those that failed just now last.
    RouterByPrice,
    /// The gateway when a request sorts by speed.
    RouterByThroughput,
    /// Cheapest first, whatever happens.
    Cheapest,
    Random,
    RoundRobin,
}

impl Policy {
    pub(crate) const ALL: [Self; 7] = [
        Self::Oracle,
        Self::Router,
        Self::RouterByPrice,
        Self::RouterByThroughput,
        Self::Cheapest,
        Self::Random,
        Self::RoundRobin,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Router => "router",
            Self::RouterByPrice => "router, sort price",
            Self::RouterByThroughput => "router, sort speed",
            Self::Cheapest => "cheapest-first",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// What offers of the simulation are known as.
pub(crate) struct Offers {
    pub(crate) peers: Vec<PeerId>,
    terms: Vec<Arc<Terms>>,
    name: Option<OfferId>,
}

impl Offers {
    pub(crate) fn of(providers: &[Provider]) -> Self {
        Self {
            peers: providers.iter().map(|_| PeerId::random()).collect(),
            terms: providers.iter().map(|it| Arc::new(terms(it))).collect(),
            name: OfferId::new("o").ok(),
        }
    }

    /// The providers to ask, best first, of those that are there.
    pub(crate) fn order(
        &self,
        policy: Policy,
        providers: &[Provider],
        request: &Request,
        quality: (&Quality, Instant),
        (turn, in_flight, random): (usize, &[u32], &mut StdRng),
    ) -> Vec<usize> {
        let there = |index: &usize| {
            providers
                .get(*index)
                .is_some_and(|it| it.from <= request.at)
        };
        let mut all: Vec<usize> = (0..providers.len()).filter(there).collect();
        let by = |all: &mut Vec<usize>, score: &dyn Fn(usize, &Provider) -> f64| {
            let score = |index: &usize| {
                let provider = providers.get(*index);
                provider.map_or(f64::INFINITY, |provider| score(*index, provider))
            };
            all.sort_by(|a, b| score(a).total_cmp(&score(b)));
        };
        match policy {
            Policy::Oracle => by(&mut all, &|index, provider| {
                provider.true_score(request, in_flight.get(index).copied().unwrap_or(0))
            }),
            Policy::Cheapest => by(&mut all, &|_, provider| provider.price(request)),
            Policy::Random => all.shuffle(random),
            Policy::RoundRobin => {
                let turn = turn.checked_rem(all.len()).unwrap_or(0);
                all.rotate_left(turn);
            }
            Policy::Router => return self.ranked(None, &all, request, quality, random),
            Policy::RouterByPrice => {
                return self.ranked(Some(Sort::Price), &all, request, quality, random);
            }
            Policy::RouterByThroughput => {
                return self.ranked(Some(Sort::Throughput), &all, request, quality, random);
            }
        }
        all
    }

    fn ranked(
        &self,
        sort: Option<Sort>,
        there: &[usize],
        request: &Request,
        (quality, now): (&Quality, Instant),
        random: &mut StdRng,
    ) -> Vec<usize> {
        let candidate = |index: &usize| {
            let provider = *self.peers.get(*index)?;
            Some(Candidate {
                provider,
                offer: self.name.clone()?,
                terms: Arc::clone(self.terms.get(*index)?),
                quality: quality.observed(&provider, MODEL, now),
                path: Path::Direct,
            })
        };
        let candidates: Vec<Candidate> = there.iter().filter_map(candidate).collect();
        let ranked = rank(&candidates, &wanted(request, sort), random);
        let order = ranked.order.iter();
        order
            .filter_map(|place| there.get(*place).copied())
            .collect()
    }
}

fn wanted(request: &Request, sort: Option<Sort>) -> Wanted {
    Wanted {
        model: MODEL.to_owned(),
        endpoint: Endpoint::Chat,
        needs: Needs::default(),
        least_prompt_tokens: 1,
        // The answer's length is not known before.
        typical: Metered {
            input: request.input,
            output: 512,
            ..Metered::default()
        },
        rules: Arc::new(Rules {
            cap: PriceCap {
                input: Wei::MAX,
                output: Wei::MAX,
            },
            most_for_one: Wei::MAX,
            min_context_size: None,
            allow_providers: Default::default(),
            deny_providers: Default::default(),
            sort,
            tuning: Tuning::default(),
        }),
        preferences: Preferences::default(),
    }
}

fn terms(provider: &Provider) -> Terms {
    let rate = |pol: f64| {
        let wei = Wei::from_pol_text(&format!("{pol:.12}"));
        Rate::PerMillion(wei.unwrap_or(Wei::MAX))
    };
    Terms {
        trial: None,
        models: vec![MODEL.to_owned()],
        endpoints: vec![Endpoint::Chat],
        context: 128_000,
        max_output: None,
        input_modalities: vec!["text".to_owned()],
        output_modalities: vec!["text".to_owned()],
        features: None,
        quantization: None,
        prices: Prices {
            input: rate(provider.prices.0),
            output: rate(provider.prices.1),
            ..Prices::default()
        },
        max_concurrency: provider.told_places,
        load: None,
        region: None,
        terms_url: None,
        description: None,
    }
}

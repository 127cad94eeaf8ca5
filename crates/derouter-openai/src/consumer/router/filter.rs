//! The rules that an offer must meet. They come before any score, and are exact.

use std::collections::BTreeSet;

use derouter_sdk::{PeerId, Wei};

use super::preferences::{Preferences, Sort, UNKNOWN_QUANTIZATION};
use super::score::Tuning;
use super::{Candidate, Path, Wanted};
use crate::consumer::config::PriceCap;
use crate::terms::{Prices, Rate, Terms};

/// What the configuration says about a model's offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The most for 1,000,000 tokens.
    pub cap: PriceCap,
    /// The most for a request itself, an image, or a second of sound.
    pub most_for_one: Wei,
    /// The smallest context window.
    pub min_context_size: Option<u64>,
    /// The only providers that are asked; empty: all.
    pub allow_providers: BTreeSet<PeerId>,
    /// Providers that are never asked.
    pub deny_providers: BTreeSet<PeerId>,
    /// How offers are sorted when the request does not say; `None`: by score.
    pub sort: Option<Sort>,
    /// How offers are chosen.
    pub tuning: Tuning,
}

/// The first rule that an offer breaks. They are tried in this order: one further down is of an
/// offer that is closer to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// It is another model.
    Model,
    /// It does not serve the endpoint.
    Endpoint,
    /// It can't read this kind of input.
    Modality(String),
    /// It can't do this.
    Feature(String),
    /// Its context window is smaller than the configuration wants.
    SmallContext,
    /// The configuration denies its provider.
    Denied,
    /// The configuration names others.
    NotAllowed,
    /// The request ignores its provider.
    Ignored,
    /// The request names others.
    NotOnly,
    /// The request names an order without it, and allows no others.
    NotInOrder,
    /// Its weights are stored in another way than the request wants.
    Quantization,
    /// It was measured to be slower than the request wants.
    Slow,
    /// It was measured to begin later than the request wants.
    Late,
    /// Its price of the prompt is over the configuration's.
    InputPrice,
    /// Its price of the answer is over the configuration's.
    OutputPrice,
    /// Its price of a request, image or second is over the configuration's.
    OtherPrice,
    /// A price of it, which is named, is over what the request allows.
    MaxPrice(&'static str),
    /// The prompt does not fit.
    LongPrompt,
    /// This node keeps its provider out.
    Unreachable,
    /// It is not the first choice, and the request allows no other.
    Fallback,
}

impl Exclusion {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Endpoint => "endpoint",
            Self::Modality(_) => "modality",
            Self::Feature(_) => "feature",
            Self::SmallContext => "min_context_size",
            Self::Denied => "deny_providers",
            Self::NotAllowed => "allow_providers",
            Self::Ignored => "ignore",
            Self::NotOnly => "only",
            Self::NotInOrder => "order",
            Self::Quantization => "quantizations",
            Self::Slow => "min_throughput",
            Self::Late => "max_latency",
            Self::InputPrice => "input_price",
            Self::OutputPrice => "output_price",
            Self::OtherPrice => "other_price",
            Self::MaxPrice(_) => "max_price",
            Self::LongPrompt => "context_length",
            Self::Unreachable => "unreachable",
            Self::Fallback => "allow_fallbacks",
        }
    }
}

impl Exclusion {
    /// What exactly, for rules with several kinds.
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::Modality(what) | Self::Feature(what) => Some(what),
            Self::MaxPrice(what) => Some(what),
            _ => None,
        }
    }
}

/// The dearest prompt token of an offer: a cached one may cost more than another.
pub(super) fn dearest_input(prices: &Prices) -> Wei {
    let cached = prices.cached_input.unwrap_or(prices.input).of_million();
    prices.input.of_million().max(cached)
}

impl Rules {
    /// The rule of the configuration that an offer breaks, whatever the request.
    pub(crate) fn excludes(&self, provider: &PeerId, terms: &Terms) -> Option<Exclusion> {
        if terms.context < self.min_context_size.unwrap_or(0) {
            return Some(Exclusion::SmallContext);
        }
        if self.deny_providers.contains(provider) {
            return Some(Exclusion::Denied);
        }
        if !self.allow_providers.is_empty() && !self.allow_providers.contains(provider) {
            return Some(Exclusion::NotAllowed);
        }
        self.excludes_price(&terms.prices)
    }

    fn excludes_price(&self, prices: &Prices) -> Option<Exclusion> {
        if dearest_input(prices) > self.cap.input {
            return Some(Exclusion::InputPrice);
        }
        if prices.output.of_million() > self.cap.output {
            return Some(Exclusion::OutputPrice);
        }
        let ones = [prices.request, prices.image, prices.second];
        let over = ones
            .into_iter()
            .any(|rate| over(rate, 1, self.most_for_one));
        over.then_some(Exclusion::OtherPrice)
    }
}

/// Whether units at a rate cost more than an amount, or more than there is.
fn over(rate: Rate, units: u64, most: Wei) -> bool {
    rate.cost(units).is_none_or(|cost| cost > most)
}

/// The first rule that an offer breaks.
pub(super) fn excludes(candidate: &Candidate, wanted: &Wanted) -> Option<Exclusion> {
    let terms = candidate.terms.as_ref();
    excludes_ability(terms, wanted)
        .or_else(|| excludes_provider(candidate, wanted))
        .or_else(|| excludes_measured(candidate, &wanted.preferences))
        .or_else(|| wanted.rules.excludes_price(&terms.prices))
        .or_else(|| excludes_max_price(&terms.prices, &wanted.preferences))
        .or_else(|| (wanted.least_prompt_tokens > terms.context).then_some(Exclusion::LongPrompt))
        .or_else(|| (candidate.path == Path::Barred).then_some(Exclusion::Unreachable))
}

fn excludes_ability(terms: &Terms, wanted: &Wanted) -> Option<Exclusion> {
    if !terms.models.contains(&wanted.model) {
        return Some(Exclusion::Model);
    }
    if !terms.endpoints.contains(&wanted.endpoint) {
        return Some(Exclusion::Endpoint);
    }
    let lacks = |has: &[String], needed: &[&'static str]| {
        let missing = |it: &&&'static str| !has.iter().any(|own| own.eq_ignore_ascii_case(it));
        needed.iter().find(missing).map(|it| (*it).to_owned())
    };
    if let Some(missing) = lacks(&terms.input_modalities, &wanted.needs.modalities) {
        return Some(Exclusion::Modality(missing));
    }
    // An offer that does not say what it can is not held to it.
    let features = terms.features.as_deref();
    if let Some(missing) = features.and_then(|has| lacks(has, &wanted.needs.features)) {
        return Some(Exclusion::Feature(missing));
    }
    (terms.context < wanted.rules.min_context_size.unwrap_or(0)).then_some(Exclusion::SmallContext)
}

fn excludes_provider(candidate: &Candidate, wanted: &Wanted) -> Option<Exclusion> {
    let (provider, rules) = (&candidate.provider, &wanted.rules);
    let preferences = &wanted.preferences;
    if rules.deny_providers.contains(provider) {
        return Some(Exclusion::Denied);
    }
    if !rules.allow_providers.is_empty() && !rules.allow_providers.contains(provider) {
        return Some(Exclusion::NotAllowed);
    }
    let names = |list: &[super::ProviderName]| list.iter().any(|name| name.means(provider));
    if names(&preferences.ignore) {
        return Some(Exclusion::Ignored);
    }
    if preferences.only.as_deref().is_some_and(|only| !names(only)) {
        return Some(Exclusion::NotOnly);
    }
    let ordered_only = !preferences.allow_fallbacks && !preferences.order.is_empty();
    if ordered_only && !names(&preferences.order) {
        return Some(Exclusion::NotInOrder);
    }
    let stored = candidate.terms.quantization.as_deref();
    let stored = stored.unwrap_or(UNKNOWN_QUANTIZATION);
    let wanted = preferences.quantizations.as_deref();
    let fits = wanted.is_none_or(|list| list.iter().any(|it| it.eq_ignore_ascii_case(stored)));
    (!fits).then_some(Exclusion::Quantization)
}

/// Offers that were not measured yet pass.
fn excludes_measured(candidate: &Candidate, preferences: &Preferences) -> Option<Exclusion> {
    let quality = &candidate.quality;
    let slow = preferences.min_throughput.zip(quality.speed);
    if slow.is_some_and(|(least, speed)| speed.value < least) {
        return Some(Exclusion::Slow);
    }
    let late = preferences.max_latency.zip(quality.first_token);
    let late = late.is_some_and(|(most, first)| first.value > most);
    late.then_some(Exclusion::Late)
}

fn excludes_max_price(prices: &Prices, preferences: &Preferences) -> Option<Exclusion> {
    let most = &preferences.max_price;
    let tokens = [
        ("prompt", dearest_input(prices), most.prompt),
        ("completion", prices.output.of_million(), most.completion),
    ];
    for (name, price, most) in tokens {
        if most.is_some_and(|most| price > most) {
            return Some(Exclusion::MaxPrice(name));
        }
    }
    let ones = [
        ("request", prices.request, most.request),
        ("image", prices.image, most.image),
    ];
    let broken = ones
        .into_iter()
        .find(|(_, rate, most)| most.is_some_and(|most| over(*rate, 1, most)));
    broken.map(|(name, ..)| Exclusion::MaxPrice(name))
}

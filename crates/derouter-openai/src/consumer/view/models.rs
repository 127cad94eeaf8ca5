//! The models on offer, each with what its offers are between them.

use std::collections::{BTreeMap, BTreeSet};

use derouter_sdk::{UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use super::offers::{OfferView, PricesView};
use super::{Onlooker, offers};
use crate::consumer::gateway::Gateway;
use crate::consumer::ledger::unix_now;

/// Models that are told: as many as one person can choose from, and far more.
const MOST_TOLD: usize = 5000;

/// The models on offer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelsView {
    /// When this was looked at.
    pub at: UnixSeconds,
    /// Whether the node has told its offers: before that there are none here.
    pub known: bool,
    /// How many there are.
    pub total: usize,
    /// Those that are told, by name.
    pub models: Vec<ModelView>,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Its name. From outside.
    pub model: String,
    /// Its offers.
    pub offers: usize,
    /// Those of them that may be bought.
    pub buyable: usize,
    /// How many providers it has.
    pub providers: usize,
    /// The prices of the cheapest offer, by its prompt's and its answer's together: of those that may
    /// be bought, or of all when none may.
    pub cheapest: PricesView,
    /// The largest context window, in tokens.
    pub context: u64,
    /// What any of the offers can. From outside.
    pub features: BTreeSet<String>,
    /// How the offers' weights are stored. From outside.
    pub quantizations: BTreeSet<String>,
    /// The shortest median time to the first token, in seconds.
    pub first_token_seconds: Option<f64>,
    /// The highest median speed, in tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Why none of its offers may be bought: what is in the way of the cheapest.
    pub excluded: Option<super::ExclusionView>,
}

/// Looks at the models.
pub(crate) fn models(gateway: &Gateway, onlooker: &Onlooker) -> ModelsView {
    let (known, all) = offers::all(gateway, onlooker);
    let allows = |name: &str| onlooker.key().is_none_or(|key| key.allows(name));
    ModelsView {
        known,
        ..of_offers(&all, allows)
    }
}

/// The models of some offers, where no gateway is asked.
pub fn models_of(offers: &[OfferView]) -> ModelsView {
    of_offers(offers, |_| true)
}

fn of_offers(all: &[OfferView], allows: impl Fn(&str) -> bool) -> ModelsView {
    let mut by_model: BTreeMap<&str, Vec<&OfferView>> = BTreeMap::new();
    for offer in all {
        let names: BTreeSet<&str> = offer.models.iter().map(String::as_str).collect();
        for name in names.into_iter().filter(|name| allows(name)) {
            by_model.entry(name).or_default().push(offer);
        }
    }
    let total = by_model.len();
    let told = by_model.into_iter().take(MOST_TOLD);
    ModelsView {
        at: unix_now(),
        known: true,
        total,
        models: told.map(|(name, offers)| model(name, &offers)).collect(),
    }
}

fn model(name: &str, offers: &[&OfferView]) -> ModelView {
    let cheapest = offers
        .iter()
        .min_by_key(|offer| (!offer.buyable, price(&offer.prices)));
    let providers: BTreeSet<&str> = offers.iter().map(|it| it.provider.as_str()).collect();
    let buyable = offers.iter().filter(|offer| offer.buyable).count();
    let firsts = offers
        .iter()
        .filter_map(|offer| Some(offer.observed.as_ref()?.first_token_seconds?.p50));
    let speeds = offers
        .iter()
        .filter_map(|offer| Some(offer.observed.as_ref()?.tokens_per_second?.p50));
    ModelView {
        model: name.to_owned(),
        offers: offers.len(),
        buyable,
        providers: providers.len(),
        cheapest: cheapest.map(|it| it.prices.clone()).unwrap_or_default(),
        context: offers.iter().map(|it| it.context).max().unwrap_or(0),
        features: union(offers.iter().filter_map(|it| it.features.as_deref())),
        quantizations: offers
            .iter()
            .filter_map(|it| it.quantization.clone())
            .collect(),
        first_token_seconds: firsts.min_by(f64::total_cmp),
        tokens_per_second: speeds.max_by(f64::total_cmp),
        excluded: cheapest
            .filter(|_| buyable == 0)
            .and_then(|it| it.excluded.clone()),
    }
}

/// What a million tokens of both kinds cost.
fn price(prices: &PricesView) -> Wei {
    let wei = |text: &str| Wei::from_pol_text(text).unwrap_or(Wei::MAX);
    wei(&prices.input).saturating_add(wei(&prices.output))
}

fn union<'a>(lists: impl Iterator<Item = &'a [String]>) -> BTreeSet<String> {
    lists.flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(provider: &str, price: &str, buyable: bool) -> OfferView {
        OfferView {
            provider: provider.to_owned(),
            models: vec!["m".to_owned()],
            context: 10,
            buyable,
            prices: PricesView {
                input: price.to_owned(),
                output: "1".to_owned(),
                ..PricesView::default()
            },
            ..OfferView::default()
        }
    }

    #[test]
    fn the_cheapest_offer_that_may_be_bought_is_told() {
        let offers = [
            offer("a", "0.5", false),
            offer("b", "2", true),
            offer("b", "1.5", true),
        ];
        let view = model("m", &offers.each_ref());
        assert_eq!(view.cheapest.input, "1.5");
        assert_eq!((view.offers, view.buyable, view.providers), (3, 2, 2));
    }
}

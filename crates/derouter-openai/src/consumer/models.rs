//! The list of models that can be bought now.

use std::collections::BTreeSet;
use std::sync::Arc;

use derouter_sdk::PeerId;
use serde_json::{Value, json};

use super::gateway::Gateway;
use super::keys::KeyRecord;
use super::offers::Offer;
use crate::protocol::PolAmount;
use crate::terms::{Prices, Terms};

/// The list, as `GET /v1/models` answers it to the holder of a key.
pub(crate) fn list(gateway: &Gateway, key: Option<&KeyRecord>) -> Value {
    let models = gateway.with_offers(|index| {
        let entries = index
            .models()
            .filter_map(|(model, offers)| entry(gateway, model, offers, key));
        entries.collect::<Vec<_>>()
    });
    json!({"object": "list", "data": models})
}

/// One model, if it can be bought now, with a key that is needed.
pub(crate) fn one(gateway: &Gateway, model: &str, key: Option<&KeyRecord>) -> Option<Value> {
    gateway.with_offers(|index| entry(gateway, model, index.of_model(model), key))
}

fn entry(
    gateway: &Gateway,
    model: &str,
    offers: &[Arc<Offer>],
    key: Option<&KeyRecord>,
) -> Option<Value> {
    let key_allows = key.is_none_or(|key| key.allows(model));
    if !key_allows || !gateway.config.may_buy(model) {
        return None;
    }
    let rules = gateway.rules(model);
    let terms = |offer: &Arc<Offer>| (offer.provider, Arc::clone(&offer.terms));
    let offers: Vec<(PeerId, Arc<Terms>)> = offers
        .iter()
        .map(terms)
        .filter(|(provider, terms)| rules.excludes(provider, terms).is_none())
        .collect();
    let all = || offers.iter().map(|(_, terms)| terms);
    let cheapest = all().min_by_key(|terms| {
        let Prices { input, output, .. } = terms.prices;
        input.of_million().saturating_add(output.of_million())
    })?;
    let providers: BTreeSet<&PeerId> = offers.iter().map(|(provider, _)| provider).collect();
    let price = |rate: crate::terms::Rate| PolAmount {
        wei: rate.of_million(),
    };
    Some(json!({
        "id": model,
        "object": "model",
        "created": gateway.started_at,
        "owned_by": "derouter",
        "context_length": all().map(|terms| terms.context).max(),
        "context_size": cheapest.context,
        "pricing": pricing(&cheapest.prices),
        "input_token_price": price(cheapest.prices.input),
        "output_token_price": price(cheapest.prices.output),
        "offers": offers.len(),
        "providers": providers.len(),
        // Offers of `openai:0.1` do not say.
        "features": union(all().filter_map(|terms| terms.features.as_deref())),
    }))
}

/// Prices as decimal POL: of a million tokens, and of the request itself.
pub(crate) fn pricing(prices: &Prices) -> Value {
    let one = |rate: crate::terms::Rate| rate.cost(1).unwrap_or(derouter_sdk::Wei::MAX);
    json!({
        "currency": "POL",
        "prompt": prices.input.of_million().to_pol_text(),
        "completion": prices.output.of_million().to_pol_text(),
        "request": one(prices.request).to_pol_text(),
    })
}

/// What any of the offers has.
fn union<'a>(lists: impl Iterator<Item = &'a [String]>) -> BTreeSet<&'a str> {
    lists.flatten().map(String::as_str).collect()
}

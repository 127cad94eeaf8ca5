//! The list of models that can be bought now.

use std::sync::Arc;

use serde_json::{Value, json};

use super::gateway::Gateway;
use super::keys::KeyRecord;
use super::offers::Offer;
use crate::protocol::PolAmount;
use crate::terms::Rate;

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
    let terms = gateway.terms(model);
    let allowed = || offers.iter().filter(|offer| terms.allow(offer));
    let price = |terms: &crate::terms::Terms| {
        let input = terms.prices.input.of_million();
        input.saturating_add(terms.prices.output.of_million())
    };
    let cheapest = allowed().min_by_key(|offer| price(&offer.terms))?;
    let pol = |rate: Rate| PolAmount {
        wei: rate.of_million(),
    };
    Some(json!({
        "id": model,
        "object": "model",
        "created": gateway.started_at,
        "owned_by": "derouter",
        "context_size": cheapest.terms.context,
        "input_token_price": pol(cheapest.terms.prices.input),
        "output_token_price": pol(cheapest.terms.prices.output),
        "offers": allowed().count(),
    }))
}

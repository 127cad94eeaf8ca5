//! What is announced of an offer.

use crate::protocol;
use crate::protocol::v0_2::{OfferPayload, PricePayload};
use crate::provider::config::OfferConfig;
use crate::terms::Endpoint;
use derouter_sdk::Wei;

/// The payload of an offer of `openai:0.2`, at the prices of the one of `openai:0.1`.
pub(in crate::provider) fn payload(
    config: &OfferConfig,
    at: &protocol::OfferPayload,
) -> OfferPayload {
    let announced = &config.terms.announced;
    let mut models = vec![config.model_id.clone()];
    models.extend(announced.aliases.iter().cloned());
    let chat = [Endpoint::Chat, Endpoint::Completions];
    let endpoints = match announced.endpoints.as_slice() {
        [] => &chat[..],
        endpoints => endpoints,
    };
    let said = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
    OfferPayload {
        models,
        endpoints: endpoints.iter().map(|e| e.path().to_owned()).collect(),
        context: config.context_size,
        max_output: announced.max_output,
        input: said(&announced.input_modalities),
        output: said(&announced.output_modalities).unwrap_or_else(|| vec!["text".to_owned()]),
        features: said(&announced.features),
        quantization: announced.quantization.clone(),
        prices: PricePayload {
            input: per_token(at.input_token_price.wei),
            cached_input: announced.cached_input_token_price.map(per_token),
            output: per_token(at.output_token_price.wei),
            request: announced.request_price,
            image: announced.image_price,
            second: announced.second_price,
        },
        trial: config.terms.trial,
        max_concurrency: config.max_concurrency,
        load: None,
        region: announced.region.clone(),
        terms_url: announced.terms_url.clone(),
        description: config.description.clone(),
    }
}

/// The price of a token by that of 1,000,000, rounded up: what costs something is never free.
fn per_token(per_million: Wei) -> Wei {
    const ALMOST: u128 = 999_999;
    let rounded = per_million.saturating_add(Wei::from_wei(ALMOST));
    rounded.checked_per_million(1).unwrap_or(Wei::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_costs_a_millionth_rounded_up() {
        for (million, token) in [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(per_token(Wei::from_wei(million)), Wei::from_wei(token));
        }
    }
}

//! Which offers can serve a request, best first, and if none can, exactly why not. Pure.

use std::sync::Arc;

use derouter_sdk::{PeerId, Wei};
use rand::Rng;
use rand::seq::SliceRandom;

use super::config::PriceCap;
use super::error::ApiError;
use super::health::Standing;
use super::offers::Offer;
use super::request::Size;

/// What an offer must meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) cap: PriceCap,
    pub(crate) min_context_size: Option<u64>,
}

/// The rule that excludes an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exclusion {
    /// Smaller than the configuration wants.
    SmallContext,
    InputPrice,
    OutputPrice,
    /// The prompt can't fit.
    LongPrompt,
}

impl Terms {
    fn excludes(&self, offer: &Offer) -> Option<Exclusion> {
        let terms = &offer.terms;
        if terms.context < self.min_context_size.unwrap_or(0) {
            return Some(Exclusion::SmallContext);
        }
        if terms.prices.input.of_million() > self.cap.input {
            return Some(Exclusion::InputPrice);
        }
        if terms.prices.output.of_million() > self.cap.output {
            return Some(Exclusion::OutputPrice);
        }
        None
    }

    /// Whether an offer may be bought at all.
    pub(crate) fn allow(&self, offer: &Offer) -> bool {
        self.excludes(offer).is_none()
    }

    fn excludes_for(&self, offer: &Offer, size: &Size) -> Option<Exclusion> {
        self.excludes(offer).or_else(|| {
            (size.least_prompt_tokens() > offer.terms.context).then_some(Exclusion::LongPrompt)
        })
    }
}

/// The offers that can serve a request: cheapest for this request first, those whose provider
/// failed just now last; equal ones by fewer failures, then by chance.
pub(crate) fn rank(
    offers: &[Arc<Offer>],
    size: &Size,
    terms: &Terms,
    standing: impl Fn(&PeerId) -> Standing,
    random: &mut impl Rng,
) -> Vec<Arc<Offer>> {
    let fitting = offers
        .iter()
        .filter(|offer| terms.excludes_for(offer, size).is_none());
    let mut ranked: Vec<_> = fitting.cloned().collect();
    ranked.shuffle(random);
    ranked.sort_by_cached_key(|offer| {
        let standing = standing(&offer.provider);
        let cost = size.typical_cost(&offer.terms);
        (standing.cooling, cost, standing.failures)
    });
    ranked
}

/// Why none of a model's offers, of which there is at least one, can serve a request.
pub(crate) fn explain(model: &str, offers: &[Arc<Offer>], size: &Size, terms: &Terms) -> ApiError {
    let with = |exclusion| {
        offers
            .iter()
            .filter(move |offer| terms.excludes_for(offer, size) == Some(exclusion))
    };
    let on_offer = format!(
        "{model} is on offer ({}), but",
        plural(offers.len(), "offer")
    );
    let longest = with(Exclusion::LongPrompt).map(|offer| offer.terms.context);
    if let Some(longest) = longest.max() {
        return ApiError::context_too_long(format!(
            "{on_offer} the prompt is at least {} tokens long and the largest context window that the rules allow has {longest}.",
            size.least_prompt_tokens()
        ));
    }
    let outputs = with(Exclusion::OutputPrice).map(|offer| offer.terms.prices.output.of_million());
    if let Some(cheapest) = outputs.min() {
        return price_error(
            &on_offer,
            ("output", "maxOutputPrice"),
            cheapest,
            terms.cap.output,
        );
    }
    let inputs = with(Exclusion::InputPrice).map(|offer| offer.terms.prices.input.of_million());
    if let Some(cheapest) = inputs.min() {
        return price_error(
            &on_offer,
            ("input", "maxInputPrice"),
            cheapest,
            terms.cap.input,
        );
    }
    let largest = offers.iter().map(|offer| offer.terms.context).max();
    ApiError::model_not_found(format!(
        "{on_offer} the largest context window has {} tokens and minContextSize asks for {}.",
        largest.unwrap_or(0),
        terms.min_context_size.unwrap_or(0)
    ))
}

fn price_error(
    on_offer: &str,
    (direction, rule): (&str, &str),
    cheapest: Wei,
    cap: Wei,
) -> ApiError {
    ApiError::price_limit(format!(
        "{on_offer} its {direction} price, from {} POL per 1M tokens, is over the cap of {} POL ({rule} of the model, or of the server). Raise it to buy.",
        cheapest.to_pol_text(),
        cap.to_pol_text()
    ))
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::measure::Extent;
    use crate::protocol::{OfferPayload, PolAmount};
    use derouter_sdk::{OfferId, SnapshotId};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn offer(input: u128, output: u128, context_size: u64) -> Arc<Offer> {
        let price = |wei| PolAmount {
            wei: Wei::from_wei(wei),
        };
        Arc::new(Offer {
            snapshot_id: SnapshotId(0),
            provider: PeerId::random(),
            offer_id: OfferId::new("o").unwrap(),
            terms: crate::terms::Terms::of_0_1(&OfferPayload {
                model_id: "m".into(),
                context_size,
                input_token_price: price(input),
                output_token_price: price(output),
                trial: None,
                description: None,
            }),
            of_0_1: None,
        })
    }

    fn terms(input: u128, output: u128, min_context_size: Option<u64>) -> Terms {
        Terms {
            cap: PriceCap {
                input: Wei::from_wei(input),
                output: Wei::from_wei(output),
            },
            min_context_size,
        }
    }

    fn size(text_bytes: u64, max_output_tokens: Option<u64>) -> Size {
        Size {
            body_bytes: text_bytes,
            prompt: Extent {
                text_bytes,
                most_tokens: text_bytes,
                opaque_parts: 0,
            },
            prompts: 1,
            answers: 1,
            max_output_tokens,
            hidden_reasoning: false,
        }
    }

    fn order(offers: &[Arc<Offer>], size: &Size, terms: &Terms) -> Vec<Arc<Offer>> {
        let mut random = StdRng::seed_from_u64(1);
        rank(offers, size, terms, |_| Standing::default(), &mut random)
    }

    #[test]
    fn the_cheapest_for_this_request_comes_first() {
        let cheap_input = offer(1_000, 9_000, 100_000);
        let cheap_output = offer(9_000, 1_000, 100_000);
        let offers = [cheap_input.clone(), cheap_output.clone()];
        let terms = terms(10_000, 10_000, None);
        let long_prompt = order(&offers, &size(100_000, Some(10)), &terms);
        assert_eq!(long_prompt, [cheap_input.clone(), cheap_output.clone()]);
        let long_answer = order(&offers, &size(10, Some(100_000)), &terms);
        assert_eq!(long_answer, [cheap_output, cheap_input]);
    }

    #[test]
    fn a_provider_that_failed_just_now_comes_last_but_stays() {
        let cheap = offer(1_000, 1_000, 8192);
        let dear = offer(2_000, 2_000, 8192);
        let offers = [cheap.clone(), dear.clone()];
        let standing = |peer: &PeerId| Standing {
            cooling: *peer == cheap.provider,
            failures: 1,
        };
        let mut random = StdRng::seed_from_u64(1);
        let wide = terms(9_000, 9_000, None);
        let ranked = rank(&offers, &size(4_000, None), &wide, standing, &mut random);
        assert_eq!(ranked, [dear, cheap.clone()]);
        let only = rank(
            std::slice::from_ref(&cheap),
            &size(4_000, None),
            &wide,
            standing,
            &mut random,
        );
        assert_eq!(only, [cheap]);
    }

    #[test]
    fn equal_offers_take_turns_by_chance_and_the_reliable_one_wins() {
        let offers: Vec<_> = (0..4).map(|_| offer(1_000, 1_000, 8192)).collect();
        let wide = terms(9_000, 9_000, None);
        let mut random = StdRng::seed_from_u64(1);
        let mut firsts = std::collections::HashSet::new();
        for _ in 0..64 {
            let none = |_: &PeerId| Standing::default();
            let ranked = rank(&offers, &size(4_000, None), &wide, none, &mut random);
            firsts.insert(ranked[0].provider);
        }
        assert_eq!(firsts.len(), offers.len());
        let reliable = offers[2].provider;
        let standing = |peer: &PeerId| Standing {
            cooling: false,
            failures: u32::from(*peer != reliable),
        };
        let ranked = rank(&offers, &size(4_000, None), &wide, standing, &mut random);
        assert_eq!(ranked[0].provider, reliable);
    }

    #[test]
    fn each_rule_excludes_and_is_named() {
        let small = size(40, None);
        let refused = |offers: &[Arc<Offer>], size: &Size, terms: &Terms| {
            assert_eq!(order(offers, size, terms), []);
            explain("m", offers, size, terms)
        };
        let offers = [offer(1_000, 2_000, 8192)];
        let error = refused(&offers, &small, &terms(999, 2_000, None));
        assert_eq!(
            (error.status.as_u16(), error.code),
            (402, Some("price_limit_exceeded"))
        );
        assert!(error.message.contains("maxInputPrice"), "{}", error.message);
        let error = refused(&offers, &small, &terms(1_000, 1_999, None));
        assert!(
            error.message.contains("maxOutputPrice"),
            "{}",
            error.message
        );
        let error = refused(&offers, &small, &terms(1_000, 2_000, Some(8193)));
        assert_eq!(error.code, Some("model_not_found"));
        assert!(error.message.contains("minContextSize asks for 8193"));
        let error = refused(&offers, &size(60_000, None), &terms(1_000, 2_000, None));
        assert_eq!(error.code, Some("context_length_exceeded"));
        assert_eq!(
            order(&offers, &small, &terms(1_000, 2_000, Some(8192))).len(),
            1
        );
    }
}

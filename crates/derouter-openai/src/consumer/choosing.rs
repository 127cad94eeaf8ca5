//! From what the gateway knows to the offers that a request is to try: what [`router`] needs, and
//! what comes of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::error::ApiError;
use super::gateway::Gateway;
use super::offers::{Offer, OfferIndex};
use super::request::Asked;
use super::router::{self, Candidate, Needs, Ranked, Wanted};

/// Models named when the one asked for is not there.
const NAMED_MODELS: usize = 20;

/// The offers to try, best first; at least one.
pub(crate) fn choose(gateway: &Gateway, asked: &Asked) -> Result<Vec<Arc<Offer>>, ApiError> {
    let wanted = wanted(gateway, asked);
    gateway.with_offers(|index| {
        let offers = offers_of(gateway, index, &wanted.model)?;
        let (candidates, ranked) = rank(gateway, offers, &wanted);
        if ranked.order.is_empty() {
            return Err(router::explain(&candidates, &ranked.excluded, &wanted));
        }
        tell(&candidates, &ranked, &wanted);
        let order = ranked.order.iter();
        Ok(order
            .filter_map(|place| offers.get(*place))
            .cloned()
            .collect())
    })
}

/// Ranks a model's offers.
pub(crate) fn rank(
    gateway: &Gateway,
    offers: &[Arc<Offer>],
    wanted: &Wanted,
) -> (Vec<Candidate>, Ranked) {
    let candidates = candidates(gateway, offers);
    let mut ranked = router::rank(&candidates, wanted, &mut rand::rng());
    gateway.standings.prefer(&candidates, &mut ranked, wanted);
    (candidates, ranked)
}

fn candidates(gateway: &Gateway, offers: &[Arc<Offer>]) -> Vec<Candidate> {
    let now = Instant::now();
    let quality = gateway.quality();
    let candidate = |offer: &Arc<Offer>| {
        let terms = Arc::clone(&offer.terms);
        Candidate {
            provider: offer.provider,
            offer: offer.offer_id.clone(),
            quality: quality.observed(&offer.provider, terms.model(), now),
            path: gateway.path(&offer.provider),
            terms,
        }
    };
    offers.iter().map(candidate).collect()
}

fn wanted(gateway: &Gateway, asked: &Asked) -> Wanted {
    Wanted {
        model: asked.model.clone(),
        endpoint: asked.endpoint,
        needs: Needs::of(&asked.fields),
        least_prompt_tokens: asked.size.least_prompt_tokens(),
        typical: asked.size.typical(),
        rules: Arc::new(gateway.rules(&asked.model)),
        preferences: asked.preferences.clone(),
    }
}

/// The offers of a model that may be bought; at least one.
pub(crate) fn offers_of<'a>(
    gateway: &Gateway,
    index: &'a OfferIndex,
    model: &str,
) -> Result<&'a [Arc<Offer>], ApiError> {
    if !index.known() {
        let message = "The gateway is starting: its node has not told its offers yet.";
        return Err(ApiError::unavailable("starting", message));
    }
    if !gateway.config.may_buy(model) {
        return Err(ApiError::model_not_found(format!(
            "{model} is not among the models that this gateway's configuration names.{}",
            there_are(gateway, index, model)
        )));
    }
    let offers = index.of_model(model);
    if offers.is_empty() && gateway.config.rule(model).is_some() {
        let message = format!("No provider offers {model} at the moment.");
        return Err(ApiError::unavailable("no_provider", message));
    }
    if offers.is_empty() {
        let there_are = there_are(gateway, index, model);
        return Err(ApiError::model_not_found(format!(
            "{model} is not on offer.{there_are}"
        )));
    }
    Ok(offers)
}

/// Sentences that name the models that can be bought, those that may have been meant first.
fn there_are(gateway: &Gateway, index: &OfferIndex, wanted: &str) -> String {
    let models: Vec<_> = index
        .models()
        .map(|(model, _)| model)
        .filter(|model| gateway.config.may_buy(model))
        .collect();
    let near = router::near_names(wanted, models.iter().copied());
    let meant = match near.as_slice() {
        [] => String::new(),
        near => format!(" Did you mean {}?", near.join(" or ")),
    };
    let named = models.iter().take(NAMED_MODELS).copied();
    let list = named.collect::<Vec<_>>().join(", ");
    match models.len() {
        0 => " There are no offers at the moment.".into(),
        more if more > NAMED_MODELS => format!("{meant} On offer are {list}, and others."),
        _ => format!("{meant} On offer: {list}."),
    }
}

fn tell(candidates: &[Candidate], ranked: &Ranked, wanted: &Wanted) {
    let first = ranked
        .order
        .first()
        .and_then(|place| candidates.get(*place));
    let (Some(first), Some(why)) = (first, ranked.why.first()) else {
        return;
    };
    tracing::debug!(
        model = wanted.model,
        provider = %first.provider,
        offer = %first.offer,
        score = why.score,
        fit = ranked.order.len(),
        excluded = ranked.excluded.len(),
        "chosen"
    );
}

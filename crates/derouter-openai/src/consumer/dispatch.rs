//! From a request to an answer that has begun: the offers one after another, until one works.

use std::collections::HashSet;
use std::sync::Arc;

use derouter_sdk::PeerId;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::{Attempt, Failure};
use super::error::ApiError;
use super::gateway::{Gateway, count};
use super::ledger::{Reservation, over_limit};
use super::offers::{Offer, OfferIndex};
use super::request::Asked;
use super::{router, verdict};

/// Offers that are tried for one request: enough to get past a few bad ones, few enough that the
/// client is still there.
const MAX_ATTEMPTS: usize = 6;

/// Models named when the one asked for is not there.
const NAMED_MODELS: usize = 20;

/// A request on its way.
struct Dispatch {
    gateway: Arc<Gateway>,
    asked: Arc<Asked>,
    own: PeerId,
    place: Arc<OwnedSemaphorePermit>,
    deadline: Instant,
    /// Until when the first offer may wait for reservations to be given back.
    spending_deadline: Instant,
}

/// Gets a request answered. Returns the answer's first value and the rest of it.
pub(crate) async fn dispatch(
    gateway: &Arc<Gateway>,
    asked: Asked,
) -> Result<(Answer, Value), ApiError> {
    count(&gateway.counters.requests);
    let place = Arc::clone(&gateway.in_flight).try_acquire_owned();
    let place = Arc::new(place.map_err(|_| ApiError::gateway_full())?);
    let Some(own) = gateway.own_peer_id() else {
        let message = "The gateway is starting: its node has not told yet what was spent before.";
        return Err(ApiError::unavailable("starting", message));
    };
    let offers = choose(gateway, &asked)?;
    let now = Instant::now();
    let deadlines = &gateway.config.deadlines;
    let dispatch = Dispatch {
        own: *own,
        deadline: now + deadlines.all_attempts,
        spending_deadline: now + deadlines.spending,
        gateway: Arc::clone(gateway),
        asked: Arc::new(asked),
        place,
    };
    dispatch.try_each(&offers).await
}

/// The offers to try, best first; at least one.
fn choose(gateway: &Gateway, asked: &Asked) -> Result<Vec<Arc<Offer>>, ApiError> {
    let model = asked.model.as_str();
    gateway.with_offers(|index| {
        if !index.known() {
            let message = "The gateway is starting: its node has not told its offers yet.";
            return Err(ApiError::unavailable("starting", message));
        }
        if !gateway.config.may_buy(model) {
            return Err(ApiError::model_not_found(format!(
                "{model} is not among the models that this gateway's configuration names.{}",
                there_are(gateway, index)
            )));
        }
        let offers = index.of_model(model);
        if offers.is_empty() && gateway.config.rule(model).is_some() {
            let message = format!("No provider offers {model} at the moment.");
            return Err(ApiError::unavailable("no_provider", message));
        }
        if offers.is_empty() {
            let there_are = there_are(gateway, index);
            return Err(ApiError::model_not_found(format!(
                "{model} is not on offer.{there_are}"
            )));
        }
        let terms = gateway.terms(model);
        let standing = |peer: &PeerId| gateway.standing(peer);
        let ranked = router::rank(offers, &asked.size, &terms, standing, &mut rand::rng());
        if ranked.is_empty() {
            return Err(router::explain(model, offers, &asked.size, &terms));
        }
        Ok(ranked)
    })
}

/// A sentence that names the models that can be bought.
fn there_are(gateway: &Gateway, index: &OfferIndex) -> String {
    let models: Vec<_> = index
        .models()
        .map(|(model, _)| model)
        .filter(|model| gateway.config.may_buy(model))
        .collect();
    let named = models.iter().take(NAMED_MODELS).copied();
    let list = named.collect::<Vec<_>>().join(", ");
    match models.len() {
        0 => " There are no offers at the moment.".into(),
        more if more > NAMED_MODELS => format!(" On offer are {list}, and others."),
        _ => format!(" On offer: {list}."),
    }
}

impl Dispatch {
    async fn try_each(&self, offers: &[Arc<Offer>]) -> Result<(Answer, Value), ApiError> {
        let mut failures = Vec::new();
        let mut over = None;
        let mut unreachable = HashSet::new();
        for offer in offers {
            if failures.len() >= MAX_ATTEMPTS || Instant::now() >= self.deadline {
                break;
            }
            if unreachable.contains(&offer.provider) {
                continue;
            }
            let reservation = match self.reserve(offer).await {
                Ok(reservation) => reservation,
                Err(error) => {
                    over.get_or_insert(error);
                    continue;
                }
            };
            let failure = match self.attempt(offer, reservation).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if failure == Failure::Unreachable {
                unreachable.insert(offer.provider);
            }
            let local = matches!(failure, Failure::Local(_));
            failures.push(failure);
            if local {
                break;
            }
        }
        Err(verdict::verdict(&self.asked.model, &failures, over))
    }

    /// Sets aside what the request can cost on an offer. An own offer costs nothing.
    async fn reserve(&self, offer: &Offer) -> Result<Option<Reservation>, ApiError> {
        if offer.provider == self.own {
            return Ok(None);
        }
        let needed = self.asked.size.most_cost(&offer.payload);
        let patience = self
            .spending_deadline
            .saturating_duration_since(Instant::now());
        let reserved = self.gateway.ledger.reserve(needed, patience).await;
        match reserved {
            Ok(reservation) => Ok(Some(reservation)),
            Err(over) => Err(over_limit(&over, needed)),
        }
    }

    async fn attempt(
        &self,
        offer: &Arc<Offer>,
        reservation: Option<Reservation>,
    ) -> Result<(Answer, Value), Failure> {
        let attempt = Attempt {
            gateway: Arc::clone(&self.gateway),
            asked: Arc::clone(&self.asked),
            offer: Arc::clone(offer),
            reservation,
            place: Arc::clone(&self.place),
            deadline: self.deadline,
        };
        let result = attempt.run().await;
        if let Err(failure) = &result {
            count(&self.gateway.counters.failed_attempts);
            let model = self.asked.model.as_str();
            let failure_name = failure.name();
            tracing::info!(provider = %offer.provider, offer = %offer.offer_id, model, failure = failure_name, "attempt failed");
            if failure.blames() {
                self.gateway.blame(offer);
            }
        }
        result
    }
}

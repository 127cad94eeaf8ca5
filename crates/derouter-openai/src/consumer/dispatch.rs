//! From a request to an answer that has begun: the offers one after another, until one works.

mod race;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{PeerId, SnapshotId, Wei};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active::Subject;
use super::answer::Answer;
use super::attempt::{Attempt, Begun, Failure};
use super::choosing::choose;
use super::error::ApiError;
use super::gateway::{Gateway, count};
use super::keys::KeyRecord;
use super::ledger::{RequestScope, Reservation, Scope, over_limit};
use super::offers::Offer;
use super::request::Asked;
use super::route::Route;
use super::spending::OverLimit;
use super::{v0_2, verdict};

/// Offers that are tried for one request: enough to get past a few bad ones, few enough that the
/// client is still there.
const MAX_ATTEMPTS: usize = 6;

/// Those of them that may be one provider's: it may list any number of cheap offers, and must not
/// keep the others from being asked.
const MAX_ATTEMPTS_PER_PROVIDER: usize = 2;

/// Why nothing is bought while the list of blocked providers can't be read.
const BLOCKED_UNKNOWN: &str = "Nothing is bought until it is known whom the owner blocked: openai-providers.json in the \
                               node's data directory, or a name in it, can't be read. Mend or remove it; the node need not be restarted.";

/// A request on its way.
struct Dispatch {
    gateway: Arc<Gateway>,
    asked: Arc<Asked>,
    own: PeerId,
    place: Arc<OwnedSemaphorePermit>,
    /// What the request's attempts may cost together.
    scope: Arc<RequestScope>,
    key: Option<Arc<KeyRecord>>,
    deadline: Instant,
    /// Until when offers may wait for reservations to be given back, if none fits without.
    spending_deadline: Instant,
}

/// Gets a request answered, on account of a key if there is one, up to where the answer begins.
pub(crate) async fn dispatch(
    gateway: &Arc<Gateway>,
    asked: Asked,
    key: Option<Arc<KeyRecord>>,
) -> Result<Begun, ApiError> {
    count(&gateway.counters.requests);
    if gateway.is_draining() {
        let message = "The gateway's node is shutting down and takes no new requests.";
        return Err(ApiError::unavailable("shutting_down", message));
    }
    if gateway.standings.are_unknown() {
        return Err(ApiError::unavailable("blocked_unknown", BLOCKED_UNKNOWN));
    }
    let place = Arc::clone(&gateway.in_flight).try_acquire_owned();
    let place = Arc::new(place.map_err(|_| ApiError::gateway_full())?);
    let Some(own) = gateway.own_peer_id() else {
        let message = "The gateway is starting: its node has not told yet what was spent before.";
        return Err(ApiError::unavailable("starting", message));
    };
    if let Some(key) = key.as_deref().filter(|key| !key.allows(&asked.model)) {
        return Err(ApiError::model_not_allowed(&asked.model, &key.name));
    }
    let offers = choose(gateway, &asked)?;
    let scope = gateway.ledger.begin(key.clone()).await?;
    let now = Instant::now();
    let deadlines = &gateway.config.deadlines;
    let dispatch = Dispatch {
        own: *own,
        deadline: now + deadlines.all_attempts,
        spending_deadline: now + deadlines.spending,
        gateway: Arc::clone(gateway),
        asked: Arc::new(asked),
        place,
        scope,
        key,
    };
    let answered = dispatch.try_each(&offers).await;
    answered.map_err(|error| match dispatch.scope.may_owe() {
        true => error.after_money(),
        false => error,
    })
}

/// What was tried so far for a request.
#[derive(Default)]
struct Tried {
    failures: Vec<Failure>,
    attempts: HashMap<PeerId, usize>,
    unreachable: HashSet<PeerId>,
    /// Why an offer could not be afforded.
    over: Option<ApiError>,
    /// The offer that was asked beside the first.
    hedged: Option<SnapshotId>,
}

impl Tried {
    fn may_try(&self, provider: &PeerId) -> bool {
        let attempts = self.attempts.get(provider).copied().unwrap_or(0);
        attempts < MAX_ATTEMPTS_PER_PROVIDER && !self.unreachable.contains(provider)
    }

    fn note(&mut self, provider: PeerId, failure: Failure) {
        let attempts = self.attempts.entry(provider).or_default();
        *attempts = attempts.saturating_add(1);
        if failure == Failure::Unreachable {
            self.unreachable.insert(provider);
        }
        self.failures.push(failure);
    }

    /// Whether another attempt makes no sense.
    fn is_over(&self) -> bool {
        let local = |failure: &Failure| matches!(failure, Failure::Local(_));
        self.failures.len() >= MAX_ATTEMPTS || self.failures.last().is_some_and(local)
    }

    /// When an attempt must have led somewhere: one that others can follow leaves them half of
    /// the time. Once one timed out, the next gets all that is left.
    fn attempt_deadline(&self, now: Instant, deadline: Instant, others: bool) -> Instant {
        let timed_out = |failure: &Failure| matches!(failure, Failure::TimedOut(_));
        if !others || self.failures.iter().any(timed_out) {
            return deadline;
        }
        now + deadline.saturating_duration_since(now) / 2
    }
}

impl Dispatch {
    async fn try_each(&self, offers: &[Arc<Offer>]) -> Result<Begun, ApiError> {
        let mut tried = Tried::default();
        let (answer, mut held) = self.try_affordable(offers, &mut tried, false).await;
        if let Some(answer) = answer {
            return Ok(answer);
        }
        if !held.is_empty() && !tried.is_over() {
            // What costs least needs the least to be given back.
            held.sort_by_cached_key(|offer| self.asked.size.most_cost(&offer.terms));
            tried.over = None;
            if let (Some(answer), _) = self.try_affordable(&held, &mut tried, true).await {
                return Ok(answer);
            }
        }
        let Tried { failures, over, .. } = tried;
        Err(verdict::verdict(&self.asked.model, &failures, over))
    }

    /// Tries the offers that the limits leave room for, if told so after a wait for running
    /// requests. Returns also those that only running requests hold up.
    async fn try_affordable(
        &self,
        offers: &[Arc<Offer>],
        tried: &mut Tried,
        wait: bool,
    ) -> (Option<Begun>, Vec<Arc<Offer>>) {
        let mut held = Vec::new();
        for (index, offer) in offers.iter().enumerate() {
            if tried.is_over() || Instant::now() >= self.deadline {
                break;
            }
            if !tried.may_try(&offer.provider) || tried.hedged == Some(offer.snapshot_id) {
                continue;
            }
            let reservation = match self.reserve(offer, wait).await {
                Ok(reservation) => reservation,
                Err(over) => {
                    let key = self.key.as_ref().map(|key| key.name.as_str());
                    tried.over.get_or_insert_with(|| over_limit(&over, key));
                    if over.held_by_running {
                        held.push(Arc::clone(offer));
                    }
                    continue;
                }
            };
            let other = |other: &Arc<Offer>| {
                other.provider != offer.provider && tried.may_try(&other.provider)
            };
            let others = offers.iter().skip(index).any(other);
            let deadline = tried.attempt_deadline(Instant::now(), self.deadline, others);
            let which = tried.failures.len().saturating_add(1);
            let attempt = self.prepare(offer, reservation, deadline, which);
            // Where one race was lost by both, the rest is asked one after another.
            let first = tried.hedged.is_none();
            let begun = match self.hedges_after(offer, others && first) {
                Some(after) => {
                    let rest = offers.get(index..).unwrap_or_default();
                    self.race(attempt, after, rest, tried).await
                }
                None => self.conclude(offer, attempt.run().await),
            };
            match begun {
                Ok(answer) => return (Some(answer), held),
                Err(failure) => tried.note(offer.provider, failure),
            }
        }
        (None, held)
    }

    /// Sets aside what the request can cost on an offer. An own offer costs nothing.
    async fn reserve(
        &self,
        offer: &Offer,
        wait: bool,
    ) -> Result<Option<Reservation>, Box<OverLimit>> {
        if offer.provider == self.own {
            return Ok(None);
        }
        let needed = self.asked.size.most_cost(&offer.terms);
        let patience = if wait {
            self.spending_deadline
                .saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        let scope = Scope {
            request: Arc::clone(&self.scope),
            provider: offer.provider,
        };
        let reserving = self.gateway.ledger.reserve(&scope, needed, patience);
        reserving.await.map(Some)
    }

    /// An attempt, which is the so many'th.
    fn prepare(
        &self,
        offer: &Arc<Offer>,
        reservation: Option<Reservation>,
        deadline: Instant,
        which: usize,
    ) -> Attempt {
        let typical = self.asked.size.typical();
        let cost = offer.terms.prices.cost(&typical).unwrap_or(Wei::MAX);
        let subject = Subject {
            model: self.asked.model.clone(),
            endpoint: self.asked.endpoint,
            stream: self.asked.stream,
            key: self.key.clone(),
        };
        let route = Route::new(&self.gateway, offer, &self.place, (which, cost), subject);
        Attempt {
            gateway: Arc::clone(&self.gateway),
            asked: Arc::clone(&self.asked),
            offer: Arc::clone(offer),
            reservation,
            place: Arc::new(route),
            deadline,
            lost: CancellationToken::new(),
        }
    }

    /// Notes how an attempt went.
    fn conclude(
        &self,
        offer: &Arc<Offer>,
        mut result: Result<Begun, Failure>,
    ) -> Result<Begun, Failure> {
        if let Err(failure) = &result {
            count(&self.gateway.counters.failed_attempts);
            let model = self.asked.model.as_str();
            let failure_name = failure.name();
            tracing::info!(provider = %offer.provider, offer = %offer.offer_id, model, failure = failure_name, "attempt failed");
            if let Some(blame) = failure.blame() {
                self.gateway.blame(offer, blame);
            }
        }
        match &mut result {
            Ok(Begun::Values(answer, _)) => self.measure(answer),
            Ok(Begun::Http(answer)) => self.measure_0_2(answer),
            Err(_) => {}
        }
        result
    }
}

impl Dispatch {
    /// Notes how long the first value took. Of a plain answer that is all of it, most of which went
    /// into its tokens.
    fn measure(&self, answer: &mut Answer) {
        let took = answer.began.elapsed();
        if self.asked.stream {
            return self.gateway.first_token(&answer.offer, took);
        }
        let first = self.gateway.usual_first_token(&answer.offer);
        let first = first.min(took / 2);
        answer.tally.waited(took.saturating_sub(first));
    }

    fn measure_0_2(&self, answer: &mut v0_2::Answer) {
        let took = answer.began.elapsed();
        if answer.is_event_stream() {
            return self.gateway.first_token(&answer.offer, took);
        }
        let first = self.gateway.usual_first_token(&answer.offer);
        answer.waited(took.saturating_sub(first.min(took / 2)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_leaves_half_of_the_time_to_others() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(300);
        let mut tried = Tried::default();
        let half = now + Duration::from_secs(150);
        assert_eq!(tried.attempt_deadline(now, deadline, true), half);
        assert_eq!(tried.attempt_deadline(now, deadline, false), deadline);
        tried.note(PeerId::random(), Failure::TimedOut("the answer"));
        assert_eq!(tried.attempt_deadline(half, deadline, true), deadline);
    }

    #[test]
    fn a_provider_is_asked_twice_at_most_and_not_again_when_it_is_unreachable() {
        let mut tried = Tried::default();
        let (busy, unreachable) = (PeerId::random(), PeerId::random());
        tried.note(busy, Failure::Busy);
        assert!(tried.may_try(&busy));
        tried.note(busy, Failure::Busy);
        tried.note(unreachable, Failure::Unreachable);
        assert!(!tried.may_try(&busy) && !tried.may_try(&unreachable));
        assert!(tried.may_try(&PeerId::random()) && !tried.is_over());
    }
}

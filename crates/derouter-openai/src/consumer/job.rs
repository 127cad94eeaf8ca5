//! A job of this gateway until it has ended, one way or the other: nothing that is dropped on the
//! way leaves it open.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, FailJobError, FailureReason, JobKey, Node, Wei,
};
use rand::Rng;

use super::gateway::{ConsumerCounters, Gateway, Tasks, count};
use super::ledger::Reservation;
use super::route::Route;
use crate::protocol::{REASON_PROTOCOL_VIOLATION, REASON_SERVICE_ERROR};

/// Calls to end a job before it is left to the node's log: the node may be restarting.
const END_ATTEMPTS: u32 = 5;

/// The first wait between them; it doubles.
const END_RETRY: Duration = Duration::from_millis(500);

/// The reason of a job whose client went away.
const CLIENT_WENT_AWAY: &str = "the client went away";

/// A job that has not ended. Dropped, it is given up as one whose client went away.
pub(crate) struct OpenJob {
    /// `None` once it was ended.
    inner: Option<Inner>,
    pub(crate) key: JobKey,
    /// The way to its provider.
    pub(crate) route: Arc<Route>,
}

struct Inner {
    node: Arc<dyn Node>,
    tasks: Tasks,
    counters: Arc<ConsumerCounters>,
    reservation: Option<Reservation>,
    /// What it takes up until it has ended.
    _route: Arc<Route>,
}

impl OpenJob {
    pub(crate) fn new(
        gateway: &Gateway,
        key: JobKey,
        reservation: Option<Reservation>,
        route: Arc<Route>,
    ) -> Self {
        Self {
            inner: Some(Inner {
                node: Arc::clone(&gateway.node),
                tasks: gateway.tasks.clone(),
                counters: Arc::clone(&gateway.counters),
                reservation,
                _route: Arc::clone(&route),
            }),
            key,
            route,
        }
    }

    /// What was set aside for it; `None` for an own offer.
    pub(crate) fn reserved(&self) -> Option<Wei> {
        let reservation = self.inner.as_ref()?.reservation.as_ref();
        reservation.map(Reservation::amount)
    }

    /// Gives the job up, in the background.
    pub(crate) fn fail(mut self, reason: String, class: i64) {
        self.give_up(reason, class);
    }

    /// Agrees with the outcome, in the background: `cost` is spent.
    pub(crate) fn complete(mut self, completion: ConsumerCompletion, cost: Wei) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if let Some(reservation) = &inner.reservation {
            reservation.will_sign();
        }
        let key = self.key.clone();
        let tasks = inner.tasks.clone();
        tasks.spawn(async move { inner.sign(&key, completion, cost).await });
    }

    fn give_up(&mut self, reason: String, class: i64) {
        let Some(mut inner) = self.inner.take() else {
            return;
        };
        // Nothing will be signed any more, whatever the node answers: the next attempt may have it.
        drop(inner.reservation.take());
        let key = self.key.clone();
        let failure = FailureReason {
            reason,
            reason_class: Some(class),
        };
        let tasks = inner.tasks.clone();
        tasks.spawn(async move { inner.fail(&key, failure).await });
    }
}

impl Drop for OpenJob {
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            count(&inner.counters.abandoned);
            self.give_up(CLIENT_WENT_AWAY.to_owned(), REASON_SERVICE_ERROR);
        }
    }
}

impl Inner {
    async fn sign(mut self, key: &JobKey, completion: ConsumerCompletion, cost: Wei) {
        if let Some(reservation) = &mut self.reservation
            && let Err(over) = reservation.sign(key, cost).await
        {
            tracing::error!(job = %key, %over, "job not signed");
            let failure = FailureReason {
                reason: over.to_string(),
                reason_class: Some(REASON_PROTOCOL_VIOLATION),
            };
            return self.fail(key, failure).await;
        }
        let signed = self.complete(key, completion).await;
        // Not known is as good as signed: the books must not show less than may be owed.
        let spent = !matches!(
            signed,
            Err(CompleteJobError::InvalidJobId
                | CompleteJobError::InvalidConsumerPeerId
                | CompleteJobError::AlreadyFailed(_))
        );
        match signed {
            Ok(()) => {
                count(&self.counters.signed);
                tracing::info!(job = %key, cost = %cost, "job signed");
            }
            Err(error) => tracing::error!(job = %key, cost = %cost, %error, "job not signed"),
        }
        match self.reservation.take() {
            Some(reservation) if spent => reservation.settle(key, cost),
            Some(reservation) => reservation.release(key).await,
            None => {}
        }
    }

    async fn complete(
        &self,
        key: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        let mut attempt = 1;
        loop {
            match self.node.complete_job(key, completion.clone()).await {
                Err(CompleteJobError::Node(error)) if attempt < END_ATTEMPTS => {
                    tracing::debug!(job = %key, %error, attempt, "signing is tried again");
                }
                Err(CompleteJobError::AlreadyCompleted) => return Ok(()),
                ended => return ended,
            }
            wait(attempt).await;
            attempt += 1;
        }
    }

    async fn fail(self, key: &JobKey, failure: FailureReason) {
        let Self {
            node, reservation, ..
        } = self;
        drop(reservation);
        let mut attempt = 1;
        loop {
            match node.fail_job(key, failure.clone()).await {
                Err(FailJobError::Node(error)) if attempt < END_ATTEMPTS => {
                    tracing::debug!(job = %key, %error, attempt, "giving up is tried again");
                }
                // An own offer's job is one with its provider's, which may have failed it.
                Ok(()) | Err(FailJobError::AlreadyFailed(_)) => {
                    return tracing::debug!(job = %key, "job given up");
                }
                Err(error) => {
                    return tracing::warn!(job = %key, %error, "job not given up");
                }
            }
            wait(attempt).await;
            attempt += 1;
        }
    }
}

async fn wait(attempt: u32) {
    let jitter = rand::rng().random_range(0.5..1.0);
    let doubled = END_RETRY.saturating_mul(1 << attempt.min(5));
    tokio::time::sleep(doubled.mul_f64(jitter)).await;
}

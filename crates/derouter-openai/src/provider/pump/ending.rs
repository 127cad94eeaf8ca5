//! Ends jobs: completed and owed, or failed and free.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use derouter_sdk::wire::cbor;
use derouter_sdk::{
    FailJobError, FailureReason, JobKey, NodeDesk, ProviderCompleteError, ProviderCompletion,
    ProviderDesk, UnixSeconds, Wei,
};
use rand::Rng;
use tokio::time::{Instant, sleep};

use super::{Answered, Offer, Pump, Shared, Unanswered};
use crate::protocol::{EPILOGUE_OBJECT, Epilogue, REASON_SERVICE_ERROR, Usage};
use crate::provider::admission::Consumer;
use crate::provider::admission::Slot;
use crate::provider::job::Absence;
use crate::provider::trial::Tasting;

/// How often a node that can't be reached is asked again: over the RPC it may be restarting. With
/// the pauses below that is about 15 s, as long as a consumer waits for an epilogue.
const ATTEMPTS: u32 = 6;

/// The first pause, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl Pump {
    /// Completes the job, then says so: the consumer signs only what is on our disk.
    pub(super) async fn complete(&self, answered: Answered, slot: Slot, begin: Instant) {
        let usage = answered.usage.usage;
        let Some(cost) = self.offer.payload.cost(&usage) else {
            let failure = super::Failure::plain("the answer's price is too large");
            drop(slot);
            return self.fail(&Unanswered::Failed(failure), begin).await;
        };
        let cost = after_trial(
            &self.shared,
            &self.offer,
            &self.job.key,
            self.consumer,
            cost,
        )
        .await;
        let completion = ProviderCompletion {
            balance_delta: (!cost.is_zero()).then_some(cost),
            public_payload: self.request.public_payload(&answered.usage.json),
            private_payload: answered.recorder.map(super::Recorder::payload),
        };
        let recorded = record_completion(self.desk().as_ref(), &self.job.key, &completion).await;
        // Before the epilogue: who has read that may come with the next job.
        drop(slot);
        match recorded {
            Ok(completed_at) => {
                let epilogue = self.epilogue(completion, completed_at);
                self.job
                    .log
                    .append(Bytes::from(cbor::to_framed_vec(&epilogue)));
                self.job.log.end();
                self.completed(usage, cost, answered.usage.estimated, begin);
            }
            Err(error) => {
                self.job.log.end();
                self.shared.counters.jobs_failed.increment();
                tracing::error!(
                    job = %self.job.key.job_id, %error,
                    "an answered job could not be completed, so nothing is owed for it"
                );
            }
        }
    }

    fn epilogue(&self, completion: ProviderCompletion, completed_at: UnixSeconds) -> Epilogue {
        Epilogue {
            object: self.request.stream.then(|| EPILOGUE_OBJECT.to_owned()),
            public_payload: completion.public_payload,
            balance_delta: completion.balance_delta,
            completed_at_sync: completed_at,
        }
    }

    fn completed(&self, usage: Usage, cost: Wei, estimated: bool, begin: Instant) {
        let counters = &self.shared.counters;
        counters.jobs_completed.increment();
        counters.prompt_tokens.add(usage.prompt_tokens);
        counters.completion_tokens.add(usage.completion_tokens);
        let tokens = usage.prompt_tokens.saturating_add(usage.completion_tokens);
        self.shared.admission.served(self.consumer, tokens);
        self.offer.lane.earned(cost, tokens);
        if estimated {
            counters.usage_estimated.increment();
        }
        tracing::info!(
            job = %self.job.key.job_id,
            model = %self.offer.config.model_id,
            prompt_tokens = usage.prompt_tokens,
            completion_tokens = usage.completion_tokens,
            estimated,
            pol = %cost.to_pol_text(),
            ms = milliseconds(begin),
            "job completed"
        );
    }

    /// Fails the job. The consumer is told first, so that it can go on to the next provider.
    pub(super) async fn fail(&self, unanswered: &Unanswered, begin: Instant) {
        let (said, reason) = words(unanswered);
        self.job.log.fail(said);
        self.job.log.end();
        self.failed(unanswered, begin);
        // The node knows the job for sure once its consumer has connected, or much later.
        tokio::select! {
            () = self.job.connected() => {}
            () = sleep(self.shared.limits.connection) => {}
            () = self.shared.stop.cancelled() => {}
        }
        let failure = FailureReason {
            reason,
            reason_class: Some(REASON_SERVICE_ERROR),
        };
        record_failure(self.desk().as_ref(), &self.job.key, failure).await;
    }

    fn failed(&self, unanswered: &Unanswered, begin: Instant) {
        let job = &self.job.key.job_id;
        let model = &self.offer.config.model_id;
        let ms = milliseconds(begin);
        match unanswered {
            Unanswered::Failed(failure) => {
                self.shared.counters.jobs_failed.increment();
                let backend = self.offer.backend.shown();
                tracing::warn!(
                    %job, %model, %backend, ms, reason = %failure.message, detail = %failure.detail,
                    "job failed by its backend"
                );
            }
            Unanswered::Abandoned(absence) => {
                self.shared.counters.jobs_abandoned.increment();
                tracing::info!(%job, %model, ms, ?absence, "job abandoned by its consumer");
            }
            Unanswered::Stopped => {
                self.shared.counters.jobs_failed.increment();
                tracing::info!(%job, %model, ms, "job stopped with the provider");
            }
        }
    }

    fn desk(&self) -> Arc<dyn ProviderDesk> {
        let own = || -> Arc<dyn ProviderDesk> { Arc::new(NodeDesk(Arc::clone(&self.shared.node))) };
        self.job.desk().unwrap_or_else(own)
    }
}

/// What an answer costs its consumer: nothing within the offer's trial.
pub(in crate::provider) async fn after_trial(
    shared: &Shared,
    offer: &Offer,
    job: &JobKey,
    consumer: Consumer,
    cost: Wei,
) -> Wei {
    let (Some(trial), Some(consumer)) = (offer.config.terms.trial, consumer) else {
        return cost;
    };
    let tasting = Tasting {
        provider: job.provider,
        consumer,
        offer_id: &offer.id,
        trial,
        cost,
    };
    shared.trials.price(shared.node.as_ref(), &tasting).await
}

/// Completes a job with the node, which may be restarting. Returns when it was completed.
pub(in crate::provider) async fn record_completion(
    desk: &dyn ProviderDesk,
    job: &JobKey,
    completion: &ProviderCompletion,
) -> Result<UnixSeconds, ProviderCompleteError> {
    let mut pauses = pauses();
    loop {
        match desk.complete(job, completion.clone()).await {
            // A first attempt whose answer was lost.
            Err(ProviderCompleteError::AlreadyCompleted { completed_at_sync }) => {
                return Ok(completed_at_sync);
            }
            Err(ProviderCompleteError::Node(error)) => match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return Err(error.into()),
            },
            ended => return ended,
        }
    }
}

/// Fails a job with the node, which may be restarting.
pub(in crate::provider) async fn record_failure(
    desk: &dyn ProviderDesk,
    job: &JobKey,
    failure: FailureReason,
) {
    for pause in pauses() {
        match desk.fail(job, failure.clone()).await {
            Err(FailJobError::Node(_)) => sleep(pause).await,
            Ok(()) | Err(FailJobError::AlreadyFailed(_)) => return,
            Err(error) => {
                tracing::warn!(job = %job.job_id, %error, "a job could not be failed");
                return;
            }
        }
    }
    tracing::warn!(job = %job.job_id, "the node could not be told that a job failed");
}

/// What the consumer is told, and the reason in the job's record.
fn words(unanswered: &Unanswered) -> (&str, String) {
    match unanswered {
        Unanswered::Failed(failure) => (failure.told(), failure.message.clone()),
        Unanswered::Abandoned(Absence::NeverCame) => {
            let reason = "the consumer did not connect in time";
            (reason, reason.to_owned())
        }
        Unanswered::Abandoned(Absence::WentAway) => {
            let reason = "the consumer went away";
            (reason, reason.to_owned())
        }
        Unanswered::Stopped => {
            let reason = "the provider is shutting down";
            (reason, reason.to_owned())
        }
    }
}

/// Growing pauses with jitter, one fewer than attempts.
fn pauses() -> impl Iterator<Item = Duration> {
    let pause = |attempt: u32| {
        let whole = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempt));
        whole.mul_f64(rand::rng().random_range(0.5..1.5))
    };
    (0..ATTEMPTS).map(pause)
}

fn milliseconds(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

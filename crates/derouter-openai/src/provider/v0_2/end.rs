//! Ends of jobs: completed and billed, or failed and free.

use derouter_sdk::{FailureReason, ProviderCompletion, Wei};
use tokio::time::Instant;

use super::ask::Ask;
use super::serve::{Ended, Job, Sent, Writer};
use super::usage::settle;
use crate::protocol::REASON_SERVICE_ERROR;
use crate::protocol::v0_2::frames::Frame;
use crate::protocol::v0_2::{Epilogue, Failed, PublicPayload};
use crate::provider::backend::Failure;
use crate::provider::pump::ending::{after_trial, record_completion, record_failure};
use crate::terms::Metered;
use crate::transcript::Transcript;

impl Job<'_> {
    /// Completes the job and sends the bill. Gives the tokens that were used.
    pub(super) async fn complete(
        &self,
        ask: &Ask,
        sent: &Sent,
        cancelled: bool,
        writer: &mut Writer,
    ) -> u64 {
        let (used, estimated) = settle(&sent.meter, ask);
        let Some(cost) = self.sold.terms.prices.cost(&used) else {
            let failure = Failure::plain("the answer's price is too large");
            self.fail(writer, &Ended::Failed(failure), sent).await;
            return 0;
        };
        // An empty answer costs nothing, the request neither.
        let cost = match sent.meter.says_something() {
            true => cost,
            false => Wei::ZERO,
        };
        let (shared, offer) = (self.shared, &self.sold.offer);
        let cost = after_trial(shared, offer, self.key, self.consumer, cost).await;
        let public = PublicPayload {
            path: ask.endpoint.path().to_owned(),
            model: ask.model.clone(),
            request_sha256: ask.sha256.clone(),
            cancelled,
            usage: used.into(),
        };
        let completion = ProviderCompletion {
            balance_delta: (!cost.is_zero()).then_some(cost),
            // Plain data, which JSON can always hold.
            public_payload: serde_json::to_string(&public).unwrap_or_default(),
            private_payload: sent.transcript.as_ref().map(Transcript::payload),
        };
        match record_completion(self.desk, self.key, &completion).await {
            Ok(completed_at) => {
                let epilogue = Epilogue {
                    public_payload: completion.public_payload,
                    balance_delta: completion.balance_delta,
                    completed_at,
                };
                let told = self.write(writer, &Frame::epilogue(&epilogue)).await;
                if told.is_err() {
                    tracing::debug!(job = %self.key.job_id, "the consumer did not take its bill; it can ask for it");
                }
                self.completed(&used, cost, estimated, cancelled);
            }
            Err(error) => {
                self.shared.counters.jobs_failed.increment();
                tracing::error!(
                    job = %self.key.job_id, %error,
                    "an answered job could not be completed, so nothing is owed for it"
                );
            }
        }
        used.input.saturating_add(used.output)
    }

    fn completed(&self, used: &Metered, cost: Wei, estimated: bool, cancelled: bool) {
        let counters = &self.shared.counters;
        counters.jobs_completed.increment();
        counters.prompt_tokens.add(used.input);
        counters.completion_tokens.add(used.output);
        let tokens = used.input.saturating_add(used.output);
        self.sold.offer.lane.earned(cost, tokens);
        if estimated {
            counters.usage_estimated.increment();
        }
        tracing::info!(
            job = %self.key.job_id,
            model = %self.sold.terms.model(),
            input_tokens = used.input,
            output_tokens = used.output,
            estimated,
            cancelled,
            pol = %cost.to_pol_text(),
            ms = milliseconds(self.begin),
            "job completed"
        );
    }

    /// Fails the job. The consumer is told first, so that it can go on to the next provider.
    pub(super) async fn fail(&self, writer: &mut Writer, ended: &Ended, sent: &Sent) {
        let (job, ms) = (&self.key.job_id, milliseconds(self.begin));
        let stopping = Failure::plain("the provider is shutting down");
        let gone = Failure::plain("the consumer went away");
        let failure = match ended {
            Ended::Failed(failure) => {
                self.shared.counters.jobs_failed.increment();
                self.sold.offer.lane.failed();
                tracing::warn!(
                    %job, ms, begun = sent.begun, backend = %self.sold.offer.backend.shown(),
                    reason = %failure.message, detail = %failure.detail, "job failed by its backend"
                );
                failure
            }
            Ended::Stopped => {
                self.shared.counters.jobs_failed.increment();
                &stopping
            }
            Ended::Complete | Ended::Cancelled => {
                self.shared.counters.jobs_abandoned.increment();
                tracing::info!(%job, ms, "job abandoned by its consumer");
                &gone
            }
        };
        let failed = Failed {
            message: failure.told().to_owned(),
            status: failure.status,
        };
        // A consumer that is gone needs no word.
        let _ = self.write(writer, &Frame::failed(&failed)).await;
        let reason = FailureReason {
            reason: failure.message.clone(),
            reason_class: Some(REASON_SERVICE_ERROR),
        };
        record_failure(self.desk, self.key, reason).await;
    }
}

fn milliseconds(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

//! A job as one flat record.

use derouter_sdk::wire::job::JobHash;
use derouter_sdk::wire::job::JobWire;
use derouter_store::StoredJob;
use derouter_store::market::job::{Failure, Outcome, SignatureState, Stage};
use derouter_store::market::{Job, JobState, Role};
use serde::Serialize;

use crate::text;

/// A job as a line of JSON: with all that its hash covers, so that the signature can be checked by
/// whoever has the line. Times are Unix seconds, `_sync` ones by the provider's clock; amounts wei.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) row: u64,
    pub(crate) wire: &'static str,
    pub(crate) role: &'static str,
    pub(crate) state: &'static str,
    pub(crate) provider: String,
    pub(crate) job_id: &'a str,
    pub(crate) consumer: String,
    pub(crate) protocol_id: &'a str,
    pub(crate) offer_id: &'a str,
    pub(crate) offer_payload: &'a str,
    pub(crate) currency: &'static str,
    pub(crate) balance_delta: Option<String>,
    #[serde(skip)]
    pub(crate) balance_pol: Option<String>,
    pub(crate) created_at_sync: u64,
    pub(crate) created_at_local: u64,
    pub(crate) completed_at_sync: Option<u64>,
    pub(crate) completed_at_local: Option<u64>,
    pub(crate) public_payload: Option<&'a str>,
    pub(crate) job_hash: Option<String>,
    pub(crate) signature: Option<String>,
    pub(crate) provider_signature: Option<String>,
    pub(crate) confirmed_at_local: Option<u64>,
    pub(crate) delivery_attempts: Option<u32>,
    pub(crate) confirmation_error: Option<&'a str>,
    pub(crate) disputed_at_local: Option<u64>,
    pub(crate) failed_at_local: Option<u64>,
    pub(crate) failure_cause: Option<&'static str>,
    pub(crate) failure_reason: Option<&'a str>,
    pub(crate) failure_class: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_args: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_payload: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// `payloads`: with what was asked and what this side keeps for itself.
    pub(crate) fn new(stored: &'a StoredJob, payloads: bool) -> Self {
        let job = &stored.job;
        let mut record = Self {
            row: job.row_id.0,
            wire: match job.wire {
                JobWire::V0_1 => "0.1",
                JobWire::V0_2 => "0.2",
            },
            role: role(job),
            state: "",
            provider: job.key.provider.to_string(),
            job_id: job.key.job_id.as_str(),
            consumer: job.consumer.to_string(),
            protocol_id: job.offer.protocol_id.as_str(),
            offer_id: job.offer.offer_id.as_str(),
            offer_payload: &job.offer.payload,
            currency: job.currency.code(),
            balance_delta: None,
            balance_pol: None,
            created_at_sync: job.created_at_sync.0,
            created_at_local: job.created_at_local.0,
            completed_at_sync: None,
            completed_at_local: None,
            public_payload: None,
            job_hash: job.hash().map(|JobHash(hash)| hex::encode(hash)),
            signature: None,
            provider_signature: None,
            disputed_at_local: None,
            confirmed_at_local: None,
            delivery_attempts: None,
            confirmation_error: None,
            failed_at_local: None,
            failure_cause: None,
            failure_reason: None,
            failure_class: None,
            job_args: stored.job_args.as_deref().filter(|_| payloads),
            private_payload: job.private_payload.as_deref().filter(|_| payloads),
        };
        match &job.state {
            JobState::Open(stage) => {
                record.state = match stage {
                    Stage::Created => "created",
                    Stage::Accepted => "accepted",
                    Stage::Running => "running",
                }
            }
            JobState::Failed(failure) => record.fail(failure),
            JobState::Completed {
                outcome,
                signature,
                provider_signature,
            } => {
                record.complete(outcome);
                record.sign(signature);
                record.provider_signature = provider_signature.as_ref().map(hex::encode);
            }
        }
        record
    }

    fn fail(&mut self, failure: &'a Failure) {
        self.state = "failed";
        self.failed_at_local = Some(failure.at_local.0);
        self.failure_cause = Some(failure.cause.name());
        self.failure_reason = Some(&failure.reason.reason);
        self.failure_class = failure.reason.reason_class;
    }

    fn complete(&mut self, outcome: &'a Outcome) {
        self.balance_delta = outcome.balance_delta.map(|wei| wei.to_string());
        self.balance_pol = outcome.balance_delta.map(|wei| wei.to_pol_text());
        self.completed_at_sync = Some(outcome.completed_at_sync.0);
        self.completed_at_local = Some(outcome.completed_at_local.0);
        self.public_payload = Some(&outcome.public_payload);
    }

    fn sign(&mut self, state: &'a SignatureState) {
        let (name, signature) = match state {
            SignatureState::Awaited => ("awaited", None),
            SignatureState::Disputed { reason, at_local } => {
                self.confirmation_error = Some(reason);
                self.disputed_at_local = Some(at_local.0);
                ("disputed", None)
            }
            SignatureState::Undelivered {
                signature,
                attempts,
                last_error,
            } => {
                self.delivery_attempts = Some(*attempts);
                self.confirmation_error = last_error.as_deref();
                ("undelivered", Some(signature))
            }
            SignatureState::Refused { signature, error } => {
                self.confirmation_error = Some(error);
                ("refused", Some(signature))
            }
            SignatureState::Confirmed {
                signature,
                at_local,
            } => {
                self.confirmed_at_local = Some(at_local.0);
                ("confirmed", Some(signature))
            }
        };
        self.state = name;
        self.signature = signature.map(hex::encode);
    }
}

fn role(job: &Job) -> &'static str {
    match job.role {
        Role::Consumer => "consumer",
        Role::Provider => "provider",
    }
}

/// What a spreadsheet needs of a job: times as text (UTC), amounts in POL.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    row: u64,
    created: String,
    completed: Option<String>,
    role: &'static str,
    state: &'static str,
    amount: Option<String>,
    currency: &'static str,
    provider: String,
    consumer: String,
    protocol: String,
    offer: String,
    job_id: String,
    job_hash: Option<String>,
    signature: Option<String>,
    confirmed: Option<String>,
    error: Option<String>,
}

impl From<Record<'_>> for Row {
    fn from(record: Record<'_>) -> Self {
        let error = record.failure_reason.or(record.confirmation_error);
        Self {
            row: record.row,
            created: text::day_and_time(record.created_at_local),
            completed: record.completed_at_local.map(text::day_and_time),
            role: record.role,
            state: record.state,
            amount: record.balance_pol,
            currency: record.currency,
            provider: record.provider,
            consumer: record.consumer,
            protocol: inert(record.protocol_id),
            offer: inert(record.offer_id),
            job_id: inert(record.job_id),
            job_hash: record.job_hash,
            signature: record.signature,
            confirmed: record.confirmed_at_local.map(text::day_and_time),
            error: error.map(inert),
        }
    }
}

/// Text of others that no spreadsheet takes for a formula.
fn inert(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc_and_formulas_are_disarmed() {
        assert_eq!(text::day_and_time(1_769_817_601), "2026-01-31T00:00:01Z");
        assert_eq!(text::day_and_time(u64::MAX), u64::MAX.to_string());
        assert_eq!(inert("=1+1"), "'=1+1");
        assert_eq!(inert("llama3.2"), "llama3.2");
    }
}

//! Jobs as modules see them.

use derouter_market::job::{Job, JobState, SignatureState};
use derouter_wire::rpc::record::JobRecord;

/// The record of a job. `offer_active`: whether its offer is on the market now.
pub(crate) fn job_record(job: &Job, offer_active: bool) -> JobRecord {
    let mut record = JobRecord {
        job_rowid: job.row_id,
        provider_job_id: job.key.job_id.clone(),
        provider_peer_id: job.key.provider,
        consumer_peer_id: job.consumer,
        offer_id: job.offer.offer_id.clone(),
        offer_snapshot_rowid: job.offer.snapshot_id,
        offer_protocol_id: job.offer.protocol_id.clone(),
        offer_payload: job.offer.payload.clone(),
        offer_active,
        currency: job.currency,
        balance_delta: None,
        public_payload: None,
        private_payload: job.private_payload.clone(),
        reason: None,
        reason_class: None,
        created_at_local: job.created_at_local,
        created_at_sync: job.created_at_sync,
        completed_at_local: None,
        completed_at_sync: None,
        signature_confirmed_at_local: None,
        confirmation_error: None,
    };
    match &job.state {
        JobState::Open(_) => {}
        JobState::Failed(failure) => {
            record.reason = Some(failure.reason.reason.clone());
            record.reason_class = failure.reason.reason_class;
            record.completed_at_local = Some(failure.at_local);
        }
        JobState::Completed {
            outcome, signature, ..
        } => {
            record.balance_delta = outcome.balance_delta.map(|wei| wei.to_string());
            record.public_payload = Some(outcome.public_payload.clone());
            record.completed_at_local = Some(outcome.completed_at_local);
            record.completed_at_sync = Some(outcome.completed_at_sync);
            fill_signature(&mut record, signature);
        }
    }
    record
}

fn fill_signature(record: &mut JobRecord, signature: &SignatureState) {
    match signature {
        SignatureState::Awaited => {}
        SignatureState::Disputed { reason, .. } => {
            record.confirmation_error = Some(reason.clone());
        }
        SignatureState::Undelivered { last_error, .. } => {
            record.confirmation_error = last_error.clone();
        }
        SignatureState::Refused { error, .. } => record.confirmation_error = Some(error.clone()),
        SignatureState::Confirmed { at_local, .. } => {
            record.signature_confirmed_at_local = Some(*at_local);
        }
    }
}

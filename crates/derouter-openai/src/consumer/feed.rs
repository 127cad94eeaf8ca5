//! Keeps the gateway's knowledge of the node: the offers, as they change, and at the start what
//! was spent in earlier runs.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{
    JobFilter, JobKey, JobQuery, JobRecord, NodeError, NodeState, OfferFilter, PeerId, RowId, Wei,
};
use rand::Rng;
use serde_json::Value;

use super::gateway::Gateway;
use super::journal::Journal;
use super::ledger::Ledger;
use crate::protocol::{OfferPayload, PROTOCOL, Usage, protocol_ids};
use derouter_sdk::wire::rpc::record::parse_hex_balance;

/// Jobs asked for at once: the most that the RPC allows.
const PAGE: u32 = 100;

/// The first and the longest wait before the node is asked again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A wait that doubles, with jitter.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(FIRST_RETRY)
    }

    async fn wait(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(self.0.mul_f64(jitter)).await;
        self.0 = self.0.saturating_mul(2).min(LONGEST_RETRY);
    }
}

/// Follows the offers for as long as the gateway runs.
pub(crate) async fn follow_offers(gateway: Arc<Gateway>) {
    let mut backoff = Backoff::new();
    loop {
        let filter = OfferFilter {
            protocol_ids: Some(protocol_ids()),
            ..OfferFilter::default()
        };
        match gateway.node.watch_offers(filter).await {
            Ok(mut watch) => {
                backoff = Backoff::new();
                while let Some(event) = watch.next().await {
                    let left_out = gateway.apply(event);
                    if left_out > 0 {
                        tracing::debug!(left_out, "too many offers to keep them all");
                    }
                }
                tracing::warn!("the node tells no more of its offers");
            }
            Err(error) => tracing::warn!(%error, "can't follow the offers yet"),
        }
        backoff.wait().await;
    }
}

/// Follows whether the node takes new work. A node that does not tell is asked for jobs until it
/// refuses them.
pub(crate) async fn follow_state(gateway: Arc<Gateway>) {
    let mut backoff = Backoff::new();
    loop {
        match gateway.node.watch_state().await {
            Ok(mut watch) => {
                backoff = Backoff::new();
                while let Some(state) = watch.next().await {
                    let draining = matches!(state, NodeState::Draining { .. });
                    gateway.set_draining(draining);
                    if draining {
                        tracing::info!(
                            "the node is shutting down: answers that run go on, new requests are refused"
                        );
                    }
                }
            }
            Err(NodeError::Unsupported(_)) => return,
            Err(error) => tracing::debug!(%error, "can't follow the node's state yet"),
        }
        backoff.wait().await;
    }
}

/// Learns who the node is and what it spent, asking until it answers.
pub(crate) async fn learn_past(gateway: Arc<Gateway>) {
    let mut backoff = Backoff::new();
    let mut after = None;
    loop {
        match read_past(&gateway, &mut after).await {
            Ok(own) => {
                gateway.ledger.remember_keys();
                return gateway.set_ready(own);
            }
            Err(error) => tracing::warn!(%error, "can't learn yet what was spent before"),
        }
        backoff.wait().await;
    }
}

/// Reads on behind `after`, and moves it, so that no job counts twice.
async fn read_past(gateway: &Gateway, after: &mut Option<RowId>) -> Result<PeerId, NodeError> {
    let own = gateway.node.peer_id().await?;
    let limits = &gateway.config.limits;
    let limits = [limits.daily, limits.provider_daily, limits.total];
    let journal = gateway.ledger.journal();
    if limits.iter().all(Option::is_none) && !journal.is_some_and(Journal::has_open) {
        return Ok(own);
    }
    loop {
        let query = JobQuery {
            after: *after,
            newest_first: false,
            filter: JobFilter {
                protocol_ids: Some(protocol_ids()),
                provider_peer_ids: None,
                consumer_peer_ids: Some(vec![own]),
            },
            limit: PAGE,
        };
        let page = gateway.node.jobs(&query).await?;
        let Some(last) = page.iter().map(|job| job.job_rowid).max() else {
            return Ok(own);
        };
        if after.is_some_and(|after| last <= after) {
            return Err(NodeError::Protocol(
                "a page of jobs that was asked for before".into(),
            ));
        }
        for job in page.iter().filter(|job| job.provider_peer_id != own) {
            remember(&gateway.ledger, job);
        }
        *after = Some(last);
    }
}

fn remember(ledger: &Ledger, job: &JobRecord) {
    if let Some(spent) = spent_on(job) {
        let at = job.completed_at_local.or(job.completed_at_sync);
        // The later one: a clock may have been set back between them.
        let at = at.map_or(job.created_at_local, |at| at.max(job.created_at_local));
        return ledger.remember(job.provider_peer_id, spent, at);
    }
    // An open job of an earlier run may be signed still, in a call that is on its way.
    let failed = job.reason.is_some() || job.reason_class.is_some();
    if let Some(journal) = ledger.journal().filter(|_| failed) {
        journal.was_not_signed(&JobKey {
            provider: job.provider_peer_id,
            job_id: job.provider_job_id.clone(),
        });
    }
}

/// What this node agreed to pay for a job of its own.
fn spent_on(job: &JobRecord) -> Option<Wei> {
    if job.reason.is_some() || job.reason_class.is_some() {
        return None;
    }
    let balance = job.balance_delta.as_deref()?;
    let decimal = balance.parse().ok();
    // A 0.1 node tells its own jobs' balances in hex. What is right is known by what was used.
    let hex = parse_hex_balance(balance);
    match bill(job) {
        Some(right) if decimal == Some(right) || hex == Some(right) => Some(right),
        _ => decimal.or(hex),
    }
}

/// What a job costs by its offer and its public payload.
fn bill(job: &JobRecord) -> Option<Wei> {
    if job.offer_protocol_id.as_str() != PROTOCOL {
        // No node of 0.1 has such a job.
        return None;
    }
    let payload: Value = serde_json::from_str(job.public_payload.as_deref()?).ok()?;
    let usage = Usage::from_json(payload.get("response")?.get("usage")?)?;
    OfferPayload::parse(&job.offer_payload)?.cost(&usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::{Currency, JobId, OfferId, SnapshotId, UnixSeconds};

    fn job(balance: Option<&str>, usage: &str) -> JobRecord {
        JobRecord {
            job_rowid: RowId(1),
            provider_job_id: JobId::new("j").unwrap(),
            provider_peer_id: PeerId::random(),
            consumer_peer_id: PeerId::random(),
            offer_id: OfferId::new("o").unwrap(),
            offer_snapshot_rowid: SnapshotId(1),
            offer_protocol_id: crate::protocol::protocol_id(),
            offer_payload: r#"{"model_id":"m","context_size":1,"input_token_price":{"$pol":"1000000"},"output_token_price":{"$pol":"0"}}"#.into(),
            offer_active: true,
            currency: Currency::Pol,
            balance_delta: balance.map(Into::into),
            public_payload: Some(format!(r#"{{"request":{{}},"response":{{"usage":{usage}}}}}"#)),
            private_payload: None,
            reason: None,
            reason_class: None,
            created_at_local: UnixSeconds(1),
            created_at_sync: UnixSeconds(1),
            completed_at_local: Some(UnixSeconds(2)),
            completed_at_sync: Some(UnixSeconds(2)),
            signature_confirmed_at_local: None,
            confirmation_error: None,
        }
    }

    const THIRTY: &str = r#"{"prompt_tokens":30,"completion_tokens":0}"#;
    const ZERO: &str = r#"{"prompt_tokens":0,"completion_tokens":0}"#;

    #[test]
    fn a_balance_is_read_as_decimal_or_as_the_hex_of_a_0_1_node() {
        assert_eq!(spent_on(&job(Some("30"), THIRTY)), Some(Wei::from_wei(30)));
        assert_eq!(
            spent_on(&job(Some("30"), ZERO)),
            Some(Wei::ZERO),
            "hex of 0"
        );
        assert_eq!(
            spent_on(&job(Some("3330"), THIRTY)),
            Some(Wei::from_wei(30))
        );
        assert_eq!(
            spent_on(&job(Some("3330"), "null")),
            Some(Wei::from_wei(3330))
        );
        assert_eq!(spent_on(&job(None, THIRTY)), None);
    }

    #[test]
    fn failed_jobs_cost_nothing() {
        let mut failed = job(Some("30"), THIRTY);
        failed.reason = Some("no".into());
        assert_eq!(spent_on(&failed), None);
    }
}

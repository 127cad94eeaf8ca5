//! What both sides of a trade have on record, read through their RPC.

use std::collections::HashSet;

use derouter_sdk::{JobId, JobQuery, JobRecord, Node, NodeError, RowId, TcpNode, TcpOptions};

use crate::process::Ready;
use crate::wait::eventually;

/// Rows of a page, the most that the RPC gives.
const PAGE: u32 = 100;

/// One job as both sides have it.
#[derive(Clone, Debug)]
pub struct Trade {
    /// The provider's row.
    pub provider: JobRecord,
    /// The consumer's row.
    pub consumer: JobRecord,
}

/// The jobs of a pair. Each call looks at the jobs made since the last.
#[derive(Debug)]
pub struct Ledger {
    provider: TcpNode,
    consumer: TcpNode,
    known: HashSet<JobId>,
}

/// A node over its RPC.
pub fn node(ready: &Ready) -> TcpNode {
    TcpNode::connect(ready.rpc.to_string(), TcpOptions::default())
}

/// All jobs of a node, oldest first.
pub async fn jobs(node: &TcpNode) -> Vec<JobRecord> {
    try_jobs(node).await.expect("the node answers QueryJobs")
}

/// All jobs of a node, oldest first; none when it does not answer.
pub async fn jobs_or_none(node: &TcpNode) -> Vec<JobRecord> {
    try_jobs(node).await.unwrap_or_default()
}

/// All jobs of a node, oldest first.
pub async fn try_jobs(node: &TcpNode) -> Result<Vec<JobRecord>, NodeError> {
    let mut all = Vec::new();
    let mut after: Option<RowId> = None;
    loop {
        let query = JobQuery {
            after,
            limit: PAGE,
            ..JobQuery::default()
        };
        let page = node.jobs(&query).await?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        after = Some(last.job_rowid);
        all.extend(page);
    }
}

fn is_signed(job: &JobRecord) -> bool {
    job.signature_confirmed_at_local.is_some()
}

fn is_failed(job: &JobRecord) -> bool {
    job.reason.is_some()
}

impl Trade {
    /// Panics unless both sides have the same of what was signed.
    fn check_signed(&self) {
        let (sold, bought) = (&self.provider, &self.consumer);
        assert_eq!(sold.provider_peer_id, bought.provider_peer_id);
        assert_eq!(sold.consumer_peer_id, bought.consumer_peer_id);
        assert_ne!(sold.consumer_peer_id, sold.provider_peer_id);
        assert_eq!(sold.offer_payload, bought.offer_payload);
        assert_eq!(sold.offer_protocol_id, bought.offer_protocol_id);
        assert_eq!(sold.public_payload, bought.public_payload);
        assert_eq!(sold.balance_delta, bought.balance_delta);
        assert_eq!(sold.created_at_sync, bought.created_at_sync);
        assert_eq!(sold.completed_at_sync, bought.completed_at_sync);
        assert!(sold.public_payload.is_some() && sold.completed_at_sync.is_some());
        for job in [sold, bought] {
            assert_eq!(job.reason, None);
            assert_eq!(job.confirmation_error, None);
        }
    }
}

impl Ledger {
    /// Looks at the jobs made from now on.
    pub async fn open(provider: &Ready, consumer: &Ready) -> Self {
        let mut ledger = Self {
            provider: node(provider),
            consumer: node(consumer),
            known: HashSet::new(),
        };
        let old = jobs(&ledger.consumer).await;
        ledger
            .known
            .extend(old.into_iter().map(|job| job.provider_job_id));
        ledger
    }

    /// The consumer's rows made since the last call.
    async fn fresh(&self) -> Vec<JobRecord> {
        let mut all = jobs(&self.consumer).await;
        all.retain(|job| !self.known.contains(&job.provider_job_id));
        all
    }

    async fn wait(
        &mut self,
        what: &str,
        count: usize,
        good: impl Fn(&JobRecord, Option<&JobRecord>) -> bool,
    ) -> Vec<(JobRecord, Option<JobRecord>)> {
        let what = format!("{count} jobs {what}");
        let found = eventually(&what, async || {
            let bought = self.fresh().await;
            let sold = jobs(&self.provider).await;
            let pairs: Vec<_> = bought
                .into_iter()
                .map(|bought| {
                    let id = &bought.provider_job_id;
                    let sold = sold.iter().find(|sold| sold.provider_job_id == *id);
                    (bought.clone(), sold.cloned())
                })
                .collect();
            let all_good = pairs
                .iter()
                .all(|(bought, sold)| good(bought, sold.as_ref()));
            (pairs.len() == count && all_good).then_some(pairs)
        })
        .await;
        let ids = found
            .iter()
            .map(|(bought, _)| bought.provider_job_id.clone());
        self.known.extend(ids);
        found
    }

    /// Waits until `count` new jobs are there, each completed by both sides and its signature
    /// confirmed on both, and checks that both sides have the same.
    pub async fn signed(&mut self, count: usize) -> Vec<Trade> {
        let both = |bought: &JobRecord, sold: Option<&JobRecord>| {
            is_signed(bought) && sold.is_some_and(is_signed)
        };
        let found = self.wait("signed on both sides", count, both).await;
        let trades = found.into_iter().filter_map(|(consumer, provider)| {
            let provider = provider?;
            Some(Trade { provider, consumer })
        });
        let trades: Vec<Trade> = trades.collect();
        for trade in &trades {
            trade.check_signed();
        }
        trades
    }

    /// Waits for one new job, signed on both sides.
    pub async fn one_signed(&mut self) -> Trade {
        let mut trades = self.signed(1).await;
        trades.pop().expect("one was waited for")
    }

    /// Waits for one new job that failed on both sides.
    pub async fn one_failed(&mut self) -> Trade {
        let both = |bought: &JobRecord, sold: Option<&JobRecord>| {
            is_failed(bought) && sold.is_some_and(is_failed)
        };
        let mut found = self.wait("failed on both sides", 1, both).await;
        let (consumer, provider) = found.pop().expect("one was waited for");
        let provider = provider.expect("both sides were waited for");
        Trade { provider, consumer }
    }

    /// Waits for `count` new jobs that their consumer has failed, and returns its rows. Works with
    /// a provider that is gone.
    pub async fn failed_by_consumer(&mut self, count: usize) -> Vec<JobRecord> {
        let what = format!("{count} jobs failed by their consumer");
        let found = eventually(&what, async || {
            let fresh = self.fresh().await;
            (fresh.len() == count && fresh.iter().all(is_failed)).then_some(fresh)
        })
        .await;
        self.known
            .extend(found.iter().map(|job| job.provider_job_id.clone()));
        found
    }

    /// Panics when there is a new job.
    pub async fn none(&self) {
        let fresh = self.fresh().await;
        assert!(fresh.is_empty(), "no job was to be made: {fresh:?}");
    }
}

//! [`LocalNode`]: the [`Node`] trait on the node itself.

use std::sync::Arc;
use std::time::Duration;

use derouter_market::Role;
use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobEvent,
    JobFilter, JobKey, JobQuery, JobRecord, JobStream, NetworkReport, Node, NodeError, NodeState,
    OfferEvent, OfferFilter, OfferSnapshot, OfferSpec, OpenJobError, PeerId, PeerQuery, PeerReport,
    PingError, PingReport, ProvideError, ProvideOptions, ProviderCompleteError, ProviderCompletion,
    ProviderEvent, ProviderRecord, ProviderService, Provision, RemoteJob, RemoteJobError,
    SnapshotId, UnixSeconds, Watch, async_trait,
};
use derouter_store::JobPage;
use derouter_wire::jobs::FailureCause;
use derouter_wire::limits::{RPC_FILTER_ITEMS, RPC_QUERY_ITEMS};

use crate::drain;
use crate::jobs::{self, internal};
use crate::network;
use crate::provided::{AddError, ProvisionId};
use crate::shared::Shared;
use crate::watches;

/// The longest [`Node::provide`] waits until its offers are on the market.
const PROVIDE_DEADLINE: Duration = Duration::from_secs(10);

/// The node, for modules in the same process.
#[derive(Clone)]
pub struct LocalNode {
    shared: Arc<Shared>,
    /// Whether jobs may be created while the node drains.
    finishes: bool,
}

impl LocalNode {
    /// For modules in this process. They take no new work themselves when the node drains, and may
    /// need another job for what they have begun.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            finishes: true,
        }
    }

    /// For modules elsewhere: no job is created once the node drains.
    pub(crate) fn of_modules(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            finishes: false,
        }
    }
}

/// Takes a provision's offers back when it is dropped.
struct WithdrawOnDrop {
    shared: Arc<Shared>,
    provision: ProvisionId,
}

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.shared.market().provided.remove(self.provision);
        // Full: a wish to refresh waits already, and will see this.
        let _ = self.shared.refresh.try_send(None);
    }
}

#[async_trait]
impl Node for LocalNode {
    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        Ok(self.shared.local)
    }

    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        self.shared.note_interest(filter);
        let market = self.shared.market();
        let matching = market
            .index
            .active_offers()
            .filter(|offer| filter.matches(offer));
        Ok(matching.cloned().collect())
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        let now = self.shared.clock.now();
        let market = self.shared.market();
        Ok(market
            .index
            .active_providers(now)
            .map(|record| record.peer_id)
            .collect())
    }

    async fn offer_snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        check_length("snapshot ids", ids.len(), RPC_QUERY_ITEMS)?;
        let rows = self
            .shared
            .store
            .snapshots(ids.to_vec())
            .await
            .map_err(internal)?;
        let market = self.shared.market();
        let snapshot = |row: derouter_store::SnapshotRow| OfferSnapshot {
            snapshot_id: row.id,
            active: market.index.is_active(row.id),
            provider_peer_id: row.provider,
            protocol_id: row.protocol_id,
            offer_id: row.offer_id,
            protocol_payload: row.payload,
        };
        Ok(rows.into_iter().map(snapshot).collect())
    }

    async fn providers(&self, ids: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        check_length("peer ids", ids.len(), RPC_QUERY_ITEMS)?;
        let rows = self
            .shared
            .store
            .providers(ids.to_vec())
            .await
            .map_err(internal)?;
        let market = self.shared.market();
        let record = |row: derouter_store::ProviderRow| {
            let live = market.index.provider(&row.peer).cloned();
            live.unwrap_or(ProviderRecord {
                peer_id: row.peer,
                name: row.name,
                teaser: row.teaser,
                description: row.description,
                updated_at: row.updated_at,
                latest_heartbeat_at: row.heard_at,
            })
        };
        Ok(rows.into_iter().map(record).collect())
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        if limit == 0 {
            return Err(NodeError::Invalid("limit must be 1 to 100".into()));
        }
        check_length("limit", limit, RPC_QUERY_ITEMS)?;
        let filter = &query.filter;
        let lengths = [
            filter.protocol_ids.as_ref().map(Vec::len),
            filter.provider_peer_ids.as_ref().map(Vec::len),
            filter.consumer_peer_ids.as_ref().map(Vec::len),
        ];
        for length in lengths.into_iter().flatten() {
            check_length("filter", length, RPC_FILTER_ITEMS)?;
        }
        let page = JobPage {
            after: query.after,
            protocol_ids: filter.protocol_ids.clone(),
            providers: filter.provider_peer_ids.clone(),
            consumers: filter.consumer_peer_ids.clone(),
            limit,
        };
        let jobs = self.shared.store.jobs_page(page).await.map_err(internal)?;
        Ok(jobs.iter().map(|job| self.shared.record(job)).collect())
    }

    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        self.shared.note_interest(&filter);
        Ok(watches::offers(&self.shared, filter))
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        Ok(watches::providers(&self.shared))
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        Ok(watches::jobs(&self.shared, filter))
    }

    async fn watch_state(&self) -> Result<Watch<NodeState>, NodeError> {
        Ok(drain::watch(&self.shared))
    }

    async fn provide(
        &self,
        offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        if self.shared.is_draining() || self.shared.stop.is_cancelled() {
            return Err(NodeError::ShuttingDown.into());
        }
        let added = self
            .shared
            .market()
            .provided
            .add(offers, options.max_unsigned, &service);
        let provision = added.map_err(|error| match error {
            AddError::Duplicate((protocol_id, offer_id)) => ProvideError::Duplicate {
                protocol_id,
                offer_id,
            },
            AddError::TooMany => {
                NodeError::Invalid("this node provides as many offers as it can".into()).into()
            }
        })?;
        let guard = WithdrawOnDrop {
            shared: Arc::clone(&self.shared),
            provision,
        };
        let (done, refreshed) = tokio::sync::oneshot::channel();
        let announced = async {
            let asked = self.shared.refresh.send(Some(done)).await;
            asked.map_err(|_| NodeError::ShuttingDown)?;
            let failed =
                |_| NodeError::Internal("the offers could not be stored; the log says why".into());
            refreshed.await.map_err(failed)
        };
        let announced = tokio::time::timeout(PROVIDE_DEADLINE, announced).await;
        announced.unwrap_or(Err(NodeError::Timeout(PROVIDE_DEADLINE.as_secs())))?;
        Ok(Provision::new(guard))
    }

    async fn create_job(
        &self,
        offer: SnapshotId,
        job_args: Option<String>,
    ) -> Result<JobKey, CreateJobError> {
        if !self.finishes && self.shared.is_draining() {
            return Err(NodeError::ShuttingDown.into());
        }
        jobs::create(&self.shared, offer, job_args).await
    }

    async fn open_job(&self, job: &JobKey) -> Result<JobStream, OpenJobError> {
        jobs::open(&self.shared, job).await
    }

    async fn remote_job(&self, job: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        jobs::remote(&self.shared, job).await
    }

    async fn complete_job(
        &self,
        job: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        jobs::complete_as_consumer(&self.shared, job, completion).await
    }

    async fn fail_job(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        jobs::fail(
            &self.shared,
            Role::Consumer,
            job,
            FailureCause::ConsumerGaveUp,
            failure,
        )
        .await
    }

    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        jobs::complete_as_provider(&self.shared, job, completion).await
    }

    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        jobs::fail(
            &self.shared,
            Role::Provider,
            job,
            FailureCause::ProviderGaveUp,
            failure,
        )
        .await
    }

    async fn network(&self) -> Result<NetworkReport, NodeError> {
        network::report(&self.shared.net).await
    }

    async fn peers(&self, query: &PeerQuery) -> Result<Vec<PeerReport>, NodeError> {
        network::peers(&self.shared.net, query).await
    }

    async fn ping(
        &self,
        peer: PeerId,
        address: Option<String>,
        timeout: Duration,
    ) -> Result<PingReport, PingError> {
        network::ping(&self.shared.net, peer, address, timeout).await
    }
}

fn check_length(what: &str, length: usize, most: usize) -> Result<(), NodeError> {
    if length > most {
        return Err(NodeError::Invalid(format!(
            "{what}: {length} is over the limit of {most}"
        )));
    }
    Ok(())
}

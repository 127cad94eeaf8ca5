//! [`LocalNode`]: the [`Node`] trait on the node itself.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use derouter_market::Role;
use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, Cursor, FailJobError, FailureReason,
    JobEvent, JobFilter, JobKey, JobQuery, JobRecord, JobStream, ModuleDetails, ModuleRegistration,
    ModuleReport, ModuleReporter, NetworkReport, Node, NodeError, NodeState, OfferEvent,
    OfferFilter, OfferId, OfferQuery, OfferSnapshot, OfferSpec, OpenJobError, PeerId, PeerQuery,
    PeerReport, PingError, PingReport, ProtocolId, ProvideError, ProvideOptions,
    ProviderCompleteError, ProviderCompletion, ProviderEvent, ProviderQuery, ProviderRecord,
    ProviderService, Provision, RemoteJob, RemoteJobError, SnapshotId, UnixSeconds, Watch,
    async_trait,
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

    async fn offers_page(&self, query: &OfferQuery) -> Result<Vec<OfferSnapshot>, NodeError> {
        let limit = page_limit(query.limit)?;
        self.shared.note_interest(&query.filter);
        let market = self.shared.market();
        let after = query.after.as_ref();
        let after = after.map(|key| (&key.provider, &key.protocol_id, &key.offer_id));
        let matching = market.index.active_offers().filter(|offer| {
            after.is_none_or(|after| name(offer) > after) && query.filter.matches(offer)
        });
        let page = first(matching.collect(), limit, |one, other| {
            name(one).cmp(&name(other))
        });
        Ok(page.into_iter().cloned().collect())
    }

    async fn providers_page(
        &self,
        query: &ProviderQuery,
    ) -> Result<Vec<ProviderRecord>, NodeError> {
        let limit = page_limit(query.limit)?;
        let now = self.shared.clock.now();
        let market = self.shared.market();
        let behind =
            |record: &&ProviderRecord| query.after.is_none_or(|after| record.peer_id > after);
        let matching = market.index.active_providers(now).filter(behind);
        let page = first(matching.collect(), limit, |one, other| {
            one.peer_id.cmp(&other.peer_id)
        });
        Ok(page.into_iter().cloned().collect())
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
            newest_first: query.newest_first,
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
        Ok(watches::offers(&self.shared, filter, None))
    }

    async fn resume_offers(
        &self,
        filter: OfferFilter,
        since: &Cursor,
    ) -> Result<Watch<OfferEvent>, NodeError> {
        self.shared.note_interest(&filter);
        Ok(watches::offers(&self.shared, filter, Some(since)))
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        Ok(watches::providers(&self.shared, None))
    }

    async fn resume_providers(&self, since: &Cursor) -> Result<Watch<ProviderEvent>, NodeError> {
        Ok(watches::providers(&self.shared, Some(since)))
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        watches::jobs(&self.shared, filter, None).await
    }

    async fn resume_jobs(
        &self,
        filter: JobFilter,
        since: &Cursor,
    ) -> Result<Watch<JobEvent>, NodeError> {
        watches::jobs(&self.shared, filter, Some(since)).await
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

    async fn modules(&self, state: bool) -> Result<Vec<ModuleReport>, NodeError> {
        Ok(self.shared.modules.reports(state))
    }

    fn register_module(
        &self,
        details: ModuleDetails,
        reporter: Arc<dyn ModuleReporter>,
    ) -> Result<ModuleRegistration, NodeError> {
        let now = self.shared.clock.now().unix;
        self.shared.modules.add(details, reporter, now)
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

/// An offer's place in the order of lists.
fn name(offer: &OfferSnapshot) -> (&PeerId, &ProtocolId, &OfferId) {
    let OfferSnapshot {
        provider_peer_id,
        protocol_id,
        offer_id,
        ..
    } = offer;
    (provider_peer_id, protocol_id, offer_id)
}

/// The first of some items in an order. The rest is not sorted: a market may have 100,000.
fn first<T>(mut items: Vec<T>, limit: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if items.len() > limit {
        items.select_nth_unstable_by(limit, &order);
        items.truncate(limit);
    }
    items.sort_unstable_by(order);
    items
}

fn page_limit(limit: u32) -> Result<usize, NodeError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if (1..=RPC_QUERY_ITEMS).contains(&limit) {
        return Ok(limit);
    }
    Err(NodeError::Invalid(format!(
        "limit must be 1 to {RPC_QUERY_ITEMS}"
    )))
}

fn check_length(what: &str, length: usize, most: usize) -> Result<(), NodeError> {
    if length > most {
        return Err(NodeError::Invalid(format!(
            "{what}: {length} is over the limit of {most}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_first_of_what_there_is_in_order() {
        let items = vec![5, 3, 9, 1, 7, 2];
        let page = |limit| first(items.clone(), limit, i32::cmp);
        assert_eq!(page(3), [1, 2, 3]);
        assert_eq!(page(6), [1, 2, 3, 5, 7, 9]);
        assert_eq!(page(7), [1, 2, 3, 5, 7, 9]);
        assert_eq!(page(0), Vec::<i32>::new());
    }
}

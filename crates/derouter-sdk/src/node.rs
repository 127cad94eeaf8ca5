//! The [`Node`] trait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::rpc::cursor::Cursor;
use derouter_wire::rpc::network::{NetworkReport, PeerReport, PingReport};
use derouter_wire::rpc::record::{FailureReason, JobRecord, OfferSnapshot, ProviderRecord};
use derouter_wire::{JobKey, PeerId, SnapshotId, UnixSeconds, Wei};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{
    CompleteJobError, CreateJobError, FailJobError, NodeError, OpenJobError, PingError,
    ProvideError, ProviderCompleteError, RemoteJobError,
};
use crate::filter::{JobFilter, JobQuery, OfferFilter, OfferQuery, PeerQuery, ProviderQuery};
use crate::module::{ModuleDetails, ModuleRegistration, ModuleReport, ModuleReporter};
use crate::provider::{OfferSpec, ProvideOptions, ProviderCompletion, ProviderService, Provision};
use crate::watch::{JobEvent, NodeState, OfferEvent, ProviderEvent, Watch};

/// What a job stream can do.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A byte pipe between consumer and provider of a job. `shutdown` closes the own direction; with
/// 0.1 JavaScript modules at the other end that is not seen there, and their end is not seen here.
pub type JobStream = Box<dyn ByteStream>;

/// What a consumer signs when it agrees with a job's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerCompletion {
    /// What both sides sign.
    pub public_payload: String,
    /// What this side keeps for itself.
    pub private_payload: Option<String>,
    /// What is owed; `None` for a free job.
    pub balance_delta: Option<Wei>,
    /// When the provider completed the job, as it said.
    pub completed_at_sync: UnixSeconds,
}

/// A job as its provider has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJob {
    /// What is public of the outcome, once completed.
    pub public_payload: Option<String>,
    /// What is owed, once completed and not free.
    pub balance_delta: Option<Wei>,
    /// When it was created.
    pub created_at_sync: UnixSeconds,
    /// When it was completed.
    pub completed_at_sync: Option<UnixSeconds>,
}

/// A node, in process or over TCP.
///
/// Every call has a deadline inside; none waits for ever.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// The node's peer id.
    async fn peer_id(&self) -> Result<PeerId, NodeError>;

    /// The offers on the market now, this node's own among them.
    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError>;

    /// A page of them.
    async fn offers_page(&self, query: &OfferQuery) -> Result<Vec<OfferSnapshot>, NodeError> {
        let mut all = self.active_offers(&query.filter).await?;
        all.retain(|offer| {
            query
                .after
                .as_ref()
                .is_none_or(|after| offer.key() > *after)
        });
        all.sort_by_cached_key(OfferSnapshot::key);
        all.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        Ok(all)
    }

    /// The providers with a heartbeat in the last 60 s.
    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError>;

    /// A page of them, with their records.
    async fn providers_page(
        &self,
        query: &ProviderQuery,
    ) -> Result<Vec<ProviderRecord>, NodeError> {
        let mut peers = self.active_providers().await?;
        peers.retain(|peer| query.after.is_none_or(|after| *peer > after));
        peers.sort_unstable();
        peers.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let mut records = self.providers(&peers).await?;
        records.sort_unstable_by_key(|record| record.peer_id);
        Ok(records)
    }

    /// Offer snapshots by id, active or not; at most 100 ids. Unknown ones are left out.
    async fn offer_snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError>;

    /// Providers by peer id; at most 100. Unknown ones are left out.
    async fn providers(&self, ids: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError>;

    /// A page of jobs.
    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError>;

    /// Follows the offers.
    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError>;

    /// Follows the providers.
    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError>;

    /// Follows the jobs.
    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError>;

    /// Follows whether the node takes new work: how it is now, then each change. Nodes before 0.2
    /// do not tell.
    async fn watch_state(&self) -> Result<Watch<NodeState>, NodeError> {
        Err(NodeError::Unsupported("the node's state"))
    }

    /// Follows the offers from a place that [`Watch::cursor`] told. When the node still knows what
    /// happened since, the watch goes on from there ([`Watch::resumed`]); else it begins with the
    /// full state.
    async fn resume_offers(
        &self,
        filter: OfferFilter,
        since: &Cursor,
    ) -> Result<Watch<OfferEvent>, NodeError> {
        let _ = since;
        self.watch_offers(filter).await
    }

    /// Follows the providers, like [`Node::resume_offers`].
    async fn resume_providers(&self, since: &Cursor) -> Result<Watch<ProviderEvent>, NodeError> {
        let _ = since;
        self.watch_providers().await
    }

    /// Follows the jobs, like [`Node::resume_offers`]. These places outlive the node's restarts: a
    /// module that keeps them misses no change of a job. From [`Cursor::start`] all jobs are told.
    async fn resume_jobs(
        &self,
        filter: JobFilter,
        since: &Cursor,
    ) -> Result<Watch<JobEvent>, NodeError> {
        let _ = since;
        self.watch_jobs(filter).await
    }

    /// Puts offers on the market, served by `service`, for as long as the [`Provision`] lives.
    /// Either all are on the market or none.
    async fn provide(
        &self,
        offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError>;

    /// Creates a job for an offer. `job_args` is what the offer's protocol needs to begin.
    async fn create_job(
        &self,
        offer: SnapshotId,
        job_args: Option<String>,
    ) -> Result<JobKey, CreateJobError>;

    /// Opens a byte pipe to the job's provider. May be called again, also after the job ended.
    async fn open_job(&self, job: &JobKey) -> Result<JobStream, OpenJobError>;

    /// Asks the job's provider for its state.
    async fn remote_job(&self, job: &JobKey) -> Result<RemoteJob, RemoteJobError>;

    /// Agrees with the outcome: signs it, keeps the signature on disk, and delivers it to the
    /// provider as soon as that can be reached. Returns once it is on disk.
    async fn complete_job(
        &self,
        job: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError>;

    /// Gives a job up as its consumer: nothing is owed.
    async fn fail_job(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError>;

    /// Completes a job as its provider: what [`ProviderDesk::complete`] does. Services use their
    /// desk; this is for those that translate, such as the RPC server.
    ///
    /// [`ProviderDesk::complete`]: crate::provider::ProviderDesk::complete
    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError>;

    /// Fails a job as its provider: what [`ProviderDesk::fail`] does.
    ///
    /// [`ProviderDesk::fail`]: crate::provider::ProviderDesk::fail
    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError>;

    /// Which modules the node has; with `state`, also what those in its process tell of themselves.
    async fn modules(&self, state: bool) -> Result<Vec<ModuleReport>, NodeError> {
        let _ = state;
        Err(NodeError::Unsupported("reports of modules"))
    }

    /// Adds a module to those that [`Node::modules`] tells of. Over the RPC, Hello does that.
    fn register_module(
        &self,
        details: ModuleDetails,
        reporter: Arc<dyn ModuleReporter>,
    ) -> Result<ModuleRegistration, NodeError> {
        let _ = (details, reporter);
        Err(NodeError::Unsupported("reports of modules"))
    }

    /// The network as the node sees it.
    async fn network(&self) -> Result<NetworkReport, NodeError> {
        Err(NodeError::Unsupported("reports of the network"))
    }

    /// A page of peers. What they say of themselves (their agent) is theirs to choose.
    async fn peers(&self, query: &PeerQuery) -> Result<Vec<PeerReport>, NodeError> {
        let _ = query;
        Err(NodeError::Unsupported("reports of peers"))
    }

    /// One round trip to a peer, which is dialled when it is not connected: at `address`
    /// (a multiaddr) too, when there is one. `timeout` is at most 60 s.
    async fn ping(
        &self,
        peer: PeerId,
        address: Option<String>,
        timeout: Duration,
    ) -> Result<PingReport, PingError> {
        let _ = (peer, address, timeout);
        Err(NodeError::Unsupported("pings").into())
    }
}

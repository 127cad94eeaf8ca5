//! [`TcpNode`]: a node on this machine, over the RPC. Works on 0.1 nodes too.

mod backoff;
mod connection;
#[doc(hidden)]
pub mod link;
mod provision;
mod service;
mod translate;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::cbor::PeerIdArg;
use derouter_wire::rpc::Call;
use derouter_wire::rpc::network::{NetworkReport, PeerReport, PingReport};
use derouter_wire::rpc::record::{FailureReason, JobRecord, OfferSnapshot, ProviderRecord};
use derouter_wire::rpc::request::*;
use derouter_wire::{Currency, JobKey, PeerId, SnapshotId, UnixSeconds};
use tokio::sync::OnceCell;

use self::connection::{Connection, JobPipe, Role};
use self::link::Caller;
use self::provision::Provider;
use crate::error::{
    CompleteJobError, CreateJobError, FailJobError, NodeError, OpenJobError, PingError,
    ProvideError, ProviderCompleteError, RemoteJobError,
};
use crate::filter::{JobFilter, JobQuery, OfferFilter, PeerQuery};
use crate::node::{ConsumerCompletion, JobStream, Node, RemoteJob};
use crate::provider::{OfferSpec, ProvideOptions, ProviderCompletion, ProviderService, Provision};
use crate::watch::{JobEvent, NodeState, OfferEvent, ProviderEvent, Watch};

/// How long a [`TcpNode`] waits for what.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// For the connection to the node.
    pub connect_wait: Duration,
    /// For what the node answers by itself.
    pub query_wait: Duration,
    /// For what the node asks a provider: peers answer each other within 10 s.
    pub job_wait: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            connect_wait: Duration::from_secs(5),
            query_wait: Duration::from_secs(15),
            job_wait: Duration::from_secs(30),
        }
    }
}

/// A node over TCP. A cheap handle: clones share one connection.
///
/// It connects when it is first used, and again after the connection broke; calls in between fail
/// with [`NodeError::Unreachable`]. Watches and provisions come back by themselves.
#[derive(Clone, Debug)]
pub struct TcpNode {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: String,
    options: TcpOptions,
    /// The connection for calls and watches. Replaced when it broke.
    current: Mutex<Arc<OnceCell<Arc<Connection>>>>,
    /// Those that provide, to speak as the provider of a job.
    providers: Mutex<Vec<Weak<Provider>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpNode {
    /// A node at `address`, for example `127.0.0.1:4269`. Connects when it is first used.
    pub fn connect(address: impl Into<String>, options: TcpOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                address: address.into(),
                options,
                current: Mutex::default(),
                providers: Mutex::default(),
            }),
        }
    }
}

impl Inner {
    async fn connection(&self) -> Result<Arc<Connection>, NodeError> {
        let cell = {
            let mut current = lock(&self.current);
            let broken = |connection: &Arc<Connection>| connection.is_closed();
            if current.get().is_some_and(broken) {
                *current = Arc::default();
            }
            Arc::clone(&current)
        };
        let open = || self.open(Role::Calls);
        cell.get_or_try_init(open).await.cloned()
    }

    async fn open(&self, role: Role) -> Result<Arc<Connection>, NodeError> {
        Connection::open(&self.address, &self.options, role).await
    }

    async fn query<C: Call>(&self, request: &C) -> Result<C::Reply, NodeError>
    where
        C::Reply: Send + 'static,
    {
        let connection = self.connection().await?;
        self.ask(&connection.caller, request, self.options.query_wait)
            .await
    }

    async fn ask<C: Call>(
        &self,
        caller: &Caller,
        request: &C,
        wait: Duration,
    ) -> Result<C::Reply, NodeError>
    where
        C::Reply: Send + 'static,
    {
        let answer = caller.call(request, wait).await;
        answer.map_err(|error| translate::call_error(error, wait))
    }

    /// Asks what nodes of 0.1 do not know. Those answer with an error of their own, close the
    /// connection, or say nothing.
    async fn ask_new<C: Call>(
        &self,
        request: &C,
        wait: Duration,
        what: &'static str,
    ) -> Result<C::Reply, NodeError>
    where
        C::Reply: Send + 'static,
    {
        let connection = self.connection().await?;
        if connection.is_0_1() {
            return Err(NodeError::Unsupported(what));
        }
        let answer = connection.caller.call(request, wait).await;
        answer.map_err(|error| translate::new_call_error(error, wait, what))
    }

    /// A connection that provides, if there is one: the node takes what comes over it as the
    /// provider's word.
    async fn provider_connection(&self) -> Result<Arc<Connection>, NodeError> {
        let providing = {
            let mut providers = lock(&self.providers);
            providers.retain(|provider| provider.strong_count() > 0);
            let mut alive = providers.iter().filter_map(Weak::upgrade);
            alive.find_map(|provider| provider.connection())
        };
        match providing {
            Some(connection) => Ok(connection),
            None => self.connection().await,
        }
    }

    async fn active_provider_records(&self) -> Result<Vec<ProviderRecord>, NodeError> {
        let PeersReply::Ok(peers) = self.query(&QueryActiveProviders {}).await?;
        let mut records = Vec::new();
        for page in peers.chunks(derouter_wire::limits::RPC_QUERY_ITEMS) {
            let query = QueryProviders {
                provider_peer_ids: page.to_vec(),
            };
            records.extend(translate::list(self.query(&query).await?)?);
        }
        Ok(records)
    }
}

#[async_trait]
impl Node for TcpNode {
    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        Ok(self.inner.connection().await?.peer_id)
    }

    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        let query = QueryActiveOffers {
            protocol_ids: translate::texts(filter.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(filter.provider_peer_ids.as_ref()),
        };
        translate::filtered(self.inner.query(&query).await?)
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        let PeersReply::Ok(peers) = self.inner.query(&QueryActiveProviders {}).await?;
        let peers: Result<_, _> = peers.iter().map(PeerIdArg::get).collect();
        peers.map_err(|error| NodeError::Protocol(error.to_string()))
    }

    async fn offer_snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        let query = QueryOfferSnapshots {
            snapshot_ids: ids.to_vec(),
        };
        translate::list(self.inner.query(&query).await?)
    }

    async fn providers(&self, ids: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        let query = QueryProviders {
            provider_peer_ids: ids.iter().copied().map(PeerIdArg::from).collect(),
        };
        translate::list(self.inner.query(&query).await?)
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        let connection = self.inner.connection().await?;
        let filter = &query.filter;
        let request = QueryJobs {
            database_row_id_cursor: query.after,
            protocol_ids: translate::texts(filter.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(filter.provider_peer_ids.as_ref()),
            consumer_peer_ids: translate::peers(filter.consumer_peer_ids.as_ref()),
            limit: u64::from(query.limit),
        };
        let wait = self.inner.options.query_wait;
        match self.inner.ask(&connection.caller, &request, wait).await? {
            QueryJobsReply::Ok(jobs) => {
                Ok(jobs.into_iter().map(|job| connection.mend(job)).collect())
            }
            QueryJobsReply::InvalidLimit(text) => Err(NodeError::Invalid(
                text.unwrap_or_else(|| "the limit is not 1 to 100".into()),
            )),
        }
    }

    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        watching::watch(&self.inner, watching::Offers(filter)).await
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        watching::watch(&self.inner, watching::Providers::default()).await
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        watching::watch(&self.inner, watching::Jobs(filter)).await
    }

    async fn watch_state(&self) -> Result<Watch<NodeState>, NodeError> {
        watching::watch(&self.inner, watching::State).await
    }

    async fn provide(
        &self,
        offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        provision::provide(&self.inner, offers, options, service).await
    }

    async fn create_job(
        &self,
        offer: SnapshotId,
        job_args: Option<String>,
    ) -> Result<JobKey, CreateJobError> {
        let connection = self.inner.connection().await?;
        let request = ConsumerCreateJob {
            offer_snapshot_id: offer,
            currency: Currency::Pol,
            job_args,
        };
        let wait = self.inner.options.job_wait;
        translate::created(self.inner.ask(&connection.caller, &request, wait).await?)
    }

    async fn open_job(&self, job: &JobKey) -> Result<JobStream, OpenJobError> {
        let connection = self.inner.connection().await?;
        let request = ConsumerOpenJobConnection {
            provider_peer_id: job.provider.into(),
            provider_job_id: job.job_id.to_string(),
        };
        let wait = self.inner.options.job_wait;
        let reply = self.inner.ask(&connection.caller, &request, wait).await?;
        let id = translate::opened(reply)?;
        Ok(Box::new(
            JobPipe::open(&connection, id, self.inner.options.query_wait).await?,
        ))
    }

    async fn remote_job(&self, job: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        let connection = self.inner.connection().await?;
        let request = ConsumerGetJob {
            provider_peer_id: job.provider.into(),
            provider_job_id: job.job_id.to_string(),
        };
        let wait = self.inner.options.job_wait;
        translate::remote_job(self.inner.ask(&connection.caller, &request, wait).await?)
    }

    async fn complete_job(
        &self,
        job: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        let request = ConsumerCompleteJob {
            provider_peer_id: job.provider.into(),
            provider_job_id: job.job_id.to_string(),
            public_payload: completion.public_payload,
            private_payload: completion.private_payload,
            balance_delta: completion.balance_delta.map(|balance| balance.to_string()),
            completed_at_sync: completion.completed_at_sync,
        };
        translate::completed(self.inner.query(&request).await?)
    }

    async fn fail_job(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        let connection = self.inner.connection().await?;
        connection
            .fail_job(job, failure, self.inner.options.query_wait)
            .await
    }

    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        let connection = self.inner.provider_connection().await?;
        let wait = self.inner.options.query_wait;
        connection
            .provider_complete_job(job, completion, wait)
            .await
    }

    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        let connection = self.inner.provider_connection().await?;
        connection
            .fail_job(job, failure, self.inner.options.query_wait)
            .await
    }

    async fn network(&self) -> Result<NetworkReport, NodeError> {
        let wait = self.inner.options.query_wait;
        let asked = self
            .inner
            .ask_new(&QueryNetwork {}, wait, "reports of the network");
        let QueryNetworkReply::Ok(report) = asked.await?;
        Ok(*report)
    }

    async fn peers(&self, query: &PeerQuery) -> Result<Vec<PeerReport>, NodeError> {
        let request = QueryPeers {
            peer_id_cursor: query.after.map(PeerIdArg::from),
            peer_id: query.peer.map(PeerIdArg::from),
            connected_only: query.connected_only,
            limit: u64::from(query.limit),
        };
        let wait = self.inner.options.query_wait;
        translate::peer_reports(
            self.inner
                .ask_new(&request, wait, "reports of peers")
                .await?,
        )
    }

    async fn ping(
        &self,
        peer: PeerId,
        address: Option<String>,
        timeout: Duration,
    ) -> Result<PingReport, PingError> {
        let request = PingPeer {
            peer_id: peer.into(),
            address,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let wait = timeout.saturating_add(self.inner.options.query_wait);
        translate::pinged(self.inner.ask_new(&request, wait, "pings").await?)
    }
}

//! [`TcpNode`]: a node on this machine, over the RPC: TCP or a Unix socket. Works on 0.1 nodes too.

mod backoff;
mod connection;
#[doc(hidden)]
pub mod link;
mod place;
mod provision;
mod service;
mod translate;
mod watching;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::cbor::PeerIdArg;
use derouter_wire::rpc::Call;
use derouter_wire::rpc::cursor::Cursor;
use derouter_wire::rpc::list::{ListJobs, ListOffers, ListPeers, ListProviders, Page};
use derouter_wire::rpc::module::{QueryModules, QueryModulesReply};
use derouter_wire::rpc::network::{NetworkReport, PeerReport, PingReport};
use derouter_wire::rpc::record::{FailureReason, JobRecord, OfferSnapshot, ProviderRecord};
use derouter_wire::rpc::request::*;
use derouter_wire::{Currency, JobKey, PeerId, SnapshotId, UnixSeconds};
use serde::Serialize;
use tokio::sync::OnceCell;

use self::connection::{Connection, JobPipe, Role};
use self::link::Caller;
use self::place::Place;
pub use self::place::{COOKIE_FILE, SOCKET_FILE};
use self::provision::Provider;
use crate::error::{
    CompleteJobError, CreateJobError, FailJobError, NodeError, OpenJobError, PingError,
    ProvideError, ProviderCompleteError, RemoteJobError,
};
use crate::filter::{JobFilter, JobQuery, OfferFilter, OfferQuery, PeerQuery, ProviderQuery};
use crate::module::ModuleReport;
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
    /// For the answer to Hello. A node that says nothing until then is taken for one of 0.1.
    pub hello_wait: Duration,
    /// The node's cookie file, which proves to it that this module may connect over TCP. Without
    /// it, or when there is no such file, 0.1 is spoken, which a node may refuse.
    pub cookie: Option<PathBuf>,
    /// What the module calls itself, for the node's log.
    pub module_name: String,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            connect_wait: Duration::from_secs(5),
            query_wait: Duration::from_secs(15),
            job_wait: Duration::from_secs(30),
            hello_wait: Duration::from_secs(3),
            cookie: None,
            module_name: "a Rust module".into(),
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
    place: Place,
    options: TcpOptions,
    /// The node was found to be of version 0.1.
    old: AtomicBool,
    /// The connection for calls and watches. Replaced when it broke.
    current: Mutex<Arc<OnceCell<Arc<Connection>>>>,
    /// Those that provide, to speak as the provider of a job.
    providers: Mutex<Vec<Weak<Provider>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpNode {
    /// A node whose data directory is known: over its Unix socket where there is one, else over TCP
    /// at `address` with the cookie file there.
    pub fn find(data_dir: &Path, address: impl Into<String>, options: TcpOptions) -> Self {
        if let Some(socket) = place::socket_in(data_dir) {
            return Self::connect(socket, options);
        }
        let cookie = Some(data_dir.join(COOKIE_FILE));
        Self::connect(address, TcpOptions { cookie, ..options })
    }

    /// A node at `address`, for example `127.0.0.1:4269` or `unix:/var/lib/derouter/rpc.sock`.
    /// Connects when it is first used.
    pub fn connect(address: impl Into<String>, options: TcpOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                place: Place::new(address.into(), options.cookie.clone()),
                options,
                old: AtomicBool::new(false),
                current: Mutex::default(),
                providers: Mutex::default(),
            }),
        }
    }
}

impl TcpNode {
    /// Sends a request of RPC 0.2 by its name, and returns the data of the answer as it is encoded, errors
    /// of the node among them. For tools that know requests which this version does not.
    ///
    /// # Errors
    /// When there is no answer, or the node speaks 0.1 alone.
    pub async fn call_raw<T: Serialize + Sync>(
        &self,
        request: &str,
        data: &T,
        wait: Duration,
    ) -> Result<Vec<u8>, NodeError> {
        let connection = self.inner.connection().await?;
        if connection.is_0_1() {
            return Err(NodeError::Unsupported("requests of RPC 0.2"));
        }
        let answer = connection.caller.call_raw(request, data, wait).await;
        answer.map_err(|error| translate::call_error(error, wait))
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
        Connection::open(&self.place, &self.options, role, &self.old).await
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

    /// One page of a list.
    async fn page<C, T>(&self, request: &C) -> Result<Page<T>, NodeError>
    where
        C: Call<Reply = FilteredReply<Page<T>>>,
        C::Reply: Send + 'static,
    {
        translate::filtered(self.query(request).await?)
    }

    /// All pages of a list, whose request `ask` makes for the place where a page begins.
    async fn pages<C, T>(&self, ask: impl Fn(Option<Cursor>) -> C) -> Result<Vec<T>, NodeError>
    where
        C: Call<Reply = FilteredReply<Page<T>>>,
        C::Reply: Send + 'static,
    {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(&ask(after)).await?;
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn is_0_2(&self) -> Result<bool, NodeError> {
        Ok(self.connection().await?.caller.is_0_2())
    }

    /// The active providers with their records, from a node of 0.1.
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

/// Items of a page, the most that a node gives.
const WHOLE_PAGE: u32 = 100;

fn list_offers(query: &OfferQuery, after: Option<Cursor>) -> ListOffers {
    ListOffers {
        protocol_ids: translate::texts(query.filter.protocol_ids.as_ref()),
        provider_peer_ids: translate::peers(query.filter.provider_peer_ids.as_ref()),
        after,
        limit: u64::from(query.limit),
    }
}

fn list_providers(after: Option<Cursor>) -> ListProviders {
    ListProviders {
        after,
        limit: u64::from(WHOLE_PAGE),
    }
}

#[async_trait]
impl Node for TcpNode {
    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        Ok(self.inner.connection().await?.peer_id)
    }

    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        if self.inner.is_0_2().await? {
            let query = OfferQuery {
                filter: filter.clone(),
                limit: WHOLE_PAGE,
                ..OfferQuery::default()
            };
            return self.inner.pages(|after| list_offers(&query, after)).await;
        }
        let query = QueryActiveOffers {
            protocol_ids: translate::texts(filter.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(filter.provider_peer_ids.as_ref()),
        };
        translate::filtered(self.inner.query(&query).await?)
    }

    async fn offers_page(&self, query: &OfferQuery) -> Result<Vec<OfferSnapshot>, NodeError> {
        if !self.inner.is_0_2().await? {
            return Err(NodeError::Unsupported("pages of offers"));
        }
        let after = query.after.as_ref().map(Cursor::behind_offer);
        Ok(self.inner.page(&list_offers(query, after)).await?.items)
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        if self.inner.is_0_2().await? {
            let records = self.inner.pages(list_providers).await?;
            return Ok(records.into_iter().map(|record| record.peer_id).collect());
        }
        let PeersReply::Ok(peers) = self.inner.query(&QueryActiveProviders {}).await?;
        let peers: Result<_, _> = peers.iter().map(PeerIdArg::get).collect();
        peers.map_err(|error| NodeError::Protocol(error.to_string()))
    }

    async fn providers_page(
        &self,
        query: &ProviderQuery,
    ) -> Result<Vec<ProviderRecord>, NodeError> {
        if !self.inner.is_0_2().await? {
            return Err(NodeError::Unsupported("pages of providers"));
        }
        let request = ListProviders {
            after: query.after.as_ref().map(Cursor::behind_peer),
            limit: u64::from(query.limit),
        };
        Ok(self.inner.page(&request).await?.items)
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
        if connection.caller.is_0_2() {
            let request = ListJobs {
                protocol_ids: translate::texts(filter.protocol_ids.as_ref()),
                provider_peer_ids: translate::peers(filter.provider_peer_ids.as_ref()),
                consumer_peer_ids: translate::peers(filter.consumer_peer_ids.as_ref()),
                after: query.after.map(Cursor::behind_row),
                newest_first: query.newest_first,
                limit: u64::from(query.limit),
            };
            return Ok(self.inner.page(&request).await?.items);
        }
        if query.newest_first {
            let text = "a node of 0.1 lists jobs oldest first alone";
            return Err(NodeError::Invalid(text.into()));
        }
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
        watching::watch(&self.inner, watching::Offers(filter), None).await
    }

    async fn resume_offers(
        &self,
        filter: OfferFilter,
        since: &Cursor,
    ) -> Result<Watch<OfferEvent>, NodeError> {
        watching::watch(&self.inner, watching::Offers(filter), Some(since)).await
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        watching::watch(&self.inner, watching::Providers::default(), None).await
    }

    async fn resume_providers(&self, since: &Cursor) -> Result<Watch<ProviderEvent>, NodeError> {
        watching::watch(&self.inner, watching::Providers::default(), Some(since)).await
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        watching::watch(&self.inner, watching::Jobs(filter), None).await
    }

    async fn resume_jobs(
        &self,
        filter: JobFilter,
        since: &Cursor,
    ) -> Result<Watch<JobEvent>, NodeError> {
        watching::watch(&self.inner, watching::Jobs(filter), Some(since)).await
    }

    async fn watch_state(&self) -> Result<Watch<NodeState>, NodeError> {
        watching::watch(&self.inner, watching::State, None).await
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

    async fn modules(&self, state: bool) -> Result<Vec<ModuleReport>, NodeError> {
        let wait = self.inner.options.query_wait;
        let request = QueryModules { state };
        let asked = self.inner.ask_new(&request, wait, "reports of modules");
        let QueryModulesReply::Ok(modules) = asked.await?;
        Ok(modules)
    }

    async fn peers(&self, query: &PeerQuery) -> Result<Vec<PeerReport>, NodeError> {
        if self.inner.is_0_2().await? {
            let request = ListPeers {
                connected_only: query.connected_only,
                peer_id: query.peer.map(PeerIdArg::from),
                after: query.after.as_ref().map(Cursor::behind_peer),
                limit: u64::from(query.limit),
            };
            return Ok(self.inner.page(&request).await?.items);
        }
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

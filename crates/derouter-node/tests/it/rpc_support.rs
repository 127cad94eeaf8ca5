//! A node in memory, whose calls are recorded, behind the real RPC server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use derouter_node::rpc::{RpcOptions, RpcServer};
use derouter_sdk::tcp::COOKIE_FILE;
use derouter_sdk::wire::rpc::event::{OfferRemoved, ProviderHeartbeat};
use derouter_sdk::*;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Every wait of these tests ends here, in failure.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// Waits until a condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "{what}");
}

pub fn peer() -> PeerId {
    let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
    text.parse().unwrap()
}

pub fn other_peer() -> PeerId {
    let text = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    text.parse().unwrap()
}

pub fn protocol() -> ProtocolId {
    ProtocolId::new("test:1").unwrap()
}

pub fn job(provider: PeerId, name: &str) -> JobKey {
    JobKey {
        provider,
        job_id: JobId::new(name).unwrap(),
    }
}

pub fn offer(provider: PeerId, name: &str, snapshot: u64) -> OfferSnapshot {
    OfferSnapshot {
        snapshot_id: SnapshotId(snapshot),
        active: true,
        provider_peer_id: provider,
        protocol_id: protocol(),
        offer_id: OfferId::new(name).unwrap(),
        protocol_payload: "{}".into(),
    }
}

pub fn spec(name: &str) -> OfferSpec {
    OfferSpec {
        protocol_id: protocol(),
        offer_id: OfferId::new(name).unwrap(),
        protocol_payload: "{}".into(),
    }
}

pub fn record(provider: PeerId, updated_at: u64) -> ProviderRecord {
    ProviderRecord {
        peer_id: provider,
        name: Some("ACME".into()),
        teaser: None,
        description: None,
        updated_at: UnixSeconds(updated_at),
        latest_heartbeat_at: UnixSeconds(updated_at),
    }
}

pub fn failure() -> FailureReason {
    FailureReason {
        reason: "because".into(),
        reason_class: Some(-1),
    }
}

pub fn job_record(row: u64) -> JobRecord {
    JobRecord {
        job_rowid: RowId(row),
        provider_job_id: JobId::new("j").unwrap(),
        provider_peer_id: other_peer(),
        consumer_peer_id: peer(),
        offer_id: OfferId::new("a").unwrap(),
        offer_snapshot_rowid: SnapshotId(1),
        offer_protocol_id: protocol(),
        offer_payload: "{}".into(),
        offer_active: true,
        currency: Currency::Pol,
        balance_delta: Some("30".into()),
        public_payload: None,
        private_payload: None,
        reason: None,
        reason_class: None,
        created_at_local: UnixSeconds(1),
        created_at_sync: UnixSeconds(2),
        completed_at_local: None,
        completed_at_sync: None,
        signature_confirmed_at_local: None,
        confirmation_error: None,
    }
}

struct Provided {
    spec: OfferSpec,
    snapshot: SnapshotId,
    service: Arc<dyn ProviderService>,
    options: ProvideOptions,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    provided: Vec<Provided>,
    providers: Vec<ProviderRecord>,
    jobs: HashMap<JobKey, Arc<dyn ProviderService>>,
    snapshots: u64,
    /// What is told of all jobs, when it is set.
    job_records: Vec<JobRecord>,
    /// Jobs that their provider completed.
    completed: Vec<JobKey>,
    offer_watches: Vec<mpsc::Sender<OfferEvent>>,
    provider_watches: Vec<mpsc::Sender<ProviderEvent>>,
    job_watches: Vec<mpsc::Sender<JobEvent>>,
    /// What the next calls answer, by name.
    fail: HashMap<&'static str, NodeError>,
}

/// A market of one node: offers provided here are on it, and their jobs are served here.
#[derive(Default)]
pub struct RecordingNode {
    state: Mutex<State>,
}

impl RecordingNode {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    fn note(&self, call: &'static str, details: impl std::fmt::Debug) -> Result<(), NodeError> {
        self.with(|state| {
            state.calls.push(format!("{call} {details:?}"));
            state.fail.get(call).cloned().map_or(Ok(()), Err)
        })
    }

    /// Lets calls of a name fail.
    pub fn fail(&self, call: &'static str, error: NodeError) {
        self.with(|state| state.fail.insert(call, error));
    }

    pub fn calls(&self) -> Vec<String> {
        self.with(|state| state.calls.clone())
    }

    pub fn called(&self, text: &str) -> bool {
        self.calls().iter().any(|call| call.contains(text))
    }

    pub fn offers(&self) -> usize {
        self.with(|state| state.provided.len())
    }

    pub fn max_unsigned(&self) -> Option<Wei> {
        self.with(|state| state.provided[0].options.max_unsigned)
    }

    pub fn set_providers(&self, providers: Vec<ProviderRecord>) {
        self.with(|state| state.providers = providers);
    }

    pub fn set_jobs(&self, jobs: Vec<JobRecord>) {
        self.with(|state| state.job_records = jobs);
    }

    pub fn watchers(&self) -> (usize, usize, usize) {
        self.with(|state| {
            state.offer_watches.retain(|watch| !watch.is_closed());
            state.provider_watches.retain(|watch| !watch.is_closed());
            state.job_watches.retain(|watch| !watch.is_closed());
            let (offers, jobs) = (state.offer_watches.len(), state.job_watches.len());
            (offers, state.provider_watches.len(), jobs)
        })
    }

    pub async fn tell_offer(&self, event: OfferEvent) {
        for watch in self.with(|state| state.offer_watches.clone()) {
            let _ = watch.send(event.clone()).await;
        }
    }

    pub fn try_tell_offer(&self, event: &OfferEvent) -> bool {
        let watches = self.with(|state| state.offer_watches.clone());
        watches
            .iter()
            .all(|watch| watch.try_send(event.clone()).is_ok())
    }

    pub async fn tell_provider(&self, event: ProviderEvent) {
        for watch in self.with(|state| state.provider_watches.clone()) {
            let _ = watch.send(event.clone()).await;
        }
    }

    pub async fn tell_job(&self, event: JobEvent) {
        for watch in self.with(|state| state.job_watches.clone()) {
            let _ = watch.send(event.clone()).await;
        }
    }

    fn active(&self) -> Vec<OfferSnapshot> {
        self.with(|state| state.provided.iter().map(snapshot).collect())
    }

    fn withdraw(&self, snapshot_id: SnapshotId) {
        let (gone, watches) = self.with(|state| {
            let gone = state
                .provided
                .iter()
                .position(|offer| offer.snapshot == snapshot_id);
            let gone = state.provided.remove(gone.unwrap());
            (gone, state.offer_watches.clone())
        });
        let removed = OfferRemoved {
            snapshot_id,
            provider_peer_id: peer(),
            protocol_id: gone.spec.protocol_id,
            offer_id: gone.spec.offer_id,
        };
        for watch in watches {
            let _ = watch.try_send(OfferEvent::Removed(removed.clone()));
        }
    }
}

fn snapshot(offer: &Provided) -> OfferSnapshot {
    OfferSnapshot {
        snapshot_id: offer.snapshot,
        active: true,
        provider_peer_id: peer(),
        protocol_id: offer.spec.protocol_id.clone(),
        offer_id: offer.spec.offer_id.clone(),
        protocol_payload: offer.spec.protocol_payload.clone(),
    }
}

/// The node as its modules have it.
#[derive(Clone)]
pub struct Handle(pub Arc<RecordingNode>);

struct Withdraw(Arc<RecordingNode>, Vec<SnapshotId>);

impl Drop for Withdraw {
    fn drop(&mut self) {
        for snapshot in &self.1 {
            self.0.withdraw(*snapshot);
        }
    }
}

#[async_trait]
impl Node for Handle {
    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        self.0.note("peer_id", ())?;
        Ok(peer())
    }

    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        self.0.note("active_offers", filter)?;
        let offers = self.0.active().into_iter();
        Ok(offers.filter(|offer| filter.matches(offer)).collect())
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        self.0.note("active_providers", ())?;
        let all = self.0.with(|state| state.providers.clone());
        Ok(all.iter().map(|record| record.peer_id).collect())
    }

    async fn offer_snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        self.0.note("offer_snapshots", ids)?;
        let offers = self.0.active().into_iter();
        Ok(offers
            .filter(|offer| ids.contains(&offer.snapshot_id))
            .collect())
    }

    async fn providers(&self, ids: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        self.0.note("providers", ids)?;
        let all = self.0.with(|state| state.providers.clone());
        Ok(all
            .into_iter()
            .filter(|record| ids.contains(&record.peer_id))
            .collect())
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        self.0.note("jobs", query)?;
        let after = query.after.map_or(0, |row| row.0);
        let mut rows = self.0.with(|state| state.job_records.clone());
        if rows.is_empty() {
            return Ok(vec![job_record(after + 1)]);
        }
        match (query.newest_first, query.after) {
            (false, _) => rows.retain(|row| row.job_rowid.0 > after),
            (true, None) => rows.reverse(),
            (true, Some(after)) => {
                rows.retain(|row| row.job_rowid < after);
                rows.reverse();
            }
        }
        rows.truncate(query.limit as usize);
        Ok(rows)
    }

    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        self.0.note("watch_offers", &filter)?;
        let (sender, events) = mpsc::channel(16);
        let active = self.active_offers(&filter).await?;
        sender.try_send(OfferEvent::Reset(active)).unwrap();
        self.0.with(|state| state.offer_watches.push(sender));
        Ok(Watch::new(events))
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        self.0.note("watch_providers", ())?;
        let (sender, events) = mpsc::channel(16);
        let all = self.0.with(|state| state.providers.clone());
        sender.try_send(ProviderEvent::Reset(all)).unwrap();
        self.0.with(|state| state.provider_watches.push(sender));
        Ok(Watch::new(events))
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        self.0.note("watch_jobs", filter)?;
        let (sender, events) = mpsc::channel(16);
        sender.try_send(JobEvent::Reset).unwrap();
        self.0.with(|state| state.job_watches.push(sender));
        Ok(Watch::new(events))
    }

    async fn provide(
        &self,
        offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        self.0.note("provide", &offers)?;
        let mut snapshots = Vec::new();
        for spec in offers {
            let duplicate = ProvideError::Duplicate {
                protocol_id: spec.protocol_id.clone(),
                offer_id: spec.offer_id.clone(),
            };
            let (options, service) = (options.clone(), Arc::clone(&service));
            let provided = self.0.with(|state| {
                if state
                    .provided
                    .iter()
                    .any(|offer| offer.spec.offer_id == spec.offer_id)
                {
                    return Err(duplicate);
                }
                state.snapshots += 1;
                let snapshot = SnapshotId(state.snapshots);
                state.provided.push(Provided {
                    spec,
                    snapshot,
                    service,
                    options,
                });
                Ok(snapshot)
            });
            snapshots.push(provided?);
        }
        Ok(Provision::new(Withdraw(Arc::clone(&self.0), snapshots)))
    }

    async fn create_job(
        &self,
        offer: SnapshotId,
        job_args: Option<String>,
    ) -> Result<JobKey, CreateJobError> {
        self.0
            .note("create_job", (offer, job_args.as_ref().map(String::len)))?;
        let found = self.0.with(|state| {
            let offer = state
                .provided
                .iter()
                .find(|provided| provided.snapshot == offer)?;
            Some((Arc::clone(&offer.service), offer.spec.clone()))
        });
        let (service, spec) = found.ok_or(CreateJobError::LocalOfferNotFound)?;
        let key = job(peer(), &format!("job-{}", rand::random::<u32>()));
        let asked = ProviderJob {
            key: key.clone(),
            protocol_id: spec.protocol_id,
            offer_id: spec.offer_id,
            created_at_sync: UnixSeconds(1_750_000_000),
            job_args,
            consumer: Some(peer()),
        };
        match service.accept(asked).await {
            Ok(()) => {}
            Err(JobRefusal::Busy) => return Err(CreateJobError::ProviderBusy),
            Err(JobRefusal::InvalidJobArgs(why)) => {
                return Err(CreateJobError::InvalidJobArgs(why));
            }
        }
        self.0.with(|state| state.jobs.insert(key.clone(), service));
        Ok(key)
    }

    async fn open_job(&self, job: &JobKey) -> Result<JobStream, OpenJobError> {
        self.0.note("open_job", job)?;
        let service = self.0.with(|state| state.jobs.get(job).cloned());
        let service = service.ok_or(OpenJobError::LocalJobNotFound)?;
        match service.prepare(job).await {
            Ok(()) => {}
            Err(ConnectionRefusal::Busy) => return Err(OpenJobError::ProviderBusy),
            Err(ConnectionRefusal::JobNotFound) => return Err(OpenJobError::ProviderJobNotFound),
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let desk = Arc::new(NodeDesk(Arc::new(self.clone())));
        let job = job.clone();
        tokio::spawn(async move { service.serve(job, desk, Box::new(ours)).await });
        Ok(Box::new(theirs))
    }

    async fn remote_job(&self, job: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        self.0.note("remote_job", job)?;
        if !self.0.with(|state| state.jobs.contains_key(job)) {
            return Err(RemoteJobError::JobNotFound);
        }
        Ok(RemoteJob {
            public_payload: Some("{}".into()),
            balance_delta: Some(Wei::MAX),
            created_at_sync: UnixSeconds(1),
            completed_at_sync: None,
        })
    }

    async fn complete_job(
        &self,
        job: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        self.0.note("complete_job", (job, completion))?;
        match job.job_id.as_str() {
            "failed" => Err(CompleteJobError::AlreadyFailed(failure())),
            "completed" => Err(CompleteJobError::AlreadyCompleted),
            "foreign" => Err(CompleteJobError::InvalidConsumerPeerId),
            "unknown" => Err(CompleteJobError::InvalidJobId),
            _ => Ok(()),
        }
    }

    async fn fail_job(&self, job: &JobKey, failed: FailureReason) -> Result<(), FailJobError> {
        self.0.note("fail_job", (job, failed))?;
        match job.job_id.as_str() {
            "failed" => Err(FailJobError::AlreadyFailed(failure())),
            "completed" => Err(FailJobError::AlreadyCompleted),
            "unknown" => Err(FailJobError::InvalidJobId),
            _ => Ok(()),
        }
    }

    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        self.0.note("provider_complete_job", (job, completion))?;
        let completed_at_sync = UnixSeconds(1_750_000_005);
        match job.job_id.as_str() {
            "failed" => Err(ProviderCompleteError::AlreadyFailed(failure())),
            "completed" => Err(ProviderCompleteError::AlreadyCompleted { completed_at_sync }),
            "unknown" => Err(ProviderCompleteError::InvalidJobId),
            _ => {
                self.0.with(|state| state.completed.push(job.clone()));
                Ok(completed_at_sync)
            }
        }
    }

    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        self.0.note("provider_fail_job", (job, failure))?;
        if self.0.with(|state| state.completed.contains(job)) {
            return Err(FailJobError::AlreadyCompleted);
        }
        match job.job_id.as_str() {
            "consumer-only" | "unknown" => Err(FailJobError::InvalidJobId),
            _ => Ok(()),
        }
    }
}

pub fn heartbeat(peer_id: PeerId) -> ProviderHeartbeat {
    ProviderHeartbeat {
        peer_id,
        latest_heartbeat_at: UnixSeconds(9),
    }
}

/// A running server.
pub struct Served {
    pub node: Arc<RecordingNode>,
    pub address: SocketAddr,
    /// Its data directory.
    pub directory: Arc<TempDir>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
    _stop: DropGuard,
}

/// Serves modules of both versions.
pub async fn serve() -> Served {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    serve_in(directory, 0, true, Arc::default()).await
}

/// Serves modules of 0.2 only.
pub async fn serve_modern() -> Served {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    serve_in(directory, 0, false, Arc::default()).await
}

/// Serves a node, for example one that was served before.
async fn serve_in(
    directory: Arc<TempDir>,
    port: u16,
    allow_legacy: bool,
    node: Arc<RecordingNode>,
) -> Served {
    let options = RpcOptions {
        port,
        directory: Some(directory.path().to_path_buf()),
        allow_legacy,
    };
    let bind = async {
        loop {
            match RpcServer::bind(options.clone()).await {
                Ok(server) => return server,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let mut server = soon(bind).await;
    server.publish().unwrap();
    let cancel = CancellationToken::new();
    let address = server.local_addr();
    let running = server.run(Arc::new(Handle(Arc::clone(&node))), cancel.clone());
    Served {
        node,
        address,
        directory,
        cancel: cancel.clone(),
        running: tokio::spawn(running),
        _stop: cancel.drop_guard(),
    }
}

impl Served {
    /// A module of 0.2, over TCP.
    pub fn module(&self) -> TcpNode {
        let mut options = TcpOptions::default();
        options.cookie = Some(self.directory.path().join(COOKIE_FILE));
        TcpNode::connect(self.address.to_string(), options)
    }

    /// A module of 0.1.
    pub fn old_module(&self) -> TcpNode {
        TcpNode::connect(self.address.to_string(), TcpOptions::default())
    }

    /// What the cookie file holds.
    pub fn token(&self) -> String {
        let path = self.directory.path().join(COOKIE_FILE);
        let text = std::fs::read_to_string(path).unwrap();
        text.trim().to_owned()
    }

    /// Stops the server.
    pub async fn stop(self) {
        self.cancel.cancel();
        soon(self.running).await.unwrap();
    }

    /// Stops the server and starts one on the same port.
    pub async fn restart(self) -> Served {
        let (node, port) = (Arc::clone(&self.node), self.address.port());
        let directory = Arc::clone(&self.directory);
        self.stop().await;
        serve_in(directory, port, true, node).await
    }
}

//! What the node's tasks share. Each piece of state has one owner: jobs and providers are in the
//! store, connections in net, and the market of this run is behind [`Shared::market`]. That lock is
//! held for map operations only, never across an await.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use derouter_market::job::{Job, JobState};
use derouter_market::{CreditBook, OfferChange, OfferIndex, OpenJobs, Role};
use derouter_net::Net;
use derouter_sdk::{JobKey, NodeError, PeerId, SnapshotId};
use derouter_store::Store;
use derouter_wire::ProtocolId;
use derouter_wire::jobs::FailureCause;
use derouter_wire::rpc::record::{JobRecord, OfferSnapshot};
use libp2p_identity::Keypair;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::event_log::EventLog;
use crate::legacy::LegacyProviders;
use crate::opened::Opened;
use crate::provided::ProvidedOffers;
use crate::recent::{RecentJob, RecentJobs};
use crate::records::job_record;
use crate::running::RunningJobs;
use crate::session::registry::Sessions;

/// Wishes to announce that wait. One is enough: an announcement takes all that is there.
pub(crate) const REFRESH_QUEUE: usize = 64;

/// The market of this run.
pub(crate) struct Market {
    pub(crate) index: OfferIndex,
    pub(crate) provided: ProvidedOffers,
    pub(crate) credit: CreditBook,
    /// Jobs that a service accepted and that are on their way into the database: a service may
    /// end a job before its row is there.
    pub(crate) arriving: HashMap<JobKey, watch::Receiver<()>>,
    pub(crate) recent: RecentJobs,
}

/// Tells the market task that the provided offers changed, and hears when that is on the market.
pub(crate) type Refresh = tokio::sync::oneshot::Sender<()>;

pub(crate) struct Shared {
    pub(crate) local: PeerId,
    pub(crate) keypair: Keypair,
    pub(crate) store: Store,
    pub(crate) net: Net,
    pub(crate) clock: Clock,
    pub(crate) store_payloads: bool,
    /// Random: what tells the events of this run from those of another.
    pub(crate) run: u64,
    /// Offers that came, changed and went.
    pub(crate) offer_events: EventLog<OfferChange>,
    /// Providers that were heard.
    pub(crate) provider_events: EventLog<OfferChange>,
    /// Counts changes of jobs, to wake those who read them from the store.
    pub(crate) jobs_changed: watch::Sender<u64>,
    pub(crate) refresh: mpsc::Sender<Option<Refresh>>,
    /// A signature, or that a job was given up, waits for delivery.
    pub(crate) news: mpsc::Sender<JobKey>,
    /// Protocols that modules ask about.
    pub(crate) wanted: mpsc::Sender<ProtocolId>,
    /// Ends with the node.
    pub(crate) stop: CancellationToken,
    /// Tasks that a shutdown waits for.
    pub(crate) tasks: TaskTracker,
    /// Some wait in the database that found no place in [`Shared::news`].
    pub(crate) news_overflow: Notify,
    /// The pipes that this node provides.
    pub(crate) sessions: Sessions,
    /// Providers of wire 0.1.
    pub(crate) legacy: LegacyProviders,
    /// Pipes that wait for the module that created their job.
    pub(crate) opened: Opened,
    /// Until when the node drains, once it does.
    pub(crate) draining: watch::Sender<Option<Instant>>,
    /// The jobs that run. Held for map operations only.
    pub(crate) running: Mutex<RunningJobs>,
    /// Deliveries under way now.
    pub(crate) delivering: AtomicUsize,
    /// Whoever waits until each signature was offered to its provider.
    pub(crate) settle: mpsc::Sender<oneshot::Sender<()>>,
    market: Mutex<Market>,
    open_jobs: Mutex<OpenJobs>,
    in_doubt: Mutex<HashSet<JobKey>>,
}

/// The queues whose receivers the node's tasks own.
pub(crate) struct Receivers {
    pub(crate) refresh: mpsc::Receiver<Option<Refresh>>,
    pub(crate) news: mpsc::Receiver<JobKey>,
    pub(crate) wanted: mpsc::Receiver<ProtocolId>,
    pub(crate) settle: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Shared {
    pub(crate) fn new(
        keypair: Keypair,
        store: Store,
        net: Net,
        clock: Clock,
        credit: CreditBook,
        store_payloads: bool,
        stop: CancellationToken,
    ) -> (Arc<Self>, Receivers) {
        let local = keypair.public().to_peer_id();
        let (refresh, refresh_receiver) = mpsc::channel(REFRESH_QUEUE);
        let (news, news_receiver) = mpsc::channel(crate::confirm::NEWS_QUEUE);
        let (wanted, wanted_receiver) = mpsc::channel(crate::wanted::WANTED_QUEUE);
        let (settle, settle_receiver) = mpsc::channel(crate::confirm::SETTLE_QUEUE);
        let market = Market {
            index: OfferIndex::new(local),
            provided: ProvidedOffers::default(),
            credit,
            arriving: HashMap::new(),
            recent: RecentJobs::default(),
        };
        let shared = Self {
            local,
            keypair,
            store,
            net,
            clock,
            store_payloads,
            run: rand::random(),
            offer_events: EventLog::default(),
            provider_events: EventLog::default(),
            jobs_changed: watch::Sender::new(0),
            refresh,
            news,
            wanted,
            news_overflow: Notify::new(),
            stop,
            tasks: TaskTracker::new(),
            sessions: Sessions::default(),
            opened: Opened::default(),
            legacy: LegacyProviders::default(),
            draining: watch::Sender::new(None),
            running: Mutex::default(),
            delivering: AtomicUsize::new(0),
            settle,
            market: Mutex::new(market),
            open_jobs: Mutex::default(),
            in_doubt: Mutex::default(),
        };
        (
            Arc::new(shared),
            Receivers {
                refresh: refresh_receiver,
                news: news_receiver,
                wanted: wanted_receiver,
                settle: settle_receiver,
            },
        )
    }

    /// The market. Never hold the guard across an await.
    pub(crate) fn market(&self) -> MutexGuard<'_, Market> {
        // A panic under the lock can't leave a map half-changed in a way that matters more than
        // going on does.
        self.market.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deadlines of open jobs. Never hold the guard across an await.
    pub(crate) fn open_jobs(&self) -> MutexGuard<'_, OpenJobs> {
        self.open_jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs of which it is not known whether their signature is on the disk. Never hold the guard across
    /// an await.
    pub(crate) fn in_doubt(&self) -> MutexGuard<'_, HashSet<JobKey>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells watchers of market changes, in order.
    pub(crate) fn emit_market(&self, changes: Vec<OfferChange>) {
        for change in changes {
            let bytes = text_bytes(&change);
            match change {
                OfferChange::OfferUpdated(_) | OfferChange::OfferRemoved(_) => {
                    self.offer_events.push(change, bytes);
                }
                OfferChange::ProviderUpdated(_) | OfferChange::ProviderHeartbeat(_) => {
                    self.provider_events.push(change, bytes);
                }
            }
        }
    }

    /// Tells watchers that a job is new or has changed, and notes whether it runs. They read from the
    /// store what it is now.
    pub(crate) fn emit_job(&self, job: &Job) {
        let now = self.clock.now().uptime;
        self.with_running(|running| running.note(job, now));
        self.jobs_changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A job as modules see it.
    pub(crate) fn record(&self, job: &Job) -> JobRecord {
        job_record(job, self.market().index.is_active(job.offer.snapshot_id))
    }

    /// What follows from a new row of an open job.
    pub(crate) fn job_opened(&self, job: &Job) {
        self.remember_job(job);
        self.look_after(job);
        self.emit_job(job);
    }

    /// Watches the deadlines of an open job.
    pub(crate) fn look_after(&self, job: &Job) {
        if let JobState::Open(stage) = job.state {
            let side = (job.role, job.key.clone());
            let now = self.clock.now().uptime;
            self.open_jobs().opened(side, stage, now);
        }
    }

    /// What follows from the end of a job on this side: its deadlines are over, its pipes end
    /// when it failed without its module's doing, which frees what that holds, and the other side is told
    /// what it has to know.
    pub(crate) fn job_ended(&self, job: &Job) {
        self.open_jobs().ended(&(job.role, job.key.clone()));
        if job.role == Role::Provider && !ended_by_its_module(&job.state) {
            self.sessions.end_job(&job.key);
        }
        if job.has_news() {
            self.deliver_news(&job.key);
        }
        self.emit_job(job);
    }

    /// Keeps what never changes of a new job, for its first connection.
    pub(crate) fn remember_job(&self, job: &Job) {
        let offer = (job.offer.protocol_id.clone(), job.offer.offer_id.clone());
        let recent = RecentJob {
            consumer: job.consumer,
            offer,
            wire: job.wire,
        };
        self.market().recent.add(job.role, job.key.clone(), recent);
    }

    /// What never changes of a job: who consumes it, and for which offer.
    pub(crate) async fn known_job(
        &self,
        role: Role,
        key: &JobKey,
    ) -> Result<Option<RecentJob>, derouter_store::StoreError> {
        let recent = self.market().recent.get(role, key);
        if recent.is_some() {
            return Ok(recent);
        }
        let job = self.store.job(role, key).await?;
        Ok(job.map(|job| RecentJob {
            wire: job.wire,
            consumer: job.consumer,
            offer: (job.offer.protocol_id, job.offer.offer_id),
        }))
    }

    /// An offer snapshot, on the market or only in the database.
    pub(crate) async fn snapshot(
        &self,
        id: SnapshotId,
    ) -> Result<Option<OfferSnapshot>, derouter_store::StoreError> {
        let active = self.market().index.active_offer(id).cloned();
        if active.is_some() {
            return Ok(active);
        }
        let mut rows = self.store.snapshots(vec![id]).await?;
        Ok(rows.pop().map(|row| OfferSnapshot {
            snapshot_id: row.id,
            active: false,
            provider_peer_id: row.provider,
            protocol_id: row.protocol_id,
            offer_id: row.offer_id,
            protocol_payload: row.payload,
        }))
    }

    /// Runs a step on a job to its end, also when the caller goes away meanwhile: what follows from
    /// a committed step must not be left out.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        step: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NodeError> {
        let ended = self.tasks.spawn(step).await;
        ended.map_err(|error| NodeError::Internal(format!("a step on a job ended badly: {error}")))
    }

    /// Puts a job whose provider is to be told something into the delivery queue; when that is full it stays in the database, from
    /// where the confirmer loads it.
    pub(crate) fn deliver_news(&self, job: &JobKey) {
        if self.news.try_send(job.clone()).is_err() {
            self.news_overflow.notify_one();
        }
    }
}

/// Whether a module ended its job, for better or worse. It may still have something to say on the pipe, and
/// closes that itself.
fn ended_by_its_module(state: &JobState) -> bool {
    match state {
        JobState::Failed(failure) => failure.cause == FailureCause::ProviderGaveUp,
        JobState::Completed { .. } | JobState::Open(_) => true,
    }
}

/// What the texts of a change take, nearly.
fn text_bytes(change: &OfferChange) -> usize {
    let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    match change {
        OfferChange::OfferUpdated(offer) => offer.protocol_payload.len(),
        OfferChange::ProviderUpdated(record) => {
            len(&record.name) + len(&record.teaser) + len(&record.description)
        }
        OfferChange::OfferRemoved(_) | OfferChange::ProviderHeartbeat(_) => 0,
    }
}

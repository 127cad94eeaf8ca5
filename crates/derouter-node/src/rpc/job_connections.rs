//! Job streams that wait for a stream of their module, and those that were joined.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use derouter_sdk::tcp::link::MuxStream;
use derouter_sdk::{JobKey, JobStream};
use derouter_wire::ConnectionId;
use derouter_wire::rpc::ticket::{TICKET_BYTES, Ticket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::greeting::Dialect;
use super::pipe;

/// How long a job stream waits for its module, and a module's stream for its connection id.
const CLAIM_WAIT: Duration = Duration::from_secs(30);

/// Job streams that wait. Modules claim at once; each holds a peer's stream.
const MAX_WAITING: usize = 1024;

/// Jobs remembered as over, and as created. One that is forgotten as over keeps its streams until
/// they end by themselves or idle half-closed. Under half of what a table of this size holds (14,336): one
/// that is fuller is doubled for the places of what was removed, some day.
const MAX_LATEST: usize = 7_000;

/// The largest integer that JavaScript holds exactly.
const MAX_CONNECTION_ID: u64 = (1 << 53) - 1;

/// The job streams of one module's connection.
pub(super) struct JobConnections {
    dialect: Arc<OnceLock<Dialect>>,
    waiting: Mutex<HashMap<Ticket, Waiting>>,
    over: Mutex<LatestJobs>,
    /// Jobs for the node's own offers that the module created.
    created: Mutex<LatestJobs>,
    closed: CancellationToken,
}

struct Waiting {
    job: JobKey,
    stream: JobStream,
    ended: oneshot::Sender<()>,
}

/// A job stream that waits for its module.
pub(super) struct Opened {
    pub(super) ticket: Ticket,
    ended: oneshot::Receiver<()>,
}

impl Opened {
    /// Resolves when the stream has ended, claimed or not.
    pub(super) async fn ended(self) {
        let _ = self.ended.await;
    }
}

/// The latest of some jobs.
#[derive(Default)]
struct LatestJobs {
    set: HashSet<JobKey>,
    order: VecDeque<JobKey>,
}

impl LatestJobs {
    fn insert(&mut self, job: JobKey) {
        if !self.set.insert(job.clone()) {
            return;
        }
        self.order.push_back(job);
        if self.order.len() > MAX_LATEST
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobConnections {
    pub(super) fn new(dialect: Arc<OnceLock<Dialect>>, closed: CancellationToken) -> Self {
        Self {
            dialect,
            waiting: Mutex::default(),
            over: Mutex::default(),
            created: Mutex::default(),
            closed,
        }
    }

    /// Keeps a job stream until the module claims it, at most 30 s. `None` when too many wait.
    pub(super) fn open(self: &Arc<Self>, job: JobKey, stream: JobStream) -> Option<Opened> {
        let (ended, on_end) = oneshot::channel();
        let ticket = self.new_ticket();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= MAX_WAITING {
                return None;
            }
            waiting.insert(ticket, Waiting { job, stream, ended });
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let expiry = timeout(CLAIM_WAIT, this.closed.cancelled());
            let _ = expiry.await;
            this.expire(ticket);
        });
        Some(Opened {
            ticket,
            ended: on_end,
        })
    }

    pub(super) fn is_0_2(&self) -> bool {
        self.dialect.get().is_some_and(Dialect::is_0_2)
    }

    /// Random, so that no module can guess another connection; 53 bits do not collide.
    fn new_ticket(&self) -> Ticket {
        match self.is_0_2() {
            true => Ticket::Random(rand::random()),
            false => {
                let random = Uuid::new_v4().as_u64_pair().1;
                Ticket::Number(ConnectionId(random & MAX_CONNECTION_ID))
            }
        }
    }

    async fn read_ticket(&self, module: &mut MuxStream) -> io::Result<Ticket> {
        if !self.is_0_2() {
            return Ok(Ticket::Number(ConnectionId(module.read_u64().await?)));
        }
        let mut bytes = [0; TICKET_BYTES];
        module.read_exact(&mut bytes).await?;
        Ok(Ticket::Random(bytes))
    }

    fn expire(&self, ticket: Ticket) {
        let unclaimed = lock(&self.waiting).remove(&ticket);
        if let Some(unclaimed) = unclaimed {
            tracing::debug!(job = %unclaimed.job, "a module did not claim a job connection");
        }
    }

    /// Joins a stream that the module opened to the job stream that it names. Any mistake resets
    /// only this stream.
    pub(super) async fn join(&self, mut module: MuxStream) {
        // Acknowledges the stream: yamux stops opening streams when 256 are unacknowledged, and a
        // job may have nothing to say to its provider.
        if module.write(&[]).await.is_err() {
            return;
        }
        let Ok(Ok(ticket)) = timeout(CLAIM_WAIT, self.read_ticket(&mut module)).await else {
            tracing::debug!("a module opened a stream and named no connection");
            return;
        };
        let claimed = lock(&self.waiting).remove(&ticket);
        let Some(Waiting { job, stream, ended }) = claimed else {
            tracing::debug!("a module named no job connection that waits for it");
            return;
        };
        let end = pipe::join(module, stream, || self.is_over(&job)).await;
        tracing::debug!(%job, ?end, "a job connection has ended");
        drop(ended);
    }

    /// Notes that a job was completed or failed, so that its streams may be reset.
    pub(super) fn mark_over(&self, job: JobKey) {
        lock(&self.over).insert(job);
    }

    /// Notes that the module created a job for an offer of the node itself.
    pub(super) fn mark_created(&self, job: JobKey) {
        lock(&self.created).insert(job);
    }

    /// Whether the module created a job, among those for the node's own offers.
    pub(super) fn has_created(&self, job: &JobKey) -> bool {
        lock(&self.created).set.contains(job)
    }

    fn is_over(&self, job: &JobKey) -> bool {
        lock(&self.over).set.contains(job)
    }
}

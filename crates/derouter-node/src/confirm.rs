//! Delivers the consumer's signatures to providers: at once, when a provider connects, and again
//! with growing waits, across restarts, until the provider takes or refuses each.

pub(crate) mod queue;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Delivery, Job, JobState, SignatureState};
use derouter_net::PeerEvent;
use derouter_store::limits::PAGE_ROWS;
use derouter_store::{ChangeOutcome, Durability, StoreError};
use derouter_wire::cbor::IntArray;
use derouter_wire::reqres::{Request, Response};
use derouter_wire::{JobKey, RowId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::queue::{DeliveryQueue, MAX_QUEUED};
use crate::clock::unix_now;
use crate::shared::Shared;

/// Freshly signed jobs on their way to the queue. When it is full they are found in the database.
pub(crate) const SIGNED_QUEUE: usize = 1024;

/// Drains that wait for signatures: a node drains once.
pub(crate) const SETTLE_QUEUE: usize = 4;

/// Deliveries under way at once, over all providers.
const MAX_UNDER_WAY: usize = 32;

/// The pause after the database could not be read.
const READ_PAUSE: Duration = Duration::from_secs(5);

/// The longest the queue sleeps: a safety net against a missed wake-up.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(crate) struct Confirmer {
    shared: Arc<Shared>,
    queue: DeliveryQueue,
    /// Whether the database holds undelivered signatures that are not in the queue.
    more_in_store: bool,
    /// Not before this time is the database read again.
    next_read: Duration,
    /// Whoever waits until nothing is under way and nothing is due.
    settling: Vec<oneshot::Sender<()>>,
}

enum Finished {
    Settled(JobKey),
    Again(JobKey),
}

impl Confirmer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            queue: DeliveryQueue::default(),
            more_in_store: true,
            next_read: Duration::ZERO,
            settling: Vec::new(),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut signed: mpsc::Receiver<JobKey>,
        mut peers: mpsc::Receiver<PeerEvent>,
        mut settle: mpsc::Receiver<oneshot::Sender<()>>,
        stop: CancellationToken,
    ) {
        let mut deliveries = JoinSet::new();
        loop {
            if self.wants_more() && self.now() >= self.next_read {
                self.load().await;
            }
            self.start_due(&mut deliveries);
            self.tell_settled(deliveries.len());
            let sleep = self.sleep(deliveries.len());
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(finished) = deliveries.join_next() => self.finish(finished),
                Some(job) = signed.recv() => self.add(job, 0),
                () = shared.signed_overflow.notified() => self.more_in_store = true,
                // Behind the signatures that were there before.
                Some(done) = settle.recv() => self.settling.push(done),
                Some(event) = peers.recv() => {
                    if let PeerEvent::Connected(peer) = event {
                        self.queue.peer_connected(&peer, self.now());
                    }
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.clock.now().uptime
    }

    /// Tells those who wait once each signature was offered to its provider. One that was not taken
    /// is offered again later, which may be after the next start.
    fn tell_settled(&mut self, under_way: usize) {
        self.shared.delivering.store(under_way, Ordering::Relaxed);
        let now = self.now();
        let is_due = self.queue.next_due().is_some_and(|due| due <= now);
        let unread = self.wants_more() && now >= self.next_read;
        if under_way == 0 && !is_due && !unread {
            for done in self.settling.drain(..) {
                let _gone = done.send(());
            }
        }
    }

    fn wants_more(&self) -> bool {
        self.more_in_store && self.queue.len() < MAX_QUEUED / 2
    }

    /// Until the next job is due, or the database is to be read again.
    fn sleep(&self, under_way: usize) -> Duration {
        let next_read = self.wants_more().then_some(self.next_read);
        // With all places taken there is nothing to start; a delivery that ends wakes the loop.
        let next_due = self.queue.next_due().filter(|_| under_way < MAX_UNDER_WAY);
        let next = next_due.into_iter().chain(next_read).min();
        next.map_or(LONGEST_SLEEP, |next| next.saturating_sub(self.now()))
            .min(LONGEST_SLEEP)
    }

    fn add(&mut self, job: JobKey, attempts: u32) {
        let now = self.now();
        if !self.queue.add(job, attempts, now) {
            self.more_in_store = true;
        }
    }

    /// Loads undelivered signatures until the queue is full or there are no more.
    async fn load(&mut self) {
        let mut after: Option<RowId> = None;
        self.more_in_store = false;
        loop {
            let page = match self.shared.store.undelivered(PAGE_ROWS, after).await {
                Ok(page) => page,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not read which signatures wait for delivery; trying again");
                    self.more_in_store = true;
                    self.next_read = self.now() + READ_PAUSE;
                    return;
                }
            };
            let Some(last) = page.last() else { return };
            after = Some(last.row_id);
            for job in page {
                let attempts = attempts(&job);
                self.add(job.key, attempts);
                if self.more_in_store {
                    return;
                }
            }
        }
    }

    fn start_due(&mut self, deliveries: &mut JoinSet<Finished>) {
        let free = MAX_UNDER_WAY.saturating_sub(deliveries.len());
        if free == 0 {
            return;
        }
        let now = self.now();
        for job in self.queue.take_due(now, free) {
            deliveries.spawn(deliver(Arc::clone(&self.shared), job));
        }
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        match finished {
            Ok(Finished::Settled(job)) => self.queue.done(&job),
            Ok(Finished::Again(job)) => {
                let jitter = rand::random::<f64>();
                let now = self.now();
                self.queue.retry(&job, now, jitter);
            }
            // A panic in a delivery: the job stays marked until the next start loads it again.
            Err(error) => tracing::error!(%error, "a delivery ended badly"),
        }
    }
}

fn attempts(job: &Job) -> u32 {
    match &job.state {
        JobState::Completed {
            signature: SignatureState::Undelivered { attempts, .. },
            ..
        } => *attempts,
        _ => 0,
    }
}

async fn deliver(shared: Arc<Shared>, key: JobKey) -> Finished {
    let job = match shared.store.job(Role::Consumer, &key).await {
        Ok(Some(job)) => job,
        Ok(None) => return Finished::Settled(key),
        Err(_) => return Finished::Again(key),
    };
    let Some(request) = confirmation(&shared, &job) else {
        return Finished::Settled(key);
    };
    let delivery = ask(&shared, &job, request).await;
    tracing::debug!(job = %key, ?delivery, "signature delivery");
    let now = unix_now();
    let step = move |job: &Job| job.delivered(delivery, now).ok_or(());
    match shared
        .store
        .change_job(Role::Consumer, &key, Durability::Wal, step)
        .await
    {
        Ok(ChangeOutcome::Changed(job)) => {
            shared.emit_job(&job);
            match &job.state {
                JobState::Completed {
                    signature: SignatureState::Undelivered { .. },
                    ..
                } => Finished::Again(key),
                JobState::Completed {
                    signature: SignatureState::Refused { error, .. },
                    ..
                } => {
                    tracing::warn!(job = %key, answer = %error, "the provider refuses the signature for good");
                    Finished::Settled(key)
                }
                _ => Finished::Settled(key),
            }
        }
        Ok(ChangeOutcome::NotFound | ChangeOutcome::Refused(())) => Finished::Settled(key),
        Err(_) => Finished::Again(key),
    }
}

/// The request that delivers a job's signature. `None` when there is nothing to deliver.
fn confirmation(shared: &Shared, job: &Job) -> Option<Request> {
    let JobState::Completed {
        signature: SignatureState::Undelivered { signature, .. },
        ..
    } = &job.state
    else {
        return None;
    };
    Some(Request::ConfirmJob {
        provider_job_id: job.key.job_id.clone(),
        job_hash: IntArray(job.hash()?.0.to_vec()),
        consumer_public_key: IntArray(shared.keypair.public().encode_protobuf()),
        consumer_signature: IntArray(signature.clone()),
    })
}

async fn ask(shared: &Arc<Shared>, job: &Job, request: Request) -> Delivery {
    if job.key.provider == shared.local {
        return match crate::inbound::answer(shared, shared.local, request).await {
            Response::ConfirmJob(result) => Delivery::Answered(result),
            _ => Delivery::Unreached("wrong kind of answer".into()),
        };
    }
    match shared.net.request(job.key.provider, request).await {
        Ok(Response::ConfirmJob(result)) => Delivery::Answered(result),
        Ok(_) => Delivery::Unreached("the provider answered another kind of request".into()),
        Err(error) => Delivery::Unreached(error.to_string()),
    }
}

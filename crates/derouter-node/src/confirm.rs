//! Tells providers what they have to know of this node's jobs as a consumer, its signatures and (wire 0.2)
//! the jobs that it gave up: at once, when a provider connects, and again with growing waits, across
//! restarts, until the provider has taken or refused each. What is due for one provider goes together.

pub(crate) mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Delivery, Job, JobState, SignatureState};
use derouter_net::{JobReply, PeerEvent};
use derouter_store::limits::PAGE_ROWS;
use derouter_store::{Durability, StoreError};
use derouter_wire::cbor::{Bytes, IntArray, truncate_to_char};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::{GivenUp, JobAnswer, JobCall, SignedJob};
use derouter_wire::limits::NOTICE_REASON_BYTES;
use derouter_wire::reqres::{Request, Response};
use derouter_wire::{JobKey, PeerId, RowId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::queue::{Batch, DeliveryQueue, MAX_QUEUED};
use crate::clock::unix_now;
use crate::shared::Shared;

/// Jobs with news on their way to the queue. When it is full they are found in the database.
pub(crate) const NEWS_QUEUE: usize = 1024;

/// Drains that wait for signatures: a node drains once.
pub(crate) const SETTLE_QUEUE: usize = 4;

/// Deliveries under way at once, over all providers; each of up to [`queue::BATCH`] jobs.
const MAX_UNDER_WAY: usize = 32;

/// The least between two looks into the database for jobs that the queue has no place for.
const READ_PAUSE: Duration = Duration::from_secs(2);

/// The most, when the looks bring nothing: the jobs that wait are of providers that are away.
const LONGEST_READ_PAUSE: Duration = Duration::from_secs(300);

/// The longest the queue sleeps: a safety net against a missed wake-up.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(crate) struct Confirmer {
    shared: Arc<Shared>,
    queue: DeliveryQueue,
    /// Whether the database holds jobs with news that are not in the queue.
    more_in_store: bool,
    /// Not before this time is the database read again.
    next_read: Duration,
    read_pause: Duration,
    /// Whoever waits until nothing is under way and nothing is due.
    settling: Vec<oneshot::Sender<()>>,
}

/// What became of a delivery.
struct Finished {
    provider: PeerId,
    /// Each job, and whether it has to be told again.
    jobs: Vec<(JobKey, bool)>,
}

impl Confirmer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            queue: DeliveryQueue::default(),
            more_in_store: true,
            next_read: Duration::ZERO,
            read_pause: READ_PAUSE,
            settling: Vec::new(),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut news: mpsc::Receiver<JobKey>,
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
                Some(job) = news.recv() => self.add(job, 0),
                () = shared.news_overflow.notified() => self.read_soon(),
                // Behind the signatures that were there before.
                Some(done) = settle.recv() => self.settling.push(done),
                Some(event) = peers.recv() => {
                    if let PeerEvent::Connected(peer) = event {
                        self.queue.peer_connected(&peer, self.now());
                        if self.more_in_store {
                            self.read_soon();
                        }
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
        let unread = self.wants_more() && now >= self.next_read;
        if under_way == 0 && !self.queue.has_due(now) && !unread {
            for done in self.settling.drain(..) {
                let _gone = done.send(());
            }
        }
    }

    fn wants_more(&self) -> bool {
        self.more_in_store && self.queue.len() < MAX_QUEUED / 2
    }

    /// Until the next delivery begins, or the database is to be read again.
    fn sleep(&self, under_way: usize) -> Duration {
        let next_read = self.wants_more().then_some(self.next_read);
        // With all places taken there is nothing to start; a delivery that ends wakes the loop.
        let next_start = self.queue.next_start();
        let next_start = next_start.filter(|_| under_way < MAX_UNDER_WAY);
        let next = next_start.into_iter().chain(next_read).min();
        next.map_or(LONGEST_SLEEP, |next| next.saturating_sub(self.now()))
            .min(LONGEST_SLEEP)
    }

    fn add(&mut self, job: JobKey, attempts: u32) {
        let now = self.now();
        if !self.queue.add(job, attempts, now) {
            self.more_in_store = true;
        }
    }

    /// There is something new in the database.
    fn read_soon(&mut self) {
        self.more_in_store = true;
        self.read_pause = READ_PAUSE;
        self.next_read = self.next_read.min(self.now() + READ_PAUSE);
    }

    /// Loads jobs with news until the queue is full or there are no more.
    async fn load(&mut self) {
        let before = self.queue.len();
        self.more_in_store = false;
        if let Err(error) = self.load_pages().await {
            tracing::warn!(%error, "could not read what providers are to be told; trying again");
            self.more_in_store = true;
        }
        self.read_pause = match self.queue.len() > before {
            true => READ_PAUSE,
            false => (self.read_pause * 2).min(LONGEST_READ_PAUSE),
        };
        self.next_read = self.now() + self.read_pause;
    }

    async fn load_pages(&mut self) -> Result<(), StoreError> {
        let mut after: Option<RowId> = None;
        loop {
            let page = match self.shared.store.jobs_with_news(PAGE_ROWS, after).await {
                Err(StoreError::Closed) => return Ok(()),
                page => page?,
            };
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.row_id);
            for job in page {
                if self.queue.len() >= MAX_QUEUED {
                    self.more_in_store = true;
                    return Ok(());
                }
                let attempts = job.delivery_attempts();
                self.add(job.key, attempts);
            }
        }
    }

    fn start_due(&mut self, deliveries: &mut JoinSet<Finished>) {
        let free = MAX_UNDER_WAY.saturating_sub(deliveries.len());
        if free == 0 {
            return;
        }
        let now = self.now();
        for batch in self.queue.take_due(now, free) {
            deliveries.spawn(deliver(Arc::clone(&self.shared), batch));
        }
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let finished = match finished {
            Ok(finished) => finished,
            // A panic in a delivery: its jobs stay marked until the next start loads them again.
            Err(error) => return tracing::error!(%error, "a delivery ended badly"),
        };
        let now = self.now();
        for (job, again) in &finished.jobs {
            if *again {
                self.queue.retry(job, now, rand::random());
            } else {
                self.queue.done(job);
            }
        }
        self.queue.returned(&finished.provider);
    }
}

/// Tells one provider of some jobs.
async fn deliver(shared: Arc<Shared>, batch: Batch) -> Finished {
    let provider = batch.provider;
    let again = |jobs: Vec<JobKey>| Finished {
        provider,
        jobs: jobs.into_iter().map(|job| (job, true)).collect(),
    };
    let read = shared
        .store
        .jobs_of(Role::Consumer, batch.jobs.clone())
        .await;
    let Ok(read) = read else {
        return again(batch.jobs);
    };
    let jobs: Vec<Job> = read.into_iter().flatten().filter(Job::has_news).collect();
    crate::failpoint!("consumer::before-told");
    let deliveries = tell(&shared, provider, &jobs).await;
    let told = store(&shared, jobs, deliveries).await;
    let Some(told) = told else {
        return again(batch.jobs);
    };
    let jobs = batch.jobs.into_iter().map(|job| {
        let again = told.get(&job).copied().unwrap_or(false);
        (job, again)
    });
    Finished {
        provider,
        jobs: jobs.collect(),
    }
}

/// Stores what became of each job. Gives which of them are to be told again; `None` when the database
/// fails.
async fn store(
    shared: &Shared,
    jobs: Vec<Job>,
    deliveries: Vec<Delivery>,
) -> Option<HashMap<JobKey, bool>> {
    let keys: Vec<JobKey> = jobs.iter().map(|job| job.key.clone()).collect();
    let now = unix_now();
    let step = move |index: usize, job: Option<&Job>| {
        let delivery = deliveries.get(index).cloned();
        let change = job
            .zip(delivery)
            .and_then(|(job, delivery)| job.delivered(delivery, now));
        ((), change)
    };
    crate::failpoint!("consumer::before-confirmed");
    let changed = shared
        .store
        .change_jobs(Role::Consumer, keys, Durability::Wal, step)
        .await
        .ok()?;
    crate::failpoint!("consumer::confirmed");
    let mut again = HashMap::new();
    for ((), job) in changed {
        let Some(job) = job else { continue };
        shared.emit_job(&job);
        if let JobState::Completed {
            signature: SignatureState::Refused { error, .. },
            ..
        } = &job.state
        {
            tracing::warn!(job = %job.key, answer = %error, "the provider refuses the signature for good");
        }
        again.insert(job.key.clone(), job.has_news());
    }
    Some(again)
}

/// Tells a provider of jobs; one delivery for each, in that order.
async fn tell(shared: &Arc<Shared>, provider: PeerId, jobs: &[Job]) -> Vec<Delivery> {
    let (mut signed, mut given_up) = (Vec::new(), Vec::new());
    let mut away: Option<String> = None;
    let mut deliveries = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.iter().enumerate() {
        if job.wire == JobWire::V0_1 {
            // One that does not answer is not asked once more for each job.
            let delivery = match &away {
                Some(away) => Delivery::Unreached(away.clone()),
                None => tell_0_1(shared, job).await,
            };
            if let Delivery::Unreached(reason) = &delivery {
                away = Some(reason.clone());
            }
            deliveries.push(delivery);
            continue;
        }
        deliveries.push(Delivery::Unreached("there is nothing to tell".into()));
        signed.extend(signed_job(job).map(|job| (index, job)));
        given_up.extend(given_up_job(job).map(|job| (index, job)));
    }
    let signed = settle(shared, provider, signed, JobCall::Confirm).await;
    let given_up = settle(shared, provider, given_up, JobCall::GiveUp).await;
    for (index, delivery) in signed.into_iter().chain(given_up) {
        if let Some(slot) = deliveries.get_mut(index) {
            *slot = delivery;
        }
    }
    deliveries
}

fn signed_job(job: &Job) -> Option<SignedJob> {
    let JobState::Completed {
        signature: SignatureState::Undelivered { signature, .. },
        ..
    } = &job.state
    else {
        return None;
    };
    Some(SignedJob {
        job_id: job.key.job_id.clone(),
        hash: Bytes(job.hash()?.0.to_vec()),
        signature: Bytes(signature.clone()),
    })
}

fn given_up_job(job: &Job) -> Option<GivenUp> {
    let JobState::Failed(failure) = &job.state else {
        return None;
    };
    let mut reason = failure.reason.reason.clone();
    truncate_to_char(&mut reason, NOTICE_REASON_BYTES);
    Some(GivenUp {
        job_id: job.key.job_id.clone(),
        cause: failure.cause,
        reason,
    })
}

/// Makes one call of wire 0.2 about numbered jobs, if there are any.
async fn settle<T>(
    shared: &Shared,
    provider: PeerId,
    jobs: Vec<(usize, T)>,
    call: fn(Vec<T>) -> JobCall,
) -> Vec<(usize, Delivery)> {
    let (numbers, jobs): (Vec<usize>, Vec<T>) = jobs.into_iter().unzip();
    if jobs.is_empty() {
        return Vec::new();
    }
    let called = shared.net.call_job(provider, &call(jobs), None).await;
    let unreached = match called {
        Ok(JobReply::Answered(JobAnswer::Confirmed(settled) | JobAnswer::GivenUp(settled)))
            if settled.len() == numbers.len() =>
        {
            let deliveries = settled.into_iter().map(Delivery::Settled);
            return numbers.into_iter().zip(deliveries).collect();
        }
        Ok(JobReply::Answered(JobAnswer::Refused(refusal))) => refusal.message,
        Ok(_) => "the provider's answer makes no sense".to_owned(),
        Err(error) => error.to_string(),
    };
    let delivery = Delivery::Unreached(unreached);
    numbers
        .into_iter()
        .map(|number| (number, delivery.clone()))
        .collect()
}

/// Delivers a signature on wire 0.1.
async fn tell_0_1(shared: &Arc<Shared>, job: &Job) -> Delivery {
    match confirmation(shared, job) {
        Some(request) => ask(shared, job, request).await,
        None => Delivery::Unreached("there is no signature to deliver".into()),
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

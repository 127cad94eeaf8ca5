//! Calls of wire 0.2: jobs are created and joined with one, and settled in batches.

use std::collections::HashSet;
use std::sync::Arc;

use derouter_market::Role;
use derouter_market::job::{Job, JobState, Presented, Stage};
use derouter_net::{Answering, InboundJobCall};
use derouter_sdk::{FailureReason, NodeDesk, ProviderService};
use derouter_store::{Durability, StoreError};
use derouter_wire::cbor::Bytes;
use derouter_wire::job::JobWire;
use derouter_wire::jobs::{
    CreateJob, FailureCause, GivenUp, JobAnswer, JobCall, JobReport, Joined, Refusal, RefusalCode,
    ReportedOutcome, Resume, Settled, SignedJob,
};
use derouter_wire::stream::JobConnectionResult;
use derouter_wire::{JobId, JobKey, PeerId, limits};
use tokio::sync::mpsc;

use super::{MAX_REQUESTS, MAX_REQUESTS_PER_PEER, NotTaken, Wanted, WantedPayload, streams};
use crate::clock::unix_now;
use crate::handle::LocalNode;
use crate::open_jobs::JoinedGuard;
use crate::places::{PeerPlace, PeerPlaces};
use crate::shared::Shared;

/// Pipes that are open at once, those of wire 0.1 not counted.
const MAX_PIPES: usize = 4096;

/// Of these for one consumer: as many jobs as a busy gateway runs at once, and few enough that others
/// find room beside some that hold all that they can.
const MAX_PIPES_PER_PEER: usize = 512;

/// Calls under way that settle jobs, 64 each at most, or ask for one. A node tells another of its jobs
/// with one such call at a time.
const MAX_SETTLING: usize = 128;

/// Of these for one peer.
const MAX_SETTLING_PER_PEER: usize = 8;

/// When a consumer that finds no room should come again, in milliseconds.
const BUSY_RETRY_MS: u32 = 1000;

/// When a consumer that has to sign first should come again: a signature is delivered within seconds.
const UNSIGNED_RETRY_MS: u32 = 5000;

/// Answers calls until the node stops.
pub(crate) async fn serve_calls(shared: Arc<Shared>, mut calls: mpsc::Receiver<InboundJobCall>) {
    let places = CallPlaces::default();
    let pipes = Arc::new(PeerPlaces::new(MAX_PIPES, MAX_PIPES_PER_PEER));
    loop {
        let inbound = tokio::select! {
            () = shared.stop.cancelled() => return,
            inbound = calls.recv() => inbound,
        };
        let Some(inbound) = inbound else { return };
        let Some(place) = places.take(inbound.peer, &inbound.call) else {
            tracing::debug!(peer = %inbound.peer, "too many calls at once");
            shared
                .tasks
                .spawn(refuse(inbound.answering, busy("too many calls at once")));
            continue;
        };
        let (serving, stop) = (Arc::clone(&shared), shared.stop.clone());
        let pipes = Arc::clone(&pipes);
        shared.tasks.spawn(async move {
            let joined = serve(&serving, inbound, &pipes).await;
            drop(place);
            if let Some(joined) = joined {
                // Answers under way end with the node: `None` here.
                let _ = stop.run_until_cancelled(joined.serve(serving)).await;
            }
        });
    }
}

/// Room for calls under way. Those that settle jobs have places of their own: a consumer that creates
/// jobs as fast as it can must not be kept from signing for them.
struct CallPlaces {
    joining: PeerPlaces,
    settling: PeerPlaces,
}

impl Default for CallPlaces {
    fn default() -> Self {
        Self {
            joining: PeerPlaces::new(MAX_REQUESTS, MAX_REQUESTS_PER_PEER),
            settling: PeerPlaces::new(MAX_SETTLING, MAX_SETTLING_PER_PEER),
        }
    }
}

impl CallPlaces {
    fn take(&self, peer: PeerId, call: &JobCall) -> Option<PeerPlace> {
        match call {
            JobCall::Create(_) | JobCall::Join { .. } => self.joining.take(peer),
            JobCall::Confirm(_) | JobCall::GiveUp(_) | JobCall::Ask { .. } => {
                self.settling.take(peer)
            }
        }
    }
}

fn busy(reason: &str) -> Refusal {
    Refusal::new(RefusalCode::Busy, reason).retry_after_ms(BUSY_RETRY_MS)
}

async fn refuse(answering: Answering, refusal: Refusal) {
    // A peer that went away needs no refusal.
    let _ = answering.refuse(refusal).await;
}

/// A consumer that is joined to its job.
struct Serving {
    key: JobKey,
    service: Arc<dyn ProviderService>,
    pipe: crate::session::Pipe,
    _joined: JoinedGuard,
    _pipe: PeerPlace,
}

impl Serving {
    async fn serve(self, shared: Arc<Shared>) {
        let desk = NodeDesk(Arc::new(LocalNode::new(shared)));
        let serving = self
            .service
            .serve(self.key, Arc::new(desk), Box::new(self.pipe));
        serving.await;
    }
}

/// Answers a call; gives what goes on when the answer was a pipe.
async fn serve(
    shared: &Arc<Shared>,
    inbound: InboundJobCall,
    pipes: &PeerPlaces,
) -> Option<Serving> {
    let InboundJobCall {
        peer,
        call,
        args,
        answering,
    } = inbound;
    let answered = match call {
        JobCall::Create(new) => return create(shared, peer, new, args, answering, pipes).await,
        JobCall::Join {
            job_id,
            resume: None,
        } => {
            let key = own_key(shared, job_id);
            return join(shared, peer, key, answering, pipes).await;
        }
        JobCall::Join {
            job_id,
            resume: Some(resume),
        } => {
            let key = own_key(shared, job_id);
            resume_pipe(shared, peer, key, resume, answering).await;
            return None;
        }
        JobCall::Confirm(jobs) => {
            let settled = confirm(shared, peer, jobs).await;
            answering.answer(JobAnswer::Confirmed(settled)).await
        }
        JobCall::GiveUp(jobs) => {
            let settled = give_up(shared, peer, jobs).await;
            answering.answer(JobAnswer::GivenUp(settled)).await
        }
        JobCall::Ask { job_id } => {
            let key = own_key(shared, job_id);
            answering.answer(report(shared, peer, &key).await).await
        }
    };
    if let Err(error) = answered {
        tracing::debug!(%peer, %error, "an answer could not be delivered");
    }
    None
}

fn own_key(shared: &Shared, job_id: JobId) -> JobKey {
    JobKey {
        provider: shared.local,
        job_id,
    }
}

async fn create(
    shared: &Arc<Shared>,
    peer: PeerId,
    new: CreateJob,
    args: Option<String>,
    answering: Answering,
    pipes: &PeerPlaces,
) -> Option<Serving> {
    let key = own_key(shared, new.job_id.clone());
    let Some(pipe) = pipes.take(peer) else {
        refuse(answering, busy("too many jobs at once")).await;
        return None;
    };
    let wanted = Wanted {
        name: (new.protocol_id.clone(), new.offer_id.clone()),
        payload: WantedPayload::Sha256(new.offer_payload_sha256.0.clone()),
        currency: new.currency,
        job_args: args,
        wire: JobWire::V0_2,
        stage: Stage::Running,
    };
    // A repetition finds its job: arriving, or in the database.
    crate::jobs::arrival(shared, &key).await;
    let taken = match shared.store.job(Role::Provider, &key).await {
        Ok(None) => super::take_job(shared, peer, key.clone(), wanted).await,
        Ok(Some(_)) => Err(NotTaken::Exists),
        Err(error) => {
            refuse(answering, not_read(&key, &error)).await;
            return None;
        }
    };
    let refusal = match taken {
        Ok((job, service)) => {
            let begun = begin_new(shared, peer, job, service, answering, pipe).await;
            crate::failpoint!("provider::joined");
            return begun;
        }
        Err(NotTaken::Exists) => return repeat(shared, peer, &new, key, answering, pipe).await,
        Err(NotTaken::OfferNotFound) => {
            Refusal::new(RefusalCode::OfferNotFound, "this offer is not provided")
        }
        Err(NotTaken::Draining) => Refusal::new(RefusalCode::ShuttingDown, "the node stops"),
        Err(NotTaken::OfferChanged) => Refusal::new(RefusalCode::OfferChanged, "the offer changed"),
        Err(NotTaken::InvalidArgs(reason)) => Refusal::new(RefusalCode::InvalidArgs, reason),
        Err(NotTaken::OwesTooMuch) => {
            let reason = "too much is owed and not signed";
            Refusal::new(RefusalCode::OwesTooMuch, reason).retry_after_ms(UNSIGNED_RETRY_MS)
        }
        Err(NotTaken::Busy) => busy("no room for a job"),
    };
    refuse(answering, refusal).await;
    None
}

/// The id is known: the same job joins, another one is refused.
async fn repeat(
    shared: &Arc<Shared>,
    peer: PeerId,
    new: &CreateJob,
    key: JobKey,
    answering: Answering,
    pipe: PeerPlace,
) -> Option<Serving> {
    crate::jobs::arrival(shared, &key).await;
    let job = match own_job(shared, peer, &key).await {
        Ok(job) => job,
        Err(mut refusal) => {
            if refusal.code == RefusalCode::JobNotFound {
                refusal = Refusal::new(RefusalCode::IdConflict, "the id is taken");
            }
            refuse(answering, refusal).await;
            return None;
        }
    };
    let wanted = WantedPayload::Sha256(new.offer_payload_sha256.0.clone());
    let offer = (&job.offer.protocol_id, &job.offer.offer_id);
    if offer != (&new.protocol_id, &new.offer_id) || !wanted.is(&job.offer.payload) {
        let reason = "the id stands for a job of another offer";
        refuse(answering, Refusal::new(RefusalCode::IdConflict, reason)).await;
        return None;
    }
    rejoin(shared, peer, job, answering, pipe).await
}

/// A new pipe for a job that is known.
async fn join(
    shared: &Arc<Shared>,
    peer: PeerId,
    key: JobKey,
    answering: Answering,
    pipes: &PeerPlaces,
) -> Option<Serving> {
    let Some(pipe) = pipes.take(peer) else {
        refuse(answering, busy("too many jobs at once")).await;
        return None;
    };
    match own_job(shared, peer, &key).await {
        Ok(job) => rejoin(shared, peer, job, answering, pipe).await,
        Err(refusal) => {
            refuse(answering, refusal).await;
            None
        }
    }
}

async fn rejoin(
    shared: &Arc<Shared>,
    peer: PeerId,
    job: Job,
    answering: Answering,
    pipe: PeerPlace,
) -> Option<Serving> {
    if let JobState::Failed(failure) = &job.state {
        refuse(answering, job_over(failure.cause)).await;
        return None;
    }
    let offer = (job.offer.protocol_id.clone(), job.offer.offer_id.clone());
    let service = shared.market().provided.service(&offer);
    let Some(service) = service else {
        let reason = "the module that served the job has gone";
        refuse(answering, Refusal::new(RefusalCode::JobOver, reason)).await;
        return None;
    };
    begin(shared, peer, job, service, answering, pipe).await
}

fn job_over(cause: FailureCause) -> Refusal {
    Refusal {
        failed: Some(cause),
        ..Refusal::new(RefusalCode::JobOver, "the job has failed")
    }
}

/// Joins a consumer to the job that it created. When the module does not let it in there is no job.
async fn begin_new(
    shared: &Arc<Shared>,
    peer: PeerId,
    job: Job,
    service: Arc<dyn ProviderService>,
    answering: Answering,
    pipe: PeerPlace,
) -> Option<Serving> {
    let joined = JoinedGuard::new(shared, Role::Provider, &job.key).await;
    if let Err(refusal) = prepare(&job.key, service.as_ref()).await {
        // Before the consumer hears of it, and forgets the job.
        give_up_unjoined(shared, &job.key).await;
        refuse(answering, refusal).await;
        return None;
    }
    hand_over(shared, peer, job, service, joined, answering, pipe).await
}

/// Ends a job that its module accepted and to which it then let nobody in.
async fn give_up_unjoined(shared: &Arc<Shared>, key: &JobKey) {
    let reason = FailureReason {
        reason: "the module accepted the job, and then did not let its consumer in".to_owned(),
        reason_class: None,
    };
    let cause = FailureCause::ProviderGaveUp;
    if let Err(error) = crate::jobs::fail(shared, Role::Provider, key, cause, reason).await {
        tracing::debug!(job = %key, %error, "could not give up a job that its module does not serve");
    }
}

/// Joins a consumer to a job that it knows.
async fn begin(
    shared: &Arc<Shared>,
    peer: PeerId,
    job: Job,
    service: Arc<dyn ProviderService>,
    answering: Answering,
    pipe: PeerPlace,
) -> Option<Serving> {
    let joined = JoinedGuard::new(shared, Role::Provider, &job.key).await;
    if let Err(refusal) = prepare(&job.key, service.as_ref()).await {
        refuse(answering, refusal).await;
        return None;
    }
    hand_over(shared, peer, job, service, joined, answering, pipe).await
}

/// Asks the module whether it lets a consumer in.
async fn prepare(key: &JobKey, service: &dyn ProviderService) -> Result<(), Refusal> {
    let prepared = streams::prepare_service(key, service).await;
    prepared.map_err(|refusal| match refusal {
        JobConnectionResult::JobNotFound => {
            Refusal::new(RefusalCode::JobOver, "the module has no such job")
        }
        _ => Refusal::new(RefusalCode::Busy, "the module has no room"),
    })
}

/// Says that a pipe begins, and gives what serves it.
async fn hand_over(
    shared: &Arc<Shared>,
    peer: PeerId,
    job: Job,
    service: Arc<dyn ProviderService>,
    joined: JoinedGuard,
    answering: Answering,
    pipe: PeerPlace,
) -> Option<Serving> {
    let key = job.key;
    let session = rand::random();
    let said = Joined {
        created_at: job.created_at_sync,
        session,
        received: 0,
    };
    crate::failpoint!("provider::before-joined");
    let Ok(stream) = answering.join(said).await else {
        // The consumer will ask again, or the deadline ends the job.
        return None;
    };
    let pipe_end = shared
        .sessions
        .begin(session, peer, key.clone(), Box::new(stream));
    Some(Serving {
        key,
        service,
        pipe: pipe_end,
        _joined: joined,
        _pipe: pipe,
    })
}

async fn resume_pipe(
    shared: &Arc<Shared>,
    peer: PeerId,
    key: JobKey,
    resume: Resume,
    answering: Answering,
) {
    let Some(session) = shared.sessions.find(resume.session, &peer, &key) else {
        let refusal = match own_job(shared, peer, &key).await {
            Ok(job) => match &job.state {
                JobState::Failed(failure) => job_over(failure.cause),
                _ => Refusal::new(RefusalCode::NotResumable, "this pipe is not known any more"),
            },
            Err(refusal) => refusal,
        };
        return refuse(answering, refusal).await;
    };
    let job = own_job(shared, peer, &key).await;
    let (Ok(job), Ok(suspended)) = (job, session.suspend(resume.received)) else {
        let reason = "what this pipe sent is not kept any more";
        return refuse(answering, Refusal::new(RefusalCode::NotResumable, reason)).await;
    };
    let said = Joined {
        created_at: job.created_at_sync,
        session: resume.session,
        received: suspended.received,
    };
    // When this fails the session waits for the next one.
    if let Ok(stream) = answering.join(said).await {
        session.resume(suspended, Box::new(stream));
        tracing::debug!(job = %key, "a consumer has joined again");
    }
}

/// The job, if it is the peer's.
async fn own_job(shared: &Shared, peer: PeerId, key: &JobKey) -> Result<Job, Refusal> {
    match shared.store.job(Role::Provider, key).await {
        Ok(Some(job)) if job.consumer == peer => Ok(job),
        Ok(_) => Err(Refusal::new(
            RefusalCode::JobNotFound,
            "no such job of yours",
        )),
        Err(error) => Err(not_read(key, &error)),
    }
}

fn not_read(key: &JobKey, error: &StoreError) -> Refusal {
    tracing::error!(job = %key, %error, "could not read a job");
    Refusal::new(RefusalCode::Internal, "the job could not be read").retry_after_ms(BUSY_RETRY_MS)
}

/// Takes signatures. They are checked here, not on the store's thread, where others would wait.
async fn confirm(shared: &Arc<Shared>, peer: PeerId, signed: Vec<SignedJob>) -> Vec<Settled> {
    let count = signed.len();
    let keys: Vec<JobKey> = signed
        .iter()
        .map(|job| own_key(shared, job.job_id.clone()))
        .collect();
    let settled = settle(shared, peer, keys, signed).await;
    // Not a word that ends the consumer's attempts.
    settled.unwrap_or_else(|error| {
        tracing::error!(%error, "could not store signatures; the consumer will send them again");
        vec![Settled::NotStored; count]
    })
}

async fn settle(
    shared: &Arc<Shared>,
    peer: PeerId,
    keys: Vec<JobKey>,
    signed: Vec<SignedJob>,
) -> Result<Vec<Settled>, StoreError> {
    let jobs = shared.store.jobs_of(Role::Provider, keys.clone()).await?;
    let now = unix_now();
    let step = move |job: &Job, signed: &SignedJob| {
        let presented = Presented {
            asker: &peer,
            hash: &signed.hash.0,
            signature: &signed.signature.0,
        };
        job.settle(presented, now)
    };
    let mut decided = Vec::with_capacity(jobs.len());
    for (job, signed) in jobs.iter().zip(&signed) {
        let decision = job.as_ref().map(|job| step(job, signed));
        decided.push(decision.unwrap_or((Settled::JobNotFound, None)));
        tokio::task::yield_now().await;
    }
    // A signature that is here already may not be on the disk: then it was answered as not stored. So
    // it goes through the store again, which changes nothing and waits for the disk.
    let is_settled = |(settled, change): &(Settled, Option<_>)| {
        change.is_none() && !matches!(settled, Settled::Signed(_))
    };
    if decided.iter().all(is_settled) {
        return Ok(decided.into_iter().map(|(settled, _)| settled).collect());
    }
    let decide = move |index: usize, job: Option<&Job>| {
        let nothing = (Settled::JobNotFound, None);
        let (Some(job), Some(signed)) = (job, signed.get(index)) else {
            return nothing;
        };
        let before = jobs.get(index).and_then(Option::as_ref);
        match decided.get(index) {
            Some(decided) if before.is_some_and(|before| before.state == job.state) => {
                decided.clone()
            }
            // It changed meanwhile, which is rare.
            _ => step(job, signed),
        }
    };
    crate::failpoint!("provider::before-confirmed");
    // The signatures are the provider's claim to its money: on disk before the consumer may forget.
    let changed = shared
        .store
        .change_jobs(Role::Provider, keys, Durability::Fsync, decide)
        .await?;
    crate::failpoint!("provider::confirmed");
    let mut signed = HashSet::new();
    let answers = changed.into_iter().map(|(settled, job)| {
        if let Some(job) = job {
            super::paid(shared, &job);
            signed.insert(job.key);
        }
        settled
    });
    let answers = answers.collect();
    shared.sessions.signed(&signed);
    Ok(answers)
}

/// Notes that the consumer gave jobs up.
async fn give_up(shared: &Arc<Shared>, peer: PeerId, given_up: Vec<GivenUp>) -> Vec<Settled> {
    let count = given_up.len();
    let keys: Vec<JobKey> = given_up
        .iter()
        .map(|job| own_key(shared, job.job_id.clone()))
        .collect();
    // One may be on its way into the database: it must not outlive this call unnoticed.
    for key in &keys {
        crate::jobs::arrival(shared, key).await;
    }
    let now = unix_now();
    let decide = move |index: usize, job: Option<&Job>| {
        let (Some(job), Some(given)) = (job, given_up.get(index)) else {
            return (Settled::JobNotFound, None);
        };
        let mut reason = given.reason.clone();
        derouter_wire::cbor::truncate_to_char(&mut reason, limits::NOTICE_REASON_BYTES);
        job.given_up(&peer, given.cause, &reason, now)
    };
    crate::failpoint!("provider::before-noted");
    let changed = shared
        .store
        .change_jobs(Role::Provider, keys, Durability::Wal, decide)
        .await;
    crate::failpoint!("provider::noted");
    match changed {
        Ok(changed) => changed
            .into_iter()
            .map(|(settled, job)| {
                if let Some(job) = job {
                    tracing::debug!(job = %job.key, "the consumer gave a job up");
                    shared.job_ended(&job);
                }
                settled
            })
            .collect(),
        Err(error) => {
            tracing::error!(%error, "could not store that jobs were given up; the consumer will say it again");
            vec![Settled::NotStored; count]
        }
    }
}

async fn report(shared: &Shared, peer: PeerId, key: &JobKey) -> JobAnswer {
    let job = match own_job(shared, peer, key).await {
        Ok(job) => job,
        Err(refusal) => return JobAnswer::Refused(refusal),
    };
    let mut report = JobReport {
        created_at: job.created_at_sync,
        failed: None,
        outcome: None,
    };
    match job.state {
        JobState::Open(_) => {}
        JobState::Failed(failure) => report.failed = Some(failure.cause),
        JobState::Completed {
            outcome,
            provider_signature,
            ..
        } => {
            report.outcome = Some(ReportedOutcome {
                public_payload: outcome.public_payload,
                balance_delta: outcome.balance_delta.map(|wei| wei.to_string()),
                completed_at: outcome.completed_at_sync,
                signature: Bytes(provider_signature.unwrap_or_default()),
            });
        }
    }
    JobAnswer::State(report)
}

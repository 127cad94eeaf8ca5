//! Jobs of wire 0.2 as their consumer: created and joined with one call, joined again when the stream
//! breaks.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Job, Stage};
use derouter_net::{JobLine, JobReply, RequestError};
use derouter_sdk::{
    CreateJobError, FailureReason, JobKey, JobStream, NodeError, OfferSnapshot, OpenJobError,
    RemoteJob, RemoteJobError,
};
use derouter_store::{Durability, InsertJobError, NewJob, StoreError};
use derouter_wire::cbor::Bytes;
use derouter_wire::job::JobWire;
use derouter_wire::jobs::{
    CreateJob, FailureCause, GivenUp, JobAnswer, JobCall, JobReport, Joined, Refusal, RefusalCode,
    Resume,
};
use derouter_wire::{Currency, JobId, UnixSeconds, limits};
use sha2::{Digest, Sha256};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

use super::internal;
use crate::clock::unix_now;
use crate::open_jobs::{Guarded, JoinedGuard};
use crate::session::Session;
use crate::shared::Shared;

/// How long a creation is repeated when its answer is lost. The provider's module has 8 s for each.
const CREATE_DEADLINE: Duration = Duration::from_secs(20);

/// The pauses before a broken stream is joined again. A provider that is not there after these is away
/// for longer, and another one can serve meanwhile.
const JOIN_AGAIN: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];

/// The first pause before it is stored again that a job was taken; they double.
const STORE_AGAIN: Duration = Duration::from_millis(100);

/// The longest of these pauses.
const LONGEST_STORE_PAUSE: Duration = Duration::from_secs(4);

/// How long a module may take to end a job that failed with its provider, before the node does.
const LEARN_AFTER: Duration = Duration::from_secs(3);

/// Why there is no job.
pub(super) enum NotCreated {
    /// The provider does not speak wire 0.2.
    Legacy,
    Failed(CreateJobError),
}

impl<E: Into<CreateJobError>> From<E> for NotCreated {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What a creation came to.
enum Answer {
    Joined(Joined, derouter_net::JobStream),
    Refused(Refusal),
    /// The provider has not heard of the job.
    NotSent(RequestError),
    /// It may have.
    Lost,
}

/// Creates a job and joins it. The row comes before a word to the provider: whatever happens behind it,
/// either side can say what became of the job.
pub(super) async fn create(
    shared: &Arc<Shared>,
    offer: &OfferSnapshot,
    args: Option<&str>,
) -> Result<JobKey, NotCreated> {
    if args.is_some_and(|args| args.len() > limits::JOB_ARGS_BYTES) {
        let limit = limits::JOB_ARGS_BYTES;
        let text = format!("the job arguments are over {limit} bytes, which providers take");
        return Err(NodeError::Invalid(text).into());
    }
    let now = shared.clock.now().uptime;
    if shared.legacy.has(&offer.provider_peer_id, now) {
        return Err(NotCreated::Legacy);
    }
    let (node, offer, args) = (Arc::clone(shared), offer.clone(), args.map(str::to_owned));
    // To its end, also when the caller goes away meanwhile: the row must not be left behind.
    let creating = async move {
        let inserting = insert(&node, &offer, args.as_deref());
        let opening = async { Ok(node.net.open_job_line(offer.provider_peer_id).await) };
        let (key, line) = tokio::try_join!(inserting, opening)?;
        crate::failpoint!("consumer::created");
        match ask(&node, &key, &offer, args.as_deref(), line).await {
            Answer::Joined(joined, stream) => accepted(&node, key, joined, stream).await,
            Answer::Refused(refusal) => {
                forget(&node, &key).await;
                Err(NotCreated::Failed(refused(refusal)))
            }
            Answer::NotSent(error) => {
                forget(&node, &key).await;
                if matches!(error, RequestError::Unsupported(_)) {
                    node.legacy.add(key.provider, now);
                }
                Err(not_sent(&error))
            }
            Answer::Lost => {
                give_up(&node, &key).await;
                Err(CreateJobError::ProviderUnreachable.into())
            }
        }
    };
    shared.to_the_end(creating).await?
}

async fn insert(
    shared: &Shared,
    offer: &OfferSnapshot,
    args: Option<&str>,
) -> Result<JobKey, CreateJobError> {
    let job_id = JobId::new(uuid::Uuid::new_v4().to_string());
    let job_id = job_id.map_err(|error| NodeError::Internal(error.to_string()))?;
    let now = unix_now();
    let job = NewJob {
        wire: JobWire::V0_2,
        stage: Stage::Created,
        role: Role::Consumer,
        key: JobKey {
            provider: offer.provider_peer_id,
            job_id,
        },
        consumer: shared.local,
        snapshot_id: offer.snapshot_id,
        currency: Currency::Pol,
        job_args: args.filter(|_| shared.store_payloads).map(str::to_owned),
        created_at_sync: now,
        created_at_local: now,
    };
    crate::failpoint!("consumer::before-created");
    match shared.store.insert_job(job, Durability::Wal).await {
        Ok(job) => {
            shared.look_after(&job);
            Ok(job.key)
        }
        Err(InsertJobError::Store(error)) => Err(internal(error).into()),
        Err(error) => Err(NodeError::Internal(error.to_string()).into()),
    }
}

/// Asks until there is an answer, at first on `line`: the id makes a repetition count once.
async fn ask(
    shared: &Shared,
    key: &JobKey,
    offer: &OfferSnapshot,
    args: Option<&str>,
    line: Result<JobLine, RequestError>,
) -> Answer {
    let args_bytes = args.and_then(|args| u32::try_from(args.len()).ok());
    let call = JobCall::Create(CreateJob {
        job_id: key.job_id.clone(),
        protocol_id: offer.protocol_id.clone(),
        offer_id: offer.offer_id.clone(),
        offer_payload_sha256: Bytes(Sha256::digest(&offer.protocol_payload).to_vec()),
        currency: Currency::Pol,
        args_bytes,
    });
    let until = Instant::now() + CREATE_DEADLINE;
    let mut answer = match line {
        Ok(line) => shared.net.call_on(line, &call, args).await,
        Err(error) => Err(error),
    };
    let mut sent = false;
    let mut pauses = JOIN_AGAIN.iter().skip(1);
    loop {
        match answer {
            Ok(JobReply::Joined(joined, stream)) => return Answer::Joined(joined, stream),
            // Whether an earlier call was taken, it does not say.
            Ok(JobReply::Answered(JobAnswer::Refused(refusal)))
                if sent && !denies_the_job(refusal.code) => {}
            Ok(JobReply::Answered(JobAnswer::Refused(refusal))) => return Answer::Refused(refusal),
            Ok(JobReply::Answered(_)) | Err(RequestError::InvalidResponse(_)) => {
                return Answer::Lost;
            }
            Err(RequestError::Timeout | RequestError::Closed(_)) => sent = true,
            Err(error) if !sent => return Answer::NotSent(error),
            Err(_) => {}
        }
        let Some(pause) = pauses
            .next()
            .filter(|pause| Instant::now() + **pause < until)
        else {
            return Answer::Lost;
        };
        sleep(*pause).await;
        answer = shared.net.call_job(key.provider, &call, args).await;
    }
}

/// Whether a refusal says that the provider does not have the job, whatever it was sent before.
fn denies_the_job(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::OfferNotFound
            | RefusalCode::OfferChanged
            | RefusalCode::InvalidArgs
            | RefusalCode::IdConflict
    )
}

/// The provider took the job: keeps the pipe for the module. That it was taken is stored meanwhile.
async fn accepted(
    shared: &Arc<Shared>,
    key: JobKey,
    joined: Joined,
    stream: derouter_net::JobStream,
) -> Result<JobKey, NotCreated> {
    let now = shared.clock.now().uptime;
    let side = (Role::Consumer, key.clone());
    if !shared.open_jobs().has(&side) {
        // Its deadline or its module came first, and the provider may have been told so before it had
        // the job.
        drop(stream);
        give_up_late(shared, &key).await;
        return Err(CreateJobError::ProviderUnreachable.into());
    }
    shared.open_jobs().reached(&side, Stage::Running, now);
    let created_at = joined.created_at;
    let pipe = pipe(shared, &key, joined, stream).await;
    // Queued here, before the module has the job, so that whatever it does with it finds that stored.
    // Nobody outside relies on it, so nobody waits for it.
    let storing = store_accepted(Arc::clone(shared), key.clone(), created_at);
    let mut storing = Box::pin(unconstrained(storing));
    let stored = poll_fn(|cx| Poll::Ready(storing.as_mut().poll(cx))).await;
    if stored.is_pending() {
        shared.tasks.spawn(storing);
    }
    shared.opened.keep(key.clone(), pipe, now);
    Ok(key)
}

/// Until it is stored, or the job has ended: a job whose acceptance is not there can't be signed.
async fn store_accepted(shared: Arc<Shared>, key: JobKey, created_at: UnixSeconds) {
    let side = (Role::Consumer, key.clone());
    let mut pause = STORE_AGAIN;
    crate::failpoint!("consumer::before-accepted");
    loop {
        // Its module may have asked the provider about it meanwhile, which tells as much.
        let step = move |job: &Job| job.accepted(created_at, true).or_else(|| job.joined());
        let stored = shared
            .store
            .update_job(Role::Consumer, &key, Durability::Wal, step)
            .await;
        crate::failpoint!("consumer::accepted");
        match stored {
            Ok(Some(job)) => {
                shared.remember_job(&job);
                shared.emit_job(&job);
                return;
            }
            Ok(None) | Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::error!(job = %key, %error, "could not store that a job was taken; trying again");
            }
        }
        let paused = shared.stop.run_until_cancelled(sleep(pause)).await;
        if paused.is_none() || !shared.open_jobs().has(&side) {
            return;
        }
        pause = (pause * 2).min(LONGEST_STORE_PAUSE);
    }
}

/// Tells a provider that a job is over which it took too late. When that fails, its own deadline ends it.
async fn give_up_late(shared: &Shared, key: &JobKey) {
    let given_up = GivenUp {
        job_id: key.job_id.clone(),
        cause: FailureCause::NotAnswered,
        reason: "the answer came too late".to_owned(),
    };
    let call = JobCall::GiveUp(vec![given_up]);
    if let Err(error) = shared.net.call_job(key.provider, &call, None).await {
        tracing::debug!(job = %key, %error, "could not tell a provider that it was too late");
    }
}

/// The row of a job that the provider does not have.
async fn forget(shared: &Shared, key: &JobKey) {
    shared.open_jobs().ended(&(Role::Consumer, key.clone()));
    crate::failpoint!("consumer::before-forgotten");
    if let Err(error) = shared.store.forget_refused(key).await {
        // A restart ends it.
        tracing::warn!(job = %key, %error, "could not forget a job that was refused");
    }
    crate::failpoint!("consumer::forgotten");
}

/// Ends a job of which it is not known whether the provider has it, and has it told.
async fn give_up(shared: &Arc<Shared>, key: &JobKey) {
    let reason = FailureReason {
        reason: "the provider did not answer whether it takes the job".to_owned(),
        reason_class: None,
    };
    let cause = FailureCause::NotAnswered;
    if let Err(error) = super::fail(shared, Role::Consumer, key, cause, reason).await {
        tracing::debug!(job = %key, %error, "could not give up a job without an answer");
    }
}

fn refused(refusal: Refusal) -> CreateJobError {
    match refusal.code {
        RefusalCode::OfferNotFound | RefusalCode::ShuttingDown => {
            CreateJobError::ProviderOfferNotFound
        }
        RefusalCode::OfferChanged => CreateJobError::ProviderOfferPayloadMismatch,
        RefusalCode::InvalidArgs => CreateJobError::InvalidJobArgs(refusal.message),
        RefusalCode::Busy | RefusalCode::OwesTooMuch | RefusalCode::Internal => {
            CreateJobError::ProviderBusy
        }
        _ => CreateJobError::ProviderInvalidResponse,
    }
}

fn not_sent(error: &RequestError) -> NotCreated {
    match error {
        RequestError::Unsupported(_) => NotCreated::Legacy,
        RequestError::Stopped => NodeError::ShuttingDown.into(),
        _ => CreateJobError::ProviderUnreachable.into(),
    }
}

/// Joins a job with a new pipe.
pub(super) async fn join(shared: &Arc<Shared>, key: &JobKey) -> Result<JobStream, OpenJobError> {
    let call = JobCall::Join {
        job_id: key.job_id.clone(),
        resume: None,
    };
    let refusal = match shared.net.call_job(key.provider, &call, None).await {
        Ok(JobReply::Joined(joined, stream)) => return Ok(pipe(shared, key, joined, stream).await),
        Ok(JobReply::Answered(JobAnswer::Refused(refusal))) => refusal,
        Ok(JobReply::Answered(_)) => {
            return Err(OpenJobError::OtherRemote(
                "the answer is to another call".into(),
            ));
        }
        Err(RequestError::Stopped) => return Err(NodeError::ShuttingDown.into()),
        Err(RequestError::InvalidResponse(reason)) => {
            return Err(OpenJobError::OtherRemote(reason));
        }
        Err(_) => return Err(OpenJobError::ProviderUnreachable),
    };
    learn(shared, key, &refusal);
    Err(match refusal.code {
        RefusalCode::JobNotFound => OpenJobError::ProviderJobNotFound,
        RefusalCode::JobOver => OpenJobError::ProviderJobExpired,
        RefusalCode::Busy | RefusalCode::ShuttingDown | RefusalCode::Internal => {
            OpenJobError::ProviderBusy
        }
        _ => OpenJobError::OtherRemote(refusal.message),
    })
}

/// The module's end of a pipe, which is joined again when its stream breaks.
async fn pipe(
    shared: &Arc<Shared>,
    key: &JobKey,
    joined: Joined,
    stream: derouter_net::JobStream,
) -> JobStream {
    let (node, job) = (Arc::downgrade(shared), key.clone());
    let broken = move |session: Arc<Session>| {
        let Some(node) = Weak::upgrade(&node) else {
            return session.end(io::ErrorKind::ConnectionAborted);
        };
        let joining = join_again(Arc::clone(&node), job.clone(), joined.session, session);
        node.tasks.spawn(joining);
    };
    let session = Session::new(
        Box::new(stream),
        shared.sessions.budget(),
        Some(Box::new(broken)),
    );
    let guard = JoinedGuard::new(shared, Role::Consumer, key).await;
    Box::new(Guarded::new(session.pipe(), guard))
}

/// Puts another stream in the place of one that broke, or ends the pipe.
async fn join_again(shared: Arc<Shared>, key: JobKey, number: u64, session: Arc<Session>) {
    // Links that break at once, one after the other, are not put up at full speed.
    let slower = session.fruitless().min(JOIN_AGAIN.len() - 1);
    let first = JOIN_AGAIN.iter().skip(slower).take(1);
    for pause in first.chain(JOIN_AGAIN.iter().skip(1)).copied() {
        let pausing = shared.stop.run_until_cancelled(sleep(pause)).await;
        if pausing.is_none() {
            break;
        }
        if !session.wants_link() {
            // Its module has left, or the session is over.
            return;
        }
        let call = JobCall::Join {
            job_id: key.job_id.clone(),
            resume: Some(Resume {
                session: number,
                received: session.received(),
            }),
        };
        match shared.net.call_job(key.provider, &call, None).await {
            Ok(JobReply::Joined(joined, stream)) => {
                match session.suspend(joined.received) {
                    Ok(suspended) if session.resume(suspended, Box::new(stream)) => {
                        tracing::debug!(job = %key, "joined a job again");
                        return;
                    }
                    _ => break,
                };
            }
            Ok(JobReply::Answered(JobAnswer::Refused(refusal))) => {
                tracing::debug!(job = %key, reason = %refusal.message, "can't join a job again");
                learn(&shared, &key, &refusal);
                if !matches!(refusal.code, RefusalCode::Busy | RefusalCode::Internal) {
                    break;
                }
            }
            Ok(JobReply::Answered(_)) => break,
            Err(RequestError::Stopped | RequestError::InvalidResponse(_)) => break,
            Err(error) => tracing::debug!(job = %key, %error, "can't join a job again yet"),
        }
    }
    session.end(io::ErrorKind::ConnectionReset);
}

/// A refusal may say that the job failed with its provider. The module hears first that its pipe is
/// over, and has a moment to end the job in its own words.
fn learn(shared: &Arc<Shared>, key: &JobKey, refusal: &Refusal) {
    let Some(cause) = refusal.failed else { return };
    let (node, key) = (Arc::clone(shared), key.clone());
    shared.tasks.spawn(async move {
        let waiting = node.stop.run_until_cancelled(sleep(LEARN_AFTER)).await;
        if waiting.is_some() {
            learn_now(&node, &key, cause).await;
        }
    });
}

async fn learn_now(shared: &Shared, key: &JobKey, cause: FailureCause) {
    let step = move |job: &Job| job.learn_failure(cause, unix_now());
    crate::failpoint!("consumer::before-learnt");
    let learnt = shared
        .store
        .update_job(Role::Consumer, key, Durability::Wal, step)
        .await;
    crate::failpoint!("consumer::learnt");
    match learnt {
        Ok(Some(job)) => shared.job_ended(&job),
        Ok(None) => {}
        Err(error) => tracing::warn!(job = %key, %error, "could not store that a job failed"),
    }
}

/// A job of which the provider's yes was lost, or could not be stored: without it, nothing that the
/// module may do next with what the provider says would hold.
async fn note_accepted(
    shared: &Shared,
    key: &JobKey,
    created_at: UnixSeconds,
) -> Result<(), NodeError> {
    let step = move |job: &Job| job.accepted(created_at, false);
    let stored = shared
        .store
        .update_job(Role::Consumer, key, Durability::Wal, step)
        .await
        .map_err(internal)?;
    if let Some(job) = stored {
        let side = (Role::Consumer, key.clone());
        let now = shared.clock.now().uptime;
        shared.open_jobs().reached(&side, Stage::Accepted, now);
        shared.emit_job(&job);
    }
    Ok(())
}

/// The job as its provider has it.
pub(super) async fn remote(
    shared: &Arc<Shared>,
    key: &JobKey,
) -> Result<RemoteJob, RemoteJobError> {
    let call = JobCall::Ask {
        job_id: key.job_id.clone(),
    };
    match shared.net.call_job(key.provider, &call, None).await {
        Ok(JobReply::Answered(JobAnswer::State(report))) => {
            note_accepted(shared, key, report.created_at).await?;
            remote_job(report)
        }
        Ok(JobReply::Answered(JobAnswer::Refused(refusal)))
            if refusal.code == RefusalCode::JobNotFound =>
        {
            Err(RemoteJobError::JobNotFound)
        }
        Ok(JobReply::Answered(JobAnswer::Refused(refusal))) => {
            Err(NodeError::Protocol(format!("the provider refused: {}", refusal.message)).into())
        }
        Ok(_) => Err(NodeError::Protocol("the answer is to another call".into()).into()),
        Err(RequestError::Stopped) => Err(NodeError::ShuttingDown.into()),
        Err(RequestError::InvalidResponse(reason)) => Err(NodeError::Protocol(reason).into()),
        Err(_) => Err(RemoteJobError::ProviderUnreachable),
    }
}

fn remote_job(report: JobReport) -> Result<RemoteJob, RemoteJobError> {
    let mut job = RemoteJob {
        public_payload: None,
        balance_delta: None,
        created_at_sync: report.created_at,
        completed_at_sync: None,
    };
    if let Some(outcome) = report.outcome {
        let balance = outcome.balance_delta.map(|text| text.parse()).transpose();
        let balance = balance
            .map_err(|error| NodeError::Protocol(format!("the provider's balance: {error}")))?;
        job.public_payload = Some(outcome.public_payload);
        job.balance_delta = balance;
        job.completed_at_sync = Some::<UnixSeconds>(outcome.completed_at);
    }
    Ok(job)
}

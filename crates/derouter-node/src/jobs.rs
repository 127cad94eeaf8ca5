//! Steps on jobs that start on this node: as consumer ([`creation`]: on wire 0.2), and as provider when
//! a service ends one.

mod creation;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{AlreadyEnded, Job, JobChange, JobState, NotSigned, Outcome, Stage};
use derouter_net::{OpenStreamError, RequestError};
use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobKey,
    JobStream, NodeError, OfferSnapshot, OpenJobError, ProviderCompleteError, ProviderCompletion,
    RemoteJob, RemoteJobError, SnapshotId, UnixSeconds,
};
use derouter_store::{ChangeOutcome, Durability, InsertJobError, NewJob, StoreError};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use derouter_wire::reqres::{CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::stream::JobConnectionResult;
use derouter_wire::{Currency, JobId, cbor, limits};

use crate::clock::unix_now;
use crate::open_jobs::{Guarded, JoinedGuard};
use crate::shared::Shared;
use crate::{disk_watch, inbound};

/// Buffer of a job stream between two modules of this node, each way.
const OWN_STREAM_BYTES: usize = 64 * 1024;

/// The longest an ending waits for the row of a job that its service accepted just now.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(10);

/// The first pause before it is looked again whether a signature is on the disk; they double.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// Signatures looked after at once: as many as a busy consumer has jobs when its disk fails. Modules that
/// try again do not add to them.
const MAX_IN_DOUBT: usize = 4096;

/// The longest of these pauses.
const LONGEST_DOUBT_PAUSE: Duration = Duration::from_secs(60);

pub(crate) fn internal(error: StoreError) -> NodeError {
    match error {
        StoreError::Closed => NodeError::ShuttingDown,
        other => NodeError::Internal(other.to_string()),
    }
}

pub(crate) async fn create(
    shared: &Arc<Shared>,
    offer: SnapshotId,
    job_args: Option<String>,
) -> Result<JobKey, CreateJobError> {
    let offer = shared.snapshot(offer).await.map_err(internal)?;
    let offer = offer.ok_or(CreateJobError::LocalOfferNotFound)?;
    // Before the provider begins: a job that can't be stored can't be signed for.
    if let Some(refusal) = disk_watch::refusal(&shared.store) {
        return Err(refusal.into());
    }
    if offer.provider_peer_id != shared.local {
        match creation::create(shared, &offer, job_args.as_deref()).await {
            Err(creation::NotCreated::Legacy) => {}
            Err(creation::NotCreated::Failed(error)) => return Err(error),
            Ok(key) => return Ok(key),
        }
    }
    create_0_1(shared, &offer, job_args).await
}

/// With a provider of wire 0.1, and on an offer of this node.
async fn create_0_1(
    shared: &Arc<Shared>,
    offer: &OfferSnapshot,
    job_args: Option<String>,
) -> Result<JobKey, CreateJobError> {
    let (job_id, created_at_sync) = ask_to_create(shared, offer, job_args.clone()).await?;
    let key = JobKey {
        provider: offer.provider_peer_id,
        job_id,
    };
    let job = NewJob {
        wire: JobWire::V0_1,
        stage: Stage::Accepted,
        role: Role::Consumer,
        key: key.clone(),
        consumer: shared.local,
        snapshot_id: offer.snapshot_id,
        currency: Currency::Pol,
        job_args: job_args.filter(|_| shared.store_payloads),
        created_at_sync,
        created_at_local: unix_now(),
    };
    match shared.store.insert_job(job, Durability::Wal).await {
        Ok(job) => shared.job_opened(&job),
        Err(InsertJobError::Duplicate) => {
            tracing::warn!(job = %key, "the provider gave a job id that it gave before");
            return Err(CreateJobError::ProviderInvalidResponse);
        }
        Err(error) => return Err(NodeError::Internal(error.to_string()).into()),
    }
    Ok(key)
}

async fn ask_to_create(
    shared: &Arc<Shared>,
    offer: &OfferSnapshot,
    job_args: Option<String>,
) -> Result<(JobId, UnixSeconds), CreateJobError> {
    let request = Request::CreateJob {
        protocol_id: offer.protocol_id.clone(),
        offer_id: offer.offer_id.clone(),
        offer_payload: offer.protocol_payload.clone(),
        currency: Currency::Pol,
        job_args,
    };
    let response = if offer.provider_peer_id == shared.local {
        inbound::answer(shared, shared.local, request).await
    } else {
        shared
            .net
            .request(offer.provider_peer_id, request)
            .await
            .map_err(create_error)?
    };
    let Response::CreateJob(result) = response else {
        return Err(CreateJobError::ProviderInvalidResponse);
    };
    match result {
        CreateJobResult::Ok {
            provider_job_id,
            created_at_sync,
        } => Ok((provider_job_id, created_at_sync)),
        CreateJobResult::OfferNotFound => Err(CreateJobError::ProviderOfferNotFound),
        CreateJobResult::OfferPayloadMismatch => Err(CreateJobError::ProviderOfferPayloadMismatch),
        CreateJobResult::InvalidJobArgs(mut reason) => {
            cbor::truncate_to_char(&mut reason, limits::REASON_BYTES);
            Err(CreateJobError::InvalidJobArgs(reason))
        }
        CreateJobResult::Busy => Err(CreateJobError::ProviderBusy),
    }
}

fn create_error(error: RequestError) -> CreateJobError {
    match error {
        RequestError::Unreachable(_) | RequestError::Timeout | RequestError::Closed(_) => {
            CreateJobError::ProviderUnreachable
        }
        RequestError::Unsupported(_) | RequestError::InvalidResponse(_) => {
            CreateJobError::ProviderInvalidResponse
        }
        RequestError::TooLarge { bytes, limit } => CreateJobError::Node(NodeError::Invalid(
            format!("the job arguments make a request of {bytes} bytes; providers take {limit}"),
        )),
        RequestError::Stopped => CreateJobError::Node(NodeError::ShuttingDown),
        other => CreateJobError::Node(NodeError::Internal(other.to_string())),
    }
}

pub(crate) async fn open(shared: &Arc<Shared>, key: &JobKey) -> Result<JobStream, OpenJobError> {
    if let Some(pipe) = shared.opened.take(key) {
        return Ok(pipe);
    }
    let job = shared
        .known_job(Role::Consumer, key)
        .await
        .map_err(internal)?;
    let job = job.ok_or(OpenJobError::LocalJobNotFound)?;
    let stream = if key.provider == shared.local {
        open_own(shared, key).await?
    } else if job.wire == JobWire::V0_2 {
        return creation::join(shared, key).await;
    } else {
        open_0_1(shared, key).await?
    };
    let joined = JoinedGuard::new(shared, Role::Consumer, key).await;
    Ok(Box::new(Guarded::new(stream, joined)))
}

async fn open_0_1(shared: &Arc<Shared>, key: &JobKey) -> Result<JobStream, OpenJobError> {
    let opened = shared
        .net
        .open_job_stream(key.provider, key.job_id.clone())
        .await;
    let stream = opened.map_err(|error| match error {
        OpenStreamError::Unreachable(_) | OpenStreamError::Timeout => {
            OpenJobError::ProviderUnreachable
        }
        OpenStreamError::JobNotFound => OpenJobError::ProviderJobNotFound,
        OpenStreamError::JobExpired => OpenJobError::ProviderJobExpired,
        OpenStreamError::Busy => OpenJobError::ProviderBusy,
        OpenStreamError::Stopped => NodeError::ShuttingDown.into(),
        OpenStreamError::Other(mut reason) => {
            cbor::truncate_to_char(&mut reason, limits::REASON_BYTES);
            OpenJobError::OtherRemote(reason)
        }
        other => OpenJobError::OtherRemote(other.to_string()),
    })?;
    Ok(Box::new(stream))
}

/// A job on one's own offer: the two modules are joined without the network.
async fn open_own(shared: &Arc<Shared>, key: &JobKey) -> Result<JobStream, OpenJobError> {
    let prepared = inbound::streams::prepare(shared, shared.local, key).await;
    let (service, joined) = prepared.map_err(|refusal| match refusal {
        JobConnectionResult::JobExpired => OpenJobError::ProviderJobExpired,
        JobConnectionResult::Busy => OpenJobError::ProviderBusy,
        JobConnectionResult::AnotherError(reason) => OpenJobError::OtherRemote(reason),
        JobConnectionResult::JobNotFound | JobConnectionResult::Ok => {
            OpenJobError::ProviderJobNotFound
        }
    })?;
    let (ours, theirs) = tokio::io::duplex(OWN_STREAM_BYTES);
    let serving = inbound::streams::serve_own(
        Arc::clone(shared),
        service,
        joined,
        key.clone(),
        Box::new(theirs),
    );
    shared.tasks.spawn(serving);
    Ok(Box::new(ours))
}

pub(crate) async fn remote(
    shared: &Arc<Shared>,
    key: &JobKey,
) -> Result<RemoteJob, RemoteJobError> {
    let known = shared.known_job(Role::Consumer, key).await;
    let wire = known.map_err(internal)?.map(|job| job.wire);
    if wire == Some(JobWire::V0_2) {
        return creation::remote(shared, key).await;
    }
    let request = Request::GetJob {
        provider_job_id: key.job_id.clone(),
    };
    let response = if key.provider == shared.local {
        inbound::answer(shared, shared.local, request).await
    } else {
        let asked = shared.net.request(key.provider, request).await;
        asked.map_err(|error| match error {
            RequestError::Stopped => NodeError::ShuttingDown.into(),
            RequestError::InvalidResponse(reason) => NodeError::Protocol(reason).into(),
            _ => RemoteJobError::ProviderUnreachable,
        })?
    };
    let Response::GetJob(result) = response else {
        return Err(NodeError::Protocol("the answer is to another request".into()).into());
    };
    let GetJobResult::Ok {
        public_payload,
        balance_delta,
        created_at_sync,
        completed_at_sync,
    } = result
    else {
        return Err(RemoteJobError::JobNotFound);
    };
    let balance_delta = balance_delta
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| NodeError::Protocol(format!("the provider's balance: {error}")))?;
    Ok(RemoteJob {
        public_payload,
        balance_delta,
        created_at_sync,
        completed_at_sync,
    })
}

/// Signs the outcome and keeps it on disk; the confirmer delivers it.
pub(crate) async fn complete_as_consumer(
    shared: &Arc<Shared>,
    key: &JobKey,
    completion: ConsumerCompletion,
) -> Result<(), CompleteJobError> {
    check_payload(
        &completion.public_payload,
        completion.private_payload.as_deref(),
    )?;
    let signer = Arc::clone(shared);
    let outcome = Outcome {
        public_payload: completion.public_payload,
        balance_delta: completion.balance_delta,
        completed_at_sync: completion.completed_at_sync,
        completed_at_local: unix_now(),
    };
    let private = completion.private_payload;
    let step = move |job: &Job| sign(&signer, job, outcome, private);
    let (node, key) = (Arc::clone(shared), key.clone());
    let signing = async move {
        crate::failpoint!("consumer::before-signed");
        // The signature is a debt: on disk before anybody relies on it.
        let changed = node
            .store
            .change_job(Role::Consumer, &key, Durability::Fsync, step)
            .await;
        // It may be stored all the same, and then nobody else would deliver it before a restart.
        if changed.is_err() && doubt(&node, &key) {
            node.tasks
                .spawn(after_doubt(Arc::clone(&node), key.clone()));
        }
        match changed.map_err(internal)? {
            ChangeOutcome::Changed(job) => {
                crate::failpoint!("consumer::signed");
                node.job_ended(&job);
                Ok(())
            }
            ChangeOutcome::NotFound => Err(CompleteJobError::InvalidJobId),
            ChangeOutcome::Refused(refusal) => Err(refusal),
        }
    };
    shared.to_the_end(signing).await?
}

/// Notes that it is not known whether a job is signed. False when somebody looks after it already, or
/// when so many are looked after that this one waits for the next start.
fn doubt(shared: &Shared, key: &JobKey) -> bool {
    let mut doubted = shared.in_doubt();
    doubted.len() < MAX_IN_DOUBT && doubted.insert(key.clone())
}

/// [`look_after_doubt`], and then it is known.
async fn after_doubt(shared: Arc<Shared>, key: JobKey) {
    look_after_doubt(&shared, &key).await;
    shared.in_doubt().remove(&key);
}

/// Finds out what became of a signature after the disk failed, and has it delivered if it is there for
/// good: no sooner, as a provider may not have what its consumer could still lose.
async fn look_after_doubt(shared: &Shared, key: &JobKey) {
    let mut pause = DOUBT_PAUSE;
    loop {
        let pausing = shared.stop.run_until_cancelled(tokio::time::sleep(pause));
        if pausing.await.is_none() {
            // The next start loads it.
            return;
        }
        pause = (pause * 2).min(LONGEST_DOUBT_PAUSE);
        // Changes nothing, and is answered once the disk has all that came before.
        let look = |job: &Job| Err::<JobChange, _>(Box::new(job.clone()));
        let looked = shared
            .store
            .change_job(Role::Consumer, key, Durability::Fsync, look)
            .await;
        match looked {
            Ok(ChangeOutcome::Refused(job)) if !job.is_open() => return shared.job_ended(&job),
            Ok(_) | Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::debug!(job = %key, %error, "still in doubt whether it is signed");
            }
        }
    }
}

fn sign(
    shared: &Shared,
    job: &Job,
    outcome: Outcome,
    private_payload: Option<String>,
) -> Result<JobChange, CompleteJobError> {
    if job.consumer != shared.local {
        return Err(CompleteJobError::InvalidConsumerPeerId);
    }
    let hash = job.outcome_to_hash(&outcome).hash();
    let signature = hash.sign(&shared.keypair).ok_or_else(|| {
        NodeError::Internal("the node's key can't sign; it must be Ed25519".into())
    })?;
    job.sign_as_consumer(outcome, signature, private_payload)
        .map_err(|not| match not {
            NotSigned::Ended(AlreadyEnded::Completed { .. }) => CompleteJobError::AlreadyCompleted,
            NotSigned::Ended(AlreadyEnded::Failed(failure)) => {
                CompleteJobError::AlreadyFailed(failure)
            }
            not @ NotSigned::NotAccepted => NodeError::Invalid(not.to_string()).into(),
        })
}

/// Completes a job that a service of this node served.
pub(crate) async fn complete_as_provider(
    shared: &Arc<Shared>,
    key: &JobKey,
    completion: ProviderCompletion,
) -> Result<UnixSeconds, ProviderCompleteError> {
    check_payload(
        &completion.public_payload,
        completion.private_payload.as_deref(),
    )?;
    arrival(shared, key).await;
    let (node, key) = (Arc::clone(shared), key.clone());
    let completing = async move { complete_and_count(&node, &key, completion).await };
    shared.to_the_end(completing).await?
}

async fn complete_and_count(
    shared: &Arc<Shared>,
    key: &JobKey,
    completion: ProviderCompletion,
) -> Result<UnixSeconds, ProviderCompleteError> {
    let now = unix_now();
    let owed = completion.balance_delta.unwrap_or_default();
    // Counted inside the step, before anybody can see the outcome: a consumer that confirms at
    // once must find the debt that it pays.
    let debtor = Arc::new(OnceLock::new());
    let (counting, counted) = (Arc::clone(shared), Arc::clone(&debtor));
    let step = move |job: &Job| {
        let change = complete(&counting, job, completion, now)?;
        if job.consumer != counting.local {
            counting.market().credit.owes(job.consumer, owed);
            let _ = counted.set(job.consumer);
        }
        Ok(change)
    };
    crate::failpoint!("provider::before-completed");
    // The consumer signs what it is told now: a power cut must not take it from the provider.
    let changed = shared
        .store
        .change_job(Role::Provider, key, Durability::Fsync, step)
        .await;
    match changed {
        Ok(ChangeOutcome::Changed(job)) => {
            crate::failpoint!("provider::completed");
            shared.job_ended(&job);
            match job.state {
                JobState::Completed { outcome, .. } => Ok(outcome.completed_at_sync),
                _ => Err(NodeError::Internal("a completed job is not completed".into()).into()),
            }
        }
        Ok(ChangeOutcome::NotFound) => Err(ProviderCompleteError::InvalidJobId),
        Ok(ChangeOutcome::Refused(refusal)) => Err(refusal),
        Err(error) => {
            // What may be stored is owed: else the consumer could have more than it is trusted with.
            if let Some(consumer) = debtor.get().filter(|_| !error.may_be_stored()) {
                shared.market().credit.signed(consumer, owed);
            }
            Err(internal(error).into())
        }
    }
}

fn complete(
    shared: &Shared,
    job: &Job,
    completion: ProviderCompletion,
    now: UnixSeconds,
) -> Result<JobChange, ProviderCompleteError> {
    let outcome = Outcome {
        public_payload: completion.public_payload,
        balance_delta: completion.balance_delta,
        // Never before its creation, should the clock have been set back.
        completed_at_sync: now.max(job.created_at_sync),
        completed_at_local: now,
    };
    let signature = match job.wire {
        JobWire::V0_1 => None,
        JobWire::V0_2 => job.outcome_to_hash(&outcome).hash().sign(&shared.keypair),
    };
    let change = job.complete_as_provider(outcome, signature, completion.private_payload);
    change.map_err(|ended| match ended {
        AlreadyEnded::Completed { completed_at_sync } => {
            ProviderCompleteError::AlreadyCompleted { completed_at_sync }
        }
        AlreadyEnded::Failed(failure) => ProviderCompleteError::AlreadyFailed(failure),
    })
}

/// Gives a job up on one side.
pub(crate) async fn fail(
    shared: &Arc<Shared>,
    role: Role,
    key: &JobKey,
    cause: FailureCause,
    mut failure: FailureReason,
) -> Result<(), FailJobError> {
    cbor::truncate_to_char(&mut failure.reason, limits::REASON_BYTES);
    if role == Role::Provider {
        arrival(shared, key).await;
    }
    let step = move |job: &Job| {
        job.fail(cause, failure, unix_now())
            .map_err(|ended| match ended {
                AlreadyEnded::Completed { .. } => FailJobError::AlreadyCompleted,
                AlreadyEnded::Failed(failure) => FailJobError::AlreadyFailed(failure),
            })
    };
    match role {
        Role::Consumer => crate::failpoint!("consumer::before-failed"),
        Role::Provider => crate::failpoint!("provider::before-failed"),
    }
    let changed = shared
        .store
        .change_job(role, key, Durability::Wal, step)
        .await;
    match role {
        Role::Consumer => crate::failpoint!("consumer::failed"),
        Role::Provider => crate::failpoint!("provider::failed"),
    }
    match changed.map_err(internal)? {
        ChangeOutcome::Changed(job) => {
            shared.job_ended(&job);
            Ok(())
        }
        ChangeOutcome::NotFound => Err(FailJobError::InvalidJobId),
        ChangeOutcome::Refused(refusal) => Err(refusal),
    }
}

/// Waits until the row of a job that was accepted just now is there, or will never be.
pub(crate) async fn arrival(shared: &Shared, key: &JobKey) {
    let arriving = shared.market().arriving.get(key).cloned();
    if let Some(mut arriving) = arriving {
        // Ends when the sender is dropped; nothing is ever sent.
        let _ = tokio::time::timeout(ARRIVAL_DEADLINE, arriving.changed()).await;
    }
}

fn check_payload(public: &str, private: Option<&str>) -> Result<(), NodeError> {
    let too_long = |name: &str, most: usize| {
        Err(NodeError::Invalid(format!(
            "{name} is over its limit of {most} bytes"
        )))
    };
    if public.len() > limits::PUBLIC_PAYLOAD_BYTES {
        return too_long("public_payload", limits::PUBLIC_PAYLOAD_BYTES);
    }
    if private.is_some_and(|text| text.len() > limits::PRIVATE_PAYLOAD_BYTES) {
        return too_long("private_payload", limits::PRIVATE_PAYLOAD_BYTES);
    }
    Ok(())
}

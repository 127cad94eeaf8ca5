//! What other nodes ask of this one as a provider: create, get and confirm jobs on wire 0.1
//! ([`streams`]: connect to them), and all of it on wire 0.2 ([`calls`]).

pub(crate) mod calls;
pub(crate) mod streams;

use std::sync::Arc;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Job, JobState, Presented, Stage};
use derouter_net::InboundRequest;
use derouter_sdk::{FailureReason, JobRefusal, ProviderJob, ProviderService};
use derouter_store::{ChangeOutcome, Durability, InsertJobError, NewJob, StoreError};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use derouter_wire::reqres::{ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::{Currency, JobId, JobKey, PeerId, SnapshotId, limits};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use crate::clock::unix_now;
use crate::disk_watch;
use crate::places::PeerPlaces;
use crate::provided::{OfferName, ProvidedOffer};
use crate::shared::Shared;

/// The longest a service takes to accept a job or a connection: the asker waits 10 s.
const SERVICE_DEADLINE: Duration = Duration::from_secs(8);

/// Requests from peers under way at once. One costs a task and its request, at most 1 MiB.
const MAX_REQUESTS: usize = 512;

/// Requests of one peer under way at once, so that it leaves places for others.
const MAX_REQUESTS_PER_PEER: usize = 128;

/// Answers requests until the node stops.
pub(crate) async fn serve_requests(
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<InboundRequest>,
) {
    let places = PeerPlaces::new(MAX_REQUESTS, MAX_REQUESTS_PER_PEER);
    loop {
        let inbound = tokio::select! {
            () = shared.stop.cancelled() => return,
            inbound = requests.recv() => inbound,
        };
        let Some(InboundRequest {
            peer,
            request,
            reply,
            ..
        }) = inbound
        else {
            return;
        };
        let Some(place) = places.take(peer) else {
            tracing::debug!(%peer, "too many requests at once");
            if let Some(refusal) = busy(&request) {
                // Whether the peer still waits makes no difference to a refusal.
                let _ = reply.send(refusal);
            }
            continue;
        };
        let serving = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            let shared = serving;
            let response = answer(&shared, peer, request).await;
            let created = created_job(&shared, &response);
            if !reply.send(response) {
                give_up_orphan(&shared, created).await;
            }
            drop(place);
        });
    }
}

/// The job that a response tells of, if it tells of a new one.
fn created_job(shared: &Shared, response: &Response) -> Option<JobKey> {
    let Response::CreateJob(CreateJobResult::Ok {
        provider_job_id, ..
    }) = response
    else {
        return None;
    };
    Some(JobKey {
        provider: shared.local,
        job_id: provider_job_id.clone(),
    })
}

/// Ends a job whose consumer left before it learnt of it: nobody else knows its id.
async fn give_up_orphan(shared: &Arc<Shared>, created: Option<JobKey>) {
    let Some(key) = created else { return };
    let reason = "the consumer went away before it was told of the job".to_owned();
    let failure = FailureReason {
        reason,
        reason_class: None,
    };
    if let Err(error) = crate::jobs::fail(
        shared,
        Role::Provider,
        &key,
        FailureCause::NotJoined,
        failure,
    )
    .await
    {
        tracing::debug!(job = %key, %error, "could not give up an orphaned job");
    }
}

/// The refusal that a request's kind knows, if any.
fn busy(request: &Request) -> Option<Response> {
    match request {
        Request::CreateJob { .. } => Some(Response::CreateJob(CreateJobResult::Busy)),
        Request::GetJob { .. } | Request::ConfirmJob { .. } => None,
    }
}

/// Answers one request of a peer, which may be this node itself.
pub(crate) async fn answer(shared: &Arc<Shared>, peer: PeerId, request: Request) -> Response {
    match request {
        Request::CreateJob {
            protocol_id,
            offer_id,
            offer_payload,
            currency,
            job_args,
        } => {
            let wanted = Wanted {
                name: (protocol_id, offer_id),
                payload: WantedPayload::Whole(offer_payload),
                currency,
                job_args,
                wire: JobWire::V0_1,
                stage: Stage::Accepted,
            };
            Response::CreateJob(create_job(shared, peer, wanted).await)
        }
        Request::GetJob { provider_job_id } => {
            Response::GetJob(get_job(shared, peer, provider_job_id).await)
        }
        Request::ConfirmJob {
            provider_job_id,
            job_hash,
            consumer_public_key,
            consumer_signature,
        } => {
            let key = JobKey {
                provider: shared.local,
                job_id: provider_job_id,
            };
            let step = move |job: &Job| {
                let presented = Presented {
                    asker: &peer,
                    hash: &job_hash.0,
                    signature: &consumer_signature.0,
                };
                job.confirm(presented, &consumer_public_key.0, unix_now())
            };
            Response::ConfirmJob(confirm_job(shared, key, step).await)
        }
    }
}

/// A job that a consumer wants.
pub(crate) struct Wanted {
    pub(crate) name: OfferName,
    pub(crate) payload: WantedPayload,
    pub(crate) currency: Currency,
    pub(crate) job_args: Option<String>,
    pub(crate) wire: JobWire,
    /// How far the job is once it is taken: running when its consumer is joined at once.
    pub(crate) stage: Stage,
}

/// How a consumer says which payload of an offer it means.
pub(crate) enum WantedPayload {
    /// Byte for byte (0.1).
    Whole(String),
    /// By its SHA-256 (0.2).
    Sha256(Vec<u8>),
}

impl WantedPayload {
    fn is(&self, payload: &str) -> bool {
        match self {
            Self::Whole(wanted) => wanted == payload,
            Self::Sha256(wanted) => Sha256::digest(payload).as_slice() == wanted,
        }
    }
}

/// Why a job is not taken.
pub(crate) enum NotTaken {
    OfferNotFound,
    OfferChanged,
    InvalidArgs(String),
    OwesTooMuch,
    Busy,
    /// The id stands for a job already.
    Exists,
    /// The node takes no new work any more.
    Draining,
}

async fn create_job(shared: &Arc<Shared>, consumer: PeerId, wanted: Wanted) -> CreateJobResult {
    let Ok(job_id) = JobId::new(uuid::Uuid::new_v4().to_string()) else {
        return CreateJobResult::Busy;
    };
    let key = JobKey {
        provider: shared.local,
        job_id,
    };
    match take_job(shared, consumer, key, wanted).await {
        Ok((job, _)) => CreateJobResult::Ok {
            provider_job_id: job.key.job_id,
            created_at_sync: job.created_at_sync,
        },
        Err(NotTaken::OfferNotFound | NotTaken::Draining) => CreateJobResult::OfferNotFound,
        Err(NotTaken::OfferChanged) => CreateJobResult::OfferPayloadMismatch,
        Err(NotTaken::InvalidArgs(reason)) => CreateJobResult::InvalidJobArgs(reason),
        Err(NotTaken::OwesTooMuch | NotTaken::Busy | NotTaken::Exists) => CreateJobResult::Busy,
    }
}

/// Has a job taken by the module that serves its offer, and stores it.
pub(crate) async fn take_job(
    shared: &Arc<Shared>,
    consumer: PeerId,
    key: JobKey,
    wanted: Wanted,
) -> Result<(Job, Arc<dyn ProviderService>), NotTaken> {
    let offer = provided(shared, &consumer, &wanted)?;
    // Before the module begins to work on what can't be stored. The node's log says why.
    if let Some(refusal) = disk_watch::refusal(&shared.store) {
        tracing::debug!(%consumer, %refusal, "the consumer is told busy");
        return Err(NotTaken::Busy);
    }
    let created_at_sync = unix_now();
    let kept_args = wanted.job_args.clone().filter(|_| shared.store_payloads);
    let job = ProviderJob {
        key: key.clone(),
        protocol_id: wanted.name.0.clone(),
        offer_id: wanted.name.1.clone(),
        created_at_sync,
        job_args: wanted.job_args,
        consumer: Some(consumer),
    };
    let _arrival = Arrival::of(shared, &key).ok_or(NotTaken::Exists)?;
    accept(&offer, job).await?;
    let snapshot_id = match snapshot(shared, &wanted.name, offer.payload).await {
        Ok(snapshot_id) => snapshot_id,
        Err(error) => return Err(not_stored(&key, &error)),
    };
    let new = NewJob {
        wire: wanted.wire,
        stage: wanted.stage,
        role: Role::Provider,
        key: key.clone(),
        consumer,
        snapshot_id,
        currency: wanted.currency,
        job_args: kept_args,
        created_at_sync,
        created_at_local: created_at_sync,
    };
    crate::failpoint!("provider::before-taken");
    match shared.store.insert_job(new, Durability::Wal).await {
        Ok(job) => {
            crate::failpoint!("provider::taken");
            shared.job_opened(&job);
            Ok((job, offer.service))
        }
        Err(InsertJobError::Duplicate) => Err(NotTaken::Exists),
        Err(error) => Err(not_stored(&key, &error)),
    }
}

async fn accept(offer: &ProvidedOffer, job: ProviderJob) -> Result<(), NotTaken> {
    let name = job.offer_id.clone();
    match tokio::time::timeout(SERVICE_DEADLINE, offer.service.accept(job)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(JobRefusal::Busy)) => Err(NotTaken::Busy),
        Ok(Err(JobRefusal::InvalidJobArgs(mut reason))) => {
            derouter_wire::cbor::truncate_to_char(&mut reason, limits::REASON_BYTES);
            Err(NotTaken::InvalidArgs(reason))
        }
        Err(_) => {
            tracing::warn!(offer = %name, "the module did not answer a new job in time; the consumer is told busy");
            Err(NotTaken::Busy)
        }
    }
}

fn not_stored(key: &JobKey, error: &dyn std::error::Error) -> NotTaken {
    tracing::error!(job = %key, %error, "could not store a new job; the consumer is told busy");
    NotTaken::Busy
}

/// A job on its way into the database. From here on its service may end it, before its row is there;
/// whoever does waits for the sender to be dropped.
struct Arrival<'a> {
    shared: &'a Shared,
    key: &'a JobKey,
    _arrived: watch::Sender<()>,
}

impl<'a> Arrival<'a> {
    /// `None` when a job of that id is arriving already.
    fn of(shared: &'a Shared, key: &'a JobKey) -> Option<Self> {
        let (arrived, arriving) = watch::channel(());
        let mut market = shared.market();
        if market.arriving.contains_key(key) {
            return None;
        }
        market.arriving.insert(key.clone(), arriving);
        Some(Self {
            shared,
            key,
            _arrived: arrived,
        })
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.shared.market().arriving.remove(self.key);
    }
}

/// The provided offer that a consumer wants, if it may have a job for it.
fn provided(
    shared: &Shared,
    consumer: &PeerId,
    wanted: &Wanted,
) -> Result<ProvidedOffer, NotTaken> {
    // Taken back already. "Busy" would have consumers come again.
    if shared.is_draining() {
        return Err(NotTaken::Draining);
    }
    let market = shared.market();
    let offer = market.provided.get(&wanted.name);
    let offer = offer.ok_or(NotTaken::OfferNotFound)?;
    if !wanted.payload.is(&offer.payload) {
        return Err(NotTaken::OfferChanged);
    }
    // On one's own offers nothing is owed to anybody else.
    if *consumer != shared.local && !market.credit.allows(consumer, offer.max_unsigned) {
        let owed = market.credit.unsigned(consumer).to_pol_text();
        tracing::warn!(%consumer, owed_pol = %owed, "a consumer owes more than max_unsigned without signing; it is refused until it signs");
        return Err(NotTaken::OwesTooMuch);
    }
    Ok(offer.clone())
}

/// The snapshot of a provided offer.
async fn snapshot(
    shared: &Shared,
    name: &OfferName,
    payload: String,
) -> Result<SnapshotId, StoreError> {
    let known = shared.market().index.own_snapshot(name, &payload);
    if let Some(id) = known {
        return Ok(id);
    }
    let offer = vec![(name.0.clone(), name.1.clone(), payload)];
    let ids = shared.store.snapshot_ids(shared.local, offer).await?;
    ids.first().copied().ok_or(StoreError::Closed)
}

async fn get_job(shared: &Shared, peer: PeerId, job_id: JobId) -> GetJobResult {
    let key = JobKey {
        provider: shared.local,
        job_id,
    };
    let job = match shared.store.job(Role::Provider, &key).await {
        Ok(Some(job)) if job.consumer == peer => job,
        Ok(_) => return GetJobResult::JobNotFound,
        Err(error) => {
            tracing::error!(job = %key, %error, "could not read a job");
            return GetJobResult::JobNotFound;
        }
    };
    let outcome = match job.state {
        JobState::Completed { outcome, .. } => Some(outcome),
        JobState::Open(_) | JobState::Failed(_) => None,
    };
    GetJobResult::Ok {
        public_payload: outcome
            .as_ref()
            .map(|outcome| outcome.public_payload.clone()),
        balance_delta: outcome
            .as_ref()
            .and_then(|outcome| outcome.balance_delta)
            .map(|wei| wei.to_string()),
        created_at_sync: job.created_at_sync,
        completed_at_sync: outcome.map(|outcome| outcome.completed_at_sync),
    }
}

async fn confirm_job(
    shared: &Shared,
    key: JobKey,
    step: impl FnOnce(&Job) -> Result<derouter_market::JobChange, ConfirmJobResult> + Send + 'static,
) -> ConfirmJobResult {
    // The signature is the provider's claim to its money: on disk before the consumer may forget.
    match shared
        .store
        .change_job(Role::Provider, &key, Durability::Fsync, step)
        .await
    {
        Ok(ChangeOutcome::Changed(job)) => {
            paid(shared, &job);
            ConfirmJobResult::Ok
        }
        Ok(ChangeOutcome::Refused(answer)) => answer,
        Ok(ChangeOutcome::NotFound) => ConfirmJobResult::JobNotFound,
        Err(error) => {
            // Not a word that ends the consumer's attempts.
            tracing::error!(job = %key, %error, "could not store a signature; the consumer will send it again");
            ConfirmJobResult::UnexpectedResponse
        }
    }
}

/// A consumer has signed what it owes for a job.
pub(crate) fn paid(shared: &Shared, job: &Job) {
    if let JobState::Completed { outcome, .. } = &job.state {
        let owed = outcome.balance_delta.unwrap_or_default();
        shared.market().credit.signed(&job.consumer, owed);
    }
    shared.emit_job(job);
}

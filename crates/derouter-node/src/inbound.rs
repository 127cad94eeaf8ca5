//! What other nodes ask of this one as a provider: create, get and confirm jobs ([`streams`]: connect
//! to them).

pub(crate) mod streams;

use std::sync::Arc;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Job, JobState};
use derouter_net::InboundRequest;
use derouter_sdk::{FailureReason, JobRefusal, ProviderJob};
use derouter_store::{ChangeOutcome, Durability, InsertJobError, NewJob};
use derouter_wire::reqres::{ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::{Currency, JobId, JobKey, PeerId, limits};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::clock::unix_now;
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
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    let mut by_peer = crate::places::PeerPlaces::new(MAX_REQUESTS_PER_PEER);
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
        let place = by_peer
            .take(peer)
            .zip(Arc::clone(&places).try_acquire_owned().ok());
        let Some(place) = place else {
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
    if let Err(error) = crate::jobs::fail(shared, Role::Provider, &key, failure).await {
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
                offer_payload,
                currency,
                job_args,
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
                let (hash, key) = (&job_hash.0, &consumer_public_key.0);
                job.confirm(&peer, hash, key, &consumer_signature.0, unix_now())
            };
            Response::ConfirmJob(confirm_job(shared, key, step).await)
        }
    }
}

struct Wanted {
    name: OfferName,
    offer_payload: String,
    currency: Currency,
    job_args: Option<String>,
}

async fn create_job(shared: &Arc<Shared>, consumer: PeerId, wanted: Wanted) -> CreateJobResult {
    let offer = match provided(shared, &consumer, &wanted) {
        Ok(offer) => offer,
        Err(refusal) => return refusal,
    };
    let Ok(job_id) = JobId::new(uuid::Uuid::new_v4().to_string()) else {
        return CreateJobResult::Busy;
    };
    let key = JobKey {
        provider: shared.local,
        job_id,
    };
    let created_at_sync = unix_now();
    let kept_args = if shared.store_payloads {
        wanted.job_args.clone()
    } else {
        None
    };
    let job = ProviderJob {
        key: key.clone(),
        protocol_id: wanted.name.0.clone(),
        offer_id: wanted.name.1.clone(),
        created_at_sync,
        job_args: wanted.job_args,
    };
    // From here on the service may end the job, before its row is there; whoever does waits for
    // this sender to be dropped.
    let (_arrived, arriving) = watch::channel(());
    shared.market().arriving.insert(key.clone(), arriving);
    let _arrival = Arrival { shared, key: &key };
    match tokio::time::timeout(SERVICE_DEADLINE, offer.service.accept(job)).await {
        Ok(Ok(())) => {}
        Ok(Err(JobRefusal::Busy)) => return CreateJobResult::Busy,
        Ok(Err(JobRefusal::InvalidJobArgs(mut reason))) => {
            derouter_wire::cbor::truncate_to_char(&mut reason, limits::REASON_BYTES);
            return CreateJobResult::InvalidJobArgs(reason);
        }
        Err(_) => {
            tracing::warn!(offer = %wanted.name.1, "the module did not answer a new job in time; the consumer is told busy");
            return CreateJobResult::Busy;
        }
    }
    let inserted = insert(
        shared,
        &wanted.name,
        offer.payload,
        NewJobParts {
            key: key.clone(),
            consumer,
            currency: wanted.currency,
            job_args: kept_args,
            created_at_sync,
        },
    );
    match inserted.await {
        Ok(job) => {
            shared.remember_job(&job);
            shared.emit_job(&job);
            CreateJobResult::Ok {
                provider_job_id: key.job_id.clone(),
                created_at_sync,
            }
        }
        Err(error) => {
            tracing::error!(job = %key, %error, "could not store a new job; the consumer is told busy");
            CreateJobResult::Busy
        }
    }
}

/// Takes the job off the list of arriving ones, however its creation ends.
struct Arrival<'a> {
    shared: &'a Shared,
    key: &'a JobKey,
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
) -> Result<ProvidedOffer, CreateJobResult> {
    // Taken back already. "Busy" would have consumers come again.
    if shared.is_draining() {
        return Err(CreateJobResult::OfferNotFound);
    }
    let market = shared.market();
    let Some(offer) = market.provided.get(&wanted.name) else {
        return Err(CreateJobResult::OfferNotFound);
    };
    if offer.payload != wanted.offer_payload {
        return Err(CreateJobResult::OfferPayloadMismatch);
    }
    // On one's own offers nothing is owed to anybody else.
    if *consumer != shared.local && !market.credit.allows(consumer, offer.max_unsigned) {
        let owed = market.credit.unsigned(consumer).to_pol_text();
        tracing::warn!(%consumer, owed_pol = %owed, "a consumer owes more than max_unsigned without signing; it is told busy until it signs");
        return Err(CreateJobResult::Busy);
    }
    Ok(offer.clone())
}

struct NewJobParts {
    key: JobKey,
    consumer: PeerId,
    currency: Currency,
    job_args: Option<String>,
    created_at_sync: derouter_wire::UnixSeconds,
}

async fn insert(
    shared: &Shared,
    name: &OfferName,
    payload: String,
    parts: NewJobParts,
) -> Result<Job, InsertJobError> {
    let known = shared.market().index.own_snapshot(name, &payload);
    let snapshot_id = match known {
        Some(id) => id,
        None => {
            let offer = vec![(name.0.clone(), name.1.clone(), payload)];
            let ids = shared.store.snapshot_ids(shared.local, offer).await?;
            ids.first()
                .copied()
                .ok_or(derouter_store::StoreError::Closed)?
        }
    };
    let job = NewJob {
        role: Role::Provider,
        key: parts.key,
        consumer: parts.consumer,
        snapshot_id,
        currency: parts.currency,
        job_args: parts.job_args,
        created_at_sync: parts.created_at_sync,
        created_at_local: parts.created_at_sync,
    };
    shared.store.insert_job(job, Durability::Wal).await
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
        JobState::Open | JobState::Failed { .. } => None,
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
            if let JobState::Completed { outcome, .. } = &job.state {
                let owed = outcome.balance_delta.unwrap_or_default();
                shared.market().credit.signed(&job.consumer, owed);
            }
            shared.emit_job(&job);
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

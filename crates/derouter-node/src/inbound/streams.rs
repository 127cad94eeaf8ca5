//! Job streams: a consumer connects to one of its jobs, and the module that serves it takes over.

use std::sync::Arc;

use derouter_market::Role;
use derouter_market::job::JobState;
use derouter_net::InboundJobStream;
use derouter_sdk::{ConnectionRefusal, JobStream, NodeDesk, ProviderService};
use derouter_wire::jobs::FailureCause;
use derouter_wire::stream::JobConnectionResult;
use derouter_wire::{JobKey, PeerId};
use tokio::sync::{Semaphore, mpsc};

use super::SERVICE_DEADLINE;
use crate::handle::LocalNode;
use crate::open_jobs::JoinedGuard;
use crate::shared::Shared;

/// Job streams served at once.
const MAX_STREAMS: usize = 4096;

/// Serves job streams until the node stops.
pub(crate) async fn serve_streams(
    shared: Arc<Shared>,
    mut streams: mpsc::Receiver<InboundJobStream>,
) {
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        let inbound = tokio::select! {
            () = shared.stop.cancelled() => return,
            inbound = streams.recv() => inbound,
        };
        let Some(stream) = inbound else { return };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.tasks.spawn(stream.refuse(JobConnectionResult::Busy));
            continue;
        };
        let (serving, stop) = (Arc::clone(&shared), shared.stop.clone());
        shared.tasks.spawn(async move {
            // Answers under way end with the node: `None` here.
            let _ = stop
                .run_until_cancelled(serve_stream(serving, stream))
                .await;
            drop(place);
        });
    }
}

async fn serve_stream(shared: Arc<Shared>, stream: InboundJobStream) {
    let key = JobKey {
        provider: shared.local,
        job_id: stream.job_id.clone(),
    };
    let (service, joined) = match prepare(&shared, stream.peer, &key).await {
        Ok(prepared) => prepared,
        Err(refusal) => {
            // A peer that went away needs no refusal.
            let _ = stream.refuse(refusal).await;
            return;
        }
    };
    let Ok(stream) = stream.accept().await else {
        return;
    };
    let desk = NodeDesk(Arc::new(LocalNode::new(shared)));
    service.serve(key, Arc::new(desk), Box::new(stream)).await;
    drop(joined);
}

/// Finds and asks the service that serves a job to this consumer, and notes that the consumer is joined.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    consumer: PeerId,
    key: &JobKey,
) -> Result<(Arc<dyn ProviderService>, JoinedGuard), JobConnectionResult> {
    let job = match shared.known_job(Role::Provider, key).await {
        Ok(Some(job)) if job.consumer == consumer => job,
        Ok(_) => return Err(JobConnectionResult::JobNotFound),
        Err(error) => {
            tracing::error!(job = %key, %error, "could not read a job");
            return Err(JobConnectionResult::Busy);
        }
    };
    if expired(shared, key).await {
        return Err(JobConnectionResult::JobExpired);
    }
    let service = shared.market().provided.service(&job.offer);
    let Some(service) = service else {
        return Err(JobConnectionResult::JobExpired);
    };
    prepare_service(key, service.as_ref()).await?;
    let joined = JoinedGuard::new(shared, Role::Provider, key).await;
    Ok((service, joined))
}

/// Whether the node gave the job up: what its service would do for it, nobody would sign. What a
/// module ended can be connected to again, and is told so there.
async fn expired(shared: &Shared, key: &JobKey) -> bool {
    if shared.open_jobs().has(&(Role::Provider, key.clone())) {
        return false;
    }
    let Ok(Some(job)) = shared.store.job(Role::Provider, key).await else {
        return false;
    };
    let JobState::Failed(failure) = job.state else {
        return false;
    };
    matches!(
        failure.cause,
        FailureCause::ProviderStopped
            | FailureCause::NotJoined
            | FailureCause::Idle
            | FailureCause::TooLong
    )
}

/// Asks a service whether it takes a connection to a job.
pub(super) async fn prepare_service(
    key: &JobKey,
    service: &dyn ProviderService,
) -> Result<(), JobConnectionResult> {
    match tokio::time::timeout(SERVICE_DEADLINE, service.prepare(key)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ConnectionRefusal::JobNotFound)) => Err(JobConnectionResult::JobNotFound),
        Ok(Err(ConnectionRefusal::Busy)) => Err(JobConnectionResult::Busy),
        Err(_) => {
            tracing::warn!(job = %key, "the module did not answer a connection in time; the consumer is told busy");
            Err(JobConnectionResult::Busy)
        }
    }
}

/// The provider's end of a job on one's own offer.
pub(crate) fn serve_own(
    shared: Arc<Shared>,
    service: Arc<dyn ProviderService>,
    joined: JoinedGuard,
    key: JobKey,
    stream: JobStream,
) -> impl Future<Output = ()> {
    let desk = NodeDesk(Arc::new(LocalNode::new(shared)));
    async move {
        service.serve(key, Arc::new(desk), stream).await;
        drop(joined);
    }
}

//! What a node asks of a provider over its connection, as calls of its service.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use derouter_wire::JobKey;
use derouter_wire::cbor::{self, DecodeError};
use derouter_wire::rpc::event::{
    PrepareJobConnectionReply, ProviderCreateJob, ProviderCreateJobReply,
    ProviderOpenJobConnection, ProviderPrepareJobConnection,
};
use derouter_wire::rpc::ticket::Ticket;
use derouter_wire::rpc::{Call, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::connection::JobPipe;
use super::link::{Caller, Mux};
use super::lock;
use crate::provider::{ConnectionRefusal, JobRefusal, ProviderDesk, ProviderJob, ProviderService};

/// Requests and job connections of one provision in work. Above it the node hears Busy.
const IN_WORK: usize = 1024;

/// A service's time to answer. The asking peer gives up after 10 s.
const ANSWER_WAIT: Duration = Duration::from_secs(8);

/// How long the node may take from a prepared connection to its opening.
const PREPARED_FOR: Duration = Duration::from_secs(60);

/// Prepared connections. Each waits for one message of the node.
const MAX_PREPARED: usize = 1024;

/// How long a job's stream may take to open.
const OPEN_WAIT: Duration = Duration::from_secs(8);

/// A provider's service on one connection.
pub(super) struct Service {
    service: Arc<dyn ProviderService>,
    desk: Arc<dyn ProviderDesk>,
    /// Turns true when all offers are provided: a node may ask before, but a job of a provision
    /// that is taken back half way helps nobody.
    ready: watch::Receiver<bool>,
    room: Arc<Semaphore>,
    prepared: Mutex<HashMap<String, (Instant, JobKey)>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl Service {
    pub(super) fn new(
        service: Arc<dyn ProviderService>,
        desk: Arc<dyn ProviderDesk>,
        ready: watch::Receiver<bool>,
    ) -> Self {
        Self {
            service,
            desk,
            ready,
            room: Arc::new(Semaphore::new(IN_WORK)),
            prepared: Mutex::default(),
        }
    }

    /// Takes one request of the node; answers come from tasks, so that none waits for another.
    pub(super) async fn request(self: &Arc<Self>, frame: &Frame<'_>, caller: &Caller, mux: &Mux) {
        let taken = match frame.type_name.as_ref() {
            ProviderCreateJob::TYPE => self.create(frame, caller).await,
            ProviderPrepareJobConnection::TYPE => self.prepare(frame, caller).await,
            ProviderOpenJobConnection::TYPE => self.open(frame, caller, mux).await,
            unknown => {
                tracing::debug!(
                    request = unknown,
                    "a request that this version does not know"
                );
                let _ = caller.acknowledge(frame.id).await;
                Ok(())
            }
        };
        if let Err(error) = taken {
            let request = frame.type_name.as_ref();
            tracing::warn!(request, %error, "a request of the node can't be read");
        }
    }

    /// Whether no request and no job connection is in work.
    pub(super) fn is_idle(&self) -> bool {
        self.room.available_permits() == IN_WORK
    }

    fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    async fn create(
        self: &Arc<Self>,
        frame: &Frame<'_>,
        caller: &Caller,
    ) -> Result<(), DecodeError> {
        let request: ProviderCreateJob = cbor::from_slice(frame.data)?;
        let (this, caller, id) = (Arc::clone(self), caller.clone(), frame.id);
        let Some(room) = self.room() else {
            let busy = ProviderCreateJobReply::Busy;
            let _ = caller.respond(id, ProviderCreateJob::TYPE, &busy).await;
            return Ok(());
        };
        tokio::spawn(async move {
            let accepted = timeout(ANSWER_WAIT, this.accept(request)).await;
            let reply = accepted.unwrap_or(ProviderCreateJobReply::Busy);
            let _ = caller.respond(id, ProviderCreateJob::TYPE, &reply).await;
            drop(room);
        });
        Ok(())
    }

    async fn accept(&self, request: ProviderCreateJob) -> ProviderCreateJobReply {
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            return ProviderCreateJobReply::Busy;
        }
        let job = ProviderJob {
            key: JobKey {
                provider: request.provider_peer_id,
                job_id: request.provider_job_id,
            },
            protocol_id: request.protocol_id,
            offer_id: request.offer_id,
            created_at_sync: request.created_at_sync,
            job_args: request.job_args,
            consumer: request.consumer_peer_id,
        };
        match self.service.accept(job).await {
            Ok(()) => ProviderCreateJobReply::Ok,
            Err(JobRefusal::Busy) => ProviderCreateJobReply::Busy,
            Err(JobRefusal::InvalidJobArgs(reason)) => {
                ProviderCreateJobReply::InvalidJobArgs(reason)
            }
        }
    }

    async fn prepare(
        self: &Arc<Self>,
        frame: &Frame<'_>,
        caller: &Caller,
    ) -> Result<(), DecodeError> {
        let request: ProviderPrepareJobConnection = cbor::from_slice(frame.data)?;
        let job = JobKey {
            provider: request.provider_peer_id,
            job_id: request.provider_job_id,
        };
        let (this, caller, id) = (Arc::clone(self), caller.clone(), frame.id);
        let room = self.room();
        tokio::spawn(async move {
            let reply = match room {
                None => PrepareJobConnectionReply::Busy,
                Some(_room) => this.prepare_within(job).await,
            };
            let _ = caller
                .respond(id, ProviderPrepareJobConnection::TYPE, &reply)
                .await;
        });
        Ok(())
    }

    async fn prepare_within(&self, job: JobKey) -> PrepareJobConnectionReply {
        match timeout(ANSWER_WAIT, self.service.prepare(&job)).await {
            Ok(Ok(())) => self.remember(Instant::now(), job),
            Ok(Err(ConnectionRefusal::JobNotFound)) => PrepareJobConnectionReply::JobNotFound,
            Ok(Err(ConnectionRefusal::Busy)) | Err(_) => PrepareJobConnectionReply::Busy,
        }
    }

    fn remember(&self, now: Instant, job: JobKey) -> PrepareJobConnectionReply {
        let mut prepared = lock(&self.prepared);
        if prepared.len() >= MAX_PREPARED {
            prepared.retain(|_, (since, _)| now.duration_since(*since) < PREPARED_FOR);
        }
        if prepared.len() >= MAX_PREPARED {
            return PrepareJobConnectionReply::Busy;
        }
        let nonce = format!("{:032x}", rand::random::<u128>());
        prepared.insert(nonce.clone(), (now, job));
        PrepareJobConnectionReply::Ok(nonce)
    }

    async fn open(
        self: &Arc<Self>,
        frame: &Frame<'_>,
        caller: &Caller,
        mux: &Mux,
    ) -> Result<(), DecodeError> {
        let request: ProviderOpenJobConnection = cbor::from_slice(frame.data)?;
        let _ = caller.acknowledge(frame.id).await;
        let Some((_, job)) = lock(&self.prepared).remove(&request.nonce) else {
            tracing::warn!("the node opens a job connection that was not prepared");
            return Ok(());
        };
        let Some(room) = self.room() else {
            tracing::warn!(%job, "too many job connections: this one stays closed");
            return Ok(());
        };
        let (this, mux) = (Arc::clone(self), mux.clone());
        tokio::spawn(async move {
            this.serve(job, request.connection_id, &mux).await;
            drop(room);
        });
        Ok(())
    }

    async fn serve(&self, job: JobKey, ticket: Ticket, mux: &Mux) {
        match JobPipe::claim(mux, ticket, OPEN_WAIT).await {
            Ok(pipe) => {
                let desk = Arc::clone(&self.desk);
                self.service.serve(job, desk, Box::new(pipe)).await;
            }
            Err(error) => tracing::warn!(%job, %error, "a job's stream can't be opened"),
        }
    }
}

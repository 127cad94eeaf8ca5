//! Jobs of `openai:0.2`: HTTP over the job's pipe, each byte of the answer as the backend sent it.
//!
//! The backend is asked as soon as a job is taken, when its request came with it; else once it has come
//! on the pipe. The node joins a broken pipe again, so that a job has one connection here, and what is
//! not joined within 10 s is given up.

mod ahead;
mod ask;
mod bodies;
mod end;
mod offer;
mod serve;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use derouter_sdk::{
    FailureReason, JobId, JobKey, JobRefusal, JobStream, NodeDesk, OfferSpec, ProviderDesk,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::admission::{Consumer, Slot};
use super::backend::Failure;
use super::pump::ending::record_failure;
use super::pump::{Offer, Shared};
use crate::protocol::REASON_SERVICE_ERROR;
use crate::protocol::v0_2::{Body, OfferPayload, RequestHead, protocol_id};
use crate::terms::Terms;
use ask::Ask;
use bodies::Bodies;
pub(super) use offer::payload;

/// Jobs that were taken and not joined yet.
const MAX_WAITING: usize = 1024;

/// An offer as `openai:0.2` sells it.
pub(super) struct Sold {
    pub(super) offer: Arc<Offer>,
    pub(super) terms: Terms,
}

impl Sold {
    /// The same offer.
    pub(super) fn new(offer: &Arc<Offer>) -> Self {
        Self {
            terms: payload(&offer.config, &offer.payload).terms(),
            offer: Arc::clone(offer),
        }
    }

    /// What is announced.
    pub(super) fn spec(&self) -> OfferSpec {
        OfferSpec {
            protocol_id: protocol_id(),
            offer_id: self.offer.id.clone(),
            protocol_payload: OfferPayload {
                load: self.offer.load,
                ..payload(&self.offer.config, &self.offer.payload)
            }
            .to_json(),
        }
    }
}

/// The jobs.
#[derive(Default)]
pub(super) struct Jobs {
    waiting: Mutex<HashMap<JobId, Waiting>>,
    bodies: Arc<Bodies>,
}

/// A job that was not joined yet.
struct Waiting {
    taken: Taken,
    /// Ends the task that gives it up.
    _timer: DropGuard,
}

/// A job that was taken.
struct Taken {
    sold: Arc<Sold>,
    consumer: Consumer,
    slot: Slot,
    request: Requested,
}

/// What is asked for.
enum Requested {
    /// All of it is here, and the backend is asked.
    Asked {
        ask: Ask,
        answering: AbortOnDropHandle<Result<reqwest::Response, Failure>>,
    },
    /// Its body comes on the pipe.
    OnPipe(RequestHead),
}

/// What a job needs besides its arguments.
pub(super) struct NewJob<'a> {
    pub(super) key: JobKey,
    pub(super) args: &'a str,
    pub(super) consumer: Consumer,
    pub(super) sold: Arc<Sold>,
}

impl Jobs {
    /// Whether a job waits to be joined.
    pub(super) fn waits(&self, job: &JobId) -> bool {
        self.lock().contains_key(job)
    }

    /// Takes a job, if it makes sense and there is a slot for it.
    pub(super) async fn take(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        new: NewJob<'_>,
    ) -> Result<(), JobRefusal> {
        if self.waits(&new.key.job_id) {
            // The node asks again because our answer was lost.
            return Ok(());
        }
        let refused = |reason: String| JobRefusal::InvalidJobArgs(reason);
        let (head, body) =
            RequestHead::parse(new.args).map_err(|error| refused(error.to_string()))?;
        ask::check_head(&head, &new.sold).map_err(refused)?;
        let ask = match body {
            Body::Here(body) => {
                let body = body.as_bytes().to_vec();
                let ask = Ask::new(&head, body.into(), &new.sold).await;
                Some(ask.map_err(refused)?)
            }
            Body::OnPipe => None,
        };
        let slot = shared.admission.admit(new.consumer, &new.sold.offer.lane);
        let slot = slot.await.map_err(|refusal| {
            tracing::debug!(job = %new.key.job_id, %refusal, "job refused");
            refusal.answer()
        })?;
        if shared.stop.is_cancelled() {
            return Err(JobRefusal::Busy);
        }
        let request = match ask {
            Some(ask) => {
                let sending = ask.clone().send(Arc::clone(&new.sold.offer.backend));
                let answering = AbortOnDropHandle::new(tokio::spawn(sending));
                Requested::Asked { ask, answering }
            }
            None => Requested::OnPipe(head),
        };
        let taken = Taken {
            sold: new.sold,
            consumer: new.consumer,
            slot,
            request,
        };
        self.wait(shared, new.key, taken)
    }

    fn wait(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        key: JobKey,
        taken: Taken,
    ) -> Result<(), JobRefusal> {
        let joined = CancellationToken::new();
        {
            let mut waiting = self.lock();
            if waiting.len() >= MAX_WAITING {
                return Err(JobRefusal::Busy);
            }
            let waits = Waiting {
                taken,
                _timer: joined.clone().drop_guard(),
            };
            waiting.insert(key.job_id.clone(), waits);
        }
        let (jobs, shared) = (Arc::clone(self), Arc::clone(shared));
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(shared.limits.connection) => {}
                () = shared.stop.cancelled() => {}
                () = joined.cancelled() => return,
            }
            let Some(never_joined) = jobs.lock().remove(&key.job_id) else {
                return;
            };
            drop(never_joined);
            shared.counters.jobs_abandoned.increment();
            let failure = FailureReason {
                reason: "the consumer did not connect in time".to_owned(),
                reason_class: Some(REASON_SERVICE_ERROR),
            };
            record_failure(&NodeDesk(Arc::clone(&shared.node)), &key, failure).await;
        });
        Ok(())
    }

    /// Serves a job's pipe to its end.
    pub(super) async fn serve(
        &self,
        shared: &Arc<Shared>,
        key: JobKey,
        desk: Arc<dyn ProviderDesk>,
        pipe: JobStream,
    ) {
        let taken = self.lock().remove(&key.job_id);
        let Some(Waiting { taken, .. }) = taken else {
            return;
        };
        shared.counters.connections.increment();
        let serving = serve::Serving {
            shared: Arc::clone(shared),
            bodies: Arc::clone(&self.bodies),
            key,
            desk,
            taken,
        };
        serving.run(pipe).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

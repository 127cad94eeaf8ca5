//! What the node asks of the provider: take a job, take a connection, serve it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use derouter_sdk::{
    ConnectionRefusal, JobKey, JobRefusal, JobStream, OfferId, ProviderDesk, ProviderJob,
    ProviderService, async_trait,
};

use tokio_util::task::TaskTracker;

use super::admission::{NOT_SERVED, Refusal};
use super::connection::{self, Ended};
use super::demand::Outcome;
use super::job::Job;
use super::keeper::unix_now;
use super::pump::{Offer, Pump, Recorder, Shared};
use super::registry::Added;
use super::request::Request;
use super::v0_2::{self, Sold};
use crate::protocol::{self, PROTOCOL};

/// The provider's service.
pub(super) struct Service {
    pub(super) offers: HashMap<OfferId, Arc<Offer>>,
    /// The same, as `openai:0.2` sells them.
    pub(super) sold: HashMap<OfferId, Arc<Sold>>,
    pub(super) shared: Arc<Shared>,
    /// Connections that are served.
    pub(super) connections: TaskTracker,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

#[async_trait]
impl ProviderService for Service {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let offer_id = job.offer_id.clone();
        let taken = match job.protocol_id.as_str() {
            protocol::v0_2::PROTOCOL => self.take_0_2(job).await,
            _ => self.take(job).await,
        };
        self.note(&offer_id, &taken);
        let counters = &self.shared.counters;
        match &taken {
            Ok(()) => counters.jobs_accepted.increment(),
            Err(JobRefusal::Busy) => counters.jobs_busy.increment(),
            Err(JobRefusal::InvalidJobArgs(_)) => counters.jobs_invalid.increment(),
        }
        taken
    }

    async fn prepare(&self, key: &JobKey) -> Result<(), ConnectionRefusal> {
        if self.shared.jobs.waits(&key.job_id) {
            return Ok(());
        }
        let job = self.shared.registry.get(&key.job_id);
        let job = job.ok_or(ConnectionRefusal::JobNotFound)?;
        if !job.log.replays() {
            // An answer so long that its beginning is gone.
            return Err(ConnectionRefusal::JobNotFound);
        }
        if job.has_room() {
            Ok(())
        } else {
            Err(ConnectionRefusal::Busy)
        }
    }

    async fn serve(&self, key: JobKey, desk: Arc<dyn ProviderDesk>, stream: JobStream) {
        if self.shared.jobs.waits(&key.job_id) {
            let _served = self.connections.token();
            return self
                .shared
                .jobs
                .serve(&self.shared, key, desk, stream)
                .await;
        }
        let Some(job) = self.shared.registry.get(&key.job_id) else {
            return;
        };
        let _served = self.connections.token();
        let Some(connected) = job.connect(desk) else {
            return;
        };
        let counters = &self.shared.counters;
        counters.connections.increment();
        if connected.replay {
            counters.replays.increment();
        }
        let ended = connection::serve(&job.log, stream, self.shared.limits.write).await;
        match ended {
            Ended::Served => tracing::debug!(job = %key.job_id, "connection served"),
            Ended::ConsumerLeft => tracing::debug!(job = %key.job_id, "consumer left"),
            Ended::Broke(error) => tracing::debug!(job = %key.job_id, %error, "connection broke"),
        }
    }
}

impl Service {
    /// Counts who wanted an offer. Who was told Busy was counted where that was decided.
    fn note(&self, offer_id: &OfferId, taken: &Result<(), JobRefusal>) {
        let Some(offer) = self.offers.get(offer_id) else {
            return;
        };
        let (mut demand, now) = (offer.lane.demand(), unix_now());
        match taken {
            Ok(()) => demand.asked(Outcome::Taken, now),
            Err(JobRefusal::Busy) => {}
            Err(JobRefusal::InvalidJobArgs(reason)) if reason == NOT_SERVED => {
                demand.asked(Outcome::Blocked, now);
            }
            Err(JobRefusal::InvalidJobArgs(reason)) => demand.invalid(reason, now),
        }
    }

    async fn take_0_2(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let Some(sold) = self.sold.get(&job.offer_id) else {
            return Err(JobRefusal::InvalidJobArgs(not_served(&job)));
        };
        let new = v0_2::NewJob {
            args: job.job_args.as_deref().unwrap_or_default(),
            consumer: job.consumer,
            sold: Arc::clone(sold),
            key: job.key,
        };
        self.shared.jobs.take(&self.shared, new).await
    }

    async fn take(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let offer = self.offers.get(&job.offer_id);
        let offer = offer.filter(|_| job.protocol_id.as_str() == PROTOCOL);
        let Some(offer) = offer else {
            return Err(JobRefusal::InvalidJobArgs(not_served(&job)));
        };
        if self.shared.stop.is_cancelled() {
            return Err(JobRefusal::Busy);
        }
        let (admission, consumer) = (&self.shared.admission, job.consumer);
        let refuse = |refusal: Refusal| {
            tracing::debug!(job = %job.key.job_id, ?consumer, %refusal, "job refused");
            refusal.answer()
        };
        admission.lets_in(consumer).map_err(refuse)?;
        let args = job.job_args.as_deref();
        let request = Request::parse(args, &offer.config).map_err(JobRefusal::InvalidJobArgs)?;
        let slot = admission.admit(consumer, &offer.lane).await;
        let slot = slot.map_err(refuse)?;
        if self.shared.stop.is_cancelled() {
            return Err(JobRefusal::Busy);
        }
        let recorder = args
            .filter(|_| self.shared.store_payloads)
            .map(|args| Recorder::new(args, request.stream));
        let job = Arc::new(Job::new(job.key.clone()));
        match self.shared.registry.add(&job) {
            Added::New => {}
            // The node asks again because our answer was lost.
            Added::Known => return Ok(()),
            Added::Full => return Err(JobRefusal::Busy),
        }
        tracing::debug!(job = %job.key.job_id, model = %offer.config.model_id, "job taken");
        let pump = Pump {
            shared: Arc::clone(&self.shared),
            job,
            offer: Arc::clone(offer),
            consumer,
            request,
            recorder,
        };
        self.shared.tasks.spawn(pump.run(slot));
        Ok(())
    }
}

fn not_served(job: &ProviderJob) -> String {
    format!(
        "no offer {} of {} is served here",
        job.offer_id, job.protocol_id
    )
}

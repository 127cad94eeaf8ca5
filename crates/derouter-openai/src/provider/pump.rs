//! Serves one job: asks the backend, writes the answer to the job's log, and ends the job.
//!
//! Decisions that 0.1 leaves open:
//! - The backend is asked as soon as the job is taken, which spares a round trip. When nobody connects
//!   within 10 s the request is dropped; until then it is at most 256 KiB ahead.
//! - The prologue is Ok once the first value is there, so that whatever fails before it is a
//!   ServiceError and the consumer can go to the next provider. After 20 s without an answer it is Ok
//!   all the same, because 0.1 consumers wait for it 30 s and for an answer 300 s.
//! - 0.1 knows no error in the middle of an answer. What fails there fails the job, and the stream
//!   ends without an epilogue: nothing is owed, and our consumers take it as a failure.
//! - A finished answer is completed even if the consumer leaves before it has read all of it.

mod answer;
pub(super) mod ending;
mod record;

use std::sync::Arc;

use derouter_sdk::{Node, OfferId};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Consumer, Lane, Slot};
use super::backend::{Backend, Failure};
use super::config::{Limits, OfferConfig};
use super::counters::Counters;
use super::health::Verdict;
use super::job::{Absence, Job};
use super::monitor::Monitor;
use super::registry::Registry;
use super::request::Request;
use super::trial::Trials;
use super::usage::SettledUsage;
use crate::protocol::OfferPayload;
pub(super) use record::Recorder;

/// An offer as it is served.
pub(super) struct Offer {
    pub(super) id: OfferId,
    pub(super) config: OfferConfig,
    pub(super) payload: OfferPayload,
    /// How loaded it says it is, in percent (`openai:0.2`).
    pub(super) load: Option<u8>,
    pub(super) backend: Arc<Backend>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) lane: Arc<Lane>,
}

/// What all jobs share.
pub(super) struct Shared {
    pub(super) node: Arc<dyn Node>,
    pub(super) limits: Limits,
    /// Jobs of `openai:0.1`.
    pub(super) registry: Registry,
    /// Jobs of `openai:0.2`.
    pub(super) jobs: Arc<super::v0_2::Jobs>,
    pub(super) admission: Admission,
    pub(super) trials: Trials,
    pub(super) counters: Arc<Counters>,
    pub(super) store_payloads: bool,
    /// Ends all jobs.
    pub(super) stop: CancellationToken,
    /// The running jobs.
    pub(super) tasks: TaskTracker,
}

/// The task of one job.
pub(super) struct Pump {
    pub(super) shared: Arc<Shared>,
    pub(super) job: Arc<Job>,
    pub(super) offer: Arc<Offer>,
    pub(super) consumer: Consumer,
    pub(super) request: Request,
    /// Keeps what is said, when the operator wants that.
    pub(super) recorder: Option<Recorder>,
}

/// A complete answer, not yet paid for.
struct Answered {
    usage: SettledUsage,
    recorder: Option<Recorder>,
}

/// Why there is no complete answer.
#[derive(Debug)]
enum Unanswered {
    /// The backend failed.
    Failed(Failure),
    /// Nobody wants it.
    Abandoned(Absence),
    /// The provider stops.
    Stopped,
}

impl Pump {
    /// Serves the job to its end. The slot is the job's place at the backend.
    pub(super) async fn run(mut self, slot: Slot) {
        let begin = Instant::now();
        let _ends = Ends {
            shared: Arc::clone(&self.shared),
            job: Arc::clone(&self.job),
        };
        let recorder = self.recorder.take();
        let outcome = tokio::select! {
            biased;
            outcome = self.answer(recorder) => outcome.map_err(Unanswered::Failed),
            absence = self.job.abandoned(self.shared.limits.connection) => {
                Err(Unanswered::Abandoned(absence))
            }
            () = self.shared.stop.cancelled() => Err(Unanswered::Stopped),
        };
        self.offer.monitor.job_ended(match &outcome {
            Ok(_) => Verdict::Well,
            Err(Unanswered::Failed(failure)) => failure.verdict,
            Err(_) => Verdict::Nothing,
        });
        match outcome {
            Ok(answered) => self.complete(answered, slot, begin).await,
            Err(unanswered) => {
                // Nothing runs at the backend any more.
                drop(slot);
                self.fail(&unanswered, begin).await;
            }
        }
    }

    /// Gets the answer and waits until somebody has connected for it.
    async fn answer(&self, recorder: Option<Recorder>) -> Result<Answered, Failure> {
        let limits = self.shared.limits;
        let work = async {
            if self.request.stream {
                self.streamed(recorder).await
            } else {
                self.plain(recorder).await
            }
        };
        let work = timeout(limits.total, work);
        tokio::pin!(work);
        let answered = tokio::select! {
            biased;
            answered = &mut work => answered,
            () = sleep(limits.prologue) => {
                self.job.log.open();
                work.await
            }
        };
        let answered = answered
            .unwrap_or_else(|_| Err(Failure::plain("the backend takes too long for its answer")))?;
        self.job.connected().await;
        Ok(answered)
    }
}

/// Ends a job's log whatever becomes of its task, so that no connection waits for ever.
struct Ends {
    shared: Arc<Shared>,
    job: Arc<Job>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.job.log.end();
        self.shared.registry.finish(&self.job, Instant::now());
    }
}

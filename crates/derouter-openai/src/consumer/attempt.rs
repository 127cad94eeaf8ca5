//! One attempt to have a request answered by one offer, up to the answer's first value.

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use derouter_sdk::wire::cbor::truncate_to_char;
use derouter_sdk::{CreateJobError, JobStream, NodeError, OpenJobError};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Kept, is_epilogue};
use super::gateway::Gateway;
use super::job::OpenJob;
use super::ledger::Reservation;
use super::offers::Offer;
use super::quality::Blame;
use super::request::Asked;
use super::route::Route;
use super::tally::Tally;
use super::v0_2;
use super::values::ValueReader;
use crate::frames::ReadValueError;
use crate::meter::Meter;
use crate::protocol::{Prologue, REASON_PROTOCOL_VIOLATION, REASON_SERVICE_ERROR};
use crate::transcript::Transcript;

/// Texts of providers that are passed on to clients, in bytes.
const MESSAGE_BYTES: usize = 1000;

/// What a provider has against a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    /// The status of its backend, one of [`REQUEST_STATUSES`](crate::protocol::v0_2::REQUEST_STATUSES).
    pub(crate) status: Option<u16>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The provider has no room now.
    Busy,
    /// The offer is not there any more, or not as it was announced.
    Gone,
    Unreachable,
    /// The provider refuses the request's content; another may not.
    Refused(Refusal),
    /// The service failed, or its node or module misbehaved.
    Failed(String),
    /// Nothing came in time.
    TimedOut(&'static str),
    /// Our own node failed: no provider is to blame, and another one is no help.
    Local(String),
}

impl Failure {
    /// How it bears on the provider's standing.
    pub(crate) fn blame(&self) -> Option<Blame> {
        match self {
            Self::Local(_) => None,
            // An offer that changed is no fault: prices and loads do, and the news of it takes its time.
            Self::Busy | Self::Refused(_) | Self::Gone => Some(Blame::Declined),
            Self::Unreachable | Self::Failed(_) | Self::TimedOut(_) => Some(Blame::Failed),
        }
    }

    /// A word for logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Gone => "offer gone",
            Self::Unreachable => "unreachable",
            Self::Refused(_) => "request refused",
            Self::Failed(_) => "failed",
            Self::TimedOut(_) => "timed out",
            Self::Local(_) => "local fault",
        }
    }

    pub(super) fn service(message: Option<String>) -> Self {
        let mut message = message.unwrap_or_else(|| "The provider reported an error.".into());
        truncate_to_char(&mut message, MESSAGE_BYTES);
        Self::Failed(message)
    }

    /// The provider refuses what is asked; another may not.
    pub(super) fn refused(mut message: String, status: Option<u16>) -> Self {
        truncate_to_char(&mut message, MESSAGE_BYTES);
        Self::Refused(Refusal { message, status })
    }

    fn violation(what: &str) -> Self {
        Self::Failed(format!("The provider broke the protocol: {what}."))
    }
}

impl From<CreateJobError> for Failure {
    fn from(error: CreateJobError) -> Self {
        match error {
            CreateJobError::ProviderUnreachable => Self::Unreachable,
            CreateJobError::LocalOfferNotFound
            | CreateJobError::ProviderOfferNotFound
            | CreateJobError::ProviderOfferPayloadMismatch => Self::Gone,
            CreateJobError::InvalidJobArgs(message) => Self::refused(message, None),
            CreateJobError::ProviderBusy => Self::Busy,
            CreateJobError::Node(error) => error.into(),
            other => Self::service(Some(other.to_string())),
        }
    }
}

impl From<OpenJobError> for Failure {
    fn from(error: OpenJobError) -> Self {
        match error {
            OpenJobError::ProviderUnreachable => Self::Unreachable,
            OpenJobError::ProviderBusy => Self::Busy,
            OpenJobError::Node(error) => error.into(),
            OpenJobError::LocalJobNotFound => Self::Local(error.to_string()),
            other => Self::service(Some(other.to_string())),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            // A slow provider may be behind it: another one may be faster.
            NodeError::Timeout(_) => Self::TimedOut("the node's answer"),
            other => Self::Local(other.to_string()),
        }
    }
}

/// An answer that has begun.
pub(crate) enum Begun {
    /// One of `openai:0.1`, with its first value.
    Values(Box<Answer>, Value),
    /// One of `openai:0.2`.
    Http(Box<v0_2::Answer>),
}

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) reservation: Option<Reservation>,
    pub(crate) place: Arc<Route>,
    /// When this attempt must have led somewhere.
    pub(crate) deadline: Instant,
    /// Somebody else's answer began first: this one is wanted no more.
    pub(crate) lost: CancellationToken,
}

impl Begun {
    /// Nobody wants it: the provider is told to stop, and gets its due for what it sent. One of 0.1 is given up.
    pub(crate) fn lost(self) {
        if let Self::Http(answer) = self {
            answer.lost();
        }
    }
}

impl Attempt {
    /// Creates the job and reads up to the first part of the answer, which is returned with the
    /// rest of it. Dropping this gives the job up.
    pub(crate) async fn run(mut self) -> Result<Begun, Failure> {
        let began = StdInstant::now();
        if self.offer.of_0_1.is_none() {
            let answered = self.run_0_2(began).await;
            return answered.map(|answer| Begun::Http(Box::new(answer)));
        }
        let Some(args) = self.asked.args_0_1() else {
            let message = "The request is too large for this provider, or of another kind.";
            return Err(Failure::refused(message.to_owned(), None));
        };
        let job = self.create_job(args).await?;
        match self.begin(&job).await {
            Ok((reader, first)) => {
                let said = self.gateway.listener(&self.asked, &self.offer);
                let mut answer = Answer {
                    gateway: self.gateway,
                    asked: self.asked,
                    offer: self.offer,
                    job,
                    reader,
                    tally: Tally::keeping(said),
                    kept: Kept::default(),
                    began,
                };
                answer.count(&first);
                Ok(Begun::Values(Box::new(answer), first))
            }
            Err((failure, class)) => {
                job.fail(reason(&failure, class), class);
                Err(failure)
            }
        }
    }

    async fn run_0_2(mut self, began: StdInstant) -> Result<v0_2::Answer, Failure> {
        let head = v0_2::head(&self.asked);
        let job = self.create_job(head.to_args(&self.asked.body)).await?;
        match self.begin_0_2(&job).await {
            Ok(begun) => Ok(v0_2::Answer {
                gateway: self.gateway,
                asked: self.asked,
                offer: self.offer,
                job,
                began,
                begun,
            }),
            Err((failure, class)) => {
                job.fail(reason(&failure, class), class);
                Err(failure)
            }
        }
    }

    async fn begin_0_2(&self, job: &OpenJob) -> Result<v0_2::Begun, (Failure, i64)> {
        let service = |failure| (failure, REASON_SERVICE_ERROR);
        let deadlines = &self.gateway.config.deadlines;
        let opening = self.gateway.node.open_job(&job.key);
        let stream = timeout_at(self.by(deadlines.open), opening)
            .await
            .map_err(|_| service(Failure::TimedOut("the job's connection")))?
            .map_err(|error| service(error.into()))?;
        if self.lost.is_cancelled() {
            // Before it is sent more of the request, or believed that it began in time.
            return Err(v0_2::lost());
        }
        let patience = match self.asked.stream {
            true => deadlines.first_value,
            false => deadlines.plain_answer,
        };
        let meter = Meter::keeping(self.gateway.listener(&self.asked, &self.offer));
        let stores = self.gateway.config.store_payloads;
        let transcript = stores.then(|| Transcript::of(&self.asked.body));
        let kept = (meter, transcript);
        let beginning = v0_2::begin(stream, &self.asked, kept, self.lost.clone());
        timeout_at(self.by(patience), beginning)
            .await
            .map_err(|_| service(Failure::TimedOut("the answer")))?
    }

    pub(super) fn by(&self, patience: Duration) -> Instant {
        self.deadline.min(Instant::now() + patience)
    }

    /// Creates the job in a task of its own: if this call is given up meanwhile, the job that
    /// comes of it is given up too, in place of staying open with the provider.
    async fn create_job(&mut self, job_args: String) -> Result<OpenJob, Failure> {
        let gateway = Arc::clone(&self.gateway);
        let snapshot = self.offer.snapshot_id;
        let (reservation, place) = (self.reservation.take(), Arc::clone(&self.place));
        let creating = self.gateway.tasks.spawn(async move {
            let created = gateway.node.create_job(snapshot, Some(job_args)).await;
            created.map(|key| OpenJob::new(&gateway, key, reservation, place))
        });
        match timeout_at(self.by(self.gateway.config.deadlines.create), creating).await {
            Ok(Ok(created)) => Ok(created?),
            Ok(Err(_)) => Err(Failure::Local("the task that creates the job ended".into())),
            Err(_) => Err(Failure::TimedOut("the job's creation")),
        }
    }

    async fn begin(
        &self,
        job: &OpenJob,
    ) -> Result<(ValueReader<JobStream>, Value), (Failure, i64)> {
        let service = |failure| (failure, REASON_SERVICE_ERROR);
        let deadlines = &self.gateway.config.deadlines;
        let opening = self.gateway.node.open_job(&job.key);
        let stream = timeout_at(self.by(deadlines.open), opening)
            .await
            .map_err(|_| service(Failure::TimedOut("the job's connection")))?
            .map_err(|error| service(error.into()))?;
        let mut reader = ValueReader::new(stream, self.asked.stream);
        let prologue = timeout_at(self.by(deadlines.prologue), reader.next())
            .await
            .map_err(|_| service(Failure::TimedOut("the provider's answer to the job")))?
            .map_err(read_failure)?;
        if let Prologue::ServiceError { message } = prologue {
            return Err(service(Failure::service(message)));
        }
        let patience = if self.asked.stream {
            deadlines.first_value
        } else {
            deadlines.plain_answer
        };
        let first = timeout_at(self.by(patience), reader.next())
            .await
            .map_err(|_| service(Failure::TimedOut("the answer")))?
            .map_err(read_failure)?;
        check_first(&first, self.asked.stream)?;
        Ok((reader, first))
    }
}

/// What goes into the job's record. The provider's words go to the client alone: they may repeat
/// the prompt.
fn reason(failure: &Failure, class: i64) -> String {
    match failure {
        Failure::TimedOut(what) => format!("timed out waiting for {what}"),
        Failure::Failed(_) if class == REASON_PROTOCOL_VIOLATION => {
            "the provider broke the protocol".into()
        }
        Failure::Failed(_) => "the provider failed".into(),
        other => other.name().to_owned(),
    }
}

fn read_failure(error: ReadValueError) -> (Failure, i64) {
    match error {
        ReadValueError::Ended | ReadValueError::Broken(_) => {
            let failure = Failure::Failed("The provider closed the connection.".into());
            (failure, REASON_SERVICE_ERROR)
        }
        other => violation(&other.to_string()),
    }
}

pub(super) fn violation(what: &str) -> (Failure, i64) {
    (Failure::violation(what), REASON_PROTOCOL_VIOLATION)
}

/// The first value must be one that an OpenAI client can read, and a plain answer must answer.
fn check_first(value: &Value, streamed: bool) -> Result<(), (Failure, i64)> {
    if let Some(message) = error_message(value) {
        return Err((Failure::service(Some(message)), REASON_SERVICE_ERROR));
    }
    if is_epilogue(value) {
        return Err(violation("an epilogue without an answer"));
    }
    let choices = value.get("choices").and_then(Value::as_array);
    if !choices.is_some_and(|choices| streamed || !choices.is_empty()) {
        return Err(violation("an answer without choices"));
    }
    Ok(())
}

/// The message of an error that came in place of an answer, as some backends send it.
pub(crate) fn error_message(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null())?;
    let message = error.get("message").unwrap_or(error);
    let mut text = match message.as_str() {
        Some(text) => text.to_owned(),
        None => "The provider reported an error.".to_owned(),
    };
    truncate_to_char(&mut text, MESSAGE_BYTES);
    Some(text)
}

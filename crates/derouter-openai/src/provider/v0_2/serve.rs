//! Serves a job's pipe: the backend's answer as it comes, then the bill.
//!
//! Nothing is sent before the answer says something, so that whatever fails before is no answer and
//! the consumer can go to the next provider. What fails behind that costs nothing. A consumer that
//! closes its direction, or whose pipe breaks, has what it was sent billed to it: the backend's own
//! counts come last and are not there then, so they are estimated to the consumer's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use derouter_sdk::{JobKey, JobStream, ProviderDesk};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::time::{Instant, timeout};

use super::ahead::ReadAhead;
use super::ask::Ask;
use super::bodies::{Bodies, read_body};
use super::usage::estimated_usage;
use super::{Requested, Taken};
use crate::meter::Meter;
use crate::protocol::v0_2::frames::Frame;
use crate::protocol::v0_2::{ANSWER_HEADERS, AnswerHead, MAX_HEADER_BYTES};
use crate::provider::admission::Consumer;
use crate::provider::backend::{Failure, describe, parse};
use crate::provider::health::Verdict;
use crate::provider::normalize::error_message;
use crate::provider::pump::Shared;
use crate::sse::{Event, Splitter};
use crate::transcript::Transcript;

/// The longest answer in one piece: images in base64 are the largest.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The longest whole answer. A stream ends by time before it gets there.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024 * 1024;

/// How long to wait for `[DONE]` or the end of the body once the answer and its usage are there.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// How long closing our direction may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// How long a request may take to come on the pipe: 32 MiB at 5 Mbit/s. It holds a slot meanwhile.
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of events that came together and are passed on together, beside one read.
const MAX_TOGETHER_BYTES: usize = 16 * 1024;

/// Bytes of events that are held back until one says something.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// One job's service.
pub(super) struct Serving {
    pub(super) shared: Arc<Shared>,
    pub(super) bodies: Arc<Bodies>,
    pub(super) key: JobKey,
    pub(super) desk: Arc<dyn ProviderDesk>,
    pub(super) taken: Taken,
}

/// How an answer ended.
pub(super) enum Ended {
    /// It is complete.
    Complete,
    /// The consumer wants no more, or its pipe broke.
    Cancelled,
    /// The backend failed.
    Failed(Failure),
    /// The provider stops.
    Stopped,
}

/// What was sent of an answer.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) meter: Meter,
    bytes: u64,
    /// The head is out.
    pub(super) begun: bool,
    /// What names the answer in each of its chunks.
    names: Map<String, Value>,
    /// All of it, where that is to be kept.
    pub(super) transcript: Option<Transcript>,
}

impl Serving {
    pub(super) async fn run(self, pipe: JobStream) {
        let begin = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(pipe);
        let Self {
            shared,
            bodies,
            key,
            desk,
            taken,
        } = self;
        let Taken {
            sold,
            consumer,
            slot,
            request,
        } = taken;
        let asked = match request {
            Requested::Asked { ask, answering } => Ok((ask, Answering::Asked(answering))),
            Requested::OnPipe(head) => {
                // All of it together: whoever sends slowly holds a slot.
                let read = read_body(&mut reader, head.body_bytes, (&bodies, consumer));
                let read = timeout(UPLOAD_LIMIT, read);
                match shared.stop.run_until_cancelled(read).await {
                    // Its place among the bodies is kept until it is read.
                    Some(Ok(Ok((body, _place)))) => Ask::new(&head, body, &sold)
                        .await
                        .map(|ask| (ask, Answering::NotYet))
                        .map_err(|reason| refused(&reason)),
                    Some(Ok(Err(failure))) => Err(failure),
                    Some(Err(_)) => Err(Failure::plain("the request came too slowly")),
                    None => Err(Failure::plain("the provider is shutting down")),
                }
            }
        };
        let mut sent = Sent::default();
        let job = Job {
            shared: &shared,
            sold: &sold,
            desk: desk.as_ref(),
            key: &key,
            consumer,
            begin,
        };
        let (ask, answering) = match asked {
            Ok(asked) => asked,
            Err(failure) => {
                drop(slot);
                return job.fail(&mut writer, &Ended::Failed(failure), &sent).await;
            }
        };
        if shared.store_payloads {
            sent.transcript = Some(Transcript::of(ask.body()));
        }
        let ended = {
            let answer = job.answer(&ask, answering, &mut writer, &mut sent);
            tokio::select! {
                biased;
                ended = timeout(shared.limits.total, answer) => match ended {
                    Ok(Ok(())) => Ended::Complete,
                    Ok(Err(Broken::Backend(failure))) => Ended::Failed(failure),
                    Ok(Err(Broken::Pipe)) => Ended::Cancelled,
                    Err(_) => Ended::Failed(Failure::plain("the backend takes too long for its answer")),
                },
                () = consumer_left(&mut reader) => Ended::Cancelled,
                () = shared.stop.cancelled() => Ended::Stopped,
            }
        };
        sold.offer.monitor.job_ended(match &ended {
            Ended::Complete => Verdict::Well,
            Ended::Failed(failure) => failure.verdict,
            Ended::Cancelled | Ended::Stopped => Verdict::Nothing,
        });
        // Nothing runs at the backend any more.
        drop(slot);
        let tokens = match ended {
            Ended::Complete => job.complete(&ask, &sent, false, &mut writer).await,
            Ended::Cancelled if sent.meter.says_something() => {
                job.complete(&ask, &sent, true, &mut writer).await
            }
            unanswered => {
                job.fail(&mut writer, &unanswered, &sent).await;
                0
            }
        };
        shared.admission.served(consumer, tokens);
        // All is said: whether the end arrives too is of no more importance.
        let _ = timeout(SHUTDOWN_LIMIT, writer.shutdown()).await;
    }
}

/// Takes what the backend has sent besides, so that events which came together go on together.
fn take_what_is_there(answer: &mut ReadAhead, events: &mut Splitter) {
    let mut taken = 0;
    while taken < MAX_TOGETHER_BYTES
        && let Some(bytes) = answer.at_hand()
    {
        taken += bytes.len();
        events.push(&bytes);
    }
}

fn refused(reason: &str) -> Failure {
    Failure {
        told: Some(reason.to_owned()),
        status: Some(400),
        ..Failure::plain("the request makes no sense")
    }
}

enum Answering {
    Asked(tokio_util::task::AbortOnDropHandle<Result<Response, Failure>>),
    NotYet,
}

/// Why an answer broke off.
pub(super) enum Broken {
    Backend(Failure),
    Pipe,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Backend(failure)
    }
}

/// Returns when the consumer closes its direction. It has nothing more to say.
async fn consumer_left(reader: &mut (impl AsyncRead + Unpin)) {
    let mut said = [0; 64];
    // More than was announced is no request of this protocol.
    let _ = reader.read(&mut said).await;
}

/// What ending and answering need.
pub(super) struct Job<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) sold: &'a super::Sold,
    pub(super) desk: &'a dyn ProviderDesk,
    pub(super) key: &'a JobKey,
    pub(super) consumer: Consumer,
    pub(super) begin: Instant,
}

pub(super) type Writer = WriteHalf<JobStream>;

impl Job<'_> {
    async fn answer(
        &self,
        ask: &Ask,
        answering: Answering,
        writer: &mut Writer,
        sent: &mut Sent,
    ) -> Result<(), Broken> {
        let response = match answering {
            Answering::Asked(answering) => answering.await,
            Answering::NotYet => Ok(ask.clone().send(Arc::clone(&self.sold.offer.backend)).await),
        };
        let response =
            response.unwrap_or_else(|_| Err(Failure::plain("the backend's client broke")))?;
        let mut head = head(&response);
        let body = ReadAhead::new(response);
        if let Some(right) = ask.answer_type() {
            right.clone_into(&mut head.content_type);
        }
        if head.is_event_stream() {
            self.events(ask, head, body, writer, sent).await
        } else if head.is_json() {
            self.json(ask, head, body, writer, sent).await
        } else {
            self.opaque(head, body, writer, sent).await
        }
    }

    /// An answer in one piece of JSON. It is read to its end before anything is sent.
    async fn json(
        &self,
        ask: &Ask,
        mut head: AnswerHead,
        mut answer: ReadAhead,
        writer: &mut Writer,
        sent: &mut Sent,
    ) -> Result<(), Broken> {
        let mut body = BytesMut::new();
        let mut limit = self.shared.limits.first_byte;
        while let Some(bytes) = self.read(&mut answer, limit).await? {
            if body.len().saturating_add(bytes.len()) > MAX_BODY_BYTES {
                return Err(Failure::plain("the backend's answer is too large").into());
            }
            body.extend_from_slice(&bytes);
            limit = self.shared.limits.between_chunks;
        }
        let mut value = parse(&body)?;
        self.check_no_error(&value)?;
        let mut meter = Meter::default();
        meter.body(ask.endpoint, &value);
        if !meter.says_something() {
            return Err(Failure::plain("the backend's answer is empty").into());
        }
        let renamed = self.rename(ask, &mut value);
        sent.meter = meter;
        let told = ask.has_chunks() && sent.meter.reported().is_none();
        if told {
            let usage = estimated_usage(&sent.meter, ask);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("usage".to_owned(), usage.to_json());
            }
            sent.meter = Meter::default();
            sent.meter.body(ask.endpoint, &value);
            self.shared.counters.usage_estimated.increment();
        }
        let body = match renamed || told {
            true => value.to_string().into_bytes(),
            false => body.to_vec(),
        };
        head.body_bytes = u64::try_from(body.len()).ok();
        let mut frames = BytesMut::from(&Frame::head(&head)[..]);
        Frame::put_data(&body, &mut frames);
        sent.note(&body);
        self.write(writer, &frames).await
    }

    /// An answer that is neither JSON nor events: passed on as it comes.
    async fn opaque(
        &self,
        head: AnswerHead,
        mut answer: ReadAhead,
        writer: &mut Writer,
        sent: &mut Sent,
    ) -> Result<(), Broken> {
        let mut limit = self.shared.limits.first_byte;
        while let Some(bytes) = self.read(&mut answer, limit).await? {
            let mut frames = BytesMut::new();
            if !sent.begun {
                frames.extend_from_slice(&Frame::head(&head));
            }
            Frame::put_data(&bytes, &mut frames);
            sent.meter.opaque(bytes.len());
            sent.note(&bytes);
            self.write(writer, &frames).await?;
            if sent.bytes > MAX_ANSWER_BYTES {
                return Err(Failure::plain("the backend's answer is too large").into());
            }
            limit = self.shared.limits.between_chunks;
        }
        if !sent.begun {
            return Err(Failure::plain("the backend's answer is empty").into());
        }
        Ok(())
    }

    /// A stream of events. Each is looked at and passed on as it is.
    async fn events(
        &self,
        ask: &Ask,
        head: AnswerHead,
        mut answer: ReadAhead,
        writer: &mut Writer,
        sent: &mut Sent,
    ) -> Result<(), Broken> {
        let mut events = Splitter::of(ask.endpoint);
        let mut out = BytesMut::new();
        let mut heard = false;
        loop {
            let mut done = false;
            while let Some(event) = events.next().map_err(|_| too_long())? {
                heard = true;
                done = event.is_done();
                if done {
                    break;
                }
                self.event(ask, &event, sent, &mut out)?;
            }
            self.flush(&head, &mut out, writer, sent).await?;
            if done {
                break;
            }
            let ended = sent.meter.has_ended(ask.answers);
            let limit = match (heard, ended && sent.meter.reported().is_some()) {
                (_, true) => LAST_WORDS_LIMIT,
                (true, false) => self.shared.limits.between_chunks,
                (false, false) => self.shared.limits.first_byte,
            };
            match self.read(&mut answer, limit).await {
                Ok(Some(bytes)) => {
                    events.push(&bytes);
                    take_what_is_there(&mut answer, &mut events);
                }
                // The answer is there, whatever became of the words behind it.
                Err(_) if ended => break,
                Err(failure) => return Err(failure.into()),
                Ok(None) => {
                    if let Some(event) = events.finish()
                        && !event.is_done()
                    {
                        self.event(ask, &event, sent, &mut out)?;
                        self.flush(&head, &mut out, writer, sent).await?;
                    }
                    break;
                }
            }
        }
        if sent.meter.is_ended() && sent.meter.reported().is_none() && ask.has_chunks() {
            self.tell_usage(ask, sent, &mut out);
            self.flush(&head, &mut out, writer, sent).await?;
        }
        if !sent.meter.is_whole() {
            return Err(Failure::plain("the backend ended its answer early").into());
        }
        if !sent.meter.says_something() && !sent.begun {
            return Err(Failure::plain("the backend's answer is empty").into());
        }
        Ok(())
    }

    /// Adds the usage that the backend does not tell, for clients that ask for it.
    fn tell_usage(&self, ask: &Ask, sent: &mut Sent, out: &mut BytesMut) {
        let usage = estimated_usage(&sent.meter, ask);
        let mut chunk = sent.names.clone();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), usage.to_json());
        let chunk = Value::Object(chunk);
        sent.meter.event(ask.endpoint, &chunk);
        out.extend_from_slice(format!("data: {chunk}\n\n").as_bytes());
        self.shared.counters.usage_estimated.increment();
    }

    fn event(
        &self,
        ask: &Ask,
        event: &Event,
        sent: &mut Sent,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let data = event.data();
        let mut value = match parse(&data) {
            Ok(value) => value,
            Err(_) if event.is_error() => return Err(self.error(None)),
            Err(failure) => return Err(failure),
        };
        if event.is_error() {
            return Err(self.error(value.as_object().and_then(error_message)));
        }
        self.check_no_error(&value)?;
        sent.meter.event(ask.endpoint, &value);
        let renamed = self.rename(ask, &mut value);
        if sent.names.is_empty() {
            sent.names = names(&value);
        }
        if renamed {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(value.to_string().as_bytes());
            out.extend_from_slice(b"\n\n");
        } else {
            out.extend_from_slice(&event.raw);
            if !event.raw.ends_with(b"\n\n") && !event.raw.ends_with(b"\n\r\n") {
                out.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }

    /// Sends what is there, once it says something.
    async fn flush(
        &self,
        head: &AnswerHead,
        out: &mut BytesMut,
        writer: &mut Writer,
        sent: &mut Sent,
    ) -> Result<(), Broken> {
        let says_nothing = !sent.begun && !sent.meter.says_something();
        if out.is_empty() || says_nothing && out.len() < MAX_HELD_BYTES {
            return Ok(());
        }
        let mut frames = BytesMut::with_capacity(out.len() + 64);
        if !sent.begun {
            frames.extend_from_slice(&Frame::head(head));
        }
        Frame::put_data(out, &mut frames);
        sent.note(out);
        out.clear();
        self.write(writer, &frames).await?;
        if sent.bytes > MAX_ANSWER_BYTES {
            return Err(Failure::plain("the backend's answer is too large").into());
        }
        Ok(())
    }

    async fn read(
        &self,
        answer: &mut ReadAhead,
        limit: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        match timeout(limit, answer.next()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                let detail = describe(error);
                let failure = Failure::new("the backend broke off its answer", detail);
                Err(failure.meaning(Verdict::Failing))
            }
            Err(_) => {
                let failure = Failure::plain("the backend stopped in the middle of its answer");
                Err(failure.meaning(Verdict::Failing))
            }
        }
    }

    pub(super) async fn write(&self, writer: &mut Writer, frames: &[u8]) -> Result<(), Broken> {
        let writing = async {
            writer.write_all(frames).await?;
            writer.flush().await
        };
        match timeout(self.shared.limits.write, writing).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Broken::Pipe),
        }
    }

    /// Puts the market's name of the model in place of the backend's; true when that changed something.
    fn rename(&self, ask: &Ask, value: &mut Value) -> bool {
        if self.sold.offer.config.backend_model() == ask.model {
            return false;
        }
        let within = match value.get("response").is_some_and(Value::is_object) {
            true => value.get_mut("response"),
            false => Some(value),
        };
        let model = within.and_then(|value| value.get_mut("model"));
        let Some(model) = model.filter(|model| model.as_str() != Some(&ask.model)) else {
            return false;
        };
        *model = json!(ask.model);
        true
    }

    fn check_no_error(&self, value: &Value) -> Result<(), Failure> {
        let Some(object) = value.as_object() else {
            return Err(Failure::plain(
                "the backend sent something that is no OpenAI answer",
            ));
        };
        if object.get("error").is_some_and(|error| !error.is_null()) {
            return Err(self.error(error_message(object)));
        }
        if object.get("type").and_then(Value::as_str) == Some("response.failed") {
            return Err(self.error(None));
        }
        Ok(())
    }

    fn error(&self, said: Option<String>) -> Failure {
        let failure = Failure::plain("the backend answered with an error");
        let said = said.filter(|said| !self.sold.offer.backend.hides(said));
        Failure {
            told: said.map(|said| format!("{}: {said}", failure.message)),
            ..failure
        }
    }
}

impl Sent {
    fn note(&mut self, part: &[u8]) {
        self.begun = true;
        if let Some(transcript) = &mut self.transcript {
            transcript.add(part);
        }
        let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What names the answer in a chunk.
fn names(chunk: &Value) -> Map<String, Value> {
    let fields = ["id", "object", "created", "model"].into_iter();
    let named = fields.filter_map(|field| Some((field.to_owned(), chunk.get(field)?.clone())));
    named.collect()
}

fn head(response: &Response) -> AnswerHead {
    let text = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        (value.len() <= MAX_HEADER_BYTES).then(|| value.to_owned())
    };
    AnswerHead {
        status: response.status().as_u16(),
        content_type: text(CONTENT_TYPE.as_str())
            .unwrap_or_else(|| "application/octet-stream".to_owned()),
        body_bytes: None,
        headers: ANSWER_HEADERS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), text(name)?)))
            .collect(),
    }
}

fn too_long() -> Failure {
    Failure::plain("the backend sent an event that is too long")
}

//! Gets the answer from the backend, value by value.

use std::time::Duration;

use bytes::Bytes;
use derouter_sdk::wire::cbor;
use futures::FutureExt;
use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use super::{Answered, Pump, Recorder};
use crate::frames::{Json, MAX_VALUE_BYTES};
use crate::provider::backend::{Failure, describe, parse, read_answer};
use crate::provider::normalize::{NotAnAnswer, Plain, Stream};
use crate::provider::usage::settle;
use crate::sse::{Event, Splitter};

/// How long to wait for `[DONE]` or the end of the body once the answer and its usage are there.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// How long to read behind `[DONE]`, so that the connection can serve the next request.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Chunks kept back until one says something, so that an empty answer is a ServiceError. Servers begin
/// with one that names the role; with more than this the answer begins all the same.
const MAX_HELD_CHUNKS: usize = 16;

/// What one event said.
#[derive(PartialEq, Eq)]
enum Said {
    More,
    Done,
}

impl Pump {
    /// A plain answer. It is read to its end before the prologue, unless that takes long.
    pub(super) async fn plain(&self, mut recorder: Option<Recorder>) -> Result<Answered, Failure> {
        let response = self.ask().await?;
        let body = read_answer(response, self.shared.limits).await?;
        if body.is_empty() {
            return Err(self.not_an_answer(NotAnAnswer::Empty));
        }
        let value = parse(&body)?;
        let model = self.renamed_model();
        let mut plain = Plain::new(value, model).map_err(|error| self.not_an_answer(error))?;
        let reported = plain.usage.take();
        let usage = settle(reported, &self.request, plain.tally);
        let value = plain.with_usage(usage.json.clone());
        if let Some(recorder) = &mut recorder {
            recorder.add(&value);
        }
        let encoded = encode(&value)?;
        self.job.log.open();
        self.job.log.append(encoded);
        Ok(Answered { usage, recorder })
    }

    /// A streamed answer.
    pub(super) async fn streamed(
        &self,
        mut recorder: Option<Recorder>,
    ) -> Result<Answered, Failure> {
        let mut response = self.ask().await?;
        let model = self.renamed_model().map(str::to_owned);
        let mut stream = Stream::new(self.request.endpoint, model);
        let mut parser = Splitter::default();
        loop {
            if self
                .forward(&mut parser, &mut stream, &mut recorder)
                .await?
                == Said::Done
            {
                self.drain(response);
                break;
            }
            let Some(bytes) = self.read(&mut response, &stream).await? else {
                if let Some(event) = parser.finish() {
                    self.event(&event, &mut stream, &mut recorder).await?;
                }
                if !stream.can_be_whole() {
                    return Err(Failure::plain("the backend ended its answer early"));
                }
                break;
            };
            parser.push(&bytes);
        }
        if !stream.says_something() {
            return Err(self.not_an_answer(NotAnAnswer::Empty));
        }
        let usage = settle(stream.usage.take(), &self.request, stream.tally);
        let last = encode(&stream.usage_chunk(&usage.json))?;
        self.job.log.open();
        self.job.log.append(last);
        Ok(Answered { usage, recorder })
    }

    async fn ask(&self) -> Result<Response, Failure> {
        let body = self.request.body.clone();
        self.offer.backend.send(self.request.endpoint, body).await
    }

    /// The market's name of the model, when the backend has another.
    fn renamed_model(&self) -> Option<&str> {
        let config = &self.offer.config;
        let renamed = config.backend_model() != config.model_id;
        renamed.then_some(config.model_id.as_str())
    }

    /// Forwards all events that are there.
    async fn forward(
        &self,
        parser: &mut Splitter,
        stream: &mut Stream,
        recorder: &mut Option<Recorder>,
    ) -> Result<Said, Failure> {
        let too_long = |_| Failure::plain("the backend sent an event that is too long");
        while let Some(event) = parser.next().map_err(too_long)? {
            if self.event(&event, stream, recorder).await? == Said::Done {
                return Ok(Said::Done);
            }
        }
        Ok(Said::More)
    }

    async fn event(
        &self,
        event: &Event,
        stream: &mut Stream,
        recorder: &mut Option<Recorder>,
    ) -> Result<Said, Failure> {
        if event.is_done() {
            return Ok(Said::Done);
        }
        let data = event.data();
        let data = data.trim_ascii();
        if data.is_empty() && !event.is_error() {
            return Ok(Said::More);
        }
        if event.is_error() {
            let value = serde_json::from_slice(data).unwrap_or(Value::Null);
            let message = value
                .as_object()
                .and_then(super::super::normalize::error_message);
            return Err(self.not_an_answer(NotAnAnswer::Error(message)));
        }
        let value = parse(data)?;
        let chunk = stream
            .chunk(value)
            .map_err(|error| self.not_an_answer(error))?;
        if let Some(chunk) = chunk {
            if let Some(recorder) = recorder {
                recorder.add(&chunk);
            }
            stream.held.push(encode(&chunk)?);
            if stream.says_something() || stream.held.len() >= MAX_HELD_CHUNKS {
                self.job.log.open();
                for chunk in stream.held.drain(..) {
                    self.job.log.push(chunk).await;
                }
            }
        }
        Ok(Said::More)
    }

    /// The next bytes; `None` at the end of the body, or when nothing more is needed.
    async fn read(
        &self,
        response: &mut Response,
        stream: &Stream,
    ) -> Result<Option<Bytes>, Failure> {
        let limits = self.shared.limits;
        let said_all = stream.is_complete() && stream.usage.is_some();
        let limit = match (said_all, stream.has_begun()) {
            (true, _) => LAST_WORDS_LIMIT,
            (false, true) => limits.between_chunks,
            (false, false) => limits.first_byte,
        };
        match timeout(limit, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            _ if stream.is_complete() => Ok(None),
            Ok(Err(error)) => {
                let detail = describe(error);
                Err(Failure::new("the backend broke off its answer", detail))
            }
            Err(_) => Err(Failure::plain(
                "the backend stopped in the middle of its answer",
            )),
        }
    }

    /// Reads to the end of the body: only then does the connection serve another request.
    fn drain(&self, mut response: Response) {
        let rest = async move { while let Ok(Some(_)) = response.chunk().await {} };
        let mut rest = Box::pin(timeout(DRAIN_LIMIT, rest));
        if rest.as_mut().now_or_never().is_none() {
            self.shared.tasks.spawn(async move { drop(rest.await) });
        }
    }

    fn not_an_answer(&self, error: NotAnAnswer) -> Failure {
        let failure = Failure::plain(error.to_string());
        let told = match error {
            NotAnAnswer::Error(said) => said.filter(|said| !self.offer.backend.hides(said)),
            NotAnAnswer::Empty | NotAnAnswer::Unknown => None,
        };
        Failure {
            told: told.map(|said| format!("{}: {said}", failure.message)),
            ..failure
        }
    }
}

/// A value as it travels.
fn encode(value: &Value) -> Result<Bytes, Failure> {
    let framed = cbor::to_framed_vec(&Json(value));
    if framed.len() > MAX_VALUE_BYTES {
        return Err(Failure::plain("the backend's answer is too large"));
    }
    Ok(Bytes::from(framed))
}

//! Answers of `openai:0.2`: the bytes of the provider's backend pass to the client as they are, and are
//! counted on the way.

pub(crate) mod bill;
mod incoming;
mod pass;
mod settle;

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use derouter_sdk::{JobStream, NodeError, Wei};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::attempt::{Failure, error_message, violation};
use super::gateway::Gateway;
use super::job::OpenJob;
use super::offers::Offer;
use super::request::Asked;
use crate::meter::{Meter, json_items};
use crate::protocol::REASON_SERVICE_ERROR;
use crate::protocol::v0_2::frames::{Frame, ReadFrameError};
use crate::protocol::v0_2::{
    ANSWER_HEADERS, AnswerHead, Epilogue, Failed, REQUEST_STATUSES, RequestHead, media_type,
};
use crate::sse::longest_event;
use crate::terms::Endpoint;
use crate::transcript::Transcript;
use incoming::Incoming;
use pass::Passing;

/// The longest answer in one piece that is read before it is passed on: a text, or a list of vectors.
const MAX_PLAIN_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of events before one says something, where no event may be longer.
const MAX_SILENT_BYTES: usize = 4 * 1024 * 1024;

/// Values in a JSON answer: a list of vectors has many.
const MAX_PLAIN_ITEMS: usize = 4_000_000;

/// The same of images in base64.
const MAX_IMAGES_BYTES: usize = 64 * 1024 * 1024;

/// Media types that pass to the client besides sound.
const HARMLESS_TYPES: [&str; 8] = [
    "application/json",
    "application/octet-stream",
    "text/event-stream",
    "text/plain",
    "text/vtt",
    "image/png",
    "image/jpeg",
    "image/webp",
];

/// An answer that has begun.
pub(crate) struct Answer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) job: OpenJob,
    pub(crate) began: StdInstant,
    pub(crate) begun: Begun,
}

/// What there is of an answer.
pub(crate) struct Begun {
    frames: Incoming,
    head: AnswerHead,
    meter: Meter,
    passing: Passing,
    /// Bytes for the client that have come.
    first: Bytes,
    epilogue: Option<Epilogue>,
    /// All of the body has come.
    whole: bool,
    /// How long the provider was waited for while its answer came.
    waited: Duration,
    /// The most tokens that had come when the provider was told that another one was quicker.
    had_come: Option<u64>,
    /// What passes to the client, where that is to be kept.
    transcript: Option<Transcript>,
}

/// What a request begins with.
pub(crate) fn head(asked: &Asked) -> RequestHead {
    RequestHead {
        path: asked.endpoint.path().to_owned(),
        model: asked.model.clone(),
        content_type: asked.content_type.clone(),
        body_bytes: u64::try_from(asked.body.len()).unwrap_or(u64::MAX),
        headers: asked.headers.clone(),
    }
}

/// Sends what of the request did not fit the job's arguments, and reads up to where the answer says
/// something. Once it is `lost`, the provider is told that no more is wanted.
pub(crate) async fn begin(
    stream: JobStream,
    asked: &Asked,
    (meter, transcript): (Meter, Option<Transcript>),
    lost: CancellationToken,
) -> Result<Begun, (Failure, i64)> {
    let mut frames = Incoming::new(stream, lost.clone());
    if !head(asked).holds(&asked.body) {
        let pipe = frames.stream();
        let sent = async {
            pipe.write_all(&asked.body).await?;
            pipe.flush().await
        };
        let sent = lost.run_until_cancelled(sent).await;
        // A provider that wants none of it says why, and reads no further.
        if let Err(error) = sent.ok_or_else(self::lost)? {
            tracing::debug!(%error, "a request was not read to its end");
        }
    }
    let head = match frames.next().await.map_err(read_failure)? {
        Frame::Head(head) => head,
        Frame::Failed(failed) => return Err(failure(failed)),
        Frame::Data(_) | Frame::Epilogue(_) => return Err(violation("an answer without a head")),
    };
    if head.status != 200 {
        return Err(violation("an answer whose status is not 200"));
    }
    let mut begun = Begun {
        passing: Passing::new(asked, head.is_event_stream()),
        frames,
        head,
        meter,
        first: Bytes::new(),
        epilogue: None,
        whole: false,
        waited: Duration::ZERO,
        had_come: None,
        transcript,
    };
    let right_form = match asked.stream {
        true => begun.head.is_event_stream(),
        false => begun.head.is_json(),
    };
    if !right_form && is_structured(asked.endpoint) {
        return Err(violation("an answer in another form than was asked for"));
    }
    match begun.head.is_event_stream() {
        true => begun.first_event(asked).await?,
        false if begun.head.is_json() => begun.plain(asked).await?,
        false => begun.first_bytes().await?,
    }
    Ok(begun)
}

/// Another provider's answer began before this one was asked in full: nothing is owed.
pub(crate) fn lost() -> (Failure, i64) {
    let why = "Another provider was quicker.".to_owned();
    (Failure::Local(why), REASON_SERVICE_ERROR)
}

/// Whether the endpoint's answers are always JSON or events.
pub(super) fn is_structured(endpoint: Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Responses
            | Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Moderations
    )
}

impl Begun {
    /// Another provider was quicker: notes what had come by now.
    fn is_lost(&mut self, asked: &Asked) {
        let meter = &self.meter;
        self.had_come
            .get_or_insert_with(|| match meter.says_something() {
                true => bill::most_output(meter, &asked.size),
                false => 0,
            });
    }

    async fn first_event(&mut self, asked: &Asked) -> Result<(), (Failure, i64)> {
        let most = longest_event(asked.endpoint).max(MAX_SILENT_BYTES);
        let mut out = BytesMut::new();
        let mut read = 0_usize;
        loop {
            match self.frames.next().await.map_err(read_failure)? {
                Frame::Data(data) => {
                    if self.frames.is_told() {
                        self.is_lost(asked);
                    }
                    read = read.saturating_add(data.len());
                    if read > most {
                        return Err(violation("megabytes that say nothing"));
                    }
                    let passed = self.passing.events(&data, &mut self.meter, &mut out);
                    passed.map_err(|why| match why {
                        pass::Unfit::Error(message) => {
                            (Failure::service(Some(message)), REASON_SERVICE_ERROR)
                        }
                        pass::Unfit::Invalid(what) => violation(what),
                    })?;
                    if self.meter.says_something() {
                        self.first = out.freeze();
                        return Ok(());
                    }
                    if self.meter.has_ended(asked.size.answers) {
                        return Err(empty());
                    }
                }
                Frame::Failed(failed) => return Err(failure(failed)),
                Frame::Epilogue(_) => return Err(violation("an epilogue without an answer")),
                Frame::Head(_) => return Err(violation("a second head")),
            }
        }
    }

    /// Reads an answer in JSON to its end: what is no answer is found out while others can be asked.
    async fn plain(&mut self, asked: &Asked) -> Result<(), (Failure, i64)> {
        let mut body = BytesMut::new();
        let length = self.head.body_bytes;
        let most = match asked.endpoint {
            Endpoint::ImageGenerations | Endpoint::ImageEdits => MAX_IMAGES_BYTES,
            _ => MAX_PLAIN_BYTES,
        };
        while length.is_none_or(|length| u64::try_from(body.len()).is_ok_and(|read| read < length))
        {
            match self.frames.next().await.map_err(read_failure)? {
                Frame::Data(data) if body.len() + data.len() > most => {
                    return Err(violation("an answer that is too long"));
                }
                Frame::Data(data) => body.extend_from_slice(&data),
                Frame::Epilogue(epilogue) => {
                    self.epilogue = Some(epilogue);
                    break;
                }
                Frame::Failed(failed) => return Err(failure(failed)),
                Frame::Head(_) => return Err(violation("a second head")),
            }
        }
        if json_items(&body) > MAX_PLAIN_ITEMS {
            return Err(violation("an answer of too many values"));
        }
        let value: Value =
            serde_json::from_slice(&body).map_err(|_| violation("an answer that is not JSON"))?;
        if let Some(message) = error_message(&value) {
            return Err((Failure::service(Some(message)), REASON_SERVICE_ERROR));
        }
        self.meter.body(asked.endpoint, &value);
        if !self.meter.says_something() {
            return Err(empty());
        }
        self.first = body.freeze();
        self.whole = true;
        Ok(())
    }

    async fn first_bytes(&mut self) -> Result<(), (Failure, i64)> {
        match self.frames.next().await.map_err(read_failure)? {
            Frame::Data(data) => {
                self.meter.opaque(data.len());
                self.first = data;
                Ok(())
            }
            Frame::Failed(failed) => Err(failure(failed)),
            Frame::Epilogue(_) => Err(violation("an epilogue without an answer")),
            Frame::Head(_) => Err(violation("a second head")),
        }
    }
}

/// An answer that is over and shows nothing: another provider may say more.
fn empty() -> (Failure, i64) {
    let message = "The provider's answer is empty.".to_owned();
    (Failure::service(Some(message)), REASON_SERVICE_ERROR)
}

fn failure(failed: Failed) -> (Failure, i64) {
    let failure = match failed.status {
        Some(status) if REQUEST_STATUSES.contains(&status) => {
            Failure::refused(failed.message, Some(status))
        }
        Some(429) => Failure::Busy,
        _ => Failure::service(Some(failed.message)),
    };
    (failure, REASON_SERVICE_ERROR)
}

/// What our own node says of a pipe that it could not keep: that is nobody else's fault.
fn local_fault(error: &std::io::Error) -> Option<String> {
    let fault = error.get_ref()?.downcast_ref::<NodeError>()?;
    Some(fault.to_string())
}

fn read_failure(error: ReadFrameError) -> (Failure, i64) {
    match error {
        ReadFrameError::Broken(error) if let Some(fault) = local_fault(&error) => {
            (Failure::Local(fault), REASON_SERVICE_ERROR)
        }
        ReadFrameError::Ended | ReadFrameError::Broken(_) => {
            let failure = Failure::Failed("The provider closed the connection.".into());
            (failure, REASON_SERVICE_ERROR)
        }
        other => violation(&other.to_string()),
    }
}

impl Answer {
    /// Whether the body is a stream of events.
    pub(crate) fn is_event_stream(&self) -> bool {
        self.begun.head.is_event_stream()
    }

    /// The provider was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.begun.waited = self.begun.waited.saturating_add(time);
    }

    /// What a whole answer costs by its own usage. Only a bill that says no more is signed.
    pub(crate) fn cost(&self) -> Option<Wei> {
        if !self.begun.whole {
            return None;
        }
        if self.job.reserved().is_none() {
            return Some(Wei::ZERO);
        }
        self.offer.terms.prices.cost(&self.begun.meter.reported()?)
    }

    /// Puts the provider's headers where the client reads them.
    pub(crate) fn describe(&self, headers: &mut HeaderMap) {
        let head = &self.begun.head;
        let plain = media_type(&head.content_type);
        // Nothing that a browser would run, whatever it takes it for.
        let harmless = plain.starts_with("audio/") || HARMLESS_TYPES.contains(&plain.as_str());
        let content_type = HeaderValue::from_str(&head.content_type);
        let content_type = content_type.ok().filter(|_| harmless);
        let binary = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, content_type.unwrap_or(binary));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        for name in ANSWER_HEADERS {
            let value = head
                .headers
                .get(name)
                .map(|text| HeaderValue::from_str(text));
            if let Some(Ok(value)) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// The body of an answer. When it is dropped before its end, the provider is told that no more is wanted.
pub(crate) fn body(answer: Answer) -> Body {
    pass::body(answer)
}

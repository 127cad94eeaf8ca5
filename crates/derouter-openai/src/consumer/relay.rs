//! A streamed answer on its way to the client: each value becomes a server-sent event as it comes.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, is_epilogue};
use super::attempt::error_message;
use super::chunks::{Chunks, Corrected};
use super::tally::is_usage_chunk;
use crate::frames::ReadValueError;

/// The end of a complete stream.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// What keeps proxies and clients from giving up: a comment.
pub(super) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// A chunk's usual size as an event.
const EVENT_BYTES: usize = 512;

/// A streamed answer on its way.
struct Relay {
    /// `None` once it has ended.
    answer: Option<Answer>,
    /// The first value, until it is sent.
    first: Option<Value>,
    /// When the whole answer must have come.
    ends_at: Instant,
    /// Since when the provider is waited for.
    waiting_since: Option<Instant>,
    /// When the client was last sent something.
    said_at: Instant,
    chunks: Chunks,
}

/// What waiting for the provider led to.
enum Waited {
    Value(Value),
    /// Nothing yet: the client is owed a sign of life.
    Quiet,
    /// Nothing will come any more.
    Over(&'static str),
}

/// The body of a streamed answer. When it is dropped before its end, so is the job.
pub(crate) fn body(answer: Answer, first: Value) -> Body {
    let total = answer.gateway.config.deadlines.streamed_answer;
    let relay = Relay {
        chunks: Chunks::new(&answer.asked),
        answer: Some(answer),
        first: Some(first),
        ends_at: Instant::now() + total,
        waiting_since: None,
        said_at: Instant::now(),
    };
    let events = futures::stream::unfold(relay, |mut relay| async {
        let event = relay.next_event().await?;
        Some((Ok::<_, Infallible>(event), relay))
    });
    Body::from_stream(events)
}

impl Relay {
    /// The next bytes for the client; `None` at the end.
    async fn next_event(&mut self) -> Option<Bytes> {
        loop {
            let mut value = match self.first.take() {
                Some(first) => first,
                None => match self.wait().await? {
                    Waited::Value(value) => value,
                    Waited::Quiet => {
                        self.said_at = Instant::now();
                        return Some(KEEP_ALIVE);
                    }
                    Waited::Over(why) => return self.over(why),
                },
            };
            if is_epilogue(&value) {
                return self.epilogue(value);
            }
            if error_message(&value).is_some() || !value.is_object() {
                return self.over("the provider reported an error in the middle of the answer");
            }
            // A value that says nothing is no sign of life.
            if is_usage_chunk(&value) {
                self.waiting_since = None;
            }
            if self.chunks.correct(&mut value) != Corrected::Nothing {
                self.waiting_since = None;
                self.said_at = Instant::now();
                return Some(data(&value));
            }
        }
    }

    /// Waits for the provider, but not longer than the client wants to hear something.
    async fn wait(&mut self) -> Option<Waited> {
        let answer = self.answer.as_mut()?;
        let deadlines = answer.gateway.config.deadlines;
        let patience = if answer.complete() {
            deadlines.done
        } else {
            deadlines.next_value
        };
        let now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        let over_at = (since + patience).min(self.ends_at);
        let wake_at = over_at.min(self.said_at + deadlines.keep_alive);
        let waited = match timeout_at(wake_at, answer.reader.next::<Value>()).await {
            Ok(Ok(value)) => {
                answer.count(&value);
                Waited::Value(value)
            }
            Ok(Err(ReadValueError::Ended)) => Waited::Over("the provider ended the stream early"),
            Ok(Err(_)) => Waited::Over("the connection to the provider broke"),
            Err(_) if wake_at < over_at => Waited::Quiet,
            Err(_) => Waited::Over("the provider went silent"),
        };
        answer.tally.waited(now.elapsed());
        Some(waited)
    }

    /// Nothing more comes from the provider's side in time. That is the end of a complete answer,
    /// whose bill may still come, and an error otherwise.
    fn over(&mut self, why: &'static str) -> Option<Bytes> {
        let answer = self.answer.take()?;
        if answer.complete() {
            answer.settle_later();
            return Some(self.chunks.close(&DONE));
        }
        answer.break_off(why);
        Some(error_event(why))
    }

    /// The provider's last value came. The bill is checked here, which takes microseconds, and
    /// signed in the background.
    fn epilogue(&mut self, epilogue: Value) -> Option<Bytes> {
        let answer = self.answer.take()?;
        if !answer.tally.ended() {
            let why = "the provider billed it before its end";
            answer.break_off(why);
            return Some(error_event(why));
        }
        answer.settle(epilogue);
        Some(self.chunks.close(&DONE))
    }
}

impl Drop for Relay {
    /// The client went away. If it has read its answer, which some do without waiting for
    /// `[DONE]`, the provider gets its due; else the job is given up, and the provider cancels.
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take_if(|answer| answer.complete()) {
            answer.settle_later();
        }
    }
}

/// A value as an event.
pub(super) fn data(value: &Value) -> Bytes {
    let mut text = Vec::with_capacity(EVENT_BYTES);
    text.extend_from_slice(b"data: ");
    // Values from the wire have text keys only, so this can't fail; and if it did, the client
    // would see a broken event and not a wrong one.
    let _ = serde_json::to_writer(&mut text, value);
    text.extend_from_slice(b"\n\n");
    Bytes::from(text)
}

/// An error after the first byte, as OpenAI's own server sends it.
pub(super) fn error_event(why: &str) -> Bytes {
    data(&json!({"error": {
        "message": format!("The answer broke off: {why}."),
        "type": "server_error",
        "param": null,
        "code": "provider_failed",
    }}))
}

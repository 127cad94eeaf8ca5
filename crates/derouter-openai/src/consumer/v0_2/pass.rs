//! The answer's bytes on their way to the client.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Answer;
use crate::consumer::attempt::error_message;
use crate::consumer::chunks::{Chunks, Corrected};
use crate::consumer::relay::{DONE, KEEP_ALIVE, data, error_event};
use crate::consumer::request::Asked;
use crate::meter::Meter;
use crate::protocol::v0_2::frames::{Frame, ReadFrameError};
use crate::sse::{Event, Splitter};
use crate::terms::Endpoint;

/// What of a stream of events passes. Events pass as they are, unless a client could not read them, or
/// did not ask for them.
pub(super) struct Passing {
    events: Splitter,
    endpoint: Endpoint,
    /// Chunks of `chat/completions` and `completions`, whose form is known.
    chunks: Option<Box<Chunks>>,
}

/// Why an event does not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The provider's backend says that it failed.
    Error(String),
    /// It is nothing that a client could read.
    Invalid(&'static str),
}

impl Passing {
    pub(super) fn new(asked: &Asked, is_event_stream: bool) -> Self {
        let has_chunks = matches!(asked.endpoint, Endpoint::Chat | Endpoint::Completions);
        Self {
            events: Splitter::of(asked.endpoint),
            chunks: (is_event_stream && has_chunks).then(|| Box::new(Chunks::new(asked))),
            endpoint: asked.endpoint,
        }
    }

    /// Takes bytes that came when the answer was over for its client: what is in them is not paid, only a
    /// usage is taken that has not come before.
    pub(super) fn late(&mut self, bytes: &[u8], meter: &mut Meter) {
        self.events.push(bytes);
        while let Ok(Some(event)) = self.events.next() {
            if let Ok(value) = serde_json::from_slice(&event.data()) {
                meter.late(&value);
            }
        }
    }

    /// Takes bytes of a stream, counts the events that are whole, and appends those that pass.
    pub(super) fn events(
        &mut self,
        bytes: &[u8],
        meter: &mut Meter,
        out: &mut BytesMut,
    ) -> Result<(), Unfit> {
        self.events.push(bytes);
        loop {
            match self.events.next() {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => self.event(&event, meter, out)?,
                Err(_) => return Err(Unfit::Invalid("an event that is too long")),
            }
        }
    }

    fn event(&mut self, event: &Event, meter: &mut Meter, out: &mut BytesMut) -> Result<(), Unfit> {
        if event.is_done() {
            return Ok(());
        }
        if event.has_bare_return() {
            // Some clients end a line there, and would read something else than is counted here.
            return Err(Unfit::Invalid("an event with a bare carriage return"));
        }
        let mut value: Value = serde_json::from_slice(&event.data())
            .map_err(|_| Unfit::Invalid("an event that is not JSON"))?;
        if !value.is_object() {
            return Err(Unfit::Invalid("an event that is no object"));
        }
        if let Some(message) = error_message(&value) {
            return Err(Unfit::Error(message));
        }
        if event.is_error() {
            return Err(Unfit::Error("The provider reported an error.".to_owned()));
        }
        meter.event(self.endpoint, &value);
        let Some(chunks) = &mut self.chunks else {
            out.extend_from_slice(&event.raw);
            return Ok(());
        };
        match chunks.correct(&mut value) {
            Corrected::As if event.is_one_line() => out.extend_from_slice(&event.raw),
            Corrected::As | Corrected::Changed => out.extend_from_slice(&data(&value)),
            Corrected::Nothing => {}
        }
        Ok(())
    }

    /// The end of a stream that has come to its end; `None` for one that has no end of its own.
    fn close(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        self.chunks.as_mut().map(|chunks| Ok(chunks.close(&DONE)))
    }
}

/// An answer on its way.
struct Pass {
    /// `None` once it has ended.
    answer: Option<Answer>,
    /// When the whole answer must have come.
    ends_at: Instant,
    /// Since when the provider is waited for.
    waiting_since: Option<Instant>,
    /// When the client was last sent something.
    said_at: Instant,
}

/// What waiting for the provider led to.
enum Waited {
    Frame(Frame),
    /// Nothing yet: the client is owed a sign of life.
    Quiet,
    /// Nothing will come any more.
    Over(&'static str),
}

/// The body of an answer.
pub(super) fn body(mut answer: Answer) -> Body {
    if answer.begun.whole {
        let body = std::mem::take(&mut answer.begun.first);
        answer.keep(&body);
        answer.settle_later(false);
        return Body::from(body);
    }
    let total = answer.gateway.config.deadlines.streamed_answer;
    let pass = Pass {
        answer: Some(answer),
        ends_at: Instant::now() + total,
        waiting_since: None,
        said_at: Instant::now(),
    };
    let bytes = futures::stream::unfold(pass, |mut pass| async {
        let bytes = pass.next().await?;
        Some((bytes, pass))
    });
    Body::from_stream(bytes)
}

impl Pass {
    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        let answer = self.answer.as_mut()?;
        let first = std::mem::take(&mut answer.begun.first);
        if !first.is_empty() {
            answer.keep(&first);
            self.said_at = Instant::now();
            return Some(Ok(first));
        }
        loop {
            if self.answer.as_ref()?.client_has_all() {
                let mut answer = self.answer.take()?;
                let end = answer.begun.passing.close();
                answer.settle_later(false);
                return end;
            }
            let frame = match self.wait().await? {
                Waited::Frame(frame) => frame,
                Waited::Quiet => {
                    self.said_at = Instant::now();
                    return Some(Ok(KEEP_ALIVE));
                }
                Waited::Over(why) => return self.over(why),
            };
            match frame {
                Frame::Data(bytes) => match self.take(bytes) {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => {
                        self.answer.as_mut()?.keep(&bytes);
                        self.waiting_since = None;
                        self.said_at = Instant::now();
                        return Some(Ok(bytes));
                    }
                    Err(why) => return self.over(why),
                },
                Frame::Epilogue(epilogue) => {
                    let mut answer = self.answer.take()?;
                    if answer.is_event_stream() && !answer.begun.meter.is_whole() {
                        let why = "the provider billed it before its end";
                        answer.break_off(why);
                        return Some(broken(why, true));
                    }
                    let end = answer.begun.passing.close();
                    answer.settle(epilogue, false);
                    return end;
                }
                Frame::Failed(_) => {
                    return self.over("the provider reported an error in the middle of the answer");
                }
                Frame::Head(_) => return self.over("the provider broke the protocol"),
            }
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, &'static str> {
        let Some(answer) = &mut self.answer else {
            return Ok(Bytes::new());
        };
        let begun = &mut answer.begun;
        if !begun.head.is_event_stream() {
            begun.meter.opaque(bytes.len());
            return Ok(bytes);
        }
        let mut out = BytesMut::with_capacity(bytes.len());
        let passed = begun.passing.events(&bytes, &mut begun.meter, &mut out);
        match passed {
            Ok(()) => Ok(out.freeze()),
            Err(Unfit::Error(_)) => {
                Err("the provider reported an error in the middle of the answer")
            }
            Err(Unfit::Invalid(_)) => Err("the provider sent something that can't be read"),
        }
    }

    /// Waits for the provider, but not longer than the client wants to hear something.
    async fn wait(&mut self) -> Option<Waited> {
        let answer = self.answer.as_mut()?;
        let deadlines = answer.gateway.config.deadlines;
        let patience = match answer.client_has_all() {
            true => deadlines.done,
            false => deadlines.next_value,
        };
        let now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        let over_at = (since + patience).min(self.ends_at);
        let comments = answer.is_event_stream();
        let wake_at = match comments {
            true => over_at.min(self.said_at + deadlines.keep_alive),
            false => over_at,
        };
        let came = timeout_at(wake_at, answer.begun.frames.next()).await;
        answer.waited(now.elapsed());
        let waited = match came {
            Ok(Ok(frame)) => Waited::Frame(frame),
            Ok(Err(ReadFrameError::Ended)) => Waited::Over("the provider ended the stream early"),
            Ok(Err(ReadFrameError::Broken(_))) => {
                Waited::Over("the connection to the provider broke")
            }
            Ok(Err(_)) => Waited::Over("the provider broke the protocol"),
            Err(_) if wake_at < over_at => Waited::Quiet,
            Err(_) => Waited::Over("the provider went silent"),
        };
        Some(waited)
    }

    /// Nothing more comes from the provider's side in time. That is the end of a complete stream,
    /// whose bill may still come, and an error otherwise.
    fn over(&mut self, why: &'static str) -> Option<Result<Bytes, std::io::Error>> {
        let mut answer = self.answer.take()?;
        let events = answer.is_event_stream();
        if events && answer.has_ended() {
            let end = answer.begun.passing.close();
            answer.settle_later(false);
            return end;
        }
        answer.break_off(why);
        Some(broken(why, events))
    }
}

/// An error after the first byte: an event where there are events, else a body that breaks off, so that
/// no client takes it for whole.
fn broken(why: &str, events: bool) -> Result<Bytes, std::io::Error> {
    match events {
        true => Ok(error_event(why)),
        false => Err(std::io::Error::other(why.to_owned())),
    }
}

impl Answer {
    /// Notes what passes to the client, where that is to be kept.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(transcript) = &mut self.begun.transcript {
            transcript.add(bytes);
        }
    }

    /// Whether the client has all of a stream that it reads: what comes behind is the bill.
    fn client_has_all(&self) -> bool {
        let begun = &self.begun;
        let chunks = begun.passing.chunks.as_ref();
        let has_usage = chunks.is_some_and(|chunks| !chunks.wants_usage());
        has_usage && begun.first.is_empty() && self.has_ended()
    }

    /// Whether each answer that was asked for has come to its end.
    pub(super) fn has_ended(&self) -> bool {
        let answers = match self.begun.passing.chunks {
            Some(_) => self.asked.size.answers,
            None => 1,
        };
        self.begun.meter.has_ended(answers)
    }
}

impl Drop for Pass {
    /// The client went away. If it has read its answer, which some do without waiting for `[DONE]`, the
    /// provider gets its due; else the provider is told to stop, and gets its due for what it sent.
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer.client_left();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol;

    fn asked(request: &Value) -> Asked {
        Asked::parse(protocol::Endpoint::Chat, request.to_string().as_bytes()).unwrap()
    }

    fn chat(include_usage: bool) -> Asked {
        asked(&json!({"model": "m", "messages": [], "stream": true,
            "stream_options": {"include_usage": include_usage}}))
    }

    /// What of a stream passes, in pieces of `size` bytes.
    fn pass(asked: &Asked, text: &str, size: usize) -> Result<String, Unfit> {
        let (mut passing, mut meter) = (Passing::new(asked, true), Meter::default());
        let mut out = BytesMut::new();
        for piece in text.as_bytes().chunks(size) {
            passing.events(piece, &mut meter, &mut out)?;
        }
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    const CHUNK: &str = "data: {\"id\":\"c\", \"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":null}], \"new\": 1.50}\n\n";

    #[test]
    fn a_chunk_that_a_client_can_read_passes_byte_for_byte() {
        for size in [1, 7, 1000] {
            assert_eq!(pass(&chat(false), CHUNK, size).as_deref(), Ok(CHUNK));
        }
    }

    #[test]
    fn what_a_client_did_not_ask_for_or_could_not_read_is_made_right() {
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        assert_eq!(pass(&chat(false), usage, 9).as_deref(), Ok(""));
        assert_eq!(pass(&chat(true), usage, 9).as_deref(), Ok(usage));
        let bare = "data: {\"usage\":{\"prompt_tokens\":1}}\n\n";
        let shown = pass(&chat(true), bare, 9).unwrap();
        assert!(shown.contains("\"choices\":[]"), "{shown}");
        let twice =
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n".repeat(2);
        let shown = pass(&chat(false), &twice, 9).unwrap();
        assert_eq!(shown.matches("assistant").count(), 1, "{shown}");
        assert_eq!(
            shown.matches("\"finish_reason\":null").count(),
            2,
            "{shown}"
        );
        assert_eq!(
            pass(&chat(false), "data: {\"ping\":1}\n\n", 9).as_deref(),
            Ok("")
        );
        assert_eq!(pass(&chat(false), "data: [DONE]\n\n", 9).as_deref(), Ok(""));
    }

    /// Programs that read line by line take each for JSON, and some want the space.
    #[test]
    fn each_line_of_data_is_json() {
        let split = CHUNK.replace(", \"choices\"", ",\ndata: \"choices\"");
        let close = CHUNK.replace("data: ", "data:");
        let named = format!("event: chunk\nid: 7\n{CHUNK}");
        for text in [split, close, named] {
            let shown = pass(&chat(false), &text, 9).unwrap();
            assert_eq!(shown.matches("data: ").count(), 1, "{shown}");
            let json = shown.strip_prefix("data: ").unwrap();
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(value["new"], 1.5);
        }
        let other_breaks = CHUNK.replace("\n\n", "\r\n\r\n");
        let passed = pass(&chat(false), &other_breaks, 9);
        assert_eq!(passed.as_deref(), Ok(other_breaks.as_str()));
    }

    #[test]
    fn events_of_other_endpoints_pass_as_they_are() {
        let request = json!({"model": "m", "input": "x", "stream": true});
        let body = request.to_string();
        let none = serde_json::Map::new();
        let asked = Asked::parse_other(Endpoint::Responses, body.as_bytes(), none).unwrap();
        let event = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
        assert_eq!(pass(&asked, event, 11).as_deref(), Ok(event));
    }

    #[test]
    fn errors_and_noise_do_not_pass() {
        let chat = chat(false);
        let error = "data: {\"error\":{\"message\":\"no\"}}\n\n";
        assert_eq!(pass(&chat, error, 9), Err(Unfit::Error("no".into())));
        for text in ["data: {\n\n", "data: 7\n\n", "event: error\ndata: {}\n\n"] {
            assert!(pass(&chat, text, 9).is_err(), "{text:?}");
        }
        let endless = format!("data: {}", "x".repeat(2 << 20));
        assert!(pass(&chat, &endless, 65_536).is_err());
    }
}

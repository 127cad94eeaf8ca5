//! Makes what backends send fit for 0.1 consumer modules, which parse each delta against schemas
//! and erase what does not fit: `role` and a text `content` in every delta, `finish_reason` in every
//! choice, no null `system_fingerprint`, and exactly one usage chunk, at the end, without choices.
//! All else stays as the backend sent it.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::usage::{Tally, answer_bytes};
use crate::protocol::{EPILOGUE_OBJECT, Endpoint};

/// Choices whose end is tracked. More than any request may ask for.
const MAX_TRACKED_CHOICES: usize = 256;

/// What a message of the backend is cut to before anyone sees it, in bytes.
const MAX_MESSAGE_BYTES: usize = 500;

/// A value of the backend is no part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAnAnswer {
    /// It is an error, with the backend's message if there is one.
    #[error("the backend answered with an error")]
    Error(Option<String>),
    /// It is an answer that says nothing: nobody pays for one.
    #[error("the backend's answer is empty")]
    Empty,
    /// It is something else.
    #[error("the backend sent something that is no OpenAI answer")]
    Unknown,
}

/// The state of one streamed answer.
#[derive(Debug)]
pub(super) struct Stream {
    endpoint: Endpoint,
    /// The market's name of the model, when the backend has another.
    model: Option<String>,
    /// `id`, `object`, `created` and `model` of the first chunk.
    head: Map<String, Value>,
    open_choices: BTreeSet<u64>,
    finished: bool,
    /// The latest usage that the backend reported.
    pub(super) usage: Option<Value>,
    /// Text seen.
    pub(super) tally: Tally,
    said_something: bool,
    /// Encoded chunks that wait for the first one that says something.
    pub(super) held: Vec<Bytes>,
}

impl Stream {
    pub(super) fn new(endpoint: Endpoint, model: Option<String>) -> Self {
        Self {
            endpoint,
            model,
            head: Map::new(),
            open_choices: BTreeSet::new(),
            finished: false,
            usage: None,
            tally: Tally::default(),
            said_something: false,
            held: Vec::new(),
        }
    }

    /// Takes a chunk. `None` when there is nothing in it for the consumer: usage is kept for the
    /// end, and other chunks without choices say nothing.
    pub(super) fn chunk(&mut self, value: Value) -> Result<Option<Value>, NotAnAnswer> {
        let mut chunk = answer_object(value)?;
        match chunk.remove("usage") {
            None | Some(Value::Null) => {}
            usage => self.usage = usage,
        }
        self.correct_head(&mut chunk);
        let Some(Value::Array(choices)) = chunk.get_mut("choices") else {
            return Ok(None);
        };
        if choices.is_empty() {
            return Ok(None);
        }
        for choice in choices.iter_mut() {
            self.choice(choice.as_object_mut().ok_or(NotAnAnswer::Unknown)?);
        }
        Ok(Some(Value::Object(chunk)))
    }

    /// Whether every choice that began has a finish reason, so that the end of the body is the end
    /// of the answer also without `[DONE]`.
    pub(super) fn is_complete(&self) -> bool {
        self.finished && self.open_choices.is_empty()
    }

    /// Whether the end of the body can be that of the answer. Some servers give no reason for an answer's
    /// end: then text and a usage will do.
    pub(super) fn can_be_whole(&self) -> bool {
        let without_reason = !self.finished && self.said_something;
        self.is_complete() || without_reason && self.usage.is_some()
    }

    /// Whether any chunk was part of an answer: text, reasoning, a tool call or an end.
    pub(super) fn says_something(&self) -> bool {
        self.said_something
    }

    /// Whether the backend has said anything yet.
    pub(super) fn has_begun(&self) -> bool {
        !self.head.is_empty()
    }

    /// The last chunk.
    pub(super) fn usage_chunk(&self, usage: &Value) -> Value {
        let mut chunk = self.head.clone();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), usage.clone());
        Value::Object(chunk)
    }

    fn correct_head(&mut self, chunk: &mut Map<String, Value>) {
        drop_null(chunk, "system_fingerprint");
        let object = chunk.get("object").and_then(Value::as_str);
        if object.is_none_or(|object| object == EPILOGUE_OBJECT) {
            let object = match self.endpoint {
                Endpoint::Chat => "chat.completion.chunk",
                Endpoint::Completions => "text_completion",
            };
            chunk.insert("object".to_owned(), json!(object));
        }
        if let Some(model) = &self.model {
            chunk.insert("model".to_owned(), json!(model));
        }
        if self.head.is_empty() {
            let fields = ["id", "object", "created", "model"].into_iter();
            let present =
                fields.filter_map(|field| Some((field.to_owned(), chunk.get(field)?.clone())));
            self.head = present.collect();
        }
    }

    fn choice(&mut self, choice: &mut Map<String, Value>) {
        self.said_something |= says_something(choice, "delta");
        let finish = choice
            .entry("finish_reason")
            .or_insert(Value::Null)
            .is_null();
        self.track(choice.get("index").and_then(Value::as_u64), !finish);
        if self.endpoint == Endpoint::Completions {
            self.tally.chunk(answer_bytes(choice));
            return;
        }
        let delta = choice.entry("delta").or_insert_with(|| json!({}));
        if !delta.is_object() {
            *delta = json!({});
        }
        let Some(delta) = delta.as_object_mut() else {
            return;
        };
        self.tally.chunk(answer_bytes(delta));
        // Whatever the backend says, and some say "": nobody else speaks in an answer.
        delta.insert("role".to_owned(), json!("assistant"));
        if !delta.get("content").is_some_and(Value::is_string) {
            delta.insert("content".to_owned(), json!(""));
        }
    }

    fn track(&mut self, index: Option<u64>, finished: bool) {
        let index = index.unwrap_or(0);
        if finished {
            self.open_choices.remove(&index);
            self.finished = true;
        } else if self.open_choices.len() < MAX_TRACKED_CHOICES {
            self.open_choices.insert(index);
        }
    }
}

/// A plain answer, its usage taken out.
#[derive(Debug, PartialEq)]
pub(super) struct Plain {
    pub(super) answer: Map<String, Value>,
    pub(super) usage: Option<Value>,
    pub(super) tally: Tally,
}

impl Plain {
    /// Takes the body of a plain answer.
    pub(super) fn new(value: Value, model: Option<&str>) -> Result<Self, NotAnAnswer> {
        let mut answer = answer_object(value)?;
        let Some(Value::Array(choices)) = answer.get("choices") else {
            return Err(NotAnAnswer::Unknown);
        };
        let mut objects = choices.iter().filter_map(Value::as_object);
        if !objects.any(|choice| says_something(choice, "message")) {
            return Err(NotAnAnswer::Empty);
        }
        let parts = choices.iter().filter_map(|choice| {
            let choice = choice.as_object()?;
            choice.get("message").map_or(Some(choice), Value::as_object)
        });
        let bytes = parts.map(answer_bytes).fold(0, u64::saturating_add);
        drop_null(&mut answer, "system_fingerprint");
        if let Some(model) = model {
            answer.insert("model".to_owned(), json!(model));
        }
        Ok(Self {
            usage: answer.remove("usage"),
            answer,
            tally: Tally { chunks: 0, bytes },
        })
    }

    /// The answer with its settled usage.
    pub(super) fn with_usage(mut self, usage: Value) -> Value {
        self.answer.insert("usage".to_owned(), usage);
        Value::Object(self.answer)
    }
}

fn answer_object(value: Value) -> Result<Map<String, Value>, NotAnAnswer> {
    let Value::Object(object) = value else {
        return Err(NotAnAnswer::Unknown);
    };
    if object.get("error").is_some_and(|error| !error.is_null()) {
        return Err(NotAnAnswer::Error(error_message(&object)));
    }
    if object.contains_key("choices") || object.contains_key("usage") {
        Ok(object)
    } else {
        Err(NotAnAnswer::Unknown)
    }
}

/// Whether a choice holds any part of an answer: an end, or a text, list or object that is not empty
/// and neither names nor measures something. `part` is where a chat's choice has it.
fn says_something(choice: &Map<String, Value>, part: &str) -> bool {
    const ABOUT: [&str; 6] = [
        "role",
        "index",
        "logprobs",
        "finish_reason",
        "delta",
        "message",
    ];
    let filled = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => false,
    };
    let within = choice.get(part).and_then(Value::as_object);
    let mut fields = within.unwrap_or(choice).iter();
    choice.get("finish_reason").is_some_and(filled)
        || fields.any(|(key, value)| !ABOUT.contains(&key.as_str()) && filled(value))
}

fn drop_null(object: &mut Map<String, Value>, key: &str) {
    if object.get(key).is_some_and(Value::is_null) {
        object.remove(key);
    }
}

/// The message of an error in any of the shapes that backends use: `{error: {message}}`,
/// `{error: "text"}`, `{message}`, `{detail}`.
pub(super) fn error_message(body: &Map<String, Value>) -> Option<String> {
    let error = body.get("error");
    let text = error
        .and_then(|error| error.get("message"))
        .or(error)
        .filter(|text| text.is_string())
        .or_else(|| body.get("message"))
        .or_else(|| body.get("detail"))?;
    let mut text = text.as_str()?.to_owned();
    derouter_sdk::wire::cbor::truncate_to_char(&mut text, MAX_MESSAGE_BYTES);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Stream {
        Stream::new(Endpoint::Chat, None)
    }

    #[test]
    fn every_delta_fits_what_0_1_consumers_parse() {
        let mut stream = chat();
        let chunk = stream
            .chunk(json!({
                "id": "c", "system_fingerprint": null, "usage": null,
                "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}], "content": null}}],
            }))
            .unwrap();
        assert_eq!(
            chunk,
            Some(json!({
                "id": "c", "object": "chat.completion.chunk",
                "choices": [{
                    "index": 0, "finish_reason": null,
                    "delta": {"tool_calls": [{"index": 0}], "content": "", "role": "assistant"},
                }],
            }))
        );
        assert!(!stream.is_complete());
        let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        stream.chunk(last).unwrap();
        assert!(stream.is_complete());
    }

    #[test]
    fn an_answer_is_complete_when_all_its_choices_are() {
        let mut stream = Stream::new(Endpoint::Completions, Some("market".to_owned()));
        let two = json!({"model": "x", "choices": [
            {"index": 0, "text": "ab", "finish_reason": "stop"}, {"index": 1, "text": "c"},
        ]});
        let chunk = stream.chunk(two).unwrap().unwrap();
        assert_eq!(chunk.get("model"), Some(&json!("market")));
        assert!(!stream.is_complete());
        let end = json!({"choices": [{"index": 1, "text": "", "finish_reason": "length"}]});
        stream.chunk(end).unwrap();
        assert!(stream.is_complete());
        assert_eq!(
            stream.tally,
            Tally {
                chunks: 2,
                bytes: 3
            }
        );
    }

    #[test]
    fn usage_is_kept_for_one_chunk_at_the_end_wherever_it_came() {
        let mut stream = chat();
        let with_choice = json!({"id": "c", "created": 5, "model": "m", "usage": {"prompt_tokens": 1},
            "choices": [{"index": 0, "delta": {"content": "x"}}]});
        let forwarded = stream.chunk(with_choice).unwrap().unwrap();
        assert_eq!(forwarded.get("usage"), None);
        let alone = json!({"choices": [], "usage": {"prompt_tokens": 2}});
        assert_eq!(stream.chunk(alone), Ok(None));
        let usage = stream.usage.clone().unwrap();
        assert_eq!(
            stream.usage_chunk(&usage),
            json!({"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m",
                "choices": [], "usage": {"prompt_tokens": 2}})
        );
    }

    #[test]
    fn errors_and_noise_are_no_answers() {
        let error = |message: Option<&str>| NotAnAnswer::Error(message.map(str::to_owned));
        for (value, expected) in [
            (json!({"error": {"message": "m"}}), error(Some("m"))),
            (json!({"error": "m", "choices": []}), error(Some("m"))),
            (json!({"error": {}}), error(None)),
            (json!([1]), NotAnAnswer::Unknown),
            (json!({"hello": 1}), NotAnAnswer::Unknown),
            (json!({"choices": ["x"]}), NotAnAnswer::Unknown),
        ] {
            assert_eq!(chat().chunk(value), Err(expected));
        }
        assert_eq!(
            Plain::new(json!({"usage": {}}), None),
            Err(NotAnAnswer::Unknown)
        );
    }

    #[test]
    fn a_plain_answer_keeps_its_message() {
        let message = json!({"role": "assistant", "content": null, "tool_calls": []});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let answer = json!({"id": "c", "choices": [choice],
            "system_fingerprint": null, "usage": {"prompt_tokens": 3}});
        let plain = Plain::new(answer, None).unwrap();
        assert_eq!(plain.usage, Some(json!({"prompt_tokens": 3})));
        assert_eq!(
            plain.with_usage(json!({"x": 1})),
            json!({"id": "c", "choices": [choice], "usage": {"x": 1}})
        );
    }

    #[test]
    fn an_answer_without_text_reasoning_tool_call_or_end_is_empty() {
        for (part, says) in [
            (json!({"role": "assistant", "content": ""}), false),
            (json!({"content": null, "tool_calls": []}), false),
            (json!({}), false),
            (json!({"content": "x"}), true),
            (json!({"reasoning_content": "x"}), true),
            (json!({"tool_calls": [{"index": 0}]}), true),
        ] {
            let mut stream = chat();
            let chunk =
                json!({"choices": [{"index": 0, "delta": part, "logprobs": {"content": []}}]});
            stream.chunk(chunk).unwrap();
            assert_eq!(stream.says_something(), says, "{part}");
            let plain = Plain::new(json!({"choices": [{"index": 0, "message": part}]}), None);
            assert_eq!(plain.is_ok(), says, "{part}");
        }
        let mut ended = chat();
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        ended.chunk(end).unwrap();
        assert!(ended.says_something());
        let mut text = Stream::new(Endpoint::Completions, None);
        text.chunk(json!({"choices": [{"index": 0, "text": ""}]}))
            .unwrap();
        assert!(!text.says_something());
        text.chunk(json!({"choices": [{"index": 0, "text": "x"}]}))
            .unwrap();
        assert!(text.says_something());
        let none = Plain::new(json!({"choices": [], "usage": {}}), None);
        assert_eq!(none, Err(NotAnAnswer::Empty));
    }

    #[test]
    fn every_delta_is_the_assistants_whatever_the_backend_says() {
        let chunk = json!({"choices": [{"index": 0, "delta": {"role": "", "content": "x"}}]});
        let chunk = chat().chunk(chunk).unwrap().unwrap();
        let role = chunk.pointer("/choices/0/delta/role");
        assert_eq!(role, Some(&json!("assistant")));
    }
}

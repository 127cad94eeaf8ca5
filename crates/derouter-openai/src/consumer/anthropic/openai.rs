//! Reads what plain and streamed OpenAI answers have in common.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::Context;
use crate::protocol::Usage;

/// The longest id or name of a tool call that is passed on: clients send both back with each
/// request.
const MAX_NAME_BYTES: usize = 256;

/// Under which key arguments are given that are no JSON object, as Anthropic's documentation
/// proposes for them.
const INVALID_JSON: &str = "INVALID_JSON";

/// The text of a message or a delta: a string, or parts of which some are text.
pub(super) fn text(message: &Value) -> Cow<'_, str> {
    match message.get("content") {
        Some(Value::String(text)) => text.into(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<String>().into()
        }
        _ => "".into(),
    }
}

/// What the model says when it refuses.
pub(super) fn refusal(message: &Value) -> &str {
    non_empty(message, "refusal").unwrap_or_default()
}

/// What the model thinks. Servers that know both names repeat it.
pub(super) fn reasoning(message: &Value) -> &str {
    non_empty(message, "reasoning_content")
        .or_else(|| non_empty(message, "reasoning"))
        .unwrap_or_default()
}

/// A text that says something.
pub(super) fn non_empty<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let text = object.get(name)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The tool calls of a message or a delta.
pub(super) fn tool_calls(message: &Value) -> impl Iterator<Item = &Value> {
    let calls = message.get("tool_calls").and_then(Value::as_array);
    calls.into_iter().flatten()
}

/// The id of a tool call, if it has one that can be passed on.
pub(super) fn call_id(call: &Value) -> Option<&str> {
    non_empty(call, "id").filter(|id| id.len() <= MAX_NAME_BYTES)
}

/// The name in a tool call or a part of one.
pub(super) fn call_name(call: &Value) -> Option<&str> {
    non_empty(call.get("function")?, "name").filter(|name| name.len() <= MAX_NAME_BYTES)
}

/// The arguments in a tool call or a part of one: text, or, of some servers, the object itself.
pub(super) fn call_arguments(call: &Value) -> Cow<'_, str> {
    let arguments = call.get("function").and_then(|f| f.get("arguments"));
    match arguments {
        Some(Value::String(text)) => text.into(),
        Some(object @ Value::Object(_)) => object.to_string().into(),
        _ => "".into(),
    }
}

/// The input of a tool from the text that the model wrote, which may be anything.
pub(super) fn tool_input(arguments: &str) -> Value {
    if arguments.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(arguments) {
        Ok(object @ Value::Object(_)) => object,
        Ok(Value::Null) => Value::Object(Map::new()),
        _ => json!({INVALID_JSON: arguments}),
    }
}

/// How an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finish {
    /// OpenAI's `finish_reason`, if there was one.
    reason: Option<String>,
    /// The stop sequence that some servers name.
    matched: Option<String>,
    /// The model refused in words.
    pub(super) refused: bool,
    /// There are tool calls.
    pub(super) calls: bool,
}

impl Finish {
    /// Takes what a choice says of its end.
    pub(super) fn read(&mut self, choice: &Value) {
        if let Some(reason) = non_empty(choice, "finish_reason") {
            self.reason = Some(reason.to_owned());
        }
        if let Some(matched) = non_empty(choice, "stop_reason") {
            self.matched = Some(matched.to_owned());
        }
    }

    /// Whether the choice has ended.
    pub(super) fn ended(&self) -> bool {
        self.reason.is_some()
    }

    /// `stop_reason` and `stop_sequence`.
    pub(super) fn stop(&self, context: &Context) -> (&'static str, Option<&str>) {
        let matched = self.matched.as_deref();
        let matched = matched.filter(|text| context.stop_sequences.iter().any(|stop| stop == text));
        match self.reason.as_deref() {
            Some("length") => ("max_tokens", None),
            Some("content_filter") => ("refusal", None),
            // Some servers say "stop" behind calls. Without any, a client would wait for one.
            _ if self.calls => ("tool_use", None),
            _ if self.refused => ("refusal", None),
            _ if matched.is_some() => ("stop_sequence", matched),
            _ => ("end_turn", None),
        }
    }
}

/// Anthropic's usage object. Nothing is known of what providers write to their caches.
pub(super) fn usage(usage: Option<&Value>) -> Value {
    let counts = usage.and_then(Usage::from_json).unwrap_or_default();
    let cached = usage.and_then(|usage| usage.get("prompt_tokens_details")?.get("cached_tokens"));
    let cached = cached.and_then(Value::as_u64).unwrap_or(0);
    let cached = cached.min(counts.prompt_tokens);
    json!({
        "input_tokens": counts.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counts.completion_tokens,
    })
}

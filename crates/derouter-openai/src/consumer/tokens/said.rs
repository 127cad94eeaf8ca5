//! The texts of an answer that clients show, as they come. What no client reads is worth nothing, and makes no
//! room in a bill.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::{MAX_TEXT_BYTES, Tokenizer, with_tolerance};
use crate::consumer::request::{Asked, Size};
use crate::estimate;
use crate::terms::Endpoint;

/// Tokens of an answer besides its text: its beginning and end, marks around reasoning.
const ANSWER_TOKENS: u64 = 16;

/// Tokens around a call of a tool.
const CALL_TOKENS: u64 = 48;

/// Calls that are told apart. More than any client runs for one answer.
const MAX_CALLS: usize = 1024;

/// Choices whose texts are held apart. OpenAI allows 128.
const MAX_VOICES: u64 = 128;

/// Events of `responses` and of transcriptions whose `delta` clients show.
const SHOWN_DELTAS: [&str; 12] = [
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
    "response.mcp_call_arguments.delta",
    "response.code_interpreter_call_code.delta",
    "response.audio.transcript.delta",
    "response.output_audio_transcript.delta",
    "transcript.text.delta",
];

/// The texts of an answer, each choice by itself.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    endpoint: Endpoint,
    /// Answers that were asked for.
    answers: u64,
    choices: BTreeMap<u64, Voice>,
    bytes: usize,
    /// Calls of tools, by hashes of what tells them apart.
    calls: BTreeSet<u64>,
    /// Parts with text: one for an answer in one piece.
    parts: u64,
}

/// A choice's text.
#[derive(Clone, Debug, Default)]
struct Voice {
    text: String,
    /// Which field the last of it was of.
    field: u64,
}

impl Said {
    /// What holds the answer to a request.
    pub(crate) fn of(asked: &Asked) -> Self {
        Self {
            endpoint: asked.endpoint,
            answers: asked.size.answers,
            choices: BTreeMap::new(),
            bytes: 0,
            calls: BTreeSet::new(),
            parts: 0,
        }
    }

    /// Adds an event of a stream. Behind too much text, nothing is kept.
    pub(crate) fn event(&mut self, event: &Value) {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => self.choices(event),
            _ => self.part(|said| said.typed_event(event)),
        }
    }

    /// Adds an answer in one piece.
    pub(crate) fn body(&mut self, body: &Value) {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => self.choices(body),
            Endpoint::Responses => self.part(|said| {
                for (place, item) in list(body, "output").enumerate() {
                    said.item(item, place);
                }
            }),
            _ => self.part(|said| said.say_field(0, body, "text")),
        }
    }

    fn choices(&mut self, value: &Value) {
        for choice in list(value, "choices") {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            // Those that nobody asked for share one voice.
            let voice = index.min(self.answers).min(MAX_VOICES);
            self.part(|said| said.choice(voice, choice));
        }
    }

    fn part(&mut self, read: impl FnOnce(&mut Self)) {
        let before = self.bytes;
        read(self);
        if self.bytes > before {
            self.parts = self.parts.saturating_add(1);
        }
        if self.is_too_long() {
            self.choices.clear();
        }
    }

    fn choice(&mut self, voice: u64, choice: &Value) {
        if self.endpoint == Endpoint::Completions {
            return self.say_field(voice, choice, "text");
        }
        let Some(message) = choice.get("delta").or_else(|| choice.get("message")) else {
            return;
        };
        self.reasoning(voice, message);
        self.say_field(voice, message, "refusal");
        self.content(voice, message.get("content"));
        if let Some(audio) = message.get("audio") {
            self.say_field(voice, audio, "transcript");
        }
        for (place, call) in list(message, "tool_calls").enumerate() {
            let key = key_of(call, place);
            for kind in ["function", "custom"] {
                if let Some(named) = call.get(kind) {
                    self.call(voice, &key, named);
                }
            }
        }
        if let Some(call) = message.get("function_call") {
            self.call(voice, "function_call", call);
        }
    }

    /// Some servers give the same under both names: one is shown, though both are billed where no usage is told.
    fn reasoning(&mut self, voice: u64, message: &Value) {
        let names = ["reasoning_content", "reasoning"];
        let mut given = names.iter().filter(|name| has_text(message, name));
        if let Some(name) = given.next() {
            self.say_field(voice, message, name);
        }
        for name in given {
            self.bytes = self.bytes.saturating_add(text(message, name).len());
        }
    }

    /// A text, or parts with texts.
    fn content(&mut self, voice: u64, content: Option<&Value>) {
        match content {
            Some(Value::String(text)) => self.say(voice, text, "content"),
            Some(Value::Array(parts)) => {
                for part in parts {
                    self.say_field(voice, part, "text");
                    self.say_field(voice, part, "refusal");
                    for thought in list(part, "thinking") {
                        self.say_field(voice, thought, "text");
                    }
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, voice: u64, key: &str, call: &Value) {
        if has_text(call, "name") && self.calls.len() < MAX_CALLS {
            self.calls.insert(hash(&(voice, key)));
        }
        for name in ["name", "arguments", "input", "code"] {
            self.say_field(voice, call, name);
        }
    }

    fn typed_event(&mut self, event: &Value) {
        let kind = text(event, "type");
        if SHOWN_DELTAS.contains(&kind) {
            return self.say(0, text(event, "delta"), kind);
        }
        let begins_or_ends = ["response.output_item.added", "response.output_item.done"];
        let Some(item) = event.get("item").filter(|_| begins_or_ends.contains(&kind)) else {
            return;
        };
        // Of a call, its deltas have all but the name.
        let key = key_of(item, 0);
        let is_new = self.calls.len() < MAX_CALLS && has_text(item, "name");
        if is_new && self.calls.insert(hash(&(0_u64, key.as_str()))) {
            self.say_field(0, item, "name");
        }
    }

    /// An item of the output of `responses`.
    fn item(&mut self, item: &Value, place: usize) {
        self.content(0, item.get("content"));
        for summary in list(item, "summary") {
            self.say_field(0, summary, "text");
        }
        self.call(0, &key_of(item, place), item);
    }

    fn say_field(&mut self, voice: u64, object: &Value, name: &str) {
        self.say(voice, text(object, name), name);
    }

    fn say(&mut self, voice: u64, text: &str, field: &str) {
        self.bytes = self.bytes.saturating_add(text.len());
        if text.is_empty() || self.is_too_long() {
            return;
        }
        let voice = self.choices.entry(voice).or_default();
        let field = hash(&field);
        if voice.field != field && !voice.text.is_empty() {
            // Texts of two fields do not touch.
            voice.text.push('\n');
        }
        voice.field = field;
        voice.text.push_str(text);
    }

    fn is_too_long(&self) -> bool {
        self.bytes > MAX_TEXT_BYTES
    }

    /// The most that may be billed for it.
    pub(super) fn most(&self, tokenizer: &Tokenizer, size: &Size) -> Option<u64> {
        if self.is_too_long() {
            return None;
        }
        let mut counted = 0_u64;
        for voice in self.choices.values() {
            counted = counted.saturating_add(tokenizer.count(&voice.text)?);
        }
        let calls = u64::try_from(self.calls.len()).unwrap_or(u64::MAX);
        let counted = with_tolerance(counted)
            .saturating_add(ANSWER_TOKENS.saturating_mul(size.answers))
            .saturating_add(CALL_TOKENS.saturating_mul(calls));
        Some(counted.max(self.billed_unreported()))
    }

    /// What is billed for it where a server reports nothing.
    fn billed_unreported(&self) -> u64 {
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        let in_parts = estimate::billed_in_parts(self.parts, bytes);
        match self.parts <= self.answers.max(1) {
            // It may have come in one piece.
            true => in_parts.max(estimate::billed(bytes)),
            false => in_parts,
        }
    }
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn has_text(object: &Value, name: &str) -> bool {
    !text(object, name).is_empty()
}

fn list<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let items = object.get(name).and_then(Value::as_array);
    items.into_iter().flatten()
}

/// What tells a call from others: its id, else its index, else its place.
fn key_of(call: &Value, place: usize) -> String {
    let id = ["id", "call_id"].iter().find(|name| has_text(call, name));
    match (id, call.get("index").and_then(Value::as_u64)) {
        (Some(id), _) => format!("id {}", text(call, id)),
        (None, Some(index)) => format!("index {index}"),
        (None, None) => format!("place {place}"),
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::consumer::tokens::tests::{chat, small};

    const TEXT: &str = "Hello, how are you today?";

    fn responses() -> Asked {
        let mut asked = chat(&json!({}));
        asked.endpoint = Endpoint::Responses;
        asked
    }

    fn delta(delta: &Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    fn most(asked: &Asked, events: &[Value]) -> u64 {
        let mut said = Said::of(asked);
        events.iter().for_each(|event| said.event(event));
        said.most(&small(), &asked.size).unwrap()
    }

    #[test]
    fn an_answer_counts_the_same_however_it_comes() {
        let asked = chat(&json!({}));
        let pieces = TEXT.split_inclusive(['e', ' ']);
        let streamed: Vec<Value> = pieces
            .map(|piece| delta(&json!({"role": "assistant", "content": piece})))
            .collect();
        assert_eq!(most(&asked, &streamed), 14 + ANSWER_TOKENS);
        let whole = json!({"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]});
        assert_eq!(most(&asked, &[whole]), 14 + ANSWER_TOKENS);

        let call = json!({"tool_calls": [{"id": "call_1", "index": 0, "type": "function",
            "function": {"name": "Hello", "arguments": ""}}]});
        let thought = [
            delta(&json!({"reasoning_content": TEXT, "reasoning": TEXT})),
            delta(&json!({"content": TEXT})),
            delta(&call),
            delta(&call),
        ];
        let counted = most(&asked, &thought);
        let call = 2 * small().count("Hello").unwrap() + CALL_TOKENS;
        let least = 28 + call + ANSWER_TOKENS;
        assert!((least..least + 6).contains(&counted), "{counted}");
    }

    #[test]
    fn a_bill_by_the_rule_for_streams_without_a_usage_fits() {
        let asked = chat(&json!({}));
        let text = "The gateway counts the tokens of a prompt and of an answer. ".repeat(50);
        let letters: Vec<Value> = text
            .chars()
            .map(|letter| delta(&json!({"content": letter.to_string()})))
            .collect();
        let billed = estimate::billed_in_parts(3000, 3000);
        assert!(with_tolerance(small().count(&text).unwrap()) + ANSWER_TOKENS < billed);
        assert_eq!(most(&asked, &letters), billed);

        let two = chat(&json!({"n": 2}));
        let text = " answer".repeat(500);
        let whole = json!({"choices": [{"index": 0, "message": {"content": text}},
            {"index": 1, "message": {"content": text}}]});
        let billed = estimate::billed(7000);
        let counted = with_tolerance(2 * small().count(&text).unwrap());
        assert!(counted + 2 * ANSWER_TOKENS < billed, "{counted}");
        assert_eq!(most(&two, &[whole]), billed);
    }

    #[test]
    fn what_no_client_reads_makes_no_room() {
        let asked = chat(&json!({}));
        let plain = most(&asked, &[delta(&json!({"content": TEXT}))]);
        let pad = "pad ".repeat(1 << 20);
        let padded = json!({"choices": [{"index": 0, "text": pad, "pad": pad, "name": "a",
            "delta": {"content": TEXT, "pad": pad, "name": "a", "text": pad,
                "audio": {"name": "a"}, "annotations": [{"name": "a"}]}}]});
        assert_eq!(most(&asked, &[padded]), plain);
        let asked = responses();
        let said = json!({"type": "response.output_text.delta", "delta": TEXT});
        let plain = most(&asked, std::slice::from_ref(&said));
        let padded = json!({"type": "response.pad.delta", "delta": pad, "name": "a"});
        assert_eq!(most(&asked, &[said, padded]), plain);
    }

    #[test]
    fn a_streamed_call_of_responses_is_allowed_once() {
        let asked = responses();
        let item = json!({"id": "fc_1", "type": "function_call", "name": "Hello"});
        let named = |kind: &str| json!({"type": kind, "item": item});
        let arguments = json!({"type": "response.function_call_arguments.delta", "delta": TEXT});
        let without = most(&asked, std::slice::from_ref(&arguments));
        let events = [
            named("response.output_item.added"),
            arguments,
            named("response.output_item.done"),
        ];
        let with = most(&asked, &events);
        let name = small().count("Hello").unwrap();
        let least = without + CALL_TOKENS + name;
        assert!((least..least + 4).contains(&with), "{with}");
    }

    #[test]
    fn a_provider_can_not_make_this_side_keep_much() {
        let asked = chat(&json!({"n": 2}));
        let mut said = Said::of(&asked);
        for index in 0..5000_u64 {
            said.event(
                &json!({"choices": [{"index": index, "delta": {"content": "a",
                "tool_calls": [{"index": index, "function": {"name": "f"}}]}}]}),
            );
        }
        assert_eq!(said.choices.len(), 3, "two, and one for all others");
        assert_eq!(said.calls.len(), MAX_CALLS);
        for _ in 0..3 {
            said.event(&delta(&json!({"content": "x".repeat(1 << 20)})));
        }
        assert_eq!(said.most(&small(), &asked.size), None);
        assert!(said.choices.is_empty(), "nothing is kept");
    }
}

//! Token counts: what the backend reports, or else an estimate.
//!
//! A backend that reports nothing (llama-cpp-python's streams) is billed by an estimate that needs
//! no tokenizer and errs to the consumer's side:
//! - prompt: one token for each 4 bytes of its texts (messages, prompt, tools), rounded up. English
//!   has about 4 bytes a token, everything else fewer. Images and audio count nothing.
//! - a streamed answer: one token for each chunk with text, as backends that stream token by token
//!   do, but never over one for each 2 bytes of text (a backend may stream by letters) and never
//!   under one for each 8 (it may stream by lines).
//! - a plain answer: one token for each 4 bytes of text, rounded up.

use serde_json::{Map, Value};

use super::request::Request;
use crate::estimate;
use crate::protocol::Usage;

/// The largest usage object that is signed. Real ones are under 500 bytes; it is kept for good.
const MAX_USAGE_BYTES: usize = 4 * 1024;

/// Text of an answer, counted as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Chunks with text; 0 in a plain answer.
    pub(super) chunks: u64,
    /// Bytes of text.
    pub(super) bytes: u64,
}

impl Tally {
    /// Counts one chunk.
    pub(super) fn chunk(&mut self, bytes: u64) {
        if bytes > 0 {
            self.chunks = self.chunks.saturating_add(1);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Completion tokens, by the rules above.
    fn tokens(self) -> u64 {
        if self.chunks == 0 {
            return estimate::billed(self.bytes);
        }
        estimate::billed_in_parts(self.chunks, self.bytes)
    }
}

/// A usage object that both sides can sign, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SettledUsage {
    /// The counts.
    pub(super) usage: Usage,
    /// The object as the consumer sees it.
    pub(super) json: Value,
    /// Whether a count was missing.
    pub(super) estimated: bool,
}

/// Takes what the backend reported, fills in what it did not, and cuts what is over the request's most.
pub(super) fn settle(reported: Option<Value>, request: &Request, tally: Tally) -> SettledUsage {
    settle_within(reported, request.prompt_bytes, request.most_billed, tally)
}

fn settle_within(
    reported: Option<Value>,
    prompt_bytes: u64,
    most: Usage,
    tally: Tally,
) -> SettledUsage {
    let reported = match reported {
        Some(Value::Object(reported)) => reported,
        _ => Map::new(),
    };
    let (prompt_tokens, completion_tokens) = (
        count(&reported, "prompt_tokens"),
        count(&reported, "completion_tokens"),
    );
    let usage = Usage {
        prompt_tokens: prompt_tokens
            .unwrap_or(estimate::billed(prompt_bytes))
            .min(most.prompt_tokens),
        completion_tokens: completion_tokens
            .unwrap_or(tally.tokens())
            .min(most.completion_tokens),
    };
    SettledUsage {
        usage,
        json: merge(reported, usage),
        estimated: prompt_tokens.is_none() || completion_tokens.is_none(),
    }
}

/// A count of any usage object, whether or not the others are there.
fn count(reported: &Map<String, Value>, key: &str) -> Option<u64> {
    let value = reported.get(key)?;
    let pair = serde_json::json!({ "prompt_tokens": value, "completion_tokens": value });
    Usage::from_json(&pair).map(|both| both.prompt_tokens)
}

/// The reported object with exact counts and without nulls, which 0.1 consumers erase: they would
/// then not find in the public payload what they saw.
fn merge(reported: Map<String, Value>, usage: Usage) -> Value {
    let plain = usage.to_json();
    let Some(counts) = plain.as_object() else {
        return plain;
    };
    let mut merged = counts.clone();
    for (key, value) in reported {
        if !merged.contains_key(&key) {
            merged.insert(key, value);
        }
    }
    let mut merged = Value::Object(merged);
    remove_nulls(&mut merged);
    if merged.to_string().len() > MAX_USAGE_BYTES {
        plain
    } else {
        merged
    }
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(entries) = value {
        entries.retain(|_, entry| !entry.is_null());
        entries.values_mut().for_each(remove_nulls);
    }
}

/// Bytes of the texts that a model reads in `value`: all strings, but not those that name, link or
/// embed something.
pub(super) fn prompt_bytes(value: &Value) -> u64 {
    const NOT_READ: [&str; 8] = [
        "type",
        "role",
        "id",
        "tool_call_id",
        "url",
        "data",
        "file_data",
        "detail",
    ];
    let sum = |bytes: u64, more: u64| bytes.saturating_add(more);
    match value {
        Value::String(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        Value::Array(items) => items.iter().map(prompt_bytes).fold(0, sum),
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| !NOT_READ.contains(&key.as_str()))
            .map(|(_, entry)| prompt_bytes(entry))
            .fold(0, sum),
        _ => 0,
    }
}

/// Bytes of the text in a delta, a message or a completion's choice.
pub(super) fn answer_bytes(part: &Map<String, Value>) -> u64 {
    const TEXTS: [&str; 5] = [
        "content",
        "reasoning_content",
        "reasoning",
        "refusal",
        "text",
    ];
    let texts = TEXTS.iter().filter_map(|key| part.get(*key)?.as_str());
    let text: usize = texts.map(str::len).sum();
    let mut bytes = u64::try_from(text).unwrap_or(u64::MAX);
    for key in ["tool_calls", "function_call"] {
        if let Some(calls) = part.get(key) {
            bytes = bytes.saturating_add(prompt_bytes(calls));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MOST: Usage = Usage {
        prompt_tokens: 4_096,
        completion_tokens: 4_096,
    };

    fn settle(reported: Option<Value>, prompt_bytes: u64, tally: Tally) -> SettledUsage {
        settle_within(reported, prompt_bytes, MOST, tally)
    }

    #[test]
    fn no_more_is_billed_than_the_request_allows() {
        let reported =
            json!({"prompt_tokens": 5_000, "completion_tokens": 6_000, "total_tokens": 11_000});
        let capped = MOST.to_json();
        assert_eq!(settle(Some(reported), 0, Tally::default()).json, capped);
        let tally = Tally {
            chunks: 5_000,
            bytes: 20_000,
        };
        assert_eq!(settle(None, 100_000, tally).json, capped);
    }

    #[test]
    fn what_the_backend_reports_counts_and_its_nulls_go() {
        let reported = json!({
            "prompt_tokens": 10.0, "completion_tokens": 100, "prompt_tokens_details": null,
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": null},
        });
        let settled = settle(Some(reported), 4_000, Tally::default());
        assert!(!settled.estimated);
        assert_eq!(settled.usage.prompt_tokens, 10);
        assert_eq!(
            settled.json,
            json!({
                "prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110,
                "completion_tokens_details": {"reasoning_tokens": 4},
            })
        );
    }

    #[test]
    fn what_is_missing_is_estimated_to_the_consumers_side() {
        let streamed = |chunks, bytes| {
            let tally = Tally { chunks, bytes };
            settle(None, 9, tally).usage.completion_tokens
        };
        assert_eq!(streamed(10, 45), 10, "a chunk is a token");
        assert_eq!(streamed(40, 40), 20, "chunks of one letter");
        assert_eq!(streamed(1, 800), 100, "all in one chunk");
        assert_eq!(streamed(0, 0), 0);
        let plain = settle(
            Some(json!({"completion_tokens": "many"})),
            9,
            Tally::default(),
        );
        assert_eq!(plain.usage.prompt_tokens, 3);
        assert!(plain.estimated);
    }

    #[test]
    fn a_huge_usage_object_is_cut_to_its_counts() {
        let reported = json!({"prompt_tokens": 1, "completion_tokens": 2, "x": "y".repeat(5_000)});
        let settled = settle(Some(reported), 0, Tally::default());
        assert_eq!(
            settled.json,
            json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
        );
    }

    #[test]
    fn embedded_images_are_not_prompt_text() {
        let content = json!([
            {"type": "text", "text": "12345678"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAAAAAAAAAA"}},
        ]);
        assert_eq!(
            prompt_bytes(&json!([{"role": "user", "content": content}])),
            8
        );
    }
}

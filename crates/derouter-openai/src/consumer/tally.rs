//! What was seen of an answer: its usage, how much text it had, whether it is complete.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::measure::generated_bytes;
use super::quality::Sample;
use super::tokens::Said;
use crate::choices::Choices;
use crate::protocol::Usage;

/// Counts an answer.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The last usage object.
    usage: Option<Value>,
    /// There was a chunk with nothing but the usage, which is the last one.
    usage_chunk: bool,
    generated_bytes: u64,
    choices: Choices,
    /// How long the provider was waited for, and since when.
    waited: Duration,
    waiting_since: Option<Instant>,
    /// The text itself, where a tokenizer is to count it.
    said: Option<Box<Said>>,
}

impl Tally {
    /// One that may keep the text.
    pub(crate) fn keeping(said: Option<Box<Said>>) -> Self {
        Self {
            said,
            ..Self::default()
        }
    }

    /// The text, where it was kept.
    pub(crate) fn take_said(&mut self) -> Option<Box<Said>> {
        self.said.take()
    }

    /// Counts a chunk, or a whole answer.
    pub(crate) fn count(&mut self, value: &Value) {
        if let Some(usage) = value.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
            self.usage_chunk |= is_usage_chunk(value);
        }
        if let Some(said) = &mut self.said {
            said.event(value);
        }
        let choices = value.get("choices").and_then(Value::as_array);
        for choice in choices.into_iter().flatten() {
            let bytes = generated_bytes(choice);
            self.generated_bytes = self.generated_bytes.saturating_add(bytes);
            self.choices.count(choice);
        }
    }

    /// The usage object, if there was one.
    pub(crate) fn usage(&self) -> Option<&Value> {
        self.usage.as_ref()
    }

    /// Bytes of generated text.
    pub(crate) fn generated_bytes(&self) -> u64 {
        self.generated_bytes
    }

    /// The provider was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        let now = Instant::now();
        self.waiting_since
            .get_or_insert_with(|| now.checked_sub(time).unwrap_or(now));
        self.waited = self.waited.saturating_add(time);
    }

    /// How fast the answer came. Nothing is said of one that mostly waited for its client.
    pub(crate) fn sample(&self) -> Sample {
        let whole = self.waiting_since.map(|since| since.elapsed());
        let by_client = whole.is_some_and(|whole| whole / 2 > self.waited);
        let billed = self.usage().and_then(Usage::from_json).unwrap_or_default();
        Sample {
            // No more than was seen, whatever is billed.
            tokens: billed.completion_tokens.min(self.generated_bytes),
            waited: if by_client {
                Duration::ZERO
            } else {
                self.waited
            },
        }
    }

    /// Whether what has come can be a whole answer: each of its choices has ended. 0.1 providers
    /// pass on what their backend sends, which may never say so: then text and a usage will do.
    pub(crate) fn ended(&self) -> bool {
        if !self.choices.give_reasons() {
            return self.generated_bytes > 0 && self.usage.is_some();
        }
        self.choices.have_ended()
    }

    /// Whether all of a streamed answer that the client reads has come.
    pub(crate) fn complete(&self, answers: u64, include_usage: bool) -> bool {
        let finished = self.choices.ended() >= answers.max(1);
        self.usage_chunk && self.ended() || finished && (self.usage.is_some() || !include_usage)
    }
}

/// Whether a chunk holds the usage and no part of an answer.
pub(crate) fn is_usage_chunk(chunk: &Value) -> bool {
    chunk.get("usage").is_some_and(Value::is_object)
        && chunk
            .get("choices")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn end(index: u64) -> Value {
        json!({"choices": [{"index": index, "delta": {"content": "ab"}, "finish_reason": "stop"}]})
    }

    #[test]
    fn an_answer_is_complete_when_each_choice_has_ended() {
        let mut tally = Tally::default();
        tally.count(&json!({"choices": [{"index": 0, "delta": {"content": "abc"}, "finish_reason": null}], "usage": null}));
        assert!(!tally.complete(1, false));
        tally.count(&end(0));
        tally.count(&end(0));
        assert!(tally.complete(1, false) && !tally.complete(2, false));
        tally.count(&end(1));
        assert!(tally.complete(2, false));
        assert_eq!(tally.generated_bytes(), 9);
        assert_eq!(tally.usage(), None);
    }

    #[test]
    fn a_usage_alone_completes_nothing() {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 1}});
        let mut tally = Tally::default();
        tally.count(&usage);
        assert!(!tally.complete(1, false) && !tally.ended());
        let text =
            json!({"choices": [{"index": 1, "delta": {"content": "a"}, "finish_reason": null}]});
        tally.count(&text);
        assert!(tally.complete(1, false), "the backend gives no reasons");
        tally.count(&end(0));
        assert!(!tally.complete(2, false), "it does, and one is missing");
        tally.count(&end(1));
        assert!(tally.complete(2, false) && tally.ended());
    }

    #[test]
    fn who_asked_for_the_usage_waits_for_it() {
        let mut tally = Tally::default();
        tally.count(&json!({"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": {"prompt_tokens": 1}}));
        assert!(
            !tally.complete(1, true),
            "usage with a part of the answer is not the end"
        );
        let mut tally = Tally::default();
        tally.count(&end(0));
        assert!(!tally.complete(1, true));
        tally.count(&json!({"choices": [], "usage": {"prompt_tokens": 1}}));
        assert!(tally.complete(1, true));
        assert!(tally.usage().is_some());
    }
}

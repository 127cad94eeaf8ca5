//! Which choices of an answer there are, and which of them have ended.

use std::collections::BTreeSet;

use serde_json::Value;

/// Choices whose end is tracked. More than any server makes of one request.
const MAX_CHOICES: usize = 1024;

/// The choices of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    begun: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

impl Choices {
    /// Counts a choice of a chunk or of a whole answer.
    pub(crate) fn count(&mut self, choice: &Value) {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        if self.begun.len() < MAX_CHOICES {
            self.begun.insert(index);
        }
        let has_ended = choice.get("finish_reason").is_some_and(|v| !v.is_null());
        if has_ended && self.finished.len() < MAX_CHOICES {
            self.finished.insert(index);
        }
    }

    /// How many have ended.
    pub(crate) fn ended(&self) -> u64 {
        u64::try_from(self.finished.len()).unwrap_or(u64::MAX)
    }

    /// Whether any has a reason for its end: some servers give none.
    pub(crate) fn give_reasons(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Whether each that began has ended.
    pub(crate) fn have_ended(&self) -> bool {
        self.give_reasons() && self.finished.len() >= self.begun.len()
    }
}

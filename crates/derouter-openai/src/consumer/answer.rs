//! An answer that has begun, until its bill is signed or refused.

use std::sync::Arc;
use std::time::Instant;

use derouter_sdk::wire::limits::PRIVATE_PAYLOAD_BYTES;
use derouter_sdk::{ConsumerCompletion, JobStream, Wei};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::epilogue::Expected;
use super::gateway::{Gateway, count};
use super::job::OpenJob;
use super::ledger::unix_now;
use super::offers::Offer;
use super::quality::Blame;
use super::request::Asked;
use super::tally::Tally;
use super::tokens::{Counted, Prompt};
use super::values::ValueReader;
use crate::protocol::{EPILOGUE_OBJECT, Epilogue, REASON_PROTOCOL_VIOLATION, REASON_SERVICE_ERROR};

/// An answer that has begun.
pub(crate) struct Answer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) job: OpenJob,
    pub(crate) reader: ValueReader<JobStream>,
    pub(crate) tally: Tally,
    pub(crate) kept: Kept,
    pub(crate) began: Instant,
}

/// The answer's values, when they are to be kept.
#[derive(Default)]
pub(crate) struct Kept {
    values: Vec<Value>,
    bytes: usize,
    truncated: bool,
}

impl Kept {
    fn keep(&mut self, value: &Value) {
        let bytes = value.to_string().len();
        // Half is left for the request and for JSON around the values.
        if self.truncated || self.bytes.saturating_add(bytes) > PRIVATE_PAYLOAD_BYTES / 2 {
            self.truncated = true;
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.values.push(value.clone());
    }
}

/// Whether a value is an epilogue: only one in a stream says so, and only they have a public
/// payload.
pub(crate) fn is_epilogue(value: &Value) -> bool {
    let says_so = value.get("object").and_then(Value::as_str) == Some(EPILOGUE_OBJECT);
    says_so || value.get("public_payload").is_some() && value.get("choices").is_none()
}

impl Answer {
    /// Counts a value of the answer.
    pub(crate) fn count(&mut self, value: &Value) {
        self.tally.count(value);
        if self.gateway.config.store_payloads {
            self.kept.keep(value);
        }
    }

    /// Whether all that the client reads has come.
    pub(crate) fn complete(&self) -> bool {
        let answers = self.asked.size.answers;
        self.tally.complete(answers, self.asked.include_usage)
    }

    /// The answer broke: nothing is signed.
    pub(crate) fn break_off(self, reason: &str) {
        count(&self.gateway.counters.broken);
        self.gateway.blame(&self.offer, Blame::Failed);
        tracing::warn!(job = %self.job.key, model = self.asked.model, reason, "answer broke off");
        self.job.fail(reason.to_owned(), REASON_SERVICE_ERROR);
    }

    /// Checks the bill; signs it if it is right. The client waits for none of it.
    pub(crate) fn settle(self, epilogue: Value) {
        match serde_json::from_value::<Epilogue>(epilogue) {
            Ok(epilogue) => self.settle_with(epilogue),
            Err(_) => self.refuse("the epilogue is not what the protocol says"),
        }
    }

    /// Waits for the bill in the background, then [`Answer::settle`].
    pub(crate) fn settle_later(self) {
        let tasks = self.gateway.tasks.clone();
        tasks.spawn(self.wait_for_epilogue());
    }

    async fn wait_for_epilogue(mut self) {
        let patience = self.gateway.config.deadlines.epilogue;
        let waited = timeout(patience, self.read_epilogue()).await;
        if let Ok(Some(epilogue)) = waited {
            return self.settle(epilogue);
        }
        // The stream is lost. What the provider recorded is as good.
        match self.remote_epilogue().await {
            Some(epilogue) => self.settle_with(epilogue),
            None => self.refuse("there was no epilogue"),
        }
    }

    async fn read_epilogue(&mut self) -> Option<Value> {
        loop {
            let value = self.reader.next::<Value>().await.ok()?;
            if is_epilogue(&value) {
                return Some(value);
            }
            self.count(&value);
        }
    }

    async fn remote_epilogue(&mut self) -> Option<Epilogue> {
        let remote = self.gateway.node.remote_job(&self.job.key).await.ok()?;
        Some(Epilogue {
            object: None,
            public_payload: remote.public_payload?,
            balance_delta: remote.balance_delta,
            completed_at_sync: remote.completed_at_sync?,
        })
    }

    fn settle_with(mut self, epilogue: Epilogue) {
        let tokenizer = self.gateway.tokenizer(&self.asked, &self.offer);
        let (Some(tokenizer), Some(said)) = (tokenizer, self.tally.take_said()) else {
            return self.settle_counted(epilogue, Counted::default());
        };
        let tasks = self.gateway.tasks.clone();
        tasks.spawn(async move {
            let prompt = Prompt::of(&self.asked.fields);
            let (counting, size) = (&self.gateway.counting, &self.asked.size);
            let counted = counting.most(&tokenizer, prompt, *said, size).await;
            self.settle_counted(epilogue, counted);
        });
    }

    fn settle_counted(self, epilogue: Epilogue, counted: Counted) {
        let Some(offer) = &self.offer.of_0_1 else {
            return self.refuse("the offer is of another version");
        };
        let expected = Expected {
            asked: &self.asked,
            offer,
            tally: &self.tally,
            counted,
            reserved: self.job.reserved(),
            now: unix_now(),
        };
        match expected.check(&epilogue) {
            Ok(cost) => self.sign(epilogue, cost),
            Err(violation) => self.refuse(&violation.to_string()),
        }
    }

    fn sign(self, epilogue: Epilogue, cost: Wei) {
        // One without content is no sign that the provider works.
        if self.tally.generated_bytes() > 0 {
            self.gateway.praise(&self.offer, self.tally.sample());
        }
        let usage = self
            .tally
            .usage()
            .and_then(crate::protocol::Usage::from_json);
        let usage = usage.unwrap_or_default();
        tracing::info!(
            job = %self.job.key,
            model = self.asked.model,
            prompt_tokens = usage.prompt_tokens,
            completion_tokens = usage.completion_tokens,
            cost_pol = cost.to_pol_text(),
            ms = self.began.elapsed().as_millis(),
            "answered"
        );
        let private_payload = self.private_payload();
        // An own offer's job costs nothing against the limits.
        let spent = self.job.reserved().map_or(Wei::ZERO, |_| cost);
        let completion = ConsumerCompletion {
            public_payload: epilogue.public_payload,
            private_payload,
            balance_delta: epilogue.balance_delta,
            completed_at_sync: epilogue.completed_at_sync,
        };
        self.job.complete(completion, spent);
    }

    fn refuse(self, violation: &str) {
        count(&self.gateway.counters.violations);
        self.gateway.blame(&self.offer, Blame::Failed);
        tracing::warn!(job = %self.job.key, model = self.asked.model, violation, "bill not signed");
        self.job
            .fail(violation.to_owned(), REASON_PROTOCOL_VIOLATION);
    }

    /// What this side keeps of prompt and answer, if it is told to.
    fn private_payload(&self) -> Option<String> {
        if !self.gateway.config.store_payloads {
            return None;
        }
        let payload = json!({
            "request": self.asked.fields,
            "response": self.kept.values,
            "truncated": self.kept.truncated,
        });
        Some(payload.to_string()).filter(|text| text.len() <= PRIVATE_PAYLOAD_BYTES)
    }
}

//! Ends of answers: the bill is checked and signed, or the job is given up. The client waits for none of
//! it.

use derouter_sdk::{ConsumerCompletion, Wei};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Answer;
use super::bill::Expected;
use crate::consumer::gateway::count;
use crate::consumer::ledger::unix_now;
use crate::consumer::quality::{Blame, Sample};
use crate::consumer::tokens::{Counted, Prompt};
use crate::protocol::v0_2::Epilogue;
use crate::protocol::v0_2::frames::Frame;
use crate::protocol::{REASON_PROTOCOL_VIOLATION, REASON_SERVICE_ERROR};
use crate::transcript::Transcript;

/// What a provider may have sent before it heard that no more is wanted: as much as is under way at once.
const MAX_LATE_BYTES: usize = 256 * 1024;

impl Answer {
    /// The answer broke: nothing is signed.
    pub(super) fn break_off(self, reason: &str) {
        count(&self.gateway.counters.broken);
        self.gateway.blame(&self.offer, Blame::Failed);
        tracing::warn!(job = %self.job.key, model = self.asked.model, reason, "answer broke off");
        self.job.fail(reason.to_owned(), REASON_SERVICE_ERROR);
    }

    /// The client went away in the middle: the provider is told to stop, and is paid for what it sent.
    pub(super) fn client_left(self) {
        if self.has_ended() || self.begun.whole {
            return self.settle_later(false);
        }
        count(&self.gateway.counters.abandoned);
        self.settle_later(true);
    }

    /// Another provider was quicker: this one is told to stop, and is paid for what it had sent.
    pub(crate) fn lost(mut self) {
        self.begun.is_lost(&self.asked);
        let whole = self.has_ended() || self.begun.whole;
        self.settle_later(!whole);
    }

    /// Waits for the bill in the background, then [`Answer::settle`].
    pub(super) fn settle_later(self, cancelled: bool) {
        let tasks = self.gateway.tasks.clone();
        tasks.spawn(self.wait_for_bill(cancelled));
    }

    async fn wait_for_bill(mut self, cancelled: bool) {
        if let Some(epilogue) = self.begun.epilogue.take() {
            return self.settle(epilogue, cancelled);
        }
        let patience = self.gateway.config.deadlines.epilogue;
        let waited = timeout(patience, self.read_bill(cancelled)).await;
        let epilogue = match waited {
            Ok(Some(epilogue)) => Some(epilogue),
            // The stream is lost. What the provider recorded is as good.
            _ => self.recorded_bill().await,
        };
        match epilogue {
            Some(epilogue) => self.settle(epilogue, cancelled),
            None if cancelled => self
                .job
                .fail("the client went away".into(), REASON_SERVICE_ERROR),
            None => self.refuse("there was no epilogue"),
        }
    }

    async fn read_bill(&mut self, cancelled: bool) -> Option<Epilogue> {
        if cancelled {
            // A pipe that is broken says as much.
            let _ = self.begun.frames.stream().shutdown().await;
        }
        let mut late = 0;
        loop {
            match self.begun.frames.next().await.ok()? {
                Frame::Epilogue(epilogue) => return Some(epilogue),
                // What was sent before the provider heard of it is to be paid too, within reason.
                Frame::Data(bytes) if cancelled && late < MAX_LATE_BYTES => {
                    late = late.saturating_add(bytes.len());
                    self.count(&bytes);
                }
                Frame::Data(_) if cancelled => {}
                Frame::Data(bytes) => {
                    let begun = &mut self.begun;
                    begun.passing.late(&bytes, &mut begun.meter);
                }
                Frame::Head(_) => {}
                Frame::Failed(_) => return None,
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        let begun = &mut self.begun;
        if !begun.head.is_event_stream() {
            return begun.meter.opaque(bytes.len());
        }
        let mut passed_on_to_nobody = bytes::BytesMut::new();
        let meter = &mut begun.meter;
        let counted = begun.passing.events(bytes, meter, &mut passed_on_to_nobody);
        if counted.is_err() {
            tracing::debug!(job = %self.job.key, "the end of an answer can't be read");
        }
    }

    async fn recorded_bill(&mut self) -> Option<Epilogue> {
        let remote = self.gateway.node.remote_job(&self.job.key).await.ok()?;
        Some(Epilogue {
            public_payload: remote.public_payload?,
            balance_delta: remote.balance_delta,
            completed_at: remote.completed_at_sync?,
        })
    }

    /// Checks the bill; signs it if it is right. Where a tokenizer counts first, the client does not wait for it.
    pub(super) fn settle(mut self, epilogue: Epilogue, cancelled: bool) {
        let tokenizer = self.gateway.tokenizer(&self.asked, &self.offer);
        let (Some(tokenizer), Some(said)) = (tokenizer, self.begun.meter.take_said()) else {
            return self.settle_counted(&epilogue, cancelled, Counted::default());
        };
        let tasks = self.gateway.tasks.clone();
        tasks.spawn(async move {
            let prompt = Prompt::of(&self.asked.fields);
            let (counting, size) = (&self.gateway.counting, &self.asked.size);
            let counted = counting.most(&tokenizer, prompt, *said, size).await;
            self.settle_counted(&epilogue, cancelled, counted);
        });
    }

    fn settle_counted(self, epilogue: &Epilogue, cancelled: bool, counted: Counted) {
        let expected = Expected {
            asked: &self.asked,
            terms: &self.offer.terms,
            meter: &self.begun.meter,
            events: self.is_event_stream(),
            cancelled,
            had_come: self.begun.had_come,
            counted,
            reserved: self.job.reserved(),
            now: unix_now(),
        };
        match expected.check(epilogue) {
            Ok((used, cost)) => {
                tracing::info!(
                    job = %self.job.key,
                    model = self.asked.model,
                    input_tokens = used.input,
                    output_tokens = used.output,
                    cancelled,
                    cost_pol = cost.to_pol_text(),
                    ms = self.began.elapsed().as_millis(),
                    "answered"
                );
                self.sign(epilogue, cost);
            }
            Err(violation) => {
                if violation.is_a_fault() {
                    self.gateway.blame(&self.offer, Blame::Failed);
                }
                self.leave_unsigned(&violation.to_string());
            }
        }
    }

    fn sign(self, epilogue: &Epilogue, cost: Wei) {
        // One without content is no sign that the provider works.
        if self.begun.meter.says_something() {
            let meter = &self.begun.meter;
            let seen = meter.reported().map(|used| used.output);
            let sample = Sample {
                tokens: seen.unwrap_or_else(|| meter.estimated_output()),
                waited: self.begun.waited,
            };
            self.gateway.praise(&self.offer, sample);
        }
        // An own offer's job costs nothing against the limits.
        let spent = self.job.reserved().map_or(Wei::ZERO, |_| cost);
        let completion = ConsumerCompletion {
            public_payload: epilogue.public_payload.clone(),
            private_payload: self.begun.transcript.as_ref().map(Transcript::payload),
            balance_delta: epilogue.balance_delta,
            completed_at_sync: epilogue.completed_at,
        };
        self.job.complete(completion, spent);
    }

    fn refuse(self, violation: &str) {
        self.gateway.blame(&self.offer, Blame::Failed);
        self.leave_unsigned(violation);
    }

    fn leave_unsigned(self, violation: &str) {
        count(&self.gateway.counters.violations);
        tracing::warn!(job = %self.job.key, model = self.asked.model, violation, "bill not signed");
        self.job
            .fail(violation.to_owned(), REASON_PROTOCOL_VIOLATION);
    }
}

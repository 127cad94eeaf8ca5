//! One answer: read from events as they come, written out, measured.

use std::time::{Duration, Instant};

use derouter_openai::consumer::view::PricesView;
use derouter_sdk::Wei;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::gateway::{Gateway, failed_in_stream, refused};
use crate::output;
use crate::text::{printable, short_amount};

/// Bytes of one event: more than any endpoint sends at once.
const EVENT_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of an answer that are kept.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// An answer, as far as it came.
#[derive(Debug)]
pub(super) struct Answer {
    writes: bool,
    began: Instant,
    first_token: Option<Duration>,
    took: Duration,
    text: String,
    reasoned: bool,
    headers: Headers,
    usage: Option<Usage>,
    finish: Option<String>,
    /// Pieces that came, for want of a usage.
    pieces: u64,
    broken: Option<Failure>,
}

/// What the endpoint said of the way.
#[derive(Clone, Debug, Default)]
struct Headers {
    provider: Option<String>,
    offer: Option<String>,
    job: Option<String>,
    path: Option<String>,
    attempts: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
}

/// What `--json` tells.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    model: String,
    text: String,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    first_token_seconds: Option<f64>,
    seconds: f64,
    tokens_per_second: Option<f64>,
    cost: Option<String>,
    currency: &'static str,
    provider: Option<String>,
    offer: Option<String>,
    job: Option<String>,
    path: Option<String>,
    attempts: Option<u64>,
    complete: bool,
}

impl Answer {
    pub(super) fn begin(writes: bool) -> Self {
        Self {
            writes,
            began: Instant::now(),
            first_token: None,
            took: Duration::ZERO,
            text: String::new(),
            reasoned: false,
            headers: Headers::default(),
            usage: None,
            finish: None,
            pieces: 0,
            broken: None,
        }
    }

    /// Sends the request, and reads the answer to its end.
    pub(super) async fn ask(
        &mut self,
        gateway: &Gateway,
        request: RequestBuilder,
    ) -> Result<(), Failure> {
        let answer = request.send().await;
        let mut answer = answer.map_err(|error| gateway.unreachable(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let body = answer.bytes().await.unwrap_or_default();
            return Err(refused(status, &body));
        }
        self.headers = Headers::read(answer.headers());
        let mut events = Events::default();
        loop {
            let chunk = answer.chunk().await;
            let chunk = chunk.map_err(|_| broke_off())?;
            self.took = self.began.elapsed();
            let Some(chunk) = chunk else {
                return self.finish.is_some().then_some(()).ok_or_else(broke_off);
            };
            for event in events.take(&chunk)? {
                if event == "[DONE]" {
                    return Ok(());
                }
                self.event(&event)?;
            }
        }
    }

    fn event(&mut self, event: &str) -> Result<(), Failure> {
        let Ok(event) = serde_json::from_str::<Value>(event) else {
            return Ok(());
        };
        if let Some(error) = event.get("error") {
            return Err(failed_in_stream(error));
        }
        if let Some(usage) = event.get("usage").and_then(Usage::read) {
            self.usage = Some(usage);
        }
        let Some(choice) = event.pointer("/choices/0") else {
            return Ok(());
        };
        if let Some(finish) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish = Some(printable(finish));
        }
        let delta = |key| choice.pointer(&format!("/delta/{key}"))?.as_str();
        for key in ["reasoning_content", "reasoning"] {
            if delta(key).is_some_and(|text| !text.is_empty()) {
                self.reasoned = true;
                self.token();
            }
        }
        if let Some(text) = delta("content").filter(|text| !text.is_empty()) {
            let text = readable(text);
            self.token();
            if self.text.len().saturating_add(text.len()) <= ANSWER_BYTES {
                self.text.push_str(&text);
            }
            if self.writes {
                output::text(&text);
            }
        }
        Ok(())
    }

    fn token(&mut self) {
        self.pieces = self.pieces.saturating_add(1);
        self.first_token.get_or_insert_with(|| self.began.elapsed());
    }

    pub(super) fn has_begun(&self) -> bool {
        self.first_token.is_some()
    }

    /// It broke off, and this is why.
    pub(super) fn broken(mut self, failure: Failure) -> Self {
        self.took = self.began.elapsed();
        self.broken = Some(failure);
        self
    }

    /// What the process ends with.
    pub(super) fn outcome(self) -> Result<(), Failure> {
        self.broken.map_or(Ok(()), Err)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn needs_line_end(&self) -> bool {
        !self.text.is_empty() && !self.text.ends_with('\n')
    }

    pub(super) fn path(&self) -> Option<&str> {
        self.headers.path.as_deref()
    }

    pub(super) fn provider(&self) -> Option<&str> {
        self.headers.provider.as_deref()
    }

    pub(super) fn offer(&self) -> Option<&str> {
        self.headers.offer.as_deref()
    }

    /// What was used costs so much at these prices; `None` when it is not known what was used.
    pub(super) fn cost(&self, prices: &PricesView) -> Option<Wei> {
        let usage = self.usage?;
        let wei = |text: &str| Wei::from_pol_text(text).ok();
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens.saturating_sub(cached);
        let cached_price = prices.cached_input.as_ref().unwrap_or(&prices.input);
        let terms = [
            wei(&prices.input)?.checked_per_million(fresh)?,
            wei(cached_price)?.checked_per_million(cached)?,
            wei(&prices.output)?.checked_per_million(usage.completion_tokens)?,
            wei(&prices.request)?,
        ];
        let mut sum = Wei::ZERO;
        for term in terms {
            sum = sum.checked_add(term)?;
        }
        Some(sum)
    }

    fn speed(&self) -> Option<f64> {
        let tokens = self
            .usage
            .map_or(self.pieces, |usage| usage.completion_tokens);
        let generating = self.took.checked_sub(self.first_token?)?.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let tokens = tokens as f64;
        (generating > 0.001 && tokens > 1.0).then(|| tokens / generating)
    }

    pub(super) fn told(&self, model: &str, cost: Option<Wei>) -> Told {
        let headers = self.headers.clone();
        Told {
            model: model.to_owned(),
            text: self.text.clone(),
            finish_reason: self.finish.clone(),
            usage: self.usage,
            first_token_seconds: self
                .first_token
                .map(|first| thousandths(first.as_secs_f64())),
            seconds: thousandths(self.took.as_secs_f64()),
            tokens_per_second: self.speed().map(thousandths),
            cost: cost.map(Wei::to_pol_text),
            currency: "POL",
            provider: headers.provider,
            offer: headers.offer,
            job: headers.job,
            path: headers.path,
            attempts: headers.attempts.and_then(|attempts| attempts.parse().ok()),
            complete: self.broken.is_none(),
        }
    }

    /// What it took.
    pub(super) fn footer(&self, cost: Option<Wei>) -> String {
        let mut parts = Vec::new();
        match self.usage {
            Some(usage) => parts.push(format!(
                "{} + {} tokens",
                usage.prompt_tokens, usage.completion_tokens
            )),
            None => parts.push("tokens not told".to_owned()),
        }
        if let Some(first) = self.first_token {
            parts.push(format!("first after {:.2} s", first.as_secs_f64()));
        }
        if let Some(speed) = self.speed() {
            parts.push(format!("{speed:.0} tokens/s"));
        }
        if let Some(cost) = cost {
            parts.push(format!("{} POL", short_amount(&cost.to_pol_text())));
        }
        if let Some(provider) = self.provider() {
            parts.push(format!("from {}", crate::offers::end_of(provider)));
        }
        if let Some(path) = self.path() {
            parts.push(path.to_owned());
        }
        if self.reasoned {
            parts.push("with reasoning that is not shown".to_owned());
        }
        match self.finish.as_deref() {
            Some("length") => parts.push("cut off by the longest answer allowed".to_owned()),
            None if self.broken.is_some() => parts.push("not complete".to_owned()),
            _ => {}
        }
        format!("[{}]", parts.join(", "))
    }
}

fn broke_off() -> Failure {
    Failure::of(
        crate::failure::Kind::RemoteFailure,
        "the answer broke off; nothing is owed for it unless the provider could bill what came",
    )
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Text of a model without what would move the cursor, but with its lines and tabs.
fn readable(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|part| match part.char_indices().next_back() {
            Some((at, end @ ('\n' | '\t'))) => {
                let mut line = printable(part.get(..at).unwrap_or_default());
                line.push(end);
                line
            }
            _ => printable(part),
        })
        .collect()
}

impl Headers {
    fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(printable(value))
        };
        Self {
            provider: text("x-derouter-provider"),
            offer: text("x-derouter-offer"),
            job: text("x-derouter-job"),
            path: text("x-derouter-path"),
            attempts: text("x-derouter-attempts"),
        }
    }
}

impl Usage {
    fn read(value: &Value) -> Option<Self> {
        let number = |path: &str| value.pointer(path).and_then(Value::as_u64);
        Some(Self {
            prompt_tokens: number("/prompt_tokens")?,
            completion_tokens: number("/completion_tokens")?,
            cached_tokens: number("/prompt_tokens_details/cached_tokens").unwrap_or(0),
        })
    }
}

/// Takes events out of what comes, wherever it is cut.
#[derive(Debug, Default)]
struct Events {
    held: Vec<u8>,
}

impl Events {
    /// The data of the events that are whole now.
    fn take(&mut self, chunk: &[u8]) -> Result<Vec<String>, Failure> {
        self.held.extend_from_slice(chunk);
        let mut events = Vec::new();
        let mut rest = self.held.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            rest = behind.get(1..).unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                events.push(data.trim_start().to_owned());
            }
        }
        let left = rest.to_vec();
        if left.len() > EVENT_BYTES {
            return Err(broke_off());
        }
        self.held = left;
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_they_are_cut() {
        let text = "data: {\"a\":\"\u{e4}\"}\r\n\r\n: a comment\n\ndata:[DONE]\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                all.extend(events.take(piece).unwrap());
            }
            assert_eq!(all, ["{\"a\":\"\u{e4}\"}", "[DONE]"]);
        }
        let mut events = Events::default();
        assert!(events.take(&vec![b'x'; EVENT_BYTES + 1]).is_err());
    }

    #[test]
    fn a_model_can_write_lines_and_not_move_the_cursor() {
        assert_eq!(readable("a\u{1b}[2J\n\tb\r\nc\u{9b}"), "a[2J\n\tb\nc");
    }

    #[test]
    fn the_cost_is_the_sum_of_its_terms_each_rounded_down() {
        let mut answer = Answer::begin(false);
        answer.usage = Some(Usage {
            prompt_tokens: 10,
            completion_tokens: 3,
            cached_tokens: 4,
        });
        let prices = PricesView {
            input: "0.0000000000001".into(),
            cached_input: None,
            output: "1".into(),
            request: "0.5".into(),
            ..PricesView::default()
        };
        // 100,000 wei for a million: six fresh tokens cost none, as do four cached ones.
        let expected = Wei::from_pol_text("0.500003").unwrap();
        assert_eq!(answer.cost(&prices), Some(expected));
        answer.usage = None;
        assert_eq!(answer.cost(&prices), None);
    }
}

//! Asks the own backend as a provider does, and measures.

use std::time::{Duration, Instant};

use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::OfferToAsk;
use crate::failure::{Failure, Kind};
use crate::gateway::with_json;
use crate::text::printable;

/// A model may have to be loaded first.
const PATIENCE: Duration = Duration::from_secs(300);

/// To connect: it is near.
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of one answer.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// What an answer was.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    pub(super) text: String,
    pub(super) first_token: Option<Duration>,
    pub(super) took: Duration,
    /// Pieces with text or reasoning in them.
    pub(super) pieces: u64,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    pub(super) finish: Option<String>,
    pub(super) model: Option<String>,
}

impl Answered {
    /// Tokens a second once they come, by the usage or else by the pieces.
    pub(super) fn speed(&self) -> Option<f64> {
        let tokens = self.completion_tokens.unwrap_or(self.pieces);
        let generating = self.took.checked_sub(self.first_token?)?.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let tokens = tokens as f64;
        (generating > 0.0 && tokens > 1.0).then(|| (tokens - 1.0) / generating)
    }

    fn take(&mut self, event: &Value, began: Instant) {
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            let number = |key| usage.get(key).and_then(Value::as_u64);
            self.prompt_tokens = number("prompt_tokens").or(self.prompt_tokens);
            self.completion_tokens = number("completion_tokens").or(self.completion_tokens);
        }
        let text = |pointer| event.pointer(pointer).and_then(Value::as_str);
        if let Some(model) = text("/model") {
            self.model = Some(printable(model));
        }
        if let Some(finish) = text("/choices/0/finish_reason") {
            self.finish = Some(printable(finish));
        }
        let said = [
            "/choices/0/delta/content",
            "/choices/0/message/content",
            "/choices/0/delta/reasoning_content",
            "/choices/0/delta/reasoning",
            "/choices/0/text",
        ];
        for said in said.into_iter().filter_map(text) {
            if said.is_empty() {
                continue;
            }
            self.pieces = self.pieces.saturating_add(1);
            self.first_token.get_or_insert_with(|| began.elapsed());
            if self.text.len() < ANSWER_BYTES {
                self.text.push_str(said);
            }
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) prompt: &'a str,
    pub(super) tokens: u32,
    pub(super) stream: bool,
}

/// A client of backends.
pub(super) fn client() -> Result<Client, Failure> {
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(PATIENCE)
        .build();
    client.map_err(|error| Failure::failed(format_args!("can't make an HTTP client: {error}")))
}

/// Asks for a chat.
pub(super) async fn ask(
    client: &Client,
    offer: &OfferToAsk,
    question: Question<'_>,
) -> Result<Answered, Failure> {
    let mut body = json!({
        "model": offer.config.backend_model(),
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.tokens,
        "stream": question.stream,
    });
    if question.stream
        && let Some(body) = body.as_object_mut()
    {
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    let request = client.post(format!("{}/chat/completions", offer.base_url));
    let mut request = with_json(request, &body);
    if let Some(key) = &offer.key {
        request = request.bearer_auth(key.expose());
    }
    let began = Instant::now();
    let answer = request.send().await.map_err(|error| failed(&error))?;
    let status = answer.status();
    let mut answered = Answered::default();
    if !status.is_success() {
        let body = read(answer, |_| ()).await.unwrap_or_default();
        return Err(refused(status, &body));
    }
    let mut held = Vec::new();
    let stream = question.stream;
    let body = read(answer, |chunk| {
        if stream {
            held.extend_from_slice(chunk);
            events(&mut held, |event| answered.take(event, began));
        }
    })
    .await?;
    if !stream {
        let value: Value =
            serde_json::from_slice(&body).map_err(|_| remote("its answer is no JSON"))?;
        answered.take(&value, began);
    }
    answered.took = began.elapsed();
    Ok(answered)
}

/// The events that are whole in what is held.
fn events(held: &mut Vec<u8>, mut take: impl FnMut(&Value)) {
    while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = held.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let Some(data) = line.trim().strip_prefix("data:") else {
            continue;
        };
        if let Ok(event) = serde_json::from_str(data.trim()) {
            take(&event);
        }
    }
}

async fn read(mut answer: Response, mut on_chunk: impl FnMut(&[u8])) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failed(&error))? {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES {
            return Err(remote("its answer is too large"));
        }
        on_chunk(&chunk);
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn remote(why: &str) -> Failure {
    Failure::of(
        Kind::RemoteFailure,
        format_args!("the backend failed: {why}"),
    )
}

fn failed(error: &reqwest::Error) -> Failure {
    let why = match error {
        error if error.is_connect() => "nobody answers at its address. Is it running?",
        error if error.is_timeout() => "it takes too long",
        _ => "its answer broke off",
    };
    remote(why)
}

fn refused(status: reqwest::StatusCode, body: &[u8]) -> Failure {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = told.pointer("/error/message").and_then(Value::as_str);
    let message = message.map_or_else(String::new, |text| {
        format!(
            ": {}",
            printable(text).chars().take(300).collect::<String>()
        )
    });
    remote(&format!("it answers {status}{message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stream_tells_is_put_together() {
        let mut answered = Answered::default();
        let mut held = Vec::new();
        let stream = concat!(
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
            "data: [DONE]\n\n",
        );
        let began = Instant::now();
        for chunk in stream.as_bytes().chunks(7) {
            held.extend_from_slice(chunk);
            events(&mut held, |event| answered.take(event, began));
        }
        assert_eq!((answered.text.as_str(), answered.pieces), ("ab", 2));
        assert_eq!(answered.prompt_tokens, Some(3));
        assert_eq!(answered.completion_tokens, Some(2));
        assert_eq!(answered.finish.as_deref(), Some("stop"));
        assert!(answered.first_token.is_some());
    }
}

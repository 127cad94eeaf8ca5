//! A built-in backend for `derouter demo` on a machine without a model: it says plainly that it is
//! only an echo.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The echo's model.
pub const ECHO_MODEL: &str = "derouter-echo";

/// Between two words, so that streaming can be seen.
const PACE: Duration = Duration::from_millis(25);

/// What is repeated of a prompt, in words.
const MAX_WORDS: usize = 200;

/// The largest request: what a job can carry, and some.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// A running echo; dropping it stops it.
#[derive(Debug)]
pub struct EchoBackend {
    address: SocketAddr,
    _stop: DropGuard,
}

impl EchoBackend {
    /// The base URL, ending in `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts the echo on a free port of 127.0.0.1.
///
/// # Errors
/// When no port can be bound.
pub async fn start_echo_backend() -> io::Result<EchoBackend> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|socket| {
        // Without it words are only later, so that its failure is of no importance.
        let _ = socket.set_nodelay(true);
    });
    let stop = CancellationToken::new();
    let app = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let server = async move { axum::serve(listener, app).await };
    tokio::spawn(stop.clone().run_until_cancelled_owned(server));
    Ok(EchoBackend {
        address,
        _stop: stop.drop_guard(),
    })
}

async fn models() -> Response {
    let model = json!({"id": ECHO_MODEL, "object": "model", "created": 0, "owned_by": "derouter"});
    respond(&json!({"object": "list", "data": [model]}))
}

async fn chat(body: Bytes) -> Response {
    answer(&body, Kind::Chat)
}

async fn completions(body: Bytes) -> Response {
    answer(&body, Kind::Completions)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Completions,
}

fn answer(body: &[u8], kind: Kind) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        let error =
            json!({"error": {"message": "the body is not JSON", "type": "invalid_request_error"}});
        return (StatusCode::BAD_REQUEST, respond(&error)).into_response();
    };
    let prompt = prompt(&request, kind);
    let words = words(&prompt);
    let usage = usage(&prompt, &words);
    let model = request.get("model").cloned().unwrap_or(json!(ECHO_MODEL));
    if request.get("stream") == Some(&json!(true)) {
        let asked = request.pointer("/stream_options/include_usage") == Some(&json!(true));
        return stream_words(&words, &model, asked.then_some(usage), kind);
    }
    let text = words.concat();
    let choice = match kind {
        Kind::Chat => json!({"message": {"role": "assistant", "content": text}}),
        Kind::Completions => json!({"text": text}),
    };
    let mut answer = part(&model, kind, false, choice, Some("stop"));
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("usage".to_owned(), usage);
    }
    respond(&answer)
}

fn stream_words(words: &[String], model: &Value, usage: Option<Value>, kind: Kind) -> Response {
    let delta = |text: &str| match kind {
        Kind::Chat => json!({"delta": {"role": "assistant", "content": text}}),
        Kind::Completions => json!({"text": text}),
    };
    let mut events: Vec<Value> = words
        .iter()
        .map(|word| part(model, kind, true, delta(word), None))
        .collect();
    events.push(part(model, kind, true, delta(""), Some("stop")));
    if let Some(usage) = usage {
        let mut last = part(model, kind, true, json!({}), None);
        if let Some(last) = last.as_object_mut() {
            last.insert("choices".to_owned(), json!([]));
            last.insert("usage".to_owned(), usage);
        }
        events.push(last);
    }
    let lines = events.into_iter().map(|event| format!("data: {event}\n\n"));
    let lines = lines.chain(["data: [DONE]\n\n".to_owned()]);
    let paced = stream::unfold((lines, false), |(mut lines, later)| async move {
        let line = lines.next()?;
        if later {
            tokio::time::sleep(PACE).await;
        }
        Some((Ok::<_, io::Error>(line), (lines, true)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    (headers, Body::from_stream(paced)).into_response()
}

fn part(model: &Value, kind: Kind, streamed: bool, choice: Value, finish: Option<&str>) -> Value {
    let object = match (kind, streamed) {
        (Kind::Chat, true) => "chat.completion.chunk",
        (Kind::Chat, false) => "chat.completion",
        (Kind::Completions, _) => "text_completion",
    };
    let mut choice = choice;
    if let Some(choice) = choice.as_object_mut() {
        choice.insert("index".to_owned(), json!(0));
        choice.insert("finish_reason".to_owned(), json!(finish));
    }
    json!({"id": "echo", "object": object, "created": 0, "model": model, "choices": [choice]})
}

fn respond(body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, body.to_string()).into_response()
}

/// The text that is asked: the last message, or the prompt.
fn prompt(request: &Value, kind: Kind) -> String {
    let text = match kind {
        Kind::Chat => request
            .get("messages")
            .and_then(|messages| messages.as_array()?.last()?.get("content")),
        Kind::Completions => request.get("prompt"),
    };
    match text {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts
                .iter()
                .filter_map(|part| part.get("text").unwrap_or(part).as_str());
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

fn words(prompt: &str) -> Vec<String> {
    const SAID_FIRST: &str = "This is only an echo, no model runs behind it. You said:";
    let asked = prompt.split_whitespace().take(MAX_WORDS);
    let words = SAID_FIRST.split_whitespace().chain(asked);
    words
        .enumerate()
        .map(|(index, word)| {
            if index == 0 {
                word.to_owned()
            } else {
                format!(" {word}")
            }
        })
        .collect()
}

/// A token for each word: nobody pays for an echo.
fn usage(prompt: &str, words: &[String]) -> Value {
    let prompt_tokens = prompt.split_whitespace().count();
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": words.len(),
        "total_tokens": prompt_tokens.saturating_add(words.len()),
    })
}

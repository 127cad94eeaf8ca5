//! Endpoints that are neither chats nor completions, each with one fixed answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::serve::{REQUEST_BYTES, error, respond};
use super::{Outcome, SeenRequest, Shared};

/// Bytes of an answer in sound: several frames of a job.
pub const SPEECH_BYTES: usize = 200_000;

/// Characters of an image in base64, of which a stream has two: far above an event of text.
pub const IMAGE_CHARS: usize = 3 * 1024 * 1024;

/// What is heard in any sound.
pub const HEARD: &str = "hello there";

/// Answers a request by its path. A body that is not JSON is noted as text.
pub(super) async fn other(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, REQUEST_BYTES).await else {
        return error(StatusCode::BAD_REQUEST, "the body can't be read");
    };
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let path = parts.uri.path().to_owned();
    let mut ticket = shared.begin(SeenRequest {
        path: path.clone(),
        headers: headers.collect(),
        body: body.clone(),
        outcome: Outcome::Running,
        ended_at: None,
    });
    ticket.answered();
    answer(&path, &body)
}

fn answer(path: &str, body: &Value) -> Response {
    let json = |value: Value| {
        let text = value.to_string();
        respond(StatusCode::OK, "application/json", Body::from(text))
    };
    match path {
        "/v1/embeddings" => json(json!({
            "object": "list",
            "model": body["model"],
            "data": embeddings(body),
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        })),
        "/v1/audio/transcriptions" => json(json!({
            "text": HEARD,
            "usage": {"type": "duration", "seconds": 2.5},
        })),
        "/v1/audio/speech" => {
            let sound = vec![7; SPEECH_BYTES];
            respond(StatusCode::OK, "audio/mpeg", Body::from(sound))
        }
        "/v1/responses" => responses(body),
        "/v1/images/generations" => images(),
        _ => error(StatusCode::NOT_FOUND, "there is no such path"),
    }
}

/// A vector for each text, in base64 for those who ask for it: two floats of 32 bits.
fn embeddings(body: &Value) -> Vec<Value> {
    let vector = match body["encoding_format"] == "base64" {
        true => json!("AACAPgAAAL8="),
        false => json!([0.25, -0.5]),
    };
    let texts = body["input"].as_array().map_or(1, Vec::len);
    let embedding =
        |index| json!({"object": "embedding", "index": index, "embedding": vector.clone()});
    (0..texts).map(embedding).collect()
}

/// A stream of an image, first unfinished.
fn images() -> Response {
    let image = "A".repeat(IMAGE_CHARS);
    events(&[
        json!({"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": image}),
        json!({"type": "image_generation.completed", "b64_json": image,
            "usage": {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}}),
    ])
}

/// A stream of the Responses API.
fn responses(body: &Value) -> Response {
    events(&[
        json!({"type": "response.created", "response": {"id": "r", "model": body["model"], "status": "in_progress"}}),
        json!({"type": "response.output_text.delta", "item_id": "i", "delta": "Hello"}),
        json!({"type": "response.output_text.delta", "item_id": "i", "delta": " there"}),
        json!({"type": "response.completed", "response": {"id": "r", "model": body["model"], "status": "completed",
            "usage": {"input_tokens": 6, "output_tokens": 2, "total_tokens": 8}}}),
    ])
}

/// A stream of events that name their type.
fn events(events: &[Value]) -> Response {
    let text: String = events
        .iter()
        .map(|event| {
            let kind = event["type"].as_str().unwrap_or_default();
            format!("event: {kind}\ndata: {event}\n\n")
        })
        .collect();
    let mut response = respond(StatusCode::OK, "text/event-stream", Body::from(text));
    let value = header::HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

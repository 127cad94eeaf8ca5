//! The handlers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{self, Kind};
use super::other::other;
use super::{Outcome, SeenRequest, Shared, Ticket, lock};
use crate::fault::{Behaviour, Fault, REQUEST_FIELD, Usage};

/// The largest request that is read: images come inside.
pub(super) const REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// Longer than every deadline that a test has.
const FOR_EVER: Duration = Duration::from_secs(3_600);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .route("/v1/embeddings", post(other))
        .route("/v1/responses", post(other))
        .route("/v1/images/generations", post(other))
        .route("/v1/audio/transcriptions", post(other))
        .route("/v1/audio/speech", post(other))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES))
        .with_state(shared)
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let names = shared.options.models.iter();
    let data: Vec<Value> = names
        .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "testkit"}))
        .collect();
    let list = json!({"object": "list", "data": data});
    respond(
        StatusCode::OK,
        "application/json",
        Body::from(list.to_string()),
    )
}

async fn chat(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    handle(shared, Kind::Chat, request).await
}

async fn text(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    handle(shared, Kind::Text, request).await
}

async fn handle(shared: Arc<Shared>, kind: Kind, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, REQUEST_BYTES).await else {
        return error(StatusCode::BAD_REQUEST, "the body can't be read");
    };
    let Ok(body) = serde_json::from_slice::<Value>(&bytes) else {
        return error(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let ticket = shared.begin(SeenRequest {
        path: parts.uri.path().to_owned(),
        headers: headers.collect(),
        body: body.clone(),
        outcome: Outcome::Running,
        ended_at: None,
    });
    let told = *lock(&shared.behaviour);
    let behaviour = told.for_request(&body);
    let mut body = body;
    if behaviour.fault == Some(Fault::WrongModel) {
        body["model"] = answer::WRONG_MODEL.into();
    }
    answer(kind, &body, behaviour, ticket).await
}

async fn answer(kind: Kind, body: &Value, behaviour: Behaviour, mut ticket: Ticket) -> Response {
    if behaviour.fault == Some(Fault::StallFirst) {
        tokio::time::sleep(FOR_EVER).await;
    }
    match scripted(kind, body) {
        None => {}
        Some(Scripted::Whole(response)) => {
            ticket.answered();
            return response;
        }
        Some(Scripted::Parts(parts)) => {
            return send("text/event-stream", parts, behaviour.pace, ticket);
        }
    }
    if let Some(response) = at_once(behaviour.fault) {
        ticket.answered();
        return response;
    }
    if body["stream"] == true {
        let parts = streamed_parts(kind, body, behaviour);
        let content_type = content_type(behaviour.fault, "text/event-stream");
        return send(content_type, parts, behaviour.pace, ticket);
    }
    let total = u32::try_from(behaviour.chunks).unwrap_or(u32::MAX);
    tokio::time::sleep(behaviour.pace.saturating_mul(total)).await;
    let parts = plain_parts(kind, body, behaviour);
    let content_type = content_type(behaviour.fault, "application/json");
    send(content_type, parts, Duration::ZERO, ticket)
}

/// What the request itself says that it wants: `events`, each a JSON value or, as a text, the very bytes
/// of the stream, in place of chunks; `fields` to be added to a plain answer; or an error with a `status`.
fn scripted(kind: Kind, body: &Value) -> Option<Scripted> {
    let wanted = &body[REQUEST_FIELD];
    let status = wanted["status"].as_u64();
    let status = status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    if let Some(status) = status {
        let response = error(status, &format!("the test says {status}"));
        return Some(Scripted::Whole(response));
    }
    if let Some(events) = wanted["events"].as_array() {
        let part = |wanted: &Value| match wanted {
            Value::String(bytes) => Part::Bytes(Bytes::from(bytes.clone())),
            json => event(json),
        };
        return Some(Scripted::Parts(events.iter().map(part).collect()));
    }
    let fields = wanted["fields"].as_object()?;
    let mut answer = answer::plain(kind, body, 1);
    let usage = answer::usage(kind, body, 1, None);
    answer.insert("usage".to_owned(), usage);
    answer.extend(fields.clone());
    let text = Value::Object(answer).to_string();
    let response = respond(StatusCode::OK, "application/json", Body::from(text));
    Some(Scripted::Whole(response))
}

/// An answer that the request itself says.
enum Scripted {
    Whole(Response),
    Parts(VecDeque<Part>),
}

/// The faults that need no answer to spoil.
fn at_once(fault: Option<Fault>) -> Option<Response> {
    let response = match fault? {
        Fault::ServerError => error(StatusCode::INTERNAL_SERVER_ERROR, "the test says 500"),
        Fault::Unauthorized => error(StatusCode::UNAUTHORIZED, "the test says 401"),
        Fault::BadRequest => error(StatusCode::BAD_REQUEST, "the test says 400"),
        Fault::TooManyRequests => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "the test says 429");
            let seconds = header::HeaderValue::from_static("7");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        Fault::Empty => respond(StatusCode::OK, "application/json", Body::empty()),
        Fault::Garbage => {
            let noise: Vec<u8> = (0..4_096_u32)
                .map(|index| (index.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
                .collect();
            respond(
                StatusCode::OK,
                "application/octet-stream",
                Body::from(noise),
            )
        }
        _ => return None,
    };
    Some(response)
}

fn content_type(fault: Option<Fault>, right: &'static str) -> &'static str {
    if fault == Some(Fault::WrongContentType) {
        "text/html"
    } else {
        right
    }
}

/// A step of a body.
enum Part {
    Bytes(Bytes),
    /// Nothing more comes, and the connection stays open.
    Stall,
    /// The connection breaks.
    Break,
}

fn event(data: &Value) -> Part {
    Part::Bytes(Bytes::from(format!("data: {data}\n\n")))
}

fn streamed_parts(kind: Kind, body: &Value, behaviour: Behaviour) -> VecDeque<Part> {
    let fault = behaviour.fault;
    let chunks = answer::streamed(kind, body, behaviour.chunks);
    let middle = match behaviour.at_first {
        true => 0,
        false => chunks.len() / 2,
    };
    let mut parts = VecDeque::with_capacity(chunks.len().saturating_add(3));
    for (index, chunk) in chunks.iter().enumerate() {
        if index == middle
            && let Some(ends) = spoil_stream(fault, kind, body, &mut parts)
        {
            parts.extend(ends);
            return parts;
        }
        parts.push_back(event(chunk));
    }
    let asked = body["stream_options"]["include_usage"] == true;
    if asked && behaviour.usage == Usage::WhenAsked {
        let usage = answer::usage(kind, body, behaviour.chunks, fault);
        parts.push_back(event(&answer::usage_chunk(kind, body, &usage)));
    }
    parts.push_back(Part::Bytes(Bytes::from_static(b"data: [DONE]\n\n")));
    parts
}

/// Spoils the middle of a stream. `Some` ends it with that part, or with nothing.
fn spoil_stream(
    fault: Option<Fault>,
    kind: Kind,
    body: &Value,
    parts: &mut VecDeque<Part>,
) -> Option<Option<Part>> {
    match fault? {
        Fault::StallMiddle => Some(Some(Part::Stall)),
        Fault::CloseEarly => Some(Some(Part::Break)),
        Fault::EndEarly => Some(None),
        Fault::MalformedSse => {
            let noise = Bytes::from_static(b"data: {\"choices\":[{\"delta\n\ndata: \xff\xfe\n\n");
            parts.push_back(Part::Bytes(noise));
            None
        }
        Fault::ErrorEvent => {
            let error = json!({"message": "the test's error event", "type": "server_error"});
            Some(Some(event(&json!({"error": error}))))
        }
        Fault::HugeChunk => {
            parts.push_back(event(&answer::huge_chunk(kind, body)));
            None
        }
        _ => None,
    }
}

fn plain_parts(kind: Kind, body: &Value, behaviour: Behaviour) -> VecDeque<Part> {
    let fault = behaviour.fault;
    let mut object = answer::plain(kind, body, behaviour.chunks);
    if fault == Some(Fault::HugeChunk) {
        let padding = "x".repeat(answer::HUGE_CHUNK_CHARS);
        object.insert("padding".to_owned(), padding.into());
    }
    if fault == Some(Fault::ErrorEvent) {
        object.clear();
        let error = json!({"message": "the test's error", "type": "server_error"});
        object.insert("error".to_owned(), error);
    } else if behaviour.usage == Usage::WhenAsked {
        let usage = answer::usage(kind, body, behaviour.chunks, fault);
        object.insert("usage".to_owned(), usage);
    }
    let whole = Bytes::from(Value::Object(object).to_string());
    let half = whole.slice(..whole.len() / 2);
    match fault {
        Some(Fault::StallMiddle) => VecDeque::from([Part::Bytes(half), Part::Stall]),
        Some(Fault::CloseEarly) => VecDeque::from([Part::Bytes(half), Part::Break]),
        Some(Fault::EndEarly | Fault::MalformedSse) => VecDeque::from([Part::Bytes(half)]),
        _ => VecDeque::from([Part::Bytes(whole)]),
    }
}

/// Sends the parts one by one, each as a write of its own, as a model's tokens come.
fn send(
    content_type: &'static str,
    parts: VecDeque<Part>,
    pace: Duration,
    ticket: Ticket,
) -> Response {
    let single = parts.len() == 1;
    let steps =
        futures::stream::unfold((parts, ticket), move |(mut parts, mut ticket)| async move {
            let Some(part) = parts.pop_front() else {
                ticket.answered();
                return None;
            };
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            } else if !single {
                tokio::task::yield_now().await;
            }
            let step = match part {
                Part::Bytes(bytes) => Ok(stamped(bytes)),
                Part::Stall => {
                    tokio::time::sleep(FOR_EVER).await;
                    return None;
                }
                Part::Break => {
                    ticket.answered();
                    Err(io::Error::other("the test breaks the connection"))
                }
            };
            Some((step, (parts, ticket)))
        });
    respond(StatusCode::OK, content_type, Body::from_stream(steps))
}

/// Notes in a word that asks for it when it is sent.
fn stamped(bytes: Bytes) -> Bytes {
    let stamp = answer::STAMP.as_bytes();
    let mut places = bytes.windows(stamp.len());
    let Some(place) = places.position(|part| part == stamp) else {
        return bytes;
    };
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let text = format!("@{:019}", since.as_nanos());
    let mut bytes = bytes.to_vec();
    bytes.splice(place..place + stamp.len(), text.bytes());
    Bytes::from(bytes)
}

pub(super) fn error(status: StatusCode, message: &str) -> Response {
    let error = json!({"message": message, "type": "test_error", "param": null, "code": null});
    let body = json!({"error": error}).to_string();
    respond(status, "application/json", Body::from(body))
}

pub(super) fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

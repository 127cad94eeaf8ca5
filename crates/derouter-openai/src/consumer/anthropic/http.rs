//! The endpoints of the Messages API, around those of OpenAI's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::reader::Reader;
use super::request::{Purpose, Translated, translate};
use super::stream::Event;
use super::{Context, answer, count, error};
use crate::consumer::api::{self, Caller};
use crate::consumer::error::ApiError;
use crate::consumer::gateway::Gateway;
use crate::protocol::Endpoint;

/// Where the Messages API is.
const PATH: &str = "/v1/messages";

/// Where Anthropic's clients put the key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// By what the log of a client names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The largest plain answer that is translated. Its text is in memory already; this only says so.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The largest error of our own.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Around all endpoints: takes the key from where Anthropic's clients put it, and tells errors of
/// the Messages API as its clients know them.
pub(crate) async fn adapt(mut request: Request, next: Next) -> Response {
    take_api_key(request.headers_mut());
    let path = request.uri().path();
    let is_ours = path
        .strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !is_ours {
        return next.run(request).await;
    }
    let request_id = random_id("req");
    let mut response = next.run(request).await;
    if !response.status().is_success() {
        response = error_response(response, &request_id).await;
    }
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A key in `x-api-key` is as good as a bearer token.
fn take_api_key(headers: &mut HeaderMap) {
    let Some(key) = headers.remove(API_KEY) else {
        return;
    };
    if headers.contains_key(AUTHORIZATION) {
        return;
    }
    let bearer = [b"Bearer ", key.as_bytes()].concat();
    if let Ok(mut bearer) = HeaderValue::from_bytes(&bearer) {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
}

fn random_id(prefix: &str) -> String {
    format!("{prefix}_{:032x}", rand::random::<u128>())
}

/// The answer to `POST /v1/messages`.
pub(crate) async fn messages(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, asked) = read(&gateway, request, Purpose::Answer).await?;
    let context = Context {
        message_id: random_id("msg"),
        model: asked.model,
        stop_sequences: asked.stop_sequences,
        show_thinking: asked.show_thinking,
    };
    let body = Body::from(Value::Object(asked.fields).to_string());
    let request = Request::from_parts(parts, body);
    let response = api::answer(&gateway, Endpoint::Chat, caller, request).await?;
    if asked.stream {
        let keep_alive = gateway.config.deadlines.keep_alive;
        return Ok(response.map(|body| translated_stream(body, context, keep_alive)));
    }
    translated_answer(response, &context).await
}

/// The answer to `POST /v1/messages/count_tokens`: an estimate, for which nothing is bought.
pub(crate) async fn count_tokens(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, asked) = read(&gateway, request, Purpose::Count).await?;
    let count = json!({"input_tokens": count::estimate(&asked.fields)});
    Ok(api::json_response(&count))
}

/// Reads and translates a request. What stays of it is good for a request with another body.
async fn read(
    gateway: &Gateway,
    request: Request,
    purpose: Purpose,
) -> Result<(Parts, Translated), ApiError> {
    let (mut parts, body) = request.into_parts();
    let body = api::read_json(gateway, &parts.headers, body).await?;
    parts.headers.remove(CONTENT_LENGTH);
    let fields: Map<String, Value> = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("The body is not a JSON object: {error}.")))?;
    drop(body);
    let asked = translate(fields, purpose).map_err(|refusal| ApiError::invalid(refusal.0))?;
    Ok((parts, asked))
}

async fn translated_answer(response: Response, context: &Context) -> Result<Response, ApiError> {
    let unreadable = || ApiError::provider_failed("The provider's answer can't be read.");
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ANSWER_BYTES)
        .await
        .map_err(|_| unreadable())?;
    let completion: Value = serde_json::from_slice(&body).map_err(|_| unreadable())?;
    let message = answer::message(&completion, context).ok_or_else(unreadable)?;
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(message.to_string())))
}

/// One of our own errors, as Anthropic's clients know it.
async fn error_response(response: Response, request_id: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let (status, kind) = error::kind(parts.status);
    parts.status = status;
    parts.headers.remove(CONTENT_LENGTH);
    let json = HeaderValue::from_static("application/json");
    parts.headers.insert(CONTENT_TYPE, json);
    let body = error::from_openai(kind, &body, request_id);
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// A streamed answer on its way through the translation.
struct Relay {
    /// What comes of OpenAI's endpoint.
    body: BodyDataStream,
    reader: Reader,
    /// When the client was last sent something.
    said_at: Instant,
    /// How long it may hear nothing. What comes may have nothing for it, such as thinking that it
    /// did not ask for.
    patience: Duration,
}

fn translated_stream(body: Body, context: Context, keep_alive: Duration) -> Body {
    let relay = Relay {
        body: body.into_data_stream(),
        reader: Reader::new(context),
        said_at: Instant::now(),
        // Signs of life come from within as well; one that is a little early must not be missed.
        patience: keep_alive / 2,
    };
    let events = futures::stream::unfold(relay, |mut relay| async {
        let bytes = relay.next_bytes().await?;
        Some((Ok::<_, Infallible>(bytes), relay))
    });
    Body::from_stream(events)
}

impl Relay {
    /// The next bytes for the client; `None` at the end. The body within is read to its end even
    /// when the client has all, because the bill comes with it.
    async fn next_bytes(&mut self) -> Option<Bytes> {
        while !self.reader.over() {
            let events = match self.body.next().await {
                Some(Ok(bytes)) => self.reader.push(&bytes),
                Some(Err(_)) | None => self.reader.finish(),
            };
            if !events.is_empty() {
                return Some(self.say(&events));
            }
            if !self.reader.ended() && self.said_at.elapsed() >= self.patience {
                let events = self.reader.ping();
                return Some(self.say(&events));
            }
        }
        None
    }

    fn say(&mut self, events: &[Event]) -> Bytes {
        self.said_at = Instant::now();
        let mut bytes = Vec::new();
        for event in events {
            event.write(&mut bytes);
        }
        Bytes::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_as_a_bearer_token() {
        let mut headers = HeaderMap::new();
        headers.insert(API_KEY, HeaderValue::from_static("secret"));
        take_api_key(&mut headers);
        assert_eq!(headers[AUTHORIZATION], "Bearer secret");
        assert!(!headers.contains_key(API_KEY));
        headers.insert(API_KEY, HeaderValue::from_static("other"));
        take_api_key(&mut headers);
        assert_eq!(headers[AUTHORIZATION], "Bearer secret", "it says more");
    }
}

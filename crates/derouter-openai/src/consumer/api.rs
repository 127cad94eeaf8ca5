//! The endpoints.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use derouter_sdk::Wei;
use futures::StreamExt;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::Answer;
use super::choosing::terms_of;
use super::dispatch::dispatch;
use super::error::ApiError;
use super::gateway::Gateway;
use super::quote::{Question, quote};
use super::request::{Asked, MAX_BODY_BYTES, too_large};
use super::router::{Path as Way, Preferences};
use super::security::{AllowedHosts, check_content_type};
use super::{models, relay};
use crate::protocol::{Endpoint, Usage};
use crate::terms::Metered;

/// Who answered, for those who want to know.
const PROVIDER: HeaderName = HeaderName::from_static("x-derouter-provider");
const OFFER: HeaderName = HeaderName::from_static("x-derouter-offer");
const JOB: HeaderName = HeaderName::from_static("x-derouter-job");

/// Which attempt led to the answer, and how its provider is reached.
const ATTEMPTS: HeaderName = HeaderName::from_static("x-derouter-attempts");
const PATH: HeaderName = HeaderName::from_static("x-derouter-path");

/// What the answer costs in POL, by its usage; or, before that is known, what was expected.
const COST: HeaderName = HeaderName::from_static("x-derouter-cost");
const ESTIMATED_COST: HeaderName = HeaderName::from_static("x-derouter-estimated-cost");

/// Tells proxies such as nginx to pass events on as they come.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How much of a body that is too large is read and thrown away, so that the client gets to read
/// the answer in place of a broken connection. No client means to send more.
const MAX_DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// All endpoints, behind the check of who calls.
pub(crate) fn routes(gateway: Arc<Gateway>, allowed: AllowedHosts) -> Router {
    Router::new()
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(get_model))
        .route("/derouter/quote", get(get_quote))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .fallback(async |request: Request| {
            ApiError::unknown_url(request.method(), request.uri().path())
        })
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::method_not_allowed(request.method())
        })
        .layer(middleware::from_fn_with_state(Arc::new(allowed), guard))
        .with_state(gateway)
}

async fn guard(State(allowed): State<Arc<AllowedHosts>>, request: Request, next: Next) -> Response {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    match allowed.check(authority, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn list_models(State(gateway): State<Arc<Gateway>>) -> Response {
    json_response(&models::list(&gateway))
}

async fn get_model(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = path else {
        let message = "The model's name is not UTF-8.";
        return Err(ApiError::model_not_found(message.into()));
    };
    match models::one(&gateway, &id) {
        Some(model) => Ok(json_response(&model)),
        None => Err(ApiError::model_not_found(format!(
            "The model {id} can't be bought now."
        ))),
    }
}

async fn get_quote(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, ApiError> {
    let of_headers = Preferences::of_headers(request.headers())?;
    let question = Question::read(request.uri().query(), of_headers)?;
    Ok(json_response(&quote(&gateway, question)?))
}

async fn chat(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    answer(&gateway, Endpoint::Chat, request).await
}

async fn completions(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&gateway, Endpoint::Completions, request).await
}

async fn answer(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, ApiError> {
    check_content_type(request.headers())?;
    let of_headers = Preferences::of_headers(request.headers())?;
    let patience = gateway.config.deadlines.request_body;
    let body = timeout(patience, read_body(request.into_body()))
        .await
        .map_err(|_| ApiError::body_too_slow())??;
    let asked = Asked::parse_with(endpoint, &body, of_headers)?;
    // Not held any longer: the request lives on in `asked`.
    drop(body);
    // On the heap: this future is large, and many handlers hold one.
    let (answer, first) = Box::pin(dispatch(gateway, asked)).await?;
    Ok(if answer.asked.stream {
        streamed(answer, first)
    } else {
        plain(answer, &first)
    })
}

async fn read_body(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut kept = Vec::new();
    let mut read = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::invalid("The request body broke off."))?;
        read = read.saturating_add(chunk.len());
        if read > MAX_DISCARDED_BYTES {
            break;
        }
        if read > MAX_BODY_BYTES {
            kept = Vec::new();
        } else {
            kept.extend_from_slice(&chunk);
        }
    }
    if read > MAX_BODY_BYTES {
        return Err(too_large());
    }
    Ok(kept)
}

fn plain(answer: Answer, value: &Value) -> Response {
    let mut response = json_response(value);
    name_provider(&answer, response.headers_mut());
    if let Some(cost) = cost_of(&answer, value) {
        insert(response.headers_mut(), COST, cost.to_pol_text());
    }
    answer.settle_later();
    response
}

fn streamed(answer: Answer, first: Value) -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    name_provider(&answer, headers);
    let expected = answer.job.route.estimated_cost;
    insert(headers, ESTIMATED_COST, expected.to_pol_text());
    *response.body_mut() = relay::body(answer, first);
    response
}

fn name_provider(answer: &Answer, headers: &mut HeaderMap) {
    let values = [
        (PROVIDER, answer.offer.provider.to_string()),
        (OFFER, answer.offer.offer_id.to_string()),
        (JOB, answer.job.key.job_id.to_string()),
        (ATTEMPTS, answer.job.route.attempt.to_string()),
    ];
    for (name, value) in values {
        insert(headers, name, value);
    }
    let path = answer.job.route.path;
    if path != Way::Unknown {
        insert(headers, PATH, path.name().to_owned());
    }
}

/// What a plain answer costs by its own usage. Only a bill that says the same is signed.
fn cost_of(answer: &Answer, value: &Value) -> Option<Wei> {
    if answer.job.route.path == Way::Own {
        return Some(Wei::ZERO);
    }
    let usage = Usage::from_json(value.get("usage")?)?;
    let used = Metered {
        input: usage.prompt_tokens,
        output: usage.completion_tokens,
        ..Metered::default()
    };
    terms_of(&answer.offer).prices.cost(&used)
}

/// A value that no header can hold is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

//! The endpoints.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use derouter_sdk::{JobKey, Wei};
use futures::StreamExt;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::Answer;
use super::anthropic;
use super::attempt::Begun;
use super::dispatch::dispatch;
use super::error::ApiError;
use super::gateway::Gateway;
use super::keys::KeyRecord;
use super::ledger::unix_now;
use super::offers::Offer;
use super::quote::{Question, quote};
use super::request::{Asked, MAX_BODY_BYTES, too_large};
use super::route::Route;
use super::router::{Path as Way, Preferences};
use super::security::{self, Allowed, check_content_type};
use super::view::{self, OffersQuery, Onlooker};
use super::{form, models, relay, v0_2, waiting};
use crate::protocol::{Endpoint, Usage};
use crate::terms::{Endpoint as Endpoint0_2, Metered};

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

/// On account of which key a request is; `None` while no key is needed.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Option<Arc<KeyRecord>>);

/// Who may call.
struct Guard {
    gateway: Arc<Gateway>,
    allowed: Allowed,
}

/// All endpoints, behind the check of who calls.
pub(crate) fn routes(gateway: Arc<Gateway>, allowed: Allowed) -> Router {
    let guarding = Guard {
        gateway: Arc::clone(&gateway),
        allowed,
    };
    Router::new()
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(get_model))
        .route("/derouter/quote", get(get_quote))
        .route("/derouter/offers", get(get_offers))
        .route("/derouter/models", get(get_models))
        .route("/derouter/spending", get(get_spending))
        .route("/derouter/active", get(get_active))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(other))
        .route("/v1/responses", post(other))
        .route("/v1/images/generations", post(other))
        .route("/v1/images/edits", post(other))
        .route("/v1/audio/speech", post(other))
        .route("/v1/audio/transcriptions", post(other))
        .route("/v1/audio/translations", post(other))
        .route("/v1/rerank", post(other))
        .route("/v1/moderations", post(other))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .fallback(async |request: Request| {
            ApiError::unknown_url(request.method(), request.uri().path())
        })
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::method_not_allowed(request.method())
        })
        .layer(middleware::from_fn_with_state(Arc::new(guarding), guard))
        .layer(middleware::from_fn(anthropic::adapt))
        .with_state(gateway)
}

async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let page = match guard.allowed.check(authority, request.headers()) {
        Ok(page) => page,
        Err(error) => return error.into_response(),
    };
    let Some(origin) = page else {
        return guard.serve(request, next).await;
    };
    // A browser asks without the page's key.
    let mut response = if security::is_preflight(request.method(), request.headers()) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        security::allow_preflight(request.headers(), response.headers_mut());
        response
    } else {
        guard.serve(request, next).await
    };
    security::allow_origin(origin, response.headers_mut());
    response
}

impl Guard {
    /// Serves who shows a key, where one is needed.
    async fn serve(&self, mut request: Request, next: Next) -> Response {
        let presented = security::presented_key(request.headers());
        if self.gateway.is_operator(presented) {
            request.extensions_mut().insert(Caller(None));
            request.extensions_mut().insert(Onlooker::Owner);
            return next.run(request).await;
        }
        match self.gateway.keys.identify(presented, unix_now()).await {
            Ok(key) => {
                // Without keys, whoever may spend may see what was spent.
                let onlooker = key.clone().map_or(Onlooker::Owner, Onlooker::Key);
                request.extensions_mut().insert(onlooker);
                request.extensions_mut().insert(Caller(key));
                next.run(request).await
            }
            Err(refusal) => security::refusal(&refusal).into_response(),
        }
    }
}

async fn list_models(
    State(gateway): State<Arc<Gateway>>,
    Extension(Caller(key)): Extension<Caller>,
) -> Response {
    json_response(&models::list(&gateway, key.as_deref()))
}

async fn get_model(
    State(gateway): State<Arc<Gateway>>,
    Extension(Caller(key)): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = path else {
        let message = "The model's name is not UTF-8.";
        return Err(ApiError::model_not_found(message.into()));
    };
    match models::one(&gateway, &id, key.as_deref()) {
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

async fn get_offers(
    State(gateway): State<Arc<Gateway>>,
    Extension(onlooker): Extension<Onlooker>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = OffersQuery::read(request.uri().query())?;
    shown(
        "derouter.offers",
        &view::offers(&gateway, &query, &onlooker),
    )
}

async fn get_models(
    State(gateway): State<Arc<Gateway>>,
    Extension(onlooker): Extension<Onlooker>,
) -> Result<Response, ApiError> {
    shown("derouter.models", &view::models(&gateway, &onlooker))
}

async fn get_spending(
    State(gateway): State<Arc<Gateway>>,
    Extension(onlooker): Extension<Onlooker>,
) -> Result<Response, ApiError> {
    shown("derouter.spending", &view::spending(&gateway, &onlooker))
}

async fn get_active(
    State(gateway): State<Arc<Gateway>>,
    Extension(onlooker): Extension<Onlooker>,
) -> Result<Response, ApiError> {
    shown("derouter.active", &view::active(&gateway, &onlooker))
}

/// A view with the name of what it is.
fn shown<T: serde::Serialize>(object: &str, view: &T) -> Result<Response, ApiError> {
    let written = serde_json::to_value(view);
    let mut value = written.map_err(|error| {
        tracing::error!(%error, "a view can't be written");
        ApiError::unavailable("view", "The gateway can't write this. Its log says more.")
    })?;
    if let Some(value) = value.as_object_mut() {
        value.insert("object".to_owned(), object.into());
    }
    Ok(json_response(&value))
}

async fn chat(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&gateway, Endpoint::Chat, caller, request).await
}

async fn completions(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&gateway, Endpoint::Completions, caller, request).await
}

/// Answers a request of OpenAI's form.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    Caller(key): Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let of_headers = Preferences::of_headers(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = read_json(gateway, &parts.headers, body).await?;
    let asked = Asked::parse_with(endpoint, &body, of_headers)?.with_headers(&parts.headers);
    // Not held any longer: the request lives on in `asked`.
    drop(body);
    begin(gateway, asked, key).await
}

async fn begin(
    gateway: &Arc<Gateway>,
    asked: Asked,
    key: Option<Arc<KeyRecord>>,
) -> Result<Response, ApiError> {
    let is_event_stream = waiting::is_event_stream(&asked);
    let asking = Arc::clone(gateway);
    // On the heap: this future is large, and many handlers hold one.
    let answering = Box::pin(async move {
        Ok(match dispatch(&asking, asked, key).await? {
            Begun::Values(answer, first) if answer.asked.stream => streamed(*answer, first),
            Begun::Values(answer, first) => plain(*answer, &first),
            Begun::Http(answer) => http(*answer),
        })
    });
    match is_event_stream {
        true => waiting::respond(answering, &gateway.config.deadlines).await,
        false => answering.await,
    }
}

/// Answers a request to an endpoint that only offers of `openai:0.2` have.
async fn other(
    State(gateway): State<Arc<Gateway>>,
    Extension(Caller(key)): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let endpoint = path.strip_prefix("/v1/").and_then(Endpoint0_2::of_path);
    let Some(endpoint) = endpoint else {
        return Err(ApiError::unknown_url(request.method(), path));
    };
    let (parts, body) = request.into_parts();
    let asked = match form::is_form(&parts.headers) {
        true => {
            let body = read_in_time(&gateway, body).await?;
            form::read(endpoint, &parts.headers, body).await?
        }
        false => {
            let body = read_json(&gateway, &parts.headers, body).await?;
            Asked::parse_other(endpoint, &body, Preferences::of_headers(&parts.headers)?)?
        }
    };
    begin(&gateway, asked.with_headers(&parts.headers), key).await
}

fn http(answer: v0_2::Answer) -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    name_job(&answer.offer, &answer.job.key, &answer.job.route, headers);
    match answer.cost() {
        Some(cost) => insert(headers, COST, cost.to_pol_text()),
        None => {
            let expected = answer.job.route.estimated_cost;
            insert(headers, ESTIMATED_COST, expected.to_pol_text());
        }
    }
    answer.describe(headers);
    if answer.is_event_stream() {
        pass_at_once(headers);
    }
    *response.body_mut() = v0_2::body(answer);
    response
}

/// Reads a body that is said to be JSON.
pub(crate) async fn read_json(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, ApiError> {
    check_content_type(headers)?;
    read_in_time(gateway, body).await
}

async fn read_in_time(gateway: &Gateway, body: Body) -> Result<Vec<u8>, ApiError> {
    let patience = gateway.config.deadlines.request_body;
    timeout(patience, read_body(body))
        .await
        .map_err(|_| ApiError::body_too_slow())?
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
    let mut response = event_stream();
    let headers = response.headers_mut();
    name_provider(&answer, headers);
    let expected = answer.job.route.estimated_cost;
    insert(headers, ESTIMATED_COST, expected.to_pol_text());
    *response.body_mut() = relay::body(answer, first);
    response
}

/// The head of a stream of events.
pub(super) fn event_stream() -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    pass_at_once(headers);
    response
}

/// Events are kept back nowhere.
fn pass_at_once(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

fn name_provider(answer: &Answer, headers: &mut HeaderMap) {
    name_job(&answer.offer, &answer.job.key, &answer.job.route, headers);
}

fn name_job(offer: &Offer, job: &JobKey, route: &Route, headers: &mut HeaderMap) {
    let values = [
        (PROVIDER, offer.provider.to_string()),
        (OFFER, offer.offer_id.to_string()),
        (JOB, job.job_id.to_string()),
        (ATTEMPTS, route.attempt.to_string()),
    ];
    for (name, value) in values {
        insert(headers, name, value);
    }
    let path = route.path;
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
    answer.offer.terms.prices.cost(&used)
}

/// A value that no header can hold is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A response with a JSON body.
pub(crate) fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

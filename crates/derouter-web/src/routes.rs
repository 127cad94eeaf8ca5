//! All routes, behind the guard.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Extension, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router, middleware};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue, SET_COOKIE};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::guard::{guard, shows_secret};
use crate::sessions::{NoRandom, Session, same};
use crate::state::App;
use crate::{assets, events, metrics, pages};

/// How long a browser keeps the cookie, in seconds; the session may end before.
const COOKIE_SECONDS: u64 = 7 * 24 * 3600;

/// All of them.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/assets/{name}", get(assets::serve))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::serve))
        .route("/launch", post(launch))
        .route("/login", get(enter).post(enter_with_token))
        .route("/logout", post(leave))
        .route("/events", get(events::serve))
        .merge(pages::routes())
        .fallback(pages::not_found)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// The process serves.
async fn health() -> &'static str {
    "ok\n"
}

/// The node takes work: it is not on its way down, and its network answers.
async fn ready(State(app): State<App>) -> Response {
    let unready = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if app.board.is_draining() {
        return unready("draining\n");
    }
    match app.node.network().await {
        Ok(report) if !report.listen.is_empty() => "ready\n".into_response(),
        Ok(_) => unready("the node does not listen for peers yet\n"),
        Err(_) => unready("the node does not answer\n"),
    }
}

/// `derouter open` asks for a token that opens a session once.
async fn launch(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if !shows_secret(&app, from.ip(), &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let token = app.sessions().launch(Instant::now());
    match token {
        Ok(token) => Json(json!({"path": format!("/login?token={token}")})).into_response(),
        Err(error) => unable(&error),
    }
}

fn unable(error: &NoRandom) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
}

/// `GET /login`: with a launch token it opens a session, without it says how to get one.
async fn enter(State(app): State<App>, Query(given): Query<Token>) -> Response {
    if given.token.is_empty() {
        return pages::login(&app, None).into_response();
    }
    let now = Instant::now();
    if !app.sessions().redeem(&given.token, now) {
        let why = "This link was used already, or is too old. Run `derouter open` again.";
        let page = pages::login(&app, Some(why));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    open(&app)
}

/// `POST /login`: the token for other machines, typed by hand.
async fn enter_with_token(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Form(given): Form<Token>,
) -> Response {
    let (now, from) = (Instant::now(), from.ip());
    if !app.sessions().may_try(from, now) {
        let why = "Too many wrong tokens: wait a minute.";
        let page = pages::login(&app, Some(why));
        return (StatusCode::TOO_MANY_REQUESTS, page).into_response();
    }
    let token = app.token.as_deref();
    if !token.is_some_and(|token| same(token, given.token.trim())) {
        app.sessions().tried(from, now);
        let page = pages::login(&app, Some("This is not the token."));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    open(&app)
}

fn open(app: &App) -> Response {
    let opened = app.sessions().open(Instant::now());
    let id = match opened {
        Ok(id) => id,
        Err(error) => return unable(&error),
    };
    let name = &app.cookie;
    let cookie =
        format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_SECONDS}");
    let mut response = Redirect::to("/").into_response();
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// `POST /logout`.
async fn leave(State(app): State<App>, Extension(session): Extension<Session>) -> Response {
    app.sessions().close(session.number);
    let mut response = Redirect::to("/login").into_response();
    let cookie = format!(
        "{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",
        app.cookie
    );
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

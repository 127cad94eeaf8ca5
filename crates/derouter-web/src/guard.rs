//! Who is served: only under its own names, only people with a session, changes only from its own
//! pages. Everything else is refused before a page sees it.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use futures::StreamExt;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use hyper::{Method, StatusCode};
use tokio::time::{Instant, timeout};

use crate::hosts::Hosts;
use crate::metrics::Refusal;
use crate::sessions::{Session, same};
use crate::state::App;

/// Bytes of a form, and of a chat.
const FORM_BYTES: usize = 64 * 1024;
pub(crate) const CHAT_BYTES: usize = 1024 * 1024;

/// How long a body may take to come.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);

/// Bytes of a request's path and query.
const MOST_URI: usize = 4096;

/// Where pages put the token against forged requests: in a header or a field of the form.
const CSRF_HEADER: &str = "x-csrf-token";
const CSRF_FIELD: &str = "csrf";

/// Scripts and styles come from files of the dashboard alone; nothing is loaded from elsewhere, put
/// into a frame, or sent anywhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Why a request is not served.
#[derive(Debug)]
enum No {
    Host,
    Uri,
    OtherSite,
    Session { page: bool },
    Forged,
    TooLarge,
    TooSlow,
    Broken,
}

impl No {
    fn refusal(&self) -> Refusal {
        match self {
            No::Host => Refusal::Host,
            No::OtherSite | No::Forged => Refusal::Forged,
            No::Session { .. } => Refusal::Session,
            No::Uri | No::TooLarge | No::Broken => Refusal::Body,
            No::TooSlow => Refusal::Slow,
        }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            No::Session { page: true } => return Redirect::to("/login").into_response(),
            No::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "This name is not one of the dashboard. Use the address that `derouter open` shows, or \
                 put the name into `web.allowed_hosts`.\n",
            ),
            No::Uri => (StatusCode::URI_TOO_LONG, "The address is too long.\n"),
            No::OtherSite => (
                StatusCode::FORBIDDEN,
                "Pages of other sites are not answered.\n",
            ),
            No::Session { page: false } => (
                StatusCode::UNAUTHORIZED,
                "There is no session: `derouter open` opens one.\n",
            ),
            No::Forged => (
                StatusCode::FORBIDDEN,
                "Changes are taken from the dashboard's own pages only. Load the page anew and try again.\n",
            ),
            No::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "That is too much.\n"),
            No::TooSlow => (StatusCode::REQUEST_TIMEOUT, "That took too long.\n"),
            No::Broken => (StatusCode::BAD_REQUEST, "The request broke off.\n"),
        };
        let mut response = (status, text).into_response();
        // What is left of the request is not read.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    }
}

/// What needs no session: files without secrets, health, and the ways in.
fn is_open(path: &str) -> bool {
    path.starts_with("/assets/")
        || matches!(
            path,
            "/healthz" | "/readyz" | "/metrics" | "/login" | "/launch"
        )
}

/// The layer around all routes.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match admit(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(no) => {
            app.refusals.count(no.refusal());
            no.into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in &HEADERS {
        headers.insert(name.clone(), HeaderValue::from_static(value));
    }
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn admit(app: &App, mut request: Request) -> Result<Request, No> {
    let authority = request.uri().authority().map(|it| it.as_str());
    if !app.hosts.allows(authority, request.headers()) {
        return Err(No::Host);
    }
    let uri = request.uri();
    if uri
        .path_and_query()
        .is_some_and(|it| it.as_str().len() > MOST_URI)
    {
        return Err(No::Uri);
    }
    let path = uri.path().to_owned();
    let headers = request.headers();
    if Hosts::is_other_site(headers) {
        return Err(No::OtherSite);
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let session = session_of(app, headers);
    if !is_open(&path) && session.is_none() {
        return Err(No::Session {
            page: reads && is_page(headers),
        });
    }
    if reads {
        request
            .extensions_mut()
            .extend(session.map(extension).unwrap_or_default());
        return Ok(request);
    }
    admit_change(app, &path, session, request).await
}

fn extension(session: Session) -> hyper::http::Extensions {
    let mut extensions = hyper::http::Extensions::new();
    extensions.insert(session);
    extensions
}

/// Lets a change pass, with its body read.
async fn admit_change(
    app: &App,
    path: &str,
    session: Option<Session>,
    request: Request,
) -> Result<Request, No> {
    // The command line shows a secret that no page knows, and pages always say where they are.
    let launches = path == "/launch" && !request.headers().contains_key(ORIGIN);
    if !launches && !app.hosts.is_own_page(request.headers()) {
        return Err(No::Forged);
    }
    let most = if path == "/chat" {
        CHAT_BYTES
    } else {
        FORM_BYTES
    };
    let (mut parts, body) = request.into_parts();
    let read = timeout(BODY_TIME, read(body, most)).await;
    let body = read.map_err(|_| No::TooSlow)??;
    if !is_open(path) {
        let session = session.ok_or(No::Session { page: false })?;
        if !carries(&parts.headers, &body, &session.csrf) {
            return Err(No::Forged);
        }
        parts.extensions.insert(session);
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn read(body: Body, most: usize) -> Result<Vec<u8>, No> {
    let mut chunks = body.into_data_stream();
    let mut kept = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| No::Broken)?;
        if kept.len().saturating_add(chunk.len()) > most {
            return Err(No::TooLarge);
        }
        kept.extend_from_slice(&chunk);
    }
    Ok(kept)
}

/// Whether a request carries the token of its session's pages.
fn carries(headers: &HeaderMap, body: &[u8], token: &str) -> bool {
    if let Some(given) = headers.get(CSRF_HEADER) {
        return given.to_str().is_ok_and(|given| same(given, token));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    // The token is hex, so that it looks the same in a form.
    is_form
        && std::str::from_utf8(body).is_ok_and(|text| {
            let mut fields = text.split('&').filter_map(|field| field.split_once('='));
            fields.any(|(name, value)| name == CSRF_FIELD && same(value, token))
        })
}

fn session_of(app: &App, headers: &HeaderMap) -> Option<Session> {
    let id = cookie(headers, &app.cookie)?;
    let session = app.sessions().find(id, Instant::now())?;
    Some(Session {
        versions: app.board.versions(),
        ..session
    })
}

/// The value of a cookie. Two of one name are none.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.filter_map(|line| line.to_str().ok());
    let mut values = pairs
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

/// Whether a browser wants to show a page, not a part of one.
fn is_page(headers: &HeaderMap) -> bool {
    let html = headers
        .get(hyper::header::ACCEPT)
        .and_then(|it| it.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    html && !headers.contains_key("hx-request")
}

/// Whether a request shows the secret of the launch file, or the token for other machines.
pub(crate) fn shows_secret(app: &App, from: IpAddr, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let Some(given) = given
        .and_then(|it| it.strip_prefix("Bearer "))
        .map(str::trim)
    else {
        return false;
    };
    if same(given, &app.launch_secret) {
        return true;
    }
    // The token was chosen by people: it is not to be found out by trying.
    let now = Instant::now();
    let may_try = app.sessions().may_try(from, now);
    let Some(token) = app.token.as_deref().filter(|_| may_try) else {
        return false;
    };
    let right = same(given, token);
    if !right {
        app.sessions().tried(from, now);
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_by_its_exact_name_and_only_once() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; derouter_4280=x"));
        assert_eq!(cookie(&headers, "derouter_4280"), Some("x"));
        assert_eq!(cookie(&headers, "derouter_42"), None);
        headers.append(COOKIE, HeaderValue::from_static("derouter_4280=y"));
        assert_eq!(cookie(&headers, "derouter_4280"), None);
    }

    #[test]
    fn the_token_comes_in_a_header_or_a_form() {
        let mut headers = HeaderMap::new();
        assert!(
            !carries(&headers, b"csrf=abc", "abc"),
            "not said to be a form"
        );
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
        assert!(carries(&headers, b"x=1&csrf=abc&y=2", "abc"));
        assert!(!carries(&headers, b"x=1&csrf=abd", "abc"));
        assert!(!carries(&headers, b"", "abc"));
        headers.insert(CSRF_HEADER, HeaderValue::from_static("wrong"));
        assert!(!carries(&headers, b"csrf=abc", "abc"), "the header counts");
    }
}

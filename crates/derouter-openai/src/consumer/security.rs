//! Who may talk to a gateway that spends money: programs on this machine, those with a key, and no
//! web page but those that the configuration names. A page could reach it with a forged name (DNS
//! rebinding: the `Host` gives it away), or with a plain cross-site request (its `Origin` does).
//! Pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use derouter_sdk::UnixSeconds;
use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};

use super::error::ApiError;
use super::keys::Refusal;
use super::ledger::utc;

/// What browsers say of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where clients of Anthropic's API put their key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A page asks whether it may reach into a network that is more private than its own.
const REQUEST_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What pages may read of an answer's head, besides what they always may.
const EXPOSED: &str =
    "retry-after, x-should-retry, x-derouter-provider, x-derouter-offer, x-derouter-job";

/// How long a browser remembers that a page may ask, in seconds.
const PREFLIGHT_SECONDS: &str = "600";

/// Bytes of a list of headers that a page asks for. Client libraries send some twenty.
const ASKED_HEADERS_BYTES: usize = 4096;

/// The port that a `Host` without one means.
const HTTP_PORT: u16 = 80;

/// The names under which the gateway may be called, and the web pages that may do so.
#[derive(Debug)]
pub(crate) struct Allowed {
    hosts: HashSet<String>,
    origins: HashSet<String>,
}

impl Allowed {
    /// This machine's own names, the address that the gateway listens on, and configured ones.
    pub(crate) fn new(listens_on: SocketAddr, configured: &[String], origins: &[String]) -> Self {
        let port = listens_on.port();
        let mut allowed = HashSet::new();
        let mut own = vec!["127.0.0.1".to_owned(), "localhost".into(), "[::1]".into()];
        if !listens_on.ip().is_unspecified() {
            own.push(match listens_on {
                SocketAddr::V4(address) => address.ip().to_string(),
                SocketAddr::V6(address) => format!("[{}]", address.ip()),
            });
        }
        for name in own {
            if port == HTTP_PORT {
                allowed.insert(name.clone());
            }
            allowed.insert(format!("{name}:{port}"));
        }
        for name in configured {
            let name = name.to_ascii_lowercase();
            // Behind a proxy the name comes without our port.
            allowed.insert(format!("{name}:{port}"));
            allowed.insert(name);
        }
        let origins = origins.iter().map(|origin| origin.to_ascii_lowercase());
        Self {
            hosts: allowed,
            origins: origins.collect(),
        }
    }

    fn contains(&self, host: &str) -> bool {
        self.hosts.contains(&host.to_ascii_lowercase())
    }

    /// Lets a request pass or not. `authority` is the one of a request line with a whole URL.
    /// Returns the origin of an allowed page, which must be repeated to its browser.
    pub(crate) fn check(
        &self,
        authority: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        self.check_host(authority, headers)?;
        if let Some(origin) = self.allowed_origin(headers) {
            return Ok(Some(origin.clone()));
        }
        self.check_origin(headers)?;
        Ok(None)
    }

    fn allowed_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let only = origins.next().filter(|_| origins.next().is_none())?;
        let origin = only.to_str().ok()?.to_ascii_lowercase();
        self.origins.contains(&origin).then_some(only)
    }

    fn check_host(&self, authority: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut hosts = headers.get_all(HOST).iter();
        let only = hosts.next().filter(|_| hosts.next().is_none());
        let host = only.and_then(|host| host.to_str().ok());
        let right = host.is_some_and(|host| self.contains(host))
            && authority.is_none_or(|authority| self.contains(authority));
        if right {
            return Ok(());
        }
        Err(ApiError::forbidden(
            "This Host is not allowed. Call the gateway by the address that it listens on, or name the host in its configuration (server.allowedHosts).",
        ))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let same_origin = |origin: &HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| self.contains(authority))
        };
        let own_site = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        let right = headers.get_all(ORIGIN).iter().all(same_origin)
            && headers.get_all(SEC_FETCH_SITE).iter().all(own_site);
        if right {
            return Ok(());
        }
        Err(ApiError::forbidden(
            "Web pages may not use this gateway: it spends money. Its configuration can name those that may (server.allowedOrigins).",
        ))
    }
}

/// Whether a browser asks if a page may send its request.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Tells a browser what an allowed page may send.
pub(crate) fn allow_preflight(asked: &HeaderMap, answer: &mut HeaderMap) {
    let methods = HeaderValue::from_static("GET, POST, OPTIONS");
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let age = HeaderValue::from_static(PREFLIGHT_SECONDS);
    answer.insert(ACCESS_CONTROL_MAX_AGE, age);
    // Client libraries send many headers of their own. None of them means anything here.
    let headers = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(headers) = headers.filter(|headers| headers.len() <= ASKED_HEADERS_BYTES) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    if asked.contains_key(REQUEST_PRIVATE) {
        answer.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
    }
}

/// Lets an allowed page read an answer.
pub(crate) fn allow_origin(origin: HeaderValue, answer: &mut HeaderMap) {
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = HeaderValue::from_static(EXPOSED);
    answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    answer.append(VARY, HeaderValue::from_static("origin"));
}

/// The key that a client shows.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| text(API_KEY).map(str::trim));
    key.filter(|key| !key.is_empty())
}

/// What a client is told that is not served for its key.
pub(crate) fn refusal(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Missing => ApiError::unauthorized(
            "missing_api_key",
            "This gateway asks for a key: send one of `derouter token create NAME` as `Authorization: Bearer KEY`.",
        ),
        Refusal::Unknown => ApiError::unauthorized(
            "invalid_api_key",
            "This key is not one of this gateway, or was revoked. `derouter token create NAME` makes one.",
        ),
        Refusal::Expired { name, at } => ApiError::unauthorized(
            "expired_api_key",
            format!(
                "The key {name} expired on {}. `derouter token set {name} --expires 30d` prolongs it.",
                expiry(*at)
            ),
        ),
    }
}

fn expiry(at: UnixSeconds) -> String {
    utc(at).unwrap_or_else(|| at.to_string())
}

/// A body must be said to be JSON, which no web page can do across sites without being asked.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    match essence {
        Some(essence) if essence.trim().eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(ApiError::not_json()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn passes(pairs: &[(&'static str, &'static str)]) -> bool {
        let listens_on = SocketAddr::from(([127, 0, 0, 1], 9002));
        let configured = ["Ai.Example.com".to_owned()];
        let origins = ["https://Chat.example.com".to_owned()];
        Allowed::new(listens_on, &configured, &origins)
            .check(None, &headers(pairs))
            .is_ok()
    }

    #[test]
    fn only_exact_names_pass() {
        for host in [
            "127.0.0.1:9002",
            "localhost:9002",
            "LOCALHOST:9002",
            "[::1]:9002",
            "ai.example.com",
            "ai.example.com:9002",
        ] {
            assert!(passes(&[("host", host)]), "{host}");
        }
        for host in [
            "localhost",
            "localhost:9003",
            "evil.example:9002",
            "localhost.evil.example:9002",
            "127.0.0.1:9002.evil.example",
            "",
        ] {
            assert!(!passes(&[("host", host)]), "{host}");
        }
        assert!(!passes(&[]));
        assert!(!passes(&[
            ("host", "localhost:9002"),
            ("host", "evil.example")
        ]));
    }

    #[test]
    fn a_whole_url_in_the_request_line_must_be_allowed_too() {
        let allowed = Allowed::new(SocketAddr::from(([127, 0, 0, 1], 80)), &[], &[]);
        let localhost = headers(&[("host", "localhost")]);
        assert!(allowed.check(Some("localhost"), &localhost).is_ok());
        assert!(allowed.check(Some("evil.example"), &localhost).is_err());
    }

    #[test]
    fn web_pages_of_other_sites_are_refused() {
        let host = ("host", "localhost:9002");
        assert!(passes(&[host, ("origin", "http://localhost:9002")]));
        assert!(passes(&[host, ("sec-fetch-site", "same-origin")]));
        for origin in [
            "http://localhost:3000",
            "https://evil.example",
            "null",
            "file://",
        ] {
            assert!(!passes(&[host, ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!passes(&[host, ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn pages_of_a_configured_origin_pass_and_their_neighbours_do_not() {
        let host = ("host", "localhost:9002");
        let cross_site = ("sec-fetch-site", "cross-site");
        let page = ("origin", "https://chat.example.com");
        assert!(passes(&[host, page, cross_site]));
        assert!(!passes(&[("host", "evil.example"), page]));
        assert!(!passes(&[host, page, ("origin", "https://evil.example")]));
        for origin in [
            "http://chat.example.com",
            "https://chat.example.com:8443",
            "https://a.chat.example.com",
            "https://chat.example.com.evil.example",
        ] {
            assert!(!passes(&[host, ("origin", origin), cross_site]), "{origin}");
        }
    }

    #[test]
    fn a_key_is_a_bearer_or_an_api_key() {
        let key = |pairs: &[_]| presented_key(&headers(pairs)).map(str::to_owned);
        assert_eq!(
            key(&[("authorization", "Bearer dr-1")]).as_deref(),
            Some("dr-1")
        );
        assert_eq!(
            key(&[("authorization", "bearer  dr-1 ")]).as_deref(),
            Some("dr-1")
        );
        assert_eq!(key(&[("x-api-key", "dr-2")]).as_deref(), Some("dr-2"));
        let basic = ("authorization", "Basic eDp5");
        assert_eq!(
            key(&[basic, ("x-api-key", "dr-2")]).as_deref(),
            Some("dr-2")
        );
        assert_eq!(key(&[basic]), None);
        assert_eq!(key(&[("authorization", "Bearer ")]), None);
        assert_eq!(key(&[]), None);
    }

    #[test]
    fn only_json_is_json() {
        let check = |value| check_content_type(&headers(&[("content-type", value)])).is_ok();
        assert!(check("application/json") && check("Application/JSON; charset=utf-8"));
        assert!(!check("text/plain") && !check("application/json-seq"));
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}

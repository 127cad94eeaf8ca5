//! Who may talk to a gateway that spends money: programs on this machine, and no web page. A page
//! could reach it with a forged name (DNS rebinding: the `Host` gives it away), or with a plain
//! cross-site request (its `Origin` does). Pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};

use super::error::ApiError;

/// What browsers say of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The port that a `Host` without one means.
const HTTP_PORT: u16 = 80;

/// The names under which the gateway may be called.
#[derive(Debug)]
pub(crate) struct AllowedHosts(HashSet<String>);

impl AllowedHosts {
    /// This machine's own names, the address that the gateway listens on, and configured ones.
    pub(crate) fn new(listens_on: SocketAddr, configured: &[String]) -> Self {
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
        Self(allowed)
    }

    fn contains(&self, host: &str) -> bool {
        self.0.contains(&host.to_ascii_lowercase())
    }

    /// Lets a request pass or not. `authority` is the one of a request line with a whole URL.
    pub(crate) fn check(
        &self,
        authority: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        self.check_host(authority, headers)?;
        self.check_origin(headers)
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
            "Web pages may not use this gateway: it spends money.",
        ))
    }
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
        AllowedHosts::new(listens_on, &configured)
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
        let allowed = AllowedHosts::new(SocketAddr::from(([127, 0, 0, 1], 80)), &[]);
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
    fn only_json_is_json() {
        let check = |value| check_content_type(&headers(&[("content-type", value)])).is_ok();
        assert!(check("application/json") && check("Application/JSON; charset=utf-8"));
        assert!(!check("text/plain") && !check("application/json-seq"));
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}

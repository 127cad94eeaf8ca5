//! Under which names the dashboard may be called. A web page that is called by a forged name (DNS
//! rebinding) shows it in the `Host`; one that sends a form across sites, in its `Origin`. Pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};

/// What browsers say of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The port that a `Host` without one means.
const HTTP_PORT: u16 = 80;

/// The names under which the dashboard may be called.
#[derive(Debug)]
pub(crate) struct Hosts(HashSet<String>);

impl Hosts {
    /// This machine's own names, the address that is listened on, and configured ones.
    pub(crate) fn new(listens_on: SocketAddr, configured: &[String]) -> Self {
        let port = listens_on.port();
        let mut own = vec!["127.0.0.1".to_owned(), "localhost".into(), "[::1]".into()];
        if !listens_on.ip().is_unspecified() {
            own.push(match listens_on {
                SocketAddr::V4(address) => address.ip().to_string(),
                SocketAddr::V6(address) => format!("[{}]", address.ip()),
            });
        }
        let mut names = HashSet::new();
        for name in own {
            names.insert(format!("{name}:{port}"));
            if port == HTTP_PORT {
                names.insert(name);
            }
        }
        for name in configured {
            // Behind a proxy the name comes without our port.
            let name = name.to_ascii_lowercase();
            names.insert(format!("{name}:{port}"));
            names.insert(name);
        }
        Self(names)
    }

    fn contains(&self, host: &str) -> bool {
        self.0.contains(&host.to_ascii_lowercase())
    }

    /// Whether exactly one `Host`, and the authority of a whole URL in the request line, are
    /// allowed.
    pub(crate) fn allows(&self, authority: Option<&str>, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let only = hosts.next().filter(|_| hosts.next().is_none());
        let host = only.and_then(|host| host.to_str().ok());
        host.is_some_and(|host| self.contains(host))
            && authority.is_none_or(|authority| self.contains(authority))
    }

    /// Whether a request that changes something comes from a page of the dashboard: browsers say
    /// so in one header at least, and none may say otherwise.
    pub(crate) fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let sites = headers.get_all(SEC_FETCH_SITE).iter().count();
        let own = |origin: &HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            // What forms of our pages send, as these forbid referrers; the other header tells
            // them from others.
            if origin == "null" {
                return sites == 1;
            }
            let authority = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| self.contains(authority))
        };
        let said = headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
        said && headers.get_all(ORIGIN).iter().all(own) && is_same_origin(headers)
    }

    /// Whether a page of another site asks, which no answer is for.
    pub(crate) fn is_other_site(headers: &HeaderMap) -> bool {
        let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
        let navigates = headers
            .get("sec-fetch-mode")
            .is_some_and(|mode| mode == "navigate");
        // A link that was clicked elsewhere may lead here; its cookie does not come with it.
        sites.any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) && !navigates
    }
}

fn is_same_origin(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    sites.all(|site| site.as_bytes() == b"same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    fn hosts() -> Hosts {
        Hosts::new(
            SocketAddr::from(([127, 0, 0, 1], 4280)),
            &["Box.Example".to_owned()],
        )
    }

    #[test]
    fn only_exact_names_pass() {
        for host in [
            "127.0.0.1:4280",
            "LOCALHOST:4280",
            "[::1]:4280",
            "box.example",
            "box.example:4280",
        ] {
            assert!(hosts().allows(None, &headers(&[("host", host)])), "{host}");
        }
        for host in [
            "localhost",
            "127.0.0.1:4281",
            "evil.example:4280",
            "127.0.0.1:4280.evil.example",
            "",
        ] {
            assert!(!hosts().allows(None, &headers(&[("host", host)])), "{host}");
        }
        let good = ("host", "localhost:4280");
        assert!(!hosts().allows(None, &headers(&[])));
        assert!(!hosts().allows(None, &headers(&[good, ("host", "evil.example")])));
        assert!(!hosts().allows(Some("evil.example"), &headers(&[good])));
    }

    #[test]
    fn changes_come_from_own_pages_only() {
        let own = |pairs: &[_]| hosts().is_own_page(&headers(pairs));
        assert!(own(&[("origin", "http://127.0.0.1:4280")]));
        assert!(own(&[("sec-fetch-site", "same-origin")]));
        assert!(own(&[
            ("origin", "null"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!own(&[
            ("origin", "null"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(!own(&[]), "a browser says where it is");
        assert!(!own(&[("origin", "null")]));
        for origin in ["http://127.0.0.1:3000", "https://evil.example"] {
            assert!(!own(&[("origin", origin)]), "{origin}");
            let site = ("sec-fetch-site", "same-origin");
            assert!(!own(&[("origin", origin), site]), "{origin}");
        }
        for site in ["cross-site", "same-site", "none"] {
            let origin = ("origin", "http://127.0.0.1:4280");
            assert!(!own(&[origin, ("sec-fetch-site", site)]), "{site}");
        }
    }
}

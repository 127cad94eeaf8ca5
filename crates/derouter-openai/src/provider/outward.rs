//! Where a provider may connect to, and what a request may have its backend connect to. Pure.
//!
//! A backend is named by the operator alone: nothing in a job chooses host, path or header. What is left is a
//! configuration that was copied, or a name that suddenly resolves elsewhere: addresses at which clouds hand
//! out credentials are refused, also when a name resolves to them. And a backend that loads images by URL
//! would fetch whatever its network reaches for a stranger, so such URLs are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::Value;

/// Where clouds serve credentials to the machines in them, besides link-local addresses.
const METADATA: [IpAddr; 3] = [
    // AWS over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Whether nobody's model is there, but perhaps somebody's credentials.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    let address = plain(address);
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || METADATA.contains(&address)
}

/// The IPv4 address that an IPv6 one stands for: mapped, or translated (NAT64).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

/// Whether a URL names such an address.
pub(super) fn names_forbidden(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_ok_and(is_forbidden)
}

/// Resolves names to what is not forbidden.
#[derive(Debug)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(allowed(found)?)
        })
    }
}

fn allowed(found: impl Iterator<Item = SocketAddr>) -> Result<Addrs, std::io::Error> {
    let found: Vec<SocketAddr> = found
        .filter(|address| !is_forbidden(address.ip()))
        .collect();
    if found.is_empty() {
        let words = "the name leads to no address, or only to link-local ones";
        return Err(std::io::Error::other(words));
    }
    Ok(Box::new(found.into_iter()))
}

/// Which links to images and other media a backend is handed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaLinks {
    /// None: media come inside the request.
    None,
    /// `http` and `https` links, but not to addresses and names of private networks. A name of the
    /// internet that leads to a private address is not seen.
    #[default]
    Public,
    /// All of them.
    Any,
}

impl MediaLinks {
    fn allows(self, link: &str) -> bool {
        match self {
            Self::Any => true,
            Self::None => false,
            Self::Public => Url::parse(link.trim()).is_ok_and(|url| is_public(&url)),
        }
    }
}

fn is_public(url: &Url) -> bool {
    if !matches!(url.scheme(), "http" | "https") {
        return false;
    }
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => is_global(plain(address)) && !is_forbidden(address),
        Err(_) => {
            const PRIVATE: [&str; 5] = ["local", "localhost", "internal", "lan", "home"];
            let last = host.rsplit_once('.').map(|(_, last)| last);
            last.is_some_and(|last| !PRIVATE.contains(&last) && last != "arpa")
        }
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && (64..128).contains(&second);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || shared
                || first == 0
                || first >= 240)
        }
        // Global unicast; what is translated or tunnelled to IPv4 may lead anywhere.
        IpAddr::V6(v6) => matches!(v6.segments(), [first, second, ..]
            if first & 0xe000 == 0x2000 && first != 0x2002 && (first, second) != (0x2001, 0)),
    }
}

/// Whether a request has its backend fetch what it should not.
pub(super) fn has_forbidden_link(messages: &Value, links: MediaLinks) -> bool {
    let messages = messages.as_array().into_iter().flatten();
    let contents = messages.filter_map(|message| message.get("content"));
    let mut parts = contents.filter(|content| !content.is_string());
    parts.any(|part| is_forbidden_link(part, links))
}

/// Parts of a message are a few levels deep: `{type, image_url: {url}}`.
pub(super) fn is_forbidden_link(part: &Value, links: MediaLinks) -> bool {
    match part {
        Value::Object(entries) => entries.iter().any(|(key, value)| match value {
            Value::String(text) => {
                let is_link = key == "url" || key.ends_with("_url");
                is_link && !is_data(text) && !links.allows(text)
            }
            value => is_forbidden_link(value, links),
        }),
        Value::Array(items) => items.iter().any(|item| is_forbidden_link(item, links)),
        _ => false,
    }
}

fn is_data(url: &str) -> bool {
    let scheme = url.trim_start().get(..5);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_that_hand_out_credentials_are_forbidden_however_they_are_written() {
        for url in [
            "http://169.254.169.254/v1",
            "http://169.254.0.1/v1",
            "http://2852039166/v1",
            "http://0xa9fea9fe/v1",
            "http://0251.0376.0251.0376/v1",
            "http://[fe80::1]/v1",
            "http://[febf::1]/v1",
            "http://[fd00:ec2::254]/v1",
            "http://[::ffff:169.254.169.254]/v1",
            "http://[64:ff9b::a9fe:a9fe]/v1",
            "http://100.100.100.200/v1",
        ] {
            assert!(names_forbidden(&Url::parse(url).unwrap()), "{url}");
        }
        for url in [
            "http://127.0.0.1:1/v1",
            "http://10.0.0.1/v1",
            "http://[::1]/v1",
            "http://[fd00::1]/v1",
            "http://169.253.1.1/v1",
            "https://api.example.com/v1",
        ] {
            assert!(!names_forbidden(&Url::parse(url).unwrap()), "{url}");
        }
    }

    #[test]
    fn a_name_leads_only_to_what_is_allowed() {
        let socket = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let mixed = [socket("169.254.169.254:0"), socket("10.0.0.1:0")];
        let left: Vec<SocketAddr> = allowed(mixed.into_iter()).unwrap().collect();
        assert_eq!(left, [socket("10.0.0.1:0")]);
        assert!(allowed([socket("[fe80::1]:0")].into_iter()).is_err());
    }

    #[test]
    fn links_into_private_networks_are_told_from_data_text_and_the_internet() {
        let forbidden = |part: &Value, links| {
            has_forbidden_link(&json!([{"role": "user", "content": [part]}]), links)
        };
        for url in [
            "http://10.0.0.1/x",
            "http://[::ffff:10.0.0.1]/x",
            "http://[fd00::1]/",
            "http://[2002:a00:1::]/",
            "http://100.64.0.1/",
            "http://0.0.0.0/",
            "http://127.1/",
            "http://localhost:8000/",
            "http://printer/",
            "http://nas.local./",
            "http://metadata.google.internal/",
            "file:///etc/passwd",
            "relative",
        ] {
            let part = json!({"type": "image_url", "image_url": {"url": url}});
            assert!(forbidden(&part, MediaLinks::Public), "{part}");
            assert!(!forbidden(&part, MediaLinks::Any), "{part}");
        }
        for part in [
            json!({"type": "image_url", "image_url": "https://example.com/a.png"}),
            json!({"type": "video_url", "video_url": {"url": " http://203.0.113.5/a"}}),
            json!({"type": "image_url", "image_url": {"url": "http://[2606:4700::1]/"}}),
        ] {
            assert!(!forbidden(&part, MediaLinks::Public), "{part}");
            assert!(forbidden(&part, MediaLinks::None), "{part}");
        }
        for part in [
            json!({"type": "text", "text": "see http://10.0.0.1/x"}),
            json!({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}}),
            json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        ] {
            assert!(!forbidden(&part, MediaLinks::None), "{part}");
        }
    }
}

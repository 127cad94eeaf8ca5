//! The line of JSON that tells other programs that all is up, and where.

use std::net::SocketAddr;

use derouter_node::Multiaddr;
use derouter_sdk::PeerId;
use serde::Serialize;

use crate::output;

/// What is up. Absent parts are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    event: &'static str,
    peer_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openai: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dashboard: Option<String>,
}

impl Ready {
    /// A node, or a module of one.
    pub(crate) fn new(peer: PeerId) -> Self {
        Self {
            event: "ready",
            peer_id: peer.to_string(),
            listen: Vec::new(),
            external: Vec::new(),
            rpc: None,
            openai: None,
            http: None,
            dashboard: None,
        }
    }

    /// The addresses that peers can dial, each with the peer id at its end.
    pub(crate) fn listen(mut self, addresses: &[Multiaddr]) -> Self {
        self.listen = self.whole(addresses);
        self
    }

    /// The configured addresses under which others reach it, each with the peer id at its end.
    pub(crate) fn external(mut self, addresses: &[Multiaddr]) -> Self {
        self.external = self.whole(addresses);
        self
    }

    fn whole(&self, addresses: &[Multiaddr]) -> Vec<String> {
        let ending = format!("/p2p/{}", self.peer_id);
        let whole = |address: &Multiaddr| {
            let address = address.to_string();
            if address.ends_with(&ending) {
                address
            } else {
                format!("{address}{ending}")
            }
        };
        addresses.iter().map(whole).collect()
    }

    /// Where modules connect.
    pub(crate) fn rpc(mut self, rpc: Option<SocketAddr>) -> Self {
        self.rpc = rpc;
        self
    }

    /// Where the OpenAI endpoint is.
    pub(crate) fn openai(mut self, address: Option<SocketAddr>) -> Self {
        self.openai = address.map(openai_url);
        self
    }

    /// Where the dashboard is.
    pub(crate) fn dashboard(mut self, url: Option<String>) -> Self {
        self.dashboard = url;
        self
    }

    /// Where metrics and health are.
    pub(crate) fn http(mut self, http: Option<SocketAddr>) -> Self {
        self.http = http;
        self
    }

    /// What to hand out of a relay: what was configured, else what others can dial as far as the
    /// addresses say themselves. In a private network those of the network do.
    fn relay_addresses(&self, private_network: bool) -> Vec<&String> {
        if !self.external.is_empty() {
            return self.external.iter().collect();
        }
        let fits = |address: &str| match private_network {
            true => is_of_a_network(address),
            false => is_global(address),
        };
        let listen = self.listen.iter();
        listen.filter(|address| fits(address)).collect()
    }

    /// Tells people, in the log, what to hand out.
    pub(crate) fn log_relay(&self, private_network: bool) {
        let addresses = self.relay_addresses(private_network);
        if addresses.is_empty() {
            tracing::warn!(
                listen = ?self.listen,
                "others can't dial any address of this machine, and a relay behind a NAT (of a \
                 cloud, of Docker) finds out its public one only from relays that --bootstrap \
                 names: give --external-address /ip4/PUBLIC_IP/tcp/PORT, or set `private_network` \
                 where all nodes are in this network"
            );
        }
        for address in self
            .external
            .iter()
            .filter(|address| !private_network && is_private(address))
        {
            tracing::warn!(
                address,
                "this external address is of a private network: nobody outside can dial it. Give the \
                 public one, or set `private_network` where all nodes are in that network"
            );
        }
        for address in &addresses {
            tracing::info!(
                address,
                "hand this out: nodes put it into their `bootstrap`"
            );
        }
        let http = self.http.map(tracing::field::display);
        tracing::info!(peer_id = self.peer_id, http, "the relay is up");
    }

    /// Tells the same to people, in the log.
    pub(crate) fn log(&self) {
        for address in self
            .listen
            .iter()
            .filter(|address| is_of_a_network(address))
        {
            tracing::info!(address, "others can dial");
        }
        tracing::info!(peer_id = self.peer_id, "the node is up");
    }

    /// Prints the line.
    pub(crate) fn print(&self) {
        output::document("derouter.ready/1", self);
    }
}

/// Whether other machines could dial the address: not one of this machine alone, nor an IPv6 one
/// that holds on a single link.
fn is_of_a_network(address: &str) -> bool {
    const ALONE: [&str; 3] = ["/ip4/127.", "/ip6/::1/", "/ip6/fe80:"];
    !ALONE.iter().any(|prefix| address.starts_with(prefix))
}

/// Whether any machine could dial the address.
fn is_global(address: &str) -> bool {
    let address: Result<Multiaddr, _> = address.parse();
    address.is_ok_and(|address| derouter_net::is_global(&address))
}

/// Whether it names an IP address that not any machine could dial.
fn is_private(address: &str) -> bool {
    let is_ip = address.starts_with("/ip4/") || address.starts_with("/ip6/");
    is_ip && !is_global(address)
}

/// The base URL of an OpenAI endpoint that listens there.
pub(crate) fn openai_url(address: SocketAddr) -> String {
    format!("http://{}/v1", reachable(address))
}

/// The address to connect to for one that listens everywhere.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            address.set_ip(Ipv6Addr::LOCALHOST.into());
        }
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_up_and_leaves_out_what_is_not() {
        let peer: PeerId = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
            .parse()
            .unwrap();
        let address = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let ready = Ready::new(peer)
            .listen(&[address])
            .rpc(Some("127.0.0.1:4269".parse().unwrap()));
        assert_eq!(
            serde_json::to_value(&ready).unwrap(),
            serde_json::json!({
                "event": "ready",
                "peer_id": peer.to_string(),
                "listen": [format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}")],
                "rpc": "127.0.0.1:4269",
            })
        );
    }

    #[test]
    fn a_relay_hands_out_what_is_configured_or_what_others_can_dial() {
        let peer: PeerId = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
            .parse()
            .unwrap();
        let parse = |texts: &[&str]| -> Vec<Multiaddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let docker = ["/ip4/127.0.0.1/tcp/4001", "/ip4/172.17.0.2/tcp/4001"];
        let ready = Ready::new(peer).listen(&parse(&docker));
        assert!(ready.relay_addresses(false).is_empty());
        let private = ready.relay_addresses(true);
        assert_eq!(private, [&format!("{}/p2p/{peer}", docker[1])]);
        let ready = ready.external(&parse(&["/dns4/relay.example.org/tcp/4001"]));
        assert!(ready.relay_addresses(false)[0].starts_with("/dns4/relay"));
        let own = parse(&["/ip4/10.0.0.1/tcp/1", "/ip4/1.1.1.1/tcp/1"]);
        let ready = Ready::new(peer).listen(&own);
        let handed = ready.relay_addresses(false);
        assert_eq!(handed, [&format!("/ip4/1.1.1.1/tcp/1/p2p/{peer}")]);
    }

    #[test]
    fn only_ip_addresses_tell_that_they_are_private() {
        let ip = ["/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"];
        assert!(ip.iter().all(|address| is_private(address)));
        for address in ["/ip4/1.1.1.1/tcp/1", "/dns4/relay.example.org/tcp/1"] {
            assert!(!is_private(address), "{address}");
        }
    }

    #[test]
    fn an_endpoint_on_all_interfaces_is_reached_on_this_machine() {
        let url = |text: &str| openai_url(text.parse().unwrap());
        assert_eq!(url("0.0.0.0:9002"), "http://127.0.0.1:9002/v1");
        assert_eq!(url("[::]:9002"), "http://[::1]:9002/v1");
        assert_eq!(url("127.0.0.1:80"), "http://127.0.0.1:80/v1");
    }
}

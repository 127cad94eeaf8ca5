//! The report as people read it. Pure.

use std::fmt::Write as _;

use derouter_sdk::UnixSeconds;
use derouter_sdk::wire::rpc::network::{
    AddressSource, ExternalAddress, NatKind, NetworkReport, PortMapping, PortMappingState,
    Reachability, RelayReport, ReservationState,
};

use crate::text::{age, bytes, counted, cut, grouped, round_trip, short_id, wrapped_to};

/// Addresses and nodes of one kind that are shown; a machine may have dozens.
const SHOWN: usize = 8;

/// How wide labels are.
const LABEL: usize = 14;

/// What is left of a line behind a label and a mark.
fn room(width: usize) -> usize {
    width.saturating_sub(LABEL + 3)
}

/// The whole report, in lines of at most `width` but for addresses, which are there to be copied.
pub(super) fn screen(report: &NetworkReport, now: UnixSeconds, width: usize) -> String {
    let room = room(width);
    let mut screen = Screen::default();
    screen.line("Node", &report.peer_id.to_string());
    screen.line("", &report.agent);
    screen.line("Reachable", reachable(report));
    screen.list("NAT", std::iter::once(nat(report)), "");
    screen.line("Port mapping", &port_mapping(&report.port_mapping));
    screen.line("UDP", udp(report.udp));
    screen.line(
        "IPv6",
        if report.ipv6 {
            "a public address"
        } else {
            "no public address"
        },
    );
    // Those through relays are told with the relays.
    let listen: Vec<String> = report
        .listen
        .iter()
        .filter(|one| !one.contains("/p2p-circuit"))
        .cloned()
        .collect();
    screen.list("Listens on", listen.into_iter(), "nowhere");
    let external = report
        .external
        .iter()
        .map(|address| external(address, now, room));
    screen.list("Addresses", external, "none from outside is known");
    let relays = report.relays.iter().map(|one| relay(one, now, room));
    screen.list("Relays", relays, relays_absent(report.reachability));
    let bootstrap = report.bootstrap.iter().map(|node| {
        let state = match (&node.error, node.connected) {
            (_, true) => "connected".to_owned(),
            (Some(error), false) => error.clone(),
            (None, false) => "not connected".to_owned(),
        };
        marked(Some(node.connected), &node.address, &state, room)
    });
    screen.list("Bootstrap", bootstrap, "none configured");
    screen.line("Peers", &peers(report));
    screen.line(
        "Traffic",
        &format!(
            "{} in, {} out",
            bytes(report.bytes_in),
            bytes(report.bytes_out)
        ),
    );
    screen.line(
        "Discovery",
        &format!("{} announced", counted(report.announcements, "provider")),
    );
    screen.line("Kademlia", &kademlia(report));
    screen.advice(report, width);
    screen.0
}

#[derive(Default)]
struct Screen(String);

impl Screen {
    fn line(&mut self, label: &str, value: &str) {
        let end = if self.0.is_empty() { "" } else { "\n" };
        let line = format!("{label:<LABEL$}{value}");
        let _ = write!(self.0, "{end}{}", line.trim_end());
    }

    fn list(&mut self, label: &str, items: impl ExactSizeIterator<Item = String>, none: &str) {
        let hidden = items.len().saturating_sub(SHOWN);
        if items.len() == 0 {
            return self.line(label, none);
        }
        for (index, item) in items.take(SHOWN).enumerate() {
            let mut lines = item.lines();
            self.line(
                if index == 0 { label } else { "" },
                lines.next().unwrap_or_default(),
            );
            lines.for_each(|rest| self.line("", rest));
        }
        if hidden > 0 {
            self.line("", &format!("and {hidden} more (--json shows them)"));
        }
    }

    fn advice(&mut self, report: &NetworkReport, width: usize) {
        if report.advice.is_empty() {
            return;
        }
        self.0.push_str("\n\nWhat to do");
        for (index, advice) in report.advice.iter().enumerate() {
            let text = wrapped_to(&advice.text, "     ", width);
            let number = format!("{:>3}. ", index + 1);
            let _ = write!(self.0, "\n{number}{}", text.trim_start());
        }
    }
}

fn reachable(report: &NetworkReport) -> &'static str {
    let tried = report.external.iter().any(|one| one.reachable.is_some());
    match report.reachability {
        Reachability::Unknown if tried => {
            "not known yet: peers have not tried all addresses (--wait 20 waits for that)"
        }
        Reachability::Unknown => "not known yet: no peer has tried (--wait 20 waits for that)",
        Reachability::Public => "yes: others can dial this node",
        Reachability::Private => "no: others reach this node through relays only",
    }
}

fn relays_absent(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Public => "none needed",
        _ => "none",
    }
}

fn nat(report: &NetworkReport) -> String {
    if report.nat_udp == report.nat_tcp {
        return nat_kind(report.nat_udp).to_owned();
    }
    format!(
        "UDP: {}\nTCP: {}",
        nat_kind(report.nat_udp),
        nat_kind(report.nat_tcp)
    )
}

fn nat_kind(kind: NatKind) -> &'static str {
    match kind {
        NatKind::Unknown => "not known yet",
        NatKind::None => "none",
        NatKind::EndpointIndependent => "the same port for all peers: direct paths can be punched",
        NatKind::EndpointDependent => "another port for each peer (symmetric): direct paths fail",
    }
}

fn port_mapping(mapping: &PortMapping) -> String {
    let by = mapping
        .protocol
        .as_ref()
        .map_or_else(String::new, |protocol| format!(" ({protocol})"));
    match mapping.state {
        PortMappingState::Off => "switched off".into(),
        PortMappingState::Searching => "asking the router".into(),
        PortMappingState::Unavailable => match &mapping.error {
            Some(error) => format!("none: {error}"),
            None => "none: the router offers none".into(),
        },
        PortMappingState::NotPublic => {
            format!("of no use{by}: the router is behind another NAT itself")
        }
        PortMappingState::Mapped => {
            let count = u32::try_from(mapping.addresses.len()).unwrap_or(u32::MAX);
            format!("yes{by}: {}", counted(count, "port"))
        }
    }
}

fn udp(udp: Option<bool>) -> &'static str {
    match udp {
        None => "not tried yet",
        Some(true) => "works",
        Some(false) => "blocked: no peer is reached over UDP",
    }
}

/// The mark that a list's item begins with.
fn mark(good: Option<bool>) -> &'static str {
    match good {
        Some(true) => "ok",
        Some(false) => "no",
        None => "? ",
    }
}

/// An item that may need a line of its own for its state.
fn marked(good: Option<bool>, address: &str, state: &str, room: usize) -> String {
    let mark = mark(good);
    if address.len() + 2 + state.chars().count() <= room {
        return format!("{mark} {address}  {state}");
    }
    // An address stays whole, as it is there to be copied.
    format!("{mark} {address}\n   {}", cut(state, room))
}

fn external(address: &ExternalAddress, now: UnixSeconds, room: usize) -> String {
    let source = match address.source {
        AddressSource::Configured => "configured",
        AddressSource::Mapped => "mapped by the router",
        AddressSource::Interface => "of this machine",
        AddressSource::Observed => "seen by peers",
        AddressSource::Relay => "through a relay",
    };
    let ago = |at: Option<UnixSeconds>| {
        at.map_or_else(String::new, |at| format!(" {} ago", age(at, now)))
    };
    let state = match (address.reachable, &address.error) {
        (Some(true), _) => format!("{source}, dialled{}", ago(address.tested_at)),
        (Some(false), Some(error)) => format!("{source}, {error}"),
        (Some(false), None) => format!("{source}, not reached{}", ago(address.tested_at)),
        (None, _) => format!("{source}, not tried"),
    };
    marked(address.reachable, &address.address, &state, room)
}

fn relay(relay: &RelayReport, now: UnixSeconds, room: usize) -> String {
    let rtt = relay.rtt_us.map_or_else(|| "-".to_owned(), round_trip);
    let since = age(relay.since, now);
    let (good, state) = match relay.state {
        ReservationState::Pending => (None, format!("asked {since} ago")),
        ReservationState::Reserved => (Some(true), format!("{rtt}, reserved for {since}")),
        ReservationState::Failed => {
            let error = relay.error.as_deref().unwrap_or("failed");
            (Some(false), format!("{error}, {since} ago"))
        }
    };
    let name = short_id(&relay.peer);
    let state = cut(&state, room.saturating_sub(name.len() + 2));
    format!("{} {name}  {state}\n   {}", mark(good), relay.address)
}

fn peers(report: &NetworkReport) -> String {
    let mut text = format!(
        "{} with {}",
        counted(report.peers, "peer"),
        counted(report.connections, "connection")
    );
    if report.peers_0_1 > 0 {
        let _ = write!(text, ", {} of version 0.1", grouped(report.peers_0_1));
    }
    text
}

fn kademlia(report: &NetworkReport) -> String {
    let role = match report.kademlia_server {
        true => "answers queries",
        false => "asks only",
    };
    format!(
        "{} in the table, {role}",
        counted(report.kademlia_peers, "peer")
    )
}

#[cfg(test)]
pub(super) mod tests {
    use derouter_sdk::PeerId;
    use derouter_sdk::wire::rpc::network::{Advice, BootstrapReport};

    use super::*;
    use crate::text::WIDTH;

    fn peer() -> PeerId {
        let text = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        text.parse().unwrap()
    }

    pub(in crate::netcheck) fn new_node() -> NetworkReport {
        NetworkReport {
            peer_id: peer(),
            agent: "derouter/0.2.0".into(),
            reachability: Reachability::Unknown,
            listen: Vec::new(),
            external: Vec::new(),
            nat_udp: NatKind::Unknown,
            nat_tcp: NatKind::Unknown,
            udp: None,
            ipv6: false,
            port_mapping: PortMapping::default(),
            relays: Vec::new(),
            bootstrap: Vec::new(),
            peers: 0,
            connections: 0,
            peers_0_1: 0,
            bytes_in: 0,
            bytes_out: 0,
            kademlia_peers: 0,
            kademlia_server: false,
            announcements: 0,
            advice: Vec::new(),
        }
    }

    pub(in crate::netcheck) fn behind_a_nat() -> NetworkReport {
        NetworkReport {
            reachability: Reachability::Private,
            listen: vec!["/ip4/192.168.1.7/udp/40123/quic-v1".into(); 11],
            external: vec![ExternalAddress {
                address: "/ip4/198.51.100.17/udp/40123/quic-v1".into(),
                source: AddressSource::Observed,
                reachable: Some(false),
                tested_at: Some(UnixSeconds(940)),
                error: Some("the peer that tried it got no answer within 10 s".into()),
            }],
            nat_udp: NatKind::EndpointIndependent,
            nat_tcp: NatKind::EndpointDependent,
            udp: Some(true),
            port_mapping: PortMapping {
                state: PortMappingState::NotPublic,
                protocol: Some("upnp".into()),
                addresses: Vec::new(),
                error: None,
            },
            relays: vec![RelayReport {
                peer: peer(),
                address: "/ip4/203.0.113.5/tcp/4001".into(),
                state: ReservationState::Reserved,
                rtt_us: Some(24_890),
                since: UnixSeconds(400),
                error: None,
            }],
            bootstrap: vec![BootstrapReport {
                address: "/dns4/node.example.org/tcp/4001".into(),
                connected: false,
                error: Some("connection refused".into()),
            }],
            peers: 12,
            connections: 14,
            peers_0_1: 2,
            bytes_in: 1_250_000,
            bytes_out: 300_000,
            kademlia_peers: 35,
            announcements: 1204,
            advice: vec![Advice {
                code: "double_nat".into(),
                text: "The router has no public address itself. ".repeat(5),
            }],
            ..new_node()
        }
    }

    #[test]
    fn a_node_behind_a_nat_is_told_on_one_screen() {
        let text = screen(&behind_a_nat(), UnixSeconds(1000), WIDTH);
        let expected = "\
Node          12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp
              derouter/0.2.0
Reachable     no: others reach this node through relays only
NAT           UDP: the same port for all peers: direct paths can be punched
              TCP: another port for each peer (symmetric): direct paths fail
Port mapping  of no use (upnp): the router is behind another NAT itself
UDP           works
IPv6          no public address
Listens on";
        assert!(text.starts_with(expected), "{text}");
        for part in [
            "              and 3 more (--json shows them)\n",
            "Addresses     no /ip4/198.51.100.17/udp/40123/quic-v1\n                 seen by peers, the peer",
            "Relays        ok vnc6iDEp  24.8 ms, reserved for 10 min\n                 /ip4/203",
            "Bootstrap     no /dns4/node.example.org/tcp/4001  connection refused\n",
            "Peers         12 peers with 14 connections, 2 of version 0.1\n",
            "Traffic       1.2 MB in, 300 kB out\n",
            "Discovery     1,204 providers announced\n",
            "Kademlia      35 peers in the table, asks only\n",
            "\n\nWhat to do\n  1. The router has no public",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(WIDTH), "{text}");
    }

    #[test]
    fn a_node_of_which_some_addresses_were_tried_does_not_say_that_none_were() {
        let report = NetworkReport {
            reachability: Reachability::Unknown,
            ..behind_a_nat()
        };
        let text = screen(&report, UnixSeconds(1000), WIDTH);
        assert!(text.contains("have not tried all"), "{text}");
        let text = screen(&new_node(), UnixSeconds(1000), WIDTH);
        assert!(text.contains("no peer has tried"), "{text}");
    }

    #[test]
    fn a_node_that_knows_nothing_yet_says_so() {
        let text = screen(&new_node(), UnixSeconds(1000), WIDTH);
        for part in [
            "NAT           not known yet\n",
            "Listens on    nowhere\n",
            "Addresses     none from outside is known\n",
            "Bootstrap     none configured\n",
            "Peers         0 peers with 0 connections\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("What to do"));
    }
}

//! What the user can do about the node's network. Pure: from the report, and what is suspected of the
//! clock.

use derouter_wire::rpc::network::{
    AddressSource, Advice, NatKind, NetworkReport, PortMappingState, Reachability, ReservationState,
};

use super::clock_watch::OffClock;
use crate::dial_error::TURNED_AWAY;

/// The advice for a report. `off` is which way everybody else's clock is off.
pub(crate) fn advice(report: &NetworkReport, off: Option<OffClock>) -> Vec<Advice> {
    let mut all = Vec::new();
    clock(off, &mut all);
    company(report, &mut all);
    external(report, &mut all);
    nat(report, &mut all);
    all
}

fn say(all: &mut Vec<Advice>, code: &str, text: impl Into<String>) {
    all.push(Advice {
        code: code.to_owned(),
        text: text.into(),
    });
}

/// Whether the clock keeps the market empty.
fn clock(off: Option<OffClock>, all: &mut Vec<Advice>) {
    let direction = match off {
        None => return,
        Some(OffClock::Ahead) => "slow",
        Some(OffClock::Behind) => "fast",
    };
    let text = format!(
        "The clock of this machine seems to be over four hours {direction}: what all providers announce is of another time, and is ignored. Set the clock (time zones do not matter), best by NTP."
    );
    say(all, "clock", text);
}

/// Whether there is anybody.
fn company(report: &NetworkReport, all: &mut Vec<Advice>) {
    if report.bootstrap.is_empty() && report.peers == 0 {
        say(
            all,
            "no_bootstrap",
            "No bootstrap node is configured and no peer is known. Add the address of a node that runs to `bootstrap`.",
        );
        return;
    }
    let unreachable = report.bootstrap.iter().filter(|node| !node.connected);
    for node in unreachable {
        let Some(error) = &node.error else {
            continue;
        };
        let address = &node.address;
        if error == TURNED_AWAY {
            let text = format!(
                "The bootstrap node {address} does not take this node: {error}. Ask whoever runs it, or add another one to `bootstrap`."
            );
            say(all, "bootstrap_turns_away", text);
            continue;
        }
        let text = format!(
            "The bootstrap node {address} is not reached: {error}. Check that it runs, that its address, port and peer id are right, and that a firewall lets this machine dial it."
        );
        say(all, "bootstrap_unreachable", text);
    }
    if report.peers == 0 {
        say(
            all,
            "no_peers",
            "This node has no peers, so it neither finds offers nor is found. Check that this machine is online.",
        );
    }
}

/// Whether what was configured or mapped works.
fn external(report: &NetworkReport, all: &mut Vec<Advice>) {
    for address in &report.external {
        if address.reachable != Some(false) || address.source != AddressSource::Configured {
            continue;
        }
        let text = format!(
            "Peers can't dial the configured address {}. Check that it is right, and that the router forwards its port to this machine.",
            address.address
        );
        say(all, "external_address_wrong", text);
    }
    let mapping = &report.port_mapping;
    if report.reachability == Reachability::Public {
        return;
    }
    match mapping.state {
        PortMappingState::NotPublic => say(
            all,
            "double_nat",
            "The router maps ports, but has no public address itself: there is a second router before it, or the provider shares one address among customers. Forward the port on both routers, or ask the provider for a public address; until then peers come through relays.",
        ),
        PortMappingState::Unavailable if report.reachability == Reachability::Private => {
            let reason = mapping
                .error
                .as_ref()
                .map_or_else(String::new, |error| format!(" ({error})"));
            say(
                all,
                "port_mapping_failed",
                format!(
                    "The router does not map ports by itself{reason}. Switch UPnP or NAT-PMP on in its settings, or forward this node's port by hand and set `external_addresses`."
                ),
            );
        }
        _ => {}
    }
}

/// Whether holes can be punched, and relays stand in where they can't.
fn nat(report: &NetworkReport, all: &mut Vec<Advice>) {
    if report.udp == Some(false) {
        say(
            all,
            "udp_blocked",
            "No peer is reached over UDP, so holes can seldom be punched. Allow outgoing UDP in the firewall.",
        );
    }
    if report.reachability == Reachability::Public {
        return;
    }
    let dependent = [report.nat_udp, report.nat_tcp].contains(&NatKind::EndpointDependent);
    if dependent && report.nat_udp != NatKind::EndpointIndependent {
        say(
            all,
            "endpoint_dependent_nat",
            "The router gives every connection another port (a symmetric NAT), so peers behind NATs reach this node through relays only. Forward this node's port on the router, or switch UPnP on.",
        );
    }
    let reserved = report
        .relays
        .iter()
        .any(|relay| relay.state == ReservationState::Reserved);
    if report.reachability == Reachability::Private && !reserved && report.peers > 0 {
        say(
            all,
            "private_no_relay",
            "Nobody can dial this node, and no relay took it in. Connect to a node that relays (`bootstrap`), or forward this node's port on the router.",
        );
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::rpc::network::{BootstrapReport, ExternalAddress, PortMapping, RelayReport};
    use derouter_wire::{PeerId, UnixSeconds};

    use super::*;

    fn report() -> NetworkReport {
        NetworkReport {
            peer_id: PeerId::random(),
            agent: String::new(),
            reachability: Reachability::Private,
            listen: Vec::new(),
            external: Vec::new(),
            nat_udp: NatKind::EndpointIndependent,
            nat_tcp: NatKind::EndpointIndependent,
            udp: Some(true),
            ipv6: false,
            port_mapping: PortMapping::default(),
            relays: vec![RelayReport {
                peer: PeerId::random(),
                address: String::new(),
                state: ReservationState::Reserved,
                rtt_us: None,
                since: UnixSeconds(0),
                error: None,
            }],
            bootstrap: vec![BootstrapReport {
                address: "/ip4/1.1.1.1/tcp/1".to_owned(),
                connected: true,
                error: None,
            }],
            peers: 1,
            connections: 1,
            peers_0_1: 0,
            bytes_in: 0,
            bytes_out: 0,
            kademlia_peers: 0,
            kademlia_server: false,
            announcements: 0,
            advice: Vec::new(),
        }
    }

    /// The codes for a report that was changed so.
    fn codes(change: impl FnOnce(&mut NetworkReport)) -> Vec<String> {
        let mut report = report();
        change(&mut report);
        advice(&report, None)
            .into_iter()
            .map(|advice| advice.code)
            .collect()
    }

    #[test]
    fn a_node_that_works_needs_no_advice() {
        assert!(codes(|_| {}).is_empty());
        assert!(codes(|report| report.reachability = Reachability::Public).is_empty());
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_direction() {
        for (off, word) in [(OffClock::Ahead, "slow"), (OffClock::Behind, "fast")] {
            let all = advice(&report(), Some(off));
            let [only] = all.as_slice() else {
                panic!("{all:?}");
            };
            assert_eq!(only.code, "clock");
            assert!(only.text.contains(word), "{}", only.text);
        }
    }

    #[test]
    fn a_lonely_node_hears_why() {
        let alone = |report: &mut NetworkReport| {
            report.peers = 0;
            report.bootstrap.clear();
        };
        assert_eq!(codes(alone), ["no_bootstrap"]);
        let unreached = |report: &mut NetworkReport| {
            report.peers = 0;
            report.bootstrap[0].connected = false;
            report.bootstrap[0].error = Some("connection refused".to_owned());
        };
        assert_eq!(codes(unreached), ["bootstrap_unreachable", "no_peers"]);
        let mut changed = report();
        unreached(&mut changed);
        assert!(
            advice(&changed, None)[0]
                .text
                .contains("connection refused")
        );
    }

    #[test]
    fn a_bootstrap_node_that_turns_this_one_away_is_no_matter_of_firewalls() {
        let away = |report: &mut NetworkReport| {
            report.bootstrap[0].connected = false;
            report.bootstrap[0].error = Some(TURNED_AWAY.to_owned());
        };
        assert_eq!(codes(away), ["bootstrap_turns_away"]);
    }

    #[test]
    fn what_stands_in_the_way_of_being_dialled_is_said() {
        let symmetric = |report: &mut NetworkReport| {
            report.nat_udp = NatKind::EndpointDependent;
            report.nat_tcp = NatKind::EndpointDependent;
        };
        assert_eq!(codes(symmetric), ["endpoint_dependent_nat"]);
        assert_eq!(codes(|report| report.relays.clear()), ["private_no_relay"]);
        assert_eq!(codes(|report| report.udp = Some(false)), ["udp_blocked"]);
        let state = |state| move |report: &mut NetworkReport| report.port_mapping.state = state;
        assert_eq!(codes(state(PortMappingState::NotPublic)), ["double_nat"]);
        assert_eq!(
            codes(state(PortMappingState::Unavailable)),
            ["port_mapping_failed"]
        );
        let wrong = |report: &mut NetworkReport| {
            report.external.push(ExternalAddress {
                address: "/ip4/1.2.3.4/tcp/1".to_owned(),
                source: AddressSource::Configured,
                reachable: Some(false),
                tested_at: None,
                error: None,
            });
        };
        assert_eq!(codes(wrong), ["external_address_wrong"]);
    }
}

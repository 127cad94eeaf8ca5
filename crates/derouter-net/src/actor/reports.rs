//! What the node tells of its network.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use derouter_wire::rpc::network::{BootstrapReport, NatKind, NetworkReport, RelayReport};
use libp2p::{Multiaddr, PeerId};

use super::Actor;
use crate::reachability::advice::advice;
use crate::reachability::place::{self, Scope, Transport};
use crate::reachability::relays::RelayView;

impl Actor {
    pub(super) fn network_report(&self) -> NetworkReport {
        let peers = self.peer_infos();
        let connections = peers.iter().map(|peer| peer.connections.len()).sum();
        let traffic = self.swarm.behaviour().streams.traffic();
        let version_0_1 = peers.iter().filter(|peer| peer.version_0_1 == Some(true));
        let known = self.counters.announcements_known.load(Relaxed);
        let mut report = NetworkReport {
            peer_id: *self.swarm.local_peer_id(),
            agent: crate::behaviour::AGENT.to_owned(),
            reachability: self.reach.current(),
            listen: self.swarm.listeners().map(ToString::to_string).collect(),
            external: self.reach.external.view(),
            nat_udp: self.nat_kind(Transport::Quic),
            nat_tcp: self.nat_kind(Transport::Tcp),
            udp: self.reach.udp.works(),
            ipv6: self.swarm.listeners().any(is_public_ipv6),
            port_mapping: self.reach.mapping.clone(),
            relays: self.relay_reports(),
            bootstrap: self.bootstrap_reports(),
            peers: count(peers.len()),
            connections: count(connections),
            peers_0_1: count(version_0_1.count()),
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            kademlia_peers: count(self.kademlia.peers),
            kademlia_server: self.kademlia.server,
            announcements: u32::try_from(known).unwrap_or(u32::MAX),
            advice: Vec::new(),
        };
        report.advice = advice(&report, self.reach.clock.suspicion(Instant::now()));
        report
    }

    fn nat_kind(&self, transport: Transport) -> NatKind {
        let local: Vec<SocketAddr> = self.swarm.listeners().filter_map(place::socket).collect();
        self.reach.nat.kind(transport, &local, Instant::now())
    }

    fn relay_reports(&self) -> Vec<RelayReport> {
        let report = |relay: RelayView| RelayReport {
            rtt_us: self.rtt_us(&relay.peer),
            peer: relay.peer,
            address: relay.address.to_string(),
            state: relay.state,
            since: relay.since,
            error: relay.error,
        };
        self.reach.relays.view().into_iter().map(report).collect()
    }

    /// The round trip to a peer, on its quickest connection.
    fn rtt_us(&self, peer: &PeerId) -> Option<u64> {
        let connections = self.peers.get(peer)?.connections.iter();
        let rtt = connections.filter_map(|(_, one)| one.rtt).min()?;
        u64::try_from(rtt.as_micros()).ok()
    }

    fn bootstrap_reports(&self) -> Vec<BootstrapReport> {
        let nodes = self.bootstrap.report();
        let report = |(address, connected, error): (&libp2p::Multiaddr, bool, Option<&str>)| {
            BootstrapReport {
                address: address.to_string(),
                connected,
                error: error.map(str::to_owned),
            }
        };
        nodes.map(report).collect()
    }
}

fn is_public_ipv6(address: &Multiaddr) -> bool {
    let ipv6 = place::ip(address).is_some_and(|ip| ip.is_ipv6());
    // A relay's address says nothing of this machine.
    ipv6 && !place::is_relayed(address) && place::scope(address) == Some(Scope::World)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

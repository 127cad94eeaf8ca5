//! What the node tells of its network.

use derouter_wire::rpc::network::{
    BootstrapReport, NatKind, NetworkReport, PortMapping, Reachability,
};

use super::Actor;

impl Actor {
    pub(super) fn network_report(&self) -> NetworkReport {
        let peers = self.peer_infos();
        let connections = peers.iter().map(|peer| peer.connections.len()).sum();
        let version_0_1 = peers.iter().filter(|peer| peer.version_0_1 == Some(true));
        NetworkReport {
            peer_id: *self.swarm.local_peer_id(),
            agent: crate::behaviour::AGENT.to_owned(),
            reachability: Reachability::Unknown,
            listen: self.swarm.listeners().map(ToString::to_string).collect(),
            external: Vec::new(),
            nat_udp: NatKind::Unknown,
            nat_tcp: NatKind::Unknown,
            udp: None,
            ipv6: false,
            port_mapping: PortMapping::default(),
            relays: Vec::new(),
            bootstrap: self.bootstrap_reports(),
            peers: count(peers.len()),
            connections: count(connections),
            peers_0_1: count(version_0_1.count()),
            bytes_in: 0,
            bytes_out: 0,
            kademlia_peers: count(self.kademlia.peers),
            kademlia_server: self.kademlia.server,
            announcements: 0,
            advice: Vec::new(),
        }
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

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

//! What the node tells of its network.

use derouter_wire::UnixSeconds;
use derouter_wire::rpc::network::{
    NatKind, NetworkReport, PathKind, PathReport, PeerReport, PortMapping, Reachability,
};

use super::Actor;
use crate::peer::PeerConnection;

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
            bootstrap: Vec::new(),
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

    pub(super) fn peer_reports(&self) -> Vec<PeerReport> {
        let report = |info: crate::peer::PeerInfo| PeerReport {
            peer: info.peer,
            agent: info.agent,
            version_0_1: info.version_0_1,
            paths: info.connections.iter().map(path).collect(),
            addresses: Vec::new(),
            score: 0,
            banned_until: None,
            last_connected: None,
            last_dial_error: None,
            last_dial_error_at: None,
        };
        self.peer_infos().into_iter().map(report).collect()
    }
}

fn path(connection: &PeerConnection) -> PathReport {
    PathReport {
        kind: if connection.relayed {
            PathKind::Relayed
        } else {
            PathKind::Direct
        },
        relay: None,
        address: connection.address.to_string(),
        outbound: connection.outbound,
        since: UnixSeconds(0),
        rtt_us: None,
        bytes_in: 0,
        bytes_out: 0,
        streams: 0,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

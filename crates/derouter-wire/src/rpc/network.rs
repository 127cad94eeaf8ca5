//! What a node tells of its network: one shape for the command line, the page and other programs.
//!
//! Addresses are multiaddr text. Times are whole Unix seconds, round-trip times microseconds.

use serde::{Deserialize, Serialize};

use crate::cbor::peer_id;
use crate::{PeerId, UnixSeconds};

/// Whether others can dial a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// Not known yet.
    #[default]
    Unknown,
    /// At least one address was dialled from outside.
    Public,
    /// No address can be dialled from outside.
    Private,
}

/// Where an external address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The configuration.
    Configured,
    /// A port mapping of the router.
    Mapped,
    /// A public address of an interface of this machine.
    Interface,
    /// Peers see this node there.
    Observed,
    /// A relay.
    Relay,
}

/// An address under which others may reach the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAddress {
    /// The address.
    pub address: String,
    /// Where it comes from.
    pub source: AddressSource,
    /// Whether a peer dialled it with success (AutoNAT); `None` when none has tried.
    pub reachable: Option<bool>,
    /// When that was last tried.
    pub tested_at: Option<UnixSeconds>,
    /// Why the last test failed.
    pub error: Option<String>,
}

/// How the router in front of a node maps ports, as RFC 4787 names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    /// Not known yet: fewer than two peers on different networks saw this node.
    #[default]
    Unknown,
    /// There is none: peers see an address of this machine.
    None,
    /// One mapping whoever is contacted: holes can be punched.
    EndpointIndependent,
    /// Another mapping for each peer ("symmetric"): holes can seldom be punched.
    EndpointDependent,
}

/// How asking the router for a port went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMappingState {
    /// Switched off.
    #[default]
    Off,
    /// Being looked for.
    Searching,
    /// The router offers none.
    Unavailable,
    /// The router maps ports, but to an address that is not public (a second NAT).
    NotPublic,
    /// Ports are mapped.
    Mapped,
}

/// The port mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// How it went.
    pub state: PortMappingState,
    /// `upnp`, `nat-pmp` or `pcp`.
    pub protocol: Option<String>,
    /// The mapped addresses.
    pub addresses: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// How a reservation on a relay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    /// Being made.
    Pending,
    /// Others reach this node through the relay.
    Reserved,
    /// It failed, and is tried again later.
    Failed,
}

/// A relay of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReport {
    /// Which.
    #[serde(with = "peer_id")]
    pub peer: PeerId,
    /// Its address.
    pub address: String,
    /// How the reservation stands.
    pub state: ReservationState,
    /// The round trip to it.
    pub rtt_us: Option<u64>,
    /// Since when it is so.
    pub since: UnixSeconds,
    /// Why it failed.
    pub error: Option<String>,
}

/// A configured bootstrap node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapReport {
    /// As configured.
    pub address: String,
    /// Whether there is a connection.
    pub connected: bool,
    /// Why the last dial failed, or the node closed the connection at once.
    pub error: Option<String>,
}

/// Something that the user can do about the node's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// A stable name, such as `no_bootstrap`.
    pub code: String,
    /// What is wrong, and what to do.
    pub text: String,
}

/// The network as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Who the node is.
    #[serde(with = "peer_id")]
    pub peer_id: PeerId,
    /// What it calls itself.
    pub agent: String,
    /// Whether others can dial it.
    pub reachability: Reachability,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Under which addresses others may reach it.
    pub external: Vec<ExternalAddress>,
    /// The NAT for UDP.
    pub nat_udp: NatKind,
    /// The NAT for TCP.
    pub nat_tcp: NatKind,
    /// Whether any peer is reached over UDP; `None` when none was tried.
    pub udp: Option<bool>,
    /// Whether this machine has a public IPv6 address.
    pub ipv6: bool,
    /// The port mapping.
    pub port_mapping: PortMapping,
    /// The relays of this node.
    pub relays: Vec<RelayReport>,
    /// The configured bootstrap nodes.
    pub bootstrap: Vec<BootstrapReport>,
    /// Connected peers.
    pub peers: u32,
    /// Connections with them.
    pub connections: u32,
    /// Of these peers, those of version 0.1.
    pub peers_0_1: u32,
    /// Bytes received since the start.
    pub bytes_in: u64,
    /// Bytes sent since the start.
    pub bytes_out: u64,
    /// Peers in the Kademlia routing table.
    pub kademlia_peers: u32,
    /// Whether this node answers Kademlia queries.
    pub kademlia_server: bool,
    /// Providers whose announcement is known and valid.
    pub announcements: u32,
    /// What the user can do.
    pub advice: Vec<Advice>,
}

/// How a connection reaches its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// In the same local network, or on the same machine.
    Lan,
    /// Directly.
    Direct,
    /// Directly, after both sides punched holes into their NATs, and as far as is known neither could
    /// have dialled the other.
    HolePunched,
    /// Through a relay.
    Relayed,
}

/// A connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// How it reaches the peer.
    pub kind: PathKind,
    /// The relay, when it is relayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The peer's address.
    pub address: String,
    /// Whether this node opened it.
    pub outbound: bool,
    /// Since when.
    pub since: UnixSeconds,
    /// Its last round trip.
    pub rtt_us: Option<u64>,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Requests and job streams open on it.
    pub streams: u32,
}

/// An address of a peer, as the peer book has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The address.
    pub address: String,
    /// When the peer was last reached there.
    pub last_success: Option<UnixSeconds>,
    /// Why the last try failed, if it did.
    pub error: Option<String>,
}

/// A peer: connected, or remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Who.
    #[serde(with = "peer_id")]
    pub peer: PeerId,
    /// What it calls itself. From outside: may be anything printable.
    pub agent: Option<String>,
    /// Whether it is of version 0.1.
    pub version_0_1: Option<bool>,
    /// Its connections, the one that new streams take first. Empty when it is not connected.
    pub paths: Vec<PathReport>,
    /// Where it may be reached, best first.
    pub addresses: Vec<PeerAddress>,
    /// 0 for a peer that never misbehaved, and below for one that did; at -100 it is banned.
    pub score: i32,
    /// Until when it is banned.
    pub banned_until: Option<UnixSeconds>,
    /// What it last did wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offence: Option<String>,
    /// When it was last connected.
    pub last_connected: Option<UnixSeconds>,
    /// Why the last dial failed, or the peer closed the connection at once, since it was last connected.
    pub last_dial_error: Option<String>,
    /// When that was.
    pub last_dial_error_at: Option<UnixSeconds>,
}

/// The outcome of a ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReport {
    /// The round trip.
    pub rtt_us: u64,
    /// The connection that it took.
    pub path: PathReport,
}

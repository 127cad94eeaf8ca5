//! What is known of connected peers.

use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use libp2p::{Multiaddr, PeerId};

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// What it calls itself, once it has said so.
    pub agent: Option<String>,
    /// Whether it is a node of version 0.1.0, once it has identified itself.
    pub version_0_1: Option<bool>,
    /// Its connections, at least one.
    pub connections: Vec<PeerConnection>,
}

/// One connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConnection {
    /// The peer's address.
    pub address: Multiaddr,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// The relay, when it goes through one that is known.
    pub relay: Option<PeerId>,
    /// Whether this node opened it.
    pub outbound: bool,
    /// Since when it is there.
    pub since: UnixSeconds,
    /// Its last round trip.
    pub rtt: Option<Duration>,
    /// Pings in a row that failed otherwise than by silence.
    pub(crate) ping_errors: u32,
    /// When it last answered a ping, or was made.
    pub(crate) heard: Instant,
    /// Whether both sides dialled at once for it, whether that was needed or not.
    pub punched: bool,
}

/// A peer came or went. A hint: it is dropped when the node does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The first connection to this peer is there.
    Connected(PeerId),
    /// The last connection to this peer is gone.
    Disconnected(PeerId),
}

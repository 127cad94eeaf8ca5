//! What a node's network side is started with.

use std::time::Duration;

use derouter_wire::UnixSeconds;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;

use crate::address::Scope;

use crate::access::PeerRule;
use crate::peer_book::KnownPeer;

/// The configuration of [`crate::start`].
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The node's identity (Ed25519).
    pub keypair: Keypair,
    /// What the operator chose.
    pub options: NetOptions,
    /// The last heartbeat of an earlier run ([`crate::NetEvents::sent`] tells them as they go):
    /// later ones have a larger timestamp and, when their content differs, a larger `updated_at`.
    /// Zero for a new node.
    pub last_timestamp: UnixSeconds,
    /// See [`NetConfig::last_timestamp`].
    pub last_updated_at: UnixSeconds,
    /// Where an earlier run listened ([`crate::Net::chosen_listen`]): port 0 in `listen` takes the
    /// port that it got then.
    pub kept_listen: Vec<Multiaddr>,
    /// What an earlier run knew of peers ([`crate::NetEvents::known_peers`] tells it as it
    /// changes); the best of them are dialled at the start.
    pub known_peers: Vec<KnownPeer>,
}

/// How a node takes part in the network, as its operator chose. The default listens nowhere, knows
/// nobody and looks for nobody.
#[derive(Clone, Debug, Default)]
pub struct NetOptions {
    /// Where to listen; TCP and QUIC v1, unspecified addresses allowed. Port 0 is chosen once
    /// ([`NetConfig::kept_listen`]).
    pub listen: Vec<Multiaddr>,
    /// Nodes to stay connected to. May end in `/p2p/<id>`, which is then checked.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to look for peers on the local network by mDNS.
    pub mdns: bool,
    /// Addresses under which this node is reached from elsewhere, when its operator knows them.
    pub external_addresses: Vec<Multiaddr>,
    /// Whether others can dial this node, when its operator knows that.
    pub reachability: KnownReachability,
    /// Whether the whole network is a private one, or on one machine: addresses of such networks may
    /// then make a node public, which otherwise only addresses do that all can dial.
    pub private_network: bool,
    /// Whether to ask the router for a port mapping (UPnP, NAT-PMP, PCP).
    pub port_mapping: bool,
    /// Relays on which a private node keeps a reservation; 0 for none.
    pub relays: usize,
    /// Whether, and within which limits, to serve as a circuit relay (v2) for others.
    pub relay_server: Option<RelayLimits>,
    /// Whether to take part in Kademlia: look up addresses and providers, and serve others when
    /// this node is public.
    pub kademlia: bool,
    /// When not empty, only these peers and the bootstrap nodes may connect and are dialled. A
    /// relayed peer is let in by its id only.
    pub allow: Vec<PeerRule>,
    /// These may neither connect nor are they dialled, whatever `allow` says.
    pub block: Vec<PeerRule>,
    /// How offers are announced and heard of.
    pub discovery: DiscoveryOptions,
}

/// How a node announces and hears of offers (wire 0.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// In how many of the sixteen shards of the announcements this node takes part; relays take
    /// part in all. `None` while announcements are not sharded: all nodes of a network must agree.
    pub shards: Option<usize>,
    /// Which wire offers are announced on.
    pub mode: DiscoveryMode,
}

/// Which wire offers are announced on. All are heard always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscoveryMode {
    /// 0.2, and 0.1 while peers of 0.1 are seen.
    #[default]
    Announce,
    /// 0.2 and 0.1.
    Both,
    /// 0.1 alone, as nodes before 0.2 do.
    Heartbeats,
}

impl NetOptions {
    /// How far an address has to reach to be tested, and to make a node public.
    pub(crate) fn tested_scope(&self) -> Scope {
        if self.private_network {
            Scope::Machine
        } else {
            Scope::World
        }
    }
}

/// What the operator says of this node's reachability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownReachability {
    /// Nothing: AutoNAT finds out.
    #[default]
    Detect,
    /// Others can dial it.
    Public,
    /// Others can't dial it: reservations are made at once.
    Private,
}

/// What a relay gives at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Peers that may be reached through it.
    pub reservations: usize,
    /// Circuits at a time.
    pub circuits: usize,
    /// Circuits at a time from one peer.
    pub circuits_per_peer: usize,
    /// How long one circuit lives.
    pub circuit_duration: Duration,
    /// Bytes through one circuit, both directions together.
    pub circuit_bytes: u64,
    /// Bytes a second through this node, both directions together; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

impl Default for RelayLimits {
    /// Room for job streams of hours.
    fn default() -> Self {
        Self {
            reservations: 256,
            circuits: 512,
            circuits_per_peer: 16,
            circuit_duration: Duration::from_secs(12 * 3600),
            circuit_bytes: 4 << 30,
            bytes_per_second: None,
        }
    }
}

impl NetConfig {
    /// A new node with the default [`NetOptions`].
    pub fn new(keypair: Keypair) -> Self {
        Self {
            keypair,
            options: NetOptions::default(),
            last_timestamp: UnixSeconds(0),
            last_updated_at: UnixSeconds(0),
            kept_listen: Vec::new(),
            known_peers: Vec::new(),
        }
    }
}

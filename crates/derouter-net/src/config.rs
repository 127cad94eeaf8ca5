//! What a node's network side is started with.

use derouter_wire::UnixSeconds;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;

/// The configuration of [`crate::start`].
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The node's identity (Ed25519).
    pub keypair: Keypair,
    /// Where to listen; TCP and QUIC v1, unspecified addresses and port 0 allowed.
    pub listen: Vec<Multiaddr>,
    /// Nodes to stay connected to. May end in `/p2p/<id>`, which is then checked.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to look for peers on the local network by mDNS.
    pub mdns: bool,
    /// Whether to serve as a circuit relay (v2) for others.
    pub relay_server: bool,
    /// The last heartbeat of an earlier run ([`crate::NetEvents::sent`] tells them as they go):
    /// later ones have a larger timestamp and, when their content differs, a larger `updated_at`.
    /// Zero for a new node.
    pub last_timestamp: UnixSeconds,
    /// See [`NetConfig::last_timestamp`].
    pub last_updated_at: UnixSeconds,
}

impl NetConfig {
    /// A node that listens nowhere, knows nobody and looks for nobody.
    pub fn new(keypair: Keypair) -> Self {
        Self {
            keypair,
            listen: Vec::new(),
            bootstrap: Vec::new(),
            mdns: false,
            relay_server: false,
            last_timestamp: UnixSeconds(0),
            last_updated_at: UnixSeconds(0),
        }
    }
}

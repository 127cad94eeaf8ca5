//! What a node needs to start. Reading it from files and flags is the binary's work.

use std::path::PathBuf;

use derouter_net::Multiaddr;

/// A node's configuration, checked and complete.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The key file (libp2p protobuf, Ed25519); made when it is absent.
    pub keypair_path: PathBuf,
    /// The database; made when it is absent.
    pub database_path: PathBuf,
    /// A 0.1.0 database to import once, never written to.
    pub legacy_database_path: Option<PathBuf>,
    /// Where to listen for peers.
    pub listen: Vec<Multiaddr>,
    /// Peers to dial at start, and again while the node is lonely. May end in `/p2p/<id>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to find and be found on the local network.
    pub mdns: bool,
    /// Whether to relay circuits for other peers.
    pub relay_server: bool,
    /// What announcements say of this provider.
    pub provider: ProviderDetails,
    /// The RPC's port on 127.0.0.1; 0 chooses one; `None` serves no RPC.
    pub rpc_port: Option<u16>,
    /// Whether job arguments are kept in the database.
    pub store_payloads: bool,
}

/// What announcements say of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderDetails {
    /// Its name.
    pub name: Option<String>,
    /// One line about it.
    pub teaser: Option<String>,
    /// More about it.
    pub description: Option<String>,
}

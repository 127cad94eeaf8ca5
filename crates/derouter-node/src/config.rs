//! What a node needs to start. Reading it from files and flags is the binary's work.

use std::path::PathBuf;
use std::time::Duration;

use derouter_net::NetOptions;

use crate::rpc::RpcOptions;

/// A node's configuration, checked and complete.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The key file (libp2p protobuf, Ed25519); made when it is absent.
    pub keypair_path: PathBuf,
    /// The database; made when it is absent.
    pub database_path: PathBuf,
    /// A 0.1.0 database to import once, never written to.
    pub legacy_database_path: Option<PathBuf>,
    /// How it takes part in the network.
    pub net: NetOptions,
    /// What announcements say of this provider.
    pub provider: ProviderDetails,
    /// How modules connect; `None` serves no RPC.
    pub rpc: Option<RpcOptions>,
    /// Whether job arguments are kept in the database.
    pub store_payloads: bool,
    /// How long, and how much.
    pub retention: PayloadRetention,
}

/// How long payloads of ended jobs are kept, and how much of them. What was signed is kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRetention {
    /// Older ones are forgotten; `None`: none for its age.
    pub max_age: Option<Duration>,
    /// Over this many bytes altogether the oldest are forgotten; `None`: none for its size.
    pub max_bytes: Option<u64>,
}

impl Default for PayloadRetention {
    /// A quarter of a year, and 1 GiB.
    fn default() -> Self {
        Self {
            max_age: Some(Duration::from_secs(90 * 86_400)),
            max_bytes: Some(1 << 30),
        }
    }
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

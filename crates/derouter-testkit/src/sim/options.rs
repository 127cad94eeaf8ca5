//! What is simulated.

use derouter_net::{DiscoveryMode, DiscoveryOptions, NetOptions};

/// Shards that a node takes part in when announcements are sharded.
const SHARDS: usize = 4;

/// How offers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Heartbeats of 0.1, every 30 s, with all offers, among our nodes.
    Heartbeats,
    /// The same among nodes as version 0.1.0 has them.
    PlainHeartbeats,
    /// Announcements of 0.2, every 5 minutes; lists are pulled.
    Announcements,
    /// The same on sixteen topics, of which a node hears four.
    Sharded,
}

impl Wire {
    /// Its name in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Wire::Heartbeats => "0.1",
            Wire::PlainHeartbeats => "0.1-plain",
            Wire::Announcements => "0.2",
            Wire::Sharded => "0.2-sharded",
        }
    }

    /// The wire of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Wire::Heartbeats,
            Wire::PlainHeartbeats,
            Wire::Announcements,
            Wire::Sharded,
        ];
        all.into_iter().find(|wire| wire.name() == name)
    }

    /// How one of our nodes takes part: on a free port of this machine, alone but for `bootstrap`.
    pub fn net_options(self, bootstrap: Vec<derouter_net::Multiaddr>) -> NetOptions {
        let mode = match self {
            Wire::Heartbeats | Wire::PlainHeartbeats => DiscoveryMode::Heartbeats,
            Wire::Announcements | Wire::Sharded => DiscoveryMode::Announce,
        };
        NetOptions {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
            bootstrap,
            discovery: DiscoveryOptions {
                shards: (self == Wire::Sharded).then_some(SHARDS),
                mode,
            },
            ..NetOptions::default()
        }
    }
}

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Simulated providers.
    pub providers: usize,
    /// Offers of each.
    pub offers: usize,
    /// Real nodes of the mesh.
    pub nodes: usize,
    /// Of these, those that provide.
    pub real_providers: usize,
    /// Offer changes whose spreading is timed.
    pub changes: usize,
    /// Real nodes between the simulated providers and the one that is measured.
    pub relays: usize,
    /// Seconds over which bytes and processor time are measured.
    pub window: u64,
    /// Seconds that heartbeats are sent before, so that all providers are known.
    pub warm_up: u64,
    /// Which wires, one after the other.
    pub wires: Vec<Wire>,
    /// Whether the mesh of real nodes is measured.
    pub mesh: bool,
    /// Whether one real node is fed.
    pub feed: bool,
    /// Whether only the memory is measured that one node takes which holds all providers.
    pub memory: bool,
    /// Whether only the cost of an announcement is measured.
    pub cost: bool,
}

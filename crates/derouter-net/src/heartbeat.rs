//! Heartbeats: when ours are sent ([`schedule`]), and which of others are believed ([`filter`]).

pub(crate) mod bucket;
pub(crate) mod filter;
pub(crate) mod schedule;

use derouter_wire::UnixSeconds;
use derouter_wire::gossip::Heartbeat;
use libp2p::PeerId;

/// A heartbeat of a peer, checked: signed by its source, newer than the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedHeartbeat {
    /// Who signed it.
    pub source: PeerId,
    /// What it says.
    pub heartbeat: Heartbeat,
}

/// The times of the last heartbeat of this node. Kept on disk by the node and given back at the
/// next start, they keep both rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentHeartbeat {
    /// Its timestamp.
    pub timestamp: UnixSeconds,
    /// The `updated_at` of its announcement.
    pub updated_at: UnixSeconds,
}

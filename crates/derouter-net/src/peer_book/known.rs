//! What is kept of peers over a restart.

use derouter_wire::UnixSeconds;
use libp2p::{Multiaddr, PeerId};

/// A peer as an earlier run knew it ([`crate::NetEvents::known_peers`] tells them as they change).
#[derive(Clone, Debug, PartialEq)]
pub struct KnownPeer {
    /// Who.
    pub peer: PeerId,
    /// Where it may be reached, best first; at most 8.
    pub addresses: Vec<KnownAddress>,
    /// When it was last connected; `None` when it never was.
    pub last_connected: Option<UnixSeconds>,
    /// What it calls itself.
    pub agent: Option<String>,
    /// Whether it relays circuits for others.
    pub relays: bool,
    /// Its misbehaviour score, 0 to -100, at [`KnownPeer::score_at`].
    pub score: f64,
    /// When it had that score.
    pub score_at: UnixSeconds,
    /// Until when it is banned.
    pub banned_until: Option<UnixSeconds>,
    /// How often it was banned.
    pub bans: u32,
}

/// An address of a [`KnownPeer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddress {
    /// Without a `/p2p/<id>` of the peer itself.
    pub address: Multiaddr,
    /// When the peer was last reached there.
    pub last_success: Option<UnixSeconds>,
}

//! Peers that misbehave.

use libp2p::PeerId;

use super::Actor;

/// What a peer did that no honest node of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Sent or forwarded an announcement whose signature is wrong.
    ForgedAnnouncement,
    /// Gave an offer list that is not the one that was announced.
    WrongOfferList,
    /// Sent what is no message of the protocol.
    InvalidMessage,
    /// Sends far more than it may.
    Flood,
}

impl Actor {
    /// Counts an offence against a connected peer.
    pub(super) fn blame(&mut self, peer: PeerId, offence: Offence) {
        tracing::debug!(%peer, ?offence, "a peer misbehaved");
    }
}

//! What the node is told of providers that announce (wire 0.2).

use std::sync::Arc;
use std::time::Duration;

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{ListSummary, OfferList};
use derouter_wire::cbor::DecodeError;
use derouter_wire::gossip::Announcement;
use libp2p::PeerId;

/// What a provider announces now. Later news of a provider have a larger sequence number; some in
/// between may be left out when the node is slow, the newest never is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferNews {
    /// Who announces.
    pub source: PeerId,
    /// Rises with each announcement.
    pub sequence: u64,
    /// For how long it holds from now.
    pub lasting: Duration,
    /// What is offered; `None` when everything was taken back.
    pub list: Option<AnnouncedList>,
}

impl OfferNews {
    /// The second of its sequence number, which never falls, as that of issue does when a provider's
    /// clock is set back. The provider's heartbeats (0.1) are of later seconds.
    pub fn time(&self) -> UnixSeconds {
        UnixSeconds(self.sequence / 1000)
    }
}

/// An offer list, checked against its announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedList {
    /// Equal summaries are equal lists: they need not be decoded.
    pub summary: ListSummary,
    /// `None` when this node has no room for it.
    pub(crate) bytes: Option<Arc<[u8]>>,
}

impl AnnouncedList {
    /// Whether this node had room for it.
    pub fn is_here(&self) -> bool {
        self.bytes.is_some()
    }

    /// What it holds. An error when it is not here: there was no room for it, and only who knows
    /// that very list already can use it.
    pub fn decode(&self) -> Result<Announcement, DecodeError> {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        OfferList::decode(bytes, &self.summary)
    }
}

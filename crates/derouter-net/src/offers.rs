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
    /// When it was made, by the provider's clock.
    pub issued_at: UnixSeconds,
    /// For how long it holds from now.
    pub lasting: Duration,
    /// What is offered; `None` when everything was taken back.
    pub list: Option<AnnouncedList>,
}

/// An offer list, checked against its announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedList {
    /// Equal summaries are equal lists: they need not be decoded.
    pub summary: ListSummary,
    pub(crate) bytes: Arc<[u8]>,
}

impl AnnouncedList {
    /// What it holds.
    pub fn decode(&self) -> Result<Announcement, DecodeError> {
        OfferList::decode(&self.bytes, &self.summary)
    }
}

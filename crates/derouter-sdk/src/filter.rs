//! What queries and watches look at. Filters combine with AND; an absent one lets all pass.

use derouter_wire::rpc::record::{JobRecord, OfferSnapshot};
use derouter_wire::{OfferKey, PeerId, ProtocolId, RowId};

/// Which offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferFilter {
    /// Only these protocols.
    pub protocol_ids: Option<Vec<ProtocolId>>,
    /// Only these providers.
    pub provider_peer_ids: Option<Vec<PeerId>>,
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only these protocols.
    pub protocol_ids: Option<Vec<ProtocolId>>,
    /// Only these providers.
    pub provider_peer_ids: Option<Vec<PeerId>>,
    /// Only these consumers.
    pub consumer_peer_ids: Option<Vec<PeerId>>,
}

/// A page of the offers on the market, ascending by provider, protocol and offer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferQuery {
    /// Only offers behind this one.
    pub after: Option<OfferKey>,
    /// Which offers.
    pub filter: OfferFilter,
    /// 1 to 100 offers.
    pub limit: u32,
}

/// A page of the active providers, ascending by peer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderQuery {
    /// Only providers behind this one.
    pub after: Option<PeerId>,
    /// 1 to 100 providers.
    pub limit: u32,
}

/// A page of jobs, by row id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Only rows behind this one, in the order of the page.
    pub after: Option<RowId>,
    /// Whether the newest come first, else the oldest. Nodes of 0.1 know the latter alone.
    pub newest_first: bool,
    /// Which jobs.
    pub filter: JobFilter,
    /// 1 to 100 rows.
    pub limit: u32,
}

/// A page of peers, ascending by peer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerQuery {
    /// Only peers behind this one.
    pub after: Option<PeerId>,
    /// Only this peer.
    pub peer: Option<PeerId>,
    /// Only those that are connected; else those that are remembered too.
    pub connected_only: bool,
    /// 1 to 100 peers.
    pub limit: u32,
}

fn passes<T: PartialEq>(allowed: Option<&Vec<T>>, value: &T) -> bool {
    allowed.is_none_or(|list| list.contains(value))
}

impl OfferFilter {
    /// Offers of one protocol.
    pub fn protocol(protocol_id: ProtocolId) -> Self {
        Self {
            protocol_ids: Some(vec![protocol_id]),
            provider_peer_ids: None,
        }
    }

    /// Whether an offer of this protocol and provider passes.
    pub fn allows(&self, protocol_id: &ProtocolId, provider: &PeerId) -> bool {
        passes(self.protocol_ids.as_ref(), protocol_id)
            && passes(self.provider_peer_ids.as_ref(), provider)
    }

    /// Whether an offer passes.
    pub fn matches(&self, offer: &OfferSnapshot) -> bool {
        self.allows(&offer.protocol_id, &offer.provider_peer_id)
    }
}

impl JobFilter {
    /// Whether a job passes.
    pub fn matches(&self, job: &JobRecord) -> bool {
        passes(self.protocol_ids.as_ref(), &job.offer_protocol_id)
            && passes(self.provider_peer_ids.as_ref(), &job.provider_peer_id)
            && passes(self.consumer_peer_ids.as_ref(), &job.consumer_peer_id)
    }
}

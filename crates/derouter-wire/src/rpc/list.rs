//! Lists by pages. Not in 0.1.
//!
//! A page holds the items behind a cursor in an order that does not change (offers by provider,
//! protocol and offer id; providers and peers by peer id; jobs by row), so that what is there all the
//! time comes exactly once, whatever comes and goes meanwhile. `next` is absent on the last page.

use serde::{Deserialize, Serialize};

use super::Call;
use super::cursor::Cursor;
use super::network::PeerReport;
use super::record::{JobRecord, OfferSnapshot, ProviderRecord};
use super::request::FilteredReply;
use crate::cbor::{PeerIdArg, lenient_unsigned};
use crate::limits::RPC_QUERY_ITEMS;

/// What a page may hold when its request does not say.
fn whole_page() -> u64 {
    u64::try_from(RPC_QUERY_ITEMS).unwrap_or(u64::MAX)
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the list's order. May be fewer than asked for, also before the last page.
    pub items: Vec<T>,
    /// Where the next page begins; absent when there is none.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

fn none<T>() -> Option<T> {
    None
}

/// The offers on the market, this node's own among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOffers {
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cursor>,
    /// 1 to 100, which is the default.
    #[serde(default = "whole_page", deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

/// The active providers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListProviders {
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cursor>,
    /// 1 to 100, which is the default.
    #[serde(default = "whole_page", deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

/// The jobs, oldest first unless asked otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobs {
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
    /// Only these consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_peer_ids: Option<Vec<PeerIdArg>>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cursor>,
    /// Whether the newest come first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newest_first: bool,
    /// 1 to 100, which is the default.
    #[serde(default = "whole_page", deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

/// The peers, connected or remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPeers {
    /// Only those that are connected.
    #[serde(default)]
    pub connected_only: bool,
    /// Only this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<PeerIdArg>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cursor>,
    /// 1 to 100, which is the default.
    #[serde(default = "whole_page", deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

macro_rules! lists {
    ($($request:ident => $item:ty),* $(,)?) => {
        $(impl Call for $request {
            const TYPE: &'static str = stringify!($request);
            type Reply = FilteredReply<Page<$item>>;
        })*
    };
}

lists! {
    ListOffers => OfferSnapshot,
    ListProviders => ProviderRecord,
    ListJobs => JobRecord,
    ListPeers => PeerReport,
}

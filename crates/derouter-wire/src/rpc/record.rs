//! What queries answer and events carry.

use serde::{Deserialize, Serialize};

use crate::cbor::{lenient_optional_signed, peer_id};
use crate::{
    Currency, JobId, OfferId, OfferKey, PeerId, ProtocolId, RowId, SnapshotId, UnixSeconds,
};

/// One (provider, protocol, offer, payload), for ever, and whether it is on offer now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferSnapshot {
    /// Its id on this node.
    pub snapshot_id: SnapshotId,
    /// On offer now.
    pub active: bool,
    /// Who offers.
    #[serde(with = "peer_id")]
    pub provider_peer_id: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name with its provider.
    pub offer_id: OfferId,
    /// What the protocol says of the offer; opaque here.
    pub protocol_payload: String,
}

impl OfferSnapshot {
    /// Which offer, whatever its payload.
    pub fn key(&self) -> OfferKey {
        OfferKey {
            provider: self.provider_peer_id,
            protocol_id: self.protocol_id.clone(),
            offer_id: self.offer_id.clone(),
        }
    }
}

/// A provider as last heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// Who.
    #[serde(with = "peer_id")]
    pub peer_id: PeerId,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One line about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teaser: Option<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When its details or offers changed, by its clock.
    pub updated_at: UnixSeconds,
    /// When it was last heard, by our clock.
    pub latest_heartbeat_at: UnixSeconds,
}

/// A job as this node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its row on this node.
    pub job_rowid: RowId,
    /// Its id with its provider.
    pub provider_job_id: JobId,
    /// Who serves it.
    #[serde(with = "peer_id")]
    pub provider_peer_id: PeerId,
    /// Who pays.
    #[serde(with = "peer_id")]
    pub consumer_peer_id: PeerId,
    /// The offer's name.
    pub offer_id: OfferId,
    /// The offer's snapshot on this node.
    pub offer_snapshot_rowid: SnapshotId,
    /// The offer's protocol.
    pub offer_protocol_id: ProtocolId,
    /// The offer's payload.
    pub offer_payload: String,
    /// Whether the offer is on offer now.
    pub offer_active: bool,
    /// What it is paid in.
    pub currency: Currency,
    /// What is owed: decimal wei text, once completed and not free. A 0.1 node sends the hex of
    /// that text for jobs of which it is the consumer ([`parse_hex_balance`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_delta: Option<String>,
    /// What is public of the outcome, once completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_payload: Option<String>,
    /// What this side keeps for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_payload: Option<String>,
    /// Why it failed, once failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The protocol's class of failure.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_optional_signed"
    )]
    pub reason_class: Option<i64>,
    /// When this side made its row, by our clock.
    pub created_at_local: UnixSeconds,
    /// When the provider created it.
    pub created_at_sync: UnixSeconds,
    /// When this side completed or failed it, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at_local: Option<UnixSeconds>,
    /// When the provider completed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at_sync: Option<UnixSeconds>,
    /// When the consumer's signature was known to be with the provider, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_confirmed_at_local: Option<UnixSeconds>,
    /// Why the provider did not take the signature, the latest time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation_error: Option<String>,
}

/// Reads the hex of decimal wei text, as a 0.1 consumer stores a balance (and 0.1 nodes send it).
/// Only for what is known to be written so: `"30"` is hex for 0 here and thirty wei elsewhere.
pub fn parse_hex_balance(text: &str) -> Option<crate::Wei> {
    String::from_utf8(hex::decode(text).ok()?)
        .ok()?
        .parse()
        .ok()
}

/// Why a job failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// In words.
    pub reason: String,
    /// The protocol's class of failure.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_optional_signed"
    )]
    pub reason_class: Option<i64>,
}

//! Requests from node to module: events, which a module acknowledges, and jobs for providers.

use serde::{Deserialize, Serialize};

use super::cursor::Cursor;
use super::record::{JobRecord, OfferSnapshot, ProviderRecord};
use super::ticket::Ticket;
use super::{Ack, Call};
use crate::cbor::{optional_peer_id, peer_id};
use crate::{JobId, OfferId, PeerId, ProtocolId, SnapshotId, SubscriptionId, UnixSeconds};

/// An event of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event<T> {
    /// Which subscription.
    pub subscription_id: SubscriptionId,
    /// What happened.
    pub payload: T,
    /// The place behind this event, to subscribe again from. Not in 0.1, and not in the state behind
    /// an [`EventReset`].
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

fn none<T>() -> Option<T> {
    None
}

/// Forget what this subscription has told: its state follows, and then [`EventReady`]. Of jobs no
/// state follows: list those that matter. Not in 0.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReset {
    /// Which subscription.
    pub subscription_id: SubscriptionId,
}

impl Call for EventReset {
    const TYPE: &'static str = "EventReset";
    type Reply = Ack;
}

/// The state is complete; what follows are changes. Not in 0.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReady {
    /// Which subscription.
    pub subscription_id: SubscriptionId,
    /// The place behind the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

impl Call for EventReady {
    const TYPE: &'static str = "EventReady";
    type Reply = Ack;
}

/// An offer left the market.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferRemoved {
    /// Its snapshot.
    pub snapshot_id: SnapshotId,
    /// Who offered.
    #[serde(with = "peer_id")]
    pub provider_peer_id: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name.
    pub offer_id: OfferId,
}

/// A provider was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderHeartbeat {
    /// Who.
    #[serde(with = "peer_id")]
    pub peer_id: PeerId,
    /// When, by our clock.
    pub latest_heartbeat_at: UnixSeconds,
}

/// Whether the node takes new work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStateChanged {
    /// How many milliseconds jobs that run have left. Absent while the node takes new work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_ms: Option<u64>,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident($payload:ty)),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(transparent)]
            pub struct $name(pub Event<$payload>);

            impl Call for $name {
                const TYPE: &'static str = stringify!($name);
                type Reply = Ack;
            }
        )*
    };
}

events! {
    /// An offer is on the market, new or changed.
    EventOfferUpdated(OfferSnapshot),
    /// An offer left the market.
    EventOfferRemoved(OfferRemoved),
    /// A provider is new or its details changed.
    EventProviderUpdated(ProviderRecord),
    /// A provider was heard.
    EventProviderHeartbeat(ProviderHeartbeat),
    /// A job was made or changed.
    EventJobUpdated(JobRecord),
    /// Whether the node takes new work.
    EventNodeState(NodeStateChanged),
}

/// A consumer wants a job for an offer of this module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCreateJob {
    /// This node.
    #[serde(with = "peer_id")]
    pub provider_peer_id: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer.
    pub offer_id: OfferId,
    /// The new job.
    pub provider_job_id: JobId,
    /// When it is created.
    pub created_at_sync: UnixSeconds,
    /// What the protocol needs to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_args: Option<String>,
    /// Who asks for it; absent in RPC 0.1.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_peer_id"
    )]
    pub consumer_peer_id: Option<PeerId>,
}

impl Call for ProviderCreateJob {
    const TYPE: &'static str = "ProviderCreateJob";
    type Reply = ProviderCreateJobReply;
}

/// A consumer wants to connect to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderPrepareJobConnection {
    /// This node.
    #[serde(with = "peer_id")]
    pub provider_peer_id: PeerId,
    /// The job.
    pub provider_job_id: JobId,
}

impl Call for ProviderPrepareJobConnection {
    const TYPE: &'static str = "ProviderPrepareJobConnection";
    type Reply = PrepareJobConnectionReply;
}

/// A prepared connection is there: open a yamux stream and write the ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderOpenJobConnection {
    /// What to write.
    pub connection_id: Ticket,
    /// From [`PrepareJobConnectionReply::Ok`].
    pub nonce: String,
}

impl Call for ProviderOpenJobConnection {
    const TYPE: &'static str = "ProviderOpenJobConnection";
    type Reply = Ack;
}

/// To [`ProviderCreateJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content", try_from = "Tagged")]
pub enum ProviderCreateJobReply {
    /// Accepted.
    Ok,
    /// No room now.
    Busy,
    /// The arguments can't be served.
    InvalidJobArgs(String),
}

/// To [`ProviderPrepareJobConnection`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content", try_from = "Tagged")]
pub enum PrepareJobConnectionReply {
    /// The module will know the connection by this nonce.
    Ok(String),
    /// The module knows no such job.
    JobNotFound,
    /// No room now.
    Busy,
}

/// `{tag, content?}` as a module sends it: content may be missing, null or `undefined`.
#[derive(Deserialize)]
struct Tagged {
    tag: String,
    #[serde(default)]
    content: Option<String>,
}

impl TryFrom<Tagged> for ProviderCreateJobReply {
    type Error = String;

    fn try_from(reply: Tagged) -> Result<Self, String> {
        match reply.tag.as_str() {
            "Ok" => Ok(Self::Ok),
            "Busy" => Ok(Self::Busy),
            "InvalidJobArgs" => Ok(Self::InvalidJobArgs(reply.content.unwrap_or_default())),
            other => Err(format!("unknown tag {other:?}")),
        }
    }
}

impl TryFrom<Tagged> for PrepareJobConnectionReply {
    type Error = String;

    fn try_from(reply: Tagged) -> Result<Self, String> {
        match (reply.tag.as_str(), reply.content) {
            ("Ok", Some(nonce)) => Ok(Self::Ok(nonce)),
            ("Ok", None) => Err("the nonce is missing".into()),
            ("JobNotFound", _) => Ok(Self::JobNotFound),
            ("Busy", _) => Ok(Self::Busy),
            (other, _) => Err(format!("unknown tag {other:?}")),
        }
    }
}

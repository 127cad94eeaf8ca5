//! Requests from module to node, with their answers.

use serde::{Deserialize, Serialize};

use super::Call;
use super::cursor::Cursor;
use super::network::{NetworkReport, PeerReport, PingReport};
use super::record::{FailureReason, JobRecord, OfferSnapshot, ProviderRecord};
use super::ticket::Ticket;
use crate::cbor::{PeerIdArg, lenient_optional_signed, lenient_unsigned, peer_id};
use crate::{
    Currency, JobId, OfferId, PeerId, ProtocolId, RowId, SnapshotId, SubscriptionId, UnixSeconds,
    Wei,
};

macro_rules! calls {
    ($($request:ident => $reply:ty),* $(,)?) => {
        $(impl Call for $request {
            const TYPE: &'static str = stringify!($request);
            type Reply = $reply;
        })*
    };
}

calls! {
    QuerySystem => QuerySystemReply,
    QueryActiveOffers => FilteredReply<Vec<OfferSnapshot>>,
    QueryActiveProviders => PeersReply,
    QueryOfferSnapshots => ListReply<OfferSnapshot>,
    QueryProviders => ListReply<ProviderRecord>,
    QueryJobs => QueryJobsReply,
    SubscribeToActiveOffers => FilteredReply<Subscribed>,
    SubscribeToActiveProviders => FilteredReply<Subscribed>,
    SubscribeToJobs => FilteredReply<Subscribed>,
    SubscribeToNodeState => FilteredReply<Subscribed>,
    CancelSubscription => CancelSubscriptionReply,
    ProviderProvide => ProvideReply,
    ProviderWithdraw => WithdrawReply,
    ProviderCompleteJob => ProviderCompleteJobReply,
    ConsumerCreateJob => CreateJobReply,
    ConsumerOpenJobConnection => OpenJobConnectionReply,
    ConsumerGetJob => GetJobReply,
    ConsumerCompleteJob => ConsumerCompleteJobReply,
    FailJob => FailJobReply,
    QueryNetwork => QueryNetworkReply,
    QueryPeers => QueryPeersReply,
    PingPeer => PingPeerReply,
}

/// Who is this node?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerySystem {}

/// Which offers are on offer now, this node's own among them? Filters combine with AND. In 0.1 only:
/// [`ListOffers`](super::list::ListOffers) takes its place, as the other lists do for theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryActiveOffers {
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
}

/// Which providers sent a heartbeat in the last 60 s?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryActiveProviders {}

/// Offer snapshots by id, active or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryOfferSnapshots {
    /// At most 100.
    #[serde(default)]
    pub snapshot_ids: Vec<SnapshotId>,
}

/// Providers by peer id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryProviders {
    /// At most 100.
    #[serde(default)]
    pub provider_peer_ids: Vec<PeerIdArg>,
}

/// A page of jobs, ascending by row id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryJobs {
    /// Only rows behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_row_id_cursor: Option<RowId>,
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
    /// Only these consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_peer_ids: Option<Vec<PeerIdArg>>,
    /// 1 to 100.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

/// Events about offers that fit the filter, from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeToActiveOffers {
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
    /// The place to go on from. Not in 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Cursor>,
}

/// Events about providers, from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeToActiveProviders {
    /// The place to go on from. Not in 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Cursor>,
}

/// Events about jobs that fit the filter, from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeToJobs {
    /// Only these protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_ids: Option<Vec<String>>,
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_peer_ids: Option<Vec<PeerIdArg>>,
    /// Only these consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_peer_ids: Option<Vec<PeerIdArg>>,
    /// The place to go on from. Not in 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Cursor>,
}

/// Events about whether the node takes new work: how it is now, then each change. New in 0.2, so
/// that no 0.1 module is ever sent such an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeToNodeState {}

/// Ends a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelSubscription {
    /// Which.
    pub subscription_id: SubscriptionId,
}

/// Takes back every offer of this connection; jobs that were accepted go on. New in 0.2: before, the
/// only way was to close the connection, and with it the streams of those jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderWithdraw {}

/// Puts an offer on the market for as long as this connection lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderProvide {
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name.
    pub offer_id: OfferId,
    /// What the protocol says of it.
    pub protocol_payload: String,
    /// What one consumer may owe this node unsigned before new jobs are answered Busy. Not in 0.1,
    /// whose nodes ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unsigned: Option<Wei>,
}

/// The provider's outcome of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCompleteJob {
    /// This node.
    pub provider_peer_id: PeerIdArg,
    /// The job.
    pub provider_job_id: String,
    /// What the consumer owes: decimal wei text, or null for a free job (not left out: 0.1 nodes
    /// need the key).
    #[serde(default)]
    pub balance_delta: Option<String>,
    /// What both sides sign.
    pub public_payload: String,
    /// What the provider keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_payload: Option<String>,
}

/// Creates a job for an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerCreateJob {
    /// The offer.
    pub offer_snapshot_id: SnapshotId,
    /// What the job is paid in.
    #[serde(default)]
    pub currency: Currency,
    /// What the protocol needs to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_args: Option<String>,
}

/// Opens a byte pipe to a job's provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerOpenJobConnection {
    /// The provider.
    pub provider_peer_id: PeerIdArg,
    /// The job.
    pub provider_job_id: String,
}

/// Asks a job's provider for its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerGetJob {
    /// The provider.
    pub provider_peer_id: PeerIdArg,
    /// The job.
    pub provider_job_id: String,
}

/// The consumer agrees with a job's outcome: signs it and owes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerCompleteJob {
    /// The provider.
    pub provider_peer_id: PeerIdArg,
    /// The job.
    pub provider_job_id: String,
    /// What both sides sign.
    pub public_payload: String,
    /// What the consumer keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_payload: Option<String>,
    /// What is owed: decimal wei text, or null for a free job (not left out, as above).
    #[serde(default)]
    pub balance_delta: Option<String>,
    /// When the provider completed it.
    pub completed_at_sync: UnixSeconds,
}

/// Gives a job up: nothing is owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailJob {
    /// The provider.
    pub provider_peer_id: PeerIdArg,
    /// The job.
    pub provider_job_id: String,
    /// Why, in words.
    pub reason: String,
    /// The protocol's class of failure.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient_optional_signed"
    )]
    pub reason_class: Option<i64>,
    /// What this side keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_payload: Option<String>,
}

/// How does this node see its network? Not in 0.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryNetwork {}

/// A page of peers, connected or remembered, ascending by the bytes of their ids. Not in 0.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryPeers {
    /// Only peers behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id_cursor: Option<PeerIdArg>,
    /// Only this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<PeerIdArg>,
    /// Only those that are connected.
    #[serde(default)]
    pub connected_only: bool,
    /// 1 to 100.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub limit: u64,
}

/// One round trip to a peer, which is dialled when it is not connected. Not in 0.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingPeer {
    /// Which.
    pub peer_id: PeerIdArg,
    /// Where to dial it when it is not connected, besides the addresses that the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How long to wait at most, in milliseconds: 1 to 60,000.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub timeout_ms: u64,
}

/// To [`QuerySystem`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum QuerySystemReply {
    /// This node.
    Ok {
        /// Its peer id.
        #[serde(with = "peer_id")]
        peer_id: PeerId,
    },
}

/// To requests with peer ids in a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum FilteredReply<T> {
    /// The answer.
    Ok(T),
    /// One of the peer ids is none. Holds it.
    InvalidPeerId(String),
}

/// To [`QueryActiveProviders`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum PeersReply {
    /// The peer ids.
    Ok(Vec<PeerIdArg>),
}

/// To queries by a list of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum ListReply<T> {
    /// Those that exist, in no promised order.
    Ok(Vec<T>),
    /// Over 100 ids.
    Length,
}

/// To [`QueryJobs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum QueryJobsReply {
    /// The page.
    Ok(Vec<JobRecord>),
    /// The limit is not 1 to 100. 0.1 modules expect a text, which 0.1 nodes left out.
    InvalidLimit(Option<String>),
}

/// A new subscription. In 0.1 its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SubscribedWire", into = "SubscribedWire")]
pub enum Subscribed {
    /// As 0.1 says it: events from now on.
    Legacy(SubscriptionId),
    /// As 0.2 says it.
    Since {
        /// Which.
        subscription_id: SubscriptionId,
        /// Whether it goes on from `since`, so that nothing is missed. If not, an
        /// [`EventReset`](super::event::EventReset) follows.
        resumed: bool,
    },
}

impl Subscribed {
    /// Which subscription.
    pub fn id(self) -> SubscriptionId {
        match self {
            Self::Legacy(id)
            | Self::Since {
                subscription_id: id,
                ..
            } => id,
        }
    }

    /// Whether it goes on from where another ended.
    pub fn resumed(self) -> bool {
        matches!(self, Self::Since { resumed: true, .. })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SubscribedWire {
    Legacy(SubscriptionId),
    Since {
        subscription_id: SubscriptionId,
        resumed: bool,
    },
}

impl From<SubscribedWire> for Subscribed {
    fn from(wire: SubscribedWire) -> Self {
        match wire {
            SubscribedWire::Legacy(id) => Self::Legacy(id),
            SubscribedWire::Since {
                subscription_id,
                resumed,
            } => Self::Since {
                subscription_id,
                resumed,
            },
        }
    }
}

impl From<Subscribed> for SubscribedWire {
    fn from(subscribed: Subscribed) -> Self {
        match subscribed {
            Subscribed::Legacy(id) => Self::Legacy(id),
            Subscribed::Since {
                subscription_id,
                resumed,
            } => Self::Since {
                subscription_id,
                resumed,
            },
        }
    }
}

/// To [`CancelSubscription`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum CancelSubscriptionReply {
    /// It has ended.
    Ok,
    /// There is none with this id.
    InvalidSubscriptionId,
}

/// To [`ProviderWithdraw`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum WithdrawReply {
    /// They are off the market.
    Ok,
}

/// To [`ProviderProvide`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum ProvideReply {
    /// It is on the market.
    Ok,
    /// An offer of that name is already provided.
    DuplicateOffer {
        /// The offer's protocol.
        protocol_id: ProtocolId,
        /// The offer's name.
        offer_id: OfferId,
    },
}

/// To [`ProviderCompleteJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum ProviderCompleteJobReply {
    /// It is completed.
    Ok {
        /// When, for the hash.
        completed_at_sync: UnixSeconds,
    },
    /// No such job with this provider.
    InvalidJobId,
    /// It was completed before.
    AlreadyCompleted {
        /// When.
        completed_at_sync: UnixSeconds,
    },
    /// It was failed before.
    AlreadyFailed(FailureReason),
    /// Not decimal wei text.
    InvalidBalanceDelta,
}

/// To [`ConsumerCreateJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum CreateJobReply {
    /// The job exists on both sides.
    Ok {
        /// Its provider.
        #[serde(with = "peer_id")]
        provider_peer_id: PeerId,
        /// Its id.
        provider_job_id: JobId,
    },
    /// This node knows no such snapshot.
    LocalOfferNotFound,
    /// The provider can't be reached. Spelt so on the wire.
    #[serde(rename = "ProviderUnreacheable")]
    ProviderUnreachable,
    /// The provider's answer makes no sense.
    ProviderInvalidResponse,
    /// The provider does not provide this offer any more.
    ProviderOfferNotFound,
    /// The provider changed the offer.
    ProviderOfferPayloadMismatch,
    /// The provider refuses the arguments.
    InvalidJobArgs(String),
    /// The provider has no room now.
    ProviderBusy,
}

/// To [`ConsumerOpenJobConnection`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum OpenJobConnectionReply {
    /// Open a yamux stream and write this.
    Ok {
        /// What to write.
        connection_id: Ticket,
    },
    /// This node knows no such job.
    LocalJobNotFound,
    /// The provider can't be reached. Spelt so on the wire.
    #[serde(rename = "ProviderUnreacheable")]
    ProviderUnreachable,
    /// The provider knows no such job of this consumer.
    ProviderJobNotFound,
    /// The job can't be connected to any more.
    ProviderJobExpired,
    /// The provider has no room now.
    ProviderBusy,
    /// Another error there, in words.
    OtherRemoteError(String),
    /// Another error here, in words.
    OtherLocalError(String),
}

/// To [`ConsumerGetJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content", try_from = "GetJobWire")]
pub enum GetJobReply {
    /// The job as its provider has it.
    Ok {
        /// What is public of the outcome, once completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        public_payload: Option<String>,
        /// What is owed, once completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        balance_delta: Option<String>,
        /// When it was created.
        created_at_sync: UnixSeconds,
        /// When it was completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_at_sync: Option<UnixSeconds>,
    },
    /// The provider can't be reached. Spelt so on the wire.
    #[serde(rename = "ProviderUnreacheable")]
    ProviderUnreachable,
    /// The provider knows no such job of this consumer.
    JobNotFound,
}

/// [`GetJobReply`] as nodes send it: 0.1 nodes write `{Ok: {...}}` in place of a tag.
#[derive(Deserialize)]
struct GetJobWire {
    #[serde(default)]
    tag: Option<String>,
    #[serde(default, alias = "Ok")]
    content: Option<GetJobBody>,
}

#[derive(Deserialize)]
struct GetJobBody {
    #[serde(default)]
    public_payload: Option<String>,
    #[serde(default)]
    balance_delta: Option<String>,
    created_at_sync: UnixSeconds,
    #[serde(default)]
    completed_at_sync: Option<UnixSeconds>,
}

impl TryFrom<GetJobWire> for GetJobReply {
    type Error = String;

    fn try_from(wire: GetJobWire) -> Result<Self, String> {
        match (wire.tag.as_deref(), wire.content) {
            (Some("Ok") | None, Some(body)) => Ok(Self::Ok {
                public_payload: body.public_payload,
                balance_delta: body.balance_delta,
                created_at_sync: body.created_at_sync,
                completed_at_sync: body.completed_at_sync,
            }),
            (Some("ProviderUnreacheable"), _) => Ok(Self::ProviderUnreachable),
            (Some("JobNotFound"), _) => Ok(Self::JobNotFound),
            (tag, _) => Err(format!("unknown answer {tag:?}")),
        }
    }
}

/// To [`ConsumerCompleteJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum ConsumerCompleteJobReply {
    /// Signed; the signature is on its way.
    Ok,
    /// No such job here.
    InvalidJobId,
    /// The job's consumer is another peer.
    InvalidConsumerPeerId,
    /// It was failed before.
    AlreadyFailed(FailureReason),
    /// It was completed before.
    AlreadyCompleted,
    /// Not decimal wei text.
    InvalidBalanceDelta,
}

/// To [`FailJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum FailJobReply {
    /// It has failed.
    Ok,
    /// No such job here. 0.1 nodes say `JobNotFound`.
    #[serde(alias = "JobNotFound")]
    InvalidJobId,
    /// It was completed before.
    AlreadyCompleted,
    /// It was failed before.
    AlreadyFailed(FailureReason),
}

/// To [`QueryNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum QueryNetworkReply {
    /// The network as the node sees it.
    Ok(Box<NetworkReport>),
}

/// To [`QueryPeers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum QueryPeersReply {
    /// The page.
    Ok(Vec<PeerReport>),
    /// One of the peer ids is none. Holds it.
    InvalidPeerId(String),
    /// The limit is not 1 to 100.
    InvalidLimit,
}

/// To [`PingPeer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum PingPeerReply {
    /// The round trip, and which way it went.
    Ok(Box<PingReport>),
    /// The peer can't be reached. Holds why.
    Unreachable(String),
    /// The peer did not answer in time.
    Timeout,
    /// Not a peer id. Holds it.
    InvalidPeerId(String),
    /// Not a multiaddr. Holds it.
    InvalidAddress(String),
    /// The timeout is not 1 to 60,000 ms.
    InvalidTimeout,
}

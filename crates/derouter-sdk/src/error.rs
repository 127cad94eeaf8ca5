//! One error enum for each operation. What the caller can do is in each variant's words.

use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{OfferId, ProtocolId, UnixSeconds};

/// What can go wrong with any call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node can't be reached, or the connection broke in the call. Over TCP the client
    /// reconnects by itself; try again.
    #[error("the node can't be reached: {0}")]
    Unreachable(String),
    /// The node did not answer in time.
    #[error("the node did not answer within {0} s")]
    Timeout(u64),
    /// The node answered something that makes no sense. A version mismatch or a bug.
    #[error("the node's answer makes no sense: {0}")]
    Protocol(String),
    /// The call's arguments are out of their limits.
    #[error("{0}")]
    Invalid(String),
    /// The node failed inside, for example its disk is full. Its log says more.
    #[error("the node failed: {0}")]
    Internal(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node does not let this module in, or not do this. Holds why, and what to do.
    #[error("the node refuses this module: {0}")]
    Refused(String),
    /// The node is of a version that does not know the call. Update it.
    #[error("this node is of an older version and does not support {0}")]
    Unsupported(&'static str),
}

/// Why an offer is not on the market.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProvideError {
    /// Another module, or an earlier call, provides an offer of that name.
    #[error("an offer {offer_id} of {protocol_id} is already provided on this node")]
    Duplicate {
        /// The offer's protocol.
        protocol_id: ProtocolId,
        /// The offer's name.
        offer_id: OfferId,
    },
    /// The call failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why there is no job.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CreateJobError {
    /// This node knows no such snapshot.
    #[error("this node knows no such offer")]
    LocalOfferNotFound,
    /// Try another provider.
    #[error("the provider can't be reached")]
    ProviderUnreachable,
    /// Try another provider.
    #[error("the provider's answer makes no sense")]
    ProviderInvalidResponse,
    /// The offer is gone there. Try another provider.
    #[error("the provider does not provide this offer any more")]
    ProviderOfferNotFound,
    /// The offer changed there. Wait for its next announcement or try another provider.
    #[error("the provider changed this offer")]
    ProviderOfferPayloadMismatch,
    /// The provider can't serve these arguments; another may.
    #[error("the provider refuses the request: {0}")]
    InvalidJobArgs(String),
    /// The provider has no room now. Try another provider, or later.
    #[error("the provider is busy")]
    ProviderBusy,
    /// The call failed here: no provider is to blame.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why there is no connection to a job.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenJobError {
    /// This node knows no such job.
    #[error("this node knows no such job")]
    LocalJobNotFound,
    /// The provider can't be reached.
    #[error("the provider can't be reached")]
    ProviderUnreachable,
    /// The provider knows no such job of this consumer.
    #[error("the provider knows no such job")]
    ProviderJobNotFound,
    /// The job can't be connected to any more.
    #[error("the job has expired with its provider")]
    ProviderJobExpired,
    /// The provider has no room now.
    #[error("the provider is busy")]
    ProviderBusy,
    /// Another error there.
    #[error("the provider says: {0}")]
    OtherRemote(String),
    /// The call failed here.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why the provider's state of a job is not known.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteJobError {
    /// The provider can't be reached.
    #[error("the provider can't be reached")]
    ProviderUnreachable,
    /// The provider knows no such job of this consumer.
    #[error("the provider knows no such job")]
    JobNotFound,
    /// The call failed here.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why a consumer's job is not completed and signed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteJobError {
    /// This node knows no such job.
    #[error("this node knows no such job")]
    InvalidJobId,
    /// Another peer is the job's consumer.
    #[error("this node is not the job's consumer")]
    InvalidConsumerPeerId,
    /// It was failed before.
    #[error("the job has failed before: {}", .0.reason)]
    AlreadyFailed(FailureReason),
    /// It was completed before.
    #[error("the job is completed already")]
    AlreadyCompleted,
    /// The call failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why a provider's job is not completed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderCompleteError {
    /// This node knows no such job.
    #[error("this node knows no such job")]
    InvalidJobId,
    /// It was completed before.
    #[error("the job is completed already")]
    AlreadyCompleted {
        /// When.
        completed_at_sync: UnixSeconds,
    },
    /// It was failed before.
    #[error("the job has failed before: {}", .0.reason)]
    AlreadyFailed(FailureReason),
    /// The call failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why a job can't be given up.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FailJobError {
    /// This node knows no such job.
    #[error("this node knows no such job")]
    InvalidJobId,
    /// It was completed before.
    #[error("the job is completed already")]
    AlreadyCompleted,
    /// It was failed before.
    #[error("the job has failed before: {}", .0.reason)]
    AlreadyFailed(FailureReason),
    /// The call failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Why a ping has no round trip.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// No connection to the peer, and none could be made. Holds why.
    #[error("the peer can't be reached: {0}")]
    Unreachable(String),
    /// The peer, or the way to it, did not answer in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The call failed here.
    #[error(transparent)]
    Node(#[from] NodeError),
}

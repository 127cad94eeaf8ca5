//! A job as one of its sides has it, and every step it can take.
//!
//! ```text
//! consumer: Created -> Accepted -> Running -> Signed (undelivered) -> Confirmed | Refused
//! provider:            Accepted -> Running -> Completed (awaits the signature) -> Confirmed
//!                                                      \-> Disputed -> Confirmed
//! both:     Created, Accepted, Running -> Failed (by whom and why; told to the other side)
//! ```
//!
//! Invariants, for each side:
//! - An ended job never opens again. A job that is signed never fails, and one that failed is never
//!   signed, whatever arrives, in whatever order, however often.
//! - What the hash covers never changes once there is an outcome, nor does a signature.
//! - A step that is taken twice has the effect of once.
//! - A provider takes a valid signature at any time after the completion: late, or after the consumer
//!   said that it would not sign. Money that somebody owes and says so is never refused.
//! - Every open job has an end: [`crate::deadlines`] gives up what nobody works on.
//!
//! And for both together, once all messages have arrived: either both are confirmed with one hash, or
//! both failed, or the provider is Disputed and the consumer Failed, or the consumer is Refused and
//! the provider Failed. Each of these says why.

use derouter_wire::job::{JobHash, JobOutcome, JobWire, SignatureError};
use derouter_wire::jobs::{FailureCause, Settled};
use derouter_wire::reqres::ConfirmJobResult;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{
    Currency, JobKey, OfferId, PeerId, ProtocolId, RowId, SnapshotId, UnixSeconds, Wei,
};

/// On which side of a job this node is. On its own offers it has a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It pays.
    Consumer,
    /// It serves.
    Provider,
}

/// The offer of a job, as it was when the job was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOffer {
    /// The snapshot on this node.
    pub snapshot_id: SnapshotId,
    /// Its protocol.
    pub protocol_id: ProtocolId,
    /// Its name with its provider.
    pub offer_id: OfferId,
    /// Its payload, byte for byte.
    pub payload: String,
}

/// A job as this side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its row on this node.
    pub row_id: RowId,
    /// The wire on which it was created.
    pub wire: JobWire,
    /// This node's side.
    pub role: Role,
    /// Provider and job id.
    pub key: JobKey,
    /// Who pays.
    pub consumer: PeerId,
    /// What was bought.
    pub offer: JobOffer,
    /// What it is paid in.
    pub currency: Currency,
    /// When the provider created it.
    pub created_at_sync: UnixSeconds,
    /// When this side made its row, by our clock.
    pub created_at_local: UnixSeconds,
    /// What this side keeps for itself.
    pub private_payload: Option<String>,
    /// Where it stands.
    pub state: JobState,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Neither completed nor failed.
    Open(Stage),
    /// Given up; nothing is owed.
    Failed(Failure),
    /// It has an outcome.
    Completed {
        /// What both sides agree on.
        outcome: Outcome,
        /// Where the consumer's signature is.
        signature: SignatureState,
        /// The provider's signature over the same hash (wire 0.2): the provider's own, or what the
        /// consumer was given for its signature.
        provider_signature: Option<Vec<u8>>,
    },
}

/// How far an open job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Consumer: the provider was asked for it, or will be; it may not know of it.
    Created,
    /// The provider has taken it.
    Accepted,
    /// The two sides were joined at least once.
    Running,
}

/// How a job ended without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// By whom and why.
    pub cause: FailureCause,
    /// In words, and the protocol's class.
    pub reason: FailureReason,
    /// When, by our clock.
    pub at_local: UnixSeconds,
    /// Whether the other side has to be told.
    pub notice: Notice,
}

/// Whether a consumer's failure is known to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nobody is to be told: the provider's own failures, those that it told us of, and all on wire
    /// 0.1, which has no word for it.
    Unneeded,
    /// The provider is not known to have heard.
    Undelivered {
        /// How often it was tried.
        attempts: u32,
    },
    /// The provider has heard.
    Delivered,
}

/// The part of a job's outcome that its creation does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is public.
    pub public_payload: String,
    /// What is owed; `None` for a free job.
    pub balance_delta: Option<Wei>,
    /// When the provider completed it.
    pub completed_at_sync: UnixSeconds,
    /// When this side did, by our clock.
    pub completed_at_local: UnixSeconds,
}

/// Where the consumer's signature over the job hash is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureState {
    /// Provider: not here yet.
    Awaited,
    /// Provider: the consumer says that it will not sign, or let the time for it pass. What is owed
    /// counts as before, and a signature is still taken.
    Disputed {
        /// Why.
        reason: String,
        /// When we learnt of it, by our clock.
        at_local: UnixSeconds,
    },
    /// Consumer: signed, and not yet known to be with the provider.
    Undelivered {
        /// Over the job hash.
        signature: Vec<u8>,
        /// How often delivery was tried.
        attempts: u32,
        /// What went wrong the latest time.
        last_error: Option<String>,
    },
    /// Consumer: the provider said that it will never take it.
    Refused {
        /// Over the job hash.
        signature: Vec<u8>,
        /// What it said.
        error: String,
    },
    /// With the provider, known to both.
    Confirmed {
        /// Over the job hash.
        signature: Vec<u8>,
        /// When this side learnt of it, by our clock.
        at_local: UnixSeconds,
    },
}

/// What a step makes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobChange {
    /// The new state.
    pub state: JobState,
    /// A new private payload; `None` leaves the old one.
    pub private_payload: Option<String>,
    /// When the provider created it, once a consumer learns that; `None` leaves the old one.
    pub created_at_sync: Option<UnixSeconds>,
}

/// Why a job can't be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// The provider is not known to have taken it, nor when: there is nothing to sign.
    #[error("the provider is not known to have taken the job")]
    NotAccepted,
    /// It has ended.
    #[error(transparent)]
    Ended(#[from] AlreadyEnded),
}

/// Why a job can't be ended this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlreadyEnded {
    /// It has an outcome.
    #[error("the job is completed already")]
    Completed {
        /// When the provider completed it.
        completed_at_sync: UnixSeconds,
    },
    /// It was given up.
    #[error("the job has failed before: {}", .0.reason)]
    Failed(FailureReason),
}

/// What became of an attempt to tell the provider of a signature or a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The provider answered on wire 0.1.
    Answered(ConfirmJobResult),
    /// The provider answered on wire 0.2.
    Settled(Settled),
    /// It can't be reached, or its answer makes no sense.
    Unreached(String),
}

/// What a consumer presents to have a job confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// Who presents it: the peer at the other end of the connection.
    pub asker: &'a PeerId,
    /// The hash that was signed.
    pub hash: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

mod steps;

pub use steps::delivery_backoff_secs;

#[cfg(test)]
mod tests;

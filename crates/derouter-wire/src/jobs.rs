//! Jobs between nodes on `/derouter/jobs/0.2.0` (wire 0.2).
//!
//! The asker opens a substream and writes one [`JobCall`], the other side one [`JobAnswer`], each a
//! `u32` big-endian length and CBOR, at most [`limits::JOB_CALL_BYTES`] and
//! [`limits::JOB_ANSWER_BYTES`]. The arguments of a new job follow its call as they are, `args_bytes`
//! of them. Behind [`JobAnswer::Joined`] both sides are a
//! raw byte pipe with half-close; every other answer ends the substream.
//!
//! A job's id is its consumer's choice, so a call that is repeated counts once. A pipe that breaks
//! is joined again ([`Resume`]): each side says how many bytes of the other it has, and goes on from
//! there.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, Bytes, DecodeError};
use crate::{Currency, JobId, OfferId, ProtocolId, UnixSeconds, limits};

/// The libp2p protocol.
pub const JOBS_PROTOCOL: &str = "/derouter/jobs/0.2.0";

/// What the asker writes first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobCall {
    /// Creates a job and joins it. Again with the same id and the same content: joins it.
    Create(CreateJob),
    /// Joins a job of the asker.
    Join {
        /// The job.
        job_id: JobId,
        /// Goes on with a pipe that broke; without, a new one begins.
        resume: Option<Resume>,
    },
    /// Delivers the consumer's signatures, at most [`limits::SETTLE_JOBS`].
    Confirm(Vec<SignedJob>),
    /// Says that the consumer gave jobs up, at most [`limits::SETTLE_JOBS`].
    GiveUp(Vec<GivenUp>),
    /// Asks for the state of a job.
    Ask {
        /// The job.
        job_id: JobId,
    },
}

/// A new job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateJob {
    /// Random, chosen by the consumer: a UUID of version 4 in text.
    pub job_id: JobId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer.
    pub offer_id: OfferId,
    /// SHA-256 of the offer's payload, which must be the one that is provided.
    pub offer_payload_sha256: Bytes,
    /// What the job is paid in.
    pub currency: Currency,
    /// How many bytes of arguments (UTF-8) follow this head; absent when there are none at all.
    /// At most [`limits::JOB_ARGS_BYTES`].
    pub args_bytes: Option<u32>,
}

/// Where a broken pipe goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The pipe, as [`Joined`] named it.
    pub session: u64,
    /// How many bytes of the provider the consumer has.
    pub received: u64,
}

/// A signature over the hash of a job's outcome ([`crate::job`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedJob {
    /// The job.
    pub job_id: JobId,
    /// The hash, 32 bytes.
    pub hash: Bytes,
    /// By the key in the consumer's peer id, 64 bytes.
    pub signature: Bytes,
}

/// A job that its consumer gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// The job.
    pub job_id: JobId,
    /// Why.
    pub cause: FailureCause,
    /// In words, at most [`limits::NOTICE_REASON_BYTES`].
    pub reason: String,
}

/// Why a job ended without an outcome, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    /// The consumer's module gave it up; it says why in words.
    ConsumerGaveUp,
    /// The provider's module gave it up; it says why in words.
    ProviderGaveUp,
    /// The consumer's node stopped before the job was created.
    ConsumerStopped,
    /// The provider's node stopped while the job was open.
    ProviderStopped,
    /// Expired: the provider did not answer the creation.
    NotAnswered,
    /// Expired: the consumer never joined the job.
    NotJoined,
    /// Expired: nobody was joined for too long.
    Idle,
    /// Expired: the job was open for too long.
    TooLong,
    /// Anything else, from a later version.
    #[serde(other)]
    Unknown,
}

impl FailureCause {
    /// Every cause that this version knows.
    pub const ALL: [Self; 8] = [
        Self::ConsumerGaveUp,
        Self::ProviderGaveUp,
        Self::ConsumerStopped,
        Self::ProviderStopped,
        Self::NotAnswered,
        Self::NotJoined,
        Self::Idle,
        Self::TooLong,
    ];

    /// Its name on the wire and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConsumerGaveUp => "consumer-gave-up",
            Self::ProviderGaveUp => "provider-gave-up",
            Self::ConsumerStopped => "consumer-stopped",
            Self::ProviderStopped => "provider-stopped",
            Self::NotAnswered => "not-answered",
            Self::NotJoined => "not-joined",
            Self::Idle => "idle",
            Self::TooLong => "too-long",
            Self::Unknown => "unknown",
        }
    }

    /// The cause of that name.
    pub fn from_name(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|cause| cause.name() == name);
        known.unwrap_or(Self::Unknown)
    }

    /// Whether a deadline ended the job, not a decision.
    pub fn is_expiry(self) -> bool {
        matches!(
            self,
            Self::NotAnswered | Self::NotJoined | Self::Idle | Self::TooLong
        )
    }
}

/// What the other side answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobAnswer {
    /// The pipe begins behind this head.
    Joined(Joined),
    /// No.
    Refused(Refusal),
    /// To [`JobCall::Confirm`]: one for each, in that order.
    Confirmed(Vec<Settled>),
    /// To [`JobCall::GiveUp`]: one for each, in that order.
    GivenUp(Vec<Settled>),
    /// To [`JobCall::Ask`].
    State(JobReport),
}

/// A pipe that begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// When the job was created, by the provider's clock; the hash covers it.
    pub created_at: UnixSeconds,
    /// Names the pipe, for [`Resume`].
    pub session: u64,
    /// How many bytes of the consumer the provider has: 0 for a new pipe.
    pub received: u64,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What the asker can act on.
    pub code: RefusalCode,
    /// In words, at most [`limits::REASON_BYTES`].
    pub message: String,
    /// When it makes sense to ask again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// With [`RefusalCode::JobOver`] for a job that failed: why it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureCause>,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The offer is not provided (any more).
    OfferNotFound,
    /// The offer has another payload now.
    OfferChanged,
    /// The module can't serve these arguments.
    InvalidArgs,
    /// No room now; `retry_after_ms` may say when.
    Busy,
    /// The consumer owes too much that it has not signed.
    OwesTooMuch,
    /// The node stops.
    ShuttingDown,
    /// The id stands for another job already.
    IdConflict,
    /// The asker has no such job here.
    JobNotFound,
    /// The job has ended and can't be joined.
    JobOver,
    /// The pipe is gone, or what it sent is not kept any more. A new one may begin.
    NotResumable,
    /// The call breaks the protocol.
    InvalidCall,
    /// The node failed inside.
    Internal,
    /// Anything else, from a later version.
    #[serde(other)]
    Unknown,
}

/// What became of one signature or one giving up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settled {
    /// The signature is kept, now or since earlier. Holds the provider's signature over the same
    /// hash, 64 bytes.
    Signed(Bytes),
    /// The job is given up on both sides, or the provider knows that its outcome is disputed.
    Noted,
    /// The asker has no such job here.
    JobNotFound,
    /// The provider has no outcome yet. Ask again later.
    NotCompleted,
    /// The provider gave the job up: it takes no signature.
    Failed(FailureCause),
    /// The consumer has signed the job: it can't be given up any more.
    AlreadySigned,
    /// The provider has another outcome, with this hash.
    OtherHash(Bytes),
    /// The signature does not fit.
    BadSignature,
    /// The provider could not store it. Ask again later.
    NotStored,
    /// Anything else, from a later version.
    #[serde(other)]
    Unknown,
}

/// A job as the provider has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// When it was created.
    pub created_at: UnixSeconds,
    /// Why it failed, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureCause>,
    /// Its outcome, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<ReportedOutcome>,
}

/// The outcome of a job as its provider signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedOutcome {
    /// What is public.
    pub public_payload: String,
    /// What is owed: decimal wei text; absent for a free job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_delta: Option<String>,
    /// When it was completed, by the provider's clock.
    pub completed_at: UnixSeconds,
    /// The provider's signature over the hash, 64 bytes.
    pub signature: Bytes,
}

impl Refusal {
    /// A refusal without further details; too long a message is cut.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        cbor::truncate_to_char(&mut message, limits::REASON_BYTES);
        Self {
            code,
            message,
            retry_after_ms: None,
            failed: None,
        }
    }

    /// Says when to ask again.
    #[must_use]
    pub fn retry_after_ms(mut self, milliseconds: u32) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}

impl JobCall {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_framed_vec(self)
    }

    /// Reads a frame's body, and refuses what is over a limit.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let call: Self = cbor::from_slice(body)?;
        let settled = match &call {
            Self::Create(new) => {
                check_length("offer_payload_sha256", &new.offer_payload_sha256, 32)?;
                let most = limits::JOB_ARGS_BYTES;
                if new.args_bytes.is_some_and(|bytes| to_usize(bytes) > most) {
                    return Err(DecodeError::new("the arguments are over their limit"));
                }
                0
            }
            Self::Confirm(jobs) => jobs.len(),
            Self::GiveUp(jobs) => jobs.len(),
            Self::Join { .. } | Self::Ask { .. } => 0,
        };
        if settled > limits::SETTLE_JOBS {
            return Err(DecodeError::new("too many jobs in one call"));
        }
        Ok(call)
    }
}

impl JobAnswer {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_framed_vec(self)
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(body)
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn check_length(name: &str, bytes: &Bytes, length: usize) -> Result<(), DecodeError> {
    if bytes.0.len() == length {
        return Ok(());
    }
    Err(DecodeError::new(format_args!("{name} has {length} bytes")))
}

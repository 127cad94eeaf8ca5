//! Request-response between nodes on `/derouter/reqres/0.1.0`: CBOR, enums externally tagged, byte
//! vectors as arrays of integers, absent values as null.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError, IntArray};
use crate::{Currency, JobId, OfferId, ProtocolId, UnixSeconds};

/// The libp2p protocol of request-response.
pub const REQRES_PROTOCOL: &str = "/derouter/reqres/0.1.0";

/// What a node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A consumer creates a job for an offer.
    CreateJob {
        /// The offer's protocol.
        protocol_id: ProtocolId,
        /// The offer.
        offer_id: OfferId,
        /// Must equal the provided payload byte for byte.
        offer_payload: String,
        /// What the job is paid in.
        currency: Currency,
        /// What the protocol needs to begin; for `openai:0.1` the request body.
        job_args: Option<String>,
    },
    /// A consumer asks for the state of its job.
    GetJob {
        /// The job.
        provider_job_id: JobId,
    },
    /// A consumer delivers its signature over a completed job.
    ConfirmJob {
        /// The job.
        provider_job_id: JobId,
        /// The job hash ([`crate::job`]).
        job_hash: IntArray,
        /// libp2p protobuf of the key; must belong to the job's consumer.
        consumer_public_key: IntArray,
        /// The signature over the hash.
        consumer_signature: IntArray,
    },
}

/// The answer, one kind for each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::CreateJob`].
    CreateJob(CreateJobResult),
    /// To [`Request::GetJob`].
    GetJob(GetJobResult),
    /// To [`Request::ConfirmJob`].
    ConfirmJob(ConfirmJobResult),
}

/// The outcome of [`Request::CreateJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateJobResult {
    /// The job exists.
    Ok {
        /// Its id.
        provider_job_id: JobId,
        /// When it was created, for the hash.
        created_at_sync: UnixSeconds,
    },
    /// The provider does not provide this offer.
    OfferNotFound,
    /// The provider provides the offer with another payload.
    OfferPayloadMismatch,
    /// The module refuses the arguments.
    InvalidJobArgs(String),
    /// Not now; another provider may.
    Busy,
}

/// The outcome of [`Request::GetJob`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GetJobResult {
    /// The job as the provider has it.
    Ok {
        /// What is public of the outcome, once completed.
        public_payload: Option<String>,
        /// What is owed, decimal wei text, once completed.
        balance_delta: Option<String>,
        /// When it was created.
        created_at_sync: UnixSeconds,
        /// When it was completed.
        completed_at_sync: Option<UnixSeconds>,
    },
    /// No such job of the asker.
    JobNotFound,
}

/// The outcome of [`Request::ConfirmJob`], in the order in which a provider checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfirmJobResult {
    /// The signature is kept.
    Ok,
    /// No such job of the asker.
    JobNotFound,
    /// The provider has not completed the job.
    NotCompletedYet,
    /// The provider failed the job.
    AlreadyFailed,
    /// The hash is another than the provider's, which this holds.
    HashMismatch(IntArray),
    /// The key can't be read or is not the consumer's.
    InvalidPublicKey,
    /// The signature does not fit hash and key.
    InvalidSignature,
    /// A signature was kept before: success.
    AlreadyConfirmed,
    /// The answerer did not understand.
    UnexpectedResponse,
}

impl Request {
    /// The CBOR, without a length: the substream's end ends it.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Reads a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(bytes)
    }
}

impl Response {
    /// The CBOR, without a length: the substream's end ends it.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Reads a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(bytes)
    }
}

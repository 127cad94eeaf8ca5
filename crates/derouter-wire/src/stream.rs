//! The head of a job stream on `/derouter/stream/0.1.0`: one request, one response, each a `u32`
//! big-endian length and CBOR; then both sides are a raw byte pipe with half-close.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{JobId, limits};

/// The libp2p protocol of job streams.
pub const STREAM_PROTOCOL: &str = "/derouter/stream/0.1.0";

/// What the consumer writes first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadRequest {
    /// Connects to a job of the asking consumer.
    JobConnection {
        /// The job.
        provider_job_id: JobId,
    },
}

/// What the provider answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadResponse {
    /// The answer to [`HeadRequest::JobConnection`].
    JobConnection(JobConnectionResult),
}

/// Whether the byte pipe begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobConnectionResult {
    /// It begins behind this head.
    Ok,
    /// No such job of this consumer.
    JobNotFound,
    /// The job can't be connected to any more.
    JobExpired,
    /// Not now.
    Busy,
    /// Anything else, in words.
    AnotherError(String),
}

impl HeadRequest {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_framed_vec(self)
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(body)
    }
}

impl HeadResponse {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_framed_vec(self)
    }

    /// Reads a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(body)
    }
}

/// A length prefix is over the cap of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes is over the limit of {limit}")]
pub struct FrameTooLarge {
    /// What the prefix says.
    pub length: u32,
    /// What the channel allows.
    pub limit: usize,
}

/// The body length that a prefix announces, refused over `limit` before memory is taken.
pub fn frame_length(prefix: [u8; 4], limit: usize) -> Result<usize, FrameTooLarge> {
    let length = u32::from_be_bytes(prefix);
    let too_large = FrameTooLarge { length, limit };
    let bytes = usize::try_from(length).map_err(|_| too_large)?;
    if bytes > limit {
        Err(too_large)
    } else {
        Ok(bytes)
    }
}

/// [`frame_length`] for a stream head.
pub fn head_length(prefix: [u8; 4]) -> Result<usize, FrameTooLarge> {
    frame_length(prefix, limits::STREAM_HEAD_BYTES)
}

//! One error enum for each operation.

use std::io;

use libp2p::Multiaddr;

/// Why the network side could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// As it was configured.
        address: Multiaddr,
        /// In words: in use, not permitted, not of this machine, not supported.
        reason: String,
    },
    /// The system's name service configuration can't be read.
    #[error("can't read the system's DNS settings (/etc/resolv.conf): {0}")]
    Dns(io::Error),
    /// Something inside libp2p refused our settings.
    #[error("can't set up the network: {0}")]
    Setup(String),
}

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No connection to the peer, and none could be made. Nothing was sent.
    #[error("the peer can't be reached: {0}")]
    Unreachable(String),
    /// The peer does not speak this protocol. Nothing was sent.
    #[error("the peer does not support {0}")]
    Unsupported(&'static str),
    /// The request is over what the protocol allows. Nothing was sent.
    #[error("the request has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// No response in time. The peer may have acted on the request.
    #[error("no response in time")]
    Timeout,
    /// The connection or the substream ended first. The peer may have acted on the request.
    #[error("the peer ended the exchange: {0}")]
    Closed(String),
    /// The response is too large, no response at all, or one to another kind of request.
    #[error("the response is not valid: {0}")]
    InvalidResponse(String),
    /// This node's network side has stopped.
    #[error("the network has stopped")]
    Stopped,
}

/// Why a job stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// No connection to the provider, and none could be made.
    #[error("the provider can't be reached: {0}")]
    Unreachable(String),
    /// The provider's node has no job streams. Nothing was sent.
    #[error("the provider does not support {0}")]
    Unsupported(&'static str),
    /// The provider has no such job of this node.
    #[error("the provider has no such job")]
    JobNotFound,
    /// The job can't be connected to any more.
    #[error("the job has expired")]
    JobExpired,
    /// Not now.
    #[error("the provider is busy")]
    Busy,
    /// The provider said something else.
    #[error("the provider refused: {0}")]
    Other(String),
    /// The provider did not answer in time.
    #[error("the provider did not answer in time")]
    Timeout,
    /// The provider ended the stream, or its head was not valid.
    #[error("the provider's answer is not valid: {0}")]
    InvalidResponse(String),
    /// This node's network side has stopped.
    #[error("the network has stopped")]
    Stopped,
}

/// Why an address could not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No connection; the reason in words.
    #[error("{0}")]
    Unreachable(String),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
    /// Too many dials are being waited for.
    #[error("too many dials at once")]
    Busy,
    /// This node's network side has stopped.
    #[error("the network has stopped")]
    Stopped,
}

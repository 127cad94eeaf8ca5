//! Substreams for requests and jobs: a libp2p behaviour that only negotiates them.
//!
//! Outbound: [`Behaviour::open`] picks the best connection (see `choice`), dials when there is none,
//! and answers on a oneshot. Inbound: negotiated substreams go to one bounded
//! queue; what does not fit is dropped and counted. What is said on them happens elsewhere.

mod behaviour;
mod choice;
mod handler;
mod substream;

use std::io;

use libp2p::core::upgrade::NegotiationError;
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

pub(crate) use behaviour::{Behaviour, ConnectionUse, Flooded};
pub(crate) use substream::Substream;

use crate::behaviour::MESH_PROTOCOL;

/// Jobs of wire 0.2: calls and job streams.
pub(crate) const JOB_CALLS: StreamProtocol =
    StreamProtocol::new(derouter_wire::jobs::JOBS_PROTOCOL);
/// Job streams of wire 0.1.
pub(crate) const JOBS: StreamProtocol = StreamProtocol::new(derouter_wire::stream::STREAM_PROTOCOL);
/// Requests and responses.
pub(crate) const REQUESTS: StreamProtocol =
    StreamProtocol::new(derouter_wire::reqres::REQRES_PROTOCOL);
/// The marker; never spoken.
pub(crate) const MESH: StreamProtocol = StreamProtocol::new(MESH_PROTOCOL);

/// Where the outcome of [`Behaviour::open`] goes.
pub(crate) type OpenReply = oneshot::Sender<Result<Substream, OpenError>>;

/// A substream that is wanted.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) protocol: StreamProtocol,
    /// A connection that just failed to give one: taken only when there is no other.
    pub(crate) avoid: Option<ConnectionId>,
    pub(crate) reply: OpenReply,
}

/// Why there is no substream. When the reply is dropped, its connection closed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// Dialling failed, in words.
    Unreachable(String),
    /// The peer does not speak the protocol.
    Unsupported,
    /// The connection broke or was too slow while it negotiated.
    Failed {
        /// The one it was tried on.
        connection: ConnectionId,
        /// In words.
        reason: String,
    },
    /// Too many wait already.
    TooMany,
}

/// Whether an exchange failed because the peer does not speak the protocol. It is proposed together
/// with the first bytes, so that a refusal shows when the answer is read.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(NegotiationError::Failed))
}

/// A substream that a peer opened.
#[derive(Debug)]
pub(crate) struct InboundStream {
    pub(crate) peer: PeerId,
    pub(crate) protocol: StreamProtocol,
    pub(crate) stream: Substream,
    pub(crate) permit: Permit,
}

/// A place among the unserved substreams of a peer and of the node; held until the peer has
/// its answer.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) _peer: OwnedSemaphorePermit,
    pub(crate) _node: OwnedSemaphorePermit,
}

/// The queue of inbound substreams.
pub(crate) type InboundQueue = mpsc::Sender<InboundStream>;

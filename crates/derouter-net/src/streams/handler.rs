//! The part of [`super::Behaviour`] that lives on one connection.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound, ProtocolsChange, StreamUpgradeError,
};
use libp2p::swarm::{ConnectionHandler, ConnectionId, SubstreamProtocol};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::Semaphore;

use super::substream::{OpenStreams, Substream};
use super::{
    InboundQueue, InboundStream, JOB_CALLS, JOBS, MESH, OpenError, OpenRequest, Permit, REQUESTS,
};
use crate::counters::{NetCounters, count};
use crate::discovery::DISCOVERY;
use crate::limits;
use crate::peer_places::PeerPlaces;

/// Names protocols and gives the substream as it is.
#[derive(Debug, Clone)]
pub(crate) struct Bare(Vec<StreamProtocol>);

impl UpgradeInfo for Bare {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Bare {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Bare {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _protocol: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// What all handlers of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) inbound: InboundQueue,
    pub(crate) total: Arc<Semaphore>,
    pub(crate) of_peer: Arc<PeerPlaces>,
    pub(crate) counters: Arc<NetCounters>,
}

/// What the behaviour is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// The connection failed to give a substream.
    Failed,
    /// The peer opened so many substreams for which it has no place that it means harm.
    Flooded,
}

/// Negotiates the substreams of one connection.
pub(crate) struct Handler {
    connection: ConnectionId,
    peer: PeerId,
    shared: Shared,
    open: OpenStreams,
    /// What the peer speaks, once it has identified itself: as much as fits a message of identify
    /// (4 KiB).
    spoken: Option<HashSet<StreamProtocol>>,
    failed: bool,
    /// Substreams of the peer that were dropped since it was last told of.
    dropped: usize,
    /// Places that all connections of the peer share.
    unserved: Arc<Semaphore>,
    wanted: VecDeque<OpenRequest>,
    negotiating: usize,
    waker: Option<Waker>,
}

impl Handler {
    pub(crate) fn new(
        connection: ConnectionId,
        peer: PeerId,
        shared: Shared,
        open: OpenStreams,
    ) -> Self {
        Self {
            connection,
            peer,
            open,
            spoken: None,
            failed: false,
            dropped: 0,
            unserved: shared.of_peer.of(peer),
            shared,
            wanted: VecDeque::new(),
            negotiating: 0,
            waker: None,
        }
    }

    #[cfg(test)]
    pub(super) fn unserved(&self) -> &Arc<Semaphore> {
        &self.unserved
    }

    fn on_inbound(&mut self, stream: Stream, protocol: StreamProtocol) {
        // The marker is a capability, not a conversation.
        if protocol == MESH {
            return;
        }
        let given = self.place().is_some_and(|permit| {
            let inbound = InboundStream {
                peer: self.peer,
                protocol,
                stream: Substream::new(stream, self.connection, &self.open),
                permit,
            };
            self.shared.inbound.try_send(inbound).is_ok()
        });
        if !given {
            count(&self.shared.counters.substreams_dropped);
            self.dropped = self.dropped.saturating_add(1);
            self.wake();
        }
    }

    /// A place for one more substream of the peer, if there is one.
    fn place(&self) -> Option<Permit> {
        let held = limits::INBOUND_PER_PEER.saturating_sub(self.unserved.available_permits());
        if !has_place(held, self.shared.total.available_permits()) {
            return None;
        }
        Some(Permit {
            _peer: self.unserved.clone().try_acquire_owned().ok()?,
            _node: self.shared.total.clone().try_acquire_owned().ok()?,
        })
    }

    fn on_protocols(&mut self, change: ProtocolsChange<'_>) {
        let spoken = self.spoken.get_or_insert_default();
        match change {
            ProtocolsChange::Added(added) => {
                spoken.extend(added.cloned());
            }
            ProtocolsChange::Removed(removed) => {
                for name in removed {
                    spoken.remove(name);
                }
            }
        }
    }

    fn is_unsupported(&self, protocol: &StreamProtocol) -> bool {
        let spoken = self.spoken.as_ref();
        spoken.is_some_and(|spoken| !spoken.contains(protocol))
    }

    fn finished_one(&mut self) {
        self.negotiating = self.negotiating.saturating_sub(1);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Told;
    type InboundProtocol = Bare;
    type OutboundProtocol = Bare;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = super::OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Bare> {
        SubstreamProtocol::new(Bare(vec![JOB_CALLS, JOBS, REQUESTS, DISCOVERY, MESH]), ())
            .with_timeout(limits::NEGOTIATE_DEADLINE)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Bare, super::OpenReply, Told>> {
        if std::mem::take(&mut self.failed) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Told::Failed));
        }
        if self.dropped >= limits::DROPPED_PER_OFFENCE {
            self.dropped = 0;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Told::Flooded));
        }
        while self.negotiating < limits::OUTBOUND_NEGOTIATING {
            let Some(request) = self.wanted.pop_front() else {
                break;
            };
            if request.reply.is_closed() {
                continue;
            }
            if self.is_unsupported(&request.protocol) {
                let _ = request.reply.send(Err(OpenError::Unsupported));
                continue;
            }
            self.negotiating += 1;
            let upgrade = Bare(vec![request.protocol]);
            let protocol = SubstreamProtocol::new(upgrade, request.reply)
                .with_timeout(limits::NEGOTIATE_DEADLINE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        if self.wanted.len() >= limits::OUTBOUND_PER_CONNECTION {
            let _ = request.reply.send(Err(OpenError::TooMany));
            return;
        }
        self.wanted.push_back(request);
        self.wake();
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Bare, Bare, (), super::OpenReply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.on_inbound(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => {
                self.finished_one();
                let stream = Substream::new(stream, self.connection, &self.open);
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                let error = upgrade_error(self.connection, error);
                self.failed |= matches!(error, OpenError::Failed { .. });
                self.finished_one();
                let _ = reply.send(Err(error));
            }
            ConnectionEvent::RemoteProtocolsChange(change) => self.on_protocols(change),
            _ => {}
        }
    }
}

/// Whether a peer that holds so many places gets one more, with so many free in all. Once half are
/// taken, those who hold few go first: some that never say what they want shut nobody else out.
fn has_place(held: usize, free: usize) -> bool {
    held < limits::INBOUND_FAIR_SHARE || free.saturating_mul(2) >= limits::INBOUND_TOTAL
}

fn upgrade_error(connection: ConnectionId, error: StreamUpgradeError<Infallible>) -> OpenError {
    let failed = |reason: String| OpenError::Failed { connection, reason };
    match error {
        StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
        StreamUpgradeError::Timeout => failed("negotiating a substream took too long".to_owned()),
        StreamUpgradeError::Io(error) => failed(error.to_string()),
        StreamUpgradeError::Apply(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_silent_peers_do_not_take_the_places_of_others() {
        let mut free = limits::INBOUND_TOTAL;
        for _ in 0..8 {
            for held in 0..limits::INBOUND_PER_PEER {
                if has_place(held, free) {
                    free -= 1;
                }
            }
        }
        assert!(free > limits::INBOUND_TOTAL / 3);
        assert!(has_place(0, free) && has_place(limits::INBOUND_FAIR_SHARE - 1, free));
        assert!(!has_place(limits::INBOUND_FAIR_SHARE, free));
    }
}

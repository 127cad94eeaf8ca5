//! The part of [`super::Behaviour`] that lives on one connection: it only negotiates substreams.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{ConnectionHandler, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use tokio::sync::oneshot;

use super::{DIAL_BACK, DIAL_REQUEST};
use crate::limits;

/// Where a substream goes; dropped when there is none.
pub(crate) type StreamReply = oneshot::Sender<Stream>;

/// Opens substreams for tests, and takes dial-backs.
#[derive(Default)]
pub(crate) struct Handler {
    wanted: VecDeque<StreamReply>,
    dial_back: Option<Stream>,
    waker: Option<Waker>,
}

impl Handler {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = StreamReply;
    type ToBehaviour = Stream;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StreamReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(DIAL_BACK), ())
            .with_timeout(limits::NEGOTIATE_DEADLINE)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, StreamReply, Stream>> {
        if let Some(stream) = self.dial_back.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        if let Some(reply) = self.wanted.pop_front() {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(DIAL_REQUEST), reply)
                .with_timeout(limits::NEGOTIATE_DEADLINE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, reply: StreamReply) {
        self.wanted.push_back(reply);
        self.wake();
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), StreamReply>,
    ) {
        match event {
            // One at a time: a server dials back once for each connection.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                self.dial_back = Some(protocol);
                self.wake();
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => {
                let _ = info.send(protocol);
            }
            _ => {}
        }
    }
}

//! Substreams that a [`super::raw_peer::RawPeer`] accepts. `libp2p-stream` has no room for a second one
//! that comes before the first was taken, and drops it; a node asks several questions at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use derouter_net::{Multiaddr, PeerId};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Stream, StreamProtocol};
use tokio::sync::mpsc;

/// Substreams of one protocol that wait; the next one is dropped. A node has far fewer open.
const WAITING: usize = 256;

/// The substreams of a protocol, as they come.
pub type Incoming = mpsc::Receiver<Stream>;

type Queues = HashMap<&'static str, mpsc::Sender<Stream>>;

/// Accepts substreams of some protocols.
#[derive(Debug)]
pub(super) struct Behaviour(Queues);

impl Behaviour {
    /// Accepts these protocols. What comes on each goes to a queue of its own.
    pub(super) fn new(protocols: &[&'static str]) -> (Self, HashMap<&'static str, Incoming>) {
        let (mut queues, mut incoming) = (Queues::new(), HashMap::new());
        for protocol in protocols {
            let (queue, streams) = mpsc::channel(WAITING);
            queues.insert(*protocol, queue);
            incoming.insert(*protocol, streams);
        }
        (Self(queues), incoming)
    }
}

/// Names protocols and gives the substream as it is.
#[derive(Clone, Debug)]
pub(super) struct Bare(Vec<StreamProtocol>);

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

/// The part that lives on one connection.
#[derive(Debug)]
pub(super) struct Handler(Queues);

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Bare;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Bare> {
        let protocols = self.0.keys().copied().map(StreamProtocol::new);
        SubstreamProtocol::new(Bare(protocols.collect()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Bare, DeniedUpgrade>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: (stream, protocol),
            ..
        }) = event
            && let Some(queue) = self.0.get(protocol.as_ref())
        {
            // Where nobody takes them, they are dropped.
            let _ = queue.try_send(stream);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler(self.0.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler(self.0.clone()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

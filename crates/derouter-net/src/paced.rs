//! Gossip that is read at a pace: what a network sends faster waits where it is, in the windows of
//! its connections, and costs neither time nor memory.
//!
//! gossipsub itself reads as fast as a peer sends. It checks the signatures of heartbeats while it
//! reads, and remembers the id of each message for a while, before anybody can refuse it. So the pace
//! is kept before it reads. Peers of one network share a pace, because peer ids cost nothing, and
//! take turns, so that one of them does not silence the others.

mod handler;
mod pace;

use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::subnet;
use crate::heartbeat::bucket::Rate;
use handler::Handler;
use pace::Paces;

/// A behaviour whose handlers tell it no more than they may.
pub(crate) struct Paced<B> {
    inner: B,
    paces: Paces,
}

impl<B> Paced<B> {
    /// What comes from one network (a /24 or /48; one connection where that says nothing) is read
    /// at this rate.
    pub(crate) fn new(inner: B, rate: Rate) -> Self {
        Self {
            inner,
            paces: Paces::new(rate),
        }
    }
}

impl<B> Deref for Paced<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Paced<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Paced<B> {
    type ConnectionHandler = Handler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(Handler::new(inner, self.paces.of(subnet(remote))))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)?;
        Ok(Handler::new(inner, self.paces.of(subnet(address))))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

//! libp2p's AutoNAT v2 server, kept from being a tool against others: a peer may have this node dial
//! only so often, and only addresses that all can dial.

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::autonat::v2::server;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;
use crate::reachability::place::{self, Scope};

/// Tests for one peer: its addresses, at the start or after a change of network, then a few now and then.
const OF_PEER: Rate = Rate {
    every: Duration::from_secs(5),
    burst: 16,
};
/// Tests in all. A relay with 250 private nodes, 4 addresses each, tests one a second.
const OF_ALL: Rate = Rate {
    every: Duration::from_millis(100),
    burst: 64,
};
/// Longer than libp2p's server works on a request: what is refused then ends without a verdict, so that
/// nobody takes a busy server for a closed port.
const SILENCE: Duration = Duration::from_secs(15);

/// An address that this node does not dial for others.
#[derive(Debug, thiserror::Error)]
#[error("an address that not all can dial")]
struct NotForAll;

/// Decides which dials are made. Pure.
#[derive(Debug, Default)]
struct Allowance {
    of_all: Bucket,
    of_peer: HashMap<PeerId, Bucket>,
}

impl Allowance {
    fn take(&mut self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.of_peer.entry(peer).or_default();
        bucket.try_take(OF_PEER, 1, now) && self.of_all.try_take(OF_ALL, 1, now)
    }
}

/// See the module's text.
pub(crate) struct Behaviour {
    inner: server::Behaviour,
    minimum: Scope,
    allowance: Allowance,
    /// Dials of the server that are about to be made.
    dials: HashSet<ConnectionId>,
    /// Dials that are not made, and when the server hears so.
    refused: VecDeque<(Instant, PeerId, ConnectionId)>,
}

impl Behaviour {
    /// Dials addresses that reach at least as far as `minimum`.
    pub(crate) fn new(minimum: Scope) -> Self {
        Self {
            inner: server::Behaviour::default(),
            minimum,
            allowance: Allowance::default(),
            dials: HashSet::new(),
            refused: VecDeque::new(),
        }
    }

    /// The dial, if it is allowed.
    fn admit(&mut self, opts: DialOpts, now: Instant) -> Option<DialOpts> {
        let connection = opts.connection_id();
        let peer = opts.get_peer_id()?;
        if self.allowance.take(peer, now) {
            self.dials.insert(connection);
            return Some(opts);
        }
        tracing::debug!(%peer, "has too many addresses tested");
        self.refused.push_back((now + SILENCE, peer, connection));
        if self.refused.len() > limits::REFUSED_PROBES {
            self.end_refused(None);
        }
        None
    }

    /// Tells the server of dials that were not made: those that are due, or with `None` the oldest.
    fn end_refused(&mut self, now: Option<Instant>) {
        while let Some((due, peer, connection)) = self.refused.front().copied() {
            if now.is_some_and(|now| due > now) {
                return;
            }
            self.refused.pop_front();
            let error = DialError::Aborted;
            self.inner
                .on_swarm_event(FromSwarm::DialFailure(DialFailure {
                    peer_id: Some(peer),
                    error: &error,
                    connection_id: connection,
                }));
            if now.is_none() {
                return;
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<server::Behaviour>;
    type ToSwarm = server::Event;

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let wide = |address: &Multiaddr| {
            place::transport(address).is_some() && place::scope(address) >= Some(self.minimum)
        };
        if self.dials.remove(&connection) && !addresses.iter().all(wide) {
            return Err(ConnectionDenied::new(NotForAll));
        }
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id,
            remaining_established: 0,
            ..
        }) = event
        {
            // Who comes back gets a new allowance, and has paid for a handshake.
            self.allowance.of_peer.remove(&peer_id);
        }
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
        let now = Instant::now();
        self.end_refused(Some(now));
        while let Poll::Ready(action) = self.inner.poll(cx) {
            let ToSwarm::Dial { opts } = action else {
                return Poll::Ready(action);
            };
            if let Some(opts) = self.admit(opts, now) {
                return Poll::Ready(ToSwarm::Dial { opts });
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_its_addresses_tested_and_no_more_and_others_have_theirs() {
        let now = Instant::now();
        let mut allowance = Allowance::default();
        let greedy = PeerId::random();
        let taken = (0..1000).filter(|_| allowance.take(greedy, now));
        assert_eq!(taken.count(), 16);
        assert!(allowance.take(PeerId::random(), now));
        let taken = (0..1000).filter(|_| allowance.take(PeerId::random(), now));
        assert_eq!(taken.count(), 64 - 17, "all together");
        assert!(allowance.take(greedy, now + OF_PEER.every));
    }

    #[test]
    fn a_dial_of_a_private_address_for_others_is_refused_and_our_own_is_not() {
        let mut server = Behaviour::new(Scope::World);
        let peer = PeerId::random();
        let private: Multiaddr = "/ip4/192.168.0.1/tcp/22".parse().unwrap();
        let mut pending = |asked: bool| {
            let opts = DialOpts::peer_id(peer)
                .addresses(vec![private.clone()])
                .build();
            let connection = opts.connection_id();
            if asked {
                assert!(server.admit(opts, Instant::now()).is_some());
            }
            let addresses = std::slice::from_ref(&private);
            server.handle_pending_outbound_connection(
                connection,
                Some(peer),
                addresses,
                Endpoint::Dialer,
            )
        };
        assert!(pending(true).is_err());
        assert!(pending(false).is_ok());
    }

    #[test]
    fn what_is_refused_is_bounded() {
        let mut server = Behaviour::new(Scope::World);
        let peer = PeerId::random();
        let now = Instant::now();
        for _ in 0..1000 {
            let opts = DialOpts::peer_id(peer).build();
            server.admit(opts, now);
        }
        assert_eq!(server.refused.len(), limits::REFUSED_PROBES);
        server.end_refused(Some(now + SILENCE));
        assert!(server.refused.is_empty());
    }
}

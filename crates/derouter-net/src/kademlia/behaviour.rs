//! libp2p's Kademlia with what it lacks: it dials only where this node may go on the word of
//! others, and one peer may only ask so much.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::kad::{self, BucketInserts, Caching, Mode, StoreInserts};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::scope::{Admitted, Scope, scope};
use super::store::ProviderStore;
use crate::address::is_named;
use crate::behaviour::KADEMLIA_PROTOCOL;
use crate::circuits::one_through_each_relay;
use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;

/// Peers asked at the same time by one query.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// What one peer may ask: a bootstrap of it is a few dozen requests.
const ASKED: Rate = Rate {
    every: Duration::from_millis(50),
    burst: 200,
};

/// Kademlia, within our limits.
pub(crate) struct Behaviour {
    /// Its queries and its routing table.
    pub(crate) inner: kad::Behaviour<ProviderStore>,
    connections: HashMap<ConnectionId, Scope>,
    asked: HashMap<PeerId, Bucket>,
    flooding: Option<PeerId>,
    blamed: HashMap<PeerId, Instant>,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// In Kademlia.
    Kademlia(Box<kad::Event>),
    /// This peer asks more than it may; what is over that is not answered.
    Flood(PeerId),
}

impl Behaviour {
    pub(crate) fn new(peer: PeerId) -> Self {
        let mut config = kad::Config::new(KADEMLIA_PROTOCOL);
        config
            .set_query_timeout(limits::KADEMLIA_QUERY)
            .set_parallelism(PARALLELISM)
            .disjoint_query_paths(true)
            .set_record_filtering(StoreInserts::FilterBoth)
            .set_kbucket_inserts(BucketInserts::Manual)
            .set_caching(Caching::Disabled)
            .set_replication_interval(None)
            .set_publication_interval(None)
            // `Publications` decides when.
            .set_provider_publication_interval(None)
            .set_provider_record_ttl(Some(limits::KADEMLIA_RECORD_LIFE))
            .set_periodic_bootstrap_interval(Some(limits::KADEMLIA_BOOTSTRAP))
            .set_substreams_timeout(limits::NEGOTIATE_DEADLINE);
        let mut inner = kad::Behaviour::with_config(peer, ProviderStore::new(peer), config);
        inner.set_mode(Some(Mode::Client));
        Self {
            inner,
            connections: HashMap::new(),
            asked: HashMap::new(),
            flooding: None,
            blamed: HashMap::new(),
        }
    }

    /// Whether a peer is blamed again: a burst of requests is one offence.
    fn may_blame(&mut self, peer: PeerId, now: Instant) -> bool {
        let recent = |then: &Instant| now.duration_since(*then) < limits::KADEMLIA_BLAME;
        if self.blamed.get(&peer).is_some_and(recent) {
            return false;
        }
        self.blamed.retain(|_, then| recent(then));
        self.blamed.insert(peer, now);
        true
    }

    /// Where this node meets peers.
    fn admitted(&self) -> Admitted {
        let meets = |wanted| self.connections.values().any(|scope| *scope == wanted);
        // Who meets strangers from afar is not led into its own network by them.
        let near = !meets(Scope::Global);
        Admitted {
            loopback: near && meets(Scope::Loopback),
            private: near && meets(Scope::Private),
        }
    }
}

type Inner = kad::Behaviour<ProviderStore>;

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<Inner>;
    type ToSwarm = Event;

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

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = self
            .inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)?;
        let admitted = self.admitted();
        let known = known
            .into_iter()
            .filter(|known| admitted.admits(known) && !is_named(known));
        // Queries collect what everybody says of a peer.
        let known = one_through_each_relay(known.collect()).addresses;
        let known = known.into_iter();
        Ok(known.take(limits::KADEMLIA_DIALLED_ADDRESSES).collect())
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
        match &event {
            FromSwarm::ConnectionEstablished(established) => {
                let remote = established.endpoint.get_remote_address();
                self.connections
                    .insert(established.connection_id, scope(remote));
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.remove(&closed.connection_id);
                if closed.remaining_established == 0 {
                    self.asked.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        // Answers to our own queries count too.
        let now = Instant::now();
        let asked = self.asked.entry(peer).or_default();
        if asked.try_take(ASKED, 1, now) {
            self.inner
                .on_connection_handler_event(peer, connection, event);
        } else if self.inner.iter_queries().next().is_none() && self.may_blame(peer, now) {
            self.flooding = Some(peer);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(peer) = self.flooding.take() {
            return Poll::Ready(ToSwarm::GenerateEvent(Event::Flood(peer)));
        }
        let action = self.inner.poll(cx);
        action.map(|action| action.map_out(|event| Event::Kademlia(Box::new(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_requests_is_one_offence() {
        let mut behaviour = Behaviour::new(PeerId::random());
        let (peer, now) = (PeerId::random(), Instant::now());
        assert!(behaviour.may_blame(peer, now));
        assert!(!behaviour.may_blame(peer, now + Duration::from_secs(9)));
        assert!(behaviour.may_blame(PeerId::random(), now));
        assert!(behaviour.may_blame(peer, now + limits::KADEMLIA_BLAME));
        assert_eq!(behaviour.blamed.len(), 1);
    }
}

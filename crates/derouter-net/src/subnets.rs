//! At most so many inbound connections from one network, so that one machine with many peer ids
//! can't take every place; and at most so many new ones in a second, so that it can't keep this node
//! busy with handshakes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::{Subnet, subnet};
use crate::heartbeat::bucket::Bucket;
use crate::limits;

/// A network has as many inbound connections as it may have, or began as many.
#[derive(Debug, thiserror::Error)]
#[error("too many connections from one network")]
struct TooMany;

/// How many connections each network may still begin. Pure.
#[derive(Debug, Default)]
struct Arrivals(HashMap<Subnet, Bucket>);

impl Arrivals {
    fn may_come(&mut self, network: Subnet, now: Instant) -> bool {
        if !self.0.contains_key(&network) {
            self.make_room(now);
        }
        let bucket = self.0.entry(network).or_default();
        bucket.try_take(limits::INBOUND_RATE, 1, now)
    }

    fn make_room(&mut self, now: Instant) {
        let rate = limits::INBOUND_RATE;
        let full_at = |bucket: &Bucket| bucket.ready_at(rate, rate.burst, now);
        if self.0.len() >= limits::INBOUND_NETWORKS {
            self.0.retain(|_, bucket| full_at(bucket) > now);
        }
        if self.0.len() >= limits::INBOUND_NETWORKS {
            let least = self.0.iter().min_by_key(|(_, bucket)| full_at(bucket));
            if let Some(least) = least.map(|(network, _)| *network) {
                self.0.remove(&least);
            }
        }
    }
}

/// Counts inbound connections by network and refuses those over the limit.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    inbound: HashMap<Subnet, usize>,
    /// Those whose handshake is not finished; libp2p bounds them.
    pending: HashMap<ConnectionId, Subnet>,
    arrivals: Arrivals,
}

impl Behaviour {
    /// Takes a place among the pending connections of a network, so that one that never finishes
    /// a handshake leaves places to others.
    fn begin(&mut self, id: ConnectionId, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        self.check(address)?;
        let Some(subnet) = subnet(address) else {
            return Ok(());
        };
        let pending = self.pending.values().filter(|other| **other == subnet);
        if pending.count() >= limits::PENDING_PER_SUBNET {
            return Err(ConnectionDenied::new(TooMany));
        }
        // The last question: what is refused for another reason costs nothing.
        if !self.arrivals.may_come(subnet, Instant::now()) {
            return Err(ConnectionDenied::new(TooMany));
        }
        self.pending.insert(id, subnet);
        Ok(())
    }

    fn check(&self, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        let count = subnet(address).and_then(|subnet| self.inbound.get(&subnet));
        if count.is_some_and(|count| *count >= limits::INBOUND_PER_SUBNET) {
            return Err(ConnectionDenied::new(TooMany));
        }
        Ok(())
    }

    fn established(&mut self, address: &Multiaddr) {
        if let Some(subnet) = subnet(address) {
            *self.inbound.entry(subnet).or_default() += 1;
        }
    }

    fn closed(&mut self, address: &Multiaddr) {
        let Some(subnet) = subnet(address) else {
            return;
        };
        if let Some(count) = self.inbound.get_mut(&subnet) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.inbound.remove(&subnet);
            }
        }
    }
}

/// The remote address of an inbound connection.
fn inbound_address(endpoint: &ConnectedPoint) -> Option<&Multiaddr> {
    match endpoint {
        ConnectedPoint::Listener { send_back_addr, .. } => Some(send_back_addr),
        ConnectedPoint::Dialer { .. } => None,
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin(connection, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(failure) => {
                self.pending.remove(&failure.connection_id);
            }
            FromSwarm::ConnectionEstablished(established) => {
                self.pending.remove(&established.connection_id);
                if let Some(address) = inbound_address(established.endpoint) {
                    self.established(address);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(address) = inbound_address(closed.endpoint) {
                    self.closed(address);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::{ListenError, ListenFailure};

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_network_gets_sixteen_places_and_others_still_get_theirs() {
        let mut behaviour = Behaviour::default();
        for host in 0..limits::INBOUND_PER_SUBNET {
            let address = address(&format!("/ip4/203.0.113.{host}/tcp/1000"));
            assert!(behaviour.check(&address).is_ok());
            behaviour.established(&address);
        }
        let one_more = address("/ip4/203.0.113.200/udp/7/quic-v1");
        assert!(behaviour.check(&one_more).is_err());
        assert!(behaviour.check(&address("/ip4/203.0.114.1/tcp/1")).is_ok());
        assert!(behaviour.check(&address("/ip6/2001:db8::1/tcp/1")).is_ok());
        behaviour.closed(&address("/ip4/203.0.113.3/tcp/1000"));
        assert!(behaviour.check(&one_more).is_ok());
    }

    fn network(number: usize) -> Subnet {
        let [.., high, low] = number.to_be_bytes();
        Subnet::V4([203, high, low])
    }

    #[test]
    fn a_network_that_comes_and_goes_gets_a_burst_and_then_one_connection_a_second() {
        let mut arrivals = Arrivals::default();
        let now = Instant::now();
        let burst = limits::INBOUND_RATE.burst;
        assert!((0..burst).all(|_| arrivals.may_come(network(1), now)));
        assert!(!arrivals.may_come(network(1), now));
        assert!(arrivals.may_come(network(2), now), "others are let in");
        let later = now + limits::INBOUND_RATE.every;
        assert!(arrivals.may_come(network(1), later));
        assert!(!arrivals.may_come(network(1), later));
    }

    #[test]
    fn a_flood_of_networks_does_not_make_one_that_owes_much_forgotten() {
        let mut arrivals = Arrivals::default();
        let now = Instant::now();
        while arrivals.may_come(network(0), now) {}
        for number in 1..2 * limits::INBOUND_NETWORKS {
            assert!(arrivals.may_come(network(number), now), "{number}");
        }
        assert_eq!(arrivals.0.len(), limits::INBOUND_NETWORKS);
        assert!(!arrivals.may_come(network(0), now));
    }

    #[test]
    fn unfinished_handshakes_of_one_network_leave_places_to_others() {
        let mut behaviour = Behaviour::default();
        let local = address("/ip4/198.51.100.1/tcp/1");
        let mut arrive = |id: usize, text: &str| {
            let id = ConnectionId::new_unchecked(id);
            behaviour.handle_pending_inbound_connection(id, &local, &address(text))
        };
        let one_network = "/ip4/203.0.113.9/tcp/1000";
        for id in 0..limits::PENDING_PER_SUBNET {
            assert!(arrive(id, one_network).is_ok());
        }
        assert!(arrive(100, one_network).is_err());
        assert!(arrive(101, "/ip4/203.0.114.1/tcp/1").is_ok());
        for id in 200..250 {
            assert!(arrive(id, "/ip4/127.0.0.1/tcp/1").is_ok());
        }
        behaviour.on_swarm_event(FromSwarm::ListenFailure(ListenFailure {
            local_addr: &local,
            send_back_addr: &address(one_network),
            error: &ListenError::Aborted,
            connection_id: ConnectionId::new_unchecked(0),
            peer_id: None,
        }));
        let again = ConnectionId::new_unchecked(102);
        assert!(behaviour.begin(again, &address(one_network)).is_ok());
    }
}

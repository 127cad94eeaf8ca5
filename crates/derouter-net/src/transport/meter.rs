//! Bytes of connections, counted where substreams are read and written.
//!
//! What is counted is the payload of all substreams, with protocol negotiation: what the muxer
//! (yamux or QUIC) carries, without its own headers, encryption and IP. On TCP this is some 1% less
//! than what goes over the wire for large transfers; on QUIC some 4%.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use libp2p::{Multiaddr, PeerId};

use super::limiter::{RateLimiter, Share};

/// Bytes in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received.
    pub bytes_in: u64,
    /// Sent.
    pub bytes_out: u64,
}

#[derive(Debug, Default)]
struct Counts {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Counts {
    fn traffic(&self) -> Traffic {
        Traffic {
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

/// All connections of a node since it started. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMeter(Arc<Counts>);

impl NodeMeter {
    pub(crate) fn traffic(&self) -> Traffic {
        self.0.traffic()
    }
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionMeter {
    own: Counts,
    node: NodeMeter,
    /// What it may read, where there is a limit.
    pub(super) share: Option<Share>,
}

impl ConnectionMeter {
    pub(crate) fn traffic(&self) -> Traffic {
        self.own.traffic()
    }

    pub(super) fn received(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.own.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        self.node.0.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.own.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.node.0.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Hands each connection's meter from the transport, which makes it, to the behaviour that knows
/// the connection's id. Cheap to clone.
///
/// Both know the peer and its address. Two connections that one peer makes from one address at the
/// same moment can't be told apart, and may get each other's meter. The list holds connections
/// between their handshake and the next turn of the swarm, which pending limits bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters {
    node: NodeMeter,
    limiter: Option<Arc<RateLimiter>>,
    unclaimed: Arc<Mutex<Vec<Unclaimed>>>,
}

#[derive(Debug)]
struct Unclaimed {
    peer: PeerId,
    address: Multiaddr,
    meter: Weak<ConnectionMeter>,
}

impl Meters {
    /// `bytes_per_second` limits what all connections together read.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            limiter: bytes_per_second.map(|rate| Arc::new(RateLimiter::new(rate))),
            ..Self::default()
        }
    }

    pub(crate) fn node(&self) -> &NodeMeter {
        &self.node
    }

    /// The meter of a new connection.
    pub(super) fn start(&self) -> Arc<ConnectionMeter> {
        Arc::new(ConnectionMeter {
            own: Counts::default(),
            node: self.node.clone(),
            share: self.limiter.clone().map(Share::new),
        })
    }

    /// Keeps a meter for whoever learns the connection's id.
    pub(super) fn offer(&self, peer: PeerId, address: Multiaddr, meter: &Arc<ConnectionMeter>) {
        let mut unclaimed = self.lock();
        // Connections that the swarm refused never come for theirs.
        unclaimed.retain(|known| known.meter.strong_count() > 0);
        unclaimed.push(Unclaimed {
            peer,
            address,
            meter: Arc::downgrade(meter),
        });
    }

    /// The meter of a connection that was just established. One that counts nothing when there is
    /// none, which does not happen with this transport.
    pub(crate) fn claim(&self, peer: PeerId, address: &Multiaddr) -> Arc<ConnectionMeter> {
        let mut unclaimed = self.lock();
        let found = unclaimed.iter().position(|known| {
            known.peer == peer && known.address == *address && known.meter.strong_count() > 0
        });
        let claimed = found.and_then(|index| unclaimed.remove(index).meter.upgrade());
        claimed.unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Unclaimed>> {
        self.unclaimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_connection_gets_the_meter_that_its_transport_made_for_it() {
        let meters = Meters::new(None);
        let peer = PeerId::random();
        let (one, other) = (meters.start(), meters.start());
        meters.offer(peer, address(1), &one);
        meters.offer(peer, address(2), &other);
        let claimed = meters.claim(peer, &address(2));
        assert!(Arc::ptr_eq(&claimed, &other));
        claimed.received(5);
        claimed.sent(7);
        let seven = Traffic {
            bytes_in: 5,
            bytes_out: 7,
        };
        assert_eq!(other.traffic(), seven);
        assert_eq!(meters.node().traffic(), seven);
        assert_eq!(one.traffic(), Traffic::default());
        let stranger = meters.claim(PeerId::random(), &address(1));
        assert!(!Arc::ptr_eq(&stranger, &one));
        assert!(Arc::ptr_eq(&meters.claim(peer, &address(1)), &one));
    }

    #[test]
    fn meters_of_connections_that_nobody_took_are_forgotten() {
        let meters = Meters::new(None);
        for _ in 0..100 {
            meters.offer(PeerId::random(), address(1), &meters.start());
        }
        assert!(meters.lock().len() <= 1);
    }
}

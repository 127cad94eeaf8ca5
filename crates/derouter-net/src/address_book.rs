//! Where peers were last seen, so that they can be dialled again.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::limits;

#[derive(Debug, Default)]
struct Entry {
    /// Best first.
    addresses: VecDeque<Multiaddr>,
    /// Ascending number of the last change, to forget the least recent peer.
    changed: u64,
}

/// The addresses of peers: what worked first, then what was told last.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    peers: HashMap<PeerId, Entry>,
    changes: u64,
}

impl AddressBook {
    /// Somebody says that the peer is there.
    pub(crate) fn told(&mut self, peer: PeerId, address: Multiaddr) {
        let address = without_peer(address, peer);
        let entry = self.entry(peer);
        if entry.addresses.contains(&address) {
            return;
        }
        if entry.addresses.len() >= limits::BOOK_ADDRESSES {
            entry.addresses.pop_back();
        }
        // Behind the best one, which may have worked.
        let place = entry.addresses.len().min(1);
        entry.addresses.insert(place, address);
    }

    /// The peer was reached there.
    pub(crate) fn worked(&mut self, peer: PeerId, address: Multiaddr) {
        let address = without_peer(address, peer);
        let entry = self.entry(peer);
        entry.addresses.retain(|known| *known != address);
        entry.addresses.push_front(address);
        entry.addresses.truncate(limits::BOOK_ADDRESSES);
    }

    /// The peer was not reached there: it goes last, and is the first to be forgotten.
    pub(crate) fn failed(&mut self, peer: PeerId, address: Multiaddr) {
        let address = without_peer(address, peer);
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        let before = entry.addresses.len();
        entry.addresses.retain(|known| *known != address);
        if entry.addresses.len() < before {
            entry.addresses.push_back(address);
        }
    }

    /// What is known, best first.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let entry = self.peers.get(peer);
        entry.map_or_else(Vec::new, |entry| entry.addresses.iter().cloned().collect())
    }

    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        if self.peers.len() >= limits::BOOK_PEERS && !self.peers.contains_key(&peer) {
            let least_recent = self.peers.iter().min_by_key(|(_, entry)| entry.changed);
            if let Some(forgotten) = least_recent.map(|(peer, _)| *peer) {
                self.peers.remove(&forgotten);
            }
        }
        self.changes += 1;
        let entry = self.peers.entry(peer).or_default();
        entry.changed = self.changes;
        entry
    }
}

/// Without a `/p2p/<peer>` at its end, so that equal places compare equal.
fn without_peer(mut address: Multiaddr, peer: PeerId) -> Multiaddr {
    if address.iter().last() == Some(Protocol::P2p(peer)) {
        address.pop();
    }
    address
}

/// Feeds the book from the swarm, and the swarm's dials from the book.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// The book.
    pub(crate) book: AddressBook,
}

impl Behaviour {
    fn on_dial_failure(&mut self, failure: DialFailure<'_>) {
        let Some(peer) = failure.peer_id else {
            return;
        };
        match failure.error {
            DialError::Transport(errors) => {
                for (address, _) in errors {
                    self.book.failed(peer, address.clone());
                }
            }
            DialError::WrongPeerId { address, .. } => self.book.failed(peer, address.clone()),
            _ => {}
        }
    }

    fn on_established(&mut self, established: ConnectionEstablished<'_>) {
        let peer = established.peer_id;
        if established.endpoint.is_dialer() && !established.endpoint.is_relayed() {
            let address = established.endpoint.get_remote_address();
            self.book.worked(peer, address.clone());
        }
        for address in established.failed_addresses {
            self.book.failed(peer, address.clone());
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.map_or_else(Vec::new, |peer| self.book.addresses(&peer)))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
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
            FromSwarm::ConnectionEstablished(established) => self.on_established(established),
            FromSwarm::DialFailure(failure) => self.on_dial_failure(failure),
            FromSwarm::NewExternalAddrOfPeer(told) => {
                self.book.told(told.peer_id, told.addr.clone());
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
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn what_worked_is_dialled_first_and_what_failed_last() {
        let mut book = AddressBook::default();
        let peer = PeerId::random();
        for port in 1..=3 {
            book.told(peer, address(port));
        }
        book.worked(peer, address(2));
        book.failed(peer, address(1));
        assert_eq!(book.addresses(&peer), [address(2), address(3), address(1)]);
        book.told(peer, address(2));
        assert_eq!(book.addresses(&peer).len(), 3);
    }

    #[test]
    fn an_address_with_the_peers_own_id_is_the_same_address() {
        let mut book = AddressBook::default();
        let peer = PeerId::random();
        book.told(peer, address(1).with(Protocol::P2p(peer)));
        book.told(peer, address(1));
        assert_eq!(book.addresses(&peer), [address(1)]);
    }

    #[test]
    fn a_peer_that_tells_many_addresses_keeps_the_one_that_worked() {
        let mut book = AddressBook::default();
        let peer = PeerId::random();
        book.worked(peer, address(1));
        for port in 2..1000 {
            book.told(peer, address(port));
        }
        let known = book.addresses(&peer);
        assert_eq!(known.len(), limits::BOOK_ADDRESSES);
        assert_eq!(known.first(), Some(&address(1)));
    }

    #[test]
    fn the_least_recent_peer_is_forgotten_first() {
        let mut book = AddressBook::default();
        let first = PeerId::random();
        book.told(first, address(1));
        for _ in 0..limits::BOOK_PEERS {
            book.told(PeerId::random(), address(1));
        }
        assert_eq!(book.peers.len(), limits::BOOK_PEERS);
        assert!(book.addresses(&first).is_empty());
    }
}

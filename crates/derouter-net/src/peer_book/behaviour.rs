//! Feeds the book from the swarm and the swarm's dials from the book, and refuses whom the operator
//! or the book bans.

use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::{Met, PeerBook, Source};
use crate::access::AccessRules;
use crate::address::{Scope, ip_of, is_relayed, scope};
use crate::circuits::one_through_each_relay;
use crate::clock::unix_now;
use crate::dial_error::{address_error_text, dial_error_text};

/// Why a peer is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("`peers` in this node's configuration does not let it in")]
    Rule,
    #[error("it is banned for misbehaviour until {0} (Unix time)")]
    Banned(u64),
    #[error("several banned peers share its address")]
    BannedAddress,
}

/// The book, wired to the swarm.
#[derive(Debug)]
pub(crate) struct Behaviour {
    pub(crate) book: PeerBook,
    rules: AccessRules,
}

impl Behaviour {
    pub(crate) fn new(book: PeerBook, rules: AccessRules) -> Self {
        Self { book, rules }
    }

    /// Whether nothing is taken from this peer: the operator blocks it, or it is banned.
    pub(crate) fn refuses(&self, peer: &PeerId) -> bool {
        self.rules.blocks_peer(peer) || self.book.banned_until(peer, unix_now()).is_some()
    }

    /// Whether the operator lets this node dial the peer.
    pub(crate) fn may_dial(&self, peer: &PeerId) -> bool {
        self.rules.may_dial(peer)
    }

    /// Peers that the operator blocks by name.
    pub(crate) fn blocked_peers(&self) -> Vec<PeerId> {
        self.rules.blocked_peers().copied().collect()
    }

    fn check_address(&self, address: &Multiaddr) -> Result<(), Refused> {
        let Some(ip) = direct_ip(address) else {
            return Ok(());
        };
        if self.rules.blocks_ip(Some(ip)) {
            return Err(Refused::Rule);
        }
        // Many peers may share an address of this machine or a private network.
        if scope(address) == Scope::World && self.book.bans_ip(ip, unix_now()) {
            return Err(Refused::BannedAddress);
        }
        Ok(())
    }

    fn check_ban(&self, peer: &PeerId) -> Result<(), Refused> {
        match self.book.banned_until(peer, unix_now()) {
            Some(until) => Err(Refused::Banned(until.0)),
            None => Ok(()),
        }
    }

    fn check(&self, peer: &PeerId, address: &Multiaddr) -> Result<(), Refused> {
        if !self.rules.admits(peer, direct_ip(address)) {
            return Err(Refused::Rule);
        }
        self.check_ban(peer)
    }

    fn check_dial(&self, peer: Option<PeerId>, addresses: &[Multiaddr]) -> Result<(), Refused> {
        if let Some(peer) = peer {
            if !self.rules.may_dial(&peer) {
                return Err(Refused::Rule);
            }
            self.check_ban(&peer)?;
        }
        let blocked = |address: &Multiaddr| self.rules.blocks_ip(direct_ip(address));
        if !addresses.is_empty() && addresses.iter().all(blocked) {
            return Err(Refused::Rule);
        }
        Ok(())
    }

    fn on_established(&mut self, established: ConnectionEstablished<'_>) {
        let now = unix_now();
        let peer = established.peer_id;
        let endpoint = established.endpoint;
        let address = endpoint.get_remote_address();
        let near = if endpoint.is_relayed() {
            Scope::World
        } else {
            scope(address)
        };
        let met = Met {
            peer,
            connection: established.connection_id,
            address,
            outbound: endpoint.is_dialer(),
            near,
        };
        self.book.met(met, now);
        for address in established.failed_addresses {
            let reason = "no connection here, while another address answered";
            self.book.address_failed(peer, address.clone(), reason, now);
        }
    }

    fn on_closed(&mut self, closed: ConnectionClosed<'_>) {
        self.book
            .parted(closed.peer_id, closed.connection_id, unix_now());
    }

    fn on_dial_failure(&mut self, failure: DialFailure<'_>) {
        let Some(peer) = failure.peer_id else {
            return;
        };
        let now = unix_now();
        match failure.error {
            // The outcome of another dial counts.
            DialError::DialPeerConditionFalse(_) | DialError::Aborted => return,
            DialError::Transport(errors) => {
                for (address, error) in errors {
                    let reason = address_error_text(error);
                    self.book
                        .address_failed(peer, address.clone(), &reason, now);
                }
            }
            DialError::WrongPeerId { address, .. } => {
                let reason = dial_error_text(failure.error);
                self.book
                    .belongs_to_another(peer, address.clone(), &reason, now);
            }
            _ => {}
        }
        let reason = dial_error_text(failure.error);
        self.book.dial_failed(peer, &reason, now, rand::random());
    }
}

/// The address at the other end; not that of a relay.
fn direct_ip(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) {
        return None;
    }
    ip_of(address)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check_address(remote).map_err(ConnectionDenied::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.check_dial(peer, addresses)
            .map_err(ConnectionDenied::new)?;
        let Some(peer) = peer else {
            return Ok(Vec::new());
        };
        let now = unix_now();
        let mut known = self.book.addresses(&peer, now);
        known.retain(|address| !self.rules.blocks_ip(direct_ip(address)));
        let dialled = one_through_each_relay(known);
        for (relay, address) in dialled.relays {
            self.book
                .learn(relay, address, Source::Told, Scope::World, now);
        }
        Ok(dialled.addresses)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer, remote).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.rules.answered(peer, address);
        self.check(&peer, address).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.on_established(established),
            FromSwarm::ConnectionClosed(closed) => self.on_closed(closed),
            FromSwarm::DialFailure(failure) => self.on_dial_failure(failure),
            // From Kademlia, mDNS or the peer itself; the latter two are told with their source
            // by the actor.
            FromSwarm::NewExternalAddrOfPeer(told) => {
                let (peer, address) = (told.peer_id, told.addr.clone());
                let near = self.book.near(&peer);
                self.book
                    .learn(peer, address, Source::Told, near, unix_now());
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

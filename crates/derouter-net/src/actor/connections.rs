//! Peers that come and go: connections, dials, bootstrap nodes, identify, ping, mDNS.

use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionError, ConnectionId, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, identify, mdns, ping, relay};
use tokio::sync::oneshot;

use super::{Actor, unix_now};
use crate::address::relay_of_connection;
use crate::behaviour::{BehaviourEvent, KADEMLIA_PROTOCOL};
use crate::bootstrap::peer_of;
use crate::counters::count;
use crate::dial_error::TURNED_AWAY;
use crate::discovery::DISCOVERY;
use crate::error::DialError;
use crate::kademlia::scope::Admitted;
use crate::limits;
use crate::peer::{PeerConnection, PeerEvent, PeerInfo};
use crate::peer_book::Source;
use crate::reachability::place;
use crate::reachability::punched::Told;
use crate::streams::{MESH, REQUESTS};
use crate::transport::{dial_error_text, reservation_error_text};

/// What a peer calls itself is kept up to this many characters.
const AGENT_CHARS: usize = 128;

/// One that ends within this before the peer says who it is was not wanted.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A connected peer.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    pub(super) agent: Option<String>,
    pub(super) version_0_1: Option<bool>,
    subscribed: bool,
    /// What it speaks, once it has identified itself.
    pub(super) speaks: Speaks,
    /// Where it says that it listens, as far as others may be told.
    pub(super) listens: Vec<Multiaddr>,
    /// From where it says that it is reached.
    pub(super) told: Told,
    /// At most [`limits::ESTABLISHED_PER_PEER`].
    pub(super) connections: Vec<(ConnectionId, PeerConnection)>,
}

/// What a peer speaks, of what decides how it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Speaks {
    /// It relays circuits for others.
    pub(super) relay: bool,
    /// It answers Kademlia queries.
    pub(super) kademlia: bool,
    /// It tests addresses (AutoNAT v2).
    pub(super) autonat: bool,
    /// It answers the discovery protocol (0.2).
    pub(super) discovery: bool,
    /// It knows offers by heartbeats alone (0.1).
    pub(super) legacy: bool,
}

impl Speaks {
    fn of(protocols: &[StreamProtocol]) -> Self {
        let has = |name: &StreamProtocol| protocols.contains(name);
        Self {
            relay: has(&relay::HOP_PROTOCOL_NAME),
            kademlia: has(&KADEMLIA_PROTOCOL),
            autonat: has(&AUTONAT),
            discovery: has(&DISCOVERY),
            legacy: has(&REQUESTS) && !has(&DISCOVERY),
        }
    }
}

/// How peers ask for a test of their addresses.
const AUTONAT: StreamProtocol = crate::autonat::DIAL_REQUEST;

impl PeerState {
    /// Notes a connection. True for the first one of the peer.
    fn connect(&mut self, id: ConnectionId, connection: PeerConnection) -> bool {
        let first = self.connections.is_empty();
        self.connections.push((id, connection));
        // It may have restarted while its old connection lingers, and know nothing.
        self.subscribed = false;
        first
    }

    /// What the peer speaks, now that it says `told` on a connection. It tells what it speaks on that one
    /// connection: addresses are tested only for who dialled, circuits relayed only for who is
    /// connected directly. So only those connections take something back.
    fn spoken(&self, connection: ConnectionId, told: Speaks) -> Speaks {
        let mut connections = self.connections.iter();
        let tells_all =
            connections.any(|(id, one)| *id == connection && one.outbound && !one.relayed);
        if tells_all {
            return told;
        }
        Speaks {
            relay: told.relay || self.speaks.relay,
            kademlia: told.kademlia || self.speaks.kademlia,
            autonat: told.autonat || self.speaks.autonat,
            ..told
        }
    }

    /// Which of its addresses may be used, as it is met.
    pub(super) fn admitted(&self) -> Admitted {
        let direct = self.connections.iter().filter(|(_, one)| !one.relayed);
        Admitted::met_at(direct.map(|(_, connection)| &connection.address))
    }

    /// Whether this node opened a connection to it.
    pub(super) fn dialled(&self) -> bool {
        let mut connections = self.connections.iter();
        connections.any(|(_, connection)| connection.outbound)
    }

    /// Notes that the peer subscribed to heartbeats. True the first time since it last connected.
    pub(super) fn subscribe(&mut self) -> bool {
        !std::mem::replace(&mut self.subscribed, true)
    }
}

impl Actor {
    pub(super) fn on_connection_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let connection = PeerConnection {
                    address: endpoint.get_remote_address().clone(),
                    relayed: endpoint.is_relayed(),
                    relay: relay_of_connection(&endpoint),
                    outbound: endpoint.is_dialer(),
                    since: unix_now(),
                    rtt: None,
                    ping_errors: 0,
                    heard: Instant::now(),
                    punched: false,
                };
                self.on_established(peer_id, connection_id, connection);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                num_established,
                cause,
                ..
            } => {
                let broke = cause.is_some();
                let by_peer = matches!(cause, Some(ConnectionError::IO(_)));
                tracing::debug!(peer = %peer_id, cause = ?cause.map(|cause| cause.to_string()), "connection closed");
                if by_peer && num_established == 0 && self.is_turned_away(&peer_id) {
                    self.on_turned_away(peer_id);
                }
                self.on_closed(peer_id, connection_id, num_established);
                if broke && num_established > 0 {
                    self.look_at_remaining(peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.on_dial_error(connection_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening for peers");
                self.on_new_listen_address(&address);
                if self.tells_listen_addresses {
                    self.tell_listen_address(address);
                }
                self.on_own_addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.on_expired_listen_address(&address);
            }
            SwarmEvent::NewExternalAddrCandidate { address } => {
                self.on_address_candidate(&address);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                let error = reason.as_ref().err().map(reservation_error_text);
                if !self.on_reservation_closed(listener_id, error) {
                    tracing::warn!(?addresses, ?reason, "no longer listening");
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "an address can't be listened on for now");
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
                if matches!(error, ListenError::Denied { .. }) {
                    count(&self.counters.inbound_refused);
                }
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, connection: PeerConnection) {
        tracing::debug!(%peer, address = %connection.address, relayed = connection.relayed, "connected");
        self.on_reachability_connected(peer, id, &connection);
        let inbound = !connection.outbound;
        let state = self.peers.entry(peer).or_default();
        if state.connect(id, connection) {
            self.tell_peer_event(PeerEvent::Connected(peer));
        }
        if inbound {
            self.make_place(id);
            self.look_at_older(peer, id);
        }
        self.on_connected_for_kademlia(peer);
        let dialled = self.bootstrap_dials.remove(&id);
        self.on_bootstrap_connected(peer, dialled);
        self.keeping.dialled(&id);
        if let Some(reply) = self.awaited_dials.remove(&id) {
            let _ = reply.send(Ok(peer));
        }
    }

    fn on_bootstrap_connected(&mut self, peer: PeerId, dialled: Option<usize>) {
        self.bootstrap.connected(peer, dialled);
        let identified = |state: &PeerState| state.agent.is_some();
        if self.peers.get(&peer).is_some_and(identified) {
            self.on_welcomed(peer);
        }
    }

    /// The peer said who it is: it takes this node.
    fn on_welcomed(&mut self, peer: PeerId) {
        if self.bootstrap.welcomed(peer) {
            tracing::info!(%peer, "bootstrap node reached");
        }
    }

    /// Whether this node has just reached the peer, which did not say who it is.
    fn is_turned_away(&self, peer: &PeerId) -> bool {
        let Some(state) = self.peers.get(peer) else {
            return false;
        };
        let mut connections = state.connections.iter();
        let is_new =
            connections.all(|(_, one)| unix_now().0.abs_diff(one.since.0) < HANDSHAKE.as_secs());
        is_new && state.dialled() && state.agent.is_none()
    }

    fn on_turned_away(&mut self, peer: PeerId) {
        let (now, chance) = (unix_now(), rand::random());
        let book = self.book_mut();
        book.dial_failed(peer, TURNED_AWAY, now, chance);
        let told = self
            .bootstrap
            .turned_away(peer, TURNED_AWAY, Instant::now(), chance);
        if let Some(address) = told {
            tracing::warn!(%address, reason = TURNED_AWAY, "a bootstrap node does not take this node, trying again");
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, remaining: u32) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.connections.retain(|(known, _)| *known != id);
        }
        self.on_reachability_closed(peer, id, remaining);
        if remaining > 0 {
            return;
        }
        self.peers.remove(&peer);
        self.update_discovery_peers();
        self.update_legacy();
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        gossipsub.remove_explicit_peer(&peer);
        self.bootstrap
            .disconnected(peer, Instant::now(), rand::random());
        self.keeping.lost_peer(Instant::now(), rand::random());
        self.tell_peer_event(PeerEvent::Disconnected(peer));
    }

    fn tell_peer_event(&self, event: PeerEvent) {
        if self.peer_events.try_send(event).is_err() {
            count(&self.counters.peer_events_dropped);
        }
    }

    fn on_dial_error(&mut self, id: ConnectionId, error: &swarm::DialError) {
        self.on_reachability_dial_error(id, error);
        if let Some(index) = self.bootstrap_dials.remove(&id) {
            self.on_bootstrap_error(index, error);
        }
        self.keeping.dialled(&id);
        if let Some(reply) = self.awaited_dials.remove(&id) {
            let _ = reply.send(Err(DialError::Unreachable(dial_error_text(error))));
        }
    }

    fn on_bootstrap_error(&mut self, index: usize, error: &swarm::DialError) {
        let reason = dial_error_text(error);
        if let Some(address) = self.bootstrap.address(index)
            && leads_here(address, error)
        {
            tracing::info!(%address, "a configured bootstrap address is this node itself");
            return self.bootstrap.is_ourselves(index);
        }
        let chance = rand::random();
        let told = self
            .bootstrap
            .failed(index, &reason, Instant::now(), chance);
        if let Some(address) = told {
            tracing::warn!(
                %address,
                %reason,
                "bootstrap node not reached, trying again; check that it runs and that its address, port and peer id are right"
            );
        }
    }

    /// Dials the bootstrap nodes that are due.
    pub(super) fn dial_bootstrap(&mut self) {
        while let Some((index, address)) = self.bootstrap.take(Instant::now()) {
            if let Some(peer) = peer_of(&address)
                && self.swarm.is_connected(&peer)
            {
                self.on_bootstrap_connected(peer, Some(index));
                continue;
            }
            let opts = dial_opts(address, PeerCondition::Disconnected);
            let id = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => {
                    self.bootstrap_dials.insert(id, index);
                }
                Err(error) => self.on_bootstrap_error(index, &error),
            }
        }
    }

    pub(super) fn dial(
        &mut self,
        address: Multiaddr,
        reply: oneshot::Sender<Result<PeerId, DialError>>,
    ) {
        self.awaited_dials.retain(|_, reply| !reply.is_closed());
        if self.awaited_dials.len() >= limits::AWAITED_DIALS {
            let _ = reply.send(Err(DialError::Busy));
            return;
        }
        let opts = dial_opts(address, PeerCondition::Always);
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.awaited_dials.insert(id, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(DialError::Unreachable(dial_error_text(&error))));
            }
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received {
            peer_id,
            connection_id,
            info,
        } = event
        else {
            return;
        };
        let Some(state) = self.peers.get_mut(&peer_id) else {
            return;
        };
        let printable = info.agent_version.chars().filter(|c| !c.is_control());
        let agent: String = printable.take(AGENT_CHARS).collect();
        state.agent = Some(agent.clone());
        let new = state.spoken(connection_id, Speaks::of(&info.protocols));
        let before = std::mem::replace(&mut state.speaks, new);
        let relays = new.relay;
        let version_0_1 = info.protocols.contains(&REQUESTS) && !info.protocols.contains(&MESH);
        let known = state.version_0_1.replace(version_0_1);
        state.told = Told::of(&info.listen_addrs);
        self.judge_punched(Some(peer_id));
        self.on_peer_listens(peer_id, &info.listen_addrs);
        self.on_reachability_identify(peer_id, connection_id, &info);
        self.learn_identity(peer_id, &agent, relays, info.listen_addrs);
        self.on_welcomed(peer_id);
        if before != new {
            self.update_discovery_peers();
            self.update_legacy();
        }
        if known == Some(version_0_1) {
            return;
        }
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        if version_0_1 {
            gossipsub.add_explicit_peer(&peer_id);
        } else {
            gossipsub.remove_explicit_peer(&peer_id);
        }
    }

    /// A connection without an answer to a ping is dead, whatever TCP believes. Another failure
    /// may be a substream that the peer dropped for a newer one ([`crate::Net::ping`]): the second
    /// in a row closes the connection.
    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        let state = self.peers.get_mut(&event.peer);
        let mut connections = state.into_iter().flat_map(|state| &mut state.connections);
        let Some((_, connection)) = connections.find(|(id, _)| *id == event.connection) else {
            return;
        };
        let error = match &event.result {
            Ok(rtt) => {
                self.reach.suspects.clear(&event.connection);
                connection.heard = Instant::now();
                connection.rtt = Some(*rtt);
                connection.ping_errors = 0;
                return;
            }
            Err(ping::Failure::Unsupported) => return,
            Err(error) => error,
        };
        connection.ping_errors += 1;
        if connection.ping_errors > 1 || matches!(error, ping::Failure::Timeout) {
            tracing::debug!(peer = %event.peer, %error, "no answer to a ping, closing");
            self.swarm.close_connection(event.connection);
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        for (peer, address) in found.into_iter().take(limits::MDNS_ADDRESSES) {
            self.learn_near(peer, address, Source::Mdns);
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            // Refused when it is connected or being dialled already.
            let _ = self.swarm.dial(opts);
        }
    }

    pub(super) fn peer_infos(&self) -> Vec<PeerInfo> {
        let info = |(peer, state): (&PeerId, &PeerState)| PeerInfo {
            peer: *peer,
            agent: state.agent.clone(),
            version_0_1: state.version_0_1,
            connections: state
                .connections
                .iter()
                .map(|(_, connection)| connection.clone())
                .collect(),
        };
        self.peers.iter().map(info).collect()
    }
}

/// To the peer that the address names, if it names one, at its other known addresses too. Those are
/// known without their peer: one that had it would be dialled twice.
fn dial_opts(mut address: Multiaddr, condition: PeerCondition) -> DialOpts {
    let Some(peer) = peer_of(&address) else {
        return DialOpts::unknown_peer_id().address(address).build();
    };
    address.pop();
    let given = (!address.is_empty()).then_some(address);
    DialOpts::peer_id(peer)
        .condition(condition)
        .addresses(given.into_iter().collect())
        .extend_addresses_through_behaviour()
        .build()
}

/// Whether a dial of this address ended at this node itself. Of the addresses of a dial, the swarm
/// takes out those that this node listens on.
fn leads_here(address: &Multiaddr, error: &swarm::DialError) -> bool {
    match error {
        swarm::DialError::LocalPeerId { .. } => true,
        swarm::DialError::NoAddresses => !place::bare(address).is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> PeerConnection {
        PeerConnection {
            address: Multiaddr::empty(),
            relayed: false,
            relay: None,
            outbound: false,
            since: unix_now(),
            rtt: None,
            ping_errors: 0,
            heard: Instant::now(),
            punched: false,
        }
    }

    #[test]
    fn what_a_peer_speaks_is_not_forgotten_for_a_connection_on_which_it_speaks_less() {
        let mut state = PeerState::default();
        for (id, outbound) in [(1, true), (2, false)] {
            let connection = PeerConnection {
                outbound,
                ..connection()
            };
            state.connect(ConnectionId::new_unchecked(id), connection);
        }
        let all = Speaks {
            relay: true,
            kademlia: true,
            autonat: true,
            ..Speaks::default()
        };
        let none = Speaks::default();
        state.speaks = state.spoken(ConnectionId::new_unchecked(1), all);
        state.speaks = state.spoken(ConnectionId::new_unchecked(2), none);
        assert_eq!(state.speaks, all);
        state.speaks = state.spoken(ConnectionId::new_unchecked(1), none);
        assert_eq!(state.speaks, none);
    }

    #[test]
    fn repeated_subscriptions_count_once_for_each_connection() {
        let mut state = PeerState::default();
        for id in [1, 2] {
            let connection = connection();
            assert_eq!(
                state.connect(ConnectionId::new_unchecked(id), connection),
                id == 1
            );
            assert!(state.subscribe());
            assert!(!state.subscribe());
        }
    }
}

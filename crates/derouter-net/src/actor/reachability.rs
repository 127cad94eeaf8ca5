//! Does what the decisions in `crate::reachability` ask, and tells them what happens.

use std::time::Instant;

use derouter_wire::rpc::network::{AddressSource, Reachability};
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionId};
use libp2p::{Multiaddr, PeerId, dcutr, identify, relay};

use super::{Actor, unix_now};
use crate::address::subnet;
use crate::autonat;
use crate::clock::boot_time;
use crate::discovery::Order;
use crate::limits;
use crate::peer::PeerConnection;
use crate::reachability::external::{self, Server};
use crate::reachability::place::{self, Scope, Transport};
use crate::reachability::punching::{self, Link};
use crate::reachability::relays::{self, Demand};

impl Actor {
    /// Looks whether anything is to be done.
    pub(super) fn look_after_reachability(&mut self) {
        let now = Instant::now();
        if self.reach.due() > now {
            return;
        }
        if let Some(slept) = self.reach.begin(now, boot_time()) {
            tracing::info!(
                seconds = slept.whole.as_secs(),
                "the machine slept, connecting again"
            );
            // Full: several sleeps in a row, whose first is not looked at yet.
            let _ = self.orders.try_send(Order::Slept(slept.unseen));
            self.network_changed(now);
        }
        self.close_dead(now);
        self.look_at_silent(now);
        self.look_at_busy(now);
        self.look_at_relays(now);
        self.map_ports(now);
        self.test_addresses(now);
        if let Some(reachability) = self.reach.judge(now) {
            tracing::info!(?reachability, "whether others can dial this node");
            self.set_kademlia_server(self.relay_server || reachability == Reachability::Public);
            self.judge_punched(None);
        }
        self.keep_reservations(now);
        self.punch(now);
        self.look_over_other_transports(now);
        self.close_idle();
        let relays = self.reach.relays.due().filter(|due| *due > now);
        let others = [relays, self.reach.suspects.due(now), self.reach.busy.due()];
        let due = others.into_iter().flatten().min();
        self.reach.no_later_than(due, now);
    }

    /// What is dead is found out, what was lost is built again, what was known is learned anew.
    pub(super) fn network_changed(&mut self, now: Instant) {
        self.reach.network_changed(now);
        self.look_at_all(now);
        self.bootstrap.hurry(now, rand::random());
        self.map_ports_again();
    }

    /// A relay tells its clients where it is reached. Each address becomes one of theirs, and lists
    /// of those are short: once it has a public address, it does not tell the others.
    pub(super) fn tell_listen_address(&mut self, address: Multiaddr) {
        let is_public = |address: &Multiaddr| place::scope(address) == Some(Scope::World);
        let told: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        if is_public(&address) {
            for other in told.iter().filter(|other| !is_public(other)) {
                self.swarm.remove_external_address(other);
            }
        } else if told.iter().any(is_public) {
            return;
        }
        self.swarm.add_external_address(address);
    }

    fn test_addresses(&mut self, now: Instant) {
        let servers = self.test_servers();
        for action in self.reach.external.poll(&servers, now, rand::random()) {
            self.do_external(action);
        }
    }

    /// Peers that test addresses. They do so on connections that we opened.
    fn test_servers(&self) -> Vec<Server> {
        let mut servers = Vec::new();
        for (peer, state) in &self.peers {
            if !state.speaks.autonat {
                continue;
            }
            let usable = |(_, connection): &&(ConnectionId, PeerConnection)| {
                let wide = place::scope(&connection.address)
                    .is_some_and(|scope| scope >= self.reach.minimum);
                connection.outbound && !connection.relayed && wide
            };
            servers.extend(
                state
                    .connections
                    .iter()
                    .find(usable)
                    .map(|(id, connection)| Server {
                        peer: *peer,
                        connection: *id,
                        subnet: subnet(&connection.address),
                    }),
            );
        }
        servers
    }

    pub(super) fn do_external(&mut self, action: external::Action) {
        match action {
            external::Action::Test(server, address) => {
                let client = &mut self.swarm.behaviour_mut().autonat_client;
                client.test(server.peer, server.connection, address);
            }
            external::Action::Confirm(address) => {
                tracing::info!(%address, "others may reach this node there");
                self.swarm.add_external_address(address);
                self.on_own_addresses_changed();
            }
            external::Action::Expire(address) => {
                tracing::info!(%address, "others do not reach this node there any more");
                self.swarm.remove_external_address(&address);
                self.on_own_addresses_changed();
            }
        }
    }

    pub(super) fn on_autonat(&mut self, event: autonat::Event) {
        let autonat::Event {
            server,
            address,
            verdict,
            back,
        } = event;
        tracing::debug!(%server, %address, ?verdict, "an address was tested");
        // The server's connection has done its work; where both sides keep it, it takes a place.
        if let Some(back) = back {
            self.reach.retiring.insert(back, server);
        }
        let now = Instant::now();
        let action = self
            .reach
            .external
            .tested(&address, server, verdict, (now, unix_now()));
        if let Some(action) = action {
            self.do_external(action);
        }
        self.reach.look_soon(now);
    }

    fn keep_reservations(&mut self, now: Instant) {
        let demand = self.reach.demand(now);
        if demand == Demand::Reserve {
            self.remember_relays(now);
        }
        for action in self.reach.relays.poll(now, demand) {
            match action {
                relays::Action::Listen(peer, circuit) => self.listen_on_relay(peer, circuit, now),
                relays::Action::Stop(listener) => {
                    self.swarm.remove_listener(listener);
                }
            }
        }
    }

    /// Relays that an earlier run knew.
    fn remember_relays(&mut self, now: Instant) {
        let known = self.book().iter().filter(|(_, entry)| entry.relays);
        let known: Vec<PeerId> = known
            .map(|(peer, _)| *peer)
            .take(limits::RELAY_CANDIDATES)
            .collect();
        for peer in known {
            let addresses = self.book().addresses(&peer, unix_now());
            if let Some(address) = addresses.first() {
                self.reach.relays.candidate(peer, address, false, now);
            }
        }
    }

    fn listen_on_relay(&mut self, peer: PeerId, circuit: Multiaddr, now: Instant) {
        match self.swarm.listen_on(circuit) {
            Ok(listener) => self.reach.relays.listening(&peer, listener, unix_now()),
            Err(error) => {
                let reason = crate::transport::innermost(&error);
                let at = (now, unix_now());
                self.reach.relays.refused(&peer, reason, at, rand::random());
            }
        }
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        let relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } = event else {
            return;
        };
        if self
            .reach
            .relays
            .accepted(relay_peer_id, Instant::now(), unix_now())
        {
            tracing::info!(relay = %relay_peer_id, "others reach this node through a relay");
        }
    }

    /// A listener ended. False when it was no reservation.
    pub(super) fn on_reservation_closed(
        &mut self,
        listener: ListenerId,
        error: Option<String>,
    ) -> bool {
        let now = Instant::now();
        let reason = error.clone();
        let closed = self
            .reach
            .relays
            .closed(listener, error, (now, unix_now()), rand::random());
        let Some((relay, was_reserved)) = closed else {
            return false;
        };
        tracing::info!(%relay, was_reserved, ?reason, "no reservation on a relay");
        self.reach.look_soon(now);
        true
    }

    /// Opens and closes connections with peers that are reached through relays.
    fn punch(&mut self, now: Instant) {
        let mut links = Vec::new();
        for (peer, state) in &self.peers {
            if !state
                .connections
                .iter()
                .any(|(_, connection)| connection.relayed)
            {
                continue;
            }
            links.extend(state.connections.iter().map(|(id, connection)| Link {
                peer: *peer,
                connection: *id,
                relayed: connection.relayed,
                outbound: connection.outbound,
                address: connection.address.clone(),
            }));
        }
        for action in self.reach.punching.poll(&links, now, rand::random()) {
            self.do_punching(action, now);
        }
    }

    fn do_punching(&mut self, action: punching::Action, now: Instant) {
        match action {
            punching::Action::DialDirect(peer) => {
                let mut addresses = self.book().addresses(&peer, unix_now());
                addresses.retain(|address| !place::is_relayed(address));
                if !addresses.is_empty() {
                    self.dial_more(peer, addresses);
                }
            }
            punching::Action::DialRelayed(peer, address) => {
                if let Some(connection) = self.dial_more(peer, vec![address]) {
                    self.reach.punching.dialled(&peer, connection, now);
                }
            }
            punching::Action::Retire(connection) => {
                let of = |id: &ConnectionId| *id == connection;
                let peer = self
                    .peers
                    .iter()
                    .find(|(_, state)| state.connections.iter().any(|(id, _)| of(id)));
                if let Some(peer) = peer.map(|(peer, _)| *peer) {
                    self.reach.retiring.insert(connection, peer);
                }
            }
        }
    }

    /// Dials a peer that is connected already, at these addresses only.
    fn dial_more(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> Option<ConnectionId> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .build();
        let connection = opts.connection_id();
        self.swarm.dial(opts).ok().map(|()| connection)
    }

    pub(super) fn on_dcutr(&mut self, event: dcutr::Event) {
        let peer = event.remote_peer_id;
        match event.result {
            Ok(connection) => {
                tracing::info!(%peer, "a direct connection was punched");
                let state = self.peers.get_mut(&peer);
                let mut connections = state.into_iter().flat_map(|state| &mut state.connections);
                if let Some((_, known)) = connections.find(|(id, _)| *id == connection) {
                    known.punched = true;
                }
                self.judge_punched(Some(peer));
            }
            Err(error) => tracing::debug!(%peer, %error, "no direct connection was punched"),
        }
    }

    /// Where fewer than two peers see this node over a transport, others are dialled over it.
    fn look_over_other_transports(&mut self, now: Instant) {
        for transport in [Transport::Quic, Transport::Tcp] {
            let listening = self
                .swarm
                .listeners()
                .any(|own| place::transport(own) == Some(transport));
            if !listening || self.reach.nat.observers(transport, now) >= 2 {
                continue;
            }
            let Some((peer, address)) = self.next_look(transport, now) else {
                continue;
            };
            if let Some(connection) = self.dial_more(peer, vec![address]) {
                self.reach.looking.insert(connection, (peer, transport));
            }
        }
    }

    /// A peer that we dialled, from afar, and that also listens on this transport.
    fn next_look(&mut self, transport: Transport, now: Instant) -> Option<(PeerId, Multiaddr)> {
        let minimum = self.reach.minimum;
        let wide =
            |address: &Multiaddr| place::scope(address).is_some_and(|scope| scope >= minimum);
        for (peer, state) in &self.peers {
            let direct = || {
                state
                    .connections
                    .iter()
                    .filter(|(_, connection)| !connection.relayed)
            };
            let has = direct().any(|(_, connection)| {
                connection.outbound && place::transport(&connection.address) == Some(transport)
            });
            let dialled =
                direct().any(|(_, connection)| connection.outbound && wide(&connection.address));
            if has || !dialled {
                continue;
            }
            let addresses = self.book().addresses(peer, unix_now());
            let fits =
                |address: &Multiaddr| place::transport(address) == Some(transport) && wide(address);
            let Some(address) = addresses.into_iter().find(fits) else {
                continue;
            };
            if self.reach.may_look(*peer, transport, now) {
                return Some((*peer, address));
            }
        }
        None
    }

    /// Closes connections that others took over for, once nothing goes over them.
    fn close_idle(&mut self) {
        let retiring: Vec<_> = self
            .reach
            .retiring
            .iter()
            .map(|(id, peer)| (*id, *peer))
            .collect();
        for (connection, peer) in retiring {
            let others = self.peers.get(&peer).map_or(0, |state| {
                state
                    .connections
                    .iter()
                    .filter(|(id, _)| *id != connection)
                    .count()
            });
            let streams = &self.swarm.behaviour().streams;
            let used = streams.connection_use(peer, connection);
            if others > 0 && used.is_some_and(|used| used.open_streams == 0) {
                self.swarm.close_connection(connection);
                self.reach.retiring.remove(&connection);
            }
        }
    }

    pub(super) fn on_reachability_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        connection: &PeerConnection,
    ) {
        let looking = self.reach.looking.remove(&id).is_some();
        let now = Instant::now();
        if connection.relayed {
            return self.reach.look_soon(now);
        }
        let over = place::transport(&connection.address);
        if connection.outbound && over == Some(Transport::Quic) {
            self.reach.udp.worked();
        }
        let far = place::scope(&connection.address) >= Some(self.reach.minimum);
        if !connection.outbound && far {
            self.reach.reached = true;
        }
        if looking {
            tracing::debug!(%peer, ?over, "reached over another transport as well");
        }
    }

    pub(super) fn on_reachability_closed(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        remaining: u32,
    ) {
        self.reach.retiring.remove(&id);
        self.reach.suspects.clear(&id);
        let now = Instant::now();
        if remaining == 0 {
            self.reach.relays.disconnected(&peer, now);
        }
        self.reach.look_soon(now);
    }

    pub(super) fn on_reachability_dial_error(
        &mut self,
        id: ConnectionId,
        error: &swarm::DialError,
    ) {
        let looking = self.reach.looking.remove(&id);
        if let (Some((peer, Transport::Quic)), swarm::DialError::Transport(_)) = (looking, error)
            && self.peers.contains_key(&peer)
        {
            self.reach.udp.failed(peer);
        }
    }

    /// What a peer says of itself and of us.
    pub(super) fn on_reachability_identify(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        info: &identify::Info,
    ) {
        let Some(state) = self.peers.get(&peer) else {
            return;
        };
        let connection = state.connections.iter().find(|(known, _)| *known == id);
        let Some(connection) = connection.map(|(_, connection)| connection.clone()) else {
            return;
        };
        let now = Instant::now();
        self.reach.look_soon(now);
        if connection.relayed {
            return;
        }
        if state.speaks.relay {
            if let Some(address) = relay_address(&connection, &info.listen_addrs) {
                self.reach.relays.candidate(peer, &address, true, now);
            }
        } else {
            self.reach.relays.no_relay(&peer);
        }
        self.observed(&connection, &info.observed_addr, now);
    }

    /// A peer sees us at this address.
    fn observed(&mut self, connection: &PeerConnection, seen_at: &Multiaddr, now: Instant) {
        let seen_at = place::bare(seen_at);
        let (Some(transport), Some(socket)) = (place::transport(&seen_at), place::socket(&seen_at))
        else {
            return;
        };
        let observer = place::ip(&connection.address).filter(|_| connection.outbound);
        let wide =
            place::scope(&connection.address).is_some_and(|scope| scope >= self.reach.minimum);
        let Some(observer) = observer.filter(|_| wide) else {
            return;
        };
        self.reach.nat.observed(transport, observer, socket, now);
        self.reach.external.observed(observer, &seen_at, now);
        // libp2p puts the listening port in place of the one that was seen. Behind a router that
        // maps it to another one, holes are punched at the port that was seen.
        self.swarm.behaviour_mut().autonat_client.suggest(seen_at);
    }

    /// libp2p puts our listening port in place of the one at which a peer sees this node.
    pub(super) fn on_address_candidate(&mut self, address: &Multiaddr) {
        let at = |one: &Multiaddr| {
            let port = place::socket(one).map(|socket| socket.port());
            place::transport(one).zip(port)
        };
        let wanted = at(address);
        if wanted.is_some() && self.swarm.listeners().any(|own| at(own) == wanted) {
            self.reach.external.translated(address, Instant::now());
        }
    }

    pub(super) fn on_new_listen_address(&mut self, address: &Multiaddr) {
        if place::is_relayed(address) {
            return;
        }
        let now = Instant::now();
        self.reach
            .external
            .candidate(address, AddressSource::Interface, now);
        if self.reach.settled(now) {
            tracing::info!(%address, "the network changed");
            self.network_changed(now);
        }
    }

    pub(super) fn on_expired_listen_address(&mut self, address: &Multiaddr) {
        if place::is_relayed(address) {
            return;
        }
        tracing::info!(%address, "an address of this machine is gone");
        if let Some(action) = self
            .reach
            .external
            .withdraw(address, AddressSource::Interface)
        {
            self.do_external(action);
        }
        self.network_changed(Instant::now());
    }

    /// The addresses that were configured to be told.
    pub(super) fn add_configured_addresses(&mut self) {
        let actions = self.reach.external.poll(&[], Instant::now(), 0.0);
        for action in actions {
            self.do_external(action);
        }
    }
}

/// Where others reach a relay: where we reached it, unless that is in our private network and it
/// knows better.
fn relay_address(connection: &PeerConnection, told: &[Multiaddr]) -> Option<Multiaddr> {
    let dialled = connection
        .outbound
        .then(|| place::bare(&connection.address));
    if dialled.as_ref().and_then(place::scope) == Some(Scope::World) {
        return dialled;
    }
    let ip = place::ip(&connection.address);
    let told = || {
        told.iter()
            .filter(|address| place::transport(address).is_some())
    };
    let global = told().find(|address| place::scope(address) == Some(Scope::World));
    let same = || told().find(|address| place::ip(address) == ip);
    global
        .cloned()
        .or(dialled)
        .or_else(|| same().cloned())
        .filter(|address| {
            !address
                .iter()
                .any(|part| matches!(part, Protocol::P2pCircuit))
        })
}

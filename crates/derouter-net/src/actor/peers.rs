//! The peer book in the actor: what is learned, who is dialled without being asked for, and what is
//! given out to be kept on disk.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Actor, unix_now};
use crate::address::{Scope, Subnet, is_named, scope, subnet};
use crate::config::RelayLimits;
use crate::connector::Connector;
use crate::directory::Whereabouts;
use crate::limits;
use crate::peer::PeerConnection;
use crate::peer_book::{Entry, KnownPeer, PeerBook, Source};

/// What the actor needs for keeping its peers.
pub(super) struct PeerKeeping {
    connector: Connector,
    /// Dials of the connector that are under way.
    dials: HashSet<ConnectionId>,
    /// Where changes of the book go.
    changes: mpsc::Sender<Vec<KnownPeer>>,
    next_turn: Instant,
    /// When news of the book are given out before that.
    news_due: Option<Instant>,
    /// Inbound connections that may be there.
    pub(super) inbound_places: usize,
    /// Peers whose gossip is not taken for now.
    pub(super) silenced: HashSet<PeerId>,
}

impl PeerKeeping {
    pub(super) fn new(
        changes: mpsc::Sender<Vec<KnownPeer>>,
        relay_server: Option<RelayLimits>,
        now: Instant,
    ) -> Self {
        let relayed = relay_server.map_or(0, |limits| limits.reservations);
        Self {
            connector: Connector::new(now),
            dials: HashSet::new(),
            changes,
            next_turn: now + limits::BOOK_INTERVAL,
            news_due: None,
            inbound_places: limits::INBOUND_PLACES.saturating_add(relayed),
            silenced: HashSet::new(),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let due = [self.connector.due(), self.news_due, Some(self.next_turn)];
        due.into_iter().flatten().min()
    }

    /// A dial has ended.
    pub(super) fn dialled(&mut self, id: &ConnectionId) {
        self.dials.remove(id);
    }

    pub(super) fn lost_peer(&mut self, now: Instant, chance: f64) {
        self.connector.lost_peer(now, chance);
    }
}

/// Whom a peer that came by itself counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    /// All of its network.
    Network(Subnet),
    /// All that come through its relay.
    Relayed(Option<PeerId>),
    /// Itself, in a private network.
    Peer(PeerId),
}

impl Guest {
    fn of(peer: PeerId, connection: &PeerConnection) -> Self {
        if connection.relayed {
            return Self::Relayed(connection.relay);
        }
        subnet(&connection.address).map_or(Self::Peer(peer), Self::Network)
    }
}

impl Actor {
    /// The peer book.
    pub(super) fn book(&self) -> &PeerBook {
        &self.swarm.behaviour().peers.book
    }

    pub(super) fn book_mut(&mut self) -> &mut PeerBook {
        &mut self.swarm.behaviour_mut().peers.book
    }

    /// Whether nothing is taken from this peer, directly or forwarded: the operator blocks it, or
    /// it is banned.
    pub(super) fn refuses(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().peers.refuses(peer)
    }

    /// `teller` says that `peer` is there. Of itself it is believed as far as its own connection
    /// reaches. Of others it may repeat what somebody far away made up, so that only a node that
    /// meets nobody from afar believes it of private addresses.
    pub(super) fn learn_address(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        source: Source,
        teller: &PeerId,
    ) -> bool {
        if is_named(&address) {
            return false;
        }
        let near = if *teller == peer || !self.meets_the_world() {
            self.book().near(teller)
        } else {
            Scope::World
        };
        self.book_mut()
            .learn(peer, address, source, near, unix_now())
    }

    /// Somebody tells where a peer is. Whether any of it is new.
    pub(super) fn learn_whereabouts(&mut self, told: &Whereabouts) -> bool {
        let known = |actor: &Self| {
            let places = actor.book().get(&told.peer).map(Entry::places);
            let places = places.unwrap_or_default().iter();
            places.map(|place| place.address.clone()).collect()
        };
        let before: HashSet<Multiaddr> = known(self);
        for address in &told.addresses {
            self.learn_address(told.peer, address.clone(), Source::Told, &told.teller);
        }
        let after: HashSet<Multiaddr> = known(self);
        !after.is_subset(&before)
    }

    /// Whether a peer is connected from beyond the private network.
    pub(super) fn meets_the_world(&self) -> bool {
        let mut connections = self.peers.values().flat_map(|state| &state.connections);
        connections.any(|(_, one)| one.relayed || scope(&one.address) == Scope::World)
    }

    /// `peer` is there, says somebody in the same network or on this machine, or whose word was
    /// checked.
    pub(super) fn learn_near(&mut self, peer: PeerId, address: Multiaddr, source: Source) {
        self.book_mut()
            .learn(peer, address, source, Scope::Machine, unix_now());
    }

    /// This node's user or module says that `peer` is there.
    pub(super) fn learn_own(&mut self, peer: PeerId, address: Multiaddr) {
        self.learn_near(peer, address, Source::Configured);
    }

    /// What a connected peer says of itself.
    pub(super) fn learn_identity(
        &mut self,
        peer: PeerId,
        agent: &str,
        relays: bool,
        listens: Vec<Multiaddr>,
    ) {
        let book = self.book_mut();
        book.identified(peer, agent, relays);
        let near = book.near(&peer);
        let listens = listens.into_iter().take(limits::IDENTIFY_ADDRESSES);
        for address in listens.filter(|address| !is_named(address)) {
            book.learn(peer, address, Source::Identify, near, unix_now());
        }
    }

    /// Peers that count as company: all that this node dialled itself. Of those that came by
    /// themselves, one for each network and for each relay, for one machine can send many.
    fn chosen_peers(&self) -> usize {
        let mut dialled = 0usize;
        let mut guests = HashSet::new();
        for (peer, state) in &self.peers {
            if state.dialled() {
                dialled = dialled.saturating_add(1);
                continue;
            }
            let connections = state.connections.iter();
            guests.extend(connections.map(|(_, one)| Guest::of(*peer, one)).next());
        }
        dialled.saturating_add(guests.len())
    }

    /// Dials known peers while there are few.
    pub(super) fn dial_known_peers(&mut self) {
        let connected = self.chosen_peers();
        let dialling = self.keeping.dials.len();
        let chance = rand::random();
        let wanted = self
            .keeping
            .connector
            .take(Instant::now(), chance, connected, dialling);
        if wanted == 0 {
            return;
        }
        let peers = &self.swarm.behaviour().peers;
        let may_dial = |peer: &PeerId| peers.may_dial(peer);
        for peer in self.book().candidates(wanted, unix_now(), may_dial) {
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            let id = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.keeping.dials.insert(id);
            }
        }
    }

    /// Good news are kept soon, those of a burst together.
    pub(super) fn note_news(&mut self) {
        if self.keeping.news_due.is_none() && self.book().has_news() {
            self.keeping.news_due = Some(Instant::now() + limits::BOOK_NEWS_DELAY);
        }
    }

    /// What is done every [`limits::BOOK_INTERVAL`], and what is done soon.
    pub(super) fn keep_peers(&mut self) {
        let now = Instant::now();
        if self.keeping.news_due.is_some_and(|due| due <= now) {
            self.keeping.news_due = None;
            self.give_out_changes();
        }
        if now < self.keeping.next_turn {
            return;
        }
        let chance: f64 = rand::random();
        self.keeping.next_turn =
            now + limits::BOOK_INTERVAL + Duration::from_secs(2).mul_f64(chance);
        self.hear_the_forgiven();
        self.give_out_changes();
    }

    /// Gives the changes of the book to whoever keeps it. When that one does not keep up, they stay
    /// in the book until the next time.
    pub(super) fn give_out_changes(&mut self) {
        if !self.book().has_changes() {
            return;
        }
        match self.keeping.changes.clone().try_reserve() {
            Ok(place) => {
                let changes = self.book_mut().take_changes(unix_now());
                if !changes.is_empty() {
                    place.send(changes);
                }
            }
            Err(TrySendError::Full(())) => {}
            // Nobody keeps it.
            Err(TrySendError::Closed(())) => drop(self.book_mut().take_changes(unix_now())),
        }
    }
}

//! Kademlia: addresses of peers, and providers of a protocol from a cold start.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use derouter_wire::ProtocolId;
use derouter_wire::kademlia::{peer_key, protocol_key};
use libp2p::kad::{
    self, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, InboundRequest, Mode,
    ProviderRecord, QueryId, QueryResult, RecordKey,
};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::Actor;
use super::conduct::Offence;
use crate::address::{is_named, subnet};
use crate::bootstrap::peer_of;
use crate::kademlia::lookups::{Begun, Lookups};
use crate::kademlia::publications::Publications;
use crate::kademlia::scope::Admitted;
use crate::kademlia::wanted::WantedProtocols;
use crate::kademlia::{Event, publications};
use crate::limits;
use crate::peer_book::Source;
use crate::varied::most_varied;

/// Queries made for one peer: those closest to it, and what it says of itself.
const QUERIES_OF_LOOKUP: usize = 2;
/// Addresses that change come in flocks: they are published together.
const ADDRESSES_SETTLE: Duration = Duration::from_secs(5);

/// What the swarm task knows of its queries.
#[derive(Debug, Default)]
pub(super) struct Kademlia {
    queries: HashMap<QueryId, Purpose>,
    lookups: Lookups<oneshot::Sender<bool>>,
    publications: Publications,
    wanted: WantedProtocols,
    /// Peers in the routing table.
    pub(super) peers: usize,
    pub(super) server: bool,
}

/// What a query is for.
#[derive(Debug)]
enum Purpose {
    /// The addresses of this peer.
    Peer(PeerId),
    /// Who provides a protocol.
    Providers(ProviderSearch),
}

#[derive(Debug, Default)]
struct ProviderSearch {
    found: HashSet<PeerId>,
    dialled: usize,
    reply: Option<oneshot::Sender<Vec<PeerId>>>,
}

impl Actor {
    /// When something here is due. Nothing is while there is nobody to ask.
    pub(super) fn kademlia_due(&self) -> Option<Instant> {
        if self.kademlia.peers == 0 {
            return None;
        }
        let due = [self.kademlia.publications.due(), self.kademlia.wanted.due()];
        due.into_iter().flatten().min()
    }

    pub(super) fn on_kademlia_timer(&mut self) {
        if self.kademlia.peers == 0 {
            return;
        }
        let now = Instant::now();
        while let Some(key) = self.kademlia.publications.take(now, rand::random()) {
            self.publish_provider(key);
        }
        while let Some(protocol) = self.kademlia.wanted.take(now, rand::random()) {
            self.search_providers(&protocol, None);
        }
    }

    /// Whether this node answers queries, which those do that others can dial.
    pub(super) fn set_kademlia_server(&mut self, server: bool) {
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        if self.kademlia.server == server {
            return;
        }
        self.kademlia.server = server;
        let mode = if server { Mode::Server } else { Mode::Client };
        behaviour.inner.set_mode(Some(mode));
        tracing::debug!(server, "kademlia");
    }

    /// The protocols of which this node announces offers.
    pub(super) fn provide_protocols<'a>(
        &mut self,
        protocols: impl Iterator<Item = &'a ProtocolId>,
    ) {
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        let protocols = protocols.take(limits::PROVIDED_PROTOCOLS);
        let mut keys: Vec<publications::Key> = protocols.map(protocol_key).collect();
        if !keys.is_empty() {
            keys.push(peer_key(&self.peer_id));
        }
        for key in self.kademlia.publications.set(&keys, Instant::now()) {
            behaviour.inner.stop_providing(&RecordKey::new(&key));
        }
    }

    /// Others reach this node elsewhere now.
    pub(super) fn on_own_addresses_changed(&mut self) {
        self.kademlia
            .publications
            .restart(Instant::now(), ADDRESSES_SETTLE);
    }

    fn publish_provider(&mut self, key: publications::Key) {
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        if let Err(error) = behaviour.inner.start_providing(RecordKey::new(&key)) {
            tracing::debug!(%error, "a provider record was not published");
        }
    }

    pub(super) fn want_protocols(&mut self, protocols: &[ProtocolId]) {
        self.kademlia.wanted.set(protocols, Instant::now());
    }

    /// Looks for providers, and dials a few of them; they tell what they know.
    pub(super) fn search_providers(
        &mut self,
        protocol: &ProtocolId,
        reply: Option<oneshot::Sender<Vec<PeerId>>>,
    ) {
        let searches = self.kademlia.queries.values();
        let searches = searches.filter(|purpose| matches!(purpose, Purpose::Providers(_)));
        // A dropped reply says that nobody was found.
        if self.kademlia.peers == 0 || searches.count() >= limits::PROVIDER_SEARCHES {
            return;
        }
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        let key = RecordKey::new(&protocol_key(protocol));
        let query = behaviour.inner.get_providers(key);
        let search = ProviderSearch {
            reply,
            ..ProviderSearch::default()
        };
        self.kademlia
            .queries
            .insert(query, Purpose::Providers(search));
    }

    /// Looks for a peer that could not be reached. The reply says whether it is worth another try.
    pub(super) fn find_peer(&mut self, peer: PeerId, reply: oneshot::Sender<bool>) {
        let known = self.swarm.is_connected(&peer);
        if known || self.kademlia.peers == 0 {
            let _ = reply.send(known);
            return;
        }
        let begun = self
            .kademlia
            .lookups
            .begin(peer, reply, QUERIES_OF_LOOKUP, Instant::now());
        match begun {
            Begun::Start => self.start_lookup(peer),
            Begun::Joined => {}
            Begun::Refused(reply) => {
                let _ = reply.send(false);
            }
        }
    }

    fn start_lookup(&mut self, peer: PeerId) {
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        let queries = [
            behaviour.inner.get_closest_peers(peer),
            behaviour
                .inner
                .get_providers(RecordKey::new(&peer_key(&peer))),
        ];
        for query in queries {
            self.kademlia.queries.insert(query, Purpose::Peer(peer));
        }
    }

    /// A query that asks the way to a peer dials that peer itself when it learns of it.
    pub(super) fn on_connected_for_kademlia(&mut self, peer: PeerId) {
        if self.kademlia.lookups.is_active(&peer) {
            self.end_lookup(peer);
        }
    }

    /// The peer is connected, or being dialled where it is.
    fn end_lookup(&mut self, peer: PeerId) {
        for reply in self.kademlia.lookups.found(&peer) {
            let _ = reply.send(true);
        }
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        self.kademlia.queries.retain(|query, purpose| {
            let over = matches!(purpose, Purpose::Peer(other) if *other == peer);
            if over && let Some(mut query) = behaviour.inner.query_mut(query) {
                query.finish();
            }
            !over
        });
    }

    pub(super) fn on_kademlia(&mut self, event: Event) {
        match event {
            Event::Flood(peer) if self.relies_on(&peer) => {
                tracing::debug!(%peer, "asks more than it may");
            }
            Event::Flood(peer) => self.blame(peer, Offence::Flood),
            Event::Kademlia(event) => self.on_kademlia_event(*event),
        }
    }

    /// Bootstrap nodes and the relays through which this node is reached are not banned for being
    /// busy.
    fn relies_on(&self, peer: &PeerId) -> bool {
        let mut bootstrap = self.bootstrap.report();
        bootstrap.any(|(address, ..)| peer_of(address) == Some(*peer))
            || self.reach.relays.is_reserved(peer)
    }

    fn on_kademlia_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated {
                peer, addresses, ..
            } => self.on_routing_updated(peer, &addresses.into_vec()),
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.on_provider_record(record),
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, .. },
            } => self.blame(source, Offence::InvalidMessage),
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.on_query(id, result, step.last),
            _ => {}
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::GetClosestPeers(result) => self.on_closest_peers(id, result),
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                self.on_providers(id, providers);
            }
            QueryResult::StartProviding(Err(error)) => {
                tracing::debug!(%error, "a provider record was not published");
            }
            _ => {}
        }
        if last {
            self.on_query_end(id);
        }
    }

    fn on_closest_peers(
        &mut self,
        id: QueryId,
        result: Result<GetClosestPeersOk, GetClosestPeersError>,
    ) {
        let Some(Purpose::Peer(peer)) = self.kademlia.queries.get(&id) else {
            return;
        };
        let peer = *peer;
        let (Ok(GetClosestPeersOk { peers, .. })
        | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
        let found = peers.into_iter().find(|info| info.peer_id == peer);
        let admitted = self.meets_peers_at();
        let addresses = found.map(|info| info.addrs).unwrap_or_default();
        let addresses = addresses.into_iter();
        let addresses = addresses.filter(|one| admitted.admits(one) && !is_named(one));
        let addresses = most_varied(addresses.collect(), limits::KADEMLIA_ADDRESSES);
        if addresses.is_empty() {
            return;
        }
        for address in addresses {
            self.learn_near(peer, address, Source::Kademlia);
        }
        self.end_lookup(peer);
    }

    fn on_providers(&mut self, id: QueryId, providers: HashSet<PeerId>) {
        let own = self.peer_id;
        match self.kademlia.queries.get_mut(&id) {
            Some(Purpose::Peer(peer)) => {
                let peer = *peer;
                if providers.contains(&peer) {
                    self.dial_found(peer);
                    self.end_lookup(peer);
                }
            }
            Some(Purpose::Providers(search)) => {
                let mut to_dial = Vec::new();
                for provider in providers {
                    let full = search.found.len() >= limits::FOUND_PROVIDERS;
                    if provider == own || full || !search.found.insert(provider) {
                        continue;
                    }
                    if search.dialled < limits::DIALLED_PROVIDERS {
                        search.dialled += 1;
                        to_dial.push(provider);
                    }
                }
                for provider in to_dial {
                    self.dial_found(provider);
                }
            }
            None => {}
        }
    }

    /// While a query goes on, its behaviour gives the addresses that it met to whoever dials.
    fn dial_found(&mut self, peer: PeerId) {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%peer, %error, "a peer found in kademlia is not dialled");
        }
    }

    fn on_query_end(&mut self, id: QueryId) {
        match self.kademlia.queries.remove(&id) {
            Some(Purpose::Peer(peer)) => {
                for reply in self.kademlia.lookups.ended(&peer, Instant::now()) {
                    let _ = reply.send(false);
                }
            }
            Some(Purpose::Providers(search)) => {
                tracing::debug!(found = search.found.len(), "providers looked up");
                if let Some(reply) = search.reply {
                    let _ = reply.send(search.found.into_iter().collect());
                }
            }
            None => {}
        }
    }

    /// Keeps the record of a connected peer, with addresses that others may use.
    fn on_provider_record(&mut self, mut record: ProviderRecord) {
        let Some(state) = self.peers.get(&record.provider) else {
            return;
        };
        let mut direct = state.connections.iter().filter(|(_, one)| !one.relayed);
        let network = direct.find_map(|(_, one)| subnet(&one.address));
        let admitted = state.admitted();
        record.addresses.retain(|address| admitted.admits(address));
        for address in &state.listens {
            if !record.addresses.contains(address) {
                record.addresses.push(address.clone());
            }
        }
        record.addresses = most_varied(record.addresses, limits::KADEMLIA_ADDRESSES);
        if record.addresses.is_empty() {
            return;
        }
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        let store = behaviour.inner.store_mut();
        if let Err(error) = store.add(record, network, Instant::now()) {
            tracing::debug!(%error, "a provider record was not kept");
        }
    }

    /// A connected peer said where it listens.
    pub(super) fn on_peer_listens(&mut self, peer: PeerId, listens: &[Multiaddr]) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let admitted = state.admitted();
        let listens = listens.iter().take(limits::IDENTIFY_ADDRESSES);
        let listens = listens.filter(|address| admitted.admits(address));
        state.listens = most_varied(listens.cloned().collect(), limits::KADEMLIA_ADDRESSES);
        let (speaks, listens) = (state.speaks.kademlia, state.listens.clone());
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        if !speaks {
            behaviour.inner.remove_peer(&peer);
            self.count_kademlia_peers();
            return;
        }
        for address in listens {
            behaviour.inner.add_address(&peer, address);
        }
    }

    /// Addresses of a peer add up as it moves; the oldest are forgotten.
    fn on_routing_updated(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        if let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() {
            let too_many = addresses.len().saturating_sub(limits::KADEMLIA_ADDRESSES);
            for address in addresses.iter().take(too_many) {
                behaviour.inner.remove_address(&peer, address);
            }
        }
        let before = self.kademlia.peers;
        self.count_kademlia_peers();
        if before == 0 && self.kademlia.peers > 0 {
            let now = Instant::now();
            self.kademlia.publications.restart(now, Duration::ZERO);
            self.kademlia.wanted.restart(now);
        }
    }

    fn count_kademlia_peers(&mut self) {
        let Some(behaviour) = self.swarm.behaviour_mut().kademlia.as_mut() else {
            return;
        };
        let buckets = behaviour.inner.kbuckets();
        self.kademlia.peers = buckets.map(|bucket| bucket.num_entries()).sum();
    }

    /// Of which networks strangers are believed: those in which this node meets peers, private ones
    /// only while it meets nobody from afar.
    fn meets_peers_at(&self) -> Admitted {
        if self.meets_the_world() {
            return Admitted::default();
        }
        let admitted = self
            .peers
            .values()
            .map(super::connections::PeerState::admitted);
        admitted.fold(Admitted::default(), |all, one| Admitted {
            loopback: all.loopback || one.loopback,
            private: all.private || one.private,
        })
    }
}

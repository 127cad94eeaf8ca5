//! What the node speaks: every libp2p behaviour, put together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use derouter_wire::announce::{LEGACY_TOPIC, SHARDS, shard_topic};
use derouter_wire::gossip::{HEARTBEAT_TOPIC, heartbeat_message_id};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, ValidationMode,
    WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Multiaddr, StreamProtocol, dcutr, identify, mdns, ping, relay, upnp};

use crate::address::Scope;
use crate::config::RelayLimits;
use crate::counters::NetCounters;
use crate::discovery::Shards;
use crate::paced::Paced;
use crate::relay_server::RelayPlaces;
use crate::streams::InboundQueue;
use crate::transport::Meters;
use crate::{kademlia, limits, peer_book, streams, subnets};

/// A protocol that is announced and never spoken: "this node takes part in the gossipsub mesh of
/// `heartbeat`". Nodes of version 0.1.0, which lack it, make every peer an explicit one and
/// answer GRAFT with PRUNE, so that ours must send them heartbeats without a mesh.
pub const MESH_PROTOCOL: &str = "/derouter/mesh/0.2.0";

/// What this node calls itself.
pub(crate) const AGENT: &str = concat!("derouter/", env!("CARGO_PKG_VERSION"));

/// The protocol string in identify (wire 0.1).
const IDENTIFY_PROTOCOL: &str = "/derouter/identify/0.1.0";

/// Kademlia among nodes of 0.2: addresses of peers, and providers of a protocol.
pub(crate) const KADEMLIA_PROTOCOL: StreamProtocol = StreamProtocol::new("/derouter/kad/0.2.0");

/// Gossip of announcements among nodes of 0.2: gossipsub under a name of its own.
const GOSSIP_PROTOCOL: &str = "/derouter/gossip/0.2.0";

/// Gossipsub that knows some topics; subscriptions to others are not remembered.
pub(crate) type Gossipsub = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// What a behaviour is built from.
pub(crate) struct BehaviourParts {
    pub(crate) keypair: Keypair,
    pub(crate) peers: peer_book::Behaviour,
    pub(crate) mdns: bool,
    pub(crate) port_mapping: bool,
    /// How far an address reaches at least that is tested for others.
    pub(crate) tested_scope: Scope,
    pub(crate) relay_server: Option<RelayLimits>,
    pub(crate) relay_places: RelayPlaces,
    pub(crate) kademlia: bool,
    pub(crate) inbound: InboundQueue,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) shards: Shards,
    pub(crate) meters: Meters,
}

/// All behaviours. Limits come first, so that they can refuse before others count a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    subnets: subnets::Behaviour,
    pub(crate) peers: peer_book::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) autonat_client: crate::autonat::Behaviour,
    autonat_server: crate::autonat::server::Behaviour,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
    relay_server: Toggle<relay::Behaviour>,
    relay_client: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
    pub(crate) kademlia: Toggle<kademlia::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) gossipsub: Paced<Gossipsub>,
    pub(crate) announcements: Paced<Gossipsub>,
    pub(crate) streams: streams::Behaviour,
}

type BuildError = Box<dyn std::error::Error + Send + Sync>;

impl Behaviour {
    pub(crate) fn new(
        parts: BehaviourParts,
        relay_client: relay::client::Behaviour,
    ) -> Result<Self, BuildError> {
        let public_key = parts.keypair.public();
        let peer = public_key.to_peer_id();
        let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), public_key)
            .with_agent_version(AGENT.to_owned())
            .with_push_listen_addr_updates(true)
            // The peer book remembers addresses. This cache would have any peer make this node dial
            // what the operator blocks, and addresses of this machine and its network.
            .with_cache_size(0);
        let ping = ping::Config::new()
            .with_interval(limits::PING_INTERVAL)
            .with_timeout(limits::PING_TIMEOUT);
        let relay_server = parts
            .relay_server
            .map(|limits| relay::Behaviour::new(peer, relay_config(limits, parts.relay_places)));
        Ok(Self {
            limits: connection_limits::Behaviour::new(connection_limits(parts.relay_server)),
            subnets: subnets::Behaviour::default(),
            peers: parts.peers,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            autonat_client: crate::autonat::Behaviour::default(),
            autonat_server: crate::autonat::server::Behaviour::new(parts.tested_scope),
            upnp: parts
                .port_mapping
                .then(upnp::tokio::Behaviour::default)
                .into(),
            relay_server: relay_server.into(),
            relay_client,
            dcutr: dcutr::Behaviour::new(peer),
            kademlia: parts
                .kademlia
                .then(|| kademlia::Behaviour::new(peer))
                .into(),
            mdns: mdns_behaviour(parts.mdns, peer).into(),
            gossipsub: Paced::new(
                gossipsub_behaviour(parts.keypair)?,
                limits::HEARTBEAT_FRAMES,
            ),
            announcements: Paced::new(
                announcement_gossip(parts.shards)?,
                limits::ANNOUNCEMENT_FRAMES,
            ),
            streams: streams::Behaviour::new(parts.inbound, parts.counters, parts.meters),
        })
    }
}

/// A relay has a place for each of its reservations beside those of other nodes.
fn connection_limits(relay_server: Option<RelayLimits>) -> ConnectionLimits {
    let relayed = relay_server.map_or(0, |limits| limits.reservations);
    let relayed = u32::try_from(relayed).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::PENDING_INCOMING))
        .with_max_pending_outgoing(Some(limits::PENDING_OUTGOING))
        .with_max_established(Some(limits::ESTABLISHED.saturating_add(relayed)))
        .with_max_established_incoming(Some(limits::ESTABLISHED_INCOMING.saturating_add(relayed)))
        .with_max_established_per_peer(Some(limits::ESTABLISHED_PER_PEER))
}

/// Without mDNS a node still works, so a failure is told and no more.
fn mdns_behaviour(wanted: bool, peer: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    if !wanted {
        return None;
    }
    match mdns::tokio::Behaviour::new(mdns::Config::default(), peer) {
        Ok(behaviour) => Some(behaviour),
        Err(error) => {
            tracing::warn!(%error, "peers on the local network can't be looked for by mdns");
            None
        }
    }
}

/// libp2p's default limits (128 KiB, 2 minutes a circuit) would cut every job stream, and its
/// rates (after a burst of 30, one circuit of a peer every 2 minutes) shut out for minutes who met
/// a bad minute, and with it all who share its address. Its limit of reservations refuses renewals
/// too, so that a full relay would lose those whom it serves: `places` is in place of it.
fn relay_config(given: RelayLimits, places: RelayPlaces) -> relay::Config {
    let mut config = relay::Config {
        max_reservations: usize::MAX,
        max_reservations_per_peer: 4,
        max_circuits: given.circuits,
        // libp2p refuses who has more than this, not who has as many.
        max_circuits_per_peer: given.circuits_per_peer.saturating_sub(1),
        max_circuit_duration: given.circuit_duration,
        max_circuit_bytes: given.circuit_bytes,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
    .reservation_rate_per_peer(
        limits::RESERVATIONS_OF_PEER.0,
        limits::RESERVATIONS_OF_PEER.1,
    )
    .reservation_rate_per_ip(limits::RESERVATIONS_OF_IP.0, limits::RESERVATIONS_OF_IP.1)
    .circuit_src_per_peer(limits::CIRCUITS_OF_PEER.0, limits::CIRCUITS_OF_PEER.1)
    .circuit_src_per_ip(limits::CIRCUITS_OF_IP.0, limits::CIRCUITS_OF_IP.1);
    // The last to be asked: whom it lets in is granted a reservation.
    let admits = move |peer, _: &Multiaddr, _| places.take(peer, given.reservations);
    config.reservation_rate_limiters.push(Box::new(admits));
    config
}

fn gossipsub_behaviour(keypair: Keypair) -> Result<Gossipsub, BuildError> {
    let topic = IdentTopic::new(HEARTBEAT_TOPIC);
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(|message| MessageId::from(heartbeat_message_id(&message.data)))
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        // Peers outside the mesh are told the ids of new messages, and ask for them. libp2p tells
        // a quarter of them: in a star, where they hear it from nobody else, many would miss it.
        .gossip_lazy(limits::GOSSIP_PEERS)
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_initial_delay(Duration::from_millis(100))
        .flood_publish(false)
        .max_transmit_size(limits::GOSSIP_FRAME_BYTES)
        .max_publish_messages(limits::GOSSIP_FRAME_MESSAGES)
        .max_transmit_size_for_topic(limits::GOSSIP_MESSAGE_BYTES, topic.hash())
        .build()?;
    let topics = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let authenticity = MessageAuthenticity::Signed(keypair);
    let mut gossipsub = Gossipsub::new_with_subscription_filter(authenticity, config, topics)?;
    gossipsub.subscribe(&topic)?;
    Ok(gossipsub)
}

/// Gossip of announcements (0.2): the mesh of neighbours to whom batches are handed. Messages are
/// anonymous; what they carry is signed. gossipsub's ids are hashes of the data. Nothing is offered by id:
/// batches of several peers have the same announcements in them. What the mesh misses, reconciliation
/// brings.
fn announcement_gossip(shards: Shards) -> Result<Gossipsub, BuildError> {
    let topics: Vec<IdentTopic> = shards.topics().into_iter().map(IdentTopic::new).collect();
    let legacy = IdentTopic::new(LEGACY_TOPIC);
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .protocol_id(GOSSIP_PROTOCOL, gossipsub::Version::V1_1)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::from(announcement_message_id(&message.data)))
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        .gossip_lazy(0)
        .gossip_factor(0.0)
        .history_gossip(0)
        // Nobody is offered a message, so nobody asks for one either.
        .history_length(2)
        .gossip_retransimission(0)
        .max_ihave_messages_heartbeat(0)
        .connection_handler_queue_len(limits::ANNOUNCEMENT_BACKLOG)
        // The beacon is small and rare: in a star, the centre tells it to all.
        .mesh_n_high_for_topic(limits::BEACON_MESH, legacy.hash())
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_initial_delay(Duration::from_millis(100))
        .flood_publish(false)
        .max_transmit_size(limits::ANNOUNCEMENT_FRAME_BYTES)
        .max_publish_messages(1)
        .duplicate_cache_time(limits::ANNOUNCEMENT_IDS);
    // All shards: a provider publishes on its own, whether it subscribes to it or not.
    let mut known: HashSet<_> = (0..SHARDS)
        .map(|shard| IdentTopic::new(shard_topic(shard)).hash())
        .collect();
    known.extend(topics.iter().map(IdentTopic::hash));
    known.insert(legacy.hash());
    let mut gossip = Gossipsub::new_with_subscription_filter(
        MessageAuthenticity::Anonymous,
        config.build()?,
        WhitelistSubscriptionFilter(known),
    )?;
    for topic in topics.iter().chain([&legacy]) {
        gossip.subscribe(topic)?;
    }
    Ok(gossip)
}

/// The first 20 bytes of the SHA-256.
fn announcement_message_id(data: &[u8]) -> Vec<u8> {
    let hash = derouter_wire::announce::OfferListHash::of(data).0;
    hash.get(..20).unwrap_or(&hash).to_vec()
}

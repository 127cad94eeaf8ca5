//! The task that owns the swarm. Its handlers are synchronous and short; whatever waits is done by
//! other tasks.

mod announcements;
mod conduct;
mod connections;
mod guests;
mod heartbeats;
mod kademlia;
mod listening;
mod liveness;
mod peer_reports;
mod peers;
mod port_mapping;
mod reachability;
mod reports;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use derouter_wire::ProtocolId;
use derouter_wire::gossip::Announcement;
use derouter_wire::rpc::network::{NetworkReport, PathReport, PeerReport};
use futures::{FutureExt, StreamExt};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::bootstrap::Bootstrap;
use crate::clock::{boot_time, unix_now};
use crate::config::{DiscoveryMode, KnownReachability, NetConfig};
use crate::counters::NetCounters;
use crate::directory::Whereabouts;
use crate::discovery::{DiscoveryPeer, Gossiped, Order, OwnPlace, Shards};
use crate::error::DialError;
use crate::heartbeat::filter::HeartbeatFilter;
use crate::heartbeat::schedule::HeartbeatSchedule;
use crate::heartbeat::{ReceivedHeartbeat, SentHeartbeat};
use crate::legacy::LegacyWatch;
use crate::limits;
use crate::peer::{PeerEvent, PeerInfo};
use crate::peer_book::KnownPeer;
use crate::reachability::ReachabilityState;
use crate::reachability::clock_watch::OffClock;
use crate::relay_server::{RelayPlaces, RelayTally};
use crate::streams::{Flooded, OpenRequest};
pub(crate) use conduct::Offence;
use connections::PeerState;
use kademlia::Kademlia;
use liveness::Answered;
use peers::PeerKeeping;
use port_mapping::Mapper;

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Open(PeerId, OpenRequest),
    /// A substream with this peer is waited for since long.
    DialAgain(PeerId),
    /// The offers that fit a heartbeat (0.1).
    Announce(Option<Announcement>),
    AddAddress(PeerId, Multiaddr),
    /// Where a peer is. The reply says whether any of it is new.
    Learn(Whereabouts, Option<oneshot::Sender<bool>>),
    /// An announcement of this provider is off by over four hours.
    OffClock(PeerId, OffClock),
    /// An announcement's time is like ours.
    ClockIsRight,
    Dial(Multiaddr, oneshot::Sender<Result<PeerId, DialError>>),
    ListenAddresses(oneshot::Sender<Vec<Multiaddr>>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    NetworkReport(oneshot::Sender<NetworkReport>),
    PeerReports(oneshot::Sender<Vec<PeerReport>>),
    FindPeer(PeerId, oneshot::Sender<bool>),
    FindProviders(ProtocolId, oneshot::Sender<Vec<PeerId>>),
    WantProtocols(Vec<ProtocolId>),
    BestPath(PeerId, oneshot::Sender<Option<PathReport>>),
    /// Announcements for the neighbours, on this topic. Answers whether any took them.
    Publish(String, Vec<Vec<u8>>, Option<oneshot::Sender<bool>>),
    OwnPlace(oneshot::Sender<OwnPlace>),
    /// Whether the loop turns.
    Pulse(oneshot::Sender<()>),
    Blame(PeerId, Offence),
    /// An answer on this connection is late.
    Late(PeerId, ConnectionId),
    Shutdown(oneshot::Sender<()>),
}

/// What the task is built from.
pub(crate) struct ActorParts {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) config: NetConfig,
    pub(crate) cancel: CancellationToken,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) heartbeats: mpsc::Sender<ReceivedHeartbeat>,
    pub(crate) peer_events: mpsc::Sender<PeerEvent>,
    pub(crate) sent: Arc<watch::Sender<SentHeartbeat>>,
    pub(crate) known_peers: mpsc::Sender<Vec<KnownPeer>>,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) relay_places: RelayPlaces,
    pub(crate) shards: Shards,
    pub(crate) announcements: mpsc::Sender<Gossiped>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) discovery_peers: watch::Sender<Vec<DiscoveryPeer>>,
}

/// The owner of the swarm.
pub(crate) struct Actor {
    swarm: Swarm<Behaviour>,
    cancel: CancellationToken,
    commands: mpsc::Receiver<Command>,
    heartbeats: mpsc::Sender<ReceivedHeartbeat>,
    peer_events: mpsc::Sender<PeerEvent>,
    sent: Arc<watch::Sender<SentHeartbeat>>,
    counters: Arc<NetCounters>,
    shards: Shards,
    announcements: mpsc::Sender<Gossiped>,
    orders: mpsc::Sender<Order>,
    discovery_peers: watch::Sender<Vec<DiscoveryPeer>>,
    legacy: LegacyWatch,
    always_heartbeats: bool,
    listen: Vec<Multiaddr>,
    /// Where an earlier run listened.
    kept_listen: Vec<Multiaddr>,
    /// What was configured to listen on, with the ports that were chosen.
    chosen_listen: Vec<Multiaddr>,
    relay_server: bool,
    /// Whether to tell where it listens as where it is reached: a relay whose operator said nothing.
    tells_listen_addresses: bool,
    schedule: HeartbeatSchedule,
    filter: HeartbeatFilter,
    bootstrap: Bootstrap,
    bootstrap_dials: HashMap<ConnectionId, usize>,
    awaited_dials: HashMap<ConnectionId, oneshot::Sender<Result<PeerId, DialError>>>,
    peers: HashMap<PeerId, PeerState>,
    peer_id: PeerId,
    kademlia: Kademlia,
    keeping: PeerKeeping,
    reach: ReachabilityState,
    mapper: Option<Mapper>,
    /// Pings of connections that have to give a sign of life: one for each.
    pings: JoinSet<Option<Answered>>,
    relay_tally: RelayTally,
}

impl Actor {
    pub(crate) fn new(parts: ActorParts) -> Self {
        let floor = *parts.sent.borrow();
        let reach = ReachabilityState::new(&parts.config.options, Instant::now(), boot_time());
        let relay_tally = RelayTally::new(Arc::clone(&parts.counters.relay), parts.relay_places);
        let mut actor = Self {
            swarm: parts.swarm,
            cancel: parts.cancel,
            commands: parts.commands,
            heartbeats: parts.heartbeats,
            peer_events: parts.peer_events,
            sent: parts.sent,
            counters: parts.counters,
            shards: parts.shards,
            announcements: parts.announcements,
            orders: parts.orders,
            discovery_peers: parts.discovery_peers,
            legacy: LegacyWatch::default(),
            always_heartbeats: parts.config.options.discovery.mode != DiscoveryMode::Announce,
            listen: parts.config.options.listen,
            kept_listen: parts.config.kept_listen,
            chosen_listen: Vec::new(),
            relay_server: parts.config.options.relay_server.is_some(),
            tells_listen_addresses: parts.config.options.relay_server.is_some()
                && parts.config.options.external_addresses.is_empty(),
            schedule: HeartbeatSchedule::new(floor),
            filter: HeartbeatFilter::default(),
            bootstrap: Bootstrap::new(parts.config.options.bootstrap, Instant::now()),
            bootstrap_dials: HashMap::new(),
            awaited_dials: HashMap::new(),
            peers: HashMap::new(),
            peer_id: parts.config.keypair.public().to_peer_id(),
            kademlia: Kademlia::default(),
            keeping: PeerKeeping::new(
                parts.known_peers,
                parts.config.options.relay_server,
                Instant::now(),
            ),
            reach,
            mapper: parts.config.options.port_mapping.then(Mapper::start),
            pings: JoinSet::new(),
            relay_tally,
        };
        let known_public = parts.config.options.reachability == KnownReachability::Public;
        actor.set_kademlia_server(actor.relay_server || known_public);
        actor.silence_the_banned();
        actor
    }

    /// Runs until cancelled or told to stop.
    pub(crate) async fn run(mut self: Box<Self>) {
        let cancel = self.cancel.clone();
        let mut commands_in_a_row = 0;
        let mut events_in_a_row = 0;
        let timer = tokio::time::sleep(limits::LISTEN_DEADLINE);
        tokio::pin!(timer);
        let stopper = loop {
            let due = self.next_deadline();
            if let Some(due) = due {
                let due = tokio::time::Instant::from_std(due);
                if timer.deadline() != due {
                    timer.as_mut().reset(due);
                }
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                command = self.commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown(reply)) => break Some(reply),
                    Some(command) => {
                        self.on_command(command);
                        commands_in_a_row += 1;
                    }
                },
                () = &mut timer, if due.is_some() => self.on_timer(),
                Some(answered) = self.pings.join_next() => {
                    if let Ok(Some(answered)) = answered {
                        self.on_answered(&answered);
                    }
                }
                event = self.swarm.select_next_some() => {
                    commands_in_a_row = 0;
                    events_in_a_row += 1;
                    self.on_swarm_event(event);
                }
            }
            if events_in_a_row >= limits::EVENTS_PER_TURN {
                events_in_a_row = 0;
                // The swarm's channels take nothing from a task's budget, so that peers who send
                // without end would keep this thread from the job streams that wait for it.
                tokio::task::yield_now().await;
            }
            if commands_in_a_row >= limits::COMMANDS_PER_TURN {
                commands_in_a_row = 0;
                self.take_swarm_turn();
            }
        };
        Box::pin(self.stop()).await;
        if let Some(reply) = stopper {
            let _ = reply.send(());
        }
    }

    /// Lets the swarm work although commands keep coming.
    fn take_swarm_turn(&mut self) {
        for _ in 0..limits::EVENTS_PER_TURN {
            let Some(event) = self.swarm.select_next_some().now_or_never() else {
                break;
            };
            self.on_swarm_event(event);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.schedule.due(),
            self.bootstrap.due(),
            self.kademlia_due(),
            self.keeping.due(),
            Some(self.reach.due()),
            self.legacy.due(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn on_timer(&mut self) {
        self.update_legacy();
        self.send_heartbeat();
        self.dial_bootstrap();
        self.on_kademlia_timer();
        self.dial_known_peers();
        self.keep_peers();
        self.look_after_reachability();
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open(peer, request) => self.swarm.behaviour_mut().streams.open(peer, request),
            Command::DialAgain(peer) => self.swarm.behaviour_mut().streams.dial_again(peer),
            Command::Announce(announcement) => {
                let offers = announcement.iter().flat_map(|it| it.offers.keys());
                self.provide_protocols(offers);
                self.schedule
                    .announce(announcement, Instant::now(), unix_now());
            }
            Command::AddAddress(peer, address) => {
                self.learn_own(peer, address);
            }
            Command::Learn(known, reply) => {
                let new = self.learn_whereabouts(&known);
                if let Some(reply) = reply {
                    let _ = reply.send(new);
                }
            }
            Command::OffClock(source, off) => self.reach.clock.off(source, off, Instant::now()),
            Command::ClockIsRight => self.reach.clock.right(Instant::now()),
            Command::Dial(address, reply) => self.dial(address, reply),
            Command::ListenAddresses(reply) => {
                let _ = reply.send(self.swarm.listeners().cloned().collect());
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.peer_infos());
            }
            Command::NetworkReport(reply) => {
                let _ = reply.send(self.network_report());
            }
            Command::PeerReports(reply) => {
                let _ = reply.send(self.peer_reports());
            }
            Command::FindPeer(peer, reply) => self.find_peer(peer, reply),
            Command::FindProviders(protocol, reply) => {
                self.search_providers(&protocol, Some(reply));
            }
            Command::WantProtocols(protocols) => self.want_protocols(&protocols),
            Command::BestPath(peer, reply) => {
                let _ = reply.send(self.best_path(&peer));
            }
            Command::Publish(topic, announcements, reply) => {
                let published = self.publish_announcements(topic, announcements);
                if let Some(reply) = reply {
                    let _ = reply.send(published);
                }
            }
            Command::OwnPlace(reply) => {
                let _ = reply.send(self.own_place());
            }
            Command::Pulse(reply) => {
                let _ = reply.send(());
            }
            Command::Blame(peer, offence) => self.blame(peer, offence),
            Command::Late(peer, connection) => self.on_late_answer(peer, connection),
            // Ends the loop in `run`.
            Command::Shutdown(_) => {}
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Announcements(event)) => {
                self.on_announcement_gossip(event);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_mdns(event),
            SwarmEvent::Behaviour(BehaviourEvent::AutonatClient(event)) => self.on_autonat(event),
            SwarmEvent::Behaviour(BehaviourEvent::Upnp(event)) => self.on_upnp(event),
            SwarmEvent::Behaviour(BehaviourEvent::RelayClient(event)) => {
                self.on_relay_client(&event);
            }
            SwarmEvent::Behaviour(BehaviourEvent::RelayServer(event)) => {
                let swarm = &self.swarm;
                let is_connected = |peer: &PeerId| swarm.is_connected(peer);
                self.relay_tally.on_event(&event, is_connected);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => self.on_dcutr(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kademlia(event)) => self.on_kademlia(event),
            SwarmEvent::Behaviour(BehaviourEvent::Streams(Flooded(peer))) => {
                self.blame(peer, Offence::Flood);
            }
            SwarmEvent::Behaviour(_) => {}
            other => self.on_connection_event(other),
        }
        self.note_news();
    }

    /// Takes back what was announced, then closes everything.
    async fn stop(mut self: Box<Self>) {
        self.commands.close();
        // Those who wait for an answer must not wait on.
        while self.commands.try_recv().is_ok() {}
        let withdrawn = self.announce_last().await;
        if self.send_last_heartbeat() || withdrawn {
            self.drive(limits::FLUSH).await;
        }
        if let Some(mapper) = self.mapper.take() {
            mapper.stop().await;
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        if self.swarm.connected_peers().next().is_some() {
            let close = async {
                while self.swarm.connected_peers().next().is_some() {
                    self.swarm.select_next_some().await;
                }
            };
            let _ = timeout(limits::CLOSE, close).await;
        }
        self.give_out_changes();
    }

    /// Lets the swarm work for a while; what it reports no longer matters.
    async fn drive(&mut self, duration: std::time::Duration) {
        let forever = async {
            loop {
                self.swarm.select_next_some().await;
            }
        };
        let _: Result<(), _> = timeout(duration, forever).await;
    }
}

//! The handle of the network side, and its start.

use std::sync::Arc;
use std::time::Duration;

use derouter_wire::announce::SHARDS;
use derouter_wire::gossip::{Announcement, fit_announcement};
use derouter_wire::jobs::{JOBS_PROTOCOL, JobCall};
use derouter_wire::reqres::{Request, Response};
use derouter_wire::rpc::network::{NetworkReport, PathReport, PeerReport, PingReport};
use derouter_wire::stream::STREAM_PROTOCOL;
use derouter_wire::{JobId, ProtocolId, UnixSeconds};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::access::AccessRules;
use crate::actor::{Actor, ActorParts, Command};
use crate::address::{Scope, scope};
use crate::behaviour::BehaviourParts;
use crate::clock::unix_now;
use crate::config::{DiscoveryMode, NetConfig, NetOptions};
use crate::counters::NetCounters;
use crate::discovery::{Discovery, DiscoveryParts, DiscoveryServer, Input, Inputs, Shards};
use crate::error::{DialError, OpenStreamError, RequestError, StartError};
use crate::heartbeat::{ReceivedHeartbeat, SentHeartbeat};
use crate::job_calls::{self, InboundJobCall, JobCallServer, JobLine, JobReply};
use crate::job_stream::{InboundJobStream, JobStream, JobStreamServer};
use crate::offers::OfferNews;
use crate::peer::{PeerEvent, PeerInfo};
use crate::peer_book::{self, KnownPeer, PeerBook};
use crate::ping::{self, PING};
use crate::relay_server::RelayPlaces;
use crate::reqres::{InboundRequest, LargePlaces, RequestServer, UNSUPPORTED};
use crate::streams::{JOB_CALLS, JOBS, OpenError, OpenRequest, REQUESTS, Substream};
use crate::transport::{Meters, NodeMeter, Traffic};
use crate::{job_stream, limits, reqres, serve, transport};

/// How often a substream is tried: a connection may close while it is asked, or be dead.
const OPEN_TRIES: u32 = 2;
/// How long [`Net::shutdown`] waits: the flush, the closing, and some slack.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// The handle of the network side. Cheap to clone; every call has a deadline inside.
#[derive(Clone, Debug)]
pub struct Net {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peer_id: PeerId,
    chosen_listen: Vec<Multiaddr>,
    commands: mpsc::Sender<Command>,
    counters: Arc<NetCounters>,
    meter: NodeMeter,
    sent: watch::Receiver<SentHeartbeat>,
    discovery: Inputs,
    offered: watch::Sender<Option<Arc<Announcement>>>,
    mode: DiscoveryMode,
}

/// What comes in. Separate queues, so that none starves another; what happens when one is full is
/// said at each.
#[derive(Debug)]
pub struct NetEvents {
    /// Checked heartbeats; dropped (counted) when full, the next is 30 s away.
    pub heartbeats: mpsc::Receiver<ReceivedHeartbeat>,
    /// What providers announce (0.2). Waits while full: what is newest of each is kept meanwhile.
    pub offers: mpsc::Receiver<OfferNews>,
    /// Requests of peers; `Busy` or no answer (counted) when full.
    pub requests: mpsc::Receiver<InboundRequest>,
    /// Calls of peers on the jobs protocol (0.2), read; refused as busy (counted) when full.
    pub calls: mpsc::Receiver<InboundJobCall>,
    /// Job streams of peers (0.1), heads read; `Busy` (counted) when full.
    pub streams: mpsc::Receiver<InboundJobStream>,
    /// Comings and goings; dropped (counted) when full.
    pub peers: mpsc::Receiver<PeerEvent>,
    /// The times of the last heartbeat of this node, to be kept for the next start.
    pub sent: watch::Receiver<SentHeartbeat>,
    /// What changed in the peer book, every 30 s and at the end, to be kept for the next start
    /// ([`NetConfig::known_peers`]). When full, changes stay in the book until there is room.
    pub known_peers: mpsc::Receiver<Vec<KnownPeer>>,
}

/// Starts the network side. It listens when this returns, and ends with `cancel`,
/// [`Net::shutdown`] or the last [`Net`], taking back what it announced either way. Job streams
/// end with it.
pub async fn start(
    mut config: NetConfig,
    cancel: CancellationToken,
) -> Result<(Net, NetEvents), StartError> {
    let counters = Arc::new(NetCounters::default());
    let (inbound_sender, inbound) = mpsc::channel(limits::INBOUND_QUEUE);
    let (heartbeat_sender, heartbeats) = mpsc::channel(limits::HEARTBEAT_QUEUE);
    let (request_sender, requests) = mpsc::channel(limits::REQUEST_QUEUE);
    let (stream_sender, streams) = mpsc::channel(limits::STREAM_QUEUE);
    let (call_sender, calls) = mpsc::channel(limits::REQUEST_QUEUE);
    let large = LargePlaces::default();
    let (peer_sender, peers) = mpsc::channel(limits::PEER_EVENT_QUEUE);
    let (known_sender, known_peers) = mpsc::channel(limits::BOOK_QUEUE);
    let (command_sender, commands) = mpsc::channel(limits::COMMAND_QUEUE);
    let floor = SentHeartbeat {
        timestamp: config.last_timestamp,
        updated_at: config.last_updated_at,
    };
    let (sent_sender, sent) = watch::channel(floor);
    let sent_sender = Arc::new(sent_sender);
    let (offer_sender, offers) = mpsc::channel(limits::OFFER_QUEUE);
    let (gossip_sender, gossip) = mpsc::channel(limits::ANNOUNCEMENT_QUEUE);
    let (discovery_sender, discovery_inputs) = mpsc::channel(limits::DISCOVERY_QUEUE);
    let (order_sender, orders) = mpsc::channel(limits::ORDER_QUEUE);
    let (offered, announced) = watch::channel(None);
    let (discovery_peers, speaking) = watch::channel(Vec::new());
    let shards = shards(&config.options);
    let mode = config.options.discovery.mode;
    let peer_id = config.keypair.public().to_peer_id();

    // No router forwards to this machine's own loopback addresses, so none is looked for.
    let outside = |address: &Multiaddr| scope(address) > Scope::Machine;
    config.options.port_mapping &= config.options.listen.iter().any(outside);
    let bytes_per_second = config.options.relay_server;
    let meters = Meters::new(bytes_per_second.and_then(|limits| limits.bytes_per_second));
    let meter = meters.node().clone();
    let options = &config.options;
    let rules = AccessRules::new(&options.allow, &options.block, &options.bootstrap);
    let blocked = rules.blocked_peers().copied().collect();
    let book = PeerBook::restore(std::mem::take(&mut config.known_peers), unix_now());
    let relay_places = RelayPlaces::default();
    let swarm = transport::build_swarm(BehaviourParts {
        keypair: config.keypair.clone(),
        peers: peer_book::Behaviour::new(book, rules),
        mdns: config.options.mdns,
        port_mapping: config.options.port_mapping,
        tested_scope: config.options.tested_scope(),
        relay_server: config.options.relay_server,
        relay_places: relay_places.clone(),
        kademlia: config.options.kademlia,
        inbound: inbound_sender,
        counters: counters.clone(),
        shards,
        meters,
    })?;
    let discovery = Discovery::new(DiscoveryParts {
        keypair: config.keypair.clone(),
        shards,
        floor: sequence_floor(config.last_timestamp),
        commands: command_sender.downgrade(),
        gossip,
        inputs: (discovery_sender.clone(), discovery_inputs),
        offered: announced,
        orders,
        peers: speaking,
        offers: offer_sender,
        sent: sent_sender.clone(),
        counters: counters.clone(),
        blocked,
    });
    let mut actor = Box::new(Actor::new(ActorParts {
        swarm,
        config,
        cancel,
        commands,
        heartbeats: heartbeat_sender,
        peer_events: peer_sender,
        sent: sent_sender,
        known_peers: known_sender,
        counters: counters.clone(),
        relay_places,
        shards,
        announcements: gossip_sender,
        orders: order_sender,
        discovery_peers,
    }));
    Box::pin(actor.listen()).await?;
    tokio::spawn(serve::serve_inbound(
        inbound,
        RequestServer {
            queue: request_sender,
            large: large.clone(),
            counters: counters.clone(),
        },
        JobCallServer {
            queue: call_sender,
            large,
            counters: counters.clone(),
        },
        JobStreamServer {
            queue: stream_sender,
            counters: counters.clone(),
        },
        DiscoveryServer::new(
            discovery_sender.clone(),
            command_sender.downgrade(),
            counters.clone(),
        ),
    ));
    let chosen_listen = actor.chosen_listen().to_vec();
    tokio::spawn(discovery.run());
    tokio::spawn(actor.run());

    let net = Net {
        inner: Arc::new(Inner {
            peer_id,
            chosen_listen,
            commands: command_sender,
            counters,
            meter,
            sent: sent.clone(),
            discovery: discovery_sender,
            offered,
            mode,
        }),
    };
    let events = NetEvents {
        heartbeats,
        offers,
        requests,
        calls,
        streams,
        peers,
        sent,
        known_peers,
    };
    Ok((net, events))
}

/// The shards that this node takes part in: a relay in all, so that others find them there.
fn shards(options: &NetOptions) -> Shards {
    let Some(most) = options.discovery.shards else {
        return Shards::OFF;
    };
    let most = match options.relay_server {
        Some(_) => usize::from(SHARDS),
        None => most,
    };
    let order = std::iter::repeat_with(|| rand::random::<u8>() % SHARDS);
    Shards::some(most, order)
}

/// Above every sequence number of earlier runs: `last_timestamp` was raised with them.
fn sequence_floor(last_timestamp: UnixSeconds) -> u64 {
    last_timestamp.0.saturating_mul(1000)
}

impl Net {
    /// Who this node is.
    pub fn local_peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// The configured listen addresses with the ports that were chosen for 0, to be kept for the
    /// next start ([`NetConfig::kept_listen`]).
    pub fn chosen_listen(&self) -> &[Multiaddr] {
        &self.inner.chosen_listen
    }

    /// What was refused, dropped and rejected so far.
    pub fn counters(&self) -> &NetCounters {
        &self.inner.counters
    }

    /// Bytes over all connections since the start: what their substreams carry, without the headers
    /// of muxers, encryption and IP.
    pub fn traffic(&self) -> Traffic {
        self.inner.meter.traffic()
    }

    /// Where this node listens, with real ports. Empty when the network has stopped.
    pub async fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.query(Command::ListenAddresses)
            .await
            .unwrap_or_default()
    }

    /// The connected peers. Empty when the network has stopped.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.query(Command::Peers).await.unwrap_or_default()
    }

    /// Whether the task that owns the connections answers. False when it hangs, and when the network
    /// has stopped.
    pub async fn answers(&self) -> bool {
        self.query(Command::Pulse).await.is_some()
    }

    /// The network as this node sees it. `None` when the network has stopped.
    pub async fn network_report(&self) -> Option<NetworkReport> {
        self.query(Command::NetworkReport).await
    }

    /// Every connected peer, and those that are remembered.
    pub async fn peer_reports(&self) -> Vec<PeerReport> {
        self.query(Command::PeerReports).await.unwrap_or_default()
    }

    /// Remembers an address of a peer, for when it is needed.
    pub async fn add_address(&self, peer: PeerId, address: Multiaddr) {
        self.tell(Command::AddAddress(peer, address)).await;
    }

    /// Says from now on that this node provides `announcement`, which must fit one offer list
    /// (`derouter_wire::announce::fit_offer_list`). `None`, or no offers, takes back what was
    /// announced. Heartbeats (0.1) hold what fits them of it; see [`Net::announce_fitted`].
    pub async fn announce(&self, announcement: Option<Announcement>) {
        let heartbeat = announcement.as_ref().map(|whole| {
            let offers = whole.offers.iter().flat_map(|(protocol, offers)| {
                let named = offers.iter();
                named.map(move |(id, offer)| (protocol, id, offer.protocol_payload.as_str()))
            });
            let details = Announcement {
                offers: Default::default(),
                ..whole.clone()
            };
            fit_announcement(details, offers).announcement
        });
        self.announce_fitted(announcement, heartbeat).await;
    }

    /// As [`Net::announce`], with the offers that heartbeats (0.1) are to hold, which must fit one
    /// (`derouter_wire::gossip::fit_announcement`). `updated_at` of a heartbeat is raised where it
    /// would not be newer than what was sent.
    pub async fn announce_fitted(
        &self,
        whole: Option<Announcement>,
        heartbeat: Option<Announcement>,
    ) {
        if self.inner.mode != DiscoveryMode::Heartbeats {
            self.inner.offered.send_replace(whole.map(Arc::new));
        }
        self.tell(Command::Announce(heartbeat)).await;
    }

    /// Remembers where a provider announces that it is reached. False when nothing of that is new:
    /// to dial the same addresses again would take the time in which it can be looked up.
    async fn learn(&self, provider: PeerId) -> bool {
        let (reply, known) = oneshot::channel();
        let send = self.inner.discovery.send(Input::Learn(provider, reply));
        if !matches!(timeout(limits::COMMAND_DEADLINE, send).await, Ok(Ok(()))) {
            return false;
        }
        let known = timeout(limits::COMMAND_DEADLINE, known).await;
        matches!(known, Ok(Ok(true)))
    }

    /// Connects to an address; when it ends in `/p2p/<id>`, to that peer only.
    pub async fn dial(&self, address: Multiaddr) -> Result<PeerId, DialError> {
        let (reply, outcome) = oneshot::channel();
        if !self.tell(Command::Dial(address, reply)).await {
            return Err(DialError::Stopped);
        }
        match timeout(limits::OPEN_DEADLINE, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_stopped)) => Err(DialError::Stopped),
            Err(_late) => Err(DialError::Timeout),
        }
    }

    /// Measures a round trip to a peer, on the connection that a new stream would take. A peer that
    /// is not connected is dialled first, at `address` if one is given. Within 10 s.
    pub async fn ping(
        &self,
        peer: PeerId,
        address: Option<Multiaddr>,
    ) -> Result<PingReport, DialError> {
        let pinged = self.try_ping(peer, address);
        let pinged = timeout(limits::PING_DEADLINE, pinged).await;
        pinged.unwrap_or(Err(DialError::Timeout))
    }

    async fn try_ping(
        &self,
        peer: PeerId,
        address: Option<Multiaddr>,
    ) -> Result<PingReport, DialError> {
        let unreachable = |reason: String| DialError::Unreachable(reason);
        if peer == self.local_peer_id() {
            return Err(unreachable("this is the node itself".to_owned()));
        }
        if let Some(address) = address
            && self.best_path(peer).await?.is_none()
        {
            let address = address.with_p2p(peer).map_err(|address| {
                unreachable(format!("{address} is an address of another peer"))
            })?;
            self.dial(address).await?;
        }
        let stream = self.open(peer, PING).await.map_err(|error| match error {
            Unopened::Open(error) => unreachable(open_error_text(error)),
            Unopened::Stopped => DialError::Stopped,
        })?;
        let lost = |error: std::io::Error| unreachable(lost_text(&error));
        let rtt = ping::round_trip(stream).await.map_err(lost)?;
        let gone = || unreachable("the connection closed".to_owned());
        let path = self.best_path(peer).await?.ok_or_else(gone)?;
        Ok(PingReport {
            rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX),
            path,
        })
    }

    /// The connection that a new stream would take.
    async fn best_path(&self, peer: PeerId) -> Result<Option<PathReport>, DialError> {
        let path = self.query(|reply| Command::BestPath(peer, reply)).await;
        path.ok_or(DialError::Stopped)
    }

    /// Asks a peer, which is dialled at its known addresses when it is not connected. Within 18 s;
    /// an unreachable peer is known after 8 s, most at once.
    pub async fn request(&self, peer: PeerId, request: Request) -> Result<Response, RequestError> {
        let stream = self
            .open(peer, REQUESTS)
            .await
            .map_err(|error| match error {
                Unopened::Open(OpenError::Unsupported) => UNSUPPORTED,
                Unopened::Open(error) => RequestError::Unreachable(open_error_text(error)),
                Unopened::Stopped => RequestError::Stopped,
            })?;
        let connection = stream.connection();
        let answer = reqres::ask(stream, &request);
        self.watched(peer, connection, answer).await
    }

    /// Makes a call of the jobs protocol (0.2) to a peer, which is dialled when it is not connected.
    /// `args` are those of a new job. Within 48 s, for a creation with arguments over a slow
    /// connection; an unreachable peer is known after 8 s, most at once.
    pub async fn call_job(
        &self,
        peer: PeerId,
        call: &JobCall,
        args: Option<&str>,
    ) -> Result<JobReply, RequestError> {
        let line = self.open_job_line(peer).await?;
        self.call_on(line, call, args).await
    }

    /// The first half of [`Net::call_job`], which says nothing to the peer yet: for callers who have
    /// something else to do before that.
    pub async fn open_job_line(&self, peer: PeerId) -> Result<JobLine, RequestError> {
        let stream = self
            .open(peer, JOB_CALLS)
            .await
            .map_err(|error| match error {
                Unopened::Open(OpenError::Unsupported) => RequestError::Unsupported(JOBS_PROTOCOL),
                Unopened::Open(error) => RequestError::Unreachable(open_error_text(error)),
                Unopened::Stopped => RequestError::Stopped,
            })?;
        Ok(JobLine { peer, stream })
    }

    /// The second half of [`Net::call_job`].
    pub async fn call_on(
        &self,
        line: JobLine,
        call: &JobCall,
        args: Option<&str>,
    ) -> Result<JobReply, RequestError> {
        let connection = line.stream.connection();
        let answer = job_calls::call(line.stream, call, args);
        self.watched(line.peer, connection, answer).await
    }

    /// Connects to a job of a provider (0.1), which is dialled when it is not connected.
    pub async fn open_job_stream(
        &self,
        provider: PeerId,
        job: JobId,
    ) -> Result<JobStream, OpenStreamError> {
        let stream = self
            .open(provider, JOBS)
            .await
            .map_err(|error| match error {
                Unopened::Open(OpenError::Unsupported) => {
                    OpenStreamError::Unsupported(STREAM_PROTOCOL)
                }
                Unopened::Open(error) => OpenStreamError::Unreachable(open_error_text(error)),
                Unopened::Stopped => OpenStreamError::Stopped,
            })?;
        let connection = stream.connection();
        let answer = job_stream::connect(stream, job);
        self.watched(provider, connection, answer).await
    }

    /// Looks up who provides offers of a protocol, and connects to a few of them, which then tell
    /// what they know. At most 64 providers; empty when nobody is known to ask. Within 15 s.
    pub async fn find_providers(&self, protocol: ProtocolId) -> Vec<PeerId> {
        let (reply, found) = oneshot::channel();
        if !self.tell(Command::FindProviders(protocol, reply)).await {
            return Vec::new();
        }
        let found = timeout(limits::FIND_PROVIDERS_DEADLINE, found).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Says of which protocols the node wants to know more providers, at most 16: from now on, and
    /// ever more rarely, they are looked up as by [`Net::find_providers`]. Replaces what was wanted.
    pub async fn want_protocols(&self, protocols: Vec<ProtocolId>) {
        self.tell(Command::WantProtocols(protocols)).await;
    }

    /// Takes back what was announced, closes every connection and stops. Gives the times of the
    /// last heartbeat, to be kept for the next start. Within 3 s.
    pub async fn shutdown(&self) -> SentHeartbeat {
        let (reply, done) = oneshot::channel();
        if self.tell(Command::Shutdown(reply)).await {
            let _ = timeout(SHUTDOWN_DEADLINE, done).await;
        }
        *self.inner.sent.borrow()
    }

    /// Waits for an answer. When it is late, its connection has to show that it lives: a dead one is
    /// closed, and with it ends the waiting.
    async fn watched<T>(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        answer: impl Future<Output = T>,
    ) -> T {
        let mut answer = Box::pin(answer);
        if let Ok(answer) = timeout(limits::LATE_ANSWER, &mut answer).await {
            return answer;
        }
        let (answer, _) = tokio::join!(answer, self.tell(Command::Late(peer, connection)));
        answer
    }

    async fn open(&self, peer: PeerId, protocol: StreamProtocol) -> Result<Substream, Unopened> {
        // Apart: what waits for it need not be as large.
        let opened = Box::pin(self.open_or_find(peer, protocol));
        match timeout(limits::OPEN_DEADLINE, opened).await {
            Ok(outcome) => outcome,
            Err(_late) => Err(unreachable("no connection in time")),
        }
    }

    /// A peer that is not where it was known to be is looked up once. It is dialled now and then
    /// meanwhile: a relay of it that was not connected may be before the lookup is over.
    async fn open_or_find(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Substream, Unopened> {
        let mut last = self.try_open(peer, protocol.clone()).await;
        let (reply, mut found) = oneshot::channel();
        if !is_unreachable(&last) || !self.tell(Command::FindPeer(peer, reply)).await {
            return last;
        }
        while is_unreachable(&last) {
            match timeout(limits::DIAL_AGAIN, &mut found).await {
                Ok(Ok(true)) => return self.try_open(peer, protocol).await,
                Ok(_nowhere) => return last,
                Err(_slow) => last = self.try_open(peer, protocol.clone()).await,
            }
        }
        last
    }

    async fn try_open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Substream, Unopened> {
        let mut last = unreachable("the connection closed");
        let mut avoid = None;
        let mut learnt = false;
        for _ in 0..OPEN_TRIES {
            let (reply, outcome) = oneshot::channel();
            let request = OpenRequest {
                protocol: protocol.clone(),
                avoid,
                reply,
            };
            if !self.tell(Command::Open(peer, request)).await {
                return Err(Unopened::Stopped);
            }
            match self.outcome(peer, outcome).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error @ OpenError::Failed { connection, .. })) => {
                    avoid = Some(connection);
                    last = Unopened::Open(error);
                }
                Ok(Err(error @ OpenError::Unreachable(_))) => {
                    // The addresses that it announces are looked at when the known ones fail.
                    if std::mem::replace(&mut learnt, true) || !self.learn(peer).await {
                        return Err(Unopened::Open(error));
                    }
                    last = Unopened::Open(error);
                }
                Ok(Err(error)) => return Err(Unopened::Open(error)),
                Err(_closed) => last = unreachable("the connection closed"),
            }
        }
        Err(last)
    }

    /// Waits for a substream. A peer that is dialled for long is dialled again now and then, also
    /// where it has announced meanwhile that it is reached.
    async fn outcome<T>(
        &self,
        peer: PeerId,
        mut outcome: oneshot::Receiver<T>,
    ) -> Result<T, oneshot::error::RecvError> {
        loop {
            match timeout(limits::DIAL_AGAIN, &mut outcome).await {
                Ok(outcome) => return outcome,
                Err(_slow) => {
                    let _ = timeout(limits::LEARN_BEFORE_DIAL, self.learn(peer)).await;
                    self.tell(Command::DialAgain(peer)).await;
                }
            }
        }
    }

    /// False when the network has stopped, or is too busy for the command's deadline.
    async fn tell(&self, command: Command) -> bool {
        let send = self.inner.commands.send(command);
        matches!(timeout(limits::COMMAND_DEADLINE, send).await, Ok(Ok(())))
    }

    async fn query<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        if !self.tell(command(reply)).await {
            return None;
        }
        timeout(limits::COMMAND_DEADLINE, answer).await.ok()?.ok()
    }
}

enum Unopened {
    Open(OpenError),
    Stopped,
}

fn is_unreachable(opened: &Result<Substream, Unopened>) -> bool {
    matches!(opened, Err(Unopened::Open(OpenError::Unreachable(_))))
}

fn unreachable(reason: &str) -> Unopened {
    Unopened::Open(OpenError::Unreachable(reason.to_owned()))
}

/// Why a ping that was sent has no answer.
fn lost_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::BrokenPipe
        | std::io::ErrorKind::UnexpectedEof => {
            "it closed the connection at once: it is full, or refuses this node".to_owned()
        }
        _ => format!("no answer to a ping: {error}"),
    }
}

fn open_error_text(error: OpenError) -> String {
    match error {
        OpenError::Unreachable(reason) | OpenError::Failed { reason, .. } => reason,
        OpenError::Unsupported => "it does not support this protocol".to_owned(),
        OpenError::TooMany => "too many exchanges are waiting already".to_owned(),
    }
}

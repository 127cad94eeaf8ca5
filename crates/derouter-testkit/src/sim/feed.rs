//! One real node that hears of many providers through a few real nodes, which in turn are given
//! what the simulated providers send. All of them may be nodes of version 0.1.0 in place of ours.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use derouter_net::{Keypair, Multiaddr, Net, NetConfig, NetEvents, RelayLimits, start};
use derouter_wire::announce::SHARDS;
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::{DISCOVERY_PROTOCOL, DiscoveryRequest, PulledList};
use futures::AsyncWriteExt;
use futures::future::join_all;
use libp2p::Stream;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::frames::{self, ANNOUNCEMENT_GOSSIP, HEARTBEAT_GOSSIP};
use super::options::{Options, Wire};
use super::plain::PlainNode;
use super::providers::Providers;
use super::raw_peer::{RawPeer, read_frame, write};
use super::subject::{Status, Subject};
use super::usage::{Rates, memory_mib};

/// New providers that one peer may make known at once, less some room: heartbeats and
/// announcements.
const NEW_BY_HEARTBEAT: usize = 450;
const NEW_BY_ANNOUNCEMENT: usize = 15_000;
/// Connections from which one relay is fed: a good part of its places. Of more heartbeats than these may
/// make known, it hears only some.
const MOST_INJECTORS: usize = 48;
/// How often heartbeats and announcements are repeated.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(300);
/// Filling the directories of all nodes takes this at most.
const FILL_DEADLINE: Duration = Duration::from_secs(600);

/// What was measured.
#[derive(Clone, Debug)]
pub struct FeedFigures {
    /// From its start until the node held all providers; `None` when it did not.
    pub join: Option<Duration>,
    /// What it received until then, in bytes.
    pub join_bytes: u64,
    /// In the steady state.
    pub steady: Rates,
    /// Providers on its market at the end.
    pub providers: usize,
    /// Announcements that it held at the end.
    pub announcements: u32,
    /// Resident memory, in MiB.
    pub memory: f64,
}

/// Real nodes that pass on.
struct Relays {
    nodes: Vec<Net>,
    /// Those of version 0.1.0, in place of ours.
    plain: Vec<PlainNode>,
    addresses: Vec<Multiaddr>,
    cancel: CancellationToken,
}

/// Where simulated providers put in what they send: one connection to one relay.
struct Injector {
    peer: RawPeer,
    gossip: Stream,
}

fn ignore(mut events: NetEvents) {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(_) = events.heartbeats.recv() => {}
                Some(_) = events.offers.recv() => {}
                Some(_) = events.peers.recv() => {}
                else => return,
            }
        }
    });
}

impl Relays {
    async fn start(count: usize, wire: Wire) -> Self {
        let cancel = CancellationToken::new();
        if wire == Wire::PlainHeartbeats {
            return Self::start_plain(count, cancel).await;
        }
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut config = NetConfig::new(Keypair::generate_ed25519());
            config.options = wire.net_options(Vec::new());
            if wire == Wire::Sharded {
                // Relays take part in all.
                config.options.discovery.shards = Some(usize::from(SHARDS));
            }
            // Relays hear all shards.
            config.options.relay_server = Some(RelayLimits::default());
            let (net, events) = start(config, cancel.clone()).await.expect("a node starts");
            ignore(events);
            let address = net.listen_addresses().await.remove(0);
            addresses.push(address.with_p2p(net.local_peer_id()).expect("no id yet"));
            nodes.push(net);
        }
        Self {
            nodes,
            plain: Vec::new(),
            addresses,
            cancel,
        }
    }

    /// Each dials those before it.
    async fn start_plain(count: usize, cancel: CancellationToken) -> Self {
        let (mut plain, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let node = PlainNode::start(&addresses).await;
            addresses.push(node.address.clone());
            plain.push(node);
        }
        Self {
            nodes: Vec::new(),
            plain,
            addresses,
            cancel,
        }
    }

    async fn join_each_other(&self) {
        for (place, net) in self.nodes.iter().enumerate() {
            for address in &self.addresses[place + 1..] {
                net.dial(address.clone()).await.expect("relays connect");
            }
        }
    }

    /// Announcements, and lists that were pulled, of the relay with the fewest.
    async fn filled(&self) -> (u32, u64) {
        let (mut announcements, mut lists) = (u32::MAX, u64::MAX);
        for net in &self.nodes {
            let report = net.network_report().await.expect("the node runs");
            announcements = announcements.min(report.announcements);
            let pulled = net.counters().lists_pulled.load(Ordering::Relaxed);
            lists = lists.min(pulled);
        }
        (announcements, lists)
    }
}

async fn injector(address: &Multiaddr, wire: Wire, providers: &Arc<Providers>) -> Injector {
    let spoken = [HEARTBEAT_GOSSIP, ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let peer = RawPeer::connect(address, &spoken).await;
    let mut peer = peer.expect("a relay accepts");
    peer.drain(HEARTBEAT_GOSSIP);
    peer.drain(ANNOUNCEMENT_GOSSIP);
    serve_pulls(&mut peer, providers.clone());
    let protocol = match wire {
        Wire::Heartbeats | Wire::PlainHeartbeats => HEARTBEAT_GOSSIP,
        Wire::Announcements | Wire::Sharded => ANNOUNCEMENT_GOSSIP,
    };
    let gossip = peer.open(protocol).await.expect("a relay speaks it");
    Injector { peer, gossip }
}

/// Gives the lists of these providers to whoever asks this peer for them.
pub fn serve_pulls(peer: &mut RawPeer, providers: Arc<Providers>) {
    let mut streams = peer.accept(DISCOVERY_PROTOCOL);
    tokio::spawn(async move {
        while let Some(stream) = streams.recv().await {
            tokio::spawn(answer_pull(stream, providers.clone()));
        }
    });
}

async fn answer_pull(mut stream: Stream, providers: Arc<Providers>) -> std::io::Result<()> {
    let request = read_frame(&mut stream).await?;
    let Ok(DiscoveryRequest::Pull(wants)) = DiscoveryRequest::decode(&request) else {
        return Ok(());
    };
    for (index, want) in (0..).zip(&wants) {
        let list = providers.pull(&want.peer, &want.hash).map(Bytes);
        let answer = PulledList { index, list };
        let frame = derouter_wire::cbor::to_framed_vec(&answer);
        stream.write_all(&frame).await?;
    }
    stream.close().await
}

/// Sends what is due, each thing at its provider's pace, until cancelled.
async fn keep_sending(
    mut injectors: Vec<Injector>,
    wire: Wire,
    providers: Arc<Providers>,
    cancel: CancellationToken,
) {
    let interval = match wire {
        Wire::Heartbeats | Wire::PlainHeartbeats => HEARTBEAT_INTERVAL,
        Wire::Announcements | Wire::Sharded => ANNOUNCEMENT_INTERVAL,
    };
    let count = providers.count() as u128;
    let begin = Instant::now();
    let (mut sent, mut due) = (0_usize, 0);
    while !cancel.is_cancelled() {
        due = count * begin.elapsed().as_micros() / interval.as_micros();
        while (sent as u128) < due {
            let place = sent % providers.count();
            let message = match wire {
                Wire::Heartbeats | Wire::PlainHeartbeats => providers.heartbeat(place),
                Wire::Announcements => providers.announcement_message(place, false),
                Wire::Sharded => providers.announcement_message(place, true),
            };
            let chosen = rand::rng().random_range(0..injectors.len());
            let frame = frames::frame(&[message]);
            if let Err(error) = write(&mut injectors[chosen].gossip, &frame).await {
                eprintln!("a relay no longer takes messages: {error}");
                return;
            }
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{}: {sent} messages sent, {due} were due", wire.name());
}

/// Feeds one node and measures it.
pub async fn run(options: &Options, wire: Wire) -> FeedFigures {
    let providers = Arc::new(Providers::new(options.providers, options.offers));
    let relays = Relays::start(options.relays, wire).await;
    let known_by_one = match wire {
        Wire::Heartbeats => NEW_BY_HEARTBEAT,
        // Any number.
        Wire::PlainHeartbeats => usize::MAX,
        Wire::Announcements | Wire::Sharded => NEW_BY_ANNOUNCEMENT,
    };
    let each = options.providers.div_ceil(known_by_one).min(MOST_INJECTORS);
    let mut injectors = Vec::new();
    for address in &relays.addresses {
        let mut own = Vec::new();
        for _ in 0..each {
            own.push(injector(address, wire, &providers).await);
        }
        injectors.push(own);
    }
    fill(options, wire, &relays, &mut injectors, &providers).await;
    let addresses: Vec<String> = relays.addresses.iter().map(ToString::to_string).collect();
    let cancel = CancellationToken::new();
    let injectors = injectors.into_iter().flatten().collect();
    let sending = tokio::spawn(keep_sending(injectors, wire, providers, cancel.clone()));
    let figures = measure(options, wire, &addresses).await;
    cancel.cancel();
    let _ = sending.await;
    relays.cancel.cancel();
    drop(relays.plain);
    figures
}

/// Gives one node all that is announced without others between, and waits until its market has it
/// all: what it weighs in memory. Gives its status and MiB.
pub async fn run_direct(options: &Options) -> (Status, f64) {
    let wire = Wire::Announcements;
    let providers = Arc::new(Providers::new(options.providers, options.offers));
    let mut subject = Subject::start(wire, &[]);
    let address = subject.status().await.address.expect("it listens");
    let address = address.parse().expect("an address");
    let mut injectors = Vec::new();
    for _ in 0..providers.count().div_ceil(NEW_BY_ANNOUNCEMENT) {
        injectors.push(injector(&address, wire, &providers).await);
    }
    give(&injectors, &announcements(&providers)).await;
    let begin = Instant::now();
    let mut status = subject.status().await;
    while status.providers < providers.count() && begin.elapsed() < FILL_DEADLINE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        status = subject.status().await;
    }
    let memory = memory_mib(subject.pid);
    subject.stop().await;
    (status, memory)
}

fn announcements(providers: &Providers) -> Vec<Vec<u8>> {
    let places = 0..providers.count();
    let announcements = places.map(|place| providers.announcement(place).encode());
    announcements.collect()
}

/// Gives each injector a share to pass on.
async fn give(injectors: &[Injector], announcements: &[Vec<u8>]) {
    let share = announcements.len().div_ceil(injectors.len());
    let shares = injectors.iter().zip(announcements.chunks(share));
    join_all(shares.map(|(injector, share)| injector.peer.offer(share))).await;
}

/// Makes all providers known to the relays, and then the relays to each other.
async fn fill(
    options: &Options,
    wire: Wire,
    relays: &Relays,
    injectors: &mut [Vec<Injector>],
    providers: &Arc<Providers>,
) {
    if wire == Wire::PlainHeartbeats {
        // They give nobody what they heard before, and know each other.
        return;
    }
    let begin = Instant::now();
    if wire == Wire::Heartbeats {
        // Each relay has a share of what it may learn from each injector.
        for own in injectors.iter_mut() {
            for place in 0..providers.count() {
                let chosen = place % own.len();
                let frame = frames::frame(&[providers.heartbeat(place)]);
                let written = write(&mut own[chosen].gossip, &frame).await;
                written.expect("a relay reads");
            }
        }
        relays.join_each_other().await;
        eprintln!("{}: relays filled in {:?}", wire.name(), begin.elapsed());
        return;
    }
    let first = announcements(providers);
    join_all(injectors.iter().map(|own| give(own, &first))).await;
    relays.join_each_other().await;
    let wanted = options.providers as u64;
    while begin.elapsed() < FILL_DEADLINE {
        let (announcements, lists) = relays.filled().await;
        if u64::from(announcements) >= wanted && lists >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (announcements, lists) = relays.filled().await;
    eprintln!(
        "{}: relays hold {announcements} announcements, {lists} lists after {:?}",
        wire.name(),
        begin.elapsed()
    );
}

async fn measure(options: &Options, wire: Wire, relays: &[String]) -> FeedFigures {
    let begin = Instant::now();
    let mut subject = Subject::start(wire, relays);
    let wanted = match wire {
        Wire::Heartbeats | Wire::PlainHeartbeats | Wire::Announcements => options.providers,
        // A quarter of the shards, less the luck of the draw.
        Wire::Sharded => options.providers / 5,
    };
    let limit = match wire {
        Wire::Heartbeats | Wire::PlainHeartbeats => Duration::from_secs(options.warm_up),
        Wire::Announcements | Wire::Sharded => FILL_DEADLINE,
    };
    let mut join = None;
    while begin.elapsed() < limit {
        let status = subject.status().await;
        if status.providers * 1000 >= wanted * 995 {
            join = Some(begin.elapsed());
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let join_bytes = subject.status().await.bytes_in;
    eprintln!(
        "{}: {:?} after {:?}",
        wire.name(),
        subject.status().await,
        begin.elapsed()
    );
    // What was still on its way at the join is not the steady state.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let first = subject.sample().await;
    tokio::time::sleep(Duration::from_secs(options.window)).await;
    let steady = first.to(&subject.sample().await);
    let status = subject.status().await;
    let memory = memory_mib(subject.pid);
    subject.stop().await;
    FeedFigures {
        join,
        join_bytes,
        steady,
        providers: status.providers,
        announcements: status.announcements,
        memory,
    }
}

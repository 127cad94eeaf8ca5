//! Batches of announcements that nobody would make.

use derouter_net::{Keypair, Net, NetConfig, NetEvents, PeerId, start};
use derouter_testkit::sim::frames::{self, ANNOUNCEMENT_GOSSIP};
use derouter_testkit::sim::inbound::Incoming;
use derouter_testkit::sim::options::Wire;
use derouter_testkit::sim::providers::{Providers, offer_list};
use derouter_testkit::sim::raw_peer::{RawPeer, write};
use derouter_testkit::wait::eventually;
use derouter_wire::announce::ANNOUNCE_TOPIC;
use derouter_wire::discovery::DISCOVERY_PROTOCOL;
use derouter_wire::limits::BATCH_ANNOUNCEMENTS;
use derouter_wire::rpc::network::PeerReport;
use libp2p::Stream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// As many as a node takes into its mesh and keeps there.
const FULL_MESH: usize = 11;
/// What a peer's muxer takes of a substream that is not read (yamux), in bytes.
const UNREAD_WINDOW: u64 = 256 * 1024;

async fn node() -> (Net, NetEvents) {
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    config.options = Wire::Announcements.net_options(Vec::new());
    start(config, CancellationToken::new()).await.unwrap()
}

async fn connect(from: &Net, to: &Net) {
    let address = to.listen_addresses().await.remove(0);
    from.dial(address.with_p2p(to.local_peer_id()).unwrap())
        .await
        .unwrap();
}

async fn attacker(victim: &Net) -> RawPeer {
    let mut peer = raw_peer(victim, &[ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL]).await;
    peer.drain(ANNOUNCEMENT_GOSSIP);
    peer
}

async fn raw_peer(victim: &Net, spoken: &[&'static str]) -> RawPeer {
    let address = victim.listen_addresses().await.remove(0);
    let address = address.with_p2p(victim.local_peer_id()).unwrap();
    RawPeer::connect(&address, spoken).await.unwrap()
}

/// A neighbour in the victim's mesh that reads nothing of what it is told, and tells nothing.
async fn deaf_neighbour(victim: &Net, spoken: &[&'static str]) -> (RawPeer, Stream, Incoming) {
    let mut peer = raw_peer(victim, spoken).await;
    let unread = peer.accept(ANNOUNCEMENT_GOSSIP);
    let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await.unwrap();
    let joining = frames::joining(ANNOUNCE_TOPIC);
    write(&mut gossip, &joining).await.unwrap();
    (peer, gossip, unread)
}

/// Writes announcements of new providers without offers, batch by batch, with a pause behind each.
fn flood(flooder: RawPeer, count: usize, pause: Duration) -> JoinHandle<RawPeer> {
    let crowd = Providers::new(count, 0);
    let announcements: Vec<_> = (0..count)
        .map(|place| crowd.without_offers(place).encode())
        .collect();
    tokio::spawn(async move {
        let mut gossip = flooder.open(ANNOUNCEMENT_GOSSIP).await.unwrap();
        for some in announcements.chunks(BATCH_ANNOUNCEMENTS) {
            write(&mut gossip, &batch(some.to_vec())).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        flooder
    })
}

fn batch(announcements: Vec<Vec<u8>>) -> Vec<u8> {
    let message = frames::announcements_message(ANNOUNCE_TOPIC, announcements);
    frames::frame(&[message])
}

async fn knows(node: &Net, count: u32) {
    eventually("it knows so many", async || {
        let report = node.network_report().await.unwrap();
        (report.announcements == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_behind_a_forged_announcement_is_not_looked_at_and_what_is_before_it_goes_on() {
    let (victim, _victim_events) = node().await;
    let (consumer, _consumer_events) = node().await;
    connect(&consumer, &victim).await;
    let providers = Providers::new(3, 0);
    let [first, forged, last] = [0, 1, 2].map(|place| providers.without_offers(place).encode());
    let mut spoilt = forged.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    let liar = attacker(&victim).await;
    let mut gossip = liar.open(ANNOUNCEMENT_GOSSIP).await.unwrap();
    let sent = batch(vec![first.clone(), spoilt, last.clone()]);
    write(&mut gossip, &sent).await.unwrap();
    knows(&consumer, 1).await;
    knows(&victim, 1).await;
    assert_eq!(victim.counters().announcements_forged.load(Relaxed), 1);
    // The same from another, who is believed, although the liar is banned.
    let honest = attacker(&victim).await;
    let mut gossip = honest.open(ANNOUNCEMENT_GOSSIP).await.unwrap();
    let sent = batch(vec![first, forged, last]);
    write(&mut gossip, &sent).await.unwrap();
    knows(&consumer, 3).await;
    assert_eq!(consumer.counters().announcements_forged.load(Relaxed), 0);
}

/// Waits until a node hears of a change of a provider's list.
async fn hears(events: &mut NetEvents, provider: PeerId) {
    while events.offers.recv().await.unwrap().source != provider {}
}

/// A consumer and a provider that know each other through a hub alone, and the provider's first offer.
async fn traders(hub: &Net) -> [(Net, NetEvents); 2] {
    let (mut consumer, provider) = (node().await, node().await);
    connect(&consumer.0, hub).await;
    connect(&provider.0, hub).await;
    offer(&provider.0, 1).await;
    hears(&mut consumer.1, provider.0.local_peer_id()).await;
    [consumer, provider]
}

/// Announces another list in place of the last one.
async fn offer(provider: &Net, number: u64) {
    let offers = offer_list(format!("offer {number}"), 1, number);
    provider.announce(Some(offers)).await;
}

async fn hears_in_time(events: &mut NetEvents, provider: PeerId) {
    hears_within(Duration::from_secs(5), events, provider).await;
}

async fn hears_within(limit: Duration, events: &mut NetEvents, provider: PeerId) {
    let change = hears(events, provider);
    let in_time = tokio::time::timeout(limit, change).await;
    in_time.expect("it hears in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_that_read_nothing_keep_nothing_from_others() {
    let (victim, _victim_events) = node().await;
    let mut deaf = Vec::new();
    for _ in 0..8 {
        deaf.push(deaf_neighbour(&victim, &[ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL]).await);
    }
    let [(_consumer, mut heard), (provider, _provider_events)] = traders(&victim).await;
    let id = provider.local_peer_id();
    let flood = flood(attacker(&victim).await, 10_000, Duration::from_millis(30));
    eventually(
        "all of them are told more than they could take unread",
        async || {
            let reports = victim.peer_reports().await;
            let is_told = |(peer, ..): &(RawPeer, Stream, Incoming)| {
                let of_it = |report: &&PeerReport| report.peer == peer.id;
                let report = reports.iter().find(of_it);
                let mut paths = report.into_iter().flat_map(|report| &report.paths);
                paths.any(|path| path.bytes_out >= UNREAD_WINDOW)
            };
            deaf.iter().all(is_told).then_some(())
        },
    )
    .await;
    offer(&provider, 2).await;
    hears_in_time(&mut heard, id).await;
    let _flooder = flood.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_keeps_everything_back_is_found_out_and_not_relied_on() {
    let (victim, mut heard) = node().await;
    let mut silent = Vec::new();
    // One of them is asked what it knows, and does not answer.
    silent.push(deaf_neighbour(&victim, &[ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL]).await);
    for _ in 1..FULL_MESH {
        silent.push(deaf_neighbour(&victim, &[ANNOUNCEMENT_GOSSIP]).await);
    }
    eventually("they all have their place", async || {
        let reports = victim.peer_reports().await;
        (reports.len() == FULL_MESH).then_some(())
    })
    .await;
    // The honest one has others enough to tell, of whom it dialled two.
    let (hub, _hub_events) = node().await;
    let mut others = Vec::new();
    for _ in 0..FULL_MESH / 2 {
        others.push(deaf_neighbour(&hub, &[ANNOUNCEMENT_GOSSIP]).await);
    }
    let (provider, _provider_events) = node().await;
    let (another, _another_events) = node().await;
    connect(&hub, &provider).await;
    connect(&hub, &another).await;
    // Until these are in its mesh, which its heartbeats see to.
    tokio::time::sleep(Duration::from_secs(5)).await;
    connect(&hub, &victim).await;
    let crowd = Providers::new(100, 0);
    let teller = attacker(&hub).await;
    let found_out = || victim.counters().meshes_late.load(Relaxed) > 0;
    // A minute at most until its second look.
    for place in (0..100).take_while(|_| !found_out()) {
        let announcement = crowd.without_offers(place).encode();
        teller.offer(&[announcement]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(found_out());
    let id = provider.local_peer_id();
    for number in 1..3 {
        offer(&provider, number).await;
        hears_within(Duration::from_secs(30), &mut heard, id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_new_providers_of_one_neighbour_hold_up_nobody_elses_change() {
    let (victim, _victim_events) = node().await;
    let [(_consumer, mut heard), (provider, _provider_events)] = traders(&victim).await;
    let id = provider.local_peer_id();
    let flood = flood(attacker(&victim).await, 10_000, Duration::ZERO);
    eventually("the flood has begun", async || {
        let received = victim.counters().announcements_received.load(Relaxed);
        (received > 1000).then_some(())
    })
    .await;
    offer(&provider, 2).await;
    hears_in_time(&mut heard, id).await;
    let _flooder = flood.await.unwrap();
    // The flooder is held to its share.
    eventually("some are not handed on", async || {
        let unsent = victim.counters().announcements_unsent.load(Relaxed);
        (unsent > 0).then_some(())
    })
    .await;
}

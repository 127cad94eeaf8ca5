//! Batches of announcements that nobody would make.

use derouter_net::{Keypair, Net, NetConfig, NetEvents, PeerId, start};
use derouter_testkit::sim::frames::{self, ANNOUNCEMENT_GOSSIP};
use derouter_testkit::sim::options::Wire;
use derouter_testkit::sim::providers::{Providers, offer_list};
use derouter_testkit::sim::raw_peer::{RawPeer, write};
use derouter_testkit::wait::eventually;
use derouter_wire::announce::ANNOUNCE_TOPIC;
use derouter_wire::discovery::DISCOVERY_PROTOCOL;
use derouter_wire::limits::BATCH_ANNOUNCEMENTS;
use std::sync::atomic::Ordering::Relaxed;
use tokio_util::sync::CancellationToken;

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
    let address = victim.listen_addresses().await.remove(0);
    let address = address.with_p2p(victim.local_peer_id()).unwrap();
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(&address, &spoken).await.unwrap();
    peer.drain(ANNOUNCEMENT_GOSSIP);
    peer
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_new_providers_of_one_neighbour_hold_up_nobody_elses_change() {
    let (victim, _victim_events) = node().await;
    let (consumer, mut heard) = node().await;
    let (provider, _provider_events) = node().await;
    connect(&consumer, &victim).await;
    connect(&provider, &victim).await;
    let id = provider.local_peer_id();
    let offers = |number| Some(offer_list(format!("offer {number}"), 1, number));
    provider.announce(offers(1)).await;
    hears(&mut heard, id).await;
    let crowd = Providers::new(10_000, 0);
    let announcements: Vec<_> = (0..10_000)
        .map(|place| crowd.without_offers(place).encode())
        .collect();
    let flooder = attacker(&victim).await;
    let mut gossip = flooder.open(ANNOUNCEMENT_GOSSIP).await.unwrap();
    let flood = tokio::spawn(async move {
        for some in announcements.chunks(BATCH_ANNOUNCEMENTS) {
            write(&mut gossip, &batch(some.to_vec())).await.unwrap();
        }
    });
    eventually("the flood has begun", async || {
        let received = victim.counters().announcements_received.load(Relaxed);
        (received > 1000).then_some(())
    })
    .await;
    provider.announce(offers(2)).await;
    let change = hears(&mut heard, id);
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(5), change).await;
    in_time.expect("it hears in time");
    flood.await.unwrap();
    // The flooder is held to its share.
    eventually("some are not handed on", async || {
        let unsent = victim.counters().announcements_unsent.load(Relaxed);
        (unsent > 0).then_some(())
    })
    .await;
}

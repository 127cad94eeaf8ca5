//! Peers that hinder others in learning of offers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::Node;
use derouter_sdk::wire::discovery::DISCOVERY_PROTOCOL;
use derouter_testkit::pair::wait_model;
use derouter_testkit::sim::feed::serve_pulls;
use derouter_testkit::sim::frames::ANNOUNCEMENT_GOSSIP;
use derouter_testkit::sim::providers::Providers;
use derouter_testkit::sim::raw_peer::RawPeer;
use derouter_testkit::{Backend, NodeConfig, NodeHome, NodeProcess, eventually, ledger};

use crate::DEROUTER;

const MODEL: &str = "test-model";

/// More peers than there are places for requests, were they not shared out.
const STALLERS: usize = 9;

/// Providers that each of them makes up: several requests' worth of lists.
const ANNOUNCED: usize = 200;

/// Half the time after which a request that stalls is given up at the latest.
const BEFORE_GIVEN_UP: Duration = Duration::from_secs(10);

/// Announces many providers, and says nothing when it is asked for their lists. Counts how often it
/// was asked.
async fn stall(address: &str, announcements: &[Vec<u8>], asked: Arc<AtomicUsize>) -> RawPeer {
    let address = address.parse().unwrap();
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(&address, &spoken).await.unwrap();
    peer.drain(ANNOUNCEMENT_GOSSIP);
    let mut streams = peer.accept(DISCOVERY_PROTOCOL);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(stream) = streams.recv().await {
            held.push(stream);
            asked.fetch_add(1, Ordering::Relaxed);
        }
    });
    peer.offer(announcements).await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_announce_much_and_give_nothing_do_not_hide_an_offer() {
    let home = NodeHome::new("consumer", &NodeConfig::default().consumes());
    let consumer = home.start(DEROUTER).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let providers = Providers::new(STALLERS * ANNOUNCED, 5);
    let places = 0..providers.count();
    let announcements: Vec<Vec<u8>> = places
        .map(|place| providers.announcement(place).encode())
        .collect();
    let mut stallers = Vec::new();
    for some in announcements.chunks(ANNOUNCED) {
        let address = consumer.ready.bootstrap();
        stallers.push(stall(&address, some, Arc::clone(&asked)).await);
    }
    eventually("the lists are asked for", async || {
        (asked.load(Ordering::Relaxed) >= STALLERS).then_some(())
    })
    .await;
    let backend = Backend::start().await;
    let config = NodeConfig::default()
        .provides(&backend.url(), &[MODEL])
        .bootstrap(consumer.ready.bootstrap());
    let home = NodeHome::new("provider", &config);
    let _provider = home.start(DEROUTER).await;
    let seen = wait_model(consumer.ready.openai_url(), MODEL);
    let seen = tokio::time::timeout(BEFORE_GIVEN_UP, seen).await;
    seen.expect("the offer does not wait for those who stall");
}

/// Gives a node announcements, and their lists when it asks for them.
async fn give(
    node: &NodeProcess,
    providers: &Arc<Providers>,
    announcements: &[(usize, u64)],
) -> RawPeer {
    let address = node.ready.bootstrap().parse().unwrap();
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(&address, &spoken).await.unwrap();
    peer.drain(ANNOUNCEMENT_GOSSIP);
    serve_pulls(&mut peer, Arc::clone(providers));
    let sign = |(place, sequence): &(usize, u64)| {
        let announcement = providers.announcement_numbered(*place, *sequence);
        announcement.encode()
    };
    let announcements: Vec<Vec<u8>> = announcements.iter().map(sign).collect();
    peer.offer(&announcements).await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_brings_no_provider_back_after_a_restart() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(since.as_millis()).unwrap();
    let providers = Arc::new(Providers::new(2, 1));
    let home = NodeHome::new("consumer", &NodeConfig::default().consumes());
    let heard = async |node: &NodeProcess, place: usize| {
        let rpc = ledger::node(&node.ready);
        let active = rpc.active_providers().await.ok()?;
        active.contains(&providers.peer(place)).then_some(())
    };

    let consumer = home.start(DEROUTER).await;
    let peer = give(&consumer, &providers, &[(0, now)]).await;
    eventually("the provider is heard", async || heard(&consumer, 0).await).await;
    drop(peer);
    consumer.terminate().await;

    let consumer = home.start(DEROUTER).await;
    let recorded = give(&consumer, &providers, &[(0, now - 5000), (1, now)]).await;
    eventually("the other is heard", async || heard(&consumer, 1).await).await;
    assert_eq!(heard(&consumer, 0).await, None);
    let latest = give(&consumer, &providers, &[(0, now)]).await;
    eventually("what was heard last counts", async || {
        heard(&consumer, 0).await
    })
    .await;
    drop((recorded, latest));
}

//! Heartbeats between our nodes, and from peers that lie.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use derouter_net::{DiscoveryMode, NetConfig, NetCounters, SentHeartbeat};
use derouter_wire::UnixSeconds;
use derouter_wire::gossip::Heartbeat;

use crate::raw_peer::{RawPeer, Seen};
use crate::support::{
    self, Node, QUIC, TCP, announcement, node_with, payload, soon, unix_now, until, within,
};

/// A node that sends heartbeats whether peers of 0.1 are seen or not.
fn config(listen: &str) -> NetConfig {
    let mut config = support::config(listen);
    config.options.discovery.mode = DiscoveryMode::Heartbeats;
    config
}

async fn node(listen: &str) -> Node {
    node_with(config(listen)).await
}

async fn pair(listen: &str) -> (Node, Node) {
    let one = node(listen).await;
    let other = node(listen).await;
    one.dial(&other).await;
    (one, other)
}

/// What issue 2 promises from a change or a new connection to the other side knowing it.
const PROMPT: Duration = Duration::from_secs(2);

async fn next_heartbeat(node: &mut Node) -> Heartbeat {
    let received = soon(node.events.heartbeats.recv()).await.unwrap();
    received.heartbeat
}

fn heartbeat(timestamp: u64) -> Vec<u8> {
    let heartbeat = Heartbeat {
        provider: Some(announcement("raw", timestamp)),
        timestamp: UnixSeconds(timestamp),
    };
    heartbeat.encode()
}

#[tokio::test]
async fn an_offer_reaches_a_new_peer_and_its_change_a_connected_one_within_two_seconds() {
    for listen in [TCP, QUIC] {
        let provider = node(listen).await;
        let mut consumer = node(listen).await;
        provider.net.announce(Some(announcement("first", 1))).await;
        consumer.dial(&provider).await;
        let first = within(PROMPT, consumer.events.heartbeats.recv()).await;
        let first = first.unwrap();
        assert_eq!(first.source, provider.id());
        let first = first.heartbeat;
        assert_eq!(payload(first.provider.as_ref().unwrap()), Some("first"));

        provider.net.announce(Some(announcement("second", 2))).await;
        let second = within(PROMPT, next_heartbeat(&mut consumer)).await;
        assert_eq!(payload(second.provider.as_ref().unwrap()), Some("second"));
        assert!(second.timestamp > first.timestamp);
        let sent = *provider.events.sent.borrow();
        assert_eq!(sent.timestamp, second.timestamp);
        assert_eq!(sent.updated_at, second.provider.unwrap().updated_at);
    }
}

#[tokio::test]
async fn a_node_that_provides_nothing_forwards_heartbeats_of_others() {
    let relay = node(TCP).await;
    let provider = node(TCP).await;
    let mut consumer = node(TCP).await;
    provider.dial(&relay).await;
    consumer.dial(&relay).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let received = soon(consumer.events.heartbeats.recv()).await.unwrap();
    assert_eq!(received.source, provider.id());
}

#[tokio::test]
async fn a_stop_takes_the_offers_back() {
    let (provider, mut consumer) = pair(TCP).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let offered = next_heartbeat(&mut consumer).await;
    let SentHeartbeat {
        timestamp,
        updated_at,
    } = soon(provider.net.shutdown()).await;
    let taken_back = next_heartbeat(&mut consumer).await;
    let announcement = taken_back.provider.unwrap();
    assert!(announcement.offers.is_empty());
    assert!(announcement.updated_at > offered.provider.unwrap().updated_at);
    assert_eq!(taken_back.timestamp, timestamp);
    assert_eq!(announcement.updated_at, updated_at);
    assert!(provider.net.listen_addresses().await.is_empty(), "stopped");
}

#[tokio::test]
async fn a_restarted_provider_is_believed_in_the_same_second() {
    let mut consumer = node(TCP).await;
    let mut config = config(TCP);
    let provider = node_with(config.clone()).await;
    provider.dial(&consumer).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    next_heartbeat(&mut consumer).await;
    let last = provider.net.shutdown().await;
    let taken_back = next_heartbeat(&mut consumer).await;

    config.last_timestamp = last.timestamp;
    config.last_updated_at = last.updated_at;
    let provider = node_with(config).await;
    provider.dial(&consumer).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let again = next_heartbeat(&mut consumer).await;
    assert!(again.timestamp > taken_back.timestamp);
    let updated_at = again.provider.unwrap().updated_at;
    assert!(updated_at > taken_back.provider.unwrap().updated_at);
}

/// Publishes `bad`, then a good heartbeat, and checks that `counter` counted the bad one and that
/// the good one alone arrived.
async fn only_the_good_one_arrives(bad: Vec<u8>, counter: fn(&NetCounters) -> u64) {
    let mut node = node(TCP).await;
    let mut raw = RawPeer::hostile();
    raw.join(node.address().await).await;
    raw.publish(bad);
    let address = node.net.clone();
    tokio::select! {
        () = raw.run() => {}
        () = until(async || counter(address.counters()) == 1) => {}
    }
    let good = unix_now() + 60;
    raw.publish(heartbeat(good));
    let received = tokio::select! {
        () = raw.run() => unreachable!(),
        received = next_heartbeat(&mut node) => received,
    };
    assert_eq!(received.timestamp.0, good);
    assert_eq!(counter(node.net.counters()), 1);
    assert!(
        node.events.heartbeats.try_recv().is_err(),
        "nothing else came"
    );
}

#[tokio::test]
async fn a_heartbeat_of_the_far_future_is_ignored_and_blocks_nothing() {
    let ahead = heartbeat(unix_now() + 5 * 3600);
    only_the_good_one_arrives(ahead, |counters| counters.heartbeats_future.load(Relaxed)).await;
}

#[tokio::test]
async fn garbage_is_rejected_and_blocks_nothing() {
    let garbage = vec![0xfb; 500];
    only_the_good_one_arrives(garbage, |counters| {
        counters.heartbeats_invalid.load(Relaxed)
    })
    .await;
}

#[tokio::test]
async fn deeply_nested_garbage_is_rejected_and_blocks_nothing() {
    let nested = vec![0x81; 60_000];
    only_the_good_one_arrives(nested, |counters| counters.heartbeats_invalid.load(Relaxed)).await;
}

#[tokio::test]
async fn a_stale_heartbeat_is_ignored() {
    let mut node = node(TCP).await;
    let mut raw = RawPeer::hostile();
    raw.join(node.address().await).await;
    let now = unix_now();
    raw.publish(heartbeat(now));
    raw.publish(heartbeat(now - 10));
    let net = node.net.clone();
    let stale = async || net.counters().heartbeats_stale.load(Relaxed) == 1;
    tokio::select! {
        () = raw.run() => {}
        () = until(stale) => {}
    }
    assert_eq!(next_heartbeat(&mut node).await.timestamp.0, now);
    assert!(node.events.heartbeats.try_recv().is_err());
}

#[tokio::test]
async fn a_heartbeat_in_anothers_name_is_dropped() {
    let mut node = node(TCP).await;
    let provider = self::node(TCP).await;
    provider.dial(&node).await;
    let mut forger = RawPeer::forger(provider.id());
    forger.join(node.address().await).await;
    // Newer than anything the provider says: believed, it would silence the provider.
    forger.publish(heartbeat(unix_now() + 3000));
    // Time for the forgery to arrive and be believed, if it were.
    let _ = tokio::time::timeout(Duration::from_millis(500), forger.run()).await;
    provider.net.announce(Some(announcement("true", 1))).await;
    let received = tokio::select! {
        () = forger.run() => unreachable!(),
        received = next_heartbeat(&mut node) => received,
    };
    assert_eq!(payload(&received.provider.unwrap()), Some("true"));
    assert!(node.events.heartbeats.try_recv().is_err());
}

#[tokio::test]
async fn a_heartbeat_over_64_kib_is_dropped_and_its_peer_still_heard() {
    let mut node = node(TCP).await;
    let mut raw = RawPeer::hostile();
    raw.join(node.address().await).await;
    let mut huge = Heartbeat::decode(&heartbeat(unix_now())).unwrap();
    huge.provider = Some(announcement(&"x".repeat(65_600), 1));
    raw.publish(huge.encode());
    let good = unix_now() + 1;
    raw.publish(heartbeat(good));
    let received = tokio::select! {
        () = raw.run() => unreachable!(),
        received = next_heartbeat(&mut node) => received,
    };
    assert_eq!(received.timestamp.0, good);
}

#[tokio::test]
async fn a_frame_over_every_limit_harms_nobody_but_its_sender() {
    let mut node = node(TCP).await;
    let provider = self::node(TCP).await;
    provider.dial(&node).await;
    let mut raw = RawPeer::hostile();
    raw.join(node.address().await).await;
    for byte in 0..8 {
        raw.publish(vec![byte; 400_000]);
    }
    provider.net.announce(Some(announcement("offer", 1))).await;
    let received = tokio::select! {
        () = raw.run() => unreachable!(),
        received = next_heartbeat(&mut node) => received,
    };
    assert_eq!(payload(&received.provider.unwrap()), Some("offer"));
}

#[tokio::test]
async fn two_heartbeats_of_the_largest_size_right_behind_each_other_both_arrive() {
    let mut node = node(TCP).await;
    let mut first = RawPeer::hostile();
    first.join(node.address().await).await;
    let now = unix_now();
    for step in 0..4 {
        let filler = "x".repeat(63_500);
        let heartbeat = Heartbeat {
            provider: Some(announcement(&filler, now)),
            timestamp: UnixSeconds(now + step),
        };
        first.publish(heartbeat.encode());
    }
    for step in 0..4 {
        let received = tokio::select! {
            () = first.run() => unreachable!(),
            received = next_heartbeat(&mut node) => received,
        };
        assert_eq!(received.timestamp.0, now + step);
    }
}

#[tokio::test]
async fn the_signed_source_counts_not_who_forwards() {
    // A plain libp2p peer between two of our nodes forwards what it gets, as 0.1 nodes do.
    let provider = node(TCP).await;
    let mut consumer = node(TCP).await;
    let mut between = RawPeer::version_0_1();
    between.join(provider.address().await).await;
    between.join(consumer.address().await).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let received = tokio::select! {
        () = between.run() => unreachable!(),
        received = soon(consumer.events.heartbeats.recv()) => received.unwrap(),
    };
    assert_eq!(received.source, provider.id());
    assert_ne!(received.source, between.id());
}

#[tokio::test]
async fn a_crowd_of_more_peers_than_the_mesh_holds_all_learn_of_an_offer() {
    let provider = node(TCP).await;
    let mut crowd = Vec::new();
    // A star: they know nobody else who could tell them, and 20 s is less than the 30 s after which
    // the provider repeats itself.
    for _ in 0..30 {
        let consumer = node(TCP).await;
        consumer.dial(&provider).await;
        crowd.push(consumer);
    }
    provider.net.announce(Some(announcement("offer", 1))).await;
    for consumer in &mut crowd {
        next_heartbeat(consumer).await;
    }
    let mut late = node(TCP).await;
    late.dial(&provider).await;
    next_heartbeat(&mut late).await;
}

#[tokio::test]
async fn a_raw_peer_hears_our_heartbeat_byte_for_byte() {
    let node = node(TCP).await;
    let mut raw = RawPeer::hostile();
    raw.join(node.address().await).await;
    let announced = announcement("offer", unix_now());
    node.net.announce(Some(announced.clone())).await;
    let data = loop {
        if let Seen::Message(source, data) = raw.next().await {
            assert_eq!(source, Some(node.id()));
            break data;
        }
    };
    let decoded = Heartbeat::decode(&data).unwrap();
    assert_eq!(decoded.encode(), data);
    assert_eq!(decoded.provider, Some(announced));
}

//! Announcements (0.2) among our nodes.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use derouter_net::{DiscoveryMode, OfferNews, PeerId};
use derouter_wire::gossip::{AnnouncedOffer, Announcement};
use derouter_wire::{OfferId, ProtocolId};

use crate::raw_peer::{RawPeer, Seen};
use crate::support::*;

/// The next news of a provider.
async fn next_news(node: &mut Node, provider: PeerId) -> OfferNews {
    loop {
        let news = soon(node.events.offers.recv()).await.unwrap();
        if news.source == provider {
            return news;
        }
    }
}

fn told(news: &OfferNews) -> Option<String> {
    let list = news.list.as_ref()?.decode().unwrap();
    payload(&list).map(ToOwned::to_owned)
}

/// Waits until a provider is known to offer `expected`.
async fn sees(node: &mut Node, provider: PeerId, expected: Option<&str>) {
    while told(&next_news(node, provider).await).as_deref() != expected {}
}

#[tokio::test]
async fn an_offer_its_change_and_its_end_reach_a_peer() {
    for listen in [TCP, QUIC] {
        let (provider, mut consumer) = pair(listen).await;
        let id = provider.id();
        provider.net.announce(Some(announcement("first", 1))).await;
        sees(&mut consumer, id, Some("first")).await;
        provider.net.announce(Some(announcement("second", 2))).await;
        sees(&mut consumer, id, Some("second")).await;
        provider.net.announce(None).await;
        sees(&mut consumer, id, None).await;
    }
}

#[tokio::test]
async fn a_change_passes_through_a_line_of_five_nodes_within_seconds() {
    let mut line = Vec::new();
    for _ in 0..5 {
        line.push(node(TCP).await);
    }
    for ends in line.windows(2) {
        ends[0].dial(&ends[1]).await;
    }
    let provider = line[0].net.clone();
    let id = line[0].id();
    provider.announce(Some(announcement("first", 1))).await;
    let last = line.last_mut().unwrap();
    sees(last, id, Some("first")).await;
    provider.announce(Some(announcement("second", 2))).await;
    within(Duration::from_secs(5), sees(last, id, Some("second"))).await;
}

#[tokio::test]
async fn who_joins_later_gets_everything_from_whom_it_dials() {
    let hub = node(TCP).await;
    let mut providers = Vec::new();
    for index in 0..3 {
        let provider = node(TCP).await;
        provider.dial(&hub).await;
        let offer = announcement(&format!("offer {index}"), 1);
        provider.net.announce(Some(offer)).await;
        providers.push(provider.id());
        // Kept alive to the end.
        std::mem::forget(provider);
    }
    let known = async || hub.net.counters().announcements_known.load(Relaxed) == 3;
    until(known).await;
    let mut late = node(TCP).await;
    late.dial(&hub).await;
    let mut missing = providers.clone();
    while !missing.is_empty() {
        let news = soon(late.events.offers.recv()).await.unwrap();
        assert!(told(&news).is_some());
        missing.retain(|provider| *provider != news.source);
    }
    assert!(hub.net.counters().discovery_served.load(Relaxed) > 0);
}

#[tokio::test]
async fn a_provider_that_is_dialled_by_one_node_becomes_known_to_those_behind_it() {
    let provider = node(TCP).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let (hub, mut consumer) = pair(TCP).await;
    hub.dial(&provider).await;
    sees(&mut consumer, provider.id(), Some("offer")).await;
}

#[tokio::test]
async fn a_stop_takes_the_offers_back_at_once() {
    let (provider, mut consumer) = pair(TCP).await;
    let id = provider.id();
    provider.net.announce(Some(announcement("offer", 1))).await;
    sees(&mut consumer, id, Some("offer")).await;
    let before = provider.events.sent.borrow().timestamp;
    let last = provider.net.shutdown().await;
    assert!(last.timestamp >= before);
    within(Duration::from_secs(5), sees(&mut consumer, id, None)).await;
}

#[tokio::test]
async fn a_restarted_provider_is_believed_although_its_clock_went_back() {
    let mut consumer = node(TCP).await;
    let mut config = config(TCP);
    // Of a run whose clock was an hour ahead.
    config.last_timestamp = derouter_wire::UnixSeconds(unix_now() + 3600);
    let provider = node_with(config.clone()).await;
    provider.dial(&consumer).await;
    provider.net.announce(Some(announcement("first", 1))).await;
    let first = next_news(&mut consumer, provider.id()).await;
    assert!(first.sequence > (unix_now() + 3500) * 1000);
    config.last_timestamp = provider.net.shutdown().await.timestamp;
    let provider = node_with(config).await;
    provider.dial(&consumer).await;
    provider.net.announce(Some(announcement("second", 1))).await;
    sees(&mut consumer, provider.id(), Some("second")).await;
}

#[tokio::test]
async fn a_list_of_a_thousand_offers_arrives_whole() {
    let (provider, mut consumer) = pair(TCP).await;
    let offer = |index: usize| {
        let offer = AnnouncedOffer {
            protocol_payload: format!("{index} {}", "x".repeat(150)),
        };
        (OfferId::new(format!("offer-{index}")).unwrap(), offer)
    };
    let offers = (0..1000).map(offer).collect();
    let whole = Announcement {
        offers: [(ProtocolId::new("test:1").unwrap(), offers)].into(),
        ..Announcement::default()
    };
    provider.net.announce(Some(whole.clone())).await;
    let news = next_news(&mut consumer, provider.id()).await;
    let list = news.list.unwrap();
    assert!(list.summary.bytes > 100_000, "{}", list.summary.bytes);
    assert_eq!(list.decode().unwrap(), whole);
}

/// A provider and a crowd around one node: more than its mesh holds, and nobody else to hear it from.
async fn crowd(hub: &Node) -> (Node, Vec<Node>) {
    let provider = node(TCP).await;
    provider.dial(hub).await;
    let mut crowd = Vec::new();
    for _ in 0..24 {
        let consumer = node(TCP).await;
        consumer.dial(hub).await;
        crowd.push(consumer);
    }
    (provider, crowd)
}

/// The provider offers something, and then something else; all see both.
async fn all_see_a_change(provider: &Node, crowd: &mut [Node]) {
    for (change, number) in [("first", 1), ("second", 2)] {
        let offers = Some(announcement(change, number));
        provider.net.announce(offers).await;
        for consumer in &mut *crowd {
            sees(consumer, provider.id(), Some(change)).await;
        }
    }
}

#[tokio::test]
async fn a_crowd_around_one_node_all_learn_of_a_change() {
    let hub = node(TCP).await;
    let (provider, mut crowd) = crowd(&hub).await;
    all_see_a_change(&provider, &mut crowd).await;
}

#[tokio::test]
async fn two_of_a_crowd_that_know_each_other_learn_of_a_change_as_well() {
    let hub = node(TCP).await;
    let (provider, mut crowd) = crowd(&hub).await;
    // Where the mesh of the hub is full, each of these is all that the other has in its own.
    for pair in crowd.chunks(2) {
        pair[0].dial(&pair[1]).await;
    }
    all_see_a_change(&provider, &mut crowd).await;
}

#[tokio::test]
async fn what_comes_together_is_handed_on_together() {
    let hub = node(TCP).await;
    let mut consumer = node(TCP).await;
    consumer.dial(&hub).await;
    let mut providers = Vec::new();
    // All of them in the mesh of the hub.
    for _ in 0..9 {
        let provider = node(TCP).await;
        provider.dial(&hub).await;
        providers.push(provider);
    }
    let start = Instant::now();
    let mut missing = HashSet::new();
    for provider in &providers {
        provider.net.announce(Some(announcement("first", 1))).await;
        missing.insert(provider.id());
    }
    while !missing.is_empty() {
        let news = soon(consumer.events.offers.recv()).await.unwrap();
        missing.remove(&news.source);
    }
    // The first at once, and then one in 200 ms.
    let most = 2 + start.elapsed().as_millis() / 200;
    let sent = hub.net.counters().announcements_sent.load(Relaxed);
    assert!(sent > 0 && u128::from(sent) <= most, "{sent} of {most}");
}

#[tokio::test]
async fn heartbeats_are_sent_while_a_0_1_peer_is_seen_by_anybody_and_not_otherwise() {
    let provider = node(TCP).await;
    let mut hub = node(TCP).await;
    provider.dial(&hub).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    sees(&mut hub, provider.id(), Some("offer")).await;
    let sent = || provider.net.counters().heartbeats_sent.load(Relaxed);
    assert_eq!(sent(), 0);
    // The provider learns of the old peer from the hub alone.
    let mut old = RawPeer::version_0_1();
    old.join(hub.address().await).await;
    let source = loop {
        if let Seen::Message(source, _) = old.next().await {
            break source;
        }
    };
    assert_eq!(source, Some(provider.id()));
    assert!(sent() > 0);
}

#[tokio::test]
async fn with_heartbeats_alone_nothing_is_announced() {
    let mut config = config(TCP);
    config.options.discovery.mode = DiscoveryMode::Heartbeats;
    let provider = node_with(config).await;
    let mut consumer = node(TCP).await;
    consumer.dial(&provider).await;
    provider.net.announce(Some(announcement("offer", 1))).await;
    let heartbeat = soon(consumer.events.heartbeats.recv()).await.unwrap();
    assert_eq!(heartbeat.source, provider.id());
    assert!(consumer.events.offers.try_recv().is_err());
}

#[tokio::test]
async fn sharded_providers_are_known_to_those_who_take_part_in_their_shard() {
    let config = |shards| {
        let mut config = config(TCP);
        config.options.discovery.shards = Some(shards);
        config
    };
    let provider = node_with(config(1)).await;
    let mut everything = node_with(config(16)).await;
    let mut behind = node_with(config(16)).await;
    provider.dial(&everything).await;
    behind.dial(&everything).await;
    for (number, change) in [(1, "first"), (2, "second")] {
        provider
            .net
            .announce(Some(announcement(change, number)))
            .await;
        sees(&mut everything, provider.id(), Some(change)).await;
        sees(&mut behind, provider.id(), Some(change)).await;
    }
}

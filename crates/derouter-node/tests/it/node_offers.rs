use std::time::{Duration, Instant};

use derouter_node::ProviderDetails;
use derouter_sdk::{OfferFilter, ProvideError, ProvideOptions};
use tempfile::TempDir;

use crate::support::{Echo, Pair, config, offer, see_offer, see_offer_gone, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_reaches_a_connected_consumer_within_two_seconds_and_leaves_with_its_provision() {
    let pair = Pair::start().await;
    let (provider, consumer) = (pair.provider.handle(), pair.consumer.handle());
    // Connected, and the topic is known: the first offer shows it.
    let first = provider.provide(
        vec![offer("first", "1")],
        ProvideOptions::default(),
        Echo::new(None),
    );
    let first = first.await.unwrap();
    see_offer(&consumer, "first").await;

    let started = Instant::now();
    let second = provider.provide(
        vec![offer("second", "2")],
        ProvideOptions::default(),
        Echo::new(None),
    );
    let second = second.await.unwrap();
    let seen = see_offer(&consumer, "second").await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(seen.protocol_payload, "2");
    assert_eq!(seen.provider_peer_id, pair.provider.peer_id());
    assert!(seen.active);

    drop(second);
    see_offer_gone(&consumer, "second").await;
    see_offer(&consumer, "first").await;
    let gone = consumer
        .offer_snapshots(&[seen.snapshot_id])
        .await
        .unwrap()
        .remove(0);
    assert!(
        !gone.active,
        "a snapshot is kept, and says that it is off the market"
    );
    drop(first);
    see_offer_gone(&consumer, "first").await;
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_joins_later_sees_what_is_on_offer_and_by_whom() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut provider = config(dirs.0.path(), Vec::new());
    provider.provider = ProviderDetails {
        name: Some("ACME".into()),
        teaser: None,
        description: Some("long".into()),
    };
    let provider = derouter_node::start(provider).await.unwrap();
    let node = provider.handle();
    let _provision = node
        .provide(
            vec![offer("a", "1")],
            ProvideOptions::default(),
            Echo::new(None),
        )
        .await
        .unwrap();
    let address = provider.listen_addresses().await.remove(0);
    let consumer = derouter_node::start(config(dirs.1.path(), vec![address]))
        .await
        .unwrap();
    let handle = consumer.handle();
    see_offer(&handle, "a").await;
    let record = handle
        .providers(&[provider.peer_id()])
        .await
        .unwrap()
        .remove(0);
    assert_eq!(record.name.as_deref(), Some("ACME"));
    assert_eq!(
        (record.teaser, record.description.as_deref()),
        (None, Some("long"))
    );
    assert_eq!(
        handle.active_providers().await.unwrap(),
        [provider.peer_id()]
    );

    // A clean stop takes the offer back at once, not after 90 s of silence.
    let stopped = Instant::now();
    provider.shutdown().await;
    see_offer_gone(&handle, "a").await;
    assert!(
        stopped.elapsed() < Duration::from_secs(20),
        "{:?}",
        stopped.elapsed()
    );
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_restarts_is_seen_again_with_the_same_snapshot() {
    let pair = Pair::start().await;
    let consumer = pair.consumer.handle();
    let provision = pair
        .provider
        .handle()
        .provide(
            vec![offer("a", "1")],
            ProvideOptions::default(),
            Echo::new(None),
        )
        .await
        .unwrap();
    let before = see_offer(&consumer, "a").await;
    let listen = pair.provider.listen_addresses().await;
    pair.provider.shutdown().await;
    drop(provision);
    see_offer_gone(&consumer, "a").await;

    let mut again = config(pair.provider_dir.path(), Vec::new());
    again.net.listen = listen.iter().map(without_peer_id).collect();
    let provider = derouter_node::start(again).await.unwrap();
    let _provision = provider
        .handle()
        .provide(
            vec![offer("a", "1")],
            ProvideOptions::default(),
            Echo::new(None),
        )
        .await
        .unwrap();
    let after = see_offer(&consumer, "a").await;
    assert_eq!(after.snapshot_id, before.snapshot_id);
    pair.consumer.shutdown().await;
    provider.shutdown().await;
}

fn without_peer_id(address: &derouter_node::Multiaddr) -> derouter_node::Multiaddr {
    let text = address.to_string();
    text.split("/p2p/").next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_provided_once_and_all_or_none_of_a_call() {
    let pair = Pair::start().await;
    let node = pair.provider.handle();
    let options = ProvideOptions::default();
    let _first = node
        .provide(vec![offer("a", "1")], options.clone(), Echo::new(None))
        .await
        .unwrap();
    let both = vec![offer("b", "1"), offer("a", "2")];
    let refused = node
        .provide(both, options.clone(), Echo::new(None))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ProvideError::Duplicate { offer_id, .. } if offer_id.as_str() == "a")
    );
    let on_market = node.active_offers(&OfferFilter::default()).await.unwrap();
    assert_eq!(on_market.len(), 1, "nothing of the refused call");
    let twice = vec![offer("c", "1"), offer("c", "2")];
    assert!(node.provide(twice, options, Echo::new(None)).await.is_err());
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_offers_are_provided_and_the_1024_that_a_list_holds_are_seen() {
    let pair = Pair::start().await;
    let (provider, consumer) = (pair.provider.handle(), pair.consumer.handle());
    let payload = "x".repeat(140);
    let many = (0..5_000)
        .map(|index| offer(&format!("o{index}"), &payload))
        .collect();
    let _provision = provider
        .provide(many, ProvideOptions::default(), Echo::new(None))
        .await
        .unwrap();
    assert_eq!(
        provider
            .active_offers(&OfferFilter::default())
            .await
            .unwrap()
            .len(),
        5_000
    );
    see_offer(&consumer, "o0").await;
    let seen = consumer
        .active_offers(&OfferFilter::default())
        .await
        .unwrap()
        .len();
    assert_eq!(seen, 1024, "far more than the 64 KiB of a heartbeat");
    // The node is alive and well: another offer of it is served.
    let small = provider.provide(
        vec![offer("late", "1")],
        ProvideOptions::default(),
        Echo::new(None),
    );
    within("another offer", small).await.unwrap();
    pair.shutdown().await;
}

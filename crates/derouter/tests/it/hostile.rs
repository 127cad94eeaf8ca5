//! Too much of everything.

use std::time::Duration;

use derouter_testkit::home::{offer, openai_provider};
use derouter_testkit::pair::{models, wait_model};
use derouter_testkit::sim::frames::{self, ANNOUNCEMENT_GOSSIP, HEARTBEAT_GOSSIP};
use derouter_testkit::sim::raw_peer::{RawPeer, read_frame, write};
use derouter_testkit::{Backend, NodeConfig, Pair, eventually, http};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::DEROUTER;

const MODEL: &str = "test-model";

/// The most memory that a node may ever take in these tests.
const MEMORY_LIMIT_BYTES: u64 = 200 * 1024 * 1024;

fn request(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Say some words"}]})
}

async fn many_offers(count: usize) -> Pair {
    let backend = Backend::start().await;
    let mut provider = openai_provider(&backend.url(), &[]);
    let names: Vec<String> = (0..count)
        .map(|index| format!("model-{index:04}"))
        .collect();
    for name in &names {
        provider["offers"][name.as_str()] = offer(name);
    }
    let selling = NodeConfig::default().with("openai", json!({"provider": provider}));
    let pair = Pair::of_nodes(
        DEROUTER,
        backend,
        &selling,
        NodeConfig::default().consumes(),
    )
    .await;
    let seen = eventually("any model", async || {
        models(pair.url()).await.filter(|models| !models.is_empty())
    })
    .await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let answer = http::post_json(&url, &request(&seen[0])).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    ledger.one_signed().await;
    for node in [&pair.provider, &pair.consumer] {
        let memory = node.process().peak_memory_bytes();
        assert!(memory < MEMORY_LIMIT_BYTES, "{memory} bytes");
    }
    pair
}

/// How many of `count` offers reached the consumer. What did not is told by the provider's log.
async fn announced(pair: &Pair, count: usize) -> usize {
    let announced = models(pair.url()).await.unwrap().len();
    let log = pair.provider.process().stderr();
    let told = log.iter().find(|line| line.contains("do not fit"));
    // Each is offered in both versions of the protocol.
    let left_out = format!("count={} ", 2 * (count - announced));
    if announced < count {
        assert!(
            told.is_some_and(|line| line.contains(&left_out)),
            "{left_out}: {told:?}"
        );
    } else {
        assert_eq!(told, None);
    }
    announced
}

/// A 0.1.0 node dies at 400.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_offers_are_announced_or_named_as_left_out_and_served() {
    let pair = many_offers(400).await;
    let announced = announced(&pair, 400).await;
    assert!(announced > 200, "{announced}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_offers_are_announced_in_part_and_served() {
    let pair = many_offers(5_000).await;
    let announced = announced(&pair, 5_000).await;
    assert!(announced > 200, "{announced}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_rpc_connections_disturb_nobody() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut idle = Vec::new();
    for node in [&pair.provider, &pair.consumer] {
        for _ in 0..1_000 {
            idle.push(TcpStream::connect(node.ready.rpc).await.unwrap());
        }
    }
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let begin = std::time::Instant::now();
    let answer = http::post_json(&url, &request(MODEL)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    ledger.one_signed().await;
    for node in [&pair.provider, &pair.consumer] {
        let memory = node.process().peak_memory_bytes();
        assert!(memory < MEMORY_LIMIT_BYTES, "{memory} bytes");
    }
    drop(idle);
    eventually("the connections are let go", async || {
        (pair.consumer.process().open_files() < 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_port_harms_nobody() {
    use tokio::io::AsyncWriteExt;
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let peer_port: u16 = pair
        .provider
        .ready
        .bootstrap()
        .split('/')
        .nth(4)
        .unwrap()
        .parse()
        .unwrap();
    let peer = format!("127.0.0.1:{peer_port}").parse().unwrap();
    let targets = [pair.provider.ready.rpc, pair.consumer.ready.rpc, peer];
    let mut rubbish = vec![0xFF_u8, 0xFF, 0xFF, 0xF0];
    rubbish.extend(std::iter::repeat_n(0x5A, 65_536));
    for target in targets {
        for length in [1, 4, 12, 1_000, rubbish.len()] {
            let mut stream = TcpStream::connect(target).await.unwrap();
            // The node may hang up on the way, which is right.
            let _ = stream.write_all(&rubbish[..length]).await;
        }
    }
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    wait_model(pair.url(), MODEL).await;
    let answer = http::post_json(&url, &request(MODEL)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    ledger.one_signed().await;
}

/// Nodes put one message into a frame, and read up to four, or one with announcements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gossip_frame_of_many_messages_is_not_read_and_harms_nobody() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    for node in [&pair.provider, &pair.consumer] {
        let address = node.ready.bootstrap().parse().unwrap();
        for gossip in [ANNOUNCEMENT_GOSSIP, HEARTBEAT_GOSSIP] {
            let peer = RawPeer::connect(&address, &[]).await.unwrap();
            let messages = vec![frames::anonymous_message("nowhere", b"nothing"); 1_000];
            let mut stream = peer.open(gossip).await.unwrap();
            write(&mut stream, &frames::frame(&messages)).await.unwrap();
            // The node says nothing on this stream: it has ended it.
            let ended = read_frame(&mut stream).await;
            assert!(ended.is_err(), "{gossip}");
        }
    }
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let answer = http::post_json(&url, &request(MODEL)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    ledger.one_signed().await;
}

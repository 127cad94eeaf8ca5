//! Signatures that can't be delivered at once, and jobs without a network.

use std::time::Duration;

use derouter_sdk::{ConsumerCompletion, Node, OfferFilter};
use derouter_testkit::ledger::{jobs, node};
use derouter_testkit::pair::{free_port, wait_model};
use derouter_testkit::{Backend, NodeConfig, NodeHome, Pair, eventually, http};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::DEROUTER;

const MODEL: &str = "test-model";

fn request() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]})
}

/// Buys an answer by hand, and signs when the provider can't be told.
async fn sign_unheard(pair: &Pair) {
    let buyer = node(&pair.consumer.ready);
    let offers = buyer.active_offers(&OfferFilter::default()).await.unwrap();
    let job = buyer
        .create_job(offers[0].snapshot_id, Some(request().to_string()))
        .await
        .unwrap();
    let mut stream = buyer.open_job(&job).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap()
        .unwrap();
    assert!(!answer.is_empty());
    let outcome = buyer.remote_job(&job).await.unwrap();
    pair.provider.process().freeze();
    let completion = ConsumerCompletion {
        public_payload: outcome.public_payload.unwrap(),
        private_payload: None,
        balance_delta: outcome.balance_delta,
        completed_at_sync: outcome.completed_at_sync.unwrap(),
    };
    buyer.complete_job(&job, completion).await.unwrap();
    let rows = jobs(&buyer).await;
    assert_eq!(rows.len(), 1);
    assert!(rows[0].completed_at_sync.is_some());
    assert_eq!(rows[0].signature_confirmed_at_local, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_delivered_after_both_nodes_were_killed() {
    let backend = Backend::start().await;
    let listen = json!([format!("/ip4/127.0.0.1/tcp/{}", free_port())]);
    let selling = NodeConfig::default()
        .provides(&backend.url(), &[MODEL])
        .with("listen", listen);
    let buying = NodeConfig::default().consumes();
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    wait_model(pair.url(), MODEL).await;
    sign_unheard(&pair).await;
    let Pair {
        provider,
        consumer,
        provider_home,
        consumer_home,
        backend: _backend,
        ..
    } = pair;
    consumer.kill().await;
    provider.kill().await;
    let consumer = consumer_home.start(DEROUTER).await;
    let provider = provider_home.start(DEROUTER).await;
    for side in [&provider, &consumer] {
        let side = node(&side.ready);
        eventually("the signature on both sides", async || {
            let rows = jobs(&side).await;
            let signed = rows.len() == 1 && rows[0].signature_confirmed_at_local.is_some();
            signed.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_buys_from_itself_without_a_network() {
    let backend = Backend::start().await;
    let config = NodeConfig::default()
        .with("listen", json!([]))
        .provides(&backend.url(), &[MODEL])
        .consumes();
    let home = NodeHome::new("node", &config);
    let alone = home.start(DEROUTER).await;
    let url = alone.ready.openai_url();
    wait_model(url, MODEL).await;
    let answer = http::post_json(&format!("{url}/chat/completions"), &request())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("word7"), "{}", answer.text());
    eventually("the job signed", async || {
        let rows = jobs(&node(&alone.ready)).await;
        let signed = rows
            .iter()
            .all(|row| row.signature_confirmed_at_local.is_some());
        (!rows.is_empty() && signed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spending_limit_ends_spending_before_a_job_is_made() {
    let backend = Backend::start().await;
    let selling = NodeConfig::default().provides(&backend.url(), &[MODEL]);
    let mut buying = NodeConfig::default().consumes();
    buying.0["openai"]["consumer"]["limits"] = json!({"daily": {"$pol": "0.000001"}});
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    wait_model(pair.url(), MODEL).await;
    let ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let answer = http::post_json(&url, &request()).await.unwrap();
    assert_eq!(answer.status, 402, "{}", answer.text());
    assert_eq!(
        answer.json()["error"]["type"],
        "insufficient_quota",
        "{}",
        answer.text()
    );
    ledger.none().await;
}

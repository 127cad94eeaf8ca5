//! A stop with jobs under way: they finish, within a limit; a second signal ends at once.

use std::time::Duration;

use derouter_testkit::home::openai_consumer;
use derouter_testkit::ledger;
use derouter_testkit::pair::{Modules, wait_model, wait_no_model};
use derouter_testkit::{Backend, NodeConfig, Pair, eventually, http};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";

fn request(chunks: usize, pace_ms: u64) -> Value {
    json!({
        "model": MODEL, "stream": true,
        "messages": [{"role": "user", "content": "Say some words"}],
        "derouter_test": {"chunks": chunks, "pace_ms": pace_ms},
    })
}

/// A chat whose answer has begun.
async fn chat(pair: &Pair, chunks: usize, pace_ms: u64) -> http::Streaming {
    let url = format!("{}/chat/completions", pair.url());
    let mut answer = http::stream(&url, &request(chunks, pace_ms)).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.next().await.unwrap().unwrap();
    answer
}

async fn finishes(mut answer: http::Streaming) {
    let (text, end) = answer.rest().await;
    assert_eq!(end, Ok(()), "{text}");
    assert!(text.contains("[DONE]"), "{text}");
}

/// A pair whose provider drains for so long.
async fn pair_with(provider_seconds: u64, consumer_seconds: u64) -> Pair {
    let backend = Backend::start().await;
    let selling = NodeConfig::default()
        .provides(&backend.url(), &[MODEL])
        .with("drain_seconds", provider_seconds);
    let buying = NodeConfig::default()
        .with("openai", json!({"consumer": openai_consumer()}))
        .with("drain_seconds", consumer_seconds);
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    wait_model(pair.url(), MODEL).await;
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_leaves_the_market_at_once_and_finishes_its_answer() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let answer = chat(&pair, 150, 20).await;
    pair.provider.process().terminate();
    wait_no_model(pair.url(), MODEL).await;
    let url = format!("{}/chat/completions", pair.url());
    let refused = http::post_json(&url, &request(1, 0)).await.unwrap();
    assert_eq!(refused.status, 404, "{}", refused.text());
    finishes(answer).await;
    let consumer = ledger::node(&pair.consumer.ready);
    eventually("the signature with the provider", async || {
        let jobs = ledger::jobs(&consumer).await;
        jobs.iter()
            .all(|job| job.signature_confirmed_at_local.is_some())
            .then_some(())
    })
    .await;
    let exit = pair.provider.terminated().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let told = exit.stderr.contains("finishing what runs") && exit.stderr.contains("until=");
    assert!(told, "{}", exit.stderr);
    assert!(!exit.stderr.contains("cut off"), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_stops_accepting_and_finishes_and_signs_its_answer() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let answer = chat(&pair, 150, 20).await;
    pair.consumer.process().terminate();
    let models = format!("{}/models", pair.url());
    eventually("the closed port", async || {
        http::get(&models).await.err().map(drop)
    })
    .await;
    finishes(answer).await;
    let exit = pair.consumer.terminated().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let provider = ledger::node(&pair.provider.ready);
    let jobs = ledger::jobs(&provider).await;
    assert_eq!(jobs.len(), 1);
    let confirmed = jobs[0].signature_confirmed_at_local;
    assert!(confirmed.is_some(), "the consumer left first: {jobs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_of_their_own_processes_finish_while_their_node_drains() {
    let pair = Pair::start_with(DEROUTER, &[MODEL], Modules::AsProcesses).await;
    let answer = chat(&pair, 150, 20).await;
    pair.consumer.process().terminate();
    let url = format!("{}/chat/completions", pair.url());
    eventually("new requests refused", async || {
        let refused = http::post_json(&url, &request(1, 0)).await.ok()?;
        (refused.status == 503 && refused.json()["error"]["code"] == "shutting_down").then_some(())
    })
    .await;
    finishes(answer).await;
    let exit = pair.consumer.terminated().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let provider = ledger::node(&pair.provider.ready);
    let sold = ledger::jobs(&provider).await;
    let signed = sold
        .iter()
        .filter(|job| job.signature_confirmed_at_local.is_some());
    assert!(signed.count() >= 1, "{sold:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_module_that_stops_finishes_its_answer_too() {
    let mut pair = Pair::start_with(DEROUTER, &[MODEL], Modules::AsProcesses).await;
    let answer = chat(&pair, 300, 20).await;
    let provide = pair.modules.remove(0);
    provide.terminate();
    wait_no_model(pair.url(), MODEL).await;
    finishes(answer).await;
    let exit = provide.exit().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_ends_is_cut_off_at_the_limit() {
    let pair = pair_with(1, 30).await;
    let mut answer = chat(&pair, 100_000, 20).await;
    pair.provider.process().terminate();
    let (text, _) = answer.rest().await;
    assert!(!text.contains("[DONE]"));
    let exit = pair.provider.terminated().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("cut off"), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once_and_closes_the_database() {
    let pair = pair_with(600, 600).await;
    let _answer = chat(&pair, 100_000, 20).await;
    pair.provider.process().terminate();
    wait_no_model(pair.url(), MODEL).await;
    pair.provider.process().terminate();
    let exit = pair.provider.terminated().await;
    assert_eq!(exit.code, Some(130), "{}", exit.stderr);
    // SQLite takes the log away when the last connection closes in order.
    let log = pair.provider_home.data_dir().join("derouter.sqlite-wal");
    let length = std::fs::metadata(log).map_or(0, |log| log.len());
    assert_eq!(length, 0, "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_nothing_to_do_does_not_wait() {
    let pair = pair_with(600, 600).await;
    for node in [pair.provider, pair.consumer] {
        node.process().terminate();
        let exit = node.exit_within(Duration::from_secs(30)).await;
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    }
}

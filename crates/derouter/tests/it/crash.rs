//! Nodes that are killed and come back.

use std::time::{Duration, Instant};

use derouter_testkit::home::offer;
use derouter_testkit::pair::{wait_model, wait_no_model};
use derouter_testkit::{Backend, NodeConfig, NodeHome, Pair, http};
use serde_json::{Value, json};

use crate::DEROUTER;
use crate::client::{Client, Language};

const MODEL: &str = "test-model";

fn request(chunks: usize, pace_ms: u64) -> Value {
    json!({
        "model": MODEL, "stream": true,
        "messages": [{"role": "user", "content": "Say some words"}],
        "derouter_test": {"chunks": chunks, "pace_ms": pace_ms},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_killed_before_an_answer_is_an_error_within_seconds() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let url = format!("{}/chat/completions", pair.url());
    pair.provider.kill().await;
    let begin = Instant::now();
    let answer = http::post_json(&url, &request(8, 0)).await.unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(
        answer.status == 404 || answer.status >= 500,
        "{}: {}",
        answer.status,
        answer.text()
    );
    let error = &answer.json()["error"];
    assert!(error["message"].is_string(), "{error}");
}

async fn killed_in_the_middle(language: Language) {
    let Some(_) = Client::start(language, "http://127.0.0.1:1/v1") else {
        return;
    };
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut client = Client::start(language, pair.url()).unwrap();
    let mut ledger = pair.ledger().await;
    client
        .send(&json!({"op": "chat", "request": request(2_000, 20)}))
        .await;
    pair.backend.wait_seen("the request", |_| true).await;
    // A second client sees chunks: then the first, which was earlier, has some too.
    let url = format!("{}/chat/completions", pair.url());
    let mut other = http::stream(&url, &request(2_000, 20)).await.unwrap();
    other.next().await.unwrap();
    other.next().await.unwrap();
    drop(other);
    let Pair { provider, .. } = pair;
    provider.kill().await;
    let begin = Instant::now();
    let result = client.answer().await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(result["ok"], false, "{result}");
    assert!(!result["chunks"].as_array().unwrap().is_empty(), "{result}");
    assert!(result["error"]["type"].is_string(), "{result}");
    ledger.failed_by_consumer(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_is_told_of_a_provider_killed_in_the_middle() {
    killed_in_the_middle(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_is_told_of_a_provider_killed_in_the_middle() {
    killed_in_the_middle(Language::JavaScript).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_provider_that_comes_back_sells_again() {
    let mut pair = Pair::start(DEROUTER, &[MODEL]).await;
    let url = format!("{}/chat/completions", pair.url());
    assert_eq!(
        http::post_json(&url, &request(8, 0)).await.unwrap().status,
        200
    );
    let first = pair.provider.ready.clone();
    // The same port, so that the consumer's bootstrap address stays right.
    let port = first.bootstrap().split('/').nth(4).unwrap().to_owned();
    let selling = NodeConfig::default()
        .provides(&pair.backend.url(), &[MODEL])
        .with("listen", json!([format!("/ip4/127.0.0.1/tcp/{port}")]));
    pair.provider.kill().await;
    pair.provider_home.configure(&selling);
    pair.provider = pair.provider_home.start(DEROUTER).await;
    assert_eq!(
        pair.provider.ready.peer_id, first.peer_id,
        "the key file is kept"
    );
    let begin = Instant::now();
    loop {
        let answer = http::post_json(&url, &request(8, 0)).await.unwrap();
        if answer.status == 200 {
            assert!(answer.text().contains("[DONE]"), "{}", answer.text());
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(90),
            "{}",
            answer.text()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dearer_offer_serves_when_the_cheaper_fails_before_its_first_byte() {
    let (broken, good) = (Backend::start().await, Backend::start().await);
    broken.set_fault(derouter_testkit::Fault::named("500"));
    let mut cheap = NodeConfig::default().provides(&broken.url(), &[MODEL]);
    let mut sold = offer(MODEL);
    sold["input_token_price"] = json!({"$pol": "0.5"});
    cheap.0["openai"]["provider"]["offers"][MODEL] = sold;
    let cheap_home = NodeHome::new("cheap provider", &cheap);
    let cheap_node = cheap_home.start(DEROUTER).await;
    let dear = NodeConfig::default().provides(&good.url(), &[MODEL]);
    let buying = NodeConfig::default()
        .consumes()
        .bootstrap(cheap_node.ready.bootstrap());
    let pair = Pair::of_nodes(DEROUTER, good, &dear, buying).await;
    wait_model(pair.url(), MODEL).await;
    // Both offers are there when the cheap backend was asked and another one answered.
    let url = format!("{}/chat/completions", pair.url());
    let begin = Instant::now();
    loop {
        let answer = http::post_json(&url, &request(8, 0)).await.unwrap();
        if answer.status == 200 && !broken.seen().is_empty() {
            assert!(answer.text().contains("[DONE]"), "{}", answer.text());
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{}",
            answer.text()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_provider_does_not_stop_the_consumers_other_work() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let url = format!("{}/chat/completions", pair.url());
    pair.provider.process().freeze();
    let frozen = tokio::spawn(async move { http::post_json(&url, &request(8, 0)).await });
    let models = derouter_testkit::pair::models(pair.url()).await;
    assert!(models.is_some());
    let answer = frozen.await.unwrap().unwrap();
    assert!(answer.status >= 500, "{}: {}", answer.status, answer.text());
    pair.provider.process().thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_of_a_killed_provider_module_leave_the_market() {
    let mut pair =
        Pair::start_with(DEROUTER, &[MODEL], derouter_testkit::Modules::AsProcesses).await;
    let provide = pair.modules.remove(0);
    provide.kill().await;
    wait_no_model(pair.url(), MODEL).await;
}

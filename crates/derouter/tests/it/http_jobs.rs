//! What `openai:0.2` brings: any endpoint, bodies of any kind, and answers that are ended early.

use std::time::{Duration, Instant};

use derouter_testkit::backend::{HEARD, IMAGE_CHARS, Outcome, SPEECH_BYTES};
use derouter_testkit::home::openai_provider;
use derouter_testkit::pair::wait_model;
use derouter_testkit::{Backend, NodeConfig, Pair, eventually, http};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";

/// 10^12 wei for a prompt token and twice that for one of the answer, as the other tests have it.
const TOKEN_WEI: u128 = 1_000_000_000_000;

async fn pair() -> Pair {
    pair_with(&[]).await
}

/// With these endpoints besides.
async fn pair_with(more: &[&str]) -> Pair {
    let backend = Backend::start().await;
    let mut provider = openai_provider(&backend.url(), &[MODEL]);
    let endpoints = [
        "chat/completions",
        "embeddings",
        "responses",
        "audio/transcriptions",
        "audio/speech",
    ];
    let endpoints = [&endpoints[..], more].concat();
    provider["offers"][MODEL]["announce"] = json!({
        "endpoints": endpoints,
        "request_price": {"$pol": "0.001"},
        "second_price": {"$pol": "0.002"},
        "features": ["tools"],
    });
    let selling = NodeConfig::default().with("openai", json!({"provider": provider}));
    let buying = NodeConfig::default().consumes();
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    wait_model(pair.url(), MODEL).await;
    pair
}

/// A form with three megabytes that are no text.
fn form() -> Vec<u8> {
    let model = format!("--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{MODEL}\r\n");
    let file = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let sound = vec![0xff; 3_000_000];
    [model.as_bytes(), file.as_bytes(), &sound, b"\r\n--x--\r\n"].concat()
}

fn owed(balance: Option<&str>) -> u128 {
    balance.unwrap_or("0").parse().unwrap()
}

const MILLI_POL: u128 = 1_000_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_endpoint_is_sold_by_its_own_units() {
    let pair = pair().await;
    let mut ledger = pair.ledger().await;

    let url = format!("{}/embeddings", pair.url());
    let request = json!({"model": MODEL, "input": "some words", "dimensions": 2, "new_field": [1]});
    let answer = http::post_json(&url, &request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"][0]["embedding"], json!([0.25, -0.5]));
    let trade = ledger.one_signed().await;
    let cost = MILLI_POL + 5 * TOKEN_WEI;
    assert_eq!(owed(trade.consumer.balance_delta.as_deref()), cost);
    assert_eq!(trade.consumer.offer_protocol_id.as_str(), "openai:0.2");
    let seen = pair.backend.seen().pop().unwrap();
    assert_eq!(seen.body["new_field"], json!([1]), "unknown fields pass");

    let url = format!("{}/audio/transcriptions", pair.url());
    let request = reqwest::Client::new().post(&url).body(form());
    let request = request.header("content-type", "multipart/form-data; boundary=x");
    let heard = request.send().await.unwrap();
    assert_eq!(heard.status(), 200);
    let heard: Value = serde_json::from_slice(&heard.bytes().await.unwrap()).unwrap();
    assert_eq!(heard["text"], HEARD);
    let trade = ledger.one_signed().await;
    assert_eq!(
        owed(trade.consumer.balance_delta.as_deref()),
        MILLI_POL + 3 * 2 * MILLI_POL
    );

    let url = format!("{}/audio/speech", pair.url());
    let request = json!({"model": MODEL, "input": "Hello", "voice": "any"});
    let sound = http::post_json(&url, &request).await.unwrap();
    assert_eq!(sound.header("content-type"), Some("audio/mpeg"));
    assert_eq!(sound.body.len(), SPEECH_BYTES);
    ledger.one_signed().await;

    let url = format!("{}/responses", pair.url());
    let request = json!({"model": MODEL, "input": "Hello", "stream": true});
    let events = http::post_json(&url, &request).await.unwrap();
    let text = events.text();
    assert!(
        text.starts_with("event: response.created\ndata: "),
        "{text}"
    );
    assert!(text.contains("event: response.completed"), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    let trade = ledger.one_signed().await;
    let cost = MILLI_POL + (6 + 2 * 2) * TOKEN_WEI;
    assert_eq!(owed(trade.consumer.balance_delta.as_deref()), cost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_image_passes_however_large_its_events_are() {
    let pair = pair_with(&["images/generations"]).await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/images/generations", pair.url());
    let request = json!({"model": MODEL, "prompt": "a cat", "stream": true, "partial_images": 1});
    let image = http::post_json(&url, &request).await.unwrap();
    assert_eq!(image.status, 200, "{}", image.text());
    let text = image.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event["b64_json"].as_str().unwrap().len(), IMAGE_CHARS);
    }
    let trade = ledger.one_signed().await;
    let cost = MILLI_POL + (3 + 2 * 7) * TOKEN_WEI;
    assert_eq!(owed(trade.consumer.balance_delta.as_deref()), cost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_nobody_offers_is_told() {
    let pair = pair().await;
    let url = format!("{}/images/generations", pair.url());
    let answer = http::post_json(&url, &json!({"model": MODEL, "prompt": "a cat"})).await;
    let answer = answer.unwrap();
    assert!((400..500).contains(&answer.status), "{}", answer.text());
    assert!(answer.json()["error"]["message"].is_string());
    pair.ledger().await.none().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_megabytes_is_answered() {
    let pair = pair().await;
    let mut ledger = pair.ledger().await;
    let image = format!("data:image/png;base64,{}", "A".repeat(5 << 20));
    let content = json!([
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": image}},
    ]);
    let request = json!({"model": MODEL, "messages": [{"role": "user", "content": content}]});
    let url = format!("{}/chat/completions", pair.url());
    let answer = http::post_json(&url, &request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    ledger.one_signed().await;
    let seen = pair.backend.seen().pop().unwrap();
    assert_eq!(seen.body["messages"], request["messages"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_stops_the_backend_and_pays_for_what_came() {
    let pair = pair().await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let request = json!({"model": MODEL, "stream": true, "derouter_test": {"chunks": 1000, "pace_ms": 20},
        "messages": [{"role": "user", "content": "Say many words"}]});
    let mut stream = http::stream(&url, &request).await.unwrap();
    for _ in 0..10 {
        stream.next().await.unwrap().unwrap();
    }
    drop(stream);
    let left = Instant::now();
    eventually("the backend's work to end", async || {
        let seen = pair.backend.seen().pop()?;
        (seen.outcome == Outcome::ClientLeft).then_some(())
    })
    .await;
    // Measured at some milliseconds; a busy machine gets more.
    assert!(left.elapsed() < Duration::from_secs(5));
    let trade = ledger.one_signed().await;
    let payload: Value =
        serde_json::from_str(trade.consumer.public_payload.as_deref().unwrap()).unwrap();
    assert_eq!(payload["cancelled"], true);
    let output = payload["usage"]["output"].as_u64().unwrap();
    assert!((5..200).contains(&output), "{payload}");
    let tokens = payload["usage"]["input"].as_u64().unwrap() + 2 * output;
    let cost = MILLI_POL + u128::from(tokens) * TOKEN_WEI;
    assert_eq!(owed(trade.consumer.balance_delta.as_deref()), cost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_usage_comes_last_for_those_who_ask() {
    let pair = pair().await;
    let url = format!("{}/chat/completions", pair.url());
    let request = json!({"model": MODEL, "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Say some words"}]});
    let mut stream = http::stream(&url, &request).await.unwrap();
    let (text, ended) = stream.rest().await;
    ended.unwrap();
    assert!(text.contains("\"choices\":[]"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_keep_what_was_said_where_they_are_told_to() {
    let backend = Backend::start().await;
    let storing = || NodeConfig::default().with("store_payloads", true);
    let selling = storing().provides(&backend.url(), &[MODEL]);
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, storing().consumes()).await;
    wait_model(pair.url(), MODEL).await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    for stream in [false, true] {
        let asked = json!({"model": MODEL, "stream": stream,
            "messages": [{"role": "user", "content": "Say some words"}]});
        let answer = http::post_json(&url, &asked).await.unwrap();
        let trade = ledger.one_signed().await;
        for job in [&trade.consumer, &trade.provider] {
            let kept: Value = serde_json::from_str(job.private_payload.as_ref().unwrap()).unwrap();
            assert_eq!(kept["request"]["messages"], asked["messages"], "{kept}");
            assert_eq!(kept["cut"], false, "{kept}");
            match stream {
                false => assert_eq!(kept["response"], answer.json(), "{kept}"),
                true => assert!(
                    kept["response"].as_str().unwrap().contains("word7"),
                    "{kept}"
                ),
            }
        }
        // What the client read, to the letter but for the last line.
        if stream {
            let kept: Value =
                serde_json::from_str(trade.consumer.private_payload.as_ref().unwrap()).unwrap();
            let read = answer.text();
            assert_eq!(
                kept["response"].as_str(),
                read.strip_suffix("data: [DONE]\n\n")
            );
        }
    }
}

//! The OpenAI endpoint as plain HTTP: what a package hides.

use std::time::{Duration, Instant};

use derouter_testkit::{Modules, NodeProcess, Pair, http, sockets};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";

fn request(stream: bool) -> Value {
    json!({
        "model": MODEL, "stream": stream,
        "messages": [{"role": "user", "content": "Say some words"}],
    })
}

fn check_error_shape(answer: &http::Answer) {
    let error = &answer.json()["error"];
    let text = answer.text();
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{text}"
    );
    for key in ["param", "code"] {
        assert!(error.get(key).is_some(), "{key} is left out: {text}");
    }
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{text}"
    );
}

/// Whoever can make a browser or a stranger's program talk to the endpoint spends its owner's
/// money.
#[tokio::test]
async fn the_endpoint_spends_money_only_for_those_who_mean_it() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let url = format!("{}/chat/completions", pair.url());
    let json_type = ("content-type", "application/json");

    let other_host = http::post(&url, &request(false), &[json_type, ("host", "evil.test")]).await;
    let other_host = other_host.unwrap();
    assert!(
        (400..500).contains(&other_host.status),
        "{}",
        other_host.text()
    );

    let as_text = http::post(&url, &request(false), &[("content-type", "text/plain")]).await;
    let as_text = as_text.unwrap();
    assert!((400..500).contains(&as_text.status), "{}", as_text.text());
    check_error_shape(&as_text);

    let origin = [json_type, ("origin", "https://evil.test")];
    let cross_site = http::post(&url, &request(false), &origin).await.unwrap();
    assert_eq!(cross_site.header("access-control-allow-origin"), None);

    let mut ledger = pair.ledger().await;
    let garbage = http::post(&url, &json!([1, 2]), &[json_type])
        .await
        .unwrap();
    assert!((400..500).contains(&garbage.status), "{}", garbage.text());
    check_error_shape(&garbage);
    let unknown = http::post_json(&format!("{}/fine_tuning/jobs", pair.url()), &json!({}))
        .await
        .unwrap();
    assert_eq!(unknown.status, 404);
    check_error_shape(&unknown);
    ledger.none().await;

    let good = http::post_json(&url, &request(false)).await.unwrap();
    assert_eq!(good.status, 200, "{}", good.text());
    ledger.one_signed().await;
}

#[tokio::test]
async fn events_are_flushed_as_they_come_and_end_with_done() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let mut body = request(true);
    body["derouter_test"] = json!({"chunks": 20, "pace_ms": 50});
    let begin = Instant::now();
    let mut answer = http::stream(&url, &body).await.unwrap();
    assert_eq!(answer.status(), 200);
    let first = answer.next().await.unwrap().unwrap();
    let first_after = begin.elapsed();
    let (rest, end) = answer.rest().await;
    assert_eq!(end, Ok(()));
    let whole = begin.elapsed();
    assert!(whole >= Duration::from_secs(1), "{whole:?}");
    assert!(
        first_after < whole / 2,
        "first after {first_after:?} of {whole:?}"
    );
    let text = first + &rest;
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    assert!(
        text.split("\n\n").filter(|event| !event.is_empty()).count() >= 22,
        "{text}"
    );
    ledger.one_signed().await;
}

#[tokio::test]
async fn an_answer_that_breaks_half_way_ends_with_an_error_event() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut ledger = pair.ledger().await;
    let url = format!("{}/chat/completions", pair.url());
    let mut body = request(true);
    body["derouter_test"] = json!({"fault": "close-early"});
    let answer = http::post_json(&url, &body).await.unwrap();
    let text = answer.text();
    assert_eq!(answer.status, 200);
    assert!(text.contains("word0 "), "{text}");
    let events: Vec<Value> = text
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let error = &events.last().unwrap()["error"];
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{text}"
    );
    ledger.one_failed().await;
}

/// What a request would cost, asked on the command line.
#[tokio::test]
async fn a_quote_tells_the_price_and_buys_nothing() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let ledger = pair.ledger().await;
    let quote = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(DEROUTER);
        command.arg("quote").args(arguments);
        derouter_testkit::Process::spawn("quote", command)
            .exit()
            .await
    };
    let url = pair.url();
    let asked = quote(&[
        MODEL, "--in", "1000", "--out", "500", "--json", "--url", url,
    ])
    .await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let told: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(told["offers"].as_array().unwrap().len(), 1, "{told}");
    assert!(told["offers"][0]["parts"]["price"].is_number(), "{told}");
    let table = quote(&[MODEL, "--url", url]).await;
    assert!(
        table.stdout.contains("PROVIDER") && table.stdout.contains("new"),
        "{table:?}"
    );
    let dear = quote(&[MODEL, "--url", url, "--max-price", "0.000000000001"]).await;
    assert!(dear.stdout.contains("by max_price"), "{dear:?}");
    assert_eq!(quote(&["no-such-model", "--url", url]).await.code, Some(1));
    assert_eq!(
        quote(&[MODEL, "--url", "http://127.0.0.1:1"]).await.code,
        Some(4)
    );
    ledger.none().await;
}

/// Small writes must leave at once on each of the ways from the client to the backend: the client's
/// connection, the RPC of both modules, the nodes' own, and the backend's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_on_the_way_delays_packets() {
    let pair = Pair::start_with(DEROUTER, &[MODEL], Modules::AsProcesses).await;
    let url = format!("{}/chat/completions", pair.url());
    let mut body = request(true);
    body["derouter_test"] = json!({"chunks": 100_000, "pace_ms": 20});
    let mut answer = http::stream(&url, &body).await.unwrap();
    answer.next().await.unwrap().unwrap();
    let nodes = [&pair.provider, &pair.consumer].map(NodeProcess::process);
    let mut seen = 0;
    for process in nodes.into_iter().chain(&pair.modules) {
        let connections = sockets::connections(process.pid()).unwrap();
        assert!(!connections.is_empty(), "{process:?}");
        for connection in connections {
            assert!(connection.nodelay, "{connection:?} of {process:?}");
            seen += 1;
        }
    }
    // Client, gateway's RPC on both ends, nodes on both ends, provider's RPC on both ends, backend.
    assert!(seen >= 8, "{seen}");
}

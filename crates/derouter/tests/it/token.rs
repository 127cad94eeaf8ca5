//! `derouter token`, and what its keys may do with a node that runs.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use derouter_testkit::{Exit, NodeConfig, NodeHome, Pair, Process, eventually, http};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";

async fn token(home: &NodeHome, arguments: &[&str]) -> Exit {
    let config = home.config_path();
    let mut all = vec!["token"];
    all.extend(arguments);
    all.extend(["-c", config.to_str().unwrap()]);
    let exit = Process::run("token", DEROUTER, &all).exit().await;
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    exit
}

#[track_caller]
fn expect(exit: &Exit, code: i32, said: &str) {
    let shown = format!("{:?}: {}{}", exit.code, exit.stdout, exit.stderr);
    assert_eq!(exit.code, Some(code), "{shown}");
    assert!(shown.contains(said), "{said}: {shown}");
}

async fn create(home: &NodeHome, arguments: &[&str]) -> String {
    let mut all = vec!["create"];
    all.extend(arguments);
    let exit = token(home, &all).await;
    expect(&exit, 0, "shown once");
    let key = exit.stdout.trim().to_owned();
    assert!(key.starts_with("dr-") && key.len() == 67, "{key}");
    key
}

async fn chat(url: &str, key: &str) -> http::Answer {
    ask(url, key, MODEL).await
}

async fn ask(url: &str, key: &str, model: &str) -> http::Answer {
    let body = json!({"model": model, "max_tokens": 20,
        "messages": [{"role": "user", "content": "Say some words"}]});
    let bearer = format!("Bearer {key}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
    ];
    let url = format!("{url}/chat/completions");
    http::post(&url, &body, &headers).await.unwrap()
}

#[track_caller]
fn expect_error(answer: &http::Answer, status: u16, code: &str) -> String {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{text}");
    error["message"].as_str().unwrap().to_owned()
}

async fn listed(home: &NodeHome, name: &str) -> Value {
    let exit = token(home, &["list", "--json"]).await;
    expect(&exit, 0, "");
    let lines = exit
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let mut keys = lines.filter(|key: &Value| key["name"] == name);
    keys.next().unwrap()
}

/// Waits until a change of the keys counts. Nothing is bought meanwhile.
async fn until(url: &str, key: &str, status: u16) {
    eventually("a change of the keys", async || {
        let answer = ask(url, key, "test-absent").await;
        (answer.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_buys_what_it_may_until_it_is_revoked_also_over_restarts() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut ledger = pair.ledger().await;
    let home = &pair.consumer_home;
    expect(&token(home, &["list"]).await, 0, "no keys");
    let key = create(home, &["ci", "--models", "test-*", "--total", "2"]).await;
    let other = create(home, &["other", "--models", "llama*", "--expires", "1h"]).await;
    until(pair.url(), "nothing", 401).await;
    let mode = |file: &str| {
        let path = home.data_dir().join(file);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("keys.json"), 0o600);

    let answer = chat(pair.url(), &key).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let trade = ledger.one_signed().await;
    let cost = trade.consumer.balance_delta.unwrap();
    expect_error(&chat(pair.url(), "").await, 401, "missing_api_key");
    expect_error(&chat(pair.url(), "dr-wrong").await, 401, "invalid_api_key");
    expect_error(&chat(pair.url(), &other).await, 403, "model_not_allowed");
    let spent = eventually("the key's spending", async || {
        let key = listed(home, "ci").await;
        (key["spent_total"] == json!(cost)).then_some(key)
    })
    .await;
    assert_eq!(spent["spent_today"], json!(cost));
    assert!(spent["last_used_day"].is_u64());
    assert_eq!(mode("spending.jsonl"), 0o600);
    ledger.none().await;

    // Killed, so that nothing is written in the end. What was spent is known again all the same.
    pair.consumer.kill().await;
    let consumer = pair.consumer_home.start(DEROUTER).await;
    let url = consumer.ready.openai_url().to_owned();
    let home = &pair.consumer_home;
    wait_for(&url, &key).await;
    assert_eq!(listed(home, "ci").await["spent_total"], json!(cost));
    let limit = "0.000000000000000001";
    expect(
        &token(home, &["set", "ci", "--total", limit]).await,
        0,
        "in all 0.000",
    );
    // The file is looked at four times a second. Asking meanwhile would buy.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let answer = chat(&url, &key).await;
    let message = expect_error(&answer, 402, "spending_limit_key_total");
    let spent = derouter_sdk::Wei::to_pol_text(cost.parse().unwrap());
    let said = format!("{spent} POL are spent");
    assert!(message.contains(&said), "{message}");
    expect(&token(home, &["revoke", "ci"]).await, 0, "ci is revoked");
    until(&url, &key, 401).await;
    let last = token(home, &["revoke", "other"]).await;
    expect(&last, 0, "No key is left");
    expect(&token(home, &["list"]).await, 0, "no keys are left");
    consumer.terminate().await;
}

/// Waits until the endpoint knows the past and the model.
async fn wait_for(url: &str, key: &str) {
    eventually("the model", async || {
        let answer = ask(url, key, "test-absent").await;
        (answer.status == 404 && answer.text().contains(MODEL)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_for_other_machines_needs_a_key_first() {
    let mut config = NodeConfig::default().consumes();
    config.0["openai"]["consumer"]["server"]["host"] = json!("0.0.0.0");
    let home = NodeHome::new("open", &config);
    let refused = home.spawn(DEROUTER.as_ref()).exit().await;
    expect(&refused, 3, "derouter token create NAME");
    let key = create(&home, &["phone"]).await;
    let node = home.start(DEROUTER).await;
    let port = node
        .ready
        .openai_url()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let url = format!("http://127.0.0.1:{port}");
    let anonymous = http::get(&format!("{url}/models")).await.unwrap();
    expect_error(&anonymous, 401, "missing_api_key");
    until(&url, &key, 404).await;
    node.terminate().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_reason() {
    let home = NodeHome::new("keys", &NodeConfig::default());
    create(&home, &["a"]).await;
    expect(&token(&home, &["create", "a"]).await, 3, "revoke it first");
    expect(&token(&home, &["create", "a b"]).await, 2, "letters");
    expect(
        &token(&home, &["set", "b", "--daily", "1"]).await,
        3,
        "no key named",
    );
    expect(&token(&home, &["revoke", "b"]).await, 3, "no key named");
    expect(
        &token(&home, &["create", "c", "--daily", "much"]).await,
        2,
        "--daily",
    );
    expect(&token(&home, &["list"]).await, 0, "NAME");
    std::fs::write(home.data_dir().join("keys.json"), "[]").unwrap();
    expect(&token(&home, &["list"]).await, 3, "keys.json");
}

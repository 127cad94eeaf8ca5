//! Keys of the gateway, what each may spend, and the web pages that may use it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use derouter_openai::consumer::{
    self, ConsumerConfig, KeyRules, KeyStore, Limits, StartError, spent_by_key,
};
use derouter_sdk::{UnixSeconds, Wei};
use reqwest::Method;
use serde_json::{Value, json};

use crate::consumer_support::*;

/// One wei for each token.
const PRICE: u128 = 1_000_000;

/// What an answer of the scripts costs.
const COST: u128 = 14;

fn with_keys(data_dir: &Path) -> ConsumerConfig {
    ConsumerConfig {
        data_dir: Some(data_dir.to_owned()),
        ..ConsumerConfig::default()
    }
}

fn create(data_dir: &Path, name: &str, rules: KeyRules) -> String {
    KeyStore::new(data_dir).create(name, rules, now()).unwrap()
}

fn wei(amount: u128) -> Option<Wei> {
    Some(Wei::from_wei(amount))
}

async fn chat_with(gateway: &Gateway, header: &str, key: &str) -> reqwest::Response {
    let request = gateway.http.post(gateway.url("/chat/completions"));
    let request = request.header("content-type", "application/json");
    let body = chat_request(&json!({"max_tokens": 10})).to_string();
    let request = request.header(header, key).body(body);
    request.send().await.unwrap()
}

async fn chat_as(gateway: &Gateway, key: &str) -> reqwest::Response {
    chat_with(gateway, "authorization", &format!("Bearer {key}")).await
}

/// A gateway before one provider, once it knows the past.
async fn start(config: ConsumerConfig, key: &str) -> Gateway {
    let node = FakeNode::new();
    node.provider(PRICE, Script::plain("hello"));
    let gateway = Gateway::start_cold(node, config).await;
    while chat_status(&gateway, key).await == 503 {
        tokio::task::yield_now().await;
    }
    gateway
}

/// The status for a model that is not there: nothing is bought.
async fn chat_status(gateway: &Gateway, key: &str) -> u16 {
    let request = gateway.http.post(gateway.url("/chat/completions"));
    let request = request.header("content-type", "application/json");
    let body = json!({"model": "absent", "messages": []}).to_string();
    let response = request.bearer_auth(key).body(body).send().await.unwrap();
    response.status().as_u16()
}

async fn until_signed(gateway: &Gateway, count: u64) {
    while gateway.running.counters().signed.load(Ordering::Relaxed) < count {
        tokio::task::yield_now().await;
    }
}

async fn until_reloaded() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn with_keys_nobody_is_served_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let key = create(data, "laptop", KeyRules::default());
    let gateway = start(with_keys(data), &key).await;
    assert_eq!(chat_as(&gateway, &key).await.status(), 200);
    assert_eq!(chat_with(&gateway, "x-api-key", &key).await.status(), 200);
    let response = gateway.chat(&json!({})).await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (status, error) = error_of(response).await;
    assert_eq!((status, &error["code"]), (401, &json!("missing_api_key")));
    let (status, error) = error_of(chat_as(&gateway, "sk-other").await).await;
    assert_eq!((status, &error["code"]), (401, &json!("invalid_api_key")));
    assert_eq!(error_of(gateway.get("/models").await).await.0, 401);
    assert_eq!(gateway.node.asked.borrow().len(), 2);
    let asked = gateway.node.asked.borrow().clone();
    assert!(asked.iter().all(|(_, args)| !args.contains(&key)));
}

#[tokio::test]
async fn a_key_counts_as_soon_as_it_is_made_and_no_longer_once_it_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let gateway = start(with_keys(data), "any").await;
    assert_eq!(gateway.chat(&json!({})).await.status(), 200);
    let key = create(data, "laptop", KeyRules::default());
    until_reloaded().await;
    assert_eq!(gateway.chat(&json!({})).await.status(), 401);
    assert_eq!(chat_as(&gateway, &key).await.status(), 200);
    KeyStore::new(data).revoke("laptop").unwrap();
    until_reloaded().await;
    assert_eq!(chat_as(&gateway, &key).await.status(), 401);
    assert_eq!(gateway.chat(&json!({})).await.status(), 401);
}

#[tokio::test]
async fn a_key_that_ended_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let rules = KeyRules {
        expires: Some(UnixSeconds(946_684_800)),
        ..KeyRules::default()
    };
    let key = create(directory.path(), "old", rules);
    let gateway = start(with_keys(directory.path()), &key).await;
    let (status, error) = error_of(chat_as(&gateway, &key).await).await;
    assert_eq!((status, &error["code"]), (401, &json!("expired_api_key")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("old expired on 2000-01-01"), "{message}");
}

#[tokio::test]
async fn a_key_is_for_its_models_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let of = |models: &str| KeyRules {
        models: Some(vec![models.to_owned()]),
        ..KeyRules::default()
    };
    let other = create(data, "other", of("llama*"));
    let right = create(data, "right", of("m*"));
    let gateway = start(with_keys(data), &right).await;
    let (status, error) = error_of(chat_as(&gateway, &other).await).await;
    assert_eq!((status, &error["code"]), (403, &json!("model_not_allowed")));
    assert_eq!(error["param"], "model");
    assert_eq!(chat_as(&gateway, &right).await.status(), 200);
    for (key, count) in [(&other, 0), (&right, 1)] {
        let list = gateway.http.get(gateway.url("/models")).bearer_auth(key);
        let list: Value = json_of(list.send().await.unwrap()).await;
        assert_eq!(list["data"].as_array().unwrap().len(), count);
        let one = gateway.http.get(gateway.url("/models/m")).bearer_auth(key);
        let status = one.send().await.unwrap().status();
        assert_eq!(status == 200, count == 1);
    }
}

#[tokio::test]
async fn what_a_key_spent_outlasts_restarts_and_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let limited = KeyRules {
        total: wei(worst_case(&json!({"max_tokens": 10})).await + COST),
        ..KeyRules::default()
    };
    let key = create(data, "ci", limited);
    let other = create(data, "other", KeyRules::default());
    // Each run buys one answer. After two, the worst case does not fit any more.
    for run in 0..3 {
        let gateway = start(with_keys(data), &key).await;
        let response = chat_as(&gateway, &key).await;
        if run < 2 {
            assert_eq!(response.status(), 200, "run {run}");
            until_signed(&gateway, 1).await;
        } else {
            assert!(response.headers().get("retry-after").is_none());
            let (status, error) = error_of(response).await;
            let code = json!("spending_limit_key_total");
            assert_eq!((status, &error["code"]), (402, &code));
            assert_eq!(error["type"], "insufficient_quota");
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains("derouter token set ci --total"),
                "{message}"
            );
            assert!(
                message.contains("0.000000000000000028 POL are spent"),
                "{message}"
            );
            assert_eq!(chat_as(&gateway, &other).await.status(), 200);
            let more = wei(10 * worst_case(&json!({"max_tokens": 10})).await);
            KeyStore::new(data)
                .set("ci", |rules| rules.total = more)
                .unwrap();
            until_reloaded().await;
            assert_eq!(chat_as(&gateway, &key).await.status(), 200);
            until_signed(&gateway, 2).await;
        }
        gateway.running.shutdown().await;
    }
    let ids = KeyStore::new(data).list().unwrap().unwrap();
    let spent = spent_by_key(data).unwrap();
    assert_eq!(spent[&ids[0].id].total(), Wei::from_wei(3 * COST));
    assert_eq!(spent[&ids[0].id].today(now()), Wei::from_wei(3 * COST));
    assert_eq!(spent[&ids[1].id].total(), Wei::from_wei(COST));
}

#[tokio::test]
async fn each_limit_of_the_configuration_is_told_by_name() {
    let room = worst_case(&json!({"max_tokens": 10})).await;
    let with = |set: fn(&mut Limits, Wei)| {
        let mut limits = Limits::NONE;
        set(&mut limits, Wei::from_wei(room - 1));
        limits
    };
    for (limits, code, change) in [
        (
            with(|l, most| l.job = Some(most)),
            "spending_limit_job",
            "limits.job",
        ),
        (
            with(|l, most| l.request = Some(most)),
            "spending_limit_request",
            "limits.request",
        ),
        (
            with(|l, most| l.total = Some(most)),
            "spending_limit_total",
            "limits.total",
        ),
        (
            with(|l, most| l.daily = Some(most)),
            "spending_limit_day",
            "limits.daily",
        ),
        (
            with(|l, most| l.provider_daily = Some(most)),
            "spending_limit_provider_day",
            "limits.provider_daily",
        ),
    ] {
        let config = ConsumerConfig {
            limits,
            ..ConsumerConfig::default()
        };
        let gateway = start(config, "any").await;
        let (status, error) = error_of(gateway.chat(&json!({"max_tokens": 10})).await).await;
        assert_eq!((status, &error["code"]), (402, &json!(code)));
        assert!(
            error["message"].as_str().unwrap().contains(change),
            "{error}"
        );
        assert!(gateway.node.asked.borrow().is_empty());
    }
}

#[tokio::test]
async fn a_provider_that_got_its_share_of_the_day_leaves_the_request_to_another() {
    let node = FakeNode::new();
    let cheap = node.provider(PRICE, Script::plain("hello"));
    let dear = node.provider(2 * PRICE, Script::plain("hello"));
    let limits = Limits {
        provider_daily: wei(2 * worst_case(&json!({"max_tokens": 10})).await),
        ..Limits::NONE
    };
    let config = ConsumerConfig {
        limits,
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node.clone(), config).await;
    // The cheap one may be paid its worst case as long as it was paid no more than that before.
    let cheap_answers = worst_case(&json!({"max_tokens": 10})).await / COST + 1;
    let mut asked = 0;
    for n in 1..=cheap_answers + 1 {
        assert_eq!(
            gateway
                .chat(&json!({"max_tokens": 10, "derouter": {"sort": "price"}}))
                .await
                .status(),
            200,
            "{n}"
        );
        until_signed(&gateway, u64::try_from(n).unwrap()).await;
        asked = node.asked.borrow().last().unwrap().0;
    }
    assert_eq!(asked, dear);
    let of_cheap = node
        .asked
        .borrow()
        .iter()
        .filter(|(p, _)| *p == cheap)
        .count();
    assert!(
        u128::try_from(of_cheap).unwrap() <= cheap_answers,
        "{of_cheap}"
    );
}

#[tokio::test]
async fn other_machines_need_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let open = ConsumerConfig {
        host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ..with_keys(directory.path())
    };
    for config in [
        open.clone(),
        ConsumerConfig {
            data_dir: None,
            ..open.clone()
        },
    ] {
        let error = consumer::start(FakeNode::new(), config).await.unwrap_err();
        assert!(matches!(error, StartError::NoKeys(_)));
        assert!(
            error.to_string().contains("derouter token create"),
            "{error}"
        );
    }
    let key = create(directory.path(), "laptop", KeyRules::default());
    let running = consumer::start(FakeNode::new(), open).await.unwrap();
    let url = format!("http://127.0.0.1:{}/v1/models", running.local_addr().port());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(status(http.get(&url)).await, 401);
    assert_eq!(status(http.get(&url).bearer_auth(&key)).await, 200);
    // Without the file nobody can be known.
    std::fs::remove_file(KeyStore::new(directory.path()).path()).unwrap();
    until_reloaded().await;
    assert_eq!(status(http.get(&url).bearer_auth(&key)).await, 401);
}

#[tokio::test]
async fn files_that_are_damaged_stop_the_start_and_say_which() {
    for file in ["keys.json", "spending.jsonl"] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(file), "{\n").unwrap();
        let started = consumer::start(FakeNode::new(), with_keys(directory.path())).await;
        let error = started.unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
}

async fn preflight(gateway: &Gateway, origin: &str) -> reqwest::Response {
    let request = gateway
        .http
        .request(Method::OPTIONS, gateway.url("/chat/completions"));
    let request = request.header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    let request = request.header(
        "access-control-request-headers",
        "authorization,x-stainless-os",
    );
    let request = request.header("sec-fetch-site", "cross-site");
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_and_read_and_no_other() {
    const PAGE: &str = "https://chat.example.com";
    let directory = tempfile::tempdir().unwrap();
    let key = create(directory.path(), "page", KeyRules::default());
    let config = ConsumerConfig {
        allowed_origins: vec![PAGE.into()],
        ..with_keys(directory.path())
    };
    let gateway = start(config, &key).await;
    let answer = preflight(&gateway, PAGE).await;
    assert_eq!(answer.status(), 204);
    let headers = answer.headers();
    assert_eq!(headers["access-control-allow-origin"], PAGE);
    assert_eq!(
        headers["access-control-allow-headers"],
        "authorization,x-stainless-os"
    );
    assert!(
        headers["access-control-allow-methods"]
            .to_str()
            .unwrap()
            .contains("POST")
    );
    assert_eq!(headers["vary"], "origin");
    let post = async |key: Option<&str>| {
        let request = gateway.http.post(gateway.url("/chat/completions"));
        let mut request = request
            .header("origin", PAGE)
            .header("sec-fetch-site", "cross-site");
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let request = request.header("content-type", "application/json");
        request
            .body(chat_request(&json!({})).to_string())
            .send()
            .await
            .unwrap()
    };
    for (key, status) in [(Some(key.as_str()), 200), (None, 401)] {
        let answer = post(key).await;
        assert_eq!(answer.status(), status);
        // Also an error must be readable, or the page can't say what is wrong.
        assert_eq!(answer.headers()["access-control-allow-origin"], PAGE);
    }
    for origin in ["https://evil.example", "http://chat.example.com", "null"] {
        let answer = preflight(&gateway, origin).await;
        let headers = answer.headers();
        assert!(
            !headers.contains_key("access-control-allow-origin"),
            "{origin}"
        );
        assert_eq!(answer.status(), 403);
    }
}

#[tokio::test]
async fn an_attempt_that_failed_leaves_its_share_of_the_requests_limit_to_the_next() {
    let node = FakeNode::new();
    let failing = vec![prologue(), Step::Close];
    let first = node.provider(PRICE, Script::of(failing));
    let second = node.provider(PRICE * 3 / 2, Script::plain("hello"));
    let limits = Limits {
        request: wei(2 * worst_case(&json!({"max_tokens": 10})).await - 1),
        job: wei(2 * worst_case(&json!({"max_tokens": 10})).await - 1),
        ..Limits::NONE
    };
    let config = ConsumerConfig {
        limits,
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node.clone(), config).await;
    let request = json!({"max_tokens": 10, "derouter": {"sort": "price"}});
    let response = gateway.chat(&request).await;
    assert_eq!(response.status(), 200);
    let asked: Vec<usize> = node.asked.borrow().iter().map(|(p, _)| *p).collect();
    assert_eq!(asked, [first, second]);
}

#[tokio::test]
async fn an_error_before_any_money_leaves_the_client_to_try_again() {
    let node = FakeNode::new();
    node.provider(PRICE, Script::of(vec![prologue(), Step::Close]));
    let gateway = Gateway::start_with(node, ConsumerConfig::default()).await;
    let response = gateway.chat(&json!({})).await;
    assert_eq!(response.status(), 502);
    assert!(!response.headers().contains_key("x-should-retry"));
}

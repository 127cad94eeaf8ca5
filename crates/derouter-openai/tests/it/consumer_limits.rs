//! What the gateway may spend, and what it may buy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use derouter_openai::consumer::{self, ConsumerConfig, Limits, ModelRule, STANDING_FILE};
use derouter_openai::protocol::Usage;
use derouter_sdk::{UnixSeconds, Wei};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

fn daily(wei: u128) -> ConsumerConfig {
    ConsumerConfig {
        limits: Limits {
            daily: Some(Wei::from_wei(wei)),
            ..Limits::NONE
        },
        ..ConsumerConfig::default()
    }
}

#[tokio::test]
async fn a_request_that_could_go_over_the_limit_is_402_and_asks_nobody() {
    let node = FakeNode::new();
    node.provider(1_000_000, Script::plain("hello"));
    let request = json!({"max_tokens": 10});
    let gateway = Gateway::start_with(node, daily(worst_case(&request).await - 1)).await;
    let response = gateway.chat(&request).await;
    assert!(response.headers().get("retry-after").is_none());
    let (status, error) = error_of(response).await;
    assert_eq!(
        (status, &error["code"]),
        (402, &json!("spending_limit_day"))
    );
    assert!(error["message"].as_str().unwrap().contains("limits.daily"));
    assert!(gateway.node.asked.borrow().is_empty());
}

#[tokio::test]
async fn only_what_was_signed_counts() {
    let node = FakeNode::new();
    node.provider(1_000_000, Script::plain("hello"));
    let request = json!({"max_tokens": 10});
    // Each costs 14 wei in the end: three fit, the fourth could go over.
    let gateway = Gateway::start_with(node, daily(worst_case(&request).await + 2 * 14)).await;
    for n in 1..=3 {
        assert_eq!(gateway.chat(&request).await.status(), 200);
        while gateway.running.counters().signed.load(Ordering::Relaxed) < n {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(gateway.chat(&request).await.status(), 402);
}

#[tokio::test]
async fn a_request_waits_for_what_running_ones_reserved() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let slow = vec![
        prologue(),
        Step::Gate(gate.clone()),
        plain_answer("hello"),
        honest(),
    ];
    node.provider_of(
        "m",
        8192,
        1_000_000,
        vec![Script::of(slow), Script::plain("hello")],
    );
    let request = json!({"max_tokens": 10});
    let gateway = Gateway::start_with(node, daily(worst_case(&request).await + 14)).await;
    let counters = gateway.running.counters();
    let before = counters.requests.load(Ordering::Relaxed);
    let second = async {
        until(&gateway.node.asked, 1).await;
        let second = gateway.chat(&request);
        let release = async {
            while counters.requests.load(Ordering::Relaxed) < before + 2 {
                tokio::task::yield_now().await;
            }
            assert_eq!(
                gateway.node.asked.borrow().len(),
                1,
                "nothing was left for it"
            );
            gate.notify_one();
        };
        tokio::join!(second, release).0
    };
    let (first, second) = tokio::join!(gateway.chat(&request), second);
    assert_eq!(
        (first.status().as_u16(), second.status().as_u16()),
        (200, 200)
    );
}

#[tokio::test]
async fn an_offer_that_fits_now_is_taken_before_waiting_for_another() {
    let node = FakeNode::new();
    let never = Step::Gate(Arc::default());
    let stuck = Script::of(vec![prologue(), never]);
    let large = node.provider_of("m", 100_000, 1_000_000, vec![stuck, Script::plain("late")]);
    // Dearer in general, but its small window bounds what it can cost.
    let small = node.provider_of("m", 200, 2_000_000, vec![Script::plain("hello")]);
    let request = json!({"max_tokens": 10});
    let gateway = Gateway::start_with(node, daily(worst_case(&request).await + 450)).await;
    let running = gateway.chat(&request);
    let second = async {
        until(&gateway.node.asked, 1).await;
        timeout(Duration::from_secs(10), gateway.chat(&request)).await
    };
    tokio::select! {
        _ = running => panic!("there is no answer"),
        second = second => assert_eq!(second.expect("no wait").status(), 200),
    }
    let asked: Vec<_> = gateway
        .node
        .asked
        .borrow()
        .iter()
        .map(|(p, _)| *p)
        .collect();
    assert_eq!(asked, [large, small]);
}

#[tokio::test]
async fn spending_of_earlier_runs_counts() {
    let request = json!({"max_tokens": 10});
    let room = worst_case(&request).await;
    for (when, status) in [(now(), 402), (UnixSeconds(now().0 - 86_400), 200)] {
        let node = FakeNode::new();
        node.provider(1_000_000, Script::plain("hello"));
        for _ in 0..250 {
            node.past_job("4", when);
        }
        let gateway = Gateway::start_with(node, daily(room + 999)).await;
        assert_eq!(gateway.chat(&request).await.status(), status);
    }
    let node = FakeNode::new();
    node.provider(1_000_000, Script::plain("hello"));
    node.past_job("1000", UnixSeconds(1));
    let mut config = daily(room);
    config.limits.total = Some(Wei::from_wei(room + 999));
    let gateway = Gateway::start_with(node, config).await;
    let (status, error) = error_of(gateway.chat(&request).await).await;
    assert_eq!(status, 402);
    assert!(error["message"].as_str().unwrap().contains("limits.total"));
}

#[tokio::test]
async fn requests_are_503_until_the_node_has_told_the_past() {
    let node = FakeNode::new();
    node.provider(POL, Script::plain("hello"));
    node.set_available(false);
    let gateway = Gateway::start_cold(node, ConsumerConfig::default()).await;
    let (status, error) = error_of(gateway.chat(&json!({})).await).await;
    assert_eq!((status, &error["code"]), (503, &json!("starting")));
    gateway.node.set_available(true);
    gateway.until_ready().await;
    assert_eq!(gateway.chat(&json!({})).await.status(), 200);
}

#[tokio::test]
async fn an_own_offer_costs_nothing() {
    let node = FakeNode::new();
    node.own_offer(1_000_000, Script::plain("hello"));
    let gateway = Gateway::start_with(node, daily(0)).await;
    for n in 1..=3 {
        assert_eq!(gateway.chat(&json!({})).await.status(), 200);
        until(&gateway.node.ended, n).await;
    }
    let ended = gateway.node.ended.borrow().clone();
    assert!(
        ended
            .iter()
            .all(|(_, ended)| matches!(ended, Ended::Completed(_)))
    );
}

#[tokio::test]
async fn concurrent_requests_never_go_over_the_limit() {
    let node = FakeNode::new();
    node.provider(1_000_000, Script::plain("hello"));
    let request = json!({"max_tokens": 10});
    let limit = worst_case(&request).await + 100;
    let gateway = Gateway::start_with(node, daily(limit)).await;
    let requests = (0..40).map(|_| gateway.chat(&request));
    let answers = futures::future::join_all(requests).await;
    let served = answers
        .iter()
        .filter(|answer| answer.status() == 200)
        .count();
    // One at a time, each at 14 wei, as long as a worst case still fits.
    assert_eq!(served, 100 / 14 + 1);
    assert!(
        answers
            .iter()
            .all(|a| [200, 402].contains(&a.status().as_u16()))
    );
}

fn rules(rules: &[(&str, ModelRule)]) -> ConsumerConfig {
    let named = rules.iter().cloned();
    let models: BTreeMap<_, _> = named.map(|(id, rule)| (id.to_owned(), rule)).collect();
    ConsumerConfig {
        models: Some(models),
        ..ConsumerConfig::default()
    }
}

#[tokio::test]
async fn the_model_list_holds_what_can_be_bought() {
    let node = FakeNode::new();
    node.provider_of("org/model", 4096, 2 * POL, vec![Script::plain("x")]);
    node.provider_of("org/model", 8192, POL, vec![Script::plain("x")]);
    node.provider_of("too-dear", 8192, 51 * POL, vec![Script::plain("x")]);
    let gateway = Gateway::start(node).await;
    let list: Value = json_of(gateway.get("/models").await).await;
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    assert_eq!(models.len(), 1);
    let model = &models[0];
    assert_eq!(model["id"], "org/model");
    assert_eq!(model["object"], "model");
    assert_eq!(model["owned_by"], "derouter");
    assert!(model["created"].is_u64());
    assert_eq!(model["context_size"], 8192, "of the cheapest");
    assert_eq!(model["input_token_price"], json!({"$pol": POL.to_string()}));
    for path in ["/models/org/model", "/models/org%2Fmodel"] {
        let one: Value = json_of(gateway.get(path).await).await;
        assert_eq!(&one, model);
    }
    let (status, error) = error_of(gateway.get("/models/too-dear").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
    let (status, error) = error_of(gateway.get("/models/%FF").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_new_offer_is_listed_at_once() {
    let node = FakeNode::new();
    let gateway = Gateway::start(node).await;
    assert_eq!(gateway.get("/models/m").await.status(), 404);
    gateway.node.provider(POL, Script::plain("hello"));
    while gateway.get("/models/m").await.status() != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gateway.chat(&json!({})).await.status(), 200);
}

#[tokio::test]
async fn a_model_that_can_not_be_bought_says_why() {
    let node = FakeNode::new();
    node.provider_of("m", 4096, 2 * POL, vec![Script::plain("x")]);
    node.provider_of("other", 4096, POL, vec![Script::plain("x")]);
    let rule = |context, price| ModelRule {
        min_context_size: context,
        max_input_price: price,
        max_output_price: None,
    };
    let error = async |config| {
        let gateway = Gateway::start_with(node.clone(), config).await;
        let (status, error) = error_of(gateway.chat(&json!({})).await).await;
        let code = error["code"].as_str().unwrap().to_owned();
        (status, code, error["message"].as_str().unwrap().to_owned())
    };
    let (status, code, message) = error(rules(&[("other", ModelRule::default())])).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert!(message.contains("On offer: other."), "{message}");
    let (status, code, message) = error(rules(&[("m", rule(Some(8192), None))])).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert!(message.contains("minContextSize"), "{message}");
    let cheap = Some(Wei::from_wei(POL));
    let (status, code, message) = error(rules(&[("m", rule(None, cheap))])).await;
    assert_eq!((status, code.as_str()), (402, "price_limit_exceeded"));
    assert!(message.contains("maxInputPrice"), "{message}");
    let gateway = Gateway::start_with(node.clone(), rules(&[("absent", ModelRule::default())]));
    let request = json!({"model": "absent"});
    let (status, _) = error_of(gateway.await.chat(&request).await).await;
    assert_eq!(status, 503, "named by the rules, but nobody offers it now");
    let gateway = Gateway::start(node.clone()).await;
    let (status, error) = error_of(gateway.chat(&json!({"model": "absent"})).await).await;
    assert_eq!(status, 404);
    assert!(error["message"].as_str().unwrap().contains("m, other"));
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(10_000)}]});
    let (status, error) = error_of(gateway.chat(&long).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("context_length_exceeded"))
    );
}

#[tokio::test]
async fn nothing_is_bought_while_it_is_not_known_whom_the_owner_blocked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(STANDING_FILE);
    std::fs::write(&file, "{ \"blocked\": [").unwrap();
    let node = FakeNode::new();
    let provider = node.provider(1_000_000, Script::plain("hello"));
    let blocked = node.peer(provider).to_string();
    let config = ConsumerConfig {
        data_dir: Some(directory.path().to_owned()),
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node, config).await;
    let (status, error) = error_of(gateway.chat(&json!({})).await).await;
    assert_eq!((status, &error["code"]), (503, &json!("blocked_unknown")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(STANDING_FILE), "{message}");
    assert!(gateway.node.asked.borrow().is_empty());
    let problem = gateway.running.viewer().problem().unwrap();
    assert!(problem.contains(file.to_str().unwrap()), "{problem}");
    // Mended, it is read without a restart, and what it says holds.
    std::fs::write(
        &file,
        json!({"blocked": [blocked], "pinned": ["x"]}).to_string(),
    )
    .unwrap();
    let refused = async {
        loop {
            let (status, error) = error_of(gateway.chat(&json!({})).await).await;
            if error["code"] != "blocked_unknown" {
                return (status, error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (status, error) = timeout(PATIENCE, refused).await.unwrap();
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
    assert!(gateway.node.asked.borrow().is_empty());
    std::fs::remove_file(&file).unwrap();
    let answered = async {
        while gateway.chat(&json!({})).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test]
async fn a_bill_that_the_models_tokenizer_can_not_make_of_the_answer_is_not_signed() {
    let small = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/tokenizer/small.json"
    );
    let config = || ConsumerConfig {
        tokenizers: BTreeMap::from([("m*".to_owned(), small.into())]),
        ..ConsumerConfig::default()
    };
    let used = |completion_tokens| Usage {
        prompt_tokens: 10,
        completion_tokens,
    };
    // Each may be, without the tokenizer: a token a byte, and some that leave no text.
    for (completion_tokens, signed) in [(4, true), (200, false)] {
        let usage = used(completion_tokens);
        let steps = [
            prologue(),
            chunk("hello"),
            finish(),
            usage_chunk(usage),
            honest(),
        ];
        let script = Script {
            usage,
            ..Script::of(steps.into())
        };
        let node = FakeNode::new();
        node.provider(1_000_000, script);
        let gateway = Gateway::start_with(node, config()).await;
        let (_, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
        assert!(done);
        let ended = until(&gateway.node.ended, 1).await;
        assert_eq!(
            matches!(&ended[0].1, Ended::Completed(_)),
            signed,
            "{ended:?}"
        );
    }
    let missing = ConsumerConfig {
        tokenizers: BTreeMap::from([("m".to_owned(), "/nowhere/tokenizer.json".into())]),
        ..ConsumerConfig::default()
    };
    let error = consumer::start(FakeNode::new(), missing).await.unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/tokenizer.json"),
        "{error}"
    );
}

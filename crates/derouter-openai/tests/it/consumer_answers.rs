//! Answers as clients get them, and the bills behind them.

use derouter_openai::consumer::ConsumerConfig;
use derouter_openai::protocol::{REASON_PROTOCOL_VIOLATION, Usage};
use derouter_sdk::Wei;
use serde_json::{Value, json};

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

#[tokio::test]
async fn a_streamed_answer_comes_through_and_its_bill_is_signed() {
    let node = FakeNode::new();
    node.provider(POL, Script::streamed(&["hel", "lo"]));
    let gateway = Gateway::start(node).await;
    let request = json!({"stream": true, "new_field": {"x": [1, null]}, "user": "me"});
    let response = gateway.chat(&request).await;
    let headers = response.headers().clone();
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert_eq!(headers["x-derouter-offer"], "offer-0");
    assert_eq!(headers["x-derouter-job"], "job-0");
    let peer = gateway.node.peer(0).to_string();
    assert_eq!(headers["x-derouter-provider"], peer.as_str());
    let (events, done) = events_of(response).await;
    assert!(done);
    assert_eq!(text_of(&events), "hello");
    assert!(
        events.iter().all(|event| event.get("usage").is_none()),
        "nobody asked for the usage"
    );
    let asked = until(&gateway.node.asked, 1).await;
    let sent: Value = serde_json::from_str(&asked[0].1).unwrap();
    assert_eq!(sent, chat_request(&request), "unknown fields pass through");
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Completed(completion) = &ended[0].1 else {
        panic!("{ended:?}")
    };
    let cost = Wei::from_wei(14 * POL / 1_000_000);
    assert_eq!(completion.balance_delta, Some(cost));
    assert_eq!(completion.private_payload, None, "nothing is stored");
}

#[tokio::test]
async fn the_usage_chunk_is_for_those_who_asked() {
    let node = FakeNode::new();
    node.provider(POL, Script::streamed(&["hello"]));
    let gateway = Gateway::start(node).await;
    let request = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (events, done) = events_of(gateway.chat(&request).await).await;
    assert!(done);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], USAGE.to_json());
}

#[tokio::test]
async fn events_are_sent_as_they_come() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    node.provider(
        POL,
        Script::of(vec![
            prologue(),
            chunk("first"),
            Step::Gate(gate.clone()),
            finish(),
            usage_chunk(USAGE),
            honest(),
        ]),
    );
    let gateway = Gateway::start(node).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("first"));
    gate.notify_one();
    let (events, done) = events_of(response).await;
    assert!(done && text_of(&events).is_empty());
}

#[tokio::test]
async fn a_plain_answer_does_not_wait_for_its_bill() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    node.provider(
        POL,
        Script::of(vec![
            prologue(),
            plain_answer("hello"),
            Step::Gate(gate.clone()),
            honest(),
        ]),
    );
    let gateway = Gateway::start(node).await;
    let response = gateway.chat(&json!({})).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-derouter-job"], "job-0");
    let body: Value = json_of(response).await;
    assert_eq!(body["choices"][0]["message"]["content"], "hello");
    assert_eq!(body["usage"], USAGE.to_json());
    assert!(gateway.node.ended.borrow().is_empty());
    gate.notify_one();
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)));
}

#[tokio::test]
async fn completions_are_served_too() {
    let node = FakeNode::new();
    let answer = json!({"id": "c", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}], "usage": USAGE.to_json()});
    node.provider(
        POL,
        Script::of(vec![prologue(), Step::Value(answer.clone()), honest()]),
    );
    let gateway = Gateway::start(node).await;
    let request = json!({"model": "m", "prompt": "say hello"});
    let response = gateway.post("/completions", &request).await;
    assert_eq!(json_of(response).await, answer);
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)));
}

async fn ends_as_violation(script: Script, request: &Value) {
    let node = FakeNode::new();
    node.provider(POL, script);
    let gateway = Gateway::start(node).await;
    let response = gateway.chat(request).await;
    if request["stream"] == true {
        let (events, done) = events_of(response).await;
        assert!(done, "the client has its answer all the same");
        assert_eq!(text_of(&events), "hello");
    } else {
        assert_eq!(response.status(), 200);
    }
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Failed(failure) = &ended[0].1 else {
        panic!("a wrong bill was signed")
    };
    assert_eq!(failure.reason_class, Some(REASON_PROTOCOL_VIOLATION));
}

#[tokio::test]
async fn a_wrong_bill_is_not_signed() {
    let spoilt = |spoil| {
        Script::of(vec![
            prologue(),
            chunk("hello"),
            finish(),
            usage_chunk(USAGE),
            Step::Epilogue(spoil),
        ])
    };
    let streamed = json!({"stream": true});
    ends_as_violation(
        spoilt(|e| e.balance_delta = Some(Wei::from_wei(POL))),
        &streamed,
    )
    .await;
    ends_as_violation(spoilt(|e| e.completed_at_sync.0 = 1), &streamed).await;
    ends_as_violation(spoilt(|e| e.public_payload = "{}".into()), &streamed).await;
}

#[tokio::test]
async fn an_inflated_usage_is_not_signed() {
    let usage = Usage {
        prompt_tokens: 10,
        completion_tokens: 5000,
    };
    let mut script = Script::of(vec![
        prologue(),
        chunk("hello"),
        finish(),
        usage_chunk(usage),
        honest(),
    ]);
    script.usage = usage;
    ends_as_violation(script, &json!({"stream": true})).await;
}

#[tokio::test]
async fn a_plain_answer_with_a_wrong_bill_is_not_signed() {
    let wrong = Step::Epilogue(|epilogue| epilogue.balance_delta = None);
    let script = Script::of(vec![prologue(), plain_answer("hello"), wrong]);
    ends_as_violation(script, &json!({})).await;
}

#[tokio::test]
async fn an_answer_without_an_epilogue_is_done_and_not_signed() {
    let script = Script::of(vec![
        prologue(),
        chunk("hello"),
        finish(),
        usage_chunk(USAGE),
        Step::Close,
    ]);
    ends_as_violation(script, &json!({"stream": true})).await;
}

#[tokio::test]
async fn a_lost_epilogue_is_asked_for_and_signed() {
    let node = FakeNode::new();
    let mut script = Script::of(vec![prologue(), plain_answer("hello"), Step::Close]);
    script.remote = true;
    node.provider(POL, script);
    let gateway = Gateway::start(node).await;
    assert_eq!(gateway.chat(&json!({})).await.status(), 200);
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)), "{ended:?}");
}

#[tokio::test]
async fn done_does_not_wait_long_for_the_epilogue() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    node.provider(
        POL,
        Script::of(vec![
            prologue(),
            chunk("hello"),
            finish(),
            usage_chunk(USAGE),
            Step::Gate(gate.clone()),
            honest(),
        ]),
    );
    let gateway = Gateway::start(node).await;
    let (_, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
    assert!(done);
    assert!(gateway.node.ended.borrow().is_empty());
    gate.notify_one();
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)));
}

#[tokio::test]
async fn payloads_are_stored_only_when_told_to() {
    let node = FakeNode::new();
    node.provider(POL, Script::streamed(&["hello"]));
    let config = ConsumerConfig {
        store_payloads: true,
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node, config).await;
    events_of(gateway.chat(&json!({"stream": true})).await).await;
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Completed(completion) = &ended[0].1 else {
        panic!("{ended:?}")
    };
    let kept: Value = serde_json::from_str(completion.private_payload.as_ref().unwrap()).unwrap();
    assert_eq!(kept["request"]["messages"][0]["content"], "hello");
    assert_eq!(text_of(kept["response"].as_array().unwrap()), "hello");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_job_at_once() {
    let node = FakeNode::new();
    let never = Step::Gate(std::sync::Arc::default());
    node.provider(POL, Script::of(vec![prologue(), chunk("hello"), never]));
    let gateway = Gateway::start(node).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    response.chunk().await.unwrap();
    drop(response);
    assert_eq!(until(&gateway.node.left, 1).await, [0]);
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Failed(failure) = &ended[0].1 else {
        panic!("{ended:?}")
    };
    assert_eq!(failure.reason, "the client went away");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_ends_the_job_too() {
    let node = FakeNode::new();
    let never = Step::Gate(std::sync::Arc::default());
    node.provider(POL, Script::of(vec![prologue(), never]));
    let gateway = Gateway::start(node).await;
    let request = json!({});
    let asking = gateway.chat(&request);
    tokio::select! {
        _ = asking => panic!("there is no answer"),
        _ = until(&gateway.node.asked, 1) => {}
    }
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(f) if f.reason == "the client went away"));
}

#[tokio::test]
async fn a_job_that_is_created_after_the_client_left_is_given_up() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    // No answer in any case: whether the gateway sees the client leave before or after the job is
    // there, it must be given up.
    let mut script = Script::of(vec![prologue(), Step::Gate(std::sync::Arc::default())]);
    script.create_gate = Some(gate.clone());
    node.provider(POL, script);
    let gateway = Gateway::start(node).await;
    let request = json!({});
    let asking = gateway.chat(&request);
    tokio::select! {
        _ = asking => panic!("there is no answer"),
        _ = until(&gateway.node.asked, 1) => {}
    }
    gate.notify_one();
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(f) if f.reason == "the client went away"));
}

#[tokio::test]
async fn a_client_that_leaves_after_the_whole_answer_pays() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    node.provider(
        POL,
        Script::of(vec![
            prologue(),
            chunk("hello"),
            finish(),
            Step::Gate(gate.clone()),
            usage_chunk(USAGE),
            honest(),
        ]),
    );
    let gateway = Gateway::start(node).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    let mut text = String::new();
    while !text.contains("\"stop\"") {
        let bytes = response.chunk().await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    drop(response);
    gate.notify_one();
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)), "{ended:?}");
}

#[tokio::test]
async fn a_shutdown_lets_a_running_answer_finish() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    node.provider(
        POL,
        Script::of(vec![
            prologue(),
            chunk("hel"),
            Step::Gate(gate.clone()),
            chunk("lo"),
            finish(),
            usage_chunk(USAGE),
            honest(),
        ]),
    );
    let gateway = Gateway::start(node.clone()).await;
    let url = gateway.url("/models");
    let mut response = gateway.chat(&json!({"stream": true})).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("hel"));
    let stopping = tokio::spawn(gateway.running.shutdown());
    let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
    while fresh.get(&url).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    let (events, done) = events_of(response).await;
    assert!(done && text_of(&events) == "lo");
    stopping.await.unwrap();
    let ended = node.ended.borrow().clone();
    assert!(
        matches!(ended[0].1, Ended::Completed(_)),
        "settled before it returns"
    );
}

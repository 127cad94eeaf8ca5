//! Anthropic's Messages API in front of the same providers.

use std::sync::Arc;
use std::time::Duration;

use derouter_openai::consumer::{ConsumerConfig, Limits};
use derouter_sdk::{CreateJobError, Wei};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

/// A small request with more fields.
pub(crate) fn messages_request(more: &Value) -> Value {
    let mut request = chat_request(&json!({"max_tokens": 100}));
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

async fn ask(gateway: &Gateway, more: &Value) -> reqwest::Response {
    gateway.post("/messages", &messages_request(more)).await
}

/// The status and the error of an answer that must be one in Anthropic's shape.
async fn refusal_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let request_id = response.headers()["request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = json_of(response).await;
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(body["request_id"], request_id.as_str());
    assert!(body["error"]["message"].is_string(), "{body}");
    (status, body["error"].clone())
}

/// The events of a stream, each with the name that it must have.
fn events_in(text: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for event in text.split_terminator("\n\n") {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        events.push(data);
    }
    events
}

async fn stream_of(response: reqwest::Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let text = timeout(PATIENCE, response.text()).await.expect("in time");
    events_in(&text.unwrap())
}

fn texts_in(events: &[Value]) -> String {
    let texts = events.iter().filter_map(|e| e["delta"]["text"].as_str());
    texts.collect()
}

fn types_of(events: &[Value]) -> Vec<&str> {
    let types = events.iter().map(|event| event["type"].as_str().unwrap());
    types.collect()
}

#[tokio::test]
async fn a_plain_message_is_answered_and_its_bill_signed() {
    let node = FakeNode::new();
    node.provider(POL, Script::plain("hello"));
    let gateway = Gateway::start(node).await;
    let response = ask(&gateway, &json!({"system": "be brief", "top_k": 5})).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-derouter-job"], "job-0");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("request-id"));
    let message: Value = json_of(response).await;
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        message["content"],
        json!([{"type": "text", "text": "hello"}])
    );
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(message["usage"]["input_tokens"], 10);
    assert_eq!(message["usage"]["output_tokens"], 4);
    let asked = until(&gateway.node.asked, 1).await;
    let sent: Value = serde_json::from_str(&asked[0].1).unwrap();
    let expected = json!({"model": "m", "max_tokens": 100, "top_k": 5, "messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]});
    assert_eq!(sent, expected);
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)));
}

#[tokio::test]
async fn a_streamed_message_comes_as_events_and_its_bill_is_signed() {
    let node = FakeNode::new();
    node.provider(POL, Script::streamed(&["hel", "lo"]));
    let gateway = Gateway::start(node).await;
    let response = ask(&gateway, &json!({"stream": true})).await;
    assert_eq!(response.headers()["x-derouter-job"], "job-0");
    let events = stream_of(response).await;
    assert_eq!(
        types_of(&events),
        [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(texts_in(&events), "hello");
    assert_eq!(events[6]["usage"]["input_tokens"], 10);
    assert_eq!(events[6]["usage"]["output_tokens"], 4);
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Completed(completion) = &ended[0].1 else {
        panic!("{ended:?}")
    };
    let cost = Wei::from_wei(14 * POL / 1_000_000);
    assert_eq!(completion.balance_delta, Some(cost));
}

#[tokio::test]
async fn events_come_as_the_provider_sends_them() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let steps = [prologue(), chunk("hel"), Step::Gate(gate.clone())];
    let end = [chunk("lo"), finish(), usage_chunk(USAGE), honest()];
    node.provider(POL, Script::of(steps.into_iter().chain(end).collect()));
    let gateway = Gateway::start(node).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert_eq!(
        texts_in(&events_in(&String::from_utf8_lossy(&first))),
        "hel"
    );
    gate.notify_one();
    assert_eq!(texts_in(&stream_of(response).await), "lo");
}

#[tokio::test]
async fn the_end_does_not_wait_for_the_bill() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let steps = vec![
        prologue(),
        chunk("hello"),
        finish(),
        usage_chunk(USAGE),
        Step::Gate(gate.clone()),
        honest(),
    ];
    node.provider(POL, Script::of(steps));
    let mut config = ConsumerConfig::default();
    config.deadlines.done = Duration::from_secs(100);
    let gateway = Gateway::start_with(node, config).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    let mut text = String::new();
    while !text.contains("message_stop") {
        let bytes = timeout(PATIENCE, response.chunk()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&bytes.unwrap().unwrap()));
    }
    assert!(gateway.node.ended.borrow().is_empty());
    // The client goes, as it has all, and pays.
    drop(response);
    gate.notify_one();
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(ended[0].1, Ended::Completed(_)), "{ended:?}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_ends_the_job() {
    let node = FakeNode::new();
    let never = Step::Gate(Arc::default());
    node.provider(POL, Script::of(vec![prologue(), chunk("hello"), never]));
    let gateway = Gateway::start(node).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    response.chunk().await.unwrap();
    drop(response);
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(f) if f.reason == "the client went away"));
}

/// What comes up to the third ping.
async fn until_pings(response: &mut reqwest::Response) -> String {
    let mut text = String::new();
    while text.matches("event: ping\n").count() < 3 {
        let bytes = timeout(PATIENCE, response.chunk()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&bytes.unwrap().unwrap()));
    }
    text
}

#[tokio::test]
async fn a_long_silence_is_filled_with_pings() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let steps = [prologue(), chunk("hel"), Step::Gate(gate.clone())];
    let end = [chunk("lo"), finish(), usage_chunk(USAGE), honest()];
    node.provider(POL, Script::of(steps.into_iter().chain(end).collect()));
    let mut config = ConsumerConfig::default();
    config.deadlines.keep_alive = Duration::from_millis(20);
    let gateway = Gateway::start_with(node, config).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    until_pings(&mut response).await;
    gate.notify_one();
    assert_eq!(texts_in(&stream_of(response).await), "lo");
}

#[tokio::test]
async fn a_message_that_is_long_in_coming_begins_without_its_text() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let steps = [Step::Gate(gate.clone()), prologue(), chunk("hello")];
    let end = [finish(), usage_chunk(USAGE), honest()];
    node.provider(POL, Script::of(steps.into_iter().chain(end).collect()));
    let mut config = ConsumerConfig::default();
    config.deadlines.begin_stream = Duration::from_millis(50);
    config.deadlines.keep_alive = Duration::from_millis(20);
    let gateway = Gateway::start_with(node, config).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    let text = until_pings(&mut response).await;
    assert!(text.starts_with("event: message_start\n"), "{text}");
    gate.notify_one();
    let events = stream_of(response).await;
    assert_eq!(texts_in(&events), "hello");
    assert!(!types_of(&events).contains(&"message_start"));
}

#[tokio::test]
async fn a_message_that_nobody_answers_ends_with_its_own_error() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    node.provider(
        POL,
        Script {
            create_gate: Some(gate.clone()),
            ..Script::refusing(CreateJobError::ProviderBusy)
        },
    );
    let mut config = ConsumerConfig::default();
    config.deadlines.begin_stream = Duration::from_millis(50);
    config.deadlines.keep_alive = Duration::from_millis(20);
    let gateway = Gateway::start_with(node, config).await;
    let mut response = ask(&gateway, &json!({"stream": true})).await;
    until_pings(&mut response).await;
    gate.notify_one();
    let events = stream_of(response).await;
    let last = events.last().unwrap();
    assert_eq!(last["type"], "error");
    assert_eq!(last["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn thinking_that_nobody_asked_for_is_filled_with_pings_too() {
    let node = FakeNode::new();
    let thought = Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1,
        "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "",
        "reasoning_content": "hm"}, "finish_reason": null}]}),
    );
    let mut steps = vec![prologue()];
    let gates: Vec<_> = (0..5).map(|_| Arc::new(Notify::new())).collect();
    for gate in &gates {
        steps.extend([thought.clone(), Step::Gate(gate.clone())]);
    }
    steps.extend([chunk("hello"), finish(), usage_chunk(USAGE), honest()]);
    node.provider(POL, Script::of(steps));
    let mut config = ConsumerConfig::default();
    // Thoughts come before the gateway would say something by itself.
    config.deadlines.keep_alive = Duration::from_millis(400);
    let gateway = Gateway::start_with(node, config).await;
    let response = ask(&gateway, &json!({"stream": true})).await;
    let opening = async {
        for gate in &gates {
            tokio::time::sleep(Duration::from_millis(220)).await;
            gate.notify_one();
        }
    };
    let (events, ()) = tokio::join!(stream_of(response), opening);
    assert_eq!(texts_in(&events), "hello");
    let pings = types_of(&events)
        .iter()
        .filter(|name| **name == "ping")
        .count();
    assert!(pings >= 3, "{events:?}");
    assert!(
        !events
            .iter()
            .any(|event| event["delta"]["type"] == "thinking_delta")
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error_event() {
    for broken in [
        Step::Close,
        Step::Value(json!({"error": {"message": "out of memory"}})),
        Step::Bytes(vec![0xff; 4]),
    ] {
        let node = FakeNode::new();
        node.provider(POL, Script::of(vec![prologue(), chunk("hello"), broken]));
        let gateway = Gateway::start(node).await;
        let events = stream_of(ask(&gateway, &json!({"stream": true})).await).await;
        assert_eq!(texts_in(&events), "hello");
        let last = events.last().unwrap();
        assert_eq!(last["type"], "error");
        assert_eq!(last["error"]["type"], "api_error");
        let message = last["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("The answer broke off"), "{message}");
        assert!(!types_of(&events).contains(&"message_stop"));
    }
}

#[tokio::test]
async fn an_answer_that_can_not_be_translated_ends_at_once() {
    let node = FakeNode::new();
    let calls: Vec<_> = (0..200)
        .map(|index| json!({"index": index, "function": {"name": "f", "arguments": "{}"}}))
        .collect();
    let many = Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1,
        "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "",
        "tool_calls": calls}, "finish_reason": null}]}),
    );
    let never = Step::Gate(Arc::default());
    node.provider(POL, Script::of(vec![prologue(), many, never]));
    let gateway = Gateway::start(node).await;
    let events = stream_of(ask(&gateway, &json!({"stream": true})).await).await;
    assert_eq!(events.last().unwrap()["type"], "error");
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(_)));
}

#[tokio::test]
async fn errors_have_anthropics_types() {
    let node = FakeNode::new();
    node.provider(POL, Script::refusing(CreateJobError::ProviderBusy));
    let gateway = Gateway::start(node).await;
    for (more, status, kind) in [
        (json!({"model": "other"}), 404, "not_found_error"),
        (json!({"max_tokens": null}), 400, "invalid_request_error"),
        (json!({"messages": []}), 400, "invalid_request_error"),
        (json!({"n": 2}), 400, "invalid_request_error"),
        (json!({}), 429, "rate_limit_error"),
        (json!({"stream": true}), 429, "rate_limit_error"),
        (
            json!({"system": "x".repeat(34_000_000)}),
            413,
            "request_too_large",
        ),
    ] {
        let response = ask(&gateway, &more).await;
        let retry = response.headers().contains_key("retry-after");
        let (found, error) = refusal_of(response).await;
        assert_eq!((found, &error["type"]), (status, &json!(kind)), "{error}");
        assert_eq!(retry, status == 429);
    }
    let long = json!({"system": "x".repeat(200_000)});
    let (status, error) = refusal_of(ask(&gateway, &long).await).await;
    assert_eq!(status, 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("prompt is too long: "), "{message}");
}

#[tokio::test]
async fn what_fails_before_the_endpoint_has_anthropics_shape_too() {
    let node = FakeNode::new();
    node.provider(POL, Script::plain("hello"));
    let gateway = Gateway::start(node).await;
    let body = messages_request(&json!({})).to_string();
    let post = |content_type: &str| {
        let request = gateway
            .http
            .post(gateway.url("/messages"))
            .body(body.clone());
        request.header("content-type", content_type.to_owned())
    };
    let foreign = post("application/json").header("origin", "https://evil.example");
    let (status, error) = refusal_of(foreign.send().await.unwrap()).await;
    assert_eq!((status, &error["type"]), (403, &json!("permission_error")));
    let (status, _) = refusal_of(post("text/plain").send().await.unwrap()).await;
    assert_eq!(status, 415);
    let (status, _) = refusal_of(gateway.get("/messages").await).await;
    assert_eq!(status, 405);
    let (status, error) = refusal_of(gateway.get("/messages/batches").await).await;
    assert_eq!((status, &error["type"]), (404, &json!("not_found_error")));
    let broken = gateway.post("/messages", &json!([1])).await;
    assert_eq!(refusal_of(broken).await.0, 400);
    // Others keep theirs.
    let other = gateway.get("/messages_of_others").await;
    assert_eq!(error_of(other).await.0, 404);
    assert!(gateway.node.asked.borrow().is_empty());
}

#[tokio::test]
async fn a_spending_limit_is_a_billing_error_and_a_failing_provider_an_api_error() {
    let node = FakeNode::new();
    node.provider(POL, Script::of(vec![prologue(), Step::Close]));
    let gateway = Gateway::start(node.clone()).await;
    let (status, error) = refusal_of(ask(&gateway, &json!({})).await).await;
    assert_eq!((status, &error["type"]), (500, &json!("api_error")));
    let config = ConsumerConfig {
        limits: Limits {
            daily: Some(Wei::from_wei(1)),
            total: None,
            ..Limits::default()
        },
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node, config).await;
    let (status, error) = refusal_of(ask(&gateway, &json!({})).await).await;
    assert_eq!((status, &error["type"]), (402, &json!("billing_error")));
}

#[tokio::test]
async fn a_gateway_that_is_not_ready_is_overloaded() {
    let node = FakeNode::new();
    node.set_available(false);
    let gateway = Gateway::start_cold(node, ConsumerConfig::default()).await;
    let response = ask(&gateway, &json!({})).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, error) = refusal_of(response).await;
    assert_eq!((status, &error["type"]), (529, &json!("overloaded_error")));
}

#[tokio::test]
async fn an_answer_that_is_no_completion_is_an_error() {
    let node = FakeNode::new();
    let odd = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}], "usage": USAGE.to_json()});
    node.provider(
        POL,
        Script::of(vec![prologue(), Step::Value(odd), honest()]),
    );
    let gateway = Gateway::start(node).await;
    let (status, error) = refusal_of(ask(&gateway, &json!({})).await).await;
    assert_eq!((status, &error["type"]), (500, &json!("api_error")));
}

#[tokio::test]
async fn tokens_are_counted_without_buying_anything() {
    let node = FakeNode::new();
    let gateway = Gateway::start(node).await;
    let text = "word ".repeat(400);
    let request = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let response = gateway.post("/messages/count_tokens", &request).await;
    assert_eq!(response.status(), 200);
    let count = json_of(response).await["input_tokens"].as_u64().unwrap();
    assert!((400..700).contains(&count), "{count}");
    let (status, _) = refusal_of(gateway.post("/messages/count_tokens", &json!({})).await).await;
    assert_eq!(status, 400);
    assert!(gateway.node.asked.borrow().is_empty());
}

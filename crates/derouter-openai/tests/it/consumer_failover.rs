//! Providers that refuse, fail, stall and lie, before and after the first byte.

use std::sync::Arc;
use std::time::Duration;

use derouter_openai::consumer::{ConsumerConfig, Deadlines};
use derouter_openai::protocol::{REASON_PROTOCOL_VIOLATION, REASON_SERVICE_ERROR};
use derouter_sdk::{CreateJobError, NodeError, OpenJobError};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

/// The first, cheaper provider fails as the script says; the second one answers.
async fn fails_over(script: Script, request: &Value) -> Arc<FakeNode> {
    fails_over_with(script, request, ConsumerConfig::default()).await
}

async fn fails_over_with(script: Script, request: &Value, config: ConsumerConfig) -> Arc<FakeNode> {
    let node = FakeNode::new();
    node.provider(POL, script);
    let good = if request["stream"] == true {
        Script::streamed(&["hello"])
    } else {
        Script::plain("hello")
    };
    node.provider(2 * POL, good);
    let gateway = Gateway::start_with(node.clone(), config).await;
    let response = gateway.chat(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-derouter-offer"], "offer-1");
    assert!(response.text().await.unwrap().contains("hello"));
    let asked: Vec<_> = node.asked.borrow().iter().map(|(p, _)| *p).collect();
    assert_eq!(asked, [0, 1], "the cheaper one was asked first");
    node
}

/// How the first provider's job ended.
async fn class_of_first(node: &FakeNode) -> i64 {
    let ended = until(&node.ended, 2).await;
    let of_first = ended.iter().find(|(provider, _)| *provider == 0).unwrap();
    let Ended::Failed(failure) = &of_first.1 else {
        panic!("{ended:?}")
    };
    assert!(!failure.reason.contains("hello"), "its words are not kept");
    failure.reason_class.unwrap()
}

#[tokio::test]
async fn a_job_that_is_not_taken_goes_to_the_next_provider() {
    for error in [
        CreateJobError::ProviderBusy,
        CreateJobError::ProviderUnreachable,
        CreateJobError::ProviderOfferNotFound,
        CreateJobError::ProviderOfferPayloadMismatch,
        CreateJobError::ProviderInvalidResponse,
        CreateJobError::LocalOfferNotFound,
        CreateJobError::InvalidJobArgs("no images".into()),
        CreateJobError::Node(NodeError::Timeout(10)),
    ] {
        fails_over(Script::refusing(error), &json!({"stream": true})).await;
    }
}

#[tokio::test]
async fn a_job_that_can_not_be_opened_goes_to_the_next_provider() {
    for error in [
        OpenJobError::ProviderBusy,
        OpenJobError::ProviderUnreachable,
        OpenJobError::ProviderJobNotFound,
        OpenJobError::ProviderJobExpired,
        OpenJobError::OtherRemote("no".into()),
    ] {
        let mut script = Script::plain("never");
        script.open = Err(error);
        let node = fails_over(script, &json!({})).await;
        assert_eq!(class_of_first(&node).await, REASON_SERVICE_ERROR);
    }
}

#[tokio::test]
async fn a_failure_before_the_first_byte_goes_to_the_next_provider() {
    let value = |value: Value| Script::of(vec![Step::Value(value)]);
    let after_prologue = |step: Step| Script::of(vec![prologue(), step]);
    let service = [
        value(json!({"status": "ServiceError"})),
        value(json!({"status": "ServiceError", "message": "no, not 'hello'"})),
        Script::of(vec![Step::Close]),
        after_prologue(Step::Close),
        after_prologue(Step::Bytes(vec![0, 0, 0, 9, 0xa1])),
        after_prologue(Step::Value(json!({"error": {"message": "boom"}}))),
    ];
    let mut broken = service[4].clone();
    broken.steps.push(Step::Close);
    for script in [&service[..4], &service[5..], &[broken]].concat() {
        for stream in [true, false] {
            let node = fails_over(script.clone(), &json!({"stream": stream})).await;
            assert_eq!(class_of_first(&node).await, REASON_SERVICE_ERROR);
        }
    }
    let violations = [
        value(json!({"status": "Maybe"})),
        Script::of(vec![Step::Bytes(vec![0xff, 0xff, 0xff, 0xf0])]),
        after_prologue(Step::Bytes(vec![0, 0, 0, 1, 0xff])),
        after_prologue(Step::Value(json!("text"))),
        after_prologue(honest()),
    ];
    for script in violations {
        let node = fails_over(script, &json!({"stream": true})).await;
        assert_eq!(class_of_first(&node).await, REASON_PROTOCOL_VIOLATION);
    }
}

#[tokio::test]
async fn a_provider_that_stalls_before_the_first_byte_is_left() {
    let brief = Duration::from_millis(50);
    let deadlines = Deadlines {
        create: brief,
        prologue: brief,
        first_value: brief,
        plain_answer: brief,
        ..Deadlines::default()
    };
    let config = ConsumerConfig {
        deadlines,
        ..ConsumerConfig::default()
    };
    let never = || Step::Gate(Arc::default());
    for steps in [vec![never()], vec![prologue(), never()]] {
        for stream in [true, false] {
            let script = Script::of(steps.clone());
            let request = json!({"stream": stream});
            let node = fails_over_with(script, &request, config.clone()).await;
            assert_eq!(class_of_first(&node).await, REASON_SERVICE_ERROR);
        }
    }
    let mut script = Script::plain("late");
    let gate = Arc::new(Notify::new());
    script.create_gate = Some(gate.clone());
    let node = fails_over_with(script, &json!({}), config).await;
    gate.notify_one();
    assert_eq!(class_of_first(&node).await, REASON_SERVICE_ERROR);
}

async fn error_after(scripts: Vec<Script>) -> (u16, Value, Option<String>) {
    let node = FakeNode::new();
    for script in scripts {
        node.provider(POL, script);
    }
    let gateway = Gateway::start(node).await;
    let response = gateway.chat(&json!({"stream": true})).await;
    let retry_after = response.headers().get("retry-after").cloned();
    let (status, error) = error_of(response).await;
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    (status, error, retry_after)
}

#[tokio::test]
async fn all_busy_is_429_with_retry_after() {
    let busy = || Script::refusing(CreateJobError::ProviderBusy);
    let (status, error, retry_after) = error_after(vec![busy(), busy()]).await;
    assert_eq!(
        (status, &error["code"]),
        (429, &json!("all_providers_busy"))
    );
    assert!(retry_after.is_some());
}

#[tokio::test]
async fn a_request_that_all_refuse_is_400_with_the_reason() {
    let refuse = |text: &str| Script::refusing(CreateJobError::InvalidJobArgs(text.into()));
    let (status, error, _) = error_after(vec![refuse("no images"), refuse("no images")]).await;
    assert_eq!((status, &error["message"]), (400, &json!("no images")));
}

#[tokio::test]
async fn nobody_reachable_is_503_and_failures_are_502() {
    let unreachable = || Script::refusing(CreateJobError::ProviderUnreachable);
    let (status, error, retry_after) = error_after(vec![unreachable()]).await;
    assert_eq!((status, &error["code"]), (503, &json!("no_provider")));
    assert!(retry_after.is_some());
    let failed = json!({"status": "ServiceError", "message": "the model is on fire"});
    let failed = Script::of(vec![Step::Value(failed)]);
    let (status, error, _) = error_after(vec![failed, unreachable()]).await;
    assert_eq!(
        (status, &error["message"]),
        (502, &json!("the model is on fire"))
    );
}

#[tokio::test]
async fn a_fault_of_our_own_node_blames_nobody() {
    let fault = CreateJobError::Node(NodeError::Internal("its disk is full".into()));
    let node = FakeNode::new();
    node.provider_of(
        "m",
        8192,
        POL,
        vec![Script::refusing(fault), Script::plain("hello")],
    );
    node.provider(2 * POL, Script::plain("dearer"));
    let gateway = Gateway::start(node).await;
    let (status, error) = error_of(gateway.chat(&json!({})).await).await;
    assert_eq!((status, &error["code"]), (503, &json!("node_unavailable")));
    assert_eq!(gateway.node.asked.borrow().len(), 1);
    let response = gateway.chat(&json!({})).await;
    assert_eq!(
        response.headers()["x-derouter-offer"],
        "offer-0",
        "still the first choice"
    );
}

#[tokio::test]
async fn a_provider_that_failed_is_asked_last_for_a_while() {
    let node = FakeNode::new();
    let failed = Script::refusing(CreateJobError::ProviderUnreachable);
    node.provider_of("m", 8192, POL, vec![failed, Script::plain("hello")]);
    node.provider(2 * POL, Script::plain("hello"));
    let gateway = Gateway::start(node).await;
    for _ in 0..2 {
        let response = gateway.chat(&json!({})).await;
        assert_eq!(response.headers()["x-derouter-offer"], "offer-1");
    }
    let asked: Vec<_> = gateway
        .node
        .asked
        .borrow()
        .iter()
        .map(|(p, _)| *p)
        .collect();
    assert_eq!(asked, [0, 1, 1]);
}

#[tokio::test]
async fn the_attempts_are_bounded() {
    let refuse = || Script::refusing(CreateJobError::ProviderBusy);
    let (status, ..) = error_after((0..20).map(|_| refuse()).collect()).await;
    assert_eq!(status, 429);
    let node = FakeNode::new();
    for _ in 0..20 {
        node.provider(POL, refuse());
    }
    let gateway = Gateway::start(node).await;
    assert_eq!(gateway.chat(&json!({})).await.status(), 429);
    assert_eq!(gateway.node.asked.borrow().len(), 6);
}

#[tokio::test]
async fn many_cheap_offers_of_one_provider_keep_nobody_else_out() {
    let node = FakeNode::new();
    let busy = || Script::refusing(CreateJobError::ProviderBusy);
    let hostile = node.provider(0, busy());
    for _ in 0..5 {
        node.another_offer(hostile, 0, busy());
    }
    let honest = node.provider(POL, Script::plain("hello"));
    let gateway = Gateway::start(node).await;
    for attempts in [3, 4] {
        assert_eq!(gateway.chat(&json!({})).await.status(), 200);
        let asked = gateway.node.asked.borrow().clone();
        assert_eq!(asked.len(), attempts, "declining again and again cools");
        assert_eq!(asked.last().unwrap().0, honest);
    }
}

#[tokio::test]
async fn a_plain_answer_without_choices_goes_to_the_next_provider() {
    let empty = json!({"object": "chat.completion", "choices": [], "usage": USAGE.to_json()});
    let script = Script::of(vec![prologue(), Step::Value(empty), honest()]);
    let node = fails_over(script, &json!({})).await;
    assert_eq!(class_of_first(&node).await, REASON_PROTOCOL_VIOLATION);
}

#[tokio::test]
async fn a_provider_that_stalls_leaves_time_for_another() {
    let whole = Duration::from_secs(4);
    let deadlines = Deadlines {
        plain_answer: whole,
        all_attempts: whole,
        ..Deadlines::default()
    };
    let config = ConsumerConfig {
        deadlines,
        ..ConsumerConfig::default()
    };
    let script = Script::of(vec![prologue(), Step::Gate(Arc::default())]);
    fails_over_with(script, &json!({}), config).await;
}

#[tokio::test]
async fn a_stream_without_an_end_is_broken_and_not_signed() {
    let config = ConsumerConfig::default;
    let partly =
        json!({"choices": [{"index": 1, "delta": {"content": ""}, "finish_reason": "stop"}]});
    breaks_off(
        vec![Step::Value(partly), usage_chunk(USAGE), honest()],
        config(),
    )
    .await;
    breaks_off(vec![honest()], config()).await;
    for steps in [
        vec![prologue(), usage_chunk(USAGE), honest()],
        vec![prologue(), chunk(""), usage_chunk(USAGE), honest()],
    ] {
        let node = FakeNode::new();
        node.provider(POL, Script::of(steps));
        let gateway = Gateway::start(node).await;
        let (events, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
        assert!(!done && events.last().unwrap()["error"].is_object());
        let ended = until(&gateway.node.ended, 1).await;
        assert!(matches!(&ended[0].1, Ended::Failed(_)));
    }
}

#[tokio::test]
async fn values_that_say_nothing_are_silence() {
    let node = FakeNode::new();
    node.provider(
        POL,
        Script::of(vec![prologue(), chunk("hello"), Step::Chatter]),
    );
    let mut config = ConsumerConfig::default();
    config.deadlines.keep_alive = Duration::from_millis(50);
    config.deadlines.next_value = Duration::from_millis(400);
    let gateway = Gateway::start_with(node, config).await;
    let response = gateway.chat(&json!({"stream": true})).await;
    let text = timeout(PATIENCE, response.text()).await.expect("in time");
    let text = text.unwrap();
    assert!(text.contains(": keep-alive\n\n"), "{text}");
    assert!(text.contains("provider_failed"), "{text}");
}

async fn breaks_off(steps: Vec<Step>, config: ConsumerConfig) {
    let node = FakeNode::new();
    let begun = [prologue(), chunk("hello")].into_iter();
    node.provider(POL, Script::of(begun.chain(steps).collect()));
    node.provider(2 * POL, Script::streamed(&["never"]));
    let gateway = Gateway::start_with(node, config).await;
    let (events, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
    assert!(!done, "a broken answer is not done: {events:?}");
    assert_eq!(text_of(&events), "hello");
    let error = &events.last().unwrap()["error"];
    assert_eq!(error["code"], "provider_failed");
    assert!(error["message"].is_string());
    let ended = until(&gateway.node.ended, 1).await;
    let Ended::Failed(failure) = &ended[0].1 else {
        panic!("{ended:?}")
    };
    assert_eq!(failure.reason_class, Some(REASON_SERVICE_ERROR));
    assert_eq!(until(&gateway.node.left, 1).await, [0]);
    assert_eq!(
        gateway.node.asked.borrow().len(),
        1,
        "no second answer behind it"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error_event() {
    let config = ConsumerConfig::default;
    breaks_off(vec![Step::Close], config()).await;
    breaks_off(
        vec![Step::Bytes(vec![0, 0, 0, 5, 0xa1]), Step::Close],
        config(),
    )
    .await;
    breaks_off(vec![Step::Bytes(vec![0xff; 4])], config()).await;
    let error = Step::Value(json!({"error": {"message": "out of memory"}}));
    breaks_off(vec![error], config()).await;
    breaks_off(vec![Step::Value(json!([1]))], config()).await;
}

#[tokio::test]
async fn a_provider_that_goes_silent_is_given_up() {
    let mut config = ConsumerConfig::default();
    config.deadlines.next_value = Duration::from_millis(100);
    breaks_off(vec![Step::Gate(Arc::default())], config.clone()).await;
    config.deadlines.next_value = Duration::from_secs(100);
    config.deadlines.streamed_answer = Duration::from_millis(100);
    breaks_off(vec![Step::Gate(Arc::default())], config).await;
}

#[tokio::test]
async fn a_long_silence_is_filled_with_comments() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let steps = [
        prologue(),
        chunk("hel"),
        Step::Gate(gate.clone()),
        chunk("lo"),
    ];
    let end = [finish(), usage_chunk(USAGE), honest()];
    node.provider(POL, Script::of(steps.into_iter().chain(end).collect()));
    let mut config = ConsumerConfig::default();
    config.deadlines.keep_alive = Duration::from_millis(20);
    let gateway = Gateway::start_with(node, config).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    let mut text = String::new();
    while text.matches(": keep-alive\n\n").count() < 2 {
        let bytes = response.chunk().await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    gate.notify_one();
    let (events, done) = events_of(response).await;
    assert!(done);
    assert_eq!(text_of(&events), "lo");
}

#[tokio::test]
async fn a_client_that_stops_reading_loses_its_answer() {
    let node = FakeNode::new();
    let large = chunk(&"x".repeat(200_000));
    let steps = std::iter::once(prologue()).chain(std::iter::repeat_n(large, 200));
    node.provider(POL, Script::of(steps.collect()));
    let mut config = ConsumerConfig::default();
    config.deadlines.client_stall = Duration::from_millis(200);
    let gateway = Gateway::start_with(node, config).await;
    // Never read from.
    let _response = gateway.chat(&json!({"stream": true})).await;
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(_)));
}

/// A stream begins after 50 ms, and says something every 30 ms.
fn hasty() -> ConsumerConfig {
    let mut config = ConsumerConfig::default();
    config.deadlines.begin_stream = Duration::from_millis(50);
    config.deadlines.keep_alive = Duration::from_millis(30);
    config
}

#[tokio::test]
async fn the_next_provider_is_asked_behind_a_stream_that_has_begun() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let failing = Step::Value(json!({"status": "ServiceError", "message": "no"}));
    node.provider(POL, Script::of(vec![Step::Gate(gate.clone()), failing]));
    node.provider(2 * POL, Script::streamed(&["hel", "lo"]));
    let gateway = Gateway::start_with(node, hasty()).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    assert!(response.headers().get("x-derouter-provider").is_none());
    let mut text = String::new();
    while text.matches(": keep-alive\n\n").count() < 3 {
        let bytes = timeout(PATIENCE, response.chunk()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&bytes.unwrap().unwrap()));
    }
    assert_eq!(gateway.node.asked.borrow().len(), 1);
    gate.notify_one();
    let (events, done) = events_of(response).await;
    assert!(done);
    assert_eq!(text_of(&events), "hello");
    assert_eq!(until(&gateway.node.asked, 2).await.len(), 2);
}

#[tokio::test]
async fn when_all_have_failed_a_stream_that_has_begun_ends_with_the_error() {
    let node = FakeNode::new();
    let gate = Arc::new(Notify::new());
    let busy = Script {
        create_gate: Some(gate.clone()),
        ..Script::refusing(CreateJobError::ProviderBusy)
    };
    node.provider(POL, busy);
    let gateway = Gateway::start_with(node, hasty()).await;
    let response = gateway.chat(&json!({"stream": true})).await;
    gate.notify_one();
    let (events, done) = events_of(response).await;
    assert!(!done);
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(event["error"]["code"], "all_providers_busy");
}

#[tokio::test]
async fn whoever_leaves_a_stream_that_waits_for_its_answer_leaves_the_provider() {
    let node = FakeNode::new();
    node.provider(
        POL,
        Script::of(vec![prologue(), Step::Gate(Arc::default())]),
    );
    let gateway = Gateway::start_with(node, hasty()).await;
    let mut response = gateway.chat(&json!({"stream": true})).await;
    let said = response.chunk().await.unwrap().unwrap();
    assert_eq!(&said[..], b": keep-alive\n\n");
    drop(response);
    assert_eq!(until(&gateway.node.left, 1).await, [0]);
    let ended = until(&gateway.node.ended, 1).await;
    assert!(matches!(&ended[0].1, Ended::Failed(_)));
}

//! A second provider beside a slow one.

use std::sync::Arc;

use derouter_openai::consumer::{ConsumerConfig, Routing};
use derouter_sdk::{CreateJobError, Wei};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

/// Answers after which a provider's usual time is known.
const KNOWN: usize = 8;

/// Sorted by price, nothing is left to chance.
fn streamed() -> Value {
    json!({"stream": true, "max_tokens": 10, "derouter": {"sort": "price"}})
}

fn hedging() -> ConsumerConfig {
    ConsumerConfig {
        routing: Routing {
            hedge: Some(95.0),
            ..Routing::default()
        },
        ..ConsumerConfig::default()
    }
}

/// A gateway that knows its cheapest provider, which does this from now on. The others are dearer, in order.
async fn known(config: ConsumerConfig, now: Vec<Step>, others: Vec<Script>) -> Gateway {
    let node = FakeNode::new();
    let mut scripts = vec![Script::streamed(&["usual"]); KNOWN];
    scripts.push(Script::of(now));
    node.provider_of("m", 8192, POL, scripts);
    for (other, price) in others.into_iter().zip(2..) {
        node.provider(price * POL, other);
    }
    let gateway = Gateway::start_with(node, config).await;
    for _ in 0..KNOWN {
        let (events, done) = events_of(gateway.chat(&streamed()).await).await;
        assert!(done && text_of(&events) == "usual", "{events:?}");
    }
    until(&gateway.node.ended, KNOWN).await;
    gateway
}

fn never() -> Step {
    Step::Gate(Arc::default())
}

fn asked(gateway: &Gateway) -> Vec<usize> {
    let asked = gateway.node.asked.borrow();
    asked.iter().skip(KNOWN).map(|(who, _)| *who).collect()
}

/// How the jobs of the hedged request ended, by their provider.
async fn ended(gateway: &Gateway, many: usize) -> Vec<(usize, bool)> {
    let ended = until(&gateway.node.ended, KNOWN + many).await;
    let ended = ended.into_iter().skip(KNOWN);
    let mut ended: Vec<_> = ended
        .map(|(who, how)| (who, matches!(how, Ended::Completed(_))))
        .collect();
    ended.sort_unstable();
    ended
}

#[tokio::test]
async fn who_begins_first_answers_and_the_other_is_given_up() {
    let now = vec![prologue(), never()];
    let gateway = known(hedging(), now, vec![Script::streamed(&["quick"])]).await;
    let response = gateway.chat(&streamed()).await;
    assert_eq!(response.headers()["x-derouter-offer"], "offer-1");
    assert_eq!(response.headers()["x-derouter-attempts"], "2");
    let (events, done) = events_of(response).await;
    assert!(done && text_of(&events) == "quick", "{events:?}");
    assert_eq!(asked(&gateway), [0, 1]);
    assert_eq!(ended(&gateway, 2).await, [(0, false), (1, true)]);
    assert!(until(&gateway.node.left, 1).await.contains(&0));
}

#[tokio::test]
async fn without_being_asked_for_nobody_is_hedged() {
    let gate = Arc::new(Notify::new());
    let steps = [
        prologue(),
        Step::Gate(gate.clone()),
        chunk("late"),
        finish(),
    ];
    let now: Vec<_> = steps
        .into_iter()
        .chain([usage_chunk(USAGE), honest()])
        .collect();
    for (config, more) in [
        (
            ConsumerConfig::default(),
            json!({"stream": true, "derouter": {"sort": "price"}}),
        ),
        (
            hedging(),
            json!({"stream": true, "derouter": {"sort": "price", "hedge": false}}),
        ),
    ] {
        let other = Script::streamed(&["quick"]);
        let gateway = known(config, now.clone(), vec![other]).await;
        let (response, ()) = tokio::join!(gateway.chat(&more), async {
            until(&gateway.node.asked, KNOWN + 1).await;
            // Far longer than it usually takes.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            gate.notify_one();
        });
        let (events, done) = events_of(response).await;
        assert!(done && text_of(&events) == "late", "{events:?}");
        assert_eq!(asked(&gateway), [0]);
    }
}

#[tokio::test]
async fn when_both_fail_the_next_is_asked_and_neither_again() {
    let gate = Arc::new(Notify::new());
    let now = vec![prologue(), Step::Gate(gate.clone()), Step::Close];
    let busy = Script::refusing(CreateJobError::ProviderBusy);
    let others = vec![busy, Script::streamed(&["third"])];
    let gateway = known(hedging(), now, others).await;
    let request = streamed();
    let (response, ()) = tokio::join!(gateway.chat(&request), async {
        until(&gateway.node.asked, KNOWN + 2).await;
        gate.notify_one();
    });
    assert_eq!(response.headers()["x-derouter-offer"], "offer-2");
    assert_eq!(response.headers()["x-derouter-attempts"], "3");
    let (events, done) = events_of(response).await;
    assert!(done && text_of(&events) == "third", "{events:?}");
    assert_eq!(asked(&gateway), [0, 1, 2]);
    assert_eq!(ended(&gateway, 2).await, [(0, false), (2, true)]);
}

#[tokio::test]
async fn a_second_one_that_does_not_fit_the_limits_is_not_asked() {
    let gate = Arc::new(Notify::new());
    let steps = [
        prologue(),
        Step::Gate(gate.clone()),
        chunk("late"),
        finish(),
    ];
    let now: Vec<_> = steps
        .into_iter()
        .chain([usage_chunk(USAGE), honest()])
        .collect();
    let tokens = worst_case(&streamed()).await;
    let mut config = hedging();
    // One fits, at the price of the first; both do not.
    config.limits.request = Some(Wei::from_wei(tokens * (POL / 1_000_000) * 5 / 2));
    let gateway = known(config, now, vec![Script::streamed(&["quick"])]).await;
    let request = streamed();
    let (response, ()) = tokio::join!(gateway.chat(&request), async {
        until(&gateway.node.asked, KNOWN + 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        gate.notify_one();
    });
    let (events, done) = events_of(response).await;
    assert!(done && text_of(&events) == "late", "{events:?}");
    assert_eq!(asked(&gateway), [0]);
}

#[tokio::test]
async fn a_client_that_leaves_a_race_leaves_both() {
    let now = vec![prologue(), never()];
    let other = Script::of(vec![prologue(), never()]);
    let gateway = Arc::new(known(hedging(), now, vec![other]).await);
    let asking = Arc::clone(&gateway);
    let asking = tokio::spawn(async move { asking.chat(&streamed()).await });
    until(&gateway.node.asked, KNOWN + 2).await;
    asking.abort();
    assert_eq!(ended(&gateway, 2).await, [(0, false), (1, false)]);
}

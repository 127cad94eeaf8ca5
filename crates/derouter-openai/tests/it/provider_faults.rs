//! What happens when the backend fails.

use std::time::Duration;

use derouter_openai::protocol::{Prologue, REASON_SERVICE_ERROR};
use derouter_openai::provider::Limits;
use derouter_sdk::JobRefusal;
use serde_json::{Value, json};

use super::provider_support::{Market, RawBackend, chat, faulty, offer};

/// Buys and expects a ServiceError and a failed job; the message.
async fn refused(market: &Market, request: &Value) -> String {
    let (key, bought) = market.buy(request).await;
    let message = bought.service_error().to_owned();
    assert!(bought.values.is_empty(), "{bought:?}");
    let failure = market.failure(&key).await;
    assert_eq!(failure.reason_class, Some(REASON_SERVICE_ERROR));
    assert!(!failure.reason.contains("the test says"), "{failure:?}");
    message
}

/// Buys and expects an answer that ends without an epilogue, and a failed job; its reason.
async fn broken(market: &Market, request: &Value) -> String {
    let (key, bought) = market.buy(request).await;
    assert_eq!(bought.prologue, Prologue::Ok);
    assert_eq!(bought.epilogue(), None);
    assert!(!bought.values.is_empty());
    let failure = market.failure(&key).await;
    assert_eq!(failure.reason_class, Some(REASON_SERVICE_ERROR));
    failure.reason
}

#[tokio::test]
async fn a_backend_that_refuses_is_a_service_error_without_its_secrets() {
    let market = Market::open().await;
    for (fault, said) in [
        ("500", "the backend failed (500)"),
        ("429", "the backend has too many requests"),
        (
            "401",
            "the backend does not accept this provider's credentials",
        ),
        ("400", "the test says 400"),
    ] {
        for stream in [true, false] {
            assert_eq!(refused(&market, &faulty(fault, stream)).await, said);
        }
    }
    assert_eq!(market.provider.counters().snapshot().jobs_failed, 8);
}

#[tokio::test]
async fn a_backend_that_answers_nothing_usable_is_a_service_error() {
    let market = Market::open().await;
    for stream in [true, false] {
        let empty = refused(&market, &faulty("empty", stream)).await;
        assert!(
            empty.contains("empty") || empty.contains("early"),
            "{empty}"
        );
        refused(&market, &faulty("garbage", stream)).await;
    }
    for fault in ["close-early", "end-early", "error-event", "malformed-sse"] {
        refused(&market, &faulty(fault, false)).await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_without_epilogue_and_fails_the_job() {
    let market = Market::open().await;
    for (fault, said) in [
        ("close-early", "broke off"),
        ("end-early", "ended its answer early"),
        ("malformed-sse", "not JSON"),
        ("error-event", "the backend answered with an error"),
    ] {
        let reason = broken(&market, &faulty(fault, true)).await;
        assert!(reason.contains(said), "{reason}");
        assert!(!reason.contains("the test's"), "{reason}");
    }
}

#[tokio::test]
async fn a_backends_words_reach_the_consumer_and_no_record() {
    let market = Market::open().await;
    let (key, bought) = market.buy(&faulty("error-event", false)).await;
    let told = bought.service_error();
    assert_eq!(told, "the backend answered with an error: the test's error");
    let failure = market.failure(&key).await;
    assert_eq!(failure.reason, "the backend answered with an error");
}

#[tokio::test]
async fn an_answer_that_says_nothing_is_a_service_error_and_free() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    for (stream, body) in [
        (false, usage.to_owned()),
        (true, format!("data: {usage}\n\ndata: [DONE]\n\n")),
        (
            true,
            format!("data: {role}\n\ndata: {usage}\n\ndata: [DONE]\n\n"),
        ),
    ] {
        let raw = RawBackend::start(vec![body]).await;
        let market = Market::open_before(&raw, Limits::default()).await;
        let message = refused(&market, &chat(stream)).await;
        assert_eq!(message, "the backend's answer is empty");
    }
}

#[tokio::test]
async fn a_backend_that_stalls_is_given_up() {
    let short = Duration::from_millis(200);
    let limits = Limits {
        first_byte: short,
        between_chunks: short,
        ..Limits::default()
    };
    let market = Market::open_with(offer(), limits).await;
    for stream in [true, false] {
        let message = refused(&market, &faulty("stall-first", stream)).await;
        assert!(message.contains("did not answer in time"), "{message}");
    }
    refused(&market, &faulty("stall-middle", false)).await;
    let reason = broken(&market, &faulty("stall-middle", true)).await;
    assert!(reason.contains("stopped in the middle"), "{reason}");
    let left = |seen: &derouter_testkit::SeenRequest| {
        seen.outcome == derouter_testkit::Outcome::ClientLeft
    };
    market
        .backend
        .wait_seen("the request is dropped", left)
        .await;
}

#[tokio::test]
async fn a_slow_backend_gets_its_prologue_before_0_1_consumers_give_up() {
    let limits = Limits {
        prologue: Duration::from_millis(50),
        first_byte: Duration::from_millis(500),
        ..Limits::default()
    };
    let market = Market::open_with(offer(), limits).await;
    let (key, bought) = market.buy(&faulty("stall-first", true)).await;
    assert_eq!(bought.prologue, Prologue::Ok);
    assert!(bought.values.is_empty());
    market.failure(&key).await;
}

#[tokio::test]
async fn an_answer_has_an_end() {
    let limits = Limits {
        total: Duration::from_millis(300),
        ..Limits::default()
    };
    let market = Market::open_with(offer(), limits).await;
    let mut request = chat(true);
    request["derouter_test"] = json!({"chunks": 1000, "pace_ms": 20});
    let reason = broken(&market, &request).await;
    assert!(reason.contains("too long"), "{reason}");
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_a_service_error_that_does_not_name_it() {
    let market = Market::open().await;
    let address = market.backend.address();
    let Market {
        node,
        backend,
        provider,
    } = market;
    drop(backend);
    let backend = derouter_testkit::Backend::start().await;
    let market = Market {
        node,
        backend,
        provider,
    };
    assert_ne!(market.backend.address(), address);
    let message = refused(&market, &chat(true)).await;
    assert_eq!(message, "the backend can't be reached");
}

#[tokio::test]
async fn arguments_that_cannot_be_served_are_refused_before_the_backend_hears_of_them() {
    let market = Market::open().await;
    let mut other_model = chat(true);
    other_model["model"] = json!("another");
    for request in [
        None,
        Some("{".to_owned()),
        Some("[]".to_owned()),
        Some(json!({"model": "test-model"}).to_string()),
        Some(other_model.to_string()),
    ] {
        let refused = market.create_raw(request).await.unwrap_err();
        assert!(
            matches!(refused, JobRefusal::InvalidJobArgs(_)),
            "{refused:?}"
        );
    }
    assert_eq!(market.provider.counters().snapshot().jobs_invalid, 5);
    let jobs = market.backend.seen();
    assert!(jobs.is_empty(), "{jobs:?}");
}

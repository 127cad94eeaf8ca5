//! Connections to a job: none, one, several, and those that go away.

use std::time::{Duration, Instant};

use derouter_openai::frames::read_value;
use derouter_openai::protocol::Prologue;
use derouter_openai::provider::Limits;
use derouter_sdk::{ConnectionRefusal, JobId, JobKey, JobRefusal};
use derouter_testkit::{Outcome, SeenRequest};
use serde_json::{Value, json};

use super::provider_support::{Market, RawBackend, chat, faulty, offer, read_all};

fn left(seen: &SeenRequest) -> bool {
    seen.outcome == Outcome::ClientLeft
}

#[tokio::test]
async fn a_later_connection_replays_the_whole_answer() {
    let market = Market::open().await;
    for stream in [true, false] {
        let (key, first) = market.buy(&chat(stream)).await;
        let again = read_all(market.connect(&key).await.unwrap()).await;
        assert_eq!(again, first);
        assert!(again.epilogue().is_some());
    }
    assert_eq!(market.provider.counters().snapshot().replays, 2);
    assert_eq!(
        market.backend.seen().len(),
        2,
        "the backend is asked once for each"
    );
}

#[tokio::test]
async fn a_second_connection_replays_what_was_said_and_follows() {
    let market = Market::open().await;
    let mut request = chat(true);
    request["derouter_test"] = json!({"chunks": 20, "pace_ms": 20});
    let key = market.create(&request).await.unwrap();
    let mut first = market.connect(&key).await.unwrap();
    let prologue: Prologue = read_value(&mut first).await.unwrap();
    assert_eq!(prologue, Prologue::Ok);
    let begin: Value = read_value(&mut first).await.unwrap();
    let second = market.connect(&key).await.unwrap();
    // The first one goes: the second keeps the answer alive.
    drop(first);
    let bought = read_all(second).await;
    assert_eq!(bought.values[0], begin);
    assert_eq!(
        bought.answer().last().unwrap()["usage"]["completion_tokens"],
        20
    );
    market.completion(&key).await;
}

#[tokio::test]
async fn a_consumer_that_goes_away_ends_the_backends_work_at_once() {
    let market = Market::open().await;
    for stream in [true, false] {
        market.backend.forget();
        let fault = if stream {
            "stall-middle"
        } else {
            "stall-first"
        };
        let key = market.create(&faulty(fault, stream)).await.unwrap();
        let mut connection = market.connect(&key).await.unwrap();
        if stream {
            let _: Prologue = read_value(&mut connection).await.unwrap();
        }
        market.backend.wait_seen("the request", |_| true).await;
        let begin = Instant::now();
        drop(connection);
        market.backend.wait_seen("the client left", left).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let failure = market.failure(&key).await;
        assert_eq!(failure.reason, "the consumer went away");
        assert_eq!(failure.reason_class, Some(0));
    }
    assert_eq!(market.provider.counters().snapshot().jobs_abandoned, 2);
}

#[tokio::test]
async fn a_job_to_which_nobody_connects_is_given_up() {
    let limits = Limits {
        connection: Duration::from_millis(200),
        ..Limits::default()
    };
    let market = Market::open_with(offer(), limits).await;
    // Also one whose answer is there already: nothing is owed for it.
    for request in [faulty("stall-first", true), chat(true)] {
        let key = market.create(&request).await.unwrap();
        let failure = market.failure(&key).await;
        assert_eq!(failure.reason, "the consumer did not connect in time");
    }
    market.backend.wait_seen("the client left", left).await;
}

#[tokio::test]
async fn an_offer_with_no_slot_left_is_busy_until_one_is_free() {
    let mut single = offer();
    single.max_concurrency = Some(1);
    let market = Market::open_with(single, Limits::default()).await;
    let key = market.create(&faulty("stall-middle", true)).await.unwrap();
    assert_eq!(market.create(&chat(true)).await, Err(JobRefusal::Busy));
    let connection = market.connect(&key).await.unwrap();
    drop(connection);
    market.failure(&key).await;
    // The slot of a job is free by the time that its epilogue is read.
    for _ in 0..20 {
        let (key, bought) = market.buy(&chat(true)).await;
        assert!(bought.epilogue().is_some());
        market.completion(&key).await;
    }
    let counters = market.provider.counters().snapshot();
    assert_eq!((counters.jobs_busy, counters.jobs_completed), (1, 20));
}

#[tokio::test]
async fn a_refused_request_takes_no_slot() {
    let mut single = offer();
    single.max_concurrency = Some(1);
    let market = Market::open_with(single, Limits::default()).await;
    for _ in 0..3 {
        assert!(market.create(&json!({})).await.is_err());
    }
    market.buy(&chat(false)).await;
}

#[tokio::test]
async fn an_unknown_job_and_too_many_connections_are_refused() {
    let market = Market::open().await;
    let key = market.create(&faulty("stall-middle", true)).await.unwrap();
    let unknown = JobKey {
        job_id: JobId::new("unknown").unwrap(),
        ..key.clone()
    };
    let refused = market.connect(&unknown).await.unwrap_err();
    assert_eq!(refused, ConnectionRefusal::JobNotFound);
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut connection = market.connect(&key).await.unwrap();
        let _: Prologue = read_value(&mut connection).await.unwrap();
        connections.push(connection);
    }
    let refused = market.connect(&key).await.unwrap_err();
    assert_eq!(refused, ConnectionRefusal::Busy);
}

/// Chunks of 100,000 bytes each.
fn large_chunks() -> String {
    let text = "x".repeat(100_000);
    let chunk = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]});
    format!("data: {chunk}\n\n")
}

#[tokio::test]
async fn a_consumer_that_reads_nothing_holds_the_backend_back_and_is_cut() {
    let limits = Limits {
        write: Duration::from_millis(300),
        ..Limits::default()
    };
    let raw = RawBackend::start(vec![large_chunks(); 1_000]).await;
    let market = Market::open_before(&raw, limits).await;
    let key = market.create(&chat(true)).await.unwrap();
    let connection = market.connect(&key).await.unwrap();
    let failure = market.failure(&key).await;
    assert_eq!(failure.reason, "the consumer went away");
    // 100 MB in all; what sockets hold is some MB.
    let sent = raw.sent();
    assert!(sent < 300, "{sent} of 1,000 chunks left the backend");
    drop(connection);
}

#[tokio::test]
async fn a_long_answer_is_served_whole_although_not_all_of_it_is_kept() {
    let mut parts = vec![large_chunks(); 100];
    parts.push("data: [DONE]\n\n".to_owned());
    let raw = RawBackend::start(parts).await;
    let market = Market::open_before(&raw, Limits::default()).await;
    let (key, bought) = market.buy(&chat(true)).await;
    assert_eq!(bought.answer().len(), 101);
    market.completion(&key).await;
    let again = market.connect(&key).await.unwrap_err();
    assert_eq!(again, ConnectionRefusal::JobNotFound);
}

//! Clients that go away: their backend stops at once, and only what was delivered is owed.

use std::time::{Duration, Instant};

use derouter_testkit::pair::wait_model;
use derouter_testkit::{Outcome, Pair, SeenRequest, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{DEROUTER, old_only};

/// Sold over `openai:0.2`, and over `openai:0.1`.
const NEW: &str = "test-model";
const OLD: &str = "old-model";

/// Requests of each kind.
const MANY: usize = 20;

/// The pause before each word.
const PACE: Duration = Duration::from_millis(5);

/// Words that a client reads before it goes.
const WORDS: usize = 5;

/// Sends a request and goes away in the middle of the answer, or while it is awaited. When it went, and how many
/// words it had read.
async fn leave(pair: &Pair, model: &str, stream: bool) -> (Instant, usize) {
    let pace = u64::try_from(PACE.as_millis()).unwrap();
    let body = json!({"model": model, "stream": stream, "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Say many words"}],
        "derouter_test": {"chunks": 4000, "pace_ms": pace}})
    .to_string();
    let address = pair.url().strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/v1").unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let before = pair.backend.seen().len();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(body.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let mut words = 0;
    if stream {
        while words < WORDS {
            let many = client.read_buf(&mut read).await.unwrap();
            assert!(many > 0, "{}", String::from_utf8_lossy(&read));
            words = String::from_utf8_lossy(&read).matches("\"word").count();
        }
    } else {
        eventually("the request at the backend", async || {
            (pair.backend.seen().len() > before).then_some(())
        })
        .await;
    }
    let left = Instant::now();
    drop(client);
    (left, words)
}

async fn ended(pair: &Pair) -> SeenRequest {
    eventually("the backend's work to end", async || {
        let seen = pair.backend.seen().pop()?;
        (seen.outcome != Outcome::Running).then_some(seen)
    })
    .await
}

fn words_billed(payload: &str) -> usize {
    let payload: Value = serde_json::from_str(payload).unwrap();
    assert_eq!(payload["cancelled"], true, "{payload}");
    let output = payload["usage"]["output"].as_u64().unwrap();
    usize::try_from(output).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_ends_the_backends_work_and_owes_what_it_got() {
    let pair = Pair::start(DEROUTER, &[NEW]).await;
    let _old = old_only::sell(&pair, OLD).await;
    wait_model(pair.url(), OLD).await;
    let mut ledger = pair.ledger().await;
    for (model, stream) in [(NEW, true), (NEW, false), (OLD, true), (OLD, false)] {
        let mut took = Vec::new();
        for _ in 0..MANY {
            let (left, delivered) = leave(&pair, model, stream).await;
            let seen = ended(&pair).await;
            assert_eq!(seen.outcome, Outcome::ClientLeft);
            let after = seen.ended_at.unwrap().saturating_duration_since(left);
            took.push(after);
            if model == NEW && stream {
                let trade = ledger.one_signed().await;
                let billed = words_billed(trade.consumer.public_payload.as_deref().unwrap());
                // What was on its way is delivered too: the backend said a word each 5 ms until it stopped.
                let on_its_way =
                    usize::try_from(after.as_millis() / PACE.as_millis()).unwrap() + 20;
                assert!(
                    (WORDS..=delivered + on_its_way).contains(&billed),
                    "{billed} words for {delivered}"
                );
            } else {
                // Nothing was delivered, or it is a job of 0.1, which is paid whole or not at all.
                let jobs = ledger.failed_by_consumer(1).await;
                assert_eq!(jobs[0].balance_delta, None);
            }
        }
        took.sort_unstable();
        let most = took.last().unwrap();
        eprintln!(
            "{model}, streamed {stream}: p50 {:?}, most {most:?} of {MANY}",
            took[MANY / 2]
        );
        // The aim is 100 ms; a machine that tests in parallel gets more.
        assert!(*most < Duration::from_secs(5), "{most:?}");
    }
}

//! Job streams between our nodes, and with peers that open them and say nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use derouter_net::{InboundJobStream, OpenStreamError};
use derouter_wire::JobId;
use derouter_wire::stream::JobConnectionResult;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::*;

fn job(name: impl Into<String>) -> JobId {
    JobId::new(name).unwrap()
}

async fn next_stream(node: &mut Node) -> InboundJobStream {
    soon(node.events.streams.recv()).await.unwrap()
}

#[tokio::test]
async fn a_job_stream_is_a_byte_pipe_with_half_close() {
    for listen in [TCP, QUIC] {
        let (consumer, mut provider) = pair(listen).await;
        let (opened, accepted) = tokio::join!(
            consumer.net.open_job_stream(provider.id(), job("one")),
            async {
                let inbound = next_stream(&mut provider).await;
                assert_eq!(inbound.peer, consumer.id());
                assert_eq!(inbound.job_id, job("one"));
                inbound.accept().await.unwrap()
            }
        );
        let (mut near, mut far) = (opened.unwrap(), accepted);
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut question = Vec::new();
        soon(far.read_to_end(&mut question)).await.unwrap();
        assert_eq!(question, b"question");
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = Vec::new();
        soon(near.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"answer");
    }
}

#[tokio::test]
async fn each_refusal_arrives_as_what_it_is() {
    let refusals = [
        (
            JobConnectionResult::JobNotFound,
            OpenStreamError::JobNotFound,
        ),
        (JobConnectionResult::JobExpired, OpenStreamError::JobExpired),
        (JobConnectionResult::Busy, OpenStreamError::Busy),
        (
            JobConnectionResult::AnotherError("why".to_owned()),
            OpenStreamError::Other("why".to_owned()),
        ),
    ];
    for listen in [TCP, QUIC] {
        let (consumer, mut provider) = pair(listen).await;
        for (refusal, expected) in refusals.clone() {
            let (opened, ()) = tokio::join!(
                consumer.net.open_job_stream(provider.id(), job("one")),
                async {
                    let inbound = next_stream(&mut provider).await;
                    inbound.refuse(refusal).await.unwrap();
                }
            );
            assert_eq!(opened.unwrap_err(), expected);
        }
    }
}

#[tokio::test]
async fn a_stream_that_the_node_drops_is_an_error_at_once() {
    let (consumer, mut provider) = pair(TCP).await;
    let (opened, ()) = tokio::join!(
        consumer.net.open_job_stream(provider.id(), job("one")),
        async { drop(next_stream(&mut provider).await) }
    );
    let error = opened.unwrap_err();
    assert!(
        matches!(error, OpenStreamError::InvalidResponse(_)),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_carry_a_mebibyte_each_way_at_the_same_time() {
    const BYTES: usize = 1024 * 1024;
    const STREAMS: usize = 200;
    for (listen, streams) in [(TCP, STREAMS), (QUIC, STREAMS)] {
        let (consumer, mut provider) = pair(listen).await;
        let serve = async {
            let mut echoes = JoinSet::new();
            for _ in 0..streams {
                let inbound = next_stream(&mut provider).await;
                echoes.spawn(async move {
                    let stream = inbound.accept().await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let copied = tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                    copied
                });
            }
            while let Some(copied) = echoes.join_next().await {
                assert_eq!(copied.unwrap(), BYTES as u64);
            }
        };
        let ask = async {
            let mut tasks = JoinSet::new();
            // All are open before the first writes, so that a slow machine is not taken for a
            // peer that does not answer.
            let all_open = Arc::new(Barrier::new(streams));
            for number in 0..streams {
                let (net, peer) = (consumer.net.clone(), provider_id(&consumer).await);
                let all_open = all_open.clone();
                tasks.spawn(async move {
                    let stream = net.open_job_stream(peer, job(format!("{number}"))).await;
                    let (mut read, mut write) = tokio::io::split(stream.unwrap());
                    all_open.wait().await;
                    let sent = vec![u8::try_from(number % 251).unwrap(); BYTES];
                    let mut received = Vec::new();
                    let (wrote, got) = tokio::join!(
                        async {
                            write.write_all(&sent).await?;
                            write.shutdown().await
                        },
                        read.read_to_end(&mut received)
                    );
                    wrote.unwrap();
                    got.unwrap();
                    assert!(received == sent);
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        };
        within(Duration::from_secs(120), async {
            tokio::join!(serve, ask);
        })
        .await;
    }
}

async fn provider_id(consumer: &Node) -> derouter_net::PeerId {
    consumer.net.peers().await[0].peer
}

#[tokio::test]
async fn a_full_queue_of_streams_is_answered_busy_and_counted() {
    let (consumer, provider) = pair(TCP).await;
    let other = node(TCP).await;
    other.dial(&provider).await;
    let mut tasks = JoinSet::new();
    for net in [&consumer.net, &other.net] {
        for number in 0..140 {
            let (net, peer) = (net.clone(), provider.id());
            let job = job(format!("{number}"));
            tasks.spawn(async move { net.open_job_stream(peer, job).await.map(drop) });
        }
    }
    for _ in 0..280 - 256 {
        let outcome = soon(tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(outcome.unwrap_err(), OpenStreamError::Busy);
    }
    assert_eq!(provider.net.counters().streams_refused.load(Relaxed), 24);
}

#[tokio::test]
async fn a_stream_whose_opener_says_nothing_ends_at_the_deadline_and_harms_no_other() {
    let mut provider = node(TCP).await;
    let consumer = node(TCP).await;
    consumer.dial(&provider).await;
    let silent = crate::version_0_1::open_and_say_nothing(provider.address().await, 20).await;
    let started = Instant::now();
    let (opened, _accepted) = tokio::join!(
        consumer.net.open_job_stream(provider.id(), job("one")),
        async { next_stream(&mut provider).await.accept().await.unwrap() }
    );
    opened.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "not held up");
    let net = provider.net.clone();
    until(async || net.counters().streams_invalid.load(Relaxed) == 20).await;
    assert!(
        started.elapsed() > Duration::from_secs(5),
        "by the deadline"
    );
    drop(silent);
}

#[tokio::test]
async fn an_unreachable_provider_is_known_at_once() {
    let consumer = node(TCP).await;
    let gone = node(TCP).await;
    consumer.dial(&gone).await;
    gone.net.shutdown().await;
    until(async || consumer.net.peers().await.is_empty()).await;
    let error = consumer.net.open_job_stream(gone.id(), job("one")).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, OpenStreamError::Unreachable(_)),
        "{error:?}"
    );
}

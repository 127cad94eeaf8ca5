//! What job streams may cost: readers that stop, streams that nobody uses, and very many of them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use derouter_net::JobStream;
use derouter_wire::JobId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::*;

fn job(name: impl Into<String>) -> JobId {
    JobId::new(name).unwrap()
}

/// A job stream between two nodes, both ends.
async fn connect(consumer: &Node, provider: &mut Node) -> (JobStream, JobStream) {
    let (opened, accepted) = soon(async {
        tokio::join!(
            consumer.net.open_job_stream(provider.id(), job("job")),
            async {
                let inbound = provider.events.streams.recv().await.unwrap();
                inbound.accept().await.unwrap()
            }
        )
    })
    .await;
    (opened.unwrap(), accepted)
}

/// Requests and job streams that a node holds with all its peers.
async fn open_streams(node: &Node) -> u32 {
    let reports = node.net.peer_reports().await;
    let paths = reports.iter().flat_map(|report| &report.paths);
    paths.map(|path| path.streams).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_writer_and_nothing_is_lost_when_it_goes_on() {
    /// Windows, buffers of sockets and queues of muxers, with room to spare.
    const AT_MOST: usize = 32 * 1024 * 1024;
    for listen in [TCP, QUIC] {
        let (consumer, mut provider) = pair(listen).await;
        let (mut near, mut far) = connect(&consumer, &mut provider).await;
        let chunk = vec![7; 64 * 1024];
        let mut written = 0;
        // A write that takes a second on this machine waits for the reader.
        while let Ok(bytes) = timeout(Duration::from_secs(1), far.write(&chunk)).await {
            written += bytes.unwrap();
            assert!(written <= AT_MOST, "{listen}: {written} bytes and no end");
        }
        let finish = async {
            far.shutdown().await.unwrap();
            far
        };
        let read = async {
            let mut received = 0;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let bytes = near.read(&mut buffer).await.unwrap();
                if bytes == 0 {
                    return received;
                }
                received += bytes;
            }
        };
        let (received, _far) = soon(async { tokio::join!(read, finish) }).await;
        assert_eq!(received, written, "{listen}");
    }
}

#[tokio::test]
async fn streams_and_bytes_of_a_connection_are_told_and_gone_streams_are_not() {
    for listen in [TCP, QUIC] {
        let (consumer, mut provider) = pair(listen).await;
        let (mut near, mut far) = connect(&consumer, &mut provider).await;
        near.write_all(&[1; 100_000]).await.unwrap();
        near.shutdown().await.unwrap();
        let mut received = Vec::new();
        soon(far.read_to_end(&mut received)).await.unwrap();
        // Two nodes that have just met reconcile what they know on a stream of their own.
        until(async || open_streams(&consumer).await == 1).await;
        until(async || open_streams(&provider).await == 1).await;
        for (node, sent) in [(&consumer, true), (&provider, false)] {
            let reports = node.net.peer_reports().await;
            let path = &reports[0].paths[0];
            let bytes = if sent { path.bytes_out } else { path.bytes_in };
            assert!((100_000..200_000).contains(&bytes), "{listen}: {bytes}");
            let traffic = node.net.traffic();
            let total = if sent {
                traffic.bytes_out
            } else {
                traffic.bytes_in
            };
            assert!(total >= bytes, "{listen}: {total}");
        }
        drop((near, far));
        until(async || open_streams(&consumer).await == 0).await;
        until(async || open_streams(&provider).await == 0).await;
    }
}

/// `cargo xtask bench streams --opens 100000` opens more, in processes of their own, and looks at their
/// memory and files.
#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_streams_leave_nothing_behind() {
    for listen in [TCP, QUIC] {
        open_and_close(listen, 5_000, Duration::from_secs(60)).await;
    }
}

/// Opens streams, some at the same time, has each carry a word both ways, and closes them in the
/// ways there are.
async fn open_and_close(listen: &str, count: usize, limit: Duration) {
    const AT_ONCE: usize = 16;
    let (consumer, mut provider) = pair(listen).await;
    let (net, peer) = (consumer.net.clone(), provider.id());
    let (queue, mut streams) = tokio::sync::mpsc::channel(AT_ONCE);
    let accept = async {
        for _ in 0..count {
            let inbound = provider.events.streams.recv().await.unwrap();
            queue.send(inbound).await.unwrap();
        }
        provider
    };
    let serve = tokio::spawn(async move {
        while let Some(inbound) = streams.recv().await {
            tokio::spawn(async move {
                let mut stream = inbound.accept().await.unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                // What the opener drops unread may break this end first.
                let _ = stream.write_all(&word).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let numbers = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (net, numbers) = (net.clone(), numbers.clone());
        openers.spawn(async move {
            loop {
                let number = numbers.fetch_add(1, Relaxed);
                if number >= count {
                    return;
                }
                use_once(&net, peer, number).await;
            }
        });
    }
    let open = async {
        while let Some(done) = openers.join_next().await {
            done.unwrap();
        }
    };
    let (provider, ()) = within(limit, async { tokio::join!(accept, open) }).await;
    drop(queue);
    serve.await.unwrap();
    until(async || open_streams(&consumer).await == 0).await;
    until(async || open_streams(&provider).await == 0).await;
    assert_eq!(provider.net.counters().streams_refused.load(Relaxed), 0);
    assert_eq!(provider.net.counters().substreams_dropped.load(Relaxed), 0);
}

async fn use_once(net: &derouter_net::Net, peer: derouter_net::PeerId, number: usize) {
    let stream = net.open_job_stream(peer, job(number.to_string())).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"word").await.unwrap();
    match number % 3 {
        // Both sides close.
        0 => {
            stream.shutdown().await.unwrap();
            let mut word = Vec::new();
            stream.read_to_end(&mut word).await.unwrap();
            assert_eq!(word, b"word");
        }
        // The other closes, this one is dropped.
        1 => {
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
        }
        // Dropped with its answer on the way.
        _ => stream.flush().await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_without_a_word_are_held_to_the_limit_of_their_peer() {
    const STREAMS: usize = 10_000;
    /// What the limits module gives one peer.
    const UNSERVED: u64 = 256;
    let mut provider = node(TCP).await;
    let consumer = node(TCP).await;
    consumer.dial(&provider).await;
    let silent = crate::version_0_1::open_and_say_nothing(provider.address().await, STREAMS);
    let silent = within(Duration::from_secs(60), silent).await;
    let dropped = || provider.net.counters().substreams_dropped.load(Relaxed);
    until(async || dropped() > 0).await;
    let held = open_streams(&provider).await;
    assert!(u64::from(held) <= UNSERVED + 1, "{held} are held");
    // Beside it another peer's stream works.
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    near.write_all(b"word").await.unwrap();
    let mut word = [0; 4];
    soon(far.read_exact(&mut word)).await.unwrap();
    drop((near, far, silent));
    until(async || open_streams(&provider).await == 0).await;
}

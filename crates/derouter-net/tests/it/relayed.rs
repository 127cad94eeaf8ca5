//! A node that is only reached through another node of ours that relays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use derouter_net::{JobStream, Keypair, Multiaddr, NetConfig, PeerEvent, RelayLimits};
use derouter_wire::JobId;
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::*;

async fn relay_of(limits: RelayLimits) -> Node {
    let mut config = config(TCP);
    config.options.relay_server = Some(limits);
    node_with(config).await
}

/// A provider that listens nowhere but on the relay.
async fn hidden_behind(relay: &Node) -> Node {
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    config.options.listen = vec![circuit];
    let provider = node_with(config).await;
    let net = provider.net.clone();
    until(async || !net.listen_addresses().await.is_empty()).await;
    provider
}

/// Reaches the provider through the relay. It listens nowhere, so that there is no other way.
async fn consumer_of(relay: &Node, provider: &Node) -> Node {
    let mut consumer = node_with(NetConfig::new(Keypair::generate_ed25519())).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let address: Multiaddr = circuit.with_p2p(provider.id()).unwrap();
    consumer.net.dial(address).await.unwrap();
    let mut connected = Vec::new();
    while !connected.contains(&PeerEvent::Connected(provider.id())) {
        connected.push(soon(consumer.events.peers.recv()).await.unwrap());
    }
    let peers = consumer.net.peers().await;
    let info = peers.iter().find(|info| info.peer == provider.id());
    assert!(info.unwrap().connections[0].relayed);
    consumer
}

/// A job stream between two nodes, both ends.
async fn connect(consumer: &Node, provider: &mut Node) -> (JobStream, JobStream) {
    let job = JobId::new("job").unwrap();
    let (opened, accepted) = soon(async {
        tokio::join!(consumer.net.open_job_stream(provider.id(), job), async {
            let inbound = provider.events.streams.recv().await.unwrap();
            inbound.accept().await.unwrap()
        })
    })
    .await;
    (opened.unwrap(), accepted)
}

/// All that comes until the other side ends.
async fn read_all(stream: &mut JobStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return received,
            bytes => received += bytes,
        }
    }
}

#[tokio::test]
async fn a_job_stream_goes_through_a_relay_and_carries_more_than_libp2ps_default_limit() {
    const BYTES: usize = 3 * 1024 * 1024;
    let relay = relay_of(RelayLimits::default()).await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    let send = async {
        far.write_all(&vec![7; BYTES]).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let (received, ()) = soon(async { tokio::join!(read_all(&mut near), send) }).await;
    assert_eq!(received, BYTES);
}

#[tokio::test]
async fn who_has_ended_its_question_still_gets_the_whole_answer_through_a_relay() {
    /// More than all windows and buffers on the way hold.
    const BYTES: usize = 8 * 1024 * 1024;
    let relay = relay_of(RelayLimits::default()).await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let answer = async {
        let mut question = Vec::new();
        far.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        // From here on the provider knows that nothing more comes.
        far.write_all(&vec![7; BYTES]).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let (received, ()) = soon(async { tokio::join!(read_all(&mut near), answer) }).await;
    assert_eq!(received, BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_writer_at_the_other_end_of_a_relay() {
    /// Windows of the inner and of both outer connections, buffers of sockets and queues of muxers,
    /// with room to spare.
    const AT_MOST: usize = 64 * 1024 * 1024;
    let relay = relay_of(RelayLimits::default()).await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    // A write that takes a second on this machine waits for the reader.
    while let Ok(bytes) = timeout(Duration::from_secs(1), far.write(&chunk)).await {
        written += bytes.unwrap();
        assert!(written <= AT_MOST, "{written} bytes and no end");
    }
    let (received, ()) = soon(async {
        tokio::join!(read_all(&mut near), async {
            far.shutdown().await.unwrap();
        })
    })
    .await;
    assert_eq!(received, written);
}

/// So many job streams between two nodes.
async fn open(consumer: &Node, provider: &mut Node, streams: usize) -> Vec<(JobStream, JobStream)> {
    let mut opened = Vec::new();
    for _ in 0..streams {
        opened.push(connect(consumer, provider).await);
    }
    opened
}

/// Moves bytes from providers to consumers until the test ends; gives how many came.
fn flood(streams: Vec<(JobStream, JobStream)>) -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    for (mut near, mut far) in streams {
        tokio::spawn(async move {
            let chunk = vec![7; 64 * 1024];
            while far.write_all(&chunk).await.is_ok() {}
        });
        let received = received.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(bytes @ 1..) = near.read(&mut buffer).await {
                received.fetch_add(bytes as u64, Relaxed);
            }
        });
    }
    received
}

/// Lets the streams of two circuits fill a relay, checks that they get no more than its rate
/// together, and no less than a third of that each.
async fn share(relay: &Node, streams: [Vec<(JobStream, JobStream)>; 2]) {
    /// Long enough that what is read ahead of its time weighs little.
    const BYTES: u64 = 6_000_000;
    let started = Instant::now();
    let received = streams.map(flood);
    let got = || [0, 1].map(|circuit: usize| received[circuit].load(Relaxed));
    until(async || got().iter().sum::<u64>() >= BYTES).await;
    let (got, elapsed) = (got(), started.elapsed());
    let sum: u64 = got.iter().sum();
    // A tenth of a second may be unused before, and a portion of 16 KiB for each connection is given
    // at once.
    let allowed = u128::from(RATE) * (elapsed.as_millis() + 100) / 1_000 + 4 * 16 * 1024;
    assert!(u128::from(sum) <= allowed, "{sum} bytes in {elapsed:?}");
    assert!(got.iter().all(|bytes| bytes * 3 >= sum), "{got:?}");
    assert_eq!(relay.net.counters().relay.circuits_broken.load(Relaxed), 0);
}

/// Bytes a second of the relays that are filled.
const RATE: u64 = 2_000_000;

fn limited() -> RelayLimits {
    RelayLimits {
        bytes_per_second: Some(RATE),
        ..RelayLimits::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_keeps_to_its_rate_and_two_circuits_share_it_however_many_streams_each_has() {
    let relay = relay_of(limited()).await;
    let mut busy_provider = hidden_behind(&relay).await;
    let busy_consumer = consumer_of(&relay, &busy_provider).await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let busy = open(&busy_consumer, &mut busy_provider, 8).await;
    let quiet = open(&consumer, &mut provider, 1).await;
    share(&relay, [busy, quiet]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_circuits_to_one_provider_share_the_rate_of_their_relay() {
    let relay = relay_of(limited()).await;
    let mut provider = hidden_behind(&relay).await;
    let (one, other) = (
        consumer_of(&relay, &provider).await,
        consumer_of(&relay, &provider).await,
    );
    let busy = open(&one, &mut provider, 8).await;
    let quiet = open(&other, &mut provider, 1).await;
    share(&relay, [busy, quiet]).await;
}

#[tokio::test]
async fn a_circuit_that_has_carried_its_bytes_ends_with_an_error_at_both_ends() {
    let relay = relay_of(RelayLimits {
        circuit_bytes: 1024 * 1024,
        ..RelayLimits::default()
    })
    .await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    let write = async {
        let chunk = vec![7; 64 * 1024];
        while far.write_all(&chunk).await.is_ok() {}
    };
    let mut received = Vec::new();
    let (read, ()) = soon(async { tokio::join!(near.read_to_end(&mut received), write) }).await;
    assert!(read.is_err(), "{read:?}");
    assert!(received.len() <= 1024 * 1024, "{}", received.len());
    let broken = || relay.net.counters().relay.circuits_broken.load(Relaxed);
    until(async || broken() == 1).await;
}

#[tokio::test]
async fn a_circuit_whose_time_is_over_ends_with_an_error_at_both_ends() {
    let relay = relay_of(RelayLimits {
        circuit_duration: Duration::from_secs(2),
        ..RelayLimits::default()
    })
    .await;
    let mut provider = hidden_behind(&relay).await;
    let consumer = consumer_of(&relay, &provider).await;
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    far.write_all(b"begun").await.unwrap();
    far.flush().await.unwrap();
    let mut received = Vec::new();
    let (near_end, far_end) = soon(async {
        let mut nothing = Vec::new();
        tokio::join!(near.read_to_end(&mut received), async move {
            far.read_to_end(&mut nothing).await
        })
    })
    .await;
    assert_eq!(received, b"begun");
    assert!(near_end.is_err(), "{near_end:?}");
    assert!(far_end.is_err(), "{far_end:?}");
    let broken = || relay.net.counters().relay.circuits_broken.load(Relaxed);
    until(async || broken() == 1).await;
}

#[tokio::test]
async fn a_job_stream_takes_the_direct_connection_although_the_relayed_one_is_older() {
    let relay = relay_of(RelayLimits::default()).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut provider = config(TCP);
    provider.options.listen.push(circuit.clone());
    let mut provider = node_with(provider).await;
    let net = provider.net.clone();
    until(async || net.listen_addresses().await.len() > 1).await;
    let addresses = net.listen_addresses().await;
    let is_direct = |address: &&derouter_net::Multiaddr| {
        !address.iter().any(|part| part == Protocol::P2pCircuit)
    };
    let direct = addresses.iter().find(is_direct).unwrap().clone();

    let consumer = node(TCP).await;
    let relayed = circuit.with_p2p(provider.id()).unwrap();
    consumer.net.dial(relayed).await.unwrap();
    let direct = direct.with_p2p(provider.id()).unwrap();
    consumer.net.dial(direct).await.unwrap();
    let (mut near, mut far) = connect(&consumer, &mut provider).await;
    // Without the relay only the direct connection is left.
    relay.net.shutdown().await;
    until(async || {
        let peers = consumer.net.peers().await;
        let left = peers.iter().find(|info| info.peer == provider.id());
        peers.len() == 1 && left.unwrap().connections.iter().all(|one| !one.relayed)
    })
    .await;
    far.write_all(b"direct").await.unwrap();
    far.shutdown().await.unwrap();
    let mut received = Vec::new();
    soon(near.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"direct");
}

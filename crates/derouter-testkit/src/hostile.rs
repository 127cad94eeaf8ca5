//! Peers that attack a node, each in its own way, for as long as they are let.

pub mod chat;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use derouter_net::{Keypair, Multiaddr};
use derouter_wire::UnixSeconds;
use derouter_wire::announce::{
    ANNOUNCE_TOPIC, AnnouncementBody, ListSummary, OfferListHash, SignedAnnouncement,
};
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::{DISCOVERY_PROTOCOL, DiscoveryRequest, PulledList, Want};
use derouter_wire::reqres::REQRES_PROTOCOL;
use derouter_wire::stream::STREAM_PROTOCOL;
use futures::{AsyncWriteExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::sim::frames::{self, ANNOUNCEMENT_GOSSIP};
use crate::sim::raw_peer::{RawPeer, read_frame, write};

/// Messages a second of a flood, over all its peers.
const FLOOD_RATE: u64 = 10_000;
/// Peers that flood together.
const FLOODERS: u64 = 4;
/// Peers of one subnet that come and go.
const SYBILS: usize = 64;
/// Substreams that one peer holds open on each protocol.
const HELD_STREAMS: usize = 300;
/// Messages in one frame.
const BATCH: usize = 20;

/// A way to attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// 10,000 announcements a second whose signatures are wrong.
    Forged,
    /// 10,000 old announcements a second, well signed.
    Replayed,
    /// A provider that says it has 100,000 offers, and many that give other lists than announced.
    TooManyOffers,
    /// New peers of one subnet, one after the other, that all announce.
    Sybils,
    /// Substreams of every kind on which nothing is said.
    Silent,
    /// Questions whose answers are not read, on a connection that is not read.
    Deaf,
}

impl Attack {
    /// All of them.
    pub const ALL: [Attack; 6] = [
        Attack::Forged,
        Attack::Replayed,
        Attack::TooManyOffers,
        Attack::Sybils,
        Attack::Silent,
        Attack::Deaf,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Forged => "forged",
            Attack::Replayed => "replayed",
            Attack::TooManyOffers => "too many offers",
            Attack::Sybils => "sybils",
            Attack::Silent => "silent streams",
            Attack::Deaf => "never reads",
        }
    }

    fn peers(self) -> usize {
        match self {
            Attack::Forged | Attack::Replayed | Attack::TooManyOffers => 4,
            Attack::Sybils => SYBILS,
            Attack::Silent | Attack::Deaf => 2,
        }
    }
}

/// An attack that goes on until it is dropped.
pub struct Running {
    cancel: CancellationToken,
    /// Messages sent, connections made or substreams opened.
    pub done: Arc<AtomicU64>,
    /// Connections that the node refused or closed.
    pub refused: Arc<AtomicU64>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Running {
    /// Starts it against all of these nodes.
    pub fn start(attack: Attack, victims: &[Multiaddr]) -> Self {
        let running = Self {
            cancel: CancellationToken::new(),
            done: Arc::default(),
            refused: Arc::default(),
        };
        for victim in victims {
            for _ in 0..attack.peers() {
                let (done, refused) = (running.done.clone(), running.refused.clone());
                let (victim, cancel) = (victim.clone(), running.cancel.clone());
                tokio::spawn(async move {
                    let keep_on = keep_on(attack, victim, done, refused);
                    cancel.run_until_cancelled(keep_on).await;
                });
            }
        }
        running
    }
}

/// Comes back under a new name whenever it is thrown out.
async fn keep_on(attack: Attack, victim: Multiaddr, done: Arc<AtomicU64>, refused: Arc<AtomicU64>) {
    loop {
        let outcome = once(attack, &victim, &done).await;
        if outcome.is_err() {
            refused.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn once(attack: Attack, victim: &Multiaddr, done: &AtomicU64) -> Result<(), String> {
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(victim, &spoken).await?;
    match attack {
        Attack::Forged => flood(&mut peer, &forged(), done).await,
        Attack::Replayed => flood(&mut peer, &replayed(), done).await,
        Attack::TooManyOffers => too_many_offers(&mut peer, done).await,
        Attack::Sybils => {
            let messages: Vec<_> = (0..10).map(|number| announcement(number, 5)).collect();
            done.fetch_add(1, Ordering::Relaxed);
            let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
            write(&mut gossip, &frames::frame(&messages)).await
        }
        Attack::Silent => silent(&peer, done).await,
        Attack::Deaf => deaf(&peer, done).await,
    }
}

fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now();
    let elapsed = now.duration_since(std::time::UNIX_EPOCH);
    elapsed.expect("the clock is after 1970").as_secs()
}

fn signed(keypair: &Keypair, sequence: u64, offers: u32) -> SignedAnnouncement {
    let body = AnnouncementBody {
        peer: keypair.public().to_peer_id(),
        sequence,
        issued_at: UnixSeconds(unix_seconds()),
        lasts: 660,
        list: Some(ListSummary {
            hash: OfferListHash::of(&sequence.to_be_bytes()),
            bytes: 200 * 1024,
            offers,
        }),
        tags: Vec::new(),
        addresses: Vec::new(),
    };
    SignedAnnouncement::sign(body, keypair).expect("it fits")
}

fn announcement(number: u64, offers: u32) -> Vec<u8> {
    let keypair = Keypair::generate_ed25519();
    let sequence = unix_seconds() * 1000 + number;
    let bytes = signed(&keypair, sequence, offers).encode();
    frames::anonymous_message(ANNOUNCE_TOPIC, &bytes)
}

/// The last byte is that of the signature.
fn forged() -> Vec<Vec<u8>> {
    let forge = |number: u64| {
        let keypair = Keypair::generate_ed25519();
        let sequence = unix_seconds() * 1000 + number;
        let mut bytes = signed(&keypair, sequence, 5).encode();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        frames::anonymous_message(ANNOUNCE_TOPIC, &bytes)
    };
    (0..500).map(forge).collect()
}

/// Of one provider, the newest first.
fn replayed() -> Vec<Vec<u8>> {
    let keypair = Keypair::generate_ed25519();
    let newest = unix_seconds() * 1000;
    let old = |number: u64| {
        let bytes = signed(&keypair, newest - number, 5).encode();
        frames::anonymous_message(ANNOUNCE_TOPIC, &bytes)
    };
    (0..500).map(old).collect()
}

/// Sends at its share of the rate, over and over.
async fn flood(peer: &mut RawPeer, messages: &[Vec<u8>], done: &AtomicU64) -> Result<(), String> {
    peer.drain(ANNOUNCEMENT_GOSSIP);
    let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
    let begin = Instant::now();
    let mut sent = 0u64;
    for batch in messages.chunks(BATCH).cycle() {
        let rate = FLOOD_RATE / FLOODERS;
        let due = Duration::from_millis(sent * 1000 / rate);
        tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        write(&mut gossip, &frames::frame(batch)).await?;
        sent += batch.len() as u64;
        done.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Announces lists that are too long or not those that it gives.
async fn too_many_offers(peer: &mut RawPeer, done: &AtomicU64) -> Result<(), String> {
    let mut streams = peer.accept(DISCOVERY_PROTOCOL);
    let server = tokio::spawn(async move {
        while let Some((_, mut stream)) = streams.next().await {
            tokio::spawn(async move {
                let _ = read_frame(&mut stream).await;
                let list = Some(Bytes(vec![0x80; 200 * 1024]));
                let frame = derouter_wire::cbor::to_framed_vec(&PulledList { index: 0, list });
                while stream.write_all(&frame).await.is_ok() {}
            });
        }
    });
    let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
    for number in 0.. {
        let offers = if number % 2 == 0 { 100_000 } else { 1000 };
        let frame = frames::frame(&[announcement(number, offers)]);
        if let Err(error) = write(&mut gossip, &frame).await {
            server.abort();
            return Err(error);
        }
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn silent(peer: &RawPeer, done: &AtomicU64) -> Result<(), String> {
    let mut held = Vec::new();
    for _ in 0..HELD_STREAMS {
        for protocol in [STREAM_PROTOCOL, REQRES_PROTOCOL, DISCOVERY_PROTOCOL] {
            held.push(peer.open(protocol).await?);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    // Held until the node closes them.
    tokio::time::sleep(Duration::from_secs(30)).await;
    Ok(())
}

async fn deaf(peer: &RawPeer, done: &AtomicU64) -> Result<(), String> {
    let want = Want {
        peer: peer.remote,
        hash: OfferListHash([0; 32]),
    };
    let question = DiscoveryRequest::Pull(vec![want; 64]).to_frame();
    let mut held = Vec::new();
    for number in 0..HELD_STREAMS {
        let mut stream = peer.open(DISCOVERY_PROTOCOL).await?;
        write(&mut stream, &question).await?;
        held.push(stream);
        done.fetch_add(1, Ordering::Relaxed);
        if number == HELD_STREAMS / 2 {
            break;
        }
    }
    peer.set_deaf(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    Ok(())
}

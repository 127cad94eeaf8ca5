//! What each kind of attacker does on its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use derouter_net::Multiaddr;
use derouter_wire::announce::{ANNOUNCE_TOPIC, OfferListHash};
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::{DISCOVERY_PROTOCOL, DiscoveryRequest, PulledList, Want};
use derouter_wire::limits::BATCH_ANNOUNCEMENTS;
use derouter_wire::reqres::REQRES_PROTOCOL;
use derouter_wire::stream::STREAM_PROTOCOL;
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::Attack;
use super::messages::{self, FRAME_HEARTBEATS};
use crate::sim::frames::{self, ANNOUNCEMENT_GOSSIP, HEARTBEAT_GOSSIP};
use crate::sim::raw_peer::{RawPeer, read_frame, write};

/// Messages a second of a flood, over all its peers, at each node.
const FLOOD_RATE: u64 = 10_000;
/// Large heartbeats a second: 11 MB.
const LARGE_RATE: u64 = 200;
/// Peers that flood together.
const FLOODERS: usize = 4;
/// Peers of one subnet that come and go.
const SYBILS: usize = 64;
/// Peers that fill a node's mesh and read none of its gossip, and the first, which gives it gossip.
const DEAF_NEIGHBOURS: usize = 1 + 8;
/// Frames a second of the first of them, so that all that is new lasts for a round of the bench.
const GIVEN_RATE: u32 = 16;
/// Announcements of each sybil.
const SYBIL_ANNOUNCEMENTS: usize = 10;
/// Substreams that one peer holds open on each protocol.
const HELD_STREAMS: usize = 300;
/// Questions that are answered at the same time.
const QUESTIONS: usize = 8;
/// Until an attacker that was thrown out comes back.
const COME_BACK: Duration = Duration::from_millis(50);
/// How long streams and connections are held on which nothing happens.
const HOLD: Duration = Duration::from_secs(30);

/// What attackers did so far.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Messages sent, connections made or substreams opened.
    pub(super) done: AtomicU64,
    /// Connections that the node refused or closed.
    pub(super) refused: AtomicU64,
}

/// An attack, with all that it sends.
pub(super) struct Armed {
    attack: Attack,
    frames: Vec<Vec<u8>>,
    done: Arc<Done>,
}

impl Attack {
    fn peers(self) -> usize {
        match self {
            Attack::Sybils => SYBILS,
            Attack::DeafNeighbours => DEAF_NEIGHBOURS,
            Attack::Silent | Attack::Deaf => 2,
            _ => FLOODERS,
        }
    }

    fn frames(self) -> Vec<Vec<u8>> {
        match self {
            Attack::Forged => messages::forged(),
            Attack::Replayed => messages::replayed(),
            Attack::ForgedHeartbeats => messages::forged_heartbeats(),
            Attack::LargeHeartbeats => messages::large_heartbeats(),
            Attack::Sybils => messages::newcomers(SYBIL_ANNOUNCEMENTS),
            Attack::DeafNeighbours => messages::newcomers_without_offers(),
            Attack::TooManyOffers | Attack::Silent | Attack::Deaf | Attack::Greedy => Vec::new(),
        }
    }
}

impl Armed {
    /// Makes what will be sent, which takes a few seconds.
    pub(super) fn new(attack: Attack) -> Self {
        Self {
            attack,
            frames: attack.frames(),
            done: Arc::default(),
        }
    }

    pub(super) fn done(&self) -> &Arc<Done> {
        &self.done
    }

    /// Attacks all of these nodes until cancelled.
    pub(super) fn start(self: &Arc<Self>, victims: &[Multiaddr], cancel: &CancellationToken) {
        for victim in victims {
            for number in 0..self.attack.peers() {
                let (armed, victim) = (Arc::clone(self), victim.clone());
                let cancel = cancel.clone();
                tokio::spawn(async move {
                    let keep_on = armed.keep_on(number, victim);
                    cancel.run_until_cancelled(keep_on).await;
                });
            }
        }
    }

    /// Comes back under a new name whenever it is thrown out.
    async fn keep_on(&self, number: usize, victim: Multiaddr) {
        loop {
            if self.once(number, &victim).await.is_err() {
                self.done.refused.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(COME_BACK).await;
        }
    }

    fn count(&self, done: usize) {
        let done = u64::try_from(done).expect("small");
        self.done.done.fetch_add(done, Ordering::Relaxed);
    }

    async fn once(&self, number: usize, victim: &Multiaddr) -> Result<(), String> {
        let spoken = [HEARTBEAT_GOSSIP, ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
        let mut peer = RawPeer::connect(victim, &spoken).await?;
        peer.drain(HEARTBEAT_GOSSIP);
        if self.attack != Attack::DeafNeighbours {
            peer.drain(ANNOUNCEMENT_GOSSIP);
        }
        match self.attack {
            Attack::Forged | Attack::Replayed => {
                self.flood(&peer, number, ANNOUNCEMENT_GOSSIP).await
            }
            Attack::ForgedHeartbeats => self.flood(&peer, number, HEARTBEAT_GOSSIP).await,
            Attack::LargeHeartbeats => self.large(&peer, number).await,
            Attack::TooManyOffers => self.too_many_offers(&mut peer).await,
            Attack::Sybils => self.announce_once(&peer).await,
            Attack::Silent => self.silent(&peer).await,
            Attack::Deaf => self.deaf(&peer).await,
            Attack::DeafNeighbours => self.neighbour(&mut peer, number).await,
            Attack::Greedy => self.greedy(&peer).await,
        }
    }

    /// The frames, over and over, each attacker from another place on.
    fn frames_from(&self, number: usize) -> impl Iterator<Item = &Vec<u8>> {
        let first = number * self.frames.len() / self.attack.peers();
        self.frames.iter().cycle().skip(first)
    }

    /// Sends frames at its share of a rate, and counts what is in each.
    async fn send(
        &self,
        peer: &RawPeer,
        (number, protocol): (usize, &'static str),
        (rate, messages): (u64, usize),
    ) -> Result<(), String> {
        let mut gossip = peer.open(protocol).await?;
        let share = rate / u64::try_from(FLOODERS).expect("small");
        let begin = Instant::now();
        let mut sent = 0_u64;
        for frame in self.frames_from(number) {
            let due = Duration::from_millis(sent * 1000 / share);
            tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
            write(&mut gossip, frame).await?;
            sent += u64::try_from(messages).expect("small");
            self.count(messages);
        }
        Ok(())
    }

    async fn flood(
        &self,
        peer: &RawPeer,
        number: usize,
        protocol: &'static str,
    ) -> Result<(), String> {
        let each = match protocol {
            ANNOUNCEMENT_GOSSIP => BATCH_ANNOUNCEMENTS,
            _ => FRAME_HEARTBEATS,
        };
        let rate = (FLOOD_RATE, each);
        self.send(peer, (number, protocol), rate).await
    }

    /// One peer sends frames that are longer than any may be.
    async fn large(&self, peer: &RawPeer, number: usize) -> Result<(), String> {
        if number > 0 {
            let rate = (LARGE_RATE, 1);
            return self.send(peer, (number, HEARTBEAT_GOSSIP), rate).await;
        }
        let endless = messages::endless_heartbeat();
        let mut gossip = peer.open(HEARTBEAT_GOSSIP).await?;
        write(&mut gossip, &endless).await?;
        self.count(1);
        Ok(())
    }

    async fn announce_once(&self, peer: &RawPeer) -> Result<(), String> {
        let turn = self.done.done.fetch_add(1, Ordering::Relaxed);
        let turn = usize::try_from(turn).expect("64 bit");
        let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
        write(&mut gossip, &self.frames[turn % self.frames.len()]).await
    }

    /// Announces lists that are too long or not those that it gives.
    async fn too_many_offers(&self, peer: &mut RawPeer) -> Result<(), String> {
        let mut streams = peer.accept(DISCOVERY_PROTOCOL);
        let server = tokio::spawn(async move {
            while let Some(mut stream) = streams.recv().await {
                tokio::spawn(async move {
                    let _ = read_frame(&mut stream).await;
                    let list = Some(Bytes(vec![0x80; 200 * 1024]));
                    let frame = derouter_wire::cbor::to_framed_vec(&PulledList { index: 0, list });
                    while stream.write_all(&frame).await.is_ok() {}
                });
            }
        });
        let announced = self.announce_many(peer).await;
        server.abort();
        announced
    }

    async fn announce_many(&self, peer: &RawPeer) -> Result<(), String> {
        let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
        for number in 0.. {
            let offers = if number % 2 == 0 { 100_000 } else { 1000 };
            let announcement = messages::announcement(number, offers);
            let message = frames::announcements_message(ANNOUNCE_TOPIC, vec![announcement]);
            let frame = frames::frame(&[message]);
            write(&mut gossip, &frame).await?;
            self.count(1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn silent(&self, peer: &RawPeer) -> Result<(), String> {
        let mut held = Vec::new();
        for _ in 0..HELD_STREAMS {
            for protocol in [STREAM_PROTOCOL, REQRES_PROTOCOL, DISCOVERY_PROTOCOL] {
                held.push(peer.open(protocol).await?);
                self.count(1);
            }
        }
        tokio::time::sleep(HOLD).await;
        Ok(())
    }

    async fn deaf(&self, peer: &RawPeer) -> Result<(), String> {
        let question = pull(peer);
        let mut held = Vec::new();
        for _ in 0..HELD_STREAMS / 2 {
            let mut stream = peer.open(DISCOVERY_PROTOCOL).await?;
            write(&mut stream, &question).await?;
            held.push(stream);
            self.count(1);
        }
        peer.set_deaf(true);
        tokio::time::sleep(HOLD).await;
        Ok(())
    }

    /// The first tells of new providers; the others are told, and read nothing.
    async fn neighbour(&self, peer: &mut RawPeer, number: usize) -> Result<(), String> {
        if number == 0 {
            peer.drain(ANNOUNCEMENT_GOSSIP);
            let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
            for frame in self.frames_from(0) {
                write(&mut gossip, frame).await?;
                self.count(1);
                tokio::time::sleep(Duration::from_secs(1) / GIVEN_RATE).await;
            }
        }
        let mut unread = peer.accept(ANNOUNCEMENT_GOSSIP);
        let mut gossip = peer.open(ANNOUNCEMENT_GOSSIP).await?;
        write(&mut gossip, &frames::joining(ANNOUNCE_TOPIC)).await?;
        self.count(1);
        let _held = unread.recv().await;
        tokio::time::sleep(HOLD).await;
        Ok(())
    }

    async fn greedy(&self, peer: &RawPeer) -> Result<(), String> {
        let question = pull(peer);
        let asking = (0..QUESTIONS).map(|_| self.keep_asking(peer, &question));
        futures::future::try_join_all(asking).await?;
        Ok(())
    }

    /// Until the connection is gone: a question that is refused is asked again.
    async fn keep_asking(&self, peer: &RawPeer, question: &[u8]) -> Result<(), String> {
        loop {
            let mut stream = peer.open(DISCOVERY_PROTOCOL).await?;
            write(&mut stream, question).await?;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            self.count(1);
        }
    }
}

fn pull(peer: &RawPeer) -> Vec<u8> {
    let want = Want {
        peer: peer.remote,
        hash: OfferListHash([0; 32]),
    };
    DiscoveryRequest::Pull(vec![want; 64]).to_frame()
}

//! What a node pays for an announcement, next to checking its signature, and for one that it knows.

use std::time::{Duration, Instant};

use derouter_wire::announce::{ANNOUNCE_TOPIC, SignedAnnouncement};
use derouter_wire::discovery::DISCOVERY_PROTOCOL;

use super::frames::{self, ANNOUNCEMENT_GOSSIP};
use super::options::Wire;
use super::providers::Providers;
use super::raw_peer::{RawPeer, write};
use super::subject::Subject;
use super::usage::processor_time;

/// Below what one forwarder may have checked at once (20,000), twice.
const ANNOUNCEMENTS: usize = 8000;
/// Gossiped in one batch, and the time between two: as a node hands on what it hears of 100,000 providers.
const TOGETHER: usize = 64;
const EVERY: Duration = Duration::from_millis(200);
/// The node is done when it takes no processor time worth telling for so long.
const QUIET: Duration = Duration::from_millis(700);
/// How long it is watched at rest.
const REST: Duration = Duration::from_secs(10);
/// What a node that has nothing to do takes in that time.
const NOTHING: Duration = Duration::from_millis(20);

/// Processor time for one announcement, over what the node takes anyway.
#[derive(Clone, Copy, Debug)]
pub struct CostFigures {
    /// Checking its signature, nothing else.
    pub check: Duration,
    /// New, given in an exchange, its decryption and storing included.
    pub given: Duration,
    /// The same again.
    pub given_again: Duration,
    /// New, by gossip.
    pub gossiped: Duration,
    /// The same in another batch.
    pub gossiped_again: Duration,
    /// An older one of the same provider, by gossip.
    pub older: Duration,
}

/// Takes the processor time of a node between two times at which it has nothing to do, without what it
/// takes anyway.
struct Stopwatch {
    pid: u32,
    /// What it takes anyway, of the time that passes.
    at_rest: f64,
    last: (Duration, Instant),
}

impl Stopwatch {
    async fn start(pid: u32) -> Self {
        let mut watch = Self {
            pid,
            at_rest: 0.0,
            last: (processor_time(pid), Instant::now()),
        };
        watch.lap().await;
        tokio::time::sleep(REST).await;
        let rest = watch.lap().await.as_secs_f64();
        watch.at_rest = rest / REST.as_secs_f64();
        watch
    }

    /// What it took since the last time.
    async fn lap(&mut self) -> Duration {
        let computed = self.idle().await;
        let now = (computed, Instant::now());
        let (before, since) = std::mem::replace(&mut self.last, now);
        let anyway = now.1.duration_since(since).mul_f64(self.at_rest);
        (computed - before).saturating_sub(anyway)
    }

    async fn idle(&self) -> Duration {
        loop {
            let before = processor_time(self.pid);
            tokio::time::sleep(QUIET).await;
            let now = processor_time(self.pid);
            if now - before <= NOTHING {
                return now;
            }
        }
    }
}

fn each(time: Duration) -> Duration {
    time / u32::try_from(ANNOUNCEMENTS).expect("a few thousand")
}

fn check(announcements: &[SignedAnnouncement]) -> Duration {
    // This process does nothing else meanwhile, and others do not count, as they would in seconds.
    let before = processor_time(std::process::id());
    for announcement in announcements {
        assert!(std::hint::black_box(announcement).verify());
    }
    each(processor_time(std::process::id()) - before)
}

async fn gossip(peer: &RawPeer, announcements: &[Vec<u8>]) {
    let opened = peer.open(ANNOUNCEMENT_GOSSIP).await;
    let mut stream = opened.expect("the node speaks it");
    let mut turn = tokio::time::interval(EVERY);
    for some in announcements.chunks(TOGETHER) {
        turn.tick().await;
        let message = frames::announcements_message(ANNOUNCE_TOPIC, some.to_vec());
        let frame = frames::frame(&[message]);
        write(&mut stream, &frame).await.expect("the node reads");
    }
}

/// Measures it at a node of its own process.
pub async fn run() -> CostFigures {
    let providers = Providers::new(ANNOUNCEMENTS, 0);
    let sign = || (0..ANNOUNCEMENTS).map(|place| providers.without_offers(place));
    let first: Vec<_> = sign().collect();
    let given: Vec<_> = first.iter().map(SignedAnnouncement::encode).collect();
    let newer: Vec<_> = sign().map(|signed| signed.encode()).collect();

    let mut subject = Subject::start(Wire::Announcements, &[]);
    let address = subject.status().await.address.expect("it listens");
    let address = address.parse().expect("an address");
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(&address, &spoken).await.expect("a node");
    peer.drain(ANNOUNCEMENT_GOSSIP);

    let check = check(&first);
    let mut watch = Stopwatch::start(subject.pid).await;
    peer.offer(&given).await;
    let given_cost = each(watch.lap().await);
    peer.offer(&given).await;
    let given_again = each(watch.lap().await);
    gossip(&peer, &newer).await;
    let gossiped = each(watch.lap().await);
    gossip(&peer, &newer).await;
    let gossiped_again = each(watch.lap().await);
    gossip(&peer, &given).await;
    let older = each(watch.lap().await);
    let held = subject.status().await.announcements;
    assert!(held as usize >= ANNOUNCEMENTS, "it holds {held}");
    subject.stop().await;
    CostFigures {
        check,
        given: given_cost,
        given_again,
        gossiped,
        gossiped_again,
        older,
    }
}

//! What a node pays for an announcement, next to checking its signature, and for one that it knows.

use std::time::Duration;

use derouter_wire::announce::SignedAnnouncement;
use derouter_wire::discovery::DISCOVERY_PROTOCOL;

use super::frames::{self, ANNOUNCEMENT_GOSSIP};
use super::options::Wire;
use super::providers::Providers;
use super::raw_peer::{RawPeer, write};
use super::subject::Subject;
use super::usage::processor_time;

/// Below what one forwarder may have checked at once (20,000), twice.
const ANNOUNCEMENTS: usize = 8000;
/// Gossiped in one frame: the most that a node takes.
const FRAME: usize = 4;
/// Between two frames: less often than a node reads those of one network.
const FRAME_EVERY: Duration = Duration::from_micros(2500);
/// The node is done when it takes no processor time worth telling for so long.
const QUIET: Duration = Duration::from_millis(700);
/// What a node that has nothing to do takes in that time.
const NOTHING: Duration = Duration::from_millis(20);

/// Processor time for one announcement.
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
    /// The same message again.
    pub gossiped_again: Duration,
    /// The same announcement in another message: known to the directory, not to gossipsub.
    pub repeated: Duration,
}

async fn idle(pid: u32) -> Duration {
    loop {
        let before = processor_time(pid);
        tokio::time::sleep(QUIET).await;
        let now = processor_time(pid);
        if now - before <= NOTHING {
            return now;
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

async fn gossip(peer: &RawPeer, messages: &[Vec<u8>]) {
    let opened = peer.open(ANNOUNCEMENT_GOSSIP).await;
    let mut stream = opened.expect("the node speaks it");
    for some in messages.chunks(FRAME) {
        write(&mut stream, &frames::frame(some))
            .await
            .expect("the node reads");
        tokio::time::sleep(FRAME_EVERY).await;
    }
}

/// Measures it at a node of its own process.
pub async fn run() -> CostFigures {
    let providers = Providers::new(ANNOUNCEMENTS, 0);
    let sign = || (0..ANNOUNCEMENTS).map(|place| providers.without_offers(place));
    let (first, second): (Vec<_>, Vec<_>) = (sign().collect(), sign().collect());
    let given: Vec<_> = first.iter().map(SignedAnnouncement::encode).collect();
    let topic = derouter_wire::announce::ANNOUNCE_TOPIC;
    let message = |signed: &SignedAnnouncement| frames::anonymous_message(topic, &signed.encode());
    let messages: Vec<_> = second.iter().map(message).collect();
    let repeated: Vec<_> = first.iter().map(message).collect();

    let mut subject = Subject::start(Wire::Announcements, &[]);
    let address = subject.status().await.address.expect("it listens");
    let address = address.parse().expect("an address");
    let spoken = [ANNOUNCEMENT_GOSSIP, DISCOVERY_PROTOCOL];
    let mut peer = RawPeer::connect(&address, &spoken).await.expect("a node");
    peer.drain(ANNOUNCEMENT_GOSSIP);

    let check = check(&first);
    let mut before = idle(subject.pid).await;
    let mut since = |now: Duration| each(now - std::mem::replace(&mut before, now));
    peer.offer(&given).await;
    let given_cost = since(idle(subject.pid).await);
    peer.offer(&given).await;
    let given_again = since(idle(subject.pid).await);
    gossip(&peer, &messages).await;
    let gossiped = since(idle(subject.pid).await);
    gossip(&peer, &messages).await;
    let gossiped_again = since(idle(subject.pid).await);
    gossip(&peer, &repeated).await;
    let repeated = since(idle(subject.pid).await);
    let held = subject.status().await.announcements;
    assert!(held as usize >= ANNOUNCEMENTS, "it holds {held}");
    subject.stop().await;
    CostFigures {
        check,
        given: given_cost,
        given_again,
        gossiped,
        gossiped_again,
        repeated,
    }
}

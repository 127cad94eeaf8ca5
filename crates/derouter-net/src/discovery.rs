//! The task that owns the directory: it judges announcements, pulls their lists, reconciles with
//! peers, announces what this node offers, and tells the node. The swarm task passes gossip in and takes
//! out what is to be gossiped, and never waits for it.

mod exchange;
mod held;
mod news;
mod outbox;
mod pulls;
mod reconcile;
mod rounds;
mod serve;
mod snapshots;
mod task;

use std::collections::HashSet;
use std::time::Duration;

use derouter_wire::announce::{ANNOUNCE_TOPIC, SHARDS, shard_of, shard_topic};
use derouter_wire::discovery::{Carried, DISCOVERY_PROTOCOL, Want};
use derouter_wire::gossip::Announcement;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

use crate::address::Subnet;

pub(crate) use serve::DiscoveryServer;
pub(crate) use task::{Discovery, DiscoveryParts};

/// The discovery protocol.
pub(crate) const DISCOVERY: StreamProtocol = StreamProtocol::new(DISCOVERY_PROTOCOL);

/// A batch of announcements that a neighbour handed on.
#[derive(Debug)]
pub(crate) struct Gossiped {
    pub(crate) forwarder: PeerId,
    pub(crate) data: Vec<u8>,
}

/// A connected peer that speaks the discovery protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiscoveryPeer {
    pub(crate) peer: PeerId,
    /// Whether this node opened the connection: then it is the one to reconcile.
    pub(crate) dialled: bool,
    /// The network that it is in, where that counts.
    pub(crate) network: Option<Subnet>,
    /// Through whom it is connected, where it is relayed.
    pub(crate) relay: Option<PeerId>,
}

/// What the swarm task knows and the discovery task asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnPlace {
    /// Where this node is reached, best first.
    pub(crate) addresses: Vec<Multiaddr>,
    /// It has fewer than two neighbours in the mesh of a topic, of more that are subscribed to it: those
    /// have enough others, as the centre of a star has.
    pub(crate) outside_mesh: bool,
}

/// What was new of what a peer gave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Announcements.
    pub(crate) new: usize,
    /// Of these, those that the peer had known for so long that the mesh should have brought them.
    pub(crate) late: usize,
}

/// What others ask of the task.
#[derive(Debug)]
pub(crate) enum Input {
    /// Teach the peer book where a provider says it is reached. Answers whether any of that is
    /// new.
    Learn(PeerId, oneshot::Sender<bool>),
    /// A peer, or one of our own exchanges, asks; no answer when the peer asks too much.
    Ask(PeerId, Ask),
}

/// What the swarm task tells, past the questions of peers.
#[derive(Debug)]
pub(crate) enum Order {
    /// Asks for the last announcement before a stop, if there is something to take back.
    Stop(oneshot::Sender<Option<Vec<u8>>>),
    /// The machine slept; `Instant`s show nothing of this much of it.
    Slept(Duration),
}

/// What this node offers: the latest counts. By a way of its own, so that no peer's questions can
/// hold it up.
pub(crate) type Offered = watch::Receiver<Option<Arc<Announcement>>>;

/// Questions to the directory.
#[derive(Debug)]
pub(crate) enum Ask {
    Lists(Vec<Want>, oneshot::Sender<Vec<Option<Arc<[u8]>>>>),
    Snapshot(u16, oneshot::Sender<Arc<reconcile::Snapshot>>),
    Carried(Vec<[u8; 32]>, oneshot::Sender<Vec<Carried>>),
    /// Announcements that the peer gave us. Answered when they are judged: how many were new.
    Take(Vec<Carried>, oneshot::Sender<Taken>),
}

/// The shards that a node subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shards {
    sharded: bool,
    subscribed: u16,
}

impl Shards {
    /// One topic for all.
    pub(crate) const OFF: Self = Self {
        sharded: false,
        subscribed: u16::MAX,
    };

    /// `most` shards from an order of chance.
    pub(crate) fn some(most: usize, order: impl Iterator<Item = u8>) -> Self {
        let chosen = order.filter(|shard| *shard < SHARDS);
        let mut seen = HashSet::new();
        let most = most.clamp(1, usize::from(SHARDS));
        let chosen = chosen.filter(|shard| seen.insert(*shard)).take(most);
        Self {
            sharded: true,
            subscribed: chosen.fold(0, |bits, shard| bits | 1 << shard),
        }
    }

    /// As bits: bit 0 is shard 0.
    pub(crate) fn bits(self) -> u16 {
        self.subscribed
    }

    /// The topics to subscribe to.
    pub(crate) fn topics(self) -> Vec<String> {
        if !self.sharded {
            return vec![ANNOUNCE_TOPIC.to_owned()];
        }
        let subscribed = (0..SHARDS).filter(|shard| self.subscribed & (1 << shard) != 0);
        subscribed.map(shard_topic).collect()
    }

    /// The topic on which a provider's announcements are published.
    pub(crate) fn topic_of(self, provider: &PeerId) -> String {
        if self.sharded {
            shard_topic(shard_of(provider))
        } else {
            ANNOUNCE_TOPIC.to_owned()
        }
    }
}

/// The way to the task.
pub(crate) type Inputs = mpsc::Sender<Input>;

/// See [`crate::fuzz::reconcile`].
pub(crate) fn fuzz_reconcile(data: &[u8]) {
    reconcile::fuzz(data);
}

/// See [`crate::fuzz::frames`]. The first byte says how long a frame may be.
pub(crate) fn fuzz_frames(data: &[u8]) {
    use futures::FutureExt;
    let Some((most, mut stream)) = data.split_first() else {
        return;
    };
    let most = usize::from(*most).saturating_mul(64);
    while let Some(Ok(Some(frame))) = exchange::read_frame(&mut stream, most).now_or_never() {
        assert!(frame.len() <= most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_subscribes_to_as_many_shards_as_it_wants() {
        let four = Shards::some(4, [3, 3, 200, 0, 15, 7, 9].into_iter());
        assert_eq!(four.bits(), 1 << 3 | 1 | 1 << 15 | 1 << 7);
        assert_eq!(four.topics().len(), 4);
        assert_eq!(Shards::some(0, 0..SHARDS).topics().len(), 1);
        assert_eq!(Shards::some(16, 0..SHARDS).bits(), u16::MAX);
        assert_eq!(Shards::OFF.topics(), [ANNOUNCE_TOPIC]);
        let peer = PeerId::random();
        let topic = shard_topic(shard_of(&peer));
        assert_eq!(four.topic_of(&peer), topic);
        assert_eq!(Shards::OFF.topic_of(&peer), ANNOUNCE_TOPIC);
    }
}

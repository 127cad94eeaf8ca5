//! What this node announces itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{AnnouncementBody, SignedAnnouncement};
use derouter_wire::limits::BATCH_ANNOUNCEMENTS;
use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::Order;
use super::Discovery;
use crate::actor::Command;
use crate::announcing::Moment;
use crate::limits;

impl Discovery {
    /// What the node itself wants goes before all that comes from peers.
    pub(super) fn hear_own(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.on_order(order);
        }
        if self.offered.has_changed().unwrap_or(false) {
            let offered = self.offered.borrow_and_update().clone();
            self.own.announce(offered.as_deref(), Instant::now());
        }
    }

    pub(super) fn on_order(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Stop(reply) => {
                let last = self.own.take_last(moment(now));
                let last = last.and_then(|body| self.sign(body, now));
                let _ = reply.send(last.map(|bytes| bytes.to_vec()));
            }
            Order::Slept(unseen) => {
                self.directory.slept(unseen, now);
                self.directory.expire(now);
                self.own.slept(now);
                self.snapshots.clear();
                self.not_before.clear();
                self.rounds.begin_anew(now, rand::random());
                for known in self.connected.clone() {
                    self.reconcile_soon(known.peer);
                }
            }
        }
    }

    pub(super) async fn announce_own(&mut self) {
        let now = Instant::now();
        if self.own.due().is_none_or(|due| due > now) {
            return;
        }
        self.look_at_place(now).await;
        if let Some(body) = self.own.take(moment(now))
            && let Some(bytes) = self.sign(body, now)
        {
            self.publish_own(&bytes).await;
        } else if self.own.take_again(now)
            && let Some(bytes) = self.directory.announcement(&self.local())
        {
            self.publish_own(&bytes).await;
        }
    }

    fn local(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// Hands our announcement to the mesh, and notes when nobody took it.
    async fn publish_own(&mut self, bytes: &[u8]) {
        let (reply, published) = oneshot::channel();
        let topic = self.shards.topic_of(&self.local());
        self.command(Command::Publish(topic, vec![bytes.to_vec()], Some(reply)))
            .await;
        let published = timeout(limits::COMMAND_DEADLINE, published).await;
        // Late or closed: the network is overloaded, or stops.
        if !matches!(published, Ok(Ok(true))) {
            self.own.unpublished(Instant::now(), rand::random());
        }
    }

    fn sign(&mut self, body: AnnouncementBody, now: Instant) -> Option<Arc<[u8]>> {
        // Before it is sent, so that no later run repeats the sequence number.
        let seconds = UnixSeconds(body.sequence / 1000 + 1);
        let updated_at = self.own.updated_at();
        self.sent.send_modify(|sent| {
            sent.timestamp = sent.timestamp.max(seconds);
            sent.updated_at = sent.updated_at.max(updated_at);
        });
        let signed = SignedAnnouncement::sign(body, &self.keypair);
        if signed.is_none() {
            tracing::warn!("only a node with an Ed25519 key can announce offers");
        }
        let list = self.own.list();
        Some(self.directory.insert_own(&signed?, list, now))
    }

    /// Hands on the announcements of others that wait for it. That there is nobody yet does not
    /// matter: who connects reconciles.
    pub(super) async fn hand_on(&mut self, now: Instant) {
        let mut by_topic: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (provider, bringer) in self.outbox.take(now) {
            let is_only_one = matches!(&*self.connected, [only] if only.peer == bringer);
            if is_only_one {
                continue;
            }
            if let Some(bytes) = self.directory.fresh_announcement(&provider, now) {
                let topic = self.shards.topic_of(&provider);
                by_topic.entry(topic).or_default().push(bytes.to_vec());
            }
        }
        for (topic, announcements) in by_topic {
            for batch in announcements.chunks(BATCH_ANNOUNCEMENTS) {
                let publish = Command::Publish(topic.clone(), batch.to_vec(), None);
                self.command(publish).await;
            }
        }
    }
}

fn moment(now: Instant) -> Moment {
    Moment {
        now,
        unix_millis: unix_millis(),
        jitter: rand::random(),
    }
}

fn unix_millis() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}

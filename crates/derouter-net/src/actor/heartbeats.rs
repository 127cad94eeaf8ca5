//! Heartbeats out and in.

use std::time::Instant;

use derouter_wire::gossip::{HEARTBEAT_TOPIC, Heartbeat};
use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, Message, MessageAcceptance, MessageId};

use super::{Actor, unix_now};
use crate::counters::count;
use crate::heartbeat::ReceivedHeartbeat;
use crate::heartbeat::filter::Verdict;

impl Actor {
    /// Publishes a heartbeat if one is due.
    pub(super) fn send_heartbeat(&mut self) {
        let now = Instant::now();
        if let Some(heartbeat) = self.schedule.take(now, unix_now()) {
            let published = self.publish(&heartbeat);
            self.schedule.published(now, published);
        }
    }

    /// Takes back what was announced. False when there was nothing to take back, or nobody to
    /// tell.
    pub(super) fn send_last_heartbeat(&mut self) -> bool {
        let last = self.schedule.take_last(Instant::now(), unix_now());
        last.is_some_and(|heartbeat| self.publish(&heartbeat))
    }

    fn publish(&mut self, heartbeat: &Heartbeat) -> bool {
        // Before it is sent, so that no later run repeats these times.
        self.sent.send_replace(self.schedule.last());
        let topic = IdentTopic::new(HEARTBEAT_TOPIC);
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        match gossipsub.publish(topic, heartbeat.encode()) {
            Ok(_) => {
                count(&self.counters.heartbeats_sent);
                true
            }
            Err(error) => {
                count(&self.counters.heartbeats_unsent);
                tracing::debug!(%error, "a heartbeat could not be sent and will be repeated");
                false
            }
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => self.on_message(propagation_source, &message_id, &message),
            gossipsub::Event::Subscribed { .. } => {
                self.schedule.subscribed(Instant::now());
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "a peer does not keep up with heartbeats");
            }
            _ => {}
        }
    }

    fn on_message(&mut self, forwarder: PeerId, id: &MessageId, message: &Message) {
        let acceptance = self.judge(forwarder, message);
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        gossipsub.report_message_validation_result(id, &forwarder, acceptance);
    }

    fn judge(&mut self, forwarder: PeerId, message: &Message) -> MessageAcceptance {
        let Some(source) = message.source else {
            count(&self.counters.heartbeats_invalid);
            return MessageAcceptance::Ignore;
        };
        match self.filter.judge(source, &message.data, unix_now()) {
            Verdict::Good(heartbeat) => self.pass_on(source, heartbeat),
            Verdict::Stale => {
                count(&self.counters.heartbeats_stale);
                MessageAcceptance::Ignore
            }
            Verdict::Future { first } => {
                count(&self.counters.heartbeats_future);
                if first {
                    tracing::warn!(
                        peer = %source,
                        "heartbeats from over an hour ahead are ignored; check the clocks of that peer and of this machine"
                    );
                }
                MessageAcceptance::Ignore
            }
            Verdict::Invalid => {
                count(&self.counters.heartbeats_invalid);
                // 0.1 nodes forward before they look: only who made it is to blame.
                if forwarder == source {
                    MessageAcceptance::Reject
                } else {
                    MessageAcceptance::Ignore
                }
            }
        }
    }

    fn pass_on(&self, source: PeerId, heartbeat: Heartbeat) -> MessageAcceptance {
        let received = ReceivedHeartbeat { source, heartbeat };
        match self.heartbeats.try_send(received) {
            Ok(()) => count(&self.counters.heartbeats_received),
            Err(_) => count(&self.counters.heartbeats_dropped),
        }
        MessageAcceptance::Accept
    }
}

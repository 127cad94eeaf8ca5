//! Heartbeats out and in.

use std::time::Instant;

use derouter_wire::gossip::{HEARTBEAT_TOPIC, Heartbeat};
use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, Message, MessageAcceptance, MessageId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::conduct::Offence;
use super::connections::PeerState;
use super::{Actor, unix_now};
use crate::counters::{NetCounters, count};
use crate::heartbeat::ReceivedHeartbeat;
use crate::heartbeat::filter::{Arrival, Verdict};
use crate::reachability::clock_watch::OffClock;

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
        let last = self.schedule.last();
        self.sent.send_modify(|sent| {
            sent.timestamp = sent.timestamp.max(last.timestamp);
            sent.updated_at = sent.updated_at.max(last.updated_at);
        });
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
            gossipsub::Event::Subscribed { peer_id, .. } => self.on_subscribed(peer_id),
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "a peer does not keep up with heartbeats");
            }
            _ => {}
        }
    }

    /// Once for each peer that comes: repeated subscriptions change nothing.
    fn on_subscribed(&mut self, peer: PeerId) {
        let first = self.peers.get_mut(&peer).is_some_and(PeerState::subscribe);
        if first {
            self.schedule.subscribed(Instant::now());
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
        let arrival = Arrival {
            forwarder,
            source,
            data: &message.data,
        };
        match self.filter.judge(arrival, Instant::now(), unix_now()) {
            Verdict::Good(heartbeat) => {
                self.reach.clock.right(Instant::now());
                let received = ReceivedHeartbeat { source, heartbeat };
                pass_on(&self.heartbeats, &self.counters, received)
            }
            Verdict::Stale => {
                count(&self.counters.heartbeats_stale);
                MessageAcceptance::Ignore
            }
            Verdict::TooMany => {
                count(&self.counters.heartbeats_limited);
                MessageAcceptance::Ignore
            }
            Verdict::OffClock { ahead, first } => {
                self.on_off_clock(source, ahead, first);
                MessageAcceptance::Ignore
            }
            Verdict::Invalid => {
                count(&self.counters.heartbeats_invalid);
                // 0.1 nodes forward before they look: only who made it is to blame.
                if forwarder == source {
                    self.blame(source, Offence::InvalidMessage);
                    MessageAcceptance::Reject
                } else {
                    MessageAcceptance::Ignore
                }
            }
        }
    }

    fn on_off_clock(&mut self, source: PeerId, ahead: bool, first: bool) {
        let (counter, direction) = if ahead {
            (&self.counters.heartbeats_future, "ahead")
        } else {
            (&self.counters.heartbeats_past, "behind")
        };
        count(counter);
        let off = OffClock::new(ahead);
        self.reach.clock.off(source, off, Instant::now());
        if first {
            tracing::warn!(
                peer = %source,
                direction,
                "heartbeats that are off by over four hours are ignored; check the clocks of that peer and of this machine"
            );
        }
    }
}

/// Gives a good heartbeat to the node. One that does not fit is not spread either: what is too much
/// for us is too much for others.
fn pass_on(
    queue: &mpsc::Sender<ReceivedHeartbeat>,
    counters: &NetCounters,
    received: ReceivedHeartbeat,
) -> MessageAcceptance {
    match queue.try_send(received) {
        Ok(()) => {
            count(&counters.heartbeats_received);
            MessageAcceptance::Accept
        }
        Err(TrySendError::Full(_)) => {
            count(&counters.heartbeats_dropped);
            MessageAcceptance::Ignore
        }
        // A node that does not listen still forwards.
        Err(TrySendError::Closed(_)) => MessageAcceptance::Accept,
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::UnixSeconds;

    use super::*;

    #[test]
    fn a_heartbeat_that_finds_the_queue_full_is_counted_and_not_forwarded() {
        let (queue, mut receiver) = mpsc::channel(1);
        let counters = NetCounters::default();
        let received = ReceivedHeartbeat {
            source: PeerId::random(),
            heartbeat: Heartbeat {
                provider: None,
                timestamp: UnixSeconds(1),
            },
        };
        let pass = || pass_on(&queue, &counters, received.clone());
        assert!(matches!(pass(), MessageAcceptance::Accept));
        assert!(matches!(pass(), MessageAcceptance::Ignore));
        assert!(receiver.try_recv().is_ok());
        assert!(matches!(pass(), MessageAcceptance::Accept));
        drop(receiver);
        assert!(matches!(pass(), MessageAcceptance::Accept), "not listening");
        assert_eq!(counters.heartbeats_dropped.into_inner(), 1);
    }
}

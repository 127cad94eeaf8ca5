//! The gossip of announcements (wire 0.2): batches go to the task that judges them, and those that are to
//! be handed on come back. And the beacon of those who see peers of version 0.1.

use std::time::{Duration, Instant};

use derouter_wire::announce::{AnnouncementBatch, LEGACY_TOPIC, beacon_minute};
use derouter_wire::limits::{ANNOUNCEMENT_ADDRESSES, BATCH_BYTES};
use libp2p::gossipsub::{self, IdentTopic, Message, MessageAcceptance, MessageId};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Actor, Offence, unix_now};
use crate::address::{subnet, without_peer};
use crate::counters::count;
use crate::discovery::{DiscoveryPeer, Gossiped, Order, OwnPlace};
use crate::varied::most_varied;

/// How far the minute of a beacon may be from ours: anybody can send one, so that old ones and
/// those made ahead are worth little.
const BEACON_MINUTES: u64 = 2;
/// How long a stop waits for the announcement that takes the offers back.
const LAST_WORD: Duration = Duration::from_millis(300);

impl Actor {
    pub(super) fn on_announcement_gossip(&mut self, event: gossipsub::Event) {
        if let gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } = event
        {
            if message.topic == legacy_topic().hash() {
                self.on_beacon(propagation_source, &message_id, &message);
            } else {
                self.on_announcements(propagation_source, &message_id, message);
            }
        }
    }

    /// A batch goes one hop: what is new in it is handed on in other batches.
    fn on_announcements(&mut self, forwarder: PeerId, id: &MessageId, message: Message) {
        self.report_judged(id, &forwarder, MessageAcceptance::Ignore);
        if message.data.len() > BATCH_BYTES {
            count(&self.counters.announcements_invalid);
            self.blame(forwarder, Offence::InvalidMessage);
            return;
        }
        let data = message.data;
        let gossiped = Gossiped { forwarder, data };
        if self.announcements.try_send(gossiped).is_err() {
            count(&self.counters.announcements_dropped);
        }
    }

    fn report_judged(&mut self, id: &MessageId, from: &PeerId, acceptance: MessageAcceptance) {
        let gossip = &mut self.swarm.behaviour_mut().announcements;
        gossip.report_message_validation_result(id, from, acceptance);
    }

    /// Hands announcements to the neighbours: to those in the mesh, or to some where that is small. Whether
    /// any took it.
    pub(super) fn publish_announcements(
        &mut self,
        topic: String,
        announcements: Vec<Vec<u8>>,
    ) -> bool {
        let topic = IdentTopic::new(topic);
        let batch = AnnouncementBatch {
            salt: rand::random(),
            announcements,
        };
        let gossip = &mut self.swarm.behaviour_mut().announcements;
        match gossip.publish(topic, batch.encode()) {
            Ok(_) => {
                count(&self.counters.announcements_sent);
                true
            }
            // Whoever connects reconciles, and learns of it then.
            Err(error) => {
                tracing::debug!(%error, "announcements were not spread by gossip");
                false
            }
        }
    }

    /// Where this node is reached, and whether it is sent every announcement.
    pub(super) fn own_place(&self) -> OwnPlace {
        let gossip = &self.swarm.behaviour().announcements;
        let external = self.swarm.external_addresses().cloned();
        let listeners = self.swarm.listeners().cloned();
        let listeners = listeners.filter(is_relayed).collect::<Vec<_>>();
        let mut addresses: Vec<Multiaddr> = external.chain(listeners).collect();
        if addresses.is_empty() {
            addresses = self.swarm.listeners().cloned().collect();
            addresses.sort_by_key(is_loopback);
        }
        let topics = self.shards.topics();
        // One neighbour in the mesh may hear nothing itself.
        let outside = |topic: &String| {
            let topic = IdentTopic::new(topic).hash();
            let peers = gossip.all_peers();
            let subscribed = peers.filter(|(_, topics)| topics.contains(&&topic));
            gossip.mesh_peers(&topic).count() < subscribed.take(2).count()
        };
        OwnPlace {
            addresses: told_addresses(addresses, self.peer_id),
            outside_mesh: topics.iter().any(outside),
        }
    }

    /// Tells the discovery task which peers it can ask.
    pub(super) fn update_discovery_peers(&self) {
        let peer = |(peer, state): (&PeerId, &super::connections::PeerState)| DiscoveryPeer {
            peer: *peer,
            dialled: state.dialled(),
            network: state
                .connections
                .iter()
                .find_map(|(_, known)| subnet(&known.address)),
            relay: state.connections.iter().find_map(|(_, known)| known.relay),
        };
        let speaking = self
            .peers
            .iter()
            .filter(|(_, state)| state.speaks.discovery);
        let peers: Vec<DiscoveryPeer> = speaking.map(peer).collect();
        self.discovery_peers.send_if_modified(|known| {
            let changed = *known != peers;
            if changed {
                *known = peers;
            }
            changed
        });
    }

    // The beacon.

    fn on_beacon(&mut self, forwarder: PeerId, id: &MessageId, message: &Message) {
        let minute = <[u8; 8]>::try_from(message.data.as_slice()).map(u64::from_be_bytes);
        let ours = unix_now().0 / 60;
        let believed = minute.is_ok_and(|minute| minute.abs_diff(ours) <= BEACON_MINUTES);
        let acceptance = if believed {
            let now = Instant::now();
            self.legacy.heard(now);
            self.update_legacy();
            if self.legacy.may_forward(now) {
                MessageAcceptance::Accept
            } else {
                MessageAcceptance::Ignore
            }
        } else {
            MessageAcceptance::Ignore
        };
        self.report_judged(id, &forwarder, acceptance);
    }

    /// Looks anew whether heartbeats are to be sent, and tells others of 0.1 peers of ours.
    pub(super) fn update_legacy(&mut self) {
        let now = Instant::now();
        let direct = self.peers.values().any(|state| state.speaks.legacy);
        self.legacy.connected(direct, now);
        if self.legacy.take(now) {
            let minute = beacon_minute(unix_now()).to_vec();
            let told = self.publish_beacon(minute);
            self.legacy.published(told, now);
        }
        let wanted = self.always_heartbeats || self.legacy.wants_heartbeats(now);
        self.schedule.set_wanted(wanted, now);
    }

    fn publish_beacon(&mut self, minute: Vec<u8>) -> bool {
        let gossip = &mut self.swarm.behaviour_mut().announcements;
        match gossip.publish(legacy_topic(), minute) {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => true,
            Err(_) => false,
        }
    }

    /// Publishes the announcement that takes the offers back. False when there is none, or nobody
    /// to tell.
    pub(super) async fn announce_last(&mut self) -> bool {
        let (reply, last) = oneshot::channel();
        if self.orders.try_send(Order::Stop(reply)).is_err() {
            return false;
        }
        let Ok(Ok(Some(bytes))) = timeout(LAST_WORD, last).await else {
            return false;
        };
        let topic = self.shards.topic_of(&self.swarm.local_peer_id().clone());
        self.publish_announcements(topic, vec![bytes])
    }
}

fn legacy_topic() -> IdentTopic {
    IdentTopic::new(LEGACY_TOPIC)
}

fn is_relayed(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::P2pCircuit))
}

fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

/// Those that go into an announcement. It names the peer already, and is small: of many addresses
/// those of one relay in one family would take all its room.
fn told_addresses(addresses: Vec<Multiaddr>, own: PeerId) -> Vec<Multiaddr> {
    let mut told: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        let address = without_peer(address, own);
        if !told.contains(&address) {
            told.push(address);
        }
    }
    most_varied(told, ANNOUNCEMENT_ADDRESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_tells_of_both_relays_in_both_families() {
        let own = PeerId::random();
        let mut all = Vec::new();
        for (number, relay) in [(1, PeerId::random()), (2, PeerId::random())] {
            for host in [
                format!("/ip6/2600:{number}::2"),
                format!("/ip4/45.{number}.0.2"),
            ] {
                let circuit = format!("{host}/tcp/4001/p2p/{relay}/p2p-circuit/p2p/{own}");
                all.push(circuit.parse().unwrap());
            }
        }
        let told = told_addresses([all.clone(), all].concat(), own);
        assert_eq!(told.len(), 4);
        let names_itself = Protocol::P2p(own);
        let all_parts = || told.iter().flat_map(Multiaddr::iter);
        assert!(!all_parts().any(|part| part == names_itself));
    }
}

//! Nodes in one line, and waiting with a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use derouter_net::{Keypair, Multiaddr, Net, NetConfig, NetEvents, PeerId, start};
use derouter_wire::gossip::{AnnouncedOffer, Announcement};
use derouter_wire::{OfferId, ProtocolId, UnixSeconds};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; every wait ends as soon as its event is there.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

pub(crate) struct Node {
    pub(crate) net: Net,
    pub(crate) events: NetEvents,
}

pub(crate) fn config(listen: &str) -> NetConfig {
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    config.options.listen = vec![listen.parse().unwrap()];
    config
}

pub(crate) async fn node_with(config: NetConfig) -> Node {
    let (net, events) = start(config, CancellationToken::new()).await.unwrap();
    Node { net, events }
}

pub(crate) async fn node(listen: &str) -> Node {
    node_with(config(listen)).await
}

impl Node {
    pub(crate) fn id(&self) -> PeerId {
        self.net.local_peer_id()
    }

    /// Where it listens, with its peer id.
    pub(crate) async fn address(&self) -> Multiaddr {
        let addresses = self.net.listen_addresses().await;
        addresses[0].clone().with_p2p(self.id()).unwrap()
    }

    pub(crate) async fn dial(&self, other: &Node) {
        let peer = self.net.dial(other.address().await).await.unwrap();
        assert_eq!(peer, other.id());
    }
}

/// Two connected nodes.
pub(crate) async fn pair(listen: &str) -> (Node, Node) {
    let one = node(listen).await;
    let other = node(listen).await;
    one.dial(&other).await;
    (one, other)
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    within(DEADLINE, future).await
}

pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    soon(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) fn announcement(payload: &str, updated_at: u64) -> Announcement {
    let offer = AnnouncedOffer {
        protocol_payload: payload.to_owned(),
    };
    let offers = BTreeMap::from([(OfferId::new("offer").unwrap(), offer)]);
    Announcement {
        name: Some("provider".to_owned()),
        offers: BTreeMap::from([(ProtocolId::new("test:1").unwrap(), offers)]),
        updated_at: UnixSeconds(updated_at),
        ..Announcement::default()
    }
}

/// The payload of the only offer, if there is one.
pub(crate) fn payload(announcement: &Announcement) -> Option<&str> {
    let (_, offers) = announcement.offers.first_key_value()?;
    let (_, offer) = offers.first_key_value()?;
    Some(&offer.protocol_payload)
}

pub(crate) fn unix_now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

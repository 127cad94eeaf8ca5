//! Kademlia: addresses of peers, and providers of a protocol from a cold start.

use libp2p::kad;

use super::Actor;

impl Actor {
    pub(super) fn on_kademlia(&mut self, event: kad::Event) {
        tracing::trace!(?event, "kademlia");
    }
}

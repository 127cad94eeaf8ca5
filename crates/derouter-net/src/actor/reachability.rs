//! Whether and where others reach this node: AutoNAT, port mapping, reservations, hole punching.

use libp2p::{autonat, dcutr, relay, upnp};

use super::Actor;

impl Actor {
    pub(super) fn on_autonat(&mut self, event: autonat::v2::client::Event) {
        tracing::debug!(?event, "an address was tested");
    }

    pub(super) fn on_upnp(&mut self, event: upnp::Event) {
        tracing::debug!(?event, "port mapping");
    }

    pub(super) fn on_relay_client(&mut self, event: relay::client::Event) {
        tracing::debug!(?event, "relay");
    }

    pub(super) fn on_dcutr(&mut self, event: dcutr::Event) {
        tracing::debug!(?event, "hole punching");
    }
}

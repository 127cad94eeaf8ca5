//! Whom the operator lets in: `allow` and `block` of the configuration. Pure.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use libp2p::{Multiaddr, PeerId};

use crate::address::without_peer;
use crate::bootstrap::peer_of;

/// One entry of a list of peers: a peer id, an IP address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRule {
    /// This peer, wherever it is.
    Peer(PeerId),
    /// Whoever connects from there, or is dialled there.
    Network(IpNet),
}

/// A text that is no [`PeerRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no peer id, no IP address and no network such as 192.0.2.0/24")]
pub struct PeerRuleError(String);

impl FromStr for PeerRule {
    type Err = PeerRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(peer) = text.parse::<PeerId>() {
            return Ok(Self::Peer(peer));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Network(ip.to_canonical().into()));
        }
        let network = text.parse::<IpNet>();
        network
            .map(|network| Self::Network(network.trunc()))
            .map_err(|_| PeerRuleError(text.to_owned()))
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(formatter),
            Self::Network(network) => network.fmt(formatter),
        }
    }
}

/// Peers and networks of one list.
#[derive(Debug, Default)]
struct List {
    peers: HashSet<PeerId>,
    networks: Vec<IpNet>,
}

impl List {
    fn new(rules: &[PeerRule]) -> Self {
        let mut list = Self::default();
        for rule in rules {
            match rule {
                PeerRule::Peer(peer) => {
                    list.peers.insert(*peer);
                }
                PeerRule::Network(network) => list.networks.push(*network),
            }
        }
        list
    }

    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.networks.is_empty()
    }

    fn has_ip(&self, ip: Option<IpAddr>) -> bool {
        ip.is_some_and(|ip| self.networks.iter().any(|network| network.contains(&ip)))
    }
}

/// Who may connect, and who may be dialled.
#[derive(Debug, Default)]
pub(crate) struct AccessRules {
    allow: List,
    block: List,
    /// Always allowed, unless they are blocked.
    bootstrap_peers: HashSet<PeerId>,
    /// Those that don't name their peer: whoever answers there is allowed.
    bootstrap_addresses: Vec<Multiaddr>,
}

impl AccessRules {
    pub(crate) fn new(allow: &[PeerRule], block: &[PeerRule], bootstrap: &[Multiaddr]) -> Self {
        let named = bootstrap.iter().filter_map(peer_of);
        let unnamed = bootstrap
            .iter()
            .filter(|address| peer_of(address).is_none());
        Self {
            allow: List::new(allow),
            block: List::new(block),
            bootstrap_peers: named.collect(),
            bootstrap_addresses: unnamed.cloned().collect(),
        }
    }

    /// Blocked by name.
    pub(crate) fn blocked_peers(&self) -> impl Iterator<Item = &PeerId> {
        self.block.peers.iter()
    }

    /// Whether the operator blocks this peer by name.
    pub(crate) fn blocks_peer(&self, peer: &PeerId) -> bool {
        self.block.peers.contains(peer)
    }

    /// Whether the operator blocks this address.
    pub(crate) fn blocks_ip(&self, ip: Option<IpAddr>) -> bool {
        self.block.has_ip(ip)
    }

    /// Whether a connection with `peer` is allowed; `ip` is its address, unless it is relayed.
    pub(crate) fn admits(&self, peer: &PeerId, ip: Option<IpAddr>) -> bool {
        if self.blocks_peer(peer) || self.blocks_ip(ip) {
            return false;
        }
        self.allow.is_empty()
            || self.allow.peers.contains(peer)
            || self.allow.has_ip(ip)
            || self.bootstrap_peers.contains(peer)
    }

    /// Whether `peer` may be dialled, as far as its id says.
    pub(crate) fn may_dial(&self, peer: &PeerId) -> bool {
        !self.blocks_peer(peer)
            && (self.allow.is_empty()
                || !self.allow.networks.is_empty()
                || self.allow.peers.contains(peer)
                || self.bootstrap_peers.contains(peer))
    }

    /// `peer` answered a dial to `address`: when that is a configured bootstrap node, this is who
    /// was meant.
    pub(crate) fn answered(&mut self, peer: PeerId, address: &Multiaddr) {
        let place = without_peer(address.clone(), peer);
        if self.bootstrap_addresses.contains(&place) {
            self.bootstrap_peers.insert(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<PeerRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_rule_is_a_peer_an_address_or_a_network() {
        let peer = PeerId::random();
        assert_eq!(peer.to_string().parse(), Ok(PeerRule::Peer(peer)));
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(text.parse::<PeerRule>().unwrap().to_string(), shown);
        }
        for bad in ["", "example.org", "192.0.2.0/33", "12D3KooW"] {
            let error = bad.parse::<PeerRule>().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn the_blocked_are_refused_and_everybody_else_is_let_in() {
        let blocked = PeerId::random();
        let other = PeerId::random();
        let block = rules(&[&blocked.to_string(), "192.0.2.0/24"]);
        let rules = AccessRules::new(&[], &block, &[]);
        assert!(!rules.admits(&blocked, ip("198.51.100.1")));
        assert!(!rules.admits(&other, ip("192.0.2.200")));
        assert!(rules.admits(&other, ip("198.51.100.1")));
        assert!(rules.admits(&other, None));
        assert!(rules.may_dial(&other) && !rules.may_dial(&blocked));
    }

    #[test]
    fn with_an_allow_list_only_its_peers_its_networks_and_bootstrap_nodes_are_let_in() {
        let (friend, hub, unnamed, stranger) = (
            PeerId::random(),
            PeerId::random(),
            PeerId::random(),
            PeerId::random(),
        );
        let allow = rules(&[&friend.to_string(), "192.0.2.0/24"]);
        let place: Multiaddr = "/dns4/hub.example/tcp/1".parse().unwrap();
        let bootstrap = [
            format!("/ip4/198.51.100.1/tcp/1/p2p/{hub}")
                .parse()
                .unwrap(),
            place.clone(),
        ];
        let mut rules = AccessRules::new(&allow, &[], &bootstrap);
        assert!(rules.admits(&friend, None));
        assert!(rules.admits(&hub, ip("198.51.100.1")));
        assert!(rules.admits(&stranger, ip("192.0.2.1")));
        assert!(!rules.admits(&stranger, ip("198.51.100.9")));
        assert!(!rules.admits(&stranger, None));
        assert!(!rules.admits(&unnamed, None));
        rules.answered(unnamed, &place);
        assert!(rules.admits(&unnamed, None));
    }

    #[test]
    fn to_block_is_stronger_than_to_allow() {
        let peer = PeerId::random();
        let both = rules(&[&peer.to_string()]);
        let rules = AccessRules::new(&both, &both, &[]);
        assert!(!rules.admits(&peer, None) && !rules.may_dial(&peer));
    }
}

//! At which addresses peers say that they see this node. Pure. Anybody can say anything: one word
//! of each peer and transport counts, and what only one network says is tested seldom.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use libp2p::Multiaddr;

use super::place::{self, Transport};
use crate::address::{Subnet, subnet};
use crate::limits;

/// The last word of each observer over each transport, at most [`limits::OBSERVERS`].
#[derive(Debug, Default)]
pub(crate) struct Claims {
    said: HashMap<(IpAddr, Transport), (Multiaddr, Instant)>,
}

impl Claims {
    /// The peer at `observer` sees this node at `address`. True when that takes the place of
    /// another word.
    pub(crate) fn observed(&mut self, observer: IpAddr, address: &Multiaddr, now: Instant) -> bool {
        let Some(transport) = place::transport(address) else {
            return false;
        };
        let key = (observer, transport);
        let mut replaced = false;
        if self.said.len() >= limits::OBSERVERS && !self.said.contains_key(&key) {
            let oldest = self.said.iter().min_by_key(|(_, (_, when))| *when);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.said.remove(&oldest);
                replaced = true;
            }
        }
        let before = self.said.insert(key, (address.clone(), now));
        replaced || before.is_some_and(|(before, _)| before != *address)
    }

    /// The network changed: nothing is known.
    pub(crate) fn clear(&mut self) {
        self.said.clear();
    }

    /// How many networks see this node at this address; with `any_port` at its IP address.
    pub(crate) fn networks(&self, address: &Multiaddr, any_port: bool) -> usize {
        let ip = place::ip(address);
        let fits = |said: &Multiaddr| said == address || (any_port && place::ip(said) == ip);
        let saying = self.said.iter().filter(|(_, (said, _))| fits(said));
        let networks: HashSet<_> = saying
            .map(|((observer, _), _)| network(*observer))
            .collect();
        networks.len()
    }
}

/// All of one network are taken for one; in a private network each is one.
fn network(observer: IpAddr) -> (Option<Subnet>, Option<IpAddr>) {
    match subnet(&Multiaddr::from(observer)) {
        Some(subnet) => (Some(subnet), None),
        None => (None, Some(observer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/1.2.3.4/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn the_last_word_of_an_observer_counts_and_one_network_has_one_voice() {
        let now = Instant::now();
        let mut claims = Claims::default();
        let observer = |network, host| IpAddr::from([8, 8, network, host]);
        assert!(!claims.observed(observer(1, 1), &address(1), now));
        assert!(
            !claims.observed(observer(1, 1), &address(1), now),
            "the same"
        );
        assert!(claims.observed(observer(1, 1), &address(2), now));
        assert_eq!(claims.networks(&address(1), false), 0);
        assert_eq!(claims.networks(&address(1), true), 1);
        claims.observed(observer(1, 2), &address(2), now);
        assert_eq!(claims.networks(&address(2), false), 1);
        claims.observed(observer(2, 1), &address(2), now);
        assert_eq!(claims.networks(&address(2), false), 2);
        let near = |host| IpAddr::from([10, 0, 0, host]);
        claims.observed(near(1), &address(3), now);
        claims.observed(near(2), &address(3), now);
        assert_eq!(claims.networks(&address(3), false), 2);
    }

    #[test]
    fn observers_are_bounded() {
        let now = Instant::now();
        let mut claims = Claims::default();
        for host in 0..=255 {
            claims.observed(IpAddr::from([8, 8, 8, host]), &address(1), now);
        }
        assert_eq!(claims.said.len(), limits::OBSERVERS);
    }
}

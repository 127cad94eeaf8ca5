//! Whether a connection that both sides dialled at once needed that. Pure.
//!
//! Hole punching is tried on every relayed connection. Where one side can be dialled anyway, its
//! result is a plain dial in the other direction.

use std::net::IpAddr;

use derouter_wire::rpc::network::Reachability;
use libp2p::Multiaddr;

use super::place::{self, Scope};
use crate::limits;

/// From where a peer says that it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Through relays: then it takes itself for one that can't be dialled.
    circuit: bool,
    /// At these addresses of the internet; at most [`limits::IDENTIFY_ADDRESSES`].
    public: Vec<IpAddr>,
}

impl Told {
    pub(crate) fn of(addresses: &[Multiaddr]) -> Self {
        let looked_at = addresses.iter().take(limits::IDENTIFY_ADDRESSES);
        let public = looked_at.clone().filter(|address| is_public(address));
        Self {
            circuit: looked_at.clone().any(place::is_relayed),
            public: public.filter_map(place::ip).collect(),
        }
    }
}

/// What this node knows of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    pub(crate) reachability: Reachability,
    /// Where it listens, and where others reach it.
    pub(crate) addresses: &'a [Multiaddr],
}

/// Whether a connection that hole punching made, with a peer at `remote`, could not have been dialled
/// by either side alone.
pub(crate) fn was_needed(remote: &Multiaddr, told: &Told, own: Own<'_>) -> bool {
    let Some(remote) = place::ip(remote) else {
        return true;
    };
    if !told.circuit && told.public.contains(&remote) {
        return false;
    }
    let same_family = |ip: IpAddr| ip.is_ipv4() == remote.is_ipv4();
    let mut public = own.addresses.iter().filter(|address| is_public(address));
    let own_public = public.any(|address| place::ip(address).is_some_and(same_family));
    match own.reachability {
        Reachability::Public => false,
        Reachability::Private => true,
        Reachability::Unknown => !own_public,
    }
}

fn is_public(address: &Multiaddr) -> bool {
    !place::is_relayed(address) && place::scope(address) == Some(Scope::World)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Own<'static> = Own {
        reachability: Reachability::Private,
        addresses: &[],
    };

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn told(texts: &[&str]) -> Told {
        Told::of(&addresses(texts))
    }

    #[test]
    fn a_peer_that_is_reached_where_it_says_was_dialled_and_one_that_tells_relays_was_punched() {
        let relay = libp2p::PeerId::random();
        let circuit = format!("/ip4/203.0.113.9/tcp/1/p2p/{relay}/p2p-circuit");
        let public = "/ip4/203.0.113.1/tcp/4001";
        let home = "/ip4/192.168.1.2/tcp/4001";
        let remote = "/ip4/203.0.113.1/udp/5005/quic-v1".parse().unwrap();
        for (tells, needed) in [
            (vec![home, public], false),
            (vec![home, public, &circuit], true),
            (vec![home, &circuit], true),
            (vec![home, "/ip4/203.0.113.2/tcp/4001"], true),
            (vec![], true),
        ] {
            assert_eq!(
                was_needed(&remote, &told(&tells), HIDDEN),
                needed,
                "{tells:?}"
            );
        }
    }

    #[test]
    fn nothing_was_punched_towards_a_node_that_can_be_dialled() {
        let remote = "/ip4/203.0.113.1/tcp/5005".parse().unwrap();
        let peer = told(&["/ip4/192.168.1.2/tcp/4001"]);
        let public = addresses(&["/ip4/198.51.100.7/tcp/4001"]);
        let other_family = addresses(&["/ip6/2001:db8::1/tcp/4001"]);
        for (reachability, addresses, needed) in [
            (Reachability::Public, &other_family, false),
            (Reachability::Unknown, &public, false),
            (Reachability::Unknown, &other_family, true),
            (Reachability::Private, &public, true),
        ] {
            let own = Own {
                reachability,
                addresses,
            };
            assert_eq!(was_needed(&remote, &peer, own), needed, "{reachability:?}");
        }
    }
}

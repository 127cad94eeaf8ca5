//! Few addresses in place of many: those that differ most, so that whoever dials has one that it
//! can use. Pure.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::address;

/// What makes an address usable for some and useless for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trait {
    /// The family of the host that is dialled (`true` for IPv6), and whether that is a relay: a
    /// peer with IPv4 alone can't use a relay's IPv6 address.
    Family(bool, bool),
    /// UDP, which some networks don't let through.
    Udp(bool),
    /// The relay, which may go away.
    Relay(PeerId),
}

fn traits(address: &Multiaddr) -> impl Iterator<Item = Trait> {
    let ipv6 = address::ip_of(address).map(|ip| ip.is_ipv6());
    let relay = address::relay_of(address);
    let udp = address.iter().any(|part| matches!(part, Protocol::Udp(_)));
    let family = ipv6.map(|ipv6| Trait::Family(ipv6, relay.is_some()));
    [family, Some(Trait::Udp(udp)), relay.map(Trait::Relay)]
        .into_iter()
        .flatten()
}

/// At most `limit` of `addresses`: each time the first of those that bring most that is new, where
/// being direct counts as much as one thing that is new.
pub(crate) fn most_varied(mut addresses: Vec<Multiaddr>, limit: usize) -> Vec<Multiaddr> {
    let mut known: Vec<Trait> = Vec::new();
    let mut chosen = Vec::new();
    while chosen.len() < limit {
        let news = |address: &Multiaddr| {
            let fresh = traits(address).filter(|one| !known.contains(one));
            fresh.count() + usize::from(!address::is_relayed(address))
        };
        let best = addresses.iter().map(news).max();
        let best = addresses
            .iter()
            .position(|address| Some(news(address)) == best);
        let Some(best) = best else {
            break;
        };
        let address = addresses.remove(best);
        known.extend(traits(&address));
        chosen.push(address);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn of_many_relayed_addresses_both_families_and_both_relays_are_kept() {
        let relays = [(1, PeerId::random()), (2, PeerId::random())];
        let mut all = vec![
            parse("/ip6/2600::10/tcp/4001"),
            parse("/ip6/2600::10/udp/4001/quic-v1"),
        ];
        for (number, relay) in relays {
            for host in [
                format!("/ip6/2600:{number}::2"),
                format!("/ip4/45.{number}.0.2"),
            ] {
                for port in ["udp/4001/quic-v1", "tcp/4001"] {
                    all.push(parse(&format!("{host}/{port}/p2p/{relay}/p2p-circuit")));
                }
            }
        }
        let chosen = most_varied(all, 4);
        assert_eq!(chosen.len(), 4);
        for (_, relay) in relays {
            let through = |address: &Multiaddr| address::relay_of(address) == Some(relay);
            assert!(chosen.iter().any(through), "{chosen:?}");
        }
        let relayed = |ipv6: bool| {
            let is = move |address: &&Multiaddr| {
                address::ip_of(address).is_some_and(|ip| ip.is_ipv6() == ipv6)
            };
            chosen.iter().filter(is).any(address::is_relayed)
        };
        assert!(relayed(false) && relayed(true), "{chosen:?}");
        assert!(!address::is_relayed(&chosen[0]), "its own come first");
    }

    #[test]
    fn few_addresses_are_all_kept_in_their_order_of_news() {
        let all = vec![parse("/ip4/45.1.0.2/tcp/1"), parse("/ip4/45.1.0.3/tcp/1")];
        assert_eq!(most_varied(all.clone(), 4), all);
        assert!(most_varied(all, 0).is_empty());
        assert!(most_varied(Vec::new(), 4).is_empty());
    }
}

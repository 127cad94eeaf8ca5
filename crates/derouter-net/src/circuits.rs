//! Which of a peer's addresses behind relays are dialled. Pure.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::address::{is_named, relay_of};

/// The addresses to dial, and where relays are that others of them name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialled {
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) relays: Vec<(PeerId, Multiaddr)>,
}

/// Of several addresses through one relay the first: each would make a circuit of its own, of which
/// all but one are thrown away, while the relay counts them all and the peer runs out of places for
/// us. The others still say where the relay is, for when it has to be dialled itself.
pub(crate) fn one_through_each_relay(addresses: Vec<Multiaddr>) -> Dialled {
    let mut dialled = Dialled::default();
    let mut used: Vec<PeerId> = Vec::new();
    for address in addresses {
        match relay_of(&address) {
            Some(relay) if used.contains(&relay) => {
                dialled.relays.extend(place_of_relay(relay, &address));
            }
            relay => {
                used.extend(relay);
                dialled.addresses.push(address);
            }
        }
    }
    dialled
}

/// Where the relay itself is dialled. A name leads where its owner wants, which is no place to
/// remember on the word of a third.
fn place_of_relay(relay: PeerId, address: &Multiaddr) -> Option<(PeerId, Multiaddr)> {
    let parts = address
        .iter()
        .take_while(|part| !matches!(part, Protocol::P2p(_) | Protocol::P2pCircuit));
    let place: Multiaddr = parts.collect();
    (!is_named(&place)).then_some((relay, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_circuit_through_each_relay_is_dialled_and_the_other_addresses_tell_where_it_is() {
        let [one, other] = [PeerId::random(), PeerId::random()];
        let through =
            |host: &str, relay| parse(&format!("{host}/tcp/4001/p2p/{relay}/p2p-circuit"));
        let direct = parse("/ip4/203.0.113.1/tcp/1");
        let wanted = vec![
            direct.clone(),
            through("/ip6/2600:1::2", one),
            through("/ip4/45.2.0.2", other),
        ];
        let spare = [
            through("/ip4/45.1.0.2", one),
            through("/dns4/relay.example", one),
        ];
        let dialled = one_through_each_relay([&wanted[..], &spare].concat());
        assert_eq!(dialled.addresses, wanted);
        assert_eq!(dialled.relays, [(one, parse("/ip4/45.1.0.2/tcp/4001"))]);
    }
}

//! What a multiaddr says of where it leads. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Bytes of an address that is remembered. A relayed one with DNS name and two peer ids is under
/// 200.
const ADDRESS_BYTES: usize = 256;
/// A DNS name.
const NAME_BYTES: usize = 253;

/// From how far away an address makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// On the same machine.
    Machine,
    /// In the same private network.
    Network,
    /// From anywhere.
    World,
}

/// Whether the address is one that is dialled from anywhere, as far as it says itself: no address of
/// this machine, of a private network, or of everywhere. Names count.
pub fn is_global(address: &Multiaddr) -> bool {
    crate::reachability::place::scope(address) == Some(Scope::World)
}

/// A /24 of IPv4 or a /48 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subnet {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl Subnet {
    /// The network that an IP address is in.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
        }
    }
}

/// The network that counts for an address. None for this machine and private networks, where
/// everybody may share one, and for relayed connections, which the relay limits.
pub(crate) fn subnet(address: &Multiaddr) -> Option<Subnet> {
    if is_relayed(address) {
        return None;
    }
    first_subnet(address)
}

/// Like [`subnet`], of the relay for a relayed address.
pub(crate) fn first_subnet(address: &Multiaddr) -> Option<Subnet> {
    let ip = ip_of(address)?;
    if ip_scope(ip) != Scope::World {
        return None;
    }
    Some(Subnet::of(ip))
}

/// The IP address at the start, IPv4 also where it is written as IPv6.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// The scope of an address; of the relay's part for a relayed one. Names count as global.
pub(crate) fn scope(address: &Multiaddr) -> Scope {
    match ip_of(address) {
        Some(ip) => ip_scope(ip),
        None => Scope::World,
    }
}

fn ip_scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Scope::Machine,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_shared(ip) => Scope::Network,
        IpAddr::V6(ip) if ip.is_loopback() => Scope::Machine,
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Network,
        _ => Scope::World,
    }
}

/// 100.64.0.0/10: behind a provider's NAT, and in overlay networks.
fn is_shared(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && b & 0xc0 == 64
}

/// Whether it goes through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay that a relayed address goes through.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = Some(peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// The relay of a connection, whoever opened it.
pub(crate) fn relay_of_connection(endpoint: &ConnectedPoint) -> Option<PeerId> {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => relay_of(address),
        ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } => relay_of(local_addr).or_else(|| relay_of(send_back_addr)),
    }
}

/// Whether whoever runs a name server decides where this leads. Such a word of others could lead into
/// our own network; that of a relay is dialled for many.
pub(crate) fn is_named(address: &Multiaddr) -> bool {
    ip_of(address).is_none() && !is_relayed(address)
}

/// Without a `/p2p/<peer>` at its end, so that equal places compare equal.
pub(crate) fn without_peer(mut address: Multiaddr, peer: PeerId) -> Multiaddr {
    if address.iter().last() == Some(Protocol::P2p(peer)) {
        address.pop();
    }
    address
}

/// The address of `peer` as it is remembered, if it is one that can be dialled: a unicast IP
/// address or name, TCP or QUIC on a port, through a relay or not, and naming no other peer.
pub(crate) fn dialable(address: Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    if address.len() > ADDRESS_BYTES {
        return None;
    }
    let address = without_peer(address, peer);
    let mut parts = address.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => is_unicast_v4(ip),
        Protocol::Ip6(ip) => match ip.to_canonical() {
            IpAddr::V4(ip) => is_unicast_v4(ip),
            IpAddr::V6(ip) => is_unicast_v6(ip),
        },
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            !name.is_empty() && name.len() <= NAME_BYTES
        }
        _ => false,
    };
    let port = match parts.next()? {
        Protocol::Tcp(port) => port,
        Protocol::Udp(port) if parts.next()? == Protocol::QuicV1 => port,
        _ => 0,
    };
    let through = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => true,
        (Some(Protocol::P2p(relay)), Some(Protocol::P2pCircuit), None) => relay != peer,
        _ => false,
    };
    (host && port != 0 && through).then_some(address)
}

fn is_unicast_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    // 0/8 is this network, 240/4 reserved, broadcast among it.
    first != 0 && first < 240 && !ip.is_multicast()
}

fn is_unicast_v6(ip: Ipv6Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn this_machine_private_networks_and_relays_have_no_subnet() {
        for uncounted in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/100.64.1.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/203.0.113.1/tcp/1/p2p-circuit",
        ] {
            assert_eq!(subnet(&address(uncounted)), None, "{uncounted}");
        }
        let mapped = address("/ip6/::ffff:203.0.113.9/tcp/1");
        assert_eq!(subnet(&mapped), subnet(&address("/ip4/203.0.113.1/tcp/1")));
    }

    #[test]
    fn what_can_be_dialled_is_kept_without_its_peer_and_the_rest_is_refused() {
        let (peer, relay) = (PeerId::random(), PeerId::random());
        for good in [
            "/ip4/203.0.113.1/tcp/1".to_owned(),
            "/ip6/2001:db8::1/udp/9/quic-v1".to_owned(),
            "/dns4/example.org/tcp/1".to_owned(),
            format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit"),
        ] {
            let known = dialable(address(&good), peer);
            assert_eq!(known, Some(address(&good)), "{good}");
            let named = address(&format!("{good}/p2p/{peer}"));
            assert_eq!(dialable(named, peer), Some(address(&good)), "{good}");
        }
        let long = "a".repeat(254);
        for bad in [
            "/ip4/203.0.113.1".to_owned(),
            "/ip4/203.0.113.1/tcp/0".to_owned(),
            "/ip4/0.0.0.0/tcp/1".to_owned(),
            "/ip4/224.0.0.1/tcp/1".to_owned(),
            "/ip4/255.255.255.255/udp/1/quic-v1".to_owned(),
            "/ip6/::/tcp/1".to_owned(),
            "/ip6/ff02::1/tcp/1".to_owned(),
            "/ip6/::ffff:0.0.0.0/tcp/1".to_owned(),
            "/ip4/203.0.113.1/udp/1".to_owned(),
            "/ip4/203.0.113.1/tcp/1/ws".to_owned(),
            format!("/dns4/{long}/tcp/1"),
            format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}"),
            "/ip4/203.0.113.1/tcp/1/p2p-circuit".to_owned(),
            format!("/p2p/{relay}/p2p-circuit"),
            format!("/ip4/203.0.113.1/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            format!(
                "/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{relay}/p2p-circuit/p2p/{peer}"
            ),
        ] {
            assert_eq!(dialable(address(&bad), peer), None, "{bad}");
        }
        assert_eq!(dialable(Multiaddr::empty(), peer), None);
    }

    #[test]
    fn names_are_told_from_ip_addresses_and_from_relays() {
        let relay = PeerId::random();
        assert!(is_named(&address("/dns4/example.org/tcp/1")));
        assert!(!is_named(&address("/ip4/203.0.113.1/tcp/1")));
        let relayed = format!("/dns4/example.org/tcp/1/p2p/{relay}/p2p-circuit");
        assert!(!is_named(&address(&relayed)));
    }

    #[test]
    fn the_relay_of_an_address_is_the_peer_before_the_circuit() {
        let (peer, relay) = (PeerId::random(), PeerId::random());
        let relayed = format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        assert_eq!(relay_of(&address(&relayed)), Some(relay));
        let direct = format!("/ip4/203.0.113.1/tcp/1/p2p/{peer}");
        assert_eq!(relay_of(&address(&direct)), None);
    }
}

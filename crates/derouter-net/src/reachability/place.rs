//! What an address says by itself: how far it reaches, over what, in which network.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

pub(crate) use crate::address::{Scope, ip_of as ip, is_relayed};

/// What an address is dialled over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    /// TCP.
    Tcp,
    /// QUIC v1, over UDP.
    Quic,
}

/// A network whose machines likely fail together: a /16 of IPv4, a /32 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    V4([u8; 2]),
    V6([u16; 2]),
}

/// The transport, of an address that is not relayed.
pub(crate) fn transport(address: &Multiaddr) -> Option<Transport> {
    let mut parts = address.iter().skip(1);
    match (parts.next()?, parts.next()) {
        _ if is_relayed(address) => None,
        (Protocol::Tcp(_), None | Some(Protocol::P2p(_))) => Some(Transport::Tcp),
        (Protocol::Udp(_), Some(Protocol::QuicV1)) => Some(Transport::Quic),
        _ => None,
    }
}

/// IP address and port, of an address that is not relayed.
pub(crate) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    if is_relayed(address) {
        return None;
    }
    let port = match address.iter().nth(1)? {
        Protocol::Tcp(port) | Protocol::Udp(port) => port,
        _ => return None,
    };
    Some(SocketAddr::new(ip(address)?, port))
}

/// How far the address reaches. Names may be anywhere. None for what can't be dialled.
pub(crate) fn scope(address: &Multiaddr) -> Option<Scope> {
    let nowhere = match ip(address) {
        Some(ip) => ip.is_unspecified() || ip.is_multicast(),
        None => !matches!(
            address.iter().next()?,
            Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)
        ),
    };
    (!nowhere).then(|| crate::address::scope(address))
}

/// The region of an address; None where everybody may share one, and for names.
pub(crate) fn region(address: &Multiaddr) -> Option<Region> {
    if scope(address) != Some(Scope::World) {
        return None;
    }
    match ip(address)? {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            Some(Region::V4([first, second]))
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            Some(Region::V6([first, second]))
        }
    }
}

/// Without a `/p2p/<peer>` at its end, so that equal places compare equal.
pub(crate) fn bare(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// The address of a socket.
pub(crate) fn multiaddr(socket: SocketAddr, transport: Transport) -> Multiaddr {
    let address = Multiaddr::from(socket.ip());
    match transport {
        Transport::Tcp => address.with(Protocol::Tcp(socket.port())),
        Transport::Quic => address
            .with(Protocol::Udp(socket.port()))
            .with(Protocol::QuicV1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope_of(text: &str) -> Option<Scope> {
        scope(&text.parse().unwrap())
    }

    #[test]
    fn an_address_reaches_as_far_as_its_range_says() {
        for (text, expected) in [
            ("/ip4/127.0.0.1/tcp/1", Some(Scope::Machine)),
            ("/ip6/::1/tcp/1", Some(Scope::Machine)),
            ("/ip4/10.1.2.3/tcp/1", Some(Scope::Network)),
            ("/ip4/100.64.0.1/tcp/1", Some(Scope::Network)),
            ("/ip4/169.254.0.1/tcp/1", Some(Scope::Network)),
            ("/ip6/fd00::1/tcp/1", Some(Scope::Network)),
            ("/ip6/fe80::1/tcp/1", Some(Scope::Network)),
            ("/ip6/::ffff:192.168.0.1/tcp/1", Some(Scope::Network)),
            ("/ip4/100.128.0.1/tcp/1", Some(Scope::World)),
            ("/ip6/2001:41d0::1/tcp/1", Some(Scope::World)),
            ("/dns4/a.example/tcp/1", Some(Scope::World)),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip4/224.0.0.1/tcp/1", None),
            ("/ip6/::/tcp/1", None),
        ] {
            assert_eq!(scope_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_relayed_address_has_no_transport_and_no_socket_of_its_own() {
        let peer = libp2p::PeerId::random();
        let direct: Multiaddr = format!("/ip4/1.2.3.4/udp/5/quic-v1/p2p/{peer}")
            .parse()
            .unwrap();
        assert_eq!(transport(&direct), Some(Transport::Quic));
        assert_eq!(socket(&direct), "1.2.3.4:5".parse().ok());
        let relayed = direct.with(Protocol::P2pCircuit);
        assert!(is_relayed(&relayed));
        assert_eq!(transport(&relayed), None);
        assert_eq!(socket(&relayed), None);
    }
}

//! Ports that are chosen once: where port 0 is configured, a node keeps the port that it got, and
//! TCP and QUIC share a number, so that routers and peers find it where it was.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::reachability::place::{self, Transport};

/// The address to listen on for a configured one: itself, or with a port for 0. `kept` is where an
/// earlier run listened, `chosen` where this one does already.
pub(crate) fn choose(
    configured: &Multiaddr,
    kept: &[Multiaddr],
    chosen: &[Multiaddr],
    mut is_free: impl FnMut(&Multiaddr) -> bool,
) -> Multiaddr {
    if port(configured) != Some(0) {
        return configured.clone();
    }
    let same = |other: &&Multiaddr| with_port(other, 0).as_ref() == Some(configured);
    if let Some(kept) = kept.iter().find(same) {
        if is_free(kept) {
            return kept.clone();
        }
        tracing::warn!(
            address = %kept,
            "the port of the last run is taken by another program, choosing another; a router that forwards the old one has to be told"
        );
    }
    // Two of the same transport can't share a number where one is for all interfaces.
    let transport = place::transport(configured);
    let family = |address: &Multiaddr| place::ip(address).map(|ip| ip.is_ipv4());
    let clashes = |other: &Multiaddr| {
        place::transport(other) == transport && family(other) == family(configured)
    };
    for port in chosen.iter().filter_map(port) {
        if chosen
            .iter()
            .any(|other| clashes(other) && self::port(other) == Some(port))
        {
            continue;
        }
        let shared = with_port(configured, port);
        if let Some(shared) = shared.filter(|shared| is_free(shared)) {
            return shared;
        }
    }
    configured.clone()
}

/// Whether nobody listens there. libp2p shares TCP ports with whoever shares them (`SO_REUSEPORT`): two
/// nodes on one port would each get connections that are meant for the other.
pub(crate) fn is_free(address: &Multiaddr) -> bool {
    let (Some(transport), Some(mut socket)) = (place::transport(address), place::socket(address))
    else {
        return true;
    };
    // A socket on `::` would clash with ours on `0.0.0.0`; one on `::1` only with others on `::`.
    if socket.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), socket.port());
    }
    match transport {
        Transport::Tcp => TcpListener::bind(socket).is_ok(),
        Transport::Quic => UdpSocket::bind(socket).is_ok(),
    }
}

/// The port of a TCP or QUIC address.
pub(crate) fn port(address: &Multiaddr) -> Option<u16> {
    place::socket(address).map(|socket| socket.port())
}

/// The address with another port.
pub(crate) fn with_port(address: &Multiaddr, port: u16) -> Option<Multiaddr> {
    address.replace(1, |part| match part {
        Protocol::Tcp(_) => Some(Protocol::Tcp(port)),
        Protocol::Udp(_) => Some(Protocol::Udp(port)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "/ip4/0.0.0.0/tcp/";
    const QUIC: &str = "/ip4/0.0.0.0/udp/";

    fn tcp(port: u16) -> Multiaddr {
        format!("{TCP}{port}").parse().unwrap()
    }

    fn quic(port: u16) -> Multiaddr {
        format!("{QUIC}{port}/quic-v1").parse().unwrap()
    }

    #[test]
    fn a_port_that_was_chosen_is_kept_while_it_is_free() {
        let kept = [tcp(4001), quic(4002)];
        assert_eq!(choose(&tcp(0), &kept, &[], |_| true), tcp(4001));
        assert_eq!(choose(&quic(0), &kept, &[tcp(4001)], |_| true), quic(4002));
        assert_eq!(choose(&tcp(0), &kept, &[], |_| false), tcp(0));
        assert_eq!(choose(&tcp(5), &kept, &[], |_| true), tcp(5), "configured");
    }

    #[test]
    fn tcp_and_quic_share_a_number_if_it_is_free() {
        assert_eq!(choose(&quic(0), &[], &[tcp(4001)], |_| true), quic(4001));
        assert_eq!(choose(&quic(0), &[], &[tcp(4001)], |_| false), quic(0));
        assert_eq!(
            choose(&tcp(0), &[], &[tcp(4001)], |_| true),
            tcp(0),
            "taken"
        );
        let six: Multiaddr = "/ip6/::/tcp/0".parse().unwrap();
        let shared = choose(&six, &[], &[tcp(4001)], |_| true);
        assert_eq!(port(&shared), Some(4001));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        assert!(!is_free(&address));
        drop(socket);
        assert!(is_free(&address));
    }
}

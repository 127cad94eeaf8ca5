//! From where an address can be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// From the same machine.
    Loopback,
    /// From the same network.
    Private,
    /// From anywhere.
    Global,
    /// From nowhere: no address of a host, or no port.
    Nowhere,
}

/// Where an address leads; that of a relay counts for an address behind it.
pub(crate) fn scope(address: &Multiaddr) -> Scope {
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => of_ip(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => of_ip(ip.to_canonical()),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => of_name(&name),
        _ => Scope::Nowhere,
    };
    match parts.next() {
        Some(Protocol::Tcp(port) | Protocol::Udp(port)) if port != 0 => host,
        _ => Scope::Nowhere,
    }
}

fn of_name(name: &str) -> Scope {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Scope::Loopback;
    }
    Scope::Global
}

fn of_ip(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => of_ipv4(ip),
        IpAddr::V6(ip) => of_ipv6(ip),
    }
}

fn of_ipv4(ip: Ipv4Addr) -> Scope {
    let [first, second, ..] = ip.octets();
    let carrier_nat = first == 100 && (64..128).contains(&second);
    if ip.is_loopback() {
        Scope::Loopback
    } else if first == 0 || ip.is_broadcast() || ip.is_multicast() {
        Scope::Nowhere
    } else if ip.is_private() || ip.is_link_local() || carrier_nat {
        Scope::Private
    } else {
        Scope::Global
    }
}

fn of_ipv6(ip: Ipv6Addr) -> Scope {
    if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_unspecified() || ip.is_multicast() {
        Scope::Nowhere
    } else if ip.is_unique_local() || ip.is_unicast_link_local() {
        Scope::Private
    } else {
        Scope::Global
    }
}

/// Which addresses may be used on the word of another peer: global ones always, others only where
/// this node already meets peers there. Else anybody could make it knock at doors of its own
/// machine and network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) loopback: bool,
    pub(crate) private: bool,
}

impl Admitted {
    /// What is admitted after meeting a peer at these addresses.
    pub(crate) fn met_at<'a>(addresses: impl Iterator<Item = &'a Multiaddr>) -> Self {
        let mut admitted = Self::default();
        for address in addresses {
            match scope(address) {
                Scope::Loopback => admitted.loopback = true,
                Scope::Private => admitted.private = true,
                Scope::Global | Scope::Nowhere => {}
            }
        }
        admitted
    }

    /// Whether this address may be used.
    pub(crate) fn admits(self, address: &Multiaddr) -> bool {
        match scope(address) {
            Scope::Loopback => self.loopback,
            Scope::Private => self.private,
            Scope::Global => true,
            Scope::Nowhere => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope_of(address: &str) -> Scope {
        scope(&address.parse().unwrap())
    }

    #[test]
    fn an_address_is_of_the_machine_the_network_or_the_world() {
        assert_eq!(scope_of("/ip4/127.0.0.1/tcp/1"), Scope::Loopback);
        assert_eq!(scope_of("/ip6/::1/tcp/1"), Scope::Loopback);
        assert_eq!(scope_of("/dns4/LocalHost./tcp/1"), Scope::Loopback);
        assert_eq!(scope_of("/ip6/::ffff:127.0.0.1/tcp/1"), Scope::Loopback);
        assert_eq!(scope_of("/ip4/192.168.1.2/udp/1/quic-v1"), Scope::Private);
        assert_eq!(scope_of("/ip4/100.64.0.1/tcp/1"), Scope::Private);
        assert_eq!(scope_of("/ip6/fd00::1/tcp/1"), Scope::Private);
        assert_eq!(scope_of("/ip4/100.128.0.1/tcp/1"), Scope::Global);
        assert_eq!(scope_of("/ip6/2600::1/udp/1/quic-v1"), Scope::Global);
        assert_eq!(scope_of("/dns4/relay.example/tcp/1"), Scope::Global);
        for nowhere in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/8.8.8.8",
            "/ip4/8.8.8.8/tcp/0",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/unix/etc",
            "/memory/1",
            "/p2p-circuit",
        ] {
            assert_eq!(scope_of(nowhere), Scope::Nowhere, "{nowhere}");
        }
    }

    #[test]
    fn addresses_of_the_machine_are_used_only_when_peers_are_met_there() {
        let loopback: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let private: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let global: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().unwrap();
        let met = Admitted::met_at([&global].into_iter());
        assert!(met.admits(&global) && !met.admits(&loopback) && !met.admits(&private));
        let met = Admitted::met_at([&loopback].into_iter());
        assert!(met.admits(&global) && met.admits(&loopback) && !met.admits(&private));
    }
}

//! What kind of NAT stands in front of this node, told from the addresses at which peers see it. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use derouter_wire::rpc::network::NatKind;

use super::place::Transport;
use crate::limits;

/// An observation counts this long: mappings of a router change.
const VALID: Duration = Duration::from_secs(3600);

/// Where peers see the connections that this node opened from its listening ports.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    seen: HashMap<(Transport, IpAddr), (SocketAddr, Instant)>,
}

impl Observations {
    /// A peer at `observer` sees this node at `seen_at`.
    pub(crate) fn observed(
        &mut self,
        transport: Transport,
        observer: IpAddr,
        seen_at: SocketAddr,
        now: Instant,
    ) {
        let key = (transport, observer);
        if self.seen.len() >= limits::OBSERVERS && !self.seen.contains_key(&key) {
            let oldest = self.seen.iter().min_by_key(|(_, (_, when))| *when);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(key, (seen_at, now));
    }

    /// The network changed: nothing is known.
    pub(crate) fn clear(&mut self) {
        self.seen.clear();
    }

    /// How many peers at different addresses saw this node over this transport.
    pub(crate) fn observers(&self, transport: Transport, now: Instant) -> usize {
        self.valid(transport, now).count()
    }

    fn valid(&self, transport: Transport, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let valid = self.seen.iter().filter(move |((over, _), (_, when))| {
            *over == transport && now.duration_since(*when) < VALID
        });
        valid.map(|(_, (seen_at, _))| *seen_at)
    }

    /// The kind of NAT, with the addresses that this node listens on. IPv4 decides where there is
    /// any: IPv6 has no NAT to speak of.
    pub(crate) fn kind(&self, transport: Transport, local: &[SocketAddr], now: Instant) -> NatKind {
        let mut seen: Vec<SocketAddr> = self.valid(transport, now).collect();
        if seen.iter().any(SocketAddr::is_ipv4) {
            seen.retain(SocketAddr::is_ipv4);
        }
        let Some(first) = seen.first() else {
            return NatKind::Unknown;
        };
        // The port may differ from those listened on where a port can't be shared.
        if seen
            .iter()
            .all(|one| local.iter().any(|own| own.ip() == one.ip()))
        {
            return NatKind::None;
        }
        match seen.iter().all(|one| one == first) {
            _ if seen.len() < 2 => NatKind::Unknown,
            true => NatKind::EndpointIndependent,
            false => NatKind::EndpointDependent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kind from who saw this node (the last byte of an address) at which port.
    fn kind(seen: &[(u8, u16)]) -> NatKind {
        let now = Instant::now();
        let mut observations = Observations::default();
        for (observer, port) in seen {
            let observer = IpAddr::from([1, 1, 1, *observer]);
            observations.observed(
                Transport::Quic,
                observer,
                SocketAddr::from(([2, 2, 2, 2], *port)),
                now,
            );
        }
        observations.kind(Transport::Quic, &["10.0.0.1:4001".parse().unwrap()], now)
    }

    #[test]
    fn two_peers_tell_one_mapping_for_all_from_one_for_each() {
        assert_eq!(kind(&[]), NatKind::Unknown);
        assert_eq!(kind(&[(1, 4001)]), NatKind::Unknown);
        assert_eq!(
            kind(&[(1, 4001), (1, 4002)]),
            NatKind::Unknown,
            "the same peer"
        );
        assert_eq!(kind(&[(1, 4001), (2, 4001)]), NatKind::EndpointIndependent);
        assert_eq!(kind(&[(1, 4001), (2, 4002)]), NatKind::EndpointDependent);
    }

    #[test]
    fn who_is_seen_at_an_address_of_its_own_has_no_nat() {
        let now = Instant::now();
        let own: SocketAddr = "5.5.5.5:4001".parse().unwrap();
        let mut observations = Observations::default();
        observations.observed(Transport::Tcp, IpAddr::from([1, 1, 1, 1]), own, now);
        assert_eq!(
            observations.kind(Transport::Tcp, &[own], now),
            NatKind::None
        );
        assert_eq!(
            observations.kind(Transport::Quic, &[own], now),
            NatKind::Unknown
        );
        observations.clear();
        assert_eq!(
            observations.kind(Transport::Tcp, &[own], now),
            NatKind::Unknown
        );
    }

    #[test]
    fn observations_grow_old_and_are_bounded() {
        let now = Instant::now();
        let mut observations = Observations::default();
        for observer in 0..1000_u32 {
            let observer = IpAddr::from(observer.to_be_bytes());
            observations.observed(Transport::Tcp, observer, "2.2.2.2:1".parse().unwrap(), now);
        }
        assert_eq!(observations.seen.len(), limits::OBSERVERS);
        assert_eq!(
            observations.kind(Transport::Tcp, &[], now),
            NatKind::EndpointIndependent
        );
        assert_eq!(
            observations.kind(Transport::Tcp, &[], now + VALID),
            NatKind::Unknown
        );
    }
}

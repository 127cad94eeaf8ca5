//! Which of a peer's connections a substream is opened on. Pure.

use std::time::Instant;

use derouter_wire::rpc::network::PathKind;
use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

use crate::address::{Scope, scope};

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) id: ConnectionId,
    pub(super) kind: PathKind,
    /// It failed to give a substream; until then others are better.
    pub(super) suspect_until: Option<Instant>,
}

/// Those that just failed come last, then the shorter way, then newer before older: when a peer
/// changes its network, its old connection stays for a while and is dead. `candidates` are in the
/// order in which they came. `avoid` is taken only when it is the only one.
pub(super) fn best(
    candidates: impl DoubleEndedIterator<Item = Candidate>,
    avoid: Option<ConnectionId>,
    now: Instant,
) -> Option<ConnectionId> {
    let newest_first = candidates.rev();
    let chosen = newest_first.min_by_key(|candidate| {
        let suspect = candidate.suspect_until.is_some_and(|until| now < until);
        (avoid == Some(candidate.id), suspect, length(candidate.kind))
    });
    chosen.map(|candidate| candidate.id)
}

fn length(kind: PathKind) -> u8 {
    match kind {
        PathKind::Lan => 0,
        PathKind::Direct => 1,
        PathKind::HolePunched => 2,
        PathKind::Relayed => 3,
    }
}

/// The kind of a connection, as far as its address tells.
pub(super) fn kind(remote: &Multiaddr, relayed: bool) -> PathKind {
    if relayed {
        PathKind::Relayed
    } else if scope(remote) < Scope::World {
        PathKind::Lan
    } else {
        PathKind::Direct
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn connection(id: usize, kind: PathKind) -> Candidate {
        Candidate {
            id: ConnectionId::new_unchecked(id),
            kind,
            suspect_until: None,
        }
    }

    fn chosen(candidates: &[Candidate], avoid: Option<usize>) -> Option<ConnectionId> {
        let avoid = avoid.map(ConnectionId::new_unchecked);
        best(candidates.iter().copied(), avoid, Instant::now())
    }

    fn id(id: usize) -> Option<ConnectionId> {
        Some(ConnectionId::new_unchecked(id))
    }

    #[test]
    fn the_newest_direct_connection_is_taken_and_one_that_just_failed_last() {
        let known = [
            connection(1, PathKind::Direct),
            connection(2, PathKind::Direct),
            connection(3, PathKind::Relayed),
        ];
        assert_eq!(chosen(&known, None), id(2));
        assert_eq!(chosen(&known, Some(1)), id(2));
        assert_eq!(chosen(&known, Some(2)), id(1));
        assert_eq!(chosen(&known[1..], Some(2)), id(3), "rather relayed");
        assert_eq!(chosen(&known[1..2], Some(2)), id(2), "the only one");
        assert_eq!(chosen(&[], None), None);
    }

    #[test]
    fn the_shortest_way_is_taken_whatever_its_age() {
        let kinds = [
            PathKind::Lan,
            PathKind::Direct,
            PathKind::HolePunched,
            PathKind::Relayed,
        ];
        let known: Vec<Candidate> = (0..)
            .zip(kinds)
            .map(|(id, kind)| connection(id, kind))
            .collect();
        for first in 0..known.len() {
            assert_eq!(chosen(&known[first..], None), id(first));
        }
    }

    #[test]
    fn a_suspect_comes_behind_a_longer_way_until_its_time_is_over() {
        let now = Instant::now();
        let mut lan = connection(1, PathKind::Lan);
        lan.suspect_until = Some(now + Duration::from_secs(10));
        let known = [lan, connection(2, PathKind::Relayed)];
        let at = |now| best(known.iter().copied(), None, now);
        assert_eq!(at(now), id(2));
        assert_eq!(at(now + Duration::from_secs(10)), id(1));
    }

    #[test]
    fn addresses_of_private_networks_and_this_machine_are_local() {
        for (address, relayed, expected) in [
            ("/ip4/192.168.1.2/tcp/1", false, PathKind::Lan),
            ("/ip4/127.0.0.1/udp/1/quic-v1", false, PathKind::Lan),
            ("/ip6/fe80::1/tcp/1", false, PathKind::Lan),
            ("/ip6/fd00::1/tcp/1", false, PathKind::Lan),
            ("/ip6/::ffff:10.0.0.1/tcp/1", false, PathKind::Lan),
            ("/ip4/1.2.3.4/tcp/1", false, PathKind::Direct),
            ("/ip6/2001:db8::1/tcp/1", false, PathKind::Direct),
            ("/dns4/example.org/tcp/1", false, PathKind::Direct),
            ("/ip4/192.168.1.2/tcp/1", true, PathKind::Relayed),
        ] {
            assert_eq!(
                kind(&address.parse().unwrap(), relayed),
                expected,
                "{address}"
            );
        }
    }
}

//! What the node tells of its peers.

use std::cmp::Reverse;

use derouter_wire::rpc::network::{PathKind, PathReport, PeerAddress, PeerReport};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use super::connections::PeerState;
use super::{Actor, unix_now};
use crate::limits;
use crate::peer::PeerConnection;
use crate::peer_book::{BAN_SCORE, Entry, Place};
use crate::streams::ConnectionUse;

impl Actor {
    /// Connected peers, then those that were connected last; at most [`limits::REPORTED_PEERS`].
    pub(super) fn peer_reports(&self) -> Vec<PeerReport> {
        let mut absent: Vec<(&PeerId, &Entry)> = self
            .book()
            .iter()
            .filter(|(peer, _)| !self.peers.contains_key(peer))
            .collect();
        absent.sort_by_key(|(_, entry)| Reverse(entry.last_connected));
        let absent = absent.into_iter().map(|(peer, _)| *peer);
        let peers = self.peers.keys().copied().chain(absent);
        let reports = peers.take(limits::REPORTED_PEERS);
        reports.map(|peer| self.peer_report(peer)).collect()
    }

    /// The connection that a new stream with the peer would take.
    pub(super) fn best_path(&self, peer: &PeerId) -> Option<PathReport> {
        self.paths(*peer, self.peers.get(peer)?).into_iter().next()
    }

    /// First the one that a new stream takes, then newer before older.
    fn paths(&self, peer: PeerId, state: &PeerState) -> Vec<PathReport> {
        let streams = &self.swarm.behaviour().streams;
        let best = streams.best(peer, None);
        let mut connections: Vec<_> = state.connections.iter().rev().collect();
        connections.sort_by_key(|(id, _)| Some(*id) != best);
        let report = |(id, connection): &(ConnectionId, PeerConnection)| {
            path(connection, streams.connection_use(peer, *id))
        };
        connections.into_iter().map(report).collect()
    }

    fn peer_report(&self, peer: PeerId) -> PeerReport {
        let now = unix_now();
        let state = self.peers.get(&peer);
        let entry = self.book().get(&peer);
        let agent = state.and_then(|state| state.agent.clone());
        let ranked = entry.map_or_else(Vec::new, |entry| entry.ranked(now));
        let resting = entry
            .into_iter()
            .flat_map(Entry::places)
            .filter(|place| !ranked.contains(place));
        let dial_error = entry.and_then(|entry| entry.last_dial_error.as_ref());
        let last_connected = match state {
            Some(_) => Some(now),
            None => entry.and_then(|entry| entry.last_connected),
        };
        PeerReport {
            peer,
            agent: agent.or_else(|| entry.and_then(|entry| entry.agent.clone())),
            version_0_1: state.and_then(|state| state.version_0_1),
            paths: state.map_or_else(Vec::new, |state| self.paths(peer, state)),
            addresses: ranked.iter().copied().chain(resting).map(told).collect(),
            score: rounded(self.book().score(&peer, now)),
            banned_until: self.book().banned_until(&peer, now),
            offence: self.book().offence(&peer).map(str::to_owned),
            last_connected,
            last_dial_error: dial_error.map(|(reason, _)| reason.clone()),
            last_dial_error_at: dial_error.map(|(_, at)| *at),
        }
    }
}

fn told(place: &Place) -> PeerAddress {
    PeerAddress {
        address: place.address.to_string(),
        last_success: place.last_success,
        error: place.failure.as_ref().map(|(reason, _)| reason.clone()),
    }
}

fn path(connection: &PeerConnection, used: Option<ConnectionUse>) -> PathReport {
    let traffic = used.map(|used| used.traffic).unwrap_or_default();
    let by_address = match connection.relayed {
        true => PathKind::Relayed,
        false => PathKind::Direct,
    };
    let open_streams = used.map_or(0, |used| used.open_streams);
    let rtt_us = connection.rtt.map(|rtt| rtt.as_micros());
    PathReport {
        kind: used.map_or(by_address, |used| used.kind),
        relay: connection.relay.map(|relay| relay.to_string()),
        address: connection.address.to_string(),
        outbound: connection.outbound,
        since: connection.since,
        rtt_us: rtt_us.map(|rtt| u64::try_from(rtt).unwrap_or(u64::MAX)),
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        streams: u32::try_from(open_streams).unwrap_or(u32::MAX),
    }
}

/// A score as a whole number; less is never shown as nothing.
fn rounded(score: f64) -> i32 {
    let at_least = |whole: &i32| f64::from(*whole) <= score.max(BAN_SCORE);
    (-100..=0).rev().find(at_least).unwrap_or(-100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_told_as_a_whole_number_from_0_to_minus_100() {
        for (score, whole) in [
            (0.0, 0),
            (-0.2, -1),
            (-50.0, -50),
            (-99.5, -100),
            (-300.0, -100),
        ] {
            assert_eq!(rounded(score), whole);
        }
    }
}

//! How providers are reached, as the node tells it now and then. A node that does not tell leaves
//! every path unknown, which changes the order a little and excludes nobody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{NodeError, PathKind, PeerId, PeerQuery, PeerReport};

use super::gateway::Gateway;
use super::ledger::unix_now;
use super::router::Path;

/// How often connected peers are asked for. Paths change within seconds of a job, which is soon
/// enough for an order.
const EVERY: Duration = Duration::from_secs(10);

/// Every how many rounds all peers are, for those that are banned.
const ALL_EVERY: u32 = 6;

/// Peers of one answer.
const PAGE: u32 = 100;

/// Peers that are read. A peer book holds about as many.
const MAX_PEERS: usize = 5000;

/// What is known of paths.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// Whether the way to a connected peer is relayed.
    relayed: HashMap<PeerId, bool>,
    banned: HashSet<PeerId>,
}

impl Paths {
    /// How a peer is reached.
    pub(crate) fn of(&self, peer: &PeerId) -> Path {
        if self.banned.contains(peer) {
            return Path::Barred;
        }
        match self.relayed.get(peer) {
            Some(true) => Path::Relayed,
            Some(false) => Path::Direct,
            None => Path::Unknown,
        }
    }

    fn learn(&mut self, reports: &[PeerReport], all: bool) {
        if all {
            let now = unix_now();
            let banned = |report: &&PeerReport| report.banned_until.is_some_and(|it| it > now);
            let banned = reports.iter().filter(banned);
            self.banned = banned.map(|report| report.peer).collect();
        }
        // The first is the one that new streams take.
        let path = |report: &PeerReport| {
            let kind = report.paths.first()?.kind;
            Some((report.peer, kind == PathKind::Relayed))
        };
        self.relayed = reports.iter().filter_map(path).collect();
    }
}

/// Follows the paths for as long as the gateway runs.
pub(crate) async fn follow(gateway: Arc<Gateway>) {
    for round in 0_u32.. {
        let all = round % ALL_EVERY == 0;
        match read(&gateway, all).await {
            Ok(reports) => gateway.with_paths(|paths| paths.learn(&reports, all)),
            Err(NodeError::Unsupported(_)) => return,
            Err(error) => tracing::debug!(%error, "can't learn how providers are reached"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(gateway: &Gateway, all: bool) -> Result<Vec<PeerReport>, NodeError> {
    let mut reports = Vec::new();
    let mut query = PeerQuery {
        connected_only: !all,
        limit: PAGE,
        ..PeerQuery::default()
    };
    while reports.len() < MAX_PEERS {
        let page = gateway.node.peers(&query).await?;
        let Some(last) = page.last() else {
            break;
        };
        query.after = Some(last.peer);
        reports.extend(page);
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::{PathReport, UnixSeconds};

    fn report(paths: &[PathKind], banned_until: Option<UnixSeconds>) -> PeerReport {
        let path = |kind: &PathKind| PathReport {
            kind: *kind,
            relay: None,
            address: "/memory/1".into(),
            outbound: true,
            since: UnixSeconds(0),
            rtt_us: None,
            bytes_in: 0,
            bytes_out: 0,
            streams: 0,
        };
        PeerReport {
            peer: PeerId::random(),
            agent: None,
            version_0_1: None,
            paths: paths.iter().map(path).collect(),
            addresses: Vec::new(),
            score: 0,
            banned_until,
            offence: None,
            last_connected: None,
            last_dial_error: None,
            last_dial_error_at: None,
        }
    }

    #[test]
    fn the_first_path_counts_and_a_ban_before_all() {
        let direct = report(&[PathKind::HolePunched, PathKind::Relayed], None);
        let relayed = report(&[PathKind::Relayed], Some(UnixSeconds(1)));
        let banned = report(&[], Some(UnixSeconds(u64::MAX)));
        let away = report(&[], None);
        let mut paths = Paths::default();
        let reports = [direct, relayed, banned, away];
        paths.learn(&reports, true);
        let of = |paths: &Paths| reports.each_ref().map(|report| paths.of(&report.peer));
        let expected = [Path::Direct, Path::Relayed, Path::Barred, Path::Unknown];
        assert_eq!(of(&paths), expected);
        paths.learn(&[], false);
        assert_eq!(
            of(&paths)[..3],
            [Path::Unknown, Path::Unknown, Path::Barred]
        );
    }
}

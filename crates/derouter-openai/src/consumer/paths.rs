//! How providers are reached, as the node tells it now and then. A node that does not tell leaves
//! every path unknown, which changes the order a little and excludes nobody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{
    NodeError, PathKind, PeerId, PeerQuery, PeerReport, ProviderQuery, ProviderRecord, UnixSeconds,
};

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

/// Providers that are read, for when they were last heard. As many as have offers here at most.
const MAX_PROVIDERS: usize = 20_000;

/// The way to a connected peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) kind: PathKind,
    /// Its last round trip, in microseconds.
    pub(crate) rtt_us: Option<u64>,
}

/// What is known of paths.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    ways: HashMap<PeerId, Way>,
    banned: HashSet<PeerId>,
    /// When providers were last heard.
    heard: HashMap<PeerId, UnixSeconds>,
}

impl Paths {
    /// How a peer is reached.
    pub(crate) fn of(&self, peer: &PeerId) -> Path {
        if self.banned.contains(peer) {
            return Path::Barred;
        }
        match self.ways.get(peer).map(|way| way.kind) {
            Some(PathKind::Relayed) => Path::Relayed,
            Some(_) => Path::Direct,
            None => Path::Unknown,
        }
    }

    /// The connection that a peer is reached by, if there is one.
    pub(crate) fn way(&self, peer: &PeerId) -> Option<Way> {
        self.ways.get(peer).copied()
    }

    /// When a provider was last heard, as far as the node said.
    pub(crate) fn heard(&self, provider: &PeerId) -> Option<UnixSeconds> {
        self.heard.get(provider).copied()
    }

    fn learn_providers(&mut self, records: &[ProviderRecord]) {
        let heard = records.iter();
        self.heard = heard
            .map(|record| (record.peer_id, record.latest_heartbeat_at))
            .collect();
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
            let first = report.paths.first()?;
            let (kind, rtt_us) = (first.kind, first.rtt_us);
            Some((report.peer, Way { kind, rtt_us }))
        };
        self.ways = reports.iter().filter_map(path).collect();
    }
}

/// Follows the paths for as long as the gateway runs.
pub(crate) async fn follow(gateway: Arc<Gateway>) {
    for round in 0_u32.. {
        let all = round % ALL_EVERY == 0;
        if all {
            match read_providers(&gateway).await {
                Ok(records) => gateway.with_paths(|paths| paths.learn_providers(&records)),
                Err(error) => tracing::debug!(%error, "can't learn when providers were heard"),
            }
        }
        match read(&gateway, all).await {
            Ok(reports) => gateway.with_paths(|paths| paths.learn(&reports, all)),
            Err(NodeError::Unsupported(_)) => return,
            Err(error) => tracing::debug!(%error, "can't learn how providers are reached"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn read_providers(gateway: &Gateway) -> Result<Vec<ProviderRecord>, NodeError> {
    let mut records = Vec::new();
    let mut query = ProviderQuery {
        after: None,
        limit: PAGE,
    };
    while records.len() < MAX_PROVIDERS {
        let page = gateway.node.providers_page(&query).await?;
        let Some(last) = page.last() else {
            break;
        };
        if query.after.is_some_and(|after| last.peer_id <= after) {
            break;
        }
        query.after = Some(last.peer_id);
        records.extend(page);
    }
    Ok(records)
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

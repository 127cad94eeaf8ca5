//! Which heartbeats are believed. Pure: the caller gives the time.

use std::collections::HashMap;

use derouter_wire::UnixSeconds;
use derouter_wire::gossip::Heartbeat;
use libp2p::PeerId;

use crate::limits;

/// How far ahead of our clock a heartbeat may be. Clocks of real machines are off by minutes; one
/// from far ahead would block its sender until then.
const MAX_AHEAD_SECONDS: u64 = 3600;

/// What to do with a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass on to the node and to other peers.
    Good(Heartbeat),
    /// Not newer than the last one of its source.
    Stale,
    /// From over an hour ahead. `first` for the first one of that source.
    Future {
        /// Whether to say so in the log.
        first: bool,
    },
    /// Not a heartbeat.
    Invalid,
}

#[derive(Debug, Default)]
struct Source {
    last_timestamp: u64,
    /// Ascending number of the last look at this source, to forget the least recent one.
    seen: u64,
    complained: bool,
}

/// The last timestamp of each source.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatFilter {
    sources: HashMap<PeerId, Source>,
    looks: u64,
}

impl HeartbeatFilter {
    /// Judges the data of a message signed by `source`.
    pub(crate) fn judge(&mut self, source: PeerId, data: &[u8], now: UnixSeconds) -> Verdict {
        let Ok(heartbeat) = Heartbeat::decode(data) else {
            return Verdict::Invalid;
        };
        let known = self.source(source);
        let timestamp = heartbeat.timestamp.0;
        if timestamp > now.0.saturating_add(MAX_AHEAD_SECONDS) {
            let first = !std::mem::replace(&mut known.complained, true);
            return Verdict::Future { first };
        }
        if timestamp <= known.last_timestamp {
            return Verdict::Stale;
        }
        known.last_timestamp = timestamp;
        Verdict::Good(heartbeat)
    }

    fn source(&mut self, peer: PeerId) -> &mut Source {
        if self.sources.len() >= limits::HEARTBEAT_SOURCES && !self.sources.contains_key(&peer) {
            self.forget_least_recent();
        }
        self.looks += 1;
        let source = self.sources.entry(peer).or_default();
        source.seen = self.looks;
        source
    }

    fn forget_least_recent(&mut self) {
        let least_recent = self.sources.iter().min_by_key(|(_, source)| source.seen);
        if let Some(peer) = least_recent.map(|(peer, _)| *peer) {
            self.sources.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn data(timestamp: u64) -> Vec<u8> {
        let heartbeat = Heartbeat {
            provider: None,
            timestamp: UnixSeconds(timestamp),
        };
        heartbeat.encode()
    }

    #[test]
    fn a_heartbeat_is_good_once_and_stale_when_it_or_an_older_one_comes_again() {
        let mut filter = HeartbeatFilter::default();
        let peer = PeerId::random();
        assert!(matches!(
            filter.judge(peer, &data(NOW.0), NOW),
            Verdict::Good(_)
        ));
        assert_eq!(filter.judge(peer, &data(NOW.0), NOW), Verdict::Stale);
        assert_eq!(filter.judge(peer, &data(NOW.0 - 1), NOW), Verdict::Stale);
        assert!(matches!(
            filter.judge(peer, &data(NOW.0 + 1), NOW),
            Verdict::Good(_)
        ));
        let other = PeerId::random();
        assert!(matches!(
            filter.judge(other, &data(NOW.0), NOW),
            Verdict::Good(_)
        ));
    }

    #[test]
    fn a_heartbeat_from_far_ahead_is_ignored_told_once_and_blocks_nothing() {
        let mut filter = HeartbeatFilter::default();
        let peer = PeerId::random();
        let ahead = data(NOW.0 + 3601);
        assert_eq!(
            filter.judge(peer, &ahead, NOW),
            Verdict::Future { first: true }
        );
        assert_eq!(
            filter.judge(peer, &ahead, NOW),
            Verdict::Future { first: false }
        );
        assert!(matches!(
            filter.judge(peer, &data(NOW.0), NOW),
            Verdict::Good(_)
        ));
    }

    #[test]
    fn bytes_that_are_no_heartbeat_are_invalid() {
        let mut filter = HeartbeatFilter::default();
        let peer = PeerId::random();
        assert_eq!(filter.judge(peer, b"", NOW), Verdict::Invalid);
        assert_eq!(filter.judge(peer, &[0xff; 100], NOW), Verdict::Invalid);
        assert_eq!(filter.judge(peer, &vec![0; 70_000], NOW), Verdict::Invalid);
    }

    #[test]
    fn only_so_many_sources_are_remembered_and_the_least_recent_one_goes() {
        let mut filter = HeartbeatFilter::default();
        let first = PeerId::random();
        let second = PeerId::random();
        filter.judge(first, &data(NOW.0), NOW);
        filter.judge(second, &data(NOW.0), NOW);
        filter.judge(first, &data(NOW.0 + 1), NOW);
        for _ in 2..=limits::HEARTBEAT_SOURCES {
            filter.judge(PeerId::random(), &data(NOW.0), NOW);
        }
        assert_eq!(filter.sources.len(), limits::HEARTBEAT_SOURCES);
        assert!(filter.sources.contains_key(&first));
        assert!(!filter.sources.contains_key(&second));
    }
}

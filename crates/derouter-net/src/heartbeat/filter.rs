//! Which heartbeats are believed. Pure: the caller gives the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::gossip::Heartbeat;
use libp2p::PeerId;

use super::bucket::{Bucket, Rate};
use crate::limits;

/// How far ahead of our clock a heartbeat may be. Clocks of real machines are off by minutes; one
/// from far ahead would block its sender until then.
const MAX_AHEAD_SECONDS: u64 = 4 * 3600;
/// How far behind our clock a heartbeat may be: as far as ahead, for the same clocks. An older one
/// is a recording, or was made up to have many timestamps to rise through.
const MAX_BEHIND_SECONDS: u64 = 4 * 3600;

/// Heartbeats of one source. Ours never come faster than one a second, those of 0.1 every 30 s; the
/// burst is for those that were held up on their way.
const SOURCE_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};
/// Sources that one forwarder may make known to us. A new node learns a large network from one hub
/// within a heartbeat interval, which the burst allows; after that newcomers are few, while keys to
/// sign with cost an attacker nothing.
const NEW_SOURCE_RATE: Rate = Rate {
    every: Duration::from_millis(200),
    burst: 500,
};
/// Bytes from one forwarder: 512 KiB/s carry 3000 providers with 5 KiB every 30 s, and the burst of
/// 8 MiB a few hundred that come at once.
const FORWARDER_BYTE_RATE: Rate = Rate {
    every: Duration::from_nanos(1_000_000_000 / (512 * 1024)),
    burst: 8 * 1024 * 1024,
};

/// A message of the heartbeat topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// The connected peer that sent it to us.
    pub(crate) forwarder: PeerId,
    /// Who signed it.
    pub(crate) source: PeerId,
    pub(crate) data: &'a [u8],
}

/// What to do with a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass on to the node and to other peers.
    Good(Heartbeat),
    /// Not newer than the last one of its source.
    Stale,
    /// From over four hours ahead or ago. `first` for the first one of that source.
    OffClock {
        /// Ahead of our clock, not behind.
        ahead: bool,
        /// Whether to say so in the log.
        first: bool,
    },
    /// More than its source or its forwarder may send.
    TooMany,
    /// Not a heartbeat.
    Invalid,
}

#[derive(Debug, Default)]
struct Source {
    last_timestamp: u64,
    bucket: Bucket,
    /// Ascending number of the last look at this source, to forget the least recent one.
    seen: u64,
    complained: bool,
}

#[derive(Debug, Default)]
struct Forwarder {
    new_sources: Bucket,
    bytes: Bucket,
    /// As in [`Source`].
    seen: u64,
}

/// The last timestamp of each source, and what sources and forwarders may still send. Forwarders
/// are remembered beyond their connection, so that connecting again gives no new burst.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatFilter {
    sources: HashMap<PeerId, Source>,
    forwarders: HashMap<PeerId, Forwarder>,
    looks: u64,
}

impl HeartbeatFilter {
    /// Judges a message whose signature is good. `now` is for rates, `clock` for its timestamp.
    pub(crate) fn judge(
        &mut self,
        arrival: Arrival<'_>,
        now: Instant,
        clock: UnixSeconds,
    ) -> Verdict {
        if !self.forwarder_may_send(arrival, now) {
            return Verdict::TooMany;
        }
        let Ok(heartbeat) = Heartbeat::decode(arrival.data) else {
            return Verdict::Invalid;
        };
        let known = self.source(arrival.source);
        let timestamp = heartbeat.timestamp.0;
        let ahead = timestamp > clock.0.saturating_add(MAX_AHEAD_SECONDS);
        if ahead || timestamp < clock.0.saturating_sub(MAX_BEHIND_SECONDS) {
            let first = !std::mem::replace(&mut known.complained, true);
            return Verdict::OffClock { ahead, first };
        }
        if timestamp <= known.last_timestamp {
            return Verdict::Stale;
        }
        if !known.bucket.try_take(SOURCE_RATE, 1, now) {
            return Verdict::TooMany;
        }
        known.last_timestamp = timestamp;
        Verdict::Good(heartbeat)
    }

    /// Takes what a message costs from its forwarder's buckets. An unknown source over the rate is
    /// not remembered: it would push out one that is honest.
    fn forwarder_may_send(&mut self, arrival: Arrival<'_>, now: Instant) -> bool {
        let is_new = !self.sources.contains_key(&arrival.source);
        let bytes = u32::try_from(arrival.data.len()).unwrap_or(u32::MAX);
        let forwarder = self.forwarder(arrival.forwarder);
        forwarder.bytes.try_take(FORWARDER_BYTE_RATE, bytes, now)
            && (!is_new || forwarder.new_sources.try_take(NEW_SOURCE_RATE, 1, now))
    }

    fn source(&mut self, peer: PeerId) -> &mut Source {
        if self.sources.len() >= limits::HEARTBEAT_SOURCES && !self.sources.contains_key(&peer) {
            forget_least_recent(&mut self.sources, |source| source.seen);
        }
        self.looks += 1;
        let source = self.sources.entry(peer).or_default();
        source.seen = self.looks;
        source
    }

    fn forwarder(&mut self, peer: PeerId) -> &mut Forwarder {
        let known = self.forwarders.contains_key(&peer);
        if self.forwarders.len() >= limits::HEARTBEAT_FORWARDERS && !known {
            forget_least_recent(&mut self.forwarders, |forwarder| forwarder.seen);
        }
        self.looks += 1;
        let forwarder = self.forwarders.entry(peer).or_default();
        forwarder.seen = self.looks;
        forwarder
    }
}

fn forget_least_recent<T>(peers: &mut HashMap<PeerId, T>, seen: impl Fn(&T) -> u64) {
    let least_recent = peers.iter().min_by_key(|(_, peer)| seen(peer));
    if let Some(peer) = least_recent.map(|(peer, _)| *peer) {
        peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: UnixSeconds = UnixSeconds(1_700_000_000);

    fn data(timestamp: u64) -> Vec<u8> {
        let heartbeat = Heartbeat {
            provider: None,
            timestamp: UnixSeconds(timestamp),
        };
        heartbeat.encode()
    }

    /// A filter, and the time of its test.
    struct Bench {
        filter: HeartbeatFilter,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                filter: HeartbeatFilter::default(),
                now: Instant::now(),
            }
        }

        fn judge(&mut self, forwarder: PeerId, source: PeerId, data: &[u8]) -> Verdict {
            let arrival = Arrival {
                forwarder,
                source,
                data,
            };
            self.filter.judge(arrival, self.now, CLOCK)
        }

        /// Of a source that is connected to us.
        fn direct(&mut self, source: PeerId, timestamp: u64) -> Verdict {
            self.judge(source, source, &data(timestamp))
        }
    }

    fn is_good(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Good(_))
    }

    #[test]
    fn a_heartbeat_is_good_once_and_stale_when_it_or_an_older_one_comes_again() {
        let mut bench = Bench::new();
        let peer = PeerId::random();
        assert!(is_good(&bench.direct(peer, CLOCK.0)));
        assert_eq!(bench.direct(peer, CLOCK.0), Verdict::Stale);
        assert_eq!(bench.direct(peer, CLOCK.0 - 1), Verdict::Stale);
        assert!(is_good(&bench.direct(peer, CLOCK.0 + 1)));
        assert!(is_good(&bench.direct(PeerId::random(), CLOCK.0)));
    }

    #[test]
    fn a_heartbeat_from_over_an_hour_ahead_or_ago_is_ignored_told_once_and_blocks_nothing() {
        for (timestamp, ahead) in [(CLOCK.0 + 14_401, true), (CLOCK.0 - 14_401, false)] {
            let mut bench = Bench::new();
            let peer = PeerId::random();
            for first in [true, false] {
                let verdict = bench.direct(peer, timestamp);
                assert_eq!(verdict, Verdict::OffClock { ahead, first });
            }
            assert!(is_good(&bench.direct(peer, CLOCK.0 - 14_400)));
            assert!(is_good(&bench.direct(peer, CLOCK.0 + 14_400)));
        }
    }

    #[test]
    fn bytes_that_are_no_heartbeat_are_invalid() {
        let mut bench = Bench::new();
        let peer = PeerId::random();
        for bytes in [vec![], vec![0xff; 100], vec![0; 70_000]] {
            assert_eq!(bench.judge(peer, peer, &bytes), Verdict::Invalid);
        }
    }

    #[test]
    fn a_source_gets_a_burst_and_then_one_heartbeat_a_second_whoever_forwards_it() {
        let mut bench = Bench::new();
        let source = PeerId::random();
        for step in 0..5 {
            let forwarder = PeerId::random();
            assert!(is_good(&bench.judge(
                forwarder,
                source,
                &data(CLOCK.0 + step)
            )));
        }
        let next = data(CLOCK.0 + 5);
        let forwarder = PeerId::random();
        assert_eq!(bench.judge(forwarder, source, &next), Verdict::TooMany);
        bench.now += Duration::from_secs(1);
        // What was ignored did not move its last timestamp.
        assert!(is_good(&bench.judge(forwarder, source, &next)));
        assert_eq!(bench.direct(source, CLOCK.0 + 6), Verdict::TooMany);
        assert!(is_good(&bench.direct(PeerId::random(), CLOCK.0)));
    }

    #[test]
    fn heartbeats_that_are_not_newer_use_up_nothing_of_their_source() {
        let mut bench = Bench::new();
        let source = PeerId::random();
        bench.direct(source, CLOCK.0);
        for _ in 0..20 {
            let replayed = bench.judge(PeerId::random(), source, &data(CLOCK.0));
            assert_eq!(replayed, Verdict::Stale);
        }
        assert!(is_good(&bench.direct(source, CLOCK.0 + 1)));
    }

    #[test]
    fn a_forwarder_makes_500_sources_known_and_then_5_a_second() {
        let mut bench = Bench::new();
        let hub = PeerId::random();
        let heartbeat = data(CLOCK.0);
        let known = PeerId::random();
        assert!(is_good(&bench.judge(hub, known, &heartbeat)));
        for _ in 1..500 {
            assert!(is_good(&bench.judge(hub, PeerId::random(), &heartbeat)));
        }
        let newcomer = PeerId::random();
        assert_eq!(bench.judge(hub, newcomer, &heartbeat), Verdict::TooMany);
        assert_eq!(bench.filter.sources.len(), 500, "not remembered");
        assert!(is_good(&bench.judge(hub, known, &data(CLOCK.0 + 1))));
        let other_hub = PeerId::random();
        assert!(is_good(&bench.judge(other_hub, newcomer, &heartbeat)));
        bench.now += Duration::from_secs(1);
        let mut later = (0..20).map(|_| bench.judge(hub, PeerId::random(), &heartbeat));
        assert_eq!(later.by_ref().filter(is_good).count(), 5);
    }

    #[test]
    fn a_forwarder_of_many_bytes_is_held_to_its_rate_and_others_are_not() {
        let mut bench = Bench::new();
        let greedy = PeerId::random();
        let source = PeerId::random();
        let filler = vec![0xff; 64 * 1024];
        for _ in 0..128 {
            assert_eq!(bench.judge(greedy, source, &filler), Verdict::Invalid);
        }
        assert_eq!(bench.judge(greedy, source, &filler), Verdict::TooMany);
        assert!(is_good(&bench.direct(source, CLOCK.0)));
        bench.now += Duration::from_secs(1);
        let mut later = (0..20).map(|_| bench.judge(greedy, source, &filler));
        assert_eq!(later.by_ref().filter(|v| *v == Verdict::Invalid).count(), 8);
    }

    #[test]
    fn only_so_many_sources_are_remembered_and_the_least_recent_one_goes() {
        let mut bench = Bench::new();
        let first = PeerId::random();
        let second = PeerId::random();
        bench.direct(first, CLOCK.0);
        bench.direct(second, CLOCK.0);
        bench.direct(first, CLOCK.0 + 1);
        for _ in 2..=limits::HEARTBEAT_SOURCES {
            bench.direct(PeerId::random(), CLOCK.0);
        }
        assert_eq!(bench.filter.sources.len(), limits::HEARTBEAT_SOURCES);
        assert!(bench.filter.sources.contains_key(&first));
        assert!(!bench.filter.sources.contains_key(&second));
        assert_eq!(bench.filter.forwarders.len(), limits::HEARTBEAT_FORWARDERS);
    }
}

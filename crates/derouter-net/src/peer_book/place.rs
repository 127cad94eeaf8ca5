//! One address of a peer, and which of several is tried first. Pure.

use std::cmp::Reverse;

use derouter_wire::UnixSeconds;
use libp2p::Multiaddr;

use crate::address::{Scope, is_relayed, scope};

/// Who says that a peer is there. Later ones are believed more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Another peer.
    Told,
    /// Kademlia.
    Kademlia,
    /// The peer itself.
    Identify,
    /// Multicast in the local network.
    Mdns,
    /// It was dialled by somebody of this machine, or reached in an earlier run.
    Dialled,
    /// This machine's user or a module.
    Configured,
}

/// After this many failures in a row an address is left out for a while.
const PATIENCE: u32 = 2;
/// For how long, at first; it doubles with each failure.
const FIRST_REST_SECONDS: u64 = 30;
/// And at most.
const LONGEST_REST_SECONDS: u64 = 3600;
/// What worked within this is tried first: home addresses change.
const RECENT_SECONDS: u64 = 7 * 86_400;
/// Why an address failed is kept up to this many characters.
const REASON_CHARS: usize = 200;

/// One address of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: Multiaddr,
    pub(crate) source: Source,
    /// When it was last told or reached.
    pub(crate) seen: UnixSeconds,
    pub(crate) last_success: Option<UnixSeconds>,
    /// Why it last failed, and when; none once it worked again.
    pub(crate) failure: Option<(String, UnixSeconds)>,
    failures: u32,
}

impl Place {
    pub(crate) fn new(address: Multiaddr, source: Source, now: UnixSeconds) -> Self {
        Self {
            address,
            source,
            seen: now,
            last_success: None,
            failure: None,
            failures: 0,
        }
    }

    pub(crate) fn worked(&mut self, now: UnixSeconds) {
        self.seen = now;
        self.last_success = Some(now);
        self.failure = None;
        self.failures = 0;
    }

    pub(crate) fn failed(&mut self, reason: &str, now: UnixSeconds) {
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((shortened(reason), now));
    }

    /// Whether it failed often and so lately that it is better left alone. One behind a relay never
    /// does: it mostly fails because this node has lost the relay for a moment, or the peer has, and it
    /// may be the only way there. To try it costs one circuit.
    pub(crate) fn rests(&self, now: UnixSeconds) -> bool {
        if is_relayed(&self.address) {
            return false;
        }
        let Some((_, at)) = &self.failure else {
            return false;
        };
        let Some(excess) = self.failures.checked_sub(PATIENCE) else {
            return false;
        };
        let rest = FIRST_REST_SECONDS
            .saturating_mul(1 << excess.min(16))
            .min(LONGEST_REST_SECONDS);
        now.0.saturating_sub(at.0) < rest
    }

    /// Smaller is tried sooner: direct before relayed, what worked lately, what is near, then the
    /// latest.
    fn order(&self, now: UnixSeconds) -> impl Ord + use<> {
        let recent = self
            .last_success
            .is_some_and(|at| now.0.saturating_sub(at.0) < RECENT_SECONDS);
        (
            is_relayed(&self.address),
            self.failures >= PATIENCE,
            !recent,
            scope(&self.address),
            Reverse(self.last_success),
            Reverse(self.source),
            Reverse(self.seen),
        )
    }

    /// Smaller is forgotten sooner: what never worked, what failed often, what strangers told, then
    /// the oldest.
    pub(crate) fn worth(&self) -> impl Ord + use<> {
        (
            self.source == Source::Configured,
            self.last_success,
            Reverse(self.failures.min(PATIENCE)),
            self.source,
            self.seen,
        )
    }

    /// Whether somebody in `near` can know what he says: private addresses mean something else
    /// elsewhere.
    pub(crate) fn is_plausible(address: &Multiaddr, near: Scope) -> bool {
        scope(address) >= near
    }
}

/// Those to dial now, best first. Places that rest are left out unless nothing else is known.
pub(crate) fn ranked(places: &[Place], now: UnixSeconds) -> Vec<&Place> {
    let mut ranked: Vec<&Place> = places.iter().filter(|place| !place.rests(now)).collect();
    if ranked.is_empty() {
        ranked = places.iter().collect();
    }
    ranked.sort_by_key(|place| place.order(now));
    ranked
}

pub(crate) fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000_000);

    fn place(text: &str) -> Place {
        Place::new(text.parse().unwrap(), Source::Identify, NOW)
    }

    #[test]
    fn direct_comes_before_relayed_what_worked_first_and_the_lan_before_the_world() {
        let relay = libp2p::PeerId::random();
        let relayed = format!("/ip4/198.51.100.1/tcp/1/p2p/{relay}/p2p-circuit");
        let mut places = vec![
            place(&relayed),
            place("/ip4/203.0.113.1/tcp/1"),
            place("/ip4/192.168.1.2/tcp/1"),
            place("/ip4/203.0.113.2/tcp/1"),
        ];
        places[0].worked(NOW);
        places[3].worked(NOW);
        let order: Vec<_> = ranked(&places, NOW)
            .iter()
            .map(|place| place.address.to_string())
            .collect();
        assert_eq!(
            order,
            [
                "/ip4/203.0.113.2/tcp/1".to_owned(),
                "/ip4/192.168.1.2/tcp/1".to_owned(),
                "/ip4/203.0.113.1/tcp/1".to_owned(),
                relayed
            ]
        );
    }

    #[test]
    fn an_address_that_fails_rests_longer_each_time_and_is_tried_when_there_is_no_other() {
        let mut places = vec![place("/ip4/203.0.113.1/tcp/1")];
        let mut rests = Vec::new();
        for _ in 0..12 {
            places[0].failed("refused", NOW);
            let mut seconds = 0;
            while places[0].rests(UnixSeconds(NOW.0 + seconds)) {
                seconds += 30;
            }
            rests.push(seconds);
        }
        assert_eq!(
            rests,
            [0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
        );
        assert_eq!(ranked(&places, NOW).len(), 1, "there is no other");
        places.push(place("/ip4/203.0.113.2/tcp/1"));
        let first = ranked(&places, NOW);
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].address, places[1].address);
        places[0].worked(NOW);
        assert_eq!(ranked(&places, NOW).len(), 2);
    }

    #[test]
    fn an_address_behind_a_relay_is_tried_however_often_it_failed() {
        let relay = libp2p::PeerId::random();
        let through = |host: &str| place(&format!("/ip4/{host}/tcp/1/p2p/{relay}/p2p-circuit"));
        let mut places = vec![
            place("/ip4/203.0.113.1/tcp/1"),
            through("198.51.100.1"),
            through("198.51.100.2"),
        ];
        for _ in 0..5 {
            places[1].failed("the relay can't be reached", NOW);
        }
        let order: Vec<_> = ranked(&places, NOW);
        let expected = [0, 2, 1].map(|index: usize| &places[index]);
        assert_eq!(order, expected, "after one that did not fail");
    }

    #[test]
    fn addresses_that_mean_something_else_elsewhere_are_believed_from_near_peers_only() {
        for (text, from_machine, from_network, from_world) in [
            ("/ip4/127.0.0.1/tcp/1", true, false, false),
            ("/ip4/192.168.1.2/tcp/1", true, true, false),
            ("/ip4/203.0.113.1/tcp/1", true, true, true),
        ] {
            let address = text.parse().unwrap();
            let from = |near| Place::is_plausible(&address, near);
            assert_eq!(from(Scope::Machine), from_machine, "{text}");
            assert_eq!(from(Scope::Network), from_network, "{text}");
            assert_eq!(from(Scope::World), from_world, "{text}");
        }
    }
}

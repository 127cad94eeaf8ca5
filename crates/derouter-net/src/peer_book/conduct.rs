//! Misbehaviour: points against peers, and bans. Pure: the caller gives the time.
//!
//! A score goes from 0 (nothing known against the peer) to -100, at which it is banned, and halves
//! every ten minutes. How good a *service* a peer gives is none of this module's business.

use std::collections::HashMap;
use std::net::IpAddr;

use derouter_wire::UnixSeconds;
use libp2p::PeerId;

use crate::address::Subnet;
use crate::limits;

/// What a peer did that no honest node of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Sent or forwarded an announcement whose signature is wrong.
    ForgedAnnouncement,
    /// Gave an offer list that is not the one that was announced.
    WrongOfferList,
    /// Sent what is no message of the protocol.
    InvalidMessage,
    /// Sends far more than it may.
    Flood,
}

impl Offence {
    /// Broken memory or a broken disk forges nothing twice in ten minutes; a flood may be a bug.
    fn points(self) -> f64 {
        match self {
            Self::ForgedAnnouncement | Self::WrongOfferList => 50.0,
            Self::InvalidMessage => 25.0,
            Self::Flood => 10.0,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::ForgedAnnouncement => "it sent an announcement with a wrong signature",
            Self::WrongOfferList => "it gave offers other than those announced",
            Self::InvalidMessage => "it sent what is no message of the protocol",
            Self::Flood => "it sends far more than it may",
        }
    }
}

/// At this score a peer is banned.
pub(crate) const BAN_SCORE: f64 = -100.0;
/// In which time a score halves.
const HALF_LIFE_SECONDS: u32 = 600;
/// The first ban of a peer; each later one is twice as long.
const FIRST_BAN_SECONDS: u64 = 600;
/// The longest ban.
const LONGEST_BAN_SECONDS: u64 = 24 * 3600;
/// After this time without a ban, the next one counts as one earlier in the row.
const BAN_FORGOTTEN_SECONDS: u64 = 24 * 3600;
/// So many banned peers of one address make it an address of somebody who changes his peer id. A
/// single one may share it with honest peers behind the same NAT.
const BANNED_PEERS_OF_IP: usize = 3;
/// So many banned peers of one /24 or /48, as many as may be connected from there, make it a network of
/// somebody who changes his address too.
const BANNED_PEERS_OF_NETWORK: usize = limits::INBOUND_PER_SUBNET;
/// A score above this is forgotten.
const FORGIVEN: f64 = -1.0;

/// What is held against one peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// At [`Record::at`].
    pub(crate) score: f64,
    pub(crate) at: UnixSeconds,
    pub(crate) banned_until: Option<UnixSeconds>,
    /// Bans so far, less those that were forgotten.
    pub(crate) bans: u32,
    /// The last offence, in words.
    pub(crate) reason: Option<&'static str>,
    /// Where it was connected from when it was banned, if that is an address of the world.
    ip: Option<IpAddr>,
}

impl Record {
    fn new(now: UnixSeconds) -> Self {
        Self {
            score: 0.0,
            at: now,
            banned_until: None,
            bans: 0,
            reason: None,
            ip: None,
        }
    }

    fn score(&self, now: UnixSeconds) -> f64 {
        let seconds = now.0.saturating_sub(self.at.0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.score * 0.5_f64.powf(f64::from(seconds) / f64::from(HALF_LIFE_SECONDS))
    }

    /// A clock that was set back makes no ban longer than the longest.
    fn banned_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let until = self.banned_until?;
        let latest = now.0.saturating_add(LONGEST_BAN_SECONDS);
        (until > now).then_some(UnixSeconds(until.0.min(latest)))
    }

    /// Bans in a row: one fewer for each day since the last one ended.
    fn bans(&self, now: UnixSeconds) -> u32 {
        let since = self
            .banned_until
            .map_or(0, |end| now.0.saturating_sub(end.0));
        let forgotten = u32::try_from(since / BAN_FORGOTTEN_SECONDS).unwrap_or(u32::MAX);
        self.bans.saturating_sub(forgotten)
    }

    fn is_forgiven(&self, now: UnixSeconds) -> bool {
        self.banned_until(now).is_none() && self.bans(now) == 0 && self.score(now) > FORGIVEN
    }
}

/// What is held against whom.
#[derive(Debug, Default)]
pub(crate) struct ConductBook {
    peers: HashMap<PeerId, Record>,
}

impl ConductBook {
    /// Counts an offence of a peer that is connected from `ip` (an address of the world, or none).
    /// The end of the ban, when this bans it.
    pub(crate) fn blame(
        &mut self,
        peer: PeerId,
        offence: Offence,
        ip: Option<IpAddr>,
        now: UnixSeconds,
    ) -> Option<UnixSeconds> {
        let record = self.record(peer, now);
        record.score = (record.score(now) - offence.points()).max(BAN_SCORE);
        record.at = now;
        record.reason = Some(offence.text());
        if record.score > BAN_SCORE || record.banned_until(now).is_some() {
            return None;
        }
        record.bans = record.bans(now);
        let doubled = FIRST_BAN_SECONDS
            .checked_shl(record.bans)
            .unwrap_or(u64::MAX);
        let until = UnixSeconds(now.0.saturating_add(doubled.min(LONGEST_BAN_SECONDS)));
        record.bans = record.bans.saturating_add(1).min(u64::BITS / 2);
        record.banned_until = Some(until);
        record.ip = ip;
        Some(until)
    }

    /// Until when the peer is banned.
    pub(crate) fn banned_until(&self, peer: &PeerId, now: UnixSeconds) -> Option<UnixSeconds> {
        self.peers.get(peer)?.banned_until(now)
    }

    /// Whether several banned peers are at this address, or many in its network.
    pub(crate) fn bans_ip(&self, ip: IpAddr, now: UnixSeconds) -> bool {
        let network = Subnet::of(ip);
        let banned = self.peers.values();
        let banned = banned.filter(|record| record.banned_until(now).is_some());
        let (mut there, mut near) = (0, 0);
        for at in banned.filter_map(|record| record.ip) {
            there += usize::from(at == ip);
            near += usize::from(Subnet::of(at) == network);
        }
        there >= BANNED_PEERS_OF_IP || near >= BANNED_PEERS_OF_NETWORK
    }

    /// The score, from 0 down to -100, which a banned peer keeps until its ban ends.
    pub(crate) fn score(&self, peer: &PeerId, now: UnixSeconds) -> f64 {
        let Some(record) = self.peers.get(peer) else {
            return 0.0;
        };
        if record.banned_until(now).is_some() {
            return BAN_SCORE;
        }
        record.score(now)
    }

    /// What is held against a peer, for keeping.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Record> {
        self.peers.get(peer)
    }

    /// All against whom something is held.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.peers.keys()
    }

    /// Takes back what was kept over a restart.
    pub(crate) fn restore(&mut self, peer: PeerId, record: Restored, now: UnixSeconds) {
        let score = if record.score.is_finite() {
            record.score.clamp(BAN_SCORE, 0.0)
        } else {
            0.0
        };
        let restored = Record {
            score,
            at: record.at.min(now),
            banned_until: record.banned_until,
            bans: record.bans.min(u64::BITS / 2),
            reason: None,
            ip: None,
        };
        if !restored.is_forgiven(now) {
            *self.record(peer, now) = restored;
        }
    }

    /// The peer's record, made if need be. At the limit the one that matters least goes: no ban
    /// before a ban, the better score before the worse.
    fn record(&mut self, peer: PeerId, now: UnixSeconds) -> &mut Record {
        if self.peers.len() >= limits::BLAMED_PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, record| !record.is_forgiven(now));
        }
        if self.peers.len() >= limits::BLAMED_PEERS && !self.peers.contains_key(&peer) {
            let least = self.peers.iter().min_by(|(_, a), (_, b)| {
                let ban = a.banned_until(now).cmp(&b.banned_until(now));
                ban.then(b.score(now).total_cmp(&a.score(now)))
            });
            if let Some(least) = least.map(|(peer, _)| *peer) {
                self.peers.remove(&least);
            }
        }
        self.peers.entry(peer).or_insert_with(|| Record::new(now))
    }
}

/// What was kept of a [`Record`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restored {
    pub(crate) score: f64,
    pub(crate) at: UnixSeconds,
    pub(crate) banned_until: Option<UnixSeconds>,
    pub(crate) bans: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixSeconds = UnixSeconds(1_000_000);

    fn later(seconds: u64) -> UnixSeconds {
        UnixSeconds(START.0 + seconds)
    }

    fn ban(book: &mut ConductBook, peer: PeerId, now: UnixSeconds) -> u64 {
        for _ in 0..100 {
            if let Some(until) = book.blame(peer, Offence::Flood, None, now) {
                return until.0 - now.0;
            }
        }
        panic!("never banned");
    }

    #[test]
    fn ten_floods_at_once_ban_and_ten_in_a_day_do_not() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut book = ConductBook::default();
        let banned: Vec<_> = (0..10)
            .map(|_| book.blame(one, Offence::Flood, None, START).is_some())
            .collect();
        assert_eq!(banned, [vec![false; 9], vec![true]].concat());
        for hour in 0..24 {
            assert_eq!(
                book.blame(other, Offence::Flood, None, later(hour * 3600)),
                None
            );
        }
    }

    #[test]
    fn a_ban_ends_and_the_next_is_twice_as_long_up_to_a_day() {
        let peer = PeerId::random();
        let mut book = ConductBook::default();
        let mut now = START;
        let mut bans = Vec::new();
        for _ in 0..10 {
            let seconds = ban(&mut book, peer, now);
            assert_eq!(book.score(&peer, now), BAN_SCORE);
            assert_eq!(book.banned_until(&peer, UnixSeconds(now.0 + seconds)), None);
            now = UnixSeconds(now.0 + seconds);
            bans.push(seconds / 600);
        }
        assert_eq!(bans, [1, 2, 4, 8, 16, 32, 64, 128, 144, 144]);
        let days = UnixSeconds(now.0 + 30 * 86_400);
        assert_eq!(ban(&mut book, peer, days), 600, "all is forgotten");
    }

    #[test]
    fn an_address_is_refused_when_several_banned_peers_share_it_and_until_their_bans_end() {
        let ip: IpAddr = "203.0.113.7".parse().unwrap();
        let mut book = ConductBook::default();
        for banned in 0..BANNED_PEERS_OF_IP {
            assert!(!book.bans_ip(ip, START), "after {banned}");
            let peer = PeerId::random();
            book.blame(peer, Offence::ForgedAnnouncement, Some(ip), START);
            book.blame(peer, Offence::ForgedAnnouncement, Some(ip), START);
        }
        assert!(book.bans_ip(ip, START));
        assert!(!book.bans_ip("203.0.113.8".parse().unwrap(), START));
        assert!(!book.bans_ip(ip, later(601)));
    }

    #[test]
    fn a_network_is_refused_when_as_many_of_it_are_banned_as_may_be_connected() {
        let mut book = ConductBook::default();
        let inside: IpAddr = "203.0.113.250".parse().unwrap();
        for last in 0..16 {
            assert!(!book.bans_ip(inside, START), "after {last}");
            let (peer, ip) = (PeerId::random(), IpAddr::from([203, 0, 113, last]));
            book.blame(peer, Offence::ForgedAnnouncement, Some(ip), START);
            book.blame(peer, Offence::ForgedAnnouncement, Some(ip), START);
        }
        assert!(book.bans_ip(inside, START));
        assert!(!book.bans_ip("203.0.114.1".parse().unwrap(), START));
        assert!(!book.bans_ip("2001:db8::1".parse().unwrap(), START));
        assert!(!book.bans_ip(inside, later(601)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_ban_longer_than_a_day() {
        let peer = PeerId::random();
        let mut book = ConductBook::default();
        ban(&mut book, peer, START);
        let long_ago = UnixSeconds(10);
        let until = book.banned_until(&peer, long_ago).unwrap();
        assert_eq!(until.0, 10 + LONGEST_BAN_SECONDS);
    }

    #[test]
    fn a_flood_of_new_peer_ids_pushes_out_no_ban() {
        let banned = PeerId::random();
        let mut book = ConductBook::default();
        ban(&mut book, banned, START);
        for _ in 0..2 * limits::BLAMED_PEERS {
            book.blame(PeerId::random(), Offence::InvalidMessage, None, START);
        }
        assert_eq!(book.peers.len(), limits::BLAMED_PEERS);
        assert!(book.banned_until(&banned, START).is_some());
    }

    fn offence() -> impl Strategy<Value = Offence> {
        prop_oneof![
            Just(Offence::ForgedAnnouncement),
            Just(Offence::WrongOfferList),
            Just(Offence::InvalidMessage),
            Just(Offence::Flood),
        ]
    }

    proptest! {
        #[test]
        fn a_score_stays_in_its_bounds_and_only_rises_without_offences(
            steps in prop::collection::vec((0_u64..10_000, prop::option::of(offence())), 1..100)
        ) {
            let peer = PeerId::random();
            let mut book = ConductBook::default();
            let mut now = START;
            for (seconds, offence) in steps {
                let before = book.score(&peer, now);
                now = UnixSeconds(now.0 + seconds);
                prop_assert!(book.score(&peer, now) >= before, "decays towards 0");
                if let Some(offence) = offence {
                    let before = book.score(&peer, now);
                    let until = book.blame(peer, offence, None, now);
                    prop_assert!(book.score(&peer, now) <= before);
                    prop_assert_eq!(until.is_some(), until.is_some_and(|until| until > now));
                }
                let score = book.score(&peer, now);
                prop_assert!((BAN_SCORE..=0.0).contains(&score));
                let banned = book.banned_until(&peer, now);
                prop_assert!(banned.is_none_or(|end| end.0 <= now.0 + LONGEST_BAN_SECONDS));
                prop_assert!(banned.is_none() || score == BAN_SCORE);
            }
            let free = UnixSeconds(now.0 + LONGEST_BAN_SECONDS);
            prop_assert_eq!(book.banned_until(&peer, free), None, "every ban ends");
        }
    }
}

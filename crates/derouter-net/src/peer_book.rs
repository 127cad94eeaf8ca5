//! What this node knows of its peers: where they are reached, how that went, and whether they
//! misbehaved. Pure: the caller gives the time.

mod behaviour;
mod conduct;
mod entry;
mod known;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use derouter_wire::UnixSeconds;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

pub(crate) use behaviour::Behaviour;
pub(crate) use conduct::{BAN_SCORE, Offence};
pub(crate) use entry::Entry;
pub use known::{KnownAddress, KnownPeer};
pub(crate) use place::{Place, Source};

use crate::address::{Scope, Subnet, dialable, first_subnet};
use crate::limits;
use conduct::{ConductBook, Restored};

/// A peer that was reached within this is not forgotten for one that never was: a month.
const USEFUL_SECONDS: u64 = 30 * 86_400;

/// A success that is as young as this on disk tells a next run enough.
const OLD_NEWS_SECONDS: u64 = 3600;

/// A connection that the book is told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met<'a> {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    /// The peer's address.
    pub(crate) address: &'a Multiaddr,
    /// Whether this node dialled it.
    pub(crate) outbound: bool,
    /// From how near it is connected.
    pub(crate) near: Scope,
}

/// Peers by id; at most [`limits::BOOK_PEERS`].
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    peers: HashMap<PeerId, Entry>,
    /// Peers that were never reached, by the network of the first address told of them.
    strangers: HashMap<Subnet, usize>,
    conduct: ConductBook,
    /// Peers whose entry is to be kept on disk anew.
    changed: HashSet<PeerId>,
    /// Whether a peer or one of its addresses turned out to be good that the disk knows nothing of.
    news: bool,
}

impl PeerBook {
    /// The book with what an earlier run kept.
    pub(crate) fn restore(known: Vec<KnownPeer>, now: UnixSeconds) -> Self {
        let mut book = Self::default();
        for peer in known.into_iter().take(limits::BOOK_PEERS) {
            let record = Restored {
                score: peer.score,
                at: peer.score_at,
                banned_until: peer.banned_until,
                bans: peer.bans,
            };
            book.conduct.restore(peer.peer, record, now);
            let entry = Entry::restore(&peer, now);
            book.peers.insert(peer.peer, entry);
        }
        book
    }

    /// Somebody who is as near as `near` says that the peer is there. False when that is not
    /// believed, or there is no room for it.
    pub(crate) fn learn(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        source: Source,
        near: Scope,
        now: UnixSeconds,
    ) -> bool {
        let Some(address) = dialable(address, peer) else {
            return false;
        };
        if !Place::is_plausible(&address, near) || !self.make_room(peer, &address, now) {
            return false;
        }
        let entry = self.peers.entry(peer).or_insert_with(|| Entry::new(now));
        let new = entry.place(&address).is_none();
        let kept = entry.learn(&address, source, now);
        if entry.last_connected.is_some() {
            self.changed.insert(peer);
            self.news |= new && kept;
        }
        kept
    }

    /// There is a connection with a peer.
    pub(crate) fn met(&mut self, met: Met<'_>, now: UnixSeconds) {
        let peer = met.peer;
        if !self.peers.contains_key(&peer) && self.peers.len() >= limits::BOOK_PEERS {
            self.evict(false, now);
        }
        let entry = self.peers.entry(peer).or_insert_with(|| Entry::new(now));
        self.news |= entry.last_connected.is_none();
        entry.connected(met.connection, met.near, now);
        if met.outbound {
            if let Some(address) = dialable(met.address.clone(), peer) {
                entry.learn(&address, Source::Dialled, now);
                let known = entry.place(&address).and_then(|place| place.last_success);
                self.news |= known.is_none_or(|at| now.0.saturating_sub(at.0) > OLD_NEWS_SECONDS);
                entry.worked(&address, now);
            }
            entry.reached = true;
            self.no_stranger(peer);
        }
        self.changed.insert(peer);
    }

    /// A connection is gone.
    pub(crate) fn parted(&mut self, peer: PeerId, connection: ConnectionId, now: UnixSeconds) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.closed(connection, now);
            self.changed.insert(peer);
        }
    }

    /// A dial of the peer failed as a whole, or led to a connection that the peer closed before it said
    /// who it is. `chance` from 0 to 1.
    pub(crate) fn dial_failed(
        &mut self,
        peer: PeerId,
        reason: &str,
        now: UnixSeconds,
        chance: f64,
    ) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.dial_failed(reason, now, chance);
        }
    }

    /// The peer was not reached at one of its addresses.
    pub(crate) fn address_failed(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        reason: &str,
        now: UnixSeconds,
    ) {
        if let (Some(address), Some(entry)) = (dialable(address, peer), self.peers.get_mut(&peer)) {
            entry.failed(&address, reason, now);
        }
    }

    /// Another peer answers at this address.
    pub(crate) fn belongs_to_another(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        reason: &str,
        now: UnixSeconds,
    ) {
        if let (Some(address), Some(entry)) = (dialable(address, peer), self.peers.get_mut(&peer)) {
            entry.belongs_to_another(&address, reason, now);
        }
    }

    /// What a connected peer says of itself.
    pub(crate) fn identified(&mut self, peer: PeerId, agent: &str, relays: bool) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.identified(agent, relays);
            self.changed.insert(peer);
        }
    }

    /// Where to dial the peer now, best first.
    pub(crate) fn addresses(&self, peer: &PeerId, now: UnixSeconds) -> Vec<Multiaddr> {
        let ranked = self.peers.get(peer).map(|entry| entry.ranked(now));
        let addresses = ranked.into_iter().flatten();
        addresses.map(|place| place.address.clone()).collect()
    }

    /// From how near a peer is connected; from anywhere when it is not.
    pub(crate) fn near(&self, peer: &PeerId) -> Scope {
        self.peers.get(peer).map_or(Scope::World, Entry::near)
    }

    /// What is known of a peer.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Entry> {
        self.peers.get(peer)
    }

    /// Everybody who is known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Entry)> {
        self.peers.iter()
    }

    /// Peers to connect to: up to `count` of those that are not connected, not banned and not
    /// resting, and that `admitted` lets through. Those that were reached last come first, of each
    /// network one before a second of any.
    pub(crate) fn candidates(
        &self,
        count: usize,
        now: UnixSeconds,
        admitted: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        let may = |(peer, entry): &(&PeerId, &Entry)| {
            entry.may_be_dialled(now)
                && self.conduct.banned_until(peer, now).is_none()
                && admitted(peer)
        };
        let mut found: Vec<_> = self.peers.iter().filter(may).collect();
        found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.last_use()));
        let mut networks = HashSet::new();
        let (first, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(_, entry)| entry.subnet().is_none_or(|subnet| networks.insert(subnet)));
        let ordered = first.into_iter().chain(others);
        ordered.map(|(peer, _)| *peer).take(count).collect()
    }

    /// Counts an offence of a peer that is connected from `ip`. The end of the ban, when this bans
    /// it.
    pub(crate) fn blame(
        &mut self,
        peer: PeerId,
        offence: Offence,
        ip: Option<IpAddr>,
        now: UnixSeconds,
    ) -> Option<UnixSeconds> {
        self.changed.insert(peer);
        self.conduct.blame(peer, offence, ip, now)
    }

    /// Until when a peer is banned.
    pub(crate) fn banned_until(&self, peer: &PeerId, now: UnixSeconds) -> Option<UnixSeconds> {
        self.conduct.banned_until(peer, now)
    }

    /// Whether connections from this address are refused unseen.
    pub(crate) fn bans_ip(&self, ip: IpAddr, now: UnixSeconds) -> bool {
        self.conduct.bans_ip(ip, now)
    }

    /// A peer's misbehaviour score, 0 down to -100.
    pub(crate) fn score(&self, peer: &PeerId, now: UnixSeconds) -> f64 {
        self.conduct.score(peer, now)
    }

    /// The last thing a peer did wrong.
    pub(crate) fn offence(&self, peer: &PeerId) -> Option<&'static str> {
        self.conduct.get(peer)?.reason
    }

    /// Peers that are banned now.
    pub(crate) fn banned(&self, now: UnixSeconds) -> impl Iterator<Item = PeerId> {
        let banned = move |peer: &&PeerId| self.conduct.banned_until(peer, now).is_some();
        self.conduct.peers().filter(banned).copied()
    }

    /// Whether something of what changed should be on disk soon: a node that is killed may have
    /// nothing else to start from.
    pub(crate) fn has_news(&self) -> bool {
        self.news
    }

    /// Whether there is something to keep on disk.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What to keep on disk of the peers that changed since this was called last: of those that
    /// were connected once, and of those that misbehaved.
    pub(crate) fn take_changes(&mut self, now: UnixSeconds) -> Vec<KnownPeer> {
        self.news = false;
        let changed = std::mem::take(&mut self.changed);
        let known = changed.into_iter().filter_map(|peer| self.known(peer, now));
        known.collect()
    }

    fn known(&self, peer: PeerId, now: UnixSeconds) -> Option<KnownPeer> {
        let entry = self.peers.get(&peer);
        let record = self.conduct.get(&peer);
        if record.is_none() && entry.is_none_or(|entry| entry.last_connected.is_none()) {
            return None;
        }
        Some(KnownPeer {
            peer,
            addresses: entry.map_or_else(Vec::new, |entry| entry.known_addresses(now)),
            last_connected: entry.and_then(|entry| entry.last_connected),
            agent: entry.and_then(|entry| entry.agent.clone()),
            relays: entry.is_some_and(|entry| entry.relays),
            score: record.map_or(0.0, |record| record.score),
            score_at: record.map_or(now, |record| record.at),
            banned_until: record.and_then(|record| record.banned_until),
            bans: record.map_or(0, |record| record.bans),
        })
    }

    /// Makes room for a peer of whom somebody told an address. False when its network has as many
    /// strangers as it may have, or everybody known is worth more.
    fn make_room(&mut self, peer: PeerId, address: &Multiaddr, now: UnixSeconds) -> bool {
        if self.peers.contains_key(&peer) {
            return true;
        }
        let subnet = first_subnet(address);
        let strangers = subnet.and_then(|subnet| self.strangers.get(&subnet));
        if strangers.is_some_and(|count| *count >= limits::BOOK_STRANGERS_PER_SUBNET) {
            return false;
        }
        if self.peers.len() >= limits::BOOK_PEERS && !self.evict(true, now) {
            return false;
        }
        let mut entry = Entry::new(now);
        entry.stranger_of = subnet;
        self.peers.insert(peer, entry);
        if let Some(subnet) = subnet {
            *self.strangers.entry(subnet).or_default() += 1;
        }
        true
    }

    /// Forgets the peer that matters least: never a connected one; one that was never reached
    /// before one that was. False when a stranger would have to push out somebody useful.
    fn evict(&mut self, for_stranger: bool, now: UnixSeconds) -> bool {
        let absent = self.peers.iter().filter(|(_, entry)| !entry.is_connected());
        let least = absent.min_by_key(|(_, entry)| (entry.reached, entry.last_use()));
        let Some((peer, entry)) = least else {
            return false;
        };
        let useful = entry.reached && now.0.saturating_sub(entry.last_use().0) < USEFUL_SECONDS;
        if for_stranger && useful {
            return false;
        }
        let peer = *peer;
        self.no_stranger(peer);
        self.peers.remove(&peer);
        self.changed.remove(&peer);
        true
    }

    fn no_stranger(&mut self, peer: PeerId) {
        let entry = self.peers.get_mut(&peer);
        let Some(subnet) = entry.and_then(|entry| entry.stranger_of.take()) else {
            return;
        };
        if let Some(count) = self.strangers.get_mut(&subnet) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.strangers.remove(&subnet);
            }
        }
    }
}

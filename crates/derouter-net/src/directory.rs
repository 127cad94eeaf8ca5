//! Who announces what now (wire 0.2). Pure: the caller gives the time, and does what is said.
//!
//! Cheap checks come before the signature check, so that a duplicate, an old announcement or one
//! over a limit costs none. What is stored is bounded in announcements and in bytes of lists; at
//! the limit whoever brought most makes room for what others bring.
//!
//! How long an announcement holds is what its givers say, at most its whole time from when it was
//! first heard. The longest word counts: one that says too little hides nobody.

mod floors;
mod judging;
mod lists;
mod senders;
mod shares;
mod wanted;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{ListSummary, SignedAnnouncement, shard_of};
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::Carried;
use libp2p::{Multiaddr, PeerId};

use crate::address::Subnet;
use crate::heartbeat::bucket::Bucket;
use crate::limits;
use crate::offers::{AnnouncedList, OfferNews};
use floors::{Floor, Floors};
use lists::ListState;
pub(crate) use lists::PullOutcome;
use senders::Senders;
use shares::{Bringer, Origin, Shares};
use wanted::Wanted;
pub(crate) use wanted::{PullEnd, PullPlan};

/// How far a provider's clock may be off, either way.
const MAX_SKEW_SECONDS: u64 = 4 * 3600;
/// A mesh brings what is new within a second or two; lists that have to be pulled and busy machines may
/// add some.
const LATE_SECONDS: u32 = 10;
/// Room is made this often at most: it takes a look at all that is known.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Of all announcements or bytes, what is made room for at once, so that it is worth that look.
const ROOM_PART: usize = 64;

/// An announcement that came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// The connected peer that gave it to us.
    pub(crate) forwarder: PeerId,
    /// The announcement.
    pub(crate) bytes: &'a [u8],
    /// What its forwarder says is left of its time, in seconds; gossip says nothing.
    pub(crate) remaining: Option<u32>,
}

/// What an announcement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// New and stored: to be spread.
    New {
        /// Whose.
        provider: PeerId,
        /// What is known of its list.
        list: Listed,
    },
    /// Known and now heard to hold longer, or heard by gossip for the first time.
    Again {
        /// Whose.
        provider: PeerId,
        /// Whether it holds longer than was known.
        longer: bool,
        /// Whether it is to be spread: it came by gossip, which others may not have heard.
        spread: bool,
    },
    /// Not newer than what is known, or over.
    Old,
    /// From over four hours ahead (`true`) or ago.
    OffClock(bool),
    /// More than its source or its forwarder may send.
    TooMany,
    /// No room for another provider.
    Full,
    /// No announcement.
    Invalid,
    /// Its signature is wrong.
    Forged,
}

/// Whether an announcement can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Its list is here, or there is none.
    Here,
    /// It is being pulled.
    Coming,
    /// It will not be here.
    Absent,
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    sequence: u64,
    issued_at: UnixSeconds,
    /// Its whole time, in seconds.
    lasts: u32,
    expires: Instant,
    /// What anybody says about `expires` counts up to here: its whole time from when it was heard.
    latest: Instant,
    /// Whether it came by gossip, and so was handed on or is about to be.
    gossiped: bool,
    id: [u8; 32],
    shard: u8,
    /// Who gave it to us, who is believed as to where the provider is.
    bringer: Bringer,
    summary: Option<ListSummary>,
    list: ListState,
    rate: Bucket,
}

impl Entry {
    /// Whether more than half of its time is left, by what was heard of it.
    fn has_time(&self, now: Instant) -> bool {
        let left = self.expires.saturating_duration_since(now);
        left * 2 > Duration::from_secs(u64::from(self.lasts))
    }

    /// Whether more than half of its time is left, by what was heard of it or by the clocks.
    fn is_fresh(&self, now: Instant, clock: UnixSeconds) -> bool {
        let age = self.issued_at.0.abs_diff(clock.0);
        self.has_time(now) || age.saturating_mul(2) < u64::from(self.lasts)
    }
}

/// Until when an announcement holds, see [`Entry`].
#[derive(Debug, Clone, Copy)]
struct Times {
    expires: Instant,
    latest: Instant,
}

impl Times {
    fn within(self, latest: Instant) -> Self {
        Self {
            expires: self.expires.min(latest),
            latest: self.latest.min(latest),
        }
    }
}

/// Where a provider announces that it is reached.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    pub(crate) peer: PeerId,
    /// Who gave us the announcement.
    pub(crate) teller: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// What a directory holds at most.
#[derive(Debug, Clone, Copy)]
struct Room {
    announcements: usize,
    list_bytes: usize,
}

/// What is announced now.
#[derive(Debug)]
pub(crate) struct Directory {
    local: PeerId,
    room: Room,
    /// The shards of which announcements are taken.
    shards: u16,
    /// Providers whose announcements are not taken, whoever forwards them: the operator's list.
    blocked: HashSet<PeerId>,
    /// Where connected peers are.
    networks: HashMap<PeerId, Subnet>,
    /// A peer id takes eighty bytes, and there is one of each provider for both maps.
    /// Boxed: a table of a hundred thousand entries has room for thirty thousand more, and is copied when it
    /// grows.
    entries: HashMap<Arc<PeerId>, Box<Entry>>,
    by_id: HashMap<[u8; 32], Arc<PeerId>>,
    floors: Floors,
    senders: Senders,
    shares: Shares,
    wanted: Wanted,
    /// Bytes of the lists that are here.
    list_bytes: usize,
    /// No room for announcements is looked for before.
    next_room: Option<Instant>,
    /// No room for lists is looked for before.
    next_list_room: Option<Instant>,
    signature_checks: u64,
}

impl Directory {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            room: Room {
                announcements: limits::ANNOUNCEMENTS,
                list_bytes: limits::LIST_BYTES_TOTAL,
            },
            shards: u16::MAX,
            blocked: HashSet::new(),
            networks: HashMap::new(),
            entries: HashMap::new(),
            by_id: HashMap::new(),
            floors: Floors::default(),
            senders: Senders::default(),
            shares: Shares::default(),
            wanted: Wanted::default(),
            list_bytes: 0,
            next_room: None,
            next_list_room: None,
            signature_checks: 0,
        }
    }

    /// Takes only announcements of these shards (bit 0 is shard 0).
    pub(crate) fn take_part_in(&mut self, shards: u16) {
        self.shards = shards;
    }

    /// Takes nothing from these providers.
    pub(crate) fn block(&mut self, peers: HashSet<PeerId>) {
        self.blocked = peers;
    }

    /// Announcements that hold now, those that take back among them.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Signatures checked so far.
    pub(crate) fn signature_checks(&self) -> u64 {
        self.signature_checks
    }

    /// Takes in what this node announces itself, so that others get it from here like any other.
    pub(crate) fn insert_own(
        &mut self,
        signed: &SignedAnnouncement,
        list: Option<Arc<[u8]>>,
        now: Instant,
    ) -> Arc<[u8]> {
        self.remove(&self.local.clone());
        let latest = now + Duration::from_secs(u64::from(signed.body.lasts));
        let times = Times {
            expires: latest,
            latest,
        };
        let list = list.map_or(ListState::None, ListState::Here);
        let bytes = signed.encode();
        let bringer = self.shares.add(self.local, Origin::Peer(self.local));
        let own = entry(signed, &bytes, times, bringer, list);
        let bytes = Arc::clone(&own.bytes);
        self.insert(self.local, own);
        bytes
    }

    fn insert(&mut self, peer: PeerId, entry: Entry) {
        self.count_list_bytes(entry.bringer, entry.list.bytes(), 0);
        let peer = Arc::new(peer);
        self.by_id.insert(entry.id, Arc::clone(&peer));
        self.entries.insert(peer, Box::new(entry));
    }

    fn remove(&mut self, peer: &PeerId) -> Option<Box<Entry>> {
        let old = self.entries.remove(peer)?;
        self.by_id.remove(&old.id);
        self.count_list_bytes(old.bringer, 0, old.list.bytes());
        self.shares.remove(old.bringer);
        Some(old)
    }

    /// Removes an announcement; its sequence number stays known.
    fn end(&mut self, peer: &PeerId) {
        self.wanted.forget(peer);
        if let Some(entry) = self.remove(peer) {
            let floor = Floor {
                sequence: entry.sequence,
                latest: entry.latest,
            };
            self.floors.keep(*peer, floor);
        }
    }

    /// Forgets what no longer holds; the sequence numbers stay known until a replay would be
    /// refused for its age.
    pub(crate) fn expire(&mut self, now: Instant) {
        let all = self.entries.iter();
        let over = all.filter(|(_, entry)| entry.expires <= now);
        let gone: Vec<PeerId> = over.map(|(peer, _)| **peer).collect();
        for peer in gone {
            self.end(&peer);
        }
        let recorded = Duration::from_secs(2 * MAX_SKEW_SECONDS);
        self.floors.expire(recorded, now);
    }

    /// The machine slept, and `Instant`s show nothing of `unseen` of it: everything is that much
    /// nearer to its end.
    pub(crate) fn slept(&mut self, unseen: Duration, now: Instant) {
        for entry in self.entries.values_mut() {
            // None: before the first `Instant` there is.
            let earlier = |time: Instant| time.checked_sub(unseen).unwrap_or(now);
            entry.expires = earlier(entry.expires);
            entry.latest = earlier(entry.latest);
        }
        self.floors.slept(unseen, now);
    }

    /// What the node is told of a provider. `None` while its list is being pulled.
    pub(crate) fn news(&self, peer: &PeerId, now: Instant) -> Option<OfferNews> {
        let entry = self.entries.get(peer)?;
        let bytes = match &entry.list {
            ListState::Here(bytes) => Some(Arc::clone(bytes)),
            ListState::None | ListState::NoRoom => None,
            ListState::Wanted | ListState::Missing => return None,
        };
        let list = entry.summary;
        let list = list.map(|summary| AnnouncedList { summary, bytes });
        Some(OfferNews {
            source: *peer,
            sequence: entry.sequence,
            lasting: entry.expires.saturating_duration_since(now),
            list,
        })
    }

    /// Whether who gave an announcement with so much of its time left, in seconds, had it for so long that
    /// the mesh should have brought it.
    pub(crate) fn is_late(&self, provider: &PeerId, remaining: u32) -> bool {
        let entry = self.entries.get(provider);
        entry.is_some_and(|entry| entry.lasts.saturating_sub(remaining) >= LATE_SECONDS)
    }

    /// Sequence and id of what is announced in these shards: all that is known, or, for others, all
    /// but that whose list is not here and may come.
    pub(crate) fn items(
        &self,
        shards: u16,
        for_others: bool,
    ) -> impl Iterator<Item = (u64, [u8; 32])> {
        let wanted = move |entry: &&Entry| {
            shards & (1 << (entry.shard & 15)) != 0 && (!for_others || entry.list.is_known())
        };
        let entries = self.entries.values().map(Box::as_ref).filter(wanted);
        entries.map(|entry| (entry.sequence, entry.id))
    }

    /// The announcement of this id, for another peer. `None` when its list is not here: then others
    /// have to give it.
    pub(crate) fn carried(&self, id: &[u8; 32], now: Instant) -> Option<Carried> {
        let entry = self.entries.get(self.by_id.get(id)?)?;
        if !entry.list.is_here() {
            return None;
        }
        let remaining = entry.expires.saturating_duration_since(now).as_secs();
        Some(Carried {
            announcement: Bytes(entry.bytes.to_vec()),
            remaining: u32::try_from(remaining).ok().filter(|left| *left > 0)?,
        })
    }

    /// Whether its list is being pulled.
    pub(crate) fn is_coming(&self, peer: &PeerId) -> bool {
        let entry = self.entries.get(peer);
        entry.is_some_and(|entry| matches!(entry.list, ListState::Wanted))
    }

    /// The announcement of this provider that came by gossip is not handed on.
    pub(crate) fn not_spread(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.gossiped = false;
        }
    }

    /// The announcement of a provider.
    pub(crate) fn announcement(&self, peer: &PeerId) -> Option<Arc<[u8]>> {
        self.entries.get(peer).map(|entry| Arc::clone(&entry.bytes))
    }

    /// The announcement of a provider, while its list is here and more than half of its time is left: who gets it by
    /// gossip is not told how much is, and believes it for the whole of it.
    pub(crate) fn fresh_announcement(&self, peer: &PeerId, now: Instant) -> Option<Arc<[u8]>> {
        let entry = self.entries.get(peer)?;
        let is_fresh = entry.has_time(now) && entry.list.is_here();
        is_fresh.then(|| Arc::clone(&entry.bytes))
    }

    /// Where a provider says it is reached, if it does.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Option<Whereabouts> {
        let entry = self.entries.get(peer)?;
        let signed = SignedAnnouncement::decode(&entry.bytes).ok()?;
        let addresses = signed.body.addresses.into_iter();
        let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok());
        let whereabouts = Whereabouts {
            peer: *peer,
            teller: self.shares.peer(entry.bringer)?,
            addresses: addresses.collect(),
        };
        (!whereabouts.addresses.is_empty()).then_some(whereabouts)
    }
}

fn entry(
    signed: &SignedAnnouncement,
    bytes: &[u8],
    times: Times,
    bringer: Bringer,
    list: ListState,
) -> Entry {
    Entry {
        bytes: Arc::from(bytes),
        sequence: signed.body.sequence,
        issued_at: signed.body.issued_at,
        lasts: signed.body.lasts,
        expires: times.expires,
        latest: times.latest,
        gossiped: true,
        id: signed.id(),
        shard: shard_of(&signed.body.peer),
        bringer,
        summary: signed.body.list,
        list,
        rate: Bucket::default(),
    }
}

#[cfg(test)]
mod tests;

//! Who announces what now (wire 0.2). Pure: the caller gives the time, and does what is said.
//!
//! Cheap checks come before the signature check, so that a duplicate, an old announcement or one
//! over a limit costs none. What is stored is bounded in announcements and in bytes of lists; at
//! the limit whoever brought most makes room for what others bring.
//!
//! How long an announcement holds is what its givers say, at most its whole time from when it was
//! first heard. The longest word counts: one that says too little hides nobody.

mod floors;
mod lists;
mod senders;
mod shares;
mod wanted;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{ListSummary, SignedAnnouncement, shard_of};
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::Carried;
use libp2p::{Multiaddr, PeerId};

use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;
use crate::offers::{AnnouncedList, OfferNews};
use floors::{Floor, Floors};
use lists::ListState;
pub(crate) use lists::PullOutcome;
use senders::Senders;
use shares::{Bringer, Shares};
pub(crate) use wanted::PullPlan;
use wanted::Wanted;

/// How far a provider's clock may be off, either way.
const MAX_SKEW_SECONDS: u64 = 3600;
/// Announcements of one provider. Ours never come faster than one a second; the burst is for those
/// that were held up.
const SOURCE_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};

/// Room is looked for this often at most: it takes a look at all.
const ROOM_PAUSE: Duration = Duration::from_secs(1);
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
        /// Whether its list is here, or there is none: else it is being pulled.
        complete: bool,
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
    /// From over an hour ahead (`true`) or ago.
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
    /// Whether it came by gossip, and so was spread.
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

/// How an announcement stands to what was heard of its provider.
#[derive(Debug, Clone, Copy)]
enum Standing {
    Newer,
    /// It is the one that holds.
    Known,
    /// It held, and nobody said that it still does; until this time somebody may.
    Over(Instant),
    Older,
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
    /// Providers whose announcements are not taken, whoever forwards them: the operator's list.
    blocked: HashSet<PeerId>,
    entries: HashMap<PeerId, Entry>,
    by_id: HashMap<[u8; 32], PeerId>,
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
            blocked: HashSet::new(),
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

    /// Judges an announcement, and stores a good one. `now` is for rates and expiry, `clock` for
    /// its time.
    pub(crate) fn judge(
        &mut self,
        arrival: Arrival<'_>,
        now: Instant,
        clock: UnixSeconds,
    ) -> Verdict {
        let Ok(signed) = SignedAnnouncement::decode(arrival.bytes) else {
            return Verdict::Invalid;
        };
        let peer = signed.body.peer;
        if peer == self.local || self.blocked.contains(&peer) {
            return Verdict::Old;
        }
        let standing = self.standing(&signed);
        if matches!(standing, Standing::Older) {
            return Verdict::Old;
        }
        let Some(lasting) = lasting(&signed, arrival.remaining, clock) else {
            return Verdict::OffClock(signed.body.issued_at > clock);
        };
        let mut times = Times {
            expires: now + lasting,
            latest: now + Duration::from_secs(u64::from(signed.body.lasts)),
        };
        match standing {
            Standing::Known => return self.hear_again(arrival, &signed, times.expires, now, clock),
            Standing::Over(latest) => times = times.within(latest),
            Standing::Newer | Standing::Older => {}
        }
        if times.expires <= now {
            return Verdict::Old;
        }
        if let Some(refusal) = self.refuse(&arrival, &peer, now) {
            return refusal;
        }
        self.signature_checks += 1;
        if !signed.verify() {
            return Verdict::Forged;
        }
        let complete = self.store(&signed, arrival, times, now);
        Verdict::New {
            provider: peer,
            complete,
        }
    }

    fn standing(&self, signed: &SignedAnnouncement) -> Standing {
        let (peer, sequence) = (&signed.body.peer, signed.body.sequence);
        if let Some(entry) = self.entries.get(peer) {
            return match sequence.cmp(&entry.sequence) {
                Ordering::Greater => Standing::Newer,
                Ordering::Equal => Standing::Known,
                Ordering::Less => Standing::Older,
            };
        }
        let Some(floor) = self.floors.get(peer) else {
            return Standing::Newer;
        };
        match sequence.cmp(&floor.sequence) {
            Ordering::Greater => Standing::Newer,
            Ordering::Equal => Standing::Over(floor.latest),
            Ordering::Less => Standing::Older,
        }
    }

    /// The announcement that is known, from whomever. Equal bytes need no signature check.
    fn hear_again(
        &mut self,
        arrival: Arrival<'_>,
        signed: &SignedAnnouncement,
        expires: Instant,
        now: Instant,
        clock: UnixSeconds,
    ) -> Verdict {
        let provider = signed.body.peer;
        let known = self.entries.get_mut(&provider);
        let Some(entry) = known.filter(|entry| *entry.bytes == *arrival.bytes) else {
            return Verdict::Old;
        };
        let by_gossip = arrival.remaining.is_none();
        // A recording that is gossiped is nothing that others have to hear.
        let spread = by_gossip && !entry.gossiped && entry.is_fresh(now, clock);
        entry.gossiped |= spread;
        let expires = expires.min(entry.latest);
        let longer = expires > entry.expires;
        entry.expires = entry.expires.max(expires);
        if !longer && !spread {
            return Verdict::Old;
        }
        Verdict::Again {
            provider,
            longer,
            spread,
        }
    }

    /// Rates and room, before the signature is looked at.
    fn refuse(&mut self, arrival: &Arrival<'_>, peer: &PeerId, now: Instant) -> Option<Verdict> {
        let is_new = !self.entries.contains_key(peer);
        if !self.senders.may_send(arrival.forwarder, is_new, now) {
            return Some(Verdict::TooMany);
        }
        if is_new && !self.has_room(&arrival.forwarder, now) {
            return Some(Verdict::Full);
        }
        let entry = self.entries.get(peer)?;
        let ready = entry.rate.ready_at(SOURCE_RATE, 1, now) <= now;
        (!ready).then_some(Verdict::TooMany)
    }

    /// Whether there is room for an announcement that this peer brings. Where there is none,
    /// whoever brought more makes some.
    fn has_room(&mut self, forwarder: &PeerId, now: Instant) -> bool {
        if self.entries.len() < self.room.announcements {
            return true;
        }
        if self.next_room.is_some_and(|next| next > now) {
            return false;
        }
        self.next_room = Some(now + ROOM_PAUSE);
        let Some((largest, share)) = self.shares.largest(|share| share.entries) else {
            return false;
        };
        let more = share
            .entries
            .saturating_sub(self.shares.of(forwarder).entries);
        if more < 2 {
            return false;
        }
        // Not below the share of who takes the room.
        let count = (self.room.announcements / ROOM_PART).max(1);
        self.drop_of(largest, count.min(more / 2));
        true
    }

    /// Drops so many announcements that a peer brought: first those without their list, then those
    /// that end first.
    fn drop_of(&mut self, bringer: Bringer, count: usize) {
        let local = self.local;
        let of_bringer = self.entries.iter();
        let of_bringer =
            of_bringer.filter(|(peer, entry)| entry.bringer == bringer && **peer != local);
        let mut worst: Vec<(bool, Instant, PeerId)> = of_bringer
            .map(|(peer, entry)| (entry.list.is_settled(), entry.expires, *peer))
            .collect();
        worst.sort_unstable();
        for (_, _, peer) in worst.into_iter().take(count) {
            self.end(&peer);
        }
    }

    /// Whether there is nothing left to pull.
    fn store(
        &mut self,
        signed: &SignedAnnouncement,
        arrival: Arrival<'_>,
        times: Times,
        now: Instant,
    ) -> bool {
        let peer = signed.body.peer;
        let mut rate = Bucket::default();
        let mut held = None;
        // Before the old entry goes, so that a share is not forgotten in between.
        let bringer = self.shares.add(arrival.forwarder);
        if let Some(old) = self.remove(&peer) {
            rate = old.rate;
            if let (Some(summary), ListState::Here(list)) = (old.summary, old.list) {
                held = Some((summary, list));
            }
        }
        self.floors.forget(&peer);
        rate.take(SOURCE_RATE, 1, now);
        let summary = signed.body.list;
        let list = self.list_state(summary, held, arrival.forwarder, bringer, peer, now);
        let complete = list.is_settled();
        let gossiped = arrival.remaining.is_none();
        let entry = Entry {
            gossiped,
            rate,
            ..entry(signed, arrival.bytes, times, bringer, list)
        };
        self.insert(peer, entry);
        complete
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
        let bringer = self.shares.add(self.local);
        let own = entry(signed, &bytes, times, bringer, list);
        let bytes = Arc::clone(&own.bytes);
        self.insert(self.local, own);
        bytes
    }

    fn insert(&mut self, peer: PeerId, entry: Entry) {
        self.count_list_bytes(entry.bringer, entry.list.bytes(), 0);
        self.by_id.insert(entry.id, peer);
        self.entries.insert(peer, entry);
    }

    fn remove(&mut self, peer: &PeerId) -> Option<Entry> {
        let old = self.entries.remove(peer)?;
        self.by_id.remove(&old.id);
        self.wanted.forget(peer);
        self.count_list_bytes(old.bringer, 0, old.list.bytes());
        self.shares.remove(old.bringer);
        Some(old)
    }

    /// Removes an announcement; its sequence number stays known.
    fn end(&mut self, peer: &PeerId) {
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
        let over = |(peer, entry): (&PeerId, &Entry)| (entry.expires <= now).then_some(*peer);
        let gone: Vec<PeerId> = self.entries.iter().filter_map(over).collect();
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

    /// What the node is told of a provider. `None` while its list is not here.
    pub(crate) fn news(&self, peer: &PeerId, now: Instant) -> Option<OfferNews> {
        let entry = self.entries.get(peer)?;
        let list = match (&entry.list, entry.summary) {
            (ListState::Here(bytes), Some(summary)) => Some(AnnouncedList {
                summary,
                bytes: Arc::clone(bytes),
            }),
            (ListState::None, None) => None,
            _ => return None,
        };
        Some(OfferNews {
            source: *peer,
            sequence: entry.sequence,
            lasting: entry.expires.saturating_duration_since(now),
            list,
        })
    }

    /// Sequence and id of what is announced in these shards.
    pub(crate) fn items(&self, shards: u16) -> impl Iterator<Item = (u64, [u8; 32])> {
        let wanted = move |entry: &&Entry| shards & (1 << (entry.shard & 15)) != 0;
        let entries = self.entries.values().filter(wanted);
        entries.map(|entry| (entry.sequence, entry.id))
    }

    /// The announcement of this id, for another peer.
    pub(crate) fn carried(&self, id: &[u8; 32], now: Instant) -> Option<Carried> {
        let entry = self.entries.get(self.by_id.get(id)?)?;
        let remaining = entry.expires.saturating_duration_since(now).as_secs();
        Some(Carried {
            announcement: Bytes(entry.bytes.to_vec()),
            remaining: u32::try_from(remaining).ok().filter(|left| *left > 0)?,
        })
    }

    /// The announcement of a provider.
    pub(crate) fn announcement(&self, peer: &PeerId) -> Option<Arc<[u8]>> {
        self.entries.get(peer).map(|entry| Arc::clone(&entry.bytes))
    }

    /// The announcement of a provider, while more than half of its time is left: who gets it by
    /// gossip is not told how much is, and believes it for the whole of it.
    pub(crate) fn fresh_announcement(&self, peer: &PeerId, now: Instant) -> Option<Arc<[u8]>> {
        let entry = self.entries.get(peer)?;
        entry.has_time(now).then(|| Arc::clone(&entry.bytes))
    }

    /// Where a provider says it is reached, if it does.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Option<Whereabouts> {
        let entry = self.entries.get(peer)?;
        let signed = SignedAnnouncement::decode(&entry.bytes).ok()?;
        let addresses = signed.body.addresses.into_iter();
        let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok());
        let whereabouts = Whereabouts {
            peer: *peer,
            teller: self.shares.get(entry.bringer)?.peer,
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

/// How long an announcement holds from now, by our clock; `None` when the two clocks are further
/// apart than is believed. A provider whose clock is off by less is heard like any other, so what
/// bounds a copy that comes late is what its forwarder says is left.
fn lasting(
    signed: &SignedAnnouncement,
    remaining: Option<u32>,
    clock: UnixSeconds,
) -> Option<Duration> {
    let issued_at = signed.body.issued_at.0;
    if issued_at.abs_diff(clock.0) > MAX_SKEW_SECONDS {
        return None;
    }
    let lasts = signed.body.lasts;
    let seconds = remaining.map_or(lasts, |remaining| remaining.min(lasts));
    Some(Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests;

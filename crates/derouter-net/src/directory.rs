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
use wanted::Wanted;
pub(crate) use wanted::{PullEnd, PullPlan};

/// How far a provider's clock may be off, either way.
const MAX_SKEW_SECONDS: u64 = 3600;
/// Announcements of one provider. Ours never come faster than one a second; the burst is for those
/// that were held up.
const SOURCE_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};

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
        let Some(standing) = self.standing(&signed) else {
            return Verdict::Old;
        };
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
            Standing::Newer => {}
        }
        if times.expires <= now {
            return Verdict::Old;
        }
        let crowd = match self.admit(&arrival, &peer, now) {
            Ok(crowd) => crowd,
            Err(refusal) => return refusal,
        };
        self.signature_checks += 1;
        if !signed.verify() {
            return Verdict::Forged;
        }
        if let Some((bringer, count)) = crowd {
            self.next_room = Some(now + ROOM_PAUSE);
            self.drop_of(bringer, count);
        }
        let list = self.store(&signed, arrival, times, now);
        Verdict::New {
            provider: peer,
            list,
        }
    }

    /// `None` when it is older than what was heard.
    fn standing(&self, signed: &SignedAnnouncement) -> Option<Standing> {
        let (peer, sequence) = (&signed.body.peer, signed.body.sequence);
        let (known, equal) = match (self.entries.get(peer), self.floors.get(peer)) {
            (Some(entry), _) => (entry.sequence, Standing::Known),
            (None, Some(floor)) => (floor.sequence, Standing::Over(floor.latest)),
            (None, None) => return Some(Standing::Newer),
        };
        match sequence.cmp(&known) {
            Ordering::Greater => Some(Standing::Newer),
            Ordering::Equal => Some(equal),
            Ordering::Less => None,
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
        let spread =
            by_gossip && !entry.gossiped && entry.list.is_here() && entry.is_fresh(now, clock);
        entry.gossiped |= spread;
        let expires = expires.min(entry.latest);
        let longer = expires > entry.expires;
        entry.expires = entry.expires.max(expires);
        self.passed_on(provider, arrival.forwarder, now);
        if !longer && !spread {
            return Verdict::Old;
        }
        Verdict::Again {
            provider,
            longer,
            spread,
        }
    }

    /// A peer passes on what it has the list of: one that is missing is asked of it.
    fn passed_on(&mut self, provider: PeerId, forwarder: PeerId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&provider) else {
            return;
        };
        match (&entry.list, entry.summary) {
            (ListState::Wanted, _) => self.wanted.passed_on(provider, forwarder, now),
            // As costly as a new one, and counted as such.
            (ListState::Missing, Some(summary)) if self.senders.may_send(forwarder, true, now) => {
                entry.list = ListState::Wanted;
                self.wanted.want(provider, summary, forwarder, now);
            }
            _ => {}
        }
    }

    /// Rates and room, before the signature is looked at. Where there is no room, gives who brought
    /// too much and how much of that has to go.
    fn admit(
        &mut self,
        arrival: &Arrival<'_>,
        peer: &PeerId,
        now: Instant,
    ) -> Result<Option<(Bringer, usize)>, Verdict> {
        let known = self.entries.get(peer);
        let too_soon = |entry: &Entry| entry.rate.ready_at(SOURCE_RATE, 1, now) > now;
        let (is_new, too_soon) = (known.is_none(), known.is_some_and(too_soon));
        if !self.senders.may_send(arrival.forwarder, is_new, now) || too_soon {
            return Err(Verdict::TooMany);
        }
        if !is_new || self.entries.len() < self.room.announcements {
            return Ok(None);
        }
        if self.next_room.is_some_and(|next| next > now) {
            return Err(Verdict::Full);
        }
        let largest = self.shares.largest(|share| share.entries);
        let (largest, share) = largest.ok_or(Verdict::Full)?;
        let own = self.shares.of(&arrival.forwarder);
        // Not below the share of who takes the room.
        let more = share.entries.saturating_sub(own.entries) / 2;
        let count = (self.room.announcements / ROOM_PART).max(1).min(more);
        (count > 0)
            .then_some(Some((largest, count)))
            .ok_or(Verdict::Full)
    }

    /// Drops so many announcements that a peer brought: first those without their list, then those
    /// that end first.
    fn drop_of(&mut self, bringer: Bringer, count: usize) {
        let local = self.local;
        let of_bringer = self.entries.iter();
        let of_bringer =
            of_bringer.filter(|(peer, entry)| entry.bringer == bringer && **peer != local);
        let mut worst: Vec<(bool, Instant, PeerId)> = of_bringer
            .map(|(peer, entry)| (entry.list.is_here(), entry.expires, *peer))
            .collect();
        worst.sort_unstable();
        for (_, _, peer) in worst.into_iter().take(count) {
            self.end(&peer);
        }
    }

    fn store(
        &mut self,
        signed: &SignedAnnouncement,
        arrival: Arrival<'_>,
        times: Times,
        now: Instant,
    ) -> Listed {
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
        let listed = match &list {
            ListState::None | ListState::Here(_) => Listed::Here,
            ListState::Wanted => Listed::Coming,
            ListState::Missing | ListState::NoRoom => Listed::Absent,
        };
        let gossiped = arrival.remaining.is_none();
        let entry = Entry {
            gossiped,
            rate,
            ..entry(signed, arrival.bytes, times, bringer, list)
        };
        self.insert(peer, entry);
        listed
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
        let entries = self.entries.values().filter(wanted);
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

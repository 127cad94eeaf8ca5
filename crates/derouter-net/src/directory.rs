//! Who announces what now (wire 0.2). Pure: the caller gives the time, and does what is said.
//!
//! Cheap checks come before the signature check, so that a duplicate, an old announcement or one
//! over a limit costs none. What is stored is bounded in announcements and in bytes of lists; at
//! the limit newcomers are refused, and nothing that is known is pushed out.

mod floors;
mod lists;
mod senders;

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
use floors::Floors;
use lists::{ListState, Wanted};
pub(crate) use lists::{PullOutcome, PullPlan};
use senders::Senders;

/// How far a provider's clock may be off, either way.
const MAX_SKEW_SECONDS: u64 = 3600;
/// Announcements of one provider. Ours never come faster than one a second; the burst is for those
/// that were held up.
const SOURCE_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};

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
    expires: Instant,
    id: [u8; 32],
    shard: u8,
    /// Who gave it to us, who is believed as to where the provider is.
    forwarder: PeerId,
    summary: Option<ListSummary>,
    list: ListState,
    rate: Bucket,
}

/// Where a provider announces that it is reached.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    pub(crate) peer: PeerId,
    /// Who gave us the announcement.
    pub(crate) teller: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// What is announced now.
#[derive(Debug)]
pub(crate) struct Directory {
    local: PeerId,
    /// Providers whose announcements are not taken, whoever forwards them: the operator's list.
    blocked: HashSet<PeerId>,
    entries: HashMap<PeerId, Entry>,
    by_id: HashMap<[u8; 32], PeerId>,
    floors: Floors,
    senders: Senders,
    wanted: Wanted,
    /// Bytes of the lists that are here.
    list_bytes: usize,
    signature_checks: u64,
}

impl Directory {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            blocked: HashSet::new(),
            entries: HashMap::new(),
            by_id: HashMap::new(),
            floors: Floors::default(),
            senders: Senders::default(),
            wanted: Wanted::default(),
            list_bytes: 0,
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
        let unwanted = peer == self.local || self.blocked.contains(&peer);
        if unwanted || !self.is_newer(&signed) {
            return Verdict::Old;
        }
        let Some(lasting) = lasting(&signed, arrival.remaining, clock) else {
            return Verdict::OffClock(signed.body.issued_at > clock);
        };
        if lasting.is_zero() {
            return Verdict::Old;
        }
        if let Some(refusal) = self.refuse(&arrival, &peer, now) {
            return refusal;
        }
        self.signature_checks += 1;
        if !signed.verify() {
            return Verdict::Forged;
        }
        let complete = self.store(&signed, arrival, now + lasting, now);
        Verdict::New {
            provider: peer,
            complete,
        }
    }

    fn is_newer(&self, signed: &SignedAnnouncement) -> bool {
        let peer = &signed.body.peer;
        let known = self.entries.get(peer).map(|entry| entry.sequence);
        let floor = known.max(self.floors.get(peer));
        floor.is_none_or(|floor| signed.body.sequence > floor)
    }

    /// Rates and room, before the signature is looked at.
    fn refuse(&mut self, arrival: &Arrival<'_>, peer: &PeerId, now: Instant) -> Option<Verdict> {
        let is_new = !self.entries.contains_key(peer);
        if is_new && self.entries.len() >= limits::ANNOUNCEMENTS {
            return Some(Verdict::Full);
        }
        if !self.senders.may_send(arrival.forwarder, is_new, now) {
            return Some(Verdict::TooMany);
        }
        let entry = self.entries.get(peer)?;
        let ready = entry.rate.ready_at(SOURCE_RATE, 1, now) <= now;
        (!ready).then_some(Verdict::TooMany)
    }

    /// Whether there is nothing left to pull.
    fn store(
        &mut self,
        signed: &SignedAnnouncement,
        arrival: Arrival<'_>,
        expires: Instant,
        now: Instant,
    ) -> bool {
        let peer = signed.body.peer;
        let mut rate = Bucket::default();
        let mut held = None;
        if let Some(old) = self.remove(&peer) {
            rate = old.rate;
            if let (Some(summary), ListState::Here(list)) = (old.summary, old.list) {
                held = Some((summary, list));
            }
        }
        rate.take(SOURCE_RATE, 1, now);
        let list = self.list_state(signed.body.list, held, arrival.forwarder, peer, now);
        let complete = !matches!(list, ListState::Wanted);
        let entry = Entry {
            forwarder: arrival.forwarder,
            rate,
            ..entry(signed, arrival.bytes, expires, list)
        };
        self.insert(peer, entry);
        complete
    }

    /// What is known of a list when its announcement comes in.
    fn list_state(
        &mut self,
        summary: Option<ListSummary>,
        held: Option<(ListSummary, Arc<[u8]>)>,
        forwarder: PeerId,
        peer: PeerId,
        now: Instant,
    ) -> ListState {
        let Some(summary) = summary else {
            return ListState::None;
        };
        if let Some((known, list)) = held
            && known == summary
        {
            return ListState::Here(list);
        }
        let bytes = usize::try_from(summary.bytes).unwrap_or(usize::MAX);
        if self.list_bytes.saturating_add(bytes) > limits::LIST_BYTES_TOTAL {
            return ListState::NoRoom;
        }
        self.wanted.want(peer, summary, forwarder, now);
        ListState::Wanted
    }

    /// Takes in what this node announces itself, so that others get it from here like any other.
    pub(crate) fn insert_own(
        &mut self,
        signed: &SignedAnnouncement,
        list: Option<Arc<[u8]>>,
        now: Instant,
    ) -> Arc<[u8]> {
        self.remove(&self.local.clone());
        let lasting = Duration::from_secs(u64::from(signed.body.lasts));
        let list = list.map_or(ListState::None, ListState::Here);
        let bytes = signed.encode();
        let own = entry(signed, &bytes, now + lasting, list);
        let bytes = Arc::clone(&own.bytes);
        self.insert(self.local, own);
        bytes
    }

    fn insert(&mut self, peer: PeerId, entry: Entry) {
        if let ListState::Here(list) = &entry.list {
            self.list_bytes = self.list_bytes.saturating_add(list.len());
        }
        self.by_id.insert(entry.id, peer);
        self.entries.insert(peer, entry);
    }

    fn remove(&mut self, peer: &PeerId) -> Option<Entry> {
        let old = self.entries.remove(peer)?;
        self.by_id.remove(&old.id);
        self.wanted.forget(peer);
        if let ListState::Here(list) = &old.list {
            self.list_bytes = self.list_bytes.saturating_sub(list.len());
        }
        Some(old)
    }

    /// Forgets what no longer holds; the sequence numbers stay known until a replay would be
    /// refused for its age.
    pub(crate) fn expire(&mut self, now: Instant) {
        let over = |(peer, entry): (&PeerId, &Entry)| (entry.expires <= now).then_some(*peer);
        let gone: Vec<PeerId> = self.entries.iter().filter_map(over).collect();
        for peer in gone {
            if let Some(entry) = self.remove(&peer) {
                let until = entry.expires + Duration::from_secs(2 * MAX_SKEW_SECONDS);
                self.floors.keep(peer, entry.sequence, until);
            }
        }
        self.floors.expire(now);
    }

    /// The machine slept, and `Instant`s show nothing of `unseen` of it: everything is that much
    /// nearer to its end.
    pub(crate) fn slept(&mut self, unseen: Duration, now: Instant) {
        for entry in self.entries.values_mut() {
            let expires = entry.expires.checked_sub(unseen);
            // None: before the first `Instant` there is.
            entry.expires = expires.unwrap_or(now);
        }
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
            issued_at: entry.issued_at,
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
        let lasts = SignedAnnouncement::decode(&entry.bytes).ok()?.body.lasts;
        let left = entry.expires.saturating_duration_since(now);
        (left * 2 > Duration::from_secs(u64::from(lasts))).then(|| Arc::clone(&entry.bytes))
    }

    /// Where a provider says it is reached, if it does.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Option<Whereabouts> {
        let entry = self.entries.get(peer)?;
        let signed = SignedAnnouncement::decode(&entry.bytes).ok()?;
        let addresses = signed.body.addresses.into_iter();
        let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok());
        let whereabouts = Whereabouts {
            peer: *peer,
            teller: entry.forwarder,
            addresses: addresses.collect(),
        };
        (!whereabouts.addresses.is_empty()).then_some(whereabouts)
    }
}

fn entry(signed: &SignedAnnouncement, bytes: &[u8], expires: Instant, list: ListState) -> Entry {
    Entry {
        bytes: Arc::from(bytes),
        sequence: signed.body.sequence,
        issued_at: signed.body.issued_at,
        expires,
        id: signed.id(),
        shard: shard_of(&signed.body.peer),
        forwarder: signed.body.peer,
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

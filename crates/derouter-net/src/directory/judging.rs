//! What becomes of an announcement that comes in. The cheap checks come first, the signature last.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{SignedAnnouncement, shard_of};
use libp2p::PeerId;

use super::lists::ListState;
use super::shares::Origin;
use super::{
    Arrival, Directory, Entry, Listed, MAX_SKEW_SECONDS, ROOM_PART, ROOM_PAUSE, Times, Verdict,
    entry,
};
use crate::heartbeat::bucket::{Bucket, Rate};

/// Announcements of one provider. Ours never come faster than one a second; the burst is for those
/// that were held up.
const SOURCE_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};

/// How an announcement stands to what was heard of its provider.
#[derive(Debug, Clone, Copy)]
enum Standing {
    Newer,
    /// It is the one that holds.
    Known,
    /// It held, and nobody said that it still does; until this time somebody may.
    Over(Instant),
}

impl Directory {
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
        let elsewhere = self.shards & (1 << (shard_of(&peer) & 15)) == 0;
        if peer == self.local || elsewhere || self.blocked.contains(&peer) {
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
        if let Some((origin, count)) = crowd {
            self.next_room = Some(now + ROOM_PAUSE);
            self.drop_of(origin, count);
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
        let origin = self.origin_of(forwarder);
        let Some(entry) = self.entries.get_mut(&provider) else {
            return;
        };
        match (&entry.list, entry.summary) {
            (ListState::Wanted, _) => self.wanted.passed_on(provider, forwarder, now),
            // As costly as a new one, and counted as such.
            (ListState::Missing, Some(summary)) if self.senders.may_send(origin, true, now) => {
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
    ) -> Result<Option<(Origin, usize)>, Verdict> {
        let known = self.entries.get(peer).map(Box::as_ref);
        let too_soon = |entry: &Entry| entry.rate.ready_at(SOURCE_RATE, 1, now) > now;
        let (is_new, too_soon) = (known.is_none(), known.is_some_and(too_soon));
        let origin = self.origin_of(arrival.forwarder);
        if !self.senders.may_send(origin, is_new, now) || too_soon {
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
        let own = self.shares.of(origin);
        // Not below the share of who takes the room.
        let more = share.entries.saturating_sub(own.entries) / 2;
        let count = (self.room.announcements / ROOM_PART).max(1).min(more);
        (count > 0)
            .then_some(Some((largest, count)))
            .ok_or(Verdict::Full)
    }

    /// Drops so many announcements of an origin: first those without their list, then those that end
    /// first.
    fn drop_of(&mut self, origin: Origin, count: usize) {
        let mut worst: Vec<(bool, Instant, PeerId)> = self
            .brought_by(origin)
            .map(|(peer, entry)| (entry.list.is_here(), entry.expires, *peer))
            .collect();
        worst.sort_unstable();
        for (_, _, peer) in worst.into_iter().take(count) {
            self.end(&peer);
        }
    }

    /// The announcements that were brought by an origin, without our own.
    pub(super) fn brought_by(&self, origin: Origin) -> impl Iterator<Item = (&PeerId, &Entry)> {
        let entries = self.entries.iter().map(|(peer, entry)| (&**peer, &**entry));
        let others = entries.filter(|(peer, _)| **peer != self.local);
        others.filter(move |(_, entry)| self.shares.origin(entry.bringer) == Some(origin))
    }

    pub(super) fn origin_of(&self, peer: PeerId) -> Origin {
        let network = self.networks.get(&peer);
        network.map_or(Origin::Peer(peer), |network| Origin::Network(*network))
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
        let origin = self.origin_of(arrival.forwarder);
        let bringer = self.shares.add(arrival.forwarder, origin);
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

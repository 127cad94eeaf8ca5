//! The offers on the market now, and who offers them: an index in memory, fed by announcements
//! (wire 0.2) and heartbeats (0.1).
//!
//! A provider is *active* from an announcement for as long as that holds, or from a heartbeat until
//! [`EXPIRY`] without one. Offers of inactive providers are off the market; they are kept for a
//! while, because one that says "nothing changed" puts them back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use derouter_wire::announce::OfferListHash;
use derouter_wire::rpc::event::{OfferRemoved, ProviderHeartbeat};
use derouter_wire::rpc::record::{OfferSnapshot, ProviderRecord};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};

/// Without a heartbeat for this long a provider's offers are off the market: three heartbeats.
pub const EXPIRY: Duration = Duration::from_secs(90);

/// A provider heard within this time counts as active in `QueryActiveProviders` (wire 0.1).
pub const ACTIVE_PROVIDER: Duration = Duration::from_secs(60);

/// Providers kept, active or not: a hundred thousand, and room for those that come and go. At some
/// 500 bytes each, 60 megabytes.
pub const MAX_PROVIDERS: usize = 120_000;

/// Bytes of texts kept of other providers: what bounds memory when announcements are large. Room
/// for 100,000 providers of four ordinary offers each.
pub const MAX_TEXT_BYTES: usize = 96 * 1024 * 1024;

/// Now, by both clocks: the wall clock for records, the monotonic one for expiry.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub unix: UnixSeconds,
    /// Since the node's start, sleep of the machine included. It is of no concern how the wall clock
    /// is set.
    pub uptime: Duration,
}

/// What happened to the market, in the order in which watchers must learn of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferChange {
    /// A provider is new, or its details changed. Always before its offers' changes.
    ProviderUpdated(ProviderRecord),
    /// A provider was heard.
    ProviderHeartbeat(ProviderHeartbeat),
    /// An offer is on the market, new or changed.
    OfferUpdated(OfferSnapshot),
    /// An offer left the market.
    OfferRemoved(OfferRemoved),
}

/// What to do with a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// Older than what is known: drop it.
    Stale,
    /// Nothing changed: [`OfferIndex::heard`].
    Unchanged,
    /// Details or offers are new: store them, then [`OfferIndex::apply`].
    Changed,
}

#[derive(Debug)]
struct Provider {
    record: ProviderRecord,
    heard: Duration,
    by: Heard,
    active: bool,
    /// By protocol and offer id. A vector: most providers have one offer, for which the leaf of a
    /// tree takes ten times the memory.
    offers: Vec<OfferSnapshot>,
    text_bytes: usize,
}

/// How a provider was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// By a heartbeat (0.1).
    Heartbeat,
    /// By an announcement (0.2).
    Announcement {
        /// Of this list.
        list: OfferListHash,
        /// For how long it holds from when it was heard.
        lasting: Duration,
    },
}

impl Provider {
    fn lasting(&self) -> Duration {
        match self.by {
            Heard::Heartbeat => EXPIRY,
            Heard::Announcement { lasting, .. } => lasting,
        }
    }

    /// Whether it counts as active in `QueryActiveProviders`.
    fn counts(&self, now: Duration) -> bool {
        let silent = now.saturating_sub(self.heard);
        self.active
            && match self.by {
                Heard::Heartbeat => silent < ACTIVE_PROVIDER,
                Heard::Announcement { lasting, .. } => silent < lasting,
            }
    }

    /// Of `offers` only what was known stays, with the details that were. All of it is taken in
    /// anew with the next announcement: none has this hash, and the record is the old one.
    fn without_what_is_new(
        &self,
        offers: &mut Vec<OfferSnapshot>,
        by: Heard,
    ) -> (ProviderRecord, Heard) {
        offers.retain(|offer| {
            let (protocol_id, offer_id) = name(offer);
            let known = self.offer(protocol_id, offer_id);
            known.is_some_and(|known| known.snapshot_id == offer.snapshot_id)
        });
        let by = match by {
            Heard::Heartbeat => by,
            Heard::Announcement { lasting, .. } => Heard::Announcement {
                list: OfferListHash([0; 32]),
                lasting,
            },
        };
        (self.record.clone(), by)
    }

    fn offer(&self, protocol_id: &ProtocolId, offer_id: &OfferId) -> Option<&OfferSnapshot> {
        let named = |offer: &OfferSnapshot| name(offer).cmp(&(protocol_id, offer_id));
        let place = self.offers.binary_search_by(named).ok()?;
        self.offers.get(place)
    }
}

fn name(offer: &OfferSnapshot) -> (&ProtocolId, &OfferId) {
    (&offer.protocol_id, &offer.offer_id)
}

/// The index. Owned by one task; readers get copies.
#[derive(Debug)]
pub struct OfferIndex {
    local: PeerId,
    /// A peer id takes eighty bytes, and there is one of each provider for both maps.
    /// Boxed: a table of a hundred thousand providers has room for thirty thousand more, and is copied when
    /// it grows.
    providers: HashMap<Arc<PeerId>, Box<Provider>>,
    by_snapshot: HashMap<SnapshotId, Arc<PeerId>>,
    /// The sum over all providers.
    text_bytes: usize,
    /// The inactive ones, by when they were heard last.
    idle: BTreeSet<(Duration, PeerId)>,
}

impl OfferIndex {
    /// An empty index. The local node's own offers never expire.
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            providers: HashMap::new(),
            by_snapshot: HashMap::new(),
            text_bytes: 0,
            idle: BTreeSet::new(),
        }
    }

    /// Whether a heartbeat says anything new. `stored_updated_at` is what the database holds of a
    /// provider that this index does not know.
    pub fn assess(
        &self,
        provider: &PeerId,
        updated_at: UnixSeconds,
        stored_updated_at: Option<UnixSeconds>,
    ) -> Assessment {
        let Some(known) = self.providers.get(provider) else {
            return match stored_updated_at {
                Some(stored) if updated_at < stored => Assessment::Stale,
                _ => Assessment::Changed,
            };
        };
        match updated_at.cmp(&known.record.updated_at) {
            std::cmp::Ordering::Less => Assessment::Stale,
            std::cmp::Ordering::Equal => Assessment::Unchanged,
            std::cmp::Ordering::Greater => Assessment::Changed,
        }
    }

    /// Whether the provider is known here.
    pub fn knows(&self, provider: &PeerId) -> bool {
        self.providers.contains_key(provider)
    }

    /// Whether this list of the provider is what is known of it.
    pub fn holds(&self, provider: &PeerId, list: &OfferListHash) -> bool {
        let known = self.providers.get(provider).map(|known| known.by);
        matches!(known, Some(Heard::Announcement { list: known, .. }) if known == *list)
    }

    /// Whether an announcement of the provider holds. Its heartbeats, which may hold fewer offers,
    /// say nothing then.
    pub fn is_announced(&self, provider: &PeerId) -> bool {
        let known = self.providers.get(provider);
        known.is_some_and(|known| known.active && known.by != Heard::Heartbeat)
    }

    /// A heartbeat without changes.
    pub fn heard(&mut self, provider: &PeerId, now: Now) -> Vec<OfferChange> {
        self.renew(provider, Heard::Heartbeat, now)
    }

    /// A heartbeat or announcement without changes.
    pub fn renew(&mut self, provider: &PeerId, by: Heard, now: Now) -> Vec<OfferChange> {
        let heard = now.uptime;
        let Some(known) = self.providers.get_mut(provider) else {
            return Vec::new();
        };
        if !known.active {
            self.idle.remove(&(known.heard, *provider));
        }
        known.heard = heard;
        known.by = by;
        known.record.latest_heartbeat_at = now.unix;
        let beat = ProviderHeartbeat {
            peer_id: *provider,
            latest_heartbeat_at: now.unix,
        };
        let mut changes = vec![OfferChange::ProviderHeartbeat(beat)];
        if !known.active {
            known.active = true;
            let back: Vec<OfferSnapshot> = known.offers.clone();
            changes.extend(back.into_iter().map(|offer| self.put_on_market(offer)));
        }
        changes
    }

    /// A provider's details and whole set of offers, as just heard of by a heartbeat and stored.
    pub fn apply(
        &mut self,
        record: ProviderRecord,
        offers: Vec<OfferSnapshot>,
        now: Now,
    ) -> Vec<OfferChange> {
        self.apply_heard(record, offers, Heard::Heartbeat, now)
    }

    /// A provider's details and whole set of offers, as just heard and stored. When there is no
    /// room for them, those of its offers that were known already stay.
    pub fn apply_heard(
        &mut self,
        mut record: ProviderRecord,
        mut offers: Vec<OfferSnapshot>,
        mut by: Heard,
        now: Now,
    ) -> Vec<OfferChange> {
        let peer = record.peer_id;
        let mut text_bytes = bytes_of(&record, &offers);
        if peer != self.local && !self.make_room(&peer, text_bytes) {
            let Some(known) = self.providers.get(&peer) else {
                return Vec::new();
            };
            (record, by) = known.without_what_is_new(&mut offers, by);
            text_bytes = bytes_of(&record, &offers);
        }
        record.latest_heartbeat_at = now.unix;
        let beat = ProviderHeartbeat {
            peer_id: peer,
            latest_heartbeat_at: now.unix,
        };
        let mut changes = Vec::new();
        let before = self.remove(&peer);
        for gone in before.iter().flat_map(|old| &old.offers) {
            self.by_snapshot.remove(&gone.snapshot_id);
        }
        let new_details = before
            .as_ref()
            .is_none_or(|old| details_differ(&old.record, &record));
        if new_details {
            changes.push(OfferChange::ProviderUpdated(record.clone()));
        }
        changes.push(OfferChange::ProviderHeartbeat(beat));

        let id = Arc::new(peer);
        let was_active = before.as_ref().is_some_and(|old| old.active);
        offers.sort_by(|one, other| name(one).cmp(&name(other)));
        for offer in &offers {
            let (protocol_id, offer_id) = name(offer);
            let known = before
                .as_ref()
                .and_then(|old| old.offer(protocol_id, offer_id));
            let same = known.is_some_and(|known| known.snapshot_id == offer.snapshot_id);
            if !same || !was_active {
                changes.push(OfferChange::OfferUpdated(offer.clone()));
            }
            self.by_snapshot.insert(offer.snapshot_id, Arc::clone(&id));
        }
        offers.shrink_to_fit();
        let provider = Provider {
            record,
            heard: now.uptime,
            by,
            active: true,
            offers,
            text_bytes,
        };
        let gone = before.iter().filter(|old| old.active);
        let gone = gone.flat_map(|old| &old.offers).filter(|old| {
            let (protocol_id, offer_id) = name(old);
            provider.offer(protocol_id, offer_id).is_none()
        });
        changes.extend(gone.map(|gone| OfferChange::OfferRemoved(removal(gone))));
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        self.providers.insert(id, Box::new(provider));
        changes
    }

    /// A provider says that it provides nothing. It is forgotten, so that whatever it says next is
    /// taken in whole.
    pub fn withdraw(&mut self, provider: &PeerId) -> Vec<OfferChange> {
        let Some(gone) = self.remove(provider) else {
            return Vec::new();
        };
        for offer in &gone.offers {
            self.by_snapshot.remove(&offer.snapshot_id);
        }
        let told = gone.offers.iter().filter(|_| gone.active);
        told.map(|offer| OfferChange::OfferRemoved(removal(offer)))
            .collect()
    }

    /// The snapshot of an offer of this node, if it is on the market with this payload.
    pub fn own_snapshot(&self, name: &(ProtocolId, OfferId), payload: &str) -> Option<SnapshotId> {
        let offer = self.providers.get(&self.local)?.offer(&name.0, &name.1)?;
        (offer.protocol_payload == payload).then_some(offer.snapshot_id)
    }

    /// Takes the offers of silent providers off the market. To be called every few seconds.
    pub fn expire(&mut self, now: Now) -> Vec<OfferChange> {
        let mut changes = Vec::new();
        for (peer, provider) in &mut self.providers {
            let silent = now.uptime.saturating_sub(provider.heard);
            if **peer == self.local || !provider.active || silent < provider.lasting() {
                continue;
            }
            provider.active = false;
            self.idle.insert((provider.heard, **peer));
            for offer in &provider.offers {
                self.by_snapshot.remove(&offer.snapshot_id);
                changes.push(OfferChange::OfferRemoved(removal(offer)));
            }
        }
        changes
    }

    /// The offers on the market.
    pub fn active_offers(&self) -> impl Iterator<Item = &OfferSnapshot> {
        let active = self.providers.values().filter(|provider| provider.active);
        active.flat_map(|provider| &provider.offers)
    }

    /// The snapshots that are on the market or may come back to it.
    pub fn known_snapshots(&self) -> impl Iterator<Item = SnapshotId> {
        let offers = self
            .providers
            .values()
            .flat_map(|provider| &provider.offers);
        offers.map(|offer| offer.snapshot_id)
    }

    /// An offer that is on the market.
    pub fn active_offer(&self, id: SnapshotId) -> Option<&OfferSnapshot> {
        let provider = self.providers.get(self.by_snapshot.get(&id)?)?;
        provider.offers.iter().find(|offer| offer.snapshot_id == id)
    }

    /// Whether this snapshot is on the market.
    pub fn is_active(&self, id: SnapshotId) -> bool {
        self.by_snapshot.contains_key(&id)
    }

    /// Providers whose announcement holds or that were heard within [`ACTIVE_PROVIDER`], and this
    /// node while it offers anything.
    pub fn active_providers(&self, now: Now) -> impl Iterator<Item = &ProviderRecord> {
        let now = now.uptime;
        let fresh = move |(peer, provider): &(&PeerId, &Provider)| {
            let own = **peer == self.local && !provider.offers.is_empty();
            own || (**peer != self.local && provider.counts(now))
        };
        self.providers
            .iter()
            .map(|(peer, provider)| (&**peer, &**provider))
            .filter(fresh)
            .map(|(_, provider)| &provider.record)
    }

    /// A provider as last heard in this run of the node.
    pub fn provider(&self, peer: &PeerId) -> Option<&ProviderRecord> {
        self.providers.get(peer).map(|provider| &provider.record)
    }

    fn put_on_market(&mut self, offer: OfferSnapshot) -> OfferChange {
        let known = self.providers.get_key_value(&offer.provider_peer_id);
        if let Some((id, _)) = known {
            self.by_snapshot.insert(offer.snapshot_id, Arc::clone(id));
        }
        OfferChange::OfferUpdated(offer)
    }

    /// Drops the longest-silent inactive providers until this one fits. False: too much of what
    /// is kept is active.
    fn make_room(&mut self, peer: &PeerId, text_bytes: usize) -> bool {
        while !self.fits(peer, text_bytes) {
            let mut idle = self.idle.iter().map(|(_, idle)| *idle);
            let Some(oldest) = idle.find(|idle| idle != peer) else {
                return false;
            };
            self.remove(&oldest);
        }
        true
    }

    fn fits(&self, peer: &PeerId, text_bytes: usize) -> bool {
        let known = self.providers.get(peer);
        let others = self.providers.len() - usize::from(known.is_some());
        let own = known.map_or(0, |known| known.text_bytes);
        let bytes = self
            .text_bytes
            .saturating_sub(own)
            .saturating_add(text_bytes);
        others < MAX_PROVIDERS && (bytes <= MAX_TEXT_BYTES || text_bytes <= own)
    }

    fn remove(&mut self, peer: &PeerId) -> Option<Box<Provider>> {
        let gone = self.providers.remove(peer)?;
        if !gone.active {
            self.idle.remove(&(gone.heard, *peer));
        }
        self.text_bytes = self.text_bytes.saturating_sub(gone.text_bytes);
        Some(gone)
    }
}

/// What a provider's texts take.
fn bytes_of(record: &ProviderRecord, offers: &[OfferSnapshot]) -> usize {
    let details = [&record.name, &record.teaser, &record.description];
    let details: usize = details.into_iter().flatten().map(String::len).sum();
    let offers = offers.iter().map(|offer| {
        let names = offer.protocol_id.as_str().len() + offer.offer_id.as_str().len();
        names + offer.protocol_payload.len()
    });
    details + offers.sum::<usize>()
}

fn removal(offer: &OfferSnapshot) -> OfferRemoved {
    OfferRemoved {
        snapshot_id: offer.snapshot_id,
        provider_peer_id: offer.provider_peer_id,
        protocol_id: offer.protocol_id.clone(),
        offer_id: offer.offer_id.clone(),
    }
}

fn details_differ(old: &ProviderRecord, new: &ProviderRecord) -> bool {
    let details = |record: &ProviderRecord| {
        (
            record.name.clone(),
            record.teaser.clone(),
            record.description.clone(),
        )
    };
    details(old) != details(new)
}

#[cfg(test)]
mod tests;

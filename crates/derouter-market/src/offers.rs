//! The offers on the market now, and who offers them: an index in memory, fed by heartbeats.
//!
//! A provider is *active* from a heartbeat until [`EXPIRY`] without one. Offers of inactive
//! providers are off the market; they are kept for a while, because a heartbeat that says "nothing
//! changed" puts them back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use derouter_wire::rpc::event::{OfferRemoved, ProviderHeartbeat};
use derouter_wire::rpc::record::{OfferSnapshot, ProviderRecord};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};

/// Without a heartbeat for this long a provider's offers are off the market: three heartbeats.
pub const EXPIRY: Duration = Duration::from_secs(90);

/// A provider heard within this time counts as active in `QueryActiveProviders` (wire 0.1).
pub const ACTIVE_PROVIDER: Duration = Duration::from_secs(60);

/// Providers kept, active or not. At some 400 bytes and a few offers each, tens of megabytes.
pub const MAX_PROVIDERS: usize = 20_000;

/// Bytes of texts kept of other providers: what bounds memory when announcements are large. Room
/// for 20,000 providers of ten ordinary offers each.
pub const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// Now, by both clocks: the wall clock for records, the monotonic one for expiry.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub unix: UnixSeconds,
    /// Since the node's start; never jumps.
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
    active: bool,
    offers: BTreeMap<(ProtocolId, OfferId), OfferSnapshot>,
    text_bytes: usize,
}

/// The index. Owned by one task; readers get copies.
#[derive(Debug)]
pub struct OfferIndex {
    local: PeerId,
    providers: HashMap<PeerId, Provider>,
    by_snapshot: HashMap<SnapshotId, (PeerId, ProtocolId, OfferId)>,
    /// The sum over all providers.
    text_bytes: usize,
}

impl OfferIndex {
    /// An empty index. The local node's own offers never expire.
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            providers: HashMap::new(),
            by_snapshot: HashMap::new(),
            text_bytes: 0,
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

    /// A heartbeat without changes.
    pub fn heard(&mut self, provider: &PeerId, now: Now) -> Vec<OfferChange> {
        let Some(known) = self.providers.get_mut(provider) else {
            return Vec::new();
        };
        known.heard = now.uptime;
        known.record.latest_heartbeat_at = now.unix;
        let beat = ProviderHeartbeat {
            peer_id: *provider,
            latest_heartbeat_at: now.unix,
        };
        let mut changes = vec![OfferChange::ProviderHeartbeat(beat)];
        if !known.active {
            known.active = true;
            let back: Vec<OfferSnapshot> = known.offers.values().cloned().collect();
            changes.extend(back.into_iter().map(|offer| self.put_on_market(offer)));
        }
        changes
    }

    /// A provider's details and whole set of offers, as just heard and stored.
    pub fn apply(
        &mut self,
        record: ProviderRecord,
        offers: Vec<OfferSnapshot>,
        now: Now,
    ) -> Vec<OfferChange> {
        let peer = record.peer_id;
        let text_bytes = text_bytes(&record, &offers);
        if peer != self.local && !self.make_room(&peer, text_bytes) {
            return self.withdraw(&peer);
        }
        let beat = ProviderHeartbeat {
            peer_id: peer,
            latest_heartbeat_at: now.unix,
        };
        let mut changes = Vec::new();
        let before = self.remove(&peer);
        for gone in before.iter().flat_map(|old| old.offers.values()) {
            self.by_snapshot.remove(&gone.snapshot_id);
        }
        let new_details = before
            .as_ref()
            .is_none_or(|old| details_differ(&old.record, &record));
        if new_details {
            changes.push(OfferChange::ProviderUpdated(record.clone()));
        }
        changes.push(OfferChange::ProviderHeartbeat(beat));

        let (was_active, mut old) =
            before.map_or((false, BTreeMap::new()), |old| (old.active, old.offers));
        let mut fresh = BTreeMap::new();
        for offer in offers {
            let name = (offer.protocol_id.clone(), offer.offer_id.clone());
            let same = old
                .remove(&name)
                .filter(|known| known.snapshot_id == offer.snapshot_id);
            if same.is_none() || !was_active {
                changes.push(OfferChange::OfferUpdated(offer.clone()));
            }
            fresh.insert(name, offer);
        }
        if was_active {
            changes.extend(
                old.values()
                    .map(|gone| OfferChange::OfferRemoved(removal(gone))),
            );
        }
        for (name, offer) in &fresh {
            let place = (peer, name.0.clone(), name.1.clone());
            self.by_snapshot.insert(offer.snapshot_id, place);
        }
        let provider = Provider {
            record,
            heard: now.uptime,
            active: true,
            offers: fresh,
            text_bytes,
        };
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        self.providers.insert(peer, provider);
        changes
    }

    /// A provider says that it provides nothing. It is forgotten, so that whatever it says next is
    /// taken in whole.
    pub fn withdraw(&mut self, provider: &PeerId) -> Vec<OfferChange> {
        let Some(gone) = self.remove(provider) else {
            return Vec::new();
        };
        for offer in gone.offers.values() {
            self.by_snapshot.remove(&offer.snapshot_id);
        }
        let told = gone.offers.values().filter(|_| gone.active);
        told.map(|offer| OfferChange::OfferRemoved(removal(offer)))
            .collect()
    }

    /// The snapshot of an offer of this node, if it is on the market with this payload.
    pub fn own_snapshot(&self, name: &(ProtocolId, OfferId), payload: &str) -> Option<SnapshotId> {
        let offer = self.providers.get(&self.local)?.offers.get(name)?;
        (offer.protocol_payload == payload).then_some(offer.snapshot_id)
    }

    /// Takes the offers of silent providers off the market.
    pub fn expire(&mut self, now: Now) -> Vec<OfferChange> {
        let mut changes = Vec::new();
        for (peer, provider) in &mut self.providers {
            let silent = now.uptime.saturating_sub(provider.heard);
            if *peer == self.local || !provider.active || silent < EXPIRY {
                continue;
            }
            provider.active = false;
            for offer in provider.offers.values() {
                self.by_snapshot.remove(&offer.snapshot_id);
                changes.push(OfferChange::OfferRemoved(removal(offer)));
            }
        }
        changes
    }

    /// The offers on the market.
    pub fn active_offers(&self) -> impl Iterator<Item = &OfferSnapshot> {
        let active = self.providers.values().filter(|provider| provider.active);
        active.flat_map(|provider| provider.offers.values())
    }

    /// The snapshots that are on the market or may come back to it.
    pub fn known_snapshots(&self) -> impl Iterator<Item = SnapshotId> {
        let offers = self
            .providers
            .values()
            .flat_map(|provider| provider.offers.values());
        offers.map(|offer| offer.snapshot_id)
    }

    /// An offer that is on the market.
    pub fn active_offer(&self, id: SnapshotId) -> Option<&OfferSnapshot> {
        let (peer, protocol_id, offer_id) = self.by_snapshot.get(&id)?;
        self.providers
            .get(peer)?
            .offers
            .get(&(protocol_id.clone(), offer_id.clone()))
    }

    /// Whether this snapshot is on the market.
    pub fn is_active(&self, id: SnapshotId) -> bool {
        self.by_snapshot.contains_key(&id)
    }

    /// Providers heard within [`ACTIVE_PROVIDER`], and this node while it offers anything.
    pub fn active_providers(&self, now: Now) -> impl Iterator<Item = &ProviderRecord> {
        let fresh = move |(peer, provider): &(&PeerId, &Provider)| {
            let own = **peer == self.local && !provider.offers.is_empty();
            let silent = now.uptime.saturating_sub(provider.heard);
            own || (**peer != self.local && provider.active && silent < ACTIVE_PROVIDER)
        };
        self.providers
            .iter()
            .filter(fresh)
            .map(|(_, provider)| &provider.record)
    }

    /// A provider as last heard in this run of the node.
    pub fn provider(&self, peer: &PeerId) -> Option<&ProviderRecord> {
        self.providers.get(peer).map(|provider| &provider.record)
    }

    fn put_on_market(&mut self, offer: OfferSnapshot) -> OfferChange {
        let place = (
            offer.provider_peer_id,
            offer.protocol_id.clone(),
            offer.offer_id.clone(),
        );
        self.by_snapshot.insert(offer.snapshot_id, place);
        OfferChange::OfferUpdated(offer)
    }

    /// Drops the longest-silent inactive providers until this one fits. False: too much of what
    /// is kept is active.
    fn make_room(&mut self, peer: &PeerId, text_bytes: usize) -> bool {
        loop {
            let known = self.providers.get(peer);
            let others = self.providers.len() - usize::from(known.is_some());
            let own = known.map_or(0, |known| known.text_bytes);
            let bytes = self
                .text_bytes
                .saturating_sub(own)
                .saturating_add(text_bytes);
            if others < MAX_PROVIDERS && bytes <= MAX_TEXT_BYTES {
                return true;
            }
            let idle = |(other, provider): &(&PeerId, &Provider)| {
                !provider.active && *other != peer && **other != self.local
            };
            let inactive = self.providers.iter().filter(idle);
            let oldest = inactive.min_by_key(|(_, provider)| provider.heard);
            let Some(oldest) = oldest.map(|(peer, _)| *peer) else {
                return false;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, peer: &PeerId) -> Option<Provider> {
        let gone = self.providers.remove(peer)?;
        self.text_bytes = self.text_bytes.saturating_sub(gone.text_bytes);
        Some(gone)
    }
}

/// What a provider's texts take.
fn text_bytes(record: &ProviderRecord, offers: &[OfferSnapshot]) -> usize {
    let details = [&record.name, &record.teaser, &record.description];
    let details: usize = details.into_iter().flatten().map(String::len).sum();
    let offers = offers.iter().map(|offer| {
        let names = offer.protocol_id.as_str().len() + offer.offer_id.as_str().len();
        // The names are kept twice: as the key and in the offer.
        2 * names + offer.protocol_payload.len()
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
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now {
            unix: UnixSeconds(1_000_000 + secs),
            uptime: Duration::from_secs(secs),
        }
    }

    fn record(peer: PeerId, updated_at: u64) -> ProviderRecord {
        ProviderRecord {
            peer_id: peer,
            name: Some("p".into()),
            teaser: None,
            description: None,
            updated_at: UnixSeconds(updated_at),
            latest_heartbeat_at: UnixSeconds(0),
        }
    }

    fn offer(peer: PeerId, snapshot: u64, name: &str) -> OfferSnapshot {
        OfferSnapshot {
            snapshot_id: SnapshotId(snapshot),
            active: true,
            provider_peer_id: peer,
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new(name).unwrap(),
            protocol_payload: format!("{snapshot}"),
        }
    }

    fn names(changes: &[OfferChange]) -> Vec<String> {
        let name = |change: &OfferChange| match change {
            OfferChange::ProviderUpdated(_) => "provider".into(),
            OfferChange::ProviderHeartbeat(_) => "beat".into(),
            OfferChange::OfferUpdated(offer) => format!("+{}", offer.snapshot_id),
            OfferChange::OfferRemoved(offer) => format!("-{}", offer.snapshot_id),
        };
        changes.iter().map(name).collect()
    }

    fn index() -> (OfferIndex, PeerId) {
        (OfferIndex::new(PeerId::random()), PeerId::random())
    }

    #[test]
    fn a_new_provider_is_told_before_its_offers() {
        let (mut index, peer) = index();
        assert_eq!(
            index.assess(&peer, UnixSeconds(5), None),
            Assessment::Changed
        );
        let changes = index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
        assert_eq!(names(&changes), ["provider", "beat", "+1"]);
        assert_eq!(index.active_offers().count(), 1);
    }

    #[test]
    fn only_what_changed_is_told() {
        let (mut index, peer) = index();
        index.apply(
            record(peer, 5),
            vec![offer(peer, 1, "a"), offer(peer, 2, "b")],
            at(0),
        );
        let changes = index.apply(
            record(peer, 6),
            vec![offer(peer, 1, "a"), offer(peer, 3, "c")],
            at(1),
        );
        assert_eq!(names(&changes), ["beat", "+3", "-2"]);
        let changes = index.apply(record(peer, 7), vec![offer(peer, 4, "a")], at(2));
        assert_eq!(names(&changes), ["beat", "+4", "-3"]);
        assert!(!index.is_active(SnapshotId(1)));
        assert_eq!(
            index.active_offer(SnapshotId(4)).unwrap().protocol_payload,
            "4"
        );
    }

    #[test]
    fn stale_announcements_are_known_as_such_also_after_a_restart() {
        let (mut index, peer) = index();
        let stored = Some(UnixSeconds(6));
        assert_eq!(
            index.assess(&peer, UnixSeconds(5), stored),
            Assessment::Stale
        );
        assert_eq!(
            index.assess(&peer, UnixSeconds(6), stored),
            Assessment::Changed
        );
        index.apply(record(peer, 6), Vec::new(), at(0));
        assert_eq!(index.assess(&peer, UnixSeconds(5), None), Assessment::Stale);
        assert_eq!(
            index.assess(&peer, UnixSeconds(6), None),
            Assessment::Unchanged
        );
        assert_eq!(
            index.assess(&peer, UnixSeconds(7), None),
            Assessment::Changed
        );
    }

    #[test]
    fn silence_takes_offers_off_the_market_and_a_heartbeat_puts_them_back() {
        let (mut index, peer) = index();
        index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
        assert!(index.expire(at(89)).is_empty());
        assert_eq!(index.active_providers(at(59)).count(), 1);
        assert_eq!(index.active_providers(at(61)).count(), 0);
        assert_eq!(names(&index.expire(at(90))), ["-1"]);
        assert!(index.expire(at(91)).is_empty(), "told once");
        assert_eq!(index.active_offers().count(), 0);
        assert!(!index.is_active(SnapshotId(1)));
        assert_eq!(names(&index.heard(&peer, at(100))), ["beat", "+1"]);
        assert!(index.is_active(SnapshotId(1)));
    }

    #[test]
    fn a_provider_that_withdraws_is_taken_in_whole_again() {
        let (mut index, peer) = index();
        index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
        assert_eq!(names(&index.withdraw(&peer)), ["-1"]);
        assert!(index.withdraw(&peer).is_empty());
        assert!(!index.is_active(SnapshotId(1)));
        let stored = Some(UnixSeconds(5));
        assert_eq!(
            index.assess(&peer, UnixSeconds(5), stored),
            Assessment::Changed
        );
    }

    #[test]
    fn own_offers_never_expire() {
        let local = PeerId::random();
        let mut index = OfferIndex::new(local);
        index.apply(record(local, 5), vec![offer(local, 1, "a")], at(0));
        assert!(index.expire(at(10_000)).is_empty());
        assert_eq!(index.active_providers(at(10_000)).count(), 1);
        let name = (ProtocolId::new("p").unwrap(), OfferId::new("a").unwrap());
        assert_eq!(index.own_snapshot(&name, "1"), Some(SnapshotId(1)));
        assert_eq!(index.own_snapshot(&name, "other"), None);
    }

    #[test]
    fn the_bytes_of_announcements_are_bounded() {
        let (mut index, _) = index();
        let large = |peer: PeerId, snapshot| OfferSnapshot {
            protocol_payload: "x".repeat(60_000),
            ..offer(peer, snapshot, "a")
        };
        let count = u64::try_from(MAX_TEXT_BYTES / 60_010).unwrap();
        for snapshot in 0..count {
            let peer = PeerId::random();
            let changes = index.apply(record(peer, 1), vec![large(peer, snapshot)], at(0));
            assert!(!changes.is_empty());
        }
        let late = PeerId::random();
        assert!(
            index
                .apply(record(late, 1), vec![large(late, count)], at(1))
                .is_empty()
        );
        assert!(index.text_bytes <= MAX_TEXT_BYTES);
        index.expire(at(200));
        assert!(
            !index
                .apply(record(late, 1), vec![large(late, count)], at(200))
                .is_empty()
        );
        // One that is known may announce again in place of what it had.
        assert!(
            !index
                .apply(record(late, 2), vec![large(late, count + 1)], at(201))
                .is_empty()
        );
        let counted: usize = index
            .providers
            .values()
            .map(|provider| provider.text_bytes)
            .sum();
        assert_eq!(counted, index.text_bytes);
    }

    #[test]
    fn the_number_of_providers_is_bounded_and_active_ones_are_never_pushed_out() {
        let (mut index, _) = index();
        for _ in 0..MAX_PROVIDERS {
            index.apply(record(PeerId::random(), 1), Vec::new(), at(0));
        }
        let late = PeerId::random();
        assert!(index.apply(record(late, 1), Vec::new(), at(1)).is_empty());
        assert!(!index.knows(&late));
        index.expire(at(200));
        assert!(!index.apply(record(late, 1), Vec::new(), at(200)).is_empty());
        assert!(index.knows(&late));
        assert_eq!(index.providers.len(), MAX_PROVIDERS);
    }
}

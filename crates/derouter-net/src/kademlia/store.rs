//! Provider records that others left here. libp2p's own store keeps those that expired until
//! somebody asks for them, so that junk would fill it for ever.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter;
use std::time::Instant;

use derouter_wire::kademlia::{KEY_BYTES, peer_key};
use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use rand::seq::SliceRandom;

use crate::address::Subnet;
use crate::limits;

/// A record of another node.
#[derive(Debug)]
struct Held {
    record: ProviderRecord,
    /// The network that it came from; `None` from a private one or through a relay.
    subnet: Option<Subnet>,
}

/// Provider records, bounded by key, by provider and in all. No value records.
pub(crate) struct ProviderStore {
    local: PeerId,
    own: HashMap<RecordKey, ProviderRecord>,
    others: HashMap<RecordKey, Vec<Held>>,
    /// Records of each provider, and in all.
    of_provider: HashMap<PeerId, usize>,
    records: usize,
    swept: Option<Instant>,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            own: HashMap::new(),
            others: HashMap::new(),
            of_provider: HashMap::new(),
            records: 0,
            swept: None,
        }
    }

    fn add_own(&mut self, record: ProviderRecord) -> Result<()> {
        let known = self.own.contains_key(&record.key);
        if !known && self.own.len() >= limits::KADEMLIA_RECORDS_PER_PROVIDER {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    /// Takes the record of another node, connected from `subnet`, as `now` is.
    pub(crate) fn add(
        &mut self,
        record: ProviderRecord,
        subnet: Option<Subnet>,
        now: Instant,
    ) -> Result<()> {
        let too_large = record.key.as_ref().len() != KEY_BYTES
            || record.addresses.len() > limits::KADEMLIA_ADDRESSES;
        if too_large {
            return Err(Error::ValueTooLarge);
        }
        if self.renew(&record) {
            return Ok(());
        }
        self.make_room(now);
        let of_provider = self.of_provider.get(&record.provider);
        if of_provider.is_some_and(|count| *count >= limits::KADEMLIA_RECORDS_PER_PROVIDER)
            || self.records >= limits::KADEMLIA_RECORDS
        {
            return Err(Error::MaxProvidedKeys);
        }
        self.insert(Held { record, subnet })
    }

    /// Replaces the record of the same provider.
    fn renew(&mut self, record: &ProviderRecord) -> bool {
        let known = self.others.get_mut(&record.key);
        let known = known.and_then(|known| known.iter_mut().find(|known| known.record == *record));
        let Some(known) = known else { return false };
        known.record = record.clone();
        true
    }

    fn insert(&mut self, held: Held) -> Result<()> {
        let key = held.record.key.clone();
        let there = self.others.get(&key).map_or(&[][..], Vec::as_slice);
        if there.iter().any(|other| is_of_its_peer(&other.record)) {
            // The key of a peer is its own.
            return Err(Error::MaxProvidedKeys);
        }
        if is_of_its_peer(&held.record) {
            // Whoever took the place meanwhile had no right to it.
            self.remove_key(&key);
        } else if held.subnet.is_some()
            && of_subnet(there, held.subnet) >= limits::KADEMLIA_RECORDS_PER_SUBNET
        {
            return Err(Error::MaxProvidedKeys);
        } else if there.len() >= limits::KADEMLIA_RECORDS_PER_KEY {
            let crowded = most_crowded(there, held.subnet).ok_or(Error::MaxProvidedKeys)?;
            self.remove_one(&key, &crowded);
        }
        *self.of_provider.entry(held.record.provider).or_default() += 1;
        self.records += 1;
        self.others.entry(key).or_default().push(held);
        Ok(())
    }

    /// Forgets what expired, when the store is full and this was not tried just now.
    fn make_room(&mut self, now: Instant) {
        let rested = |swept: Instant| now.duration_since(swept) >= limits::KADEMLIA_SWEEP;
        if self.records < limits::KADEMLIA_RECORDS || !self.swept.is_none_or(rested) {
            return;
        }
        self.swept = Some(now);
        let mut expired = Vec::new();
        for Held { record, .. } in self.others.values().flatten() {
            if record.is_expired(now) {
                expired.push((record.key.clone(), record.provider));
            }
        }
        for (key, provider) in expired {
            self.remove_one(&key, &provider);
        }
    }

    fn remove_key(&mut self, key: &RecordKey) {
        for held in self.others.remove(key).unwrap_or_default() {
            self.forget(&held.record.provider);
        }
    }

    fn remove_one(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(records) = self.others.get_mut(key) else {
            return;
        };
        let of_provider = |held: &Held| held.record.provider == *provider;
        let Some(place) = records.iter().position(of_provider) else {
            return;
        };
        records.swap_remove(place);
        if records.is_empty() {
            self.others.remove(key);
        }
        self.forget(provider);
    }

    fn forget(&mut self, provider: &PeerId) {
        self.records = self.records.saturating_sub(1);
        if let Some(count) = self.of_provider.get_mut(provider) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_provider.remove(provider);
            }
        }
    }
}

fn of_subnet(records: &[Held], subnet: Option<Subnet>) -> usize {
    let same = records.iter().filter(|held| held.subnet == subnet);
    same.count()
}

/// A provider of the network that has most places, if that is more than the newcomer's would then
/// have. Else those that are there stay, so that a flood of new peers drives nobody out.
fn most_crowded(records: &[Held], newcomer: Option<Subnet>) -> Option<PeerId> {
    let mut counts: HashMap<Option<Subnet>, usize> = HashMap::new();
    for held in records {
        *counts.entry(held.subnet).or_default() += 1;
    }
    let (subnet, most) = counts.iter().max_by_key(|(_, count)| **count)?;
    if *most <= counts.get(&newcomer).map_or(1, |count| count + 1) {
        return None;
    }
    let mut of_it = records.iter().filter(|held| held.subnet == *subnet);
    of_it.next().map(|held| held.record.provider)
}

/// Whether this is where a peer says its own addresses.
fn is_of_its_peer(record: &ProviderRecord) -> bool {
    record.key.as_ref() == peer_key(&record.provider).as_slice()
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Map<
        std::collections::hash_map::Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _key: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _record: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _key: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            return self.add_own(record);
        }
        self.add(record, None, Instant::now())
    }

    /// In random order: the first of them are told to askers, and should not always be the same.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let others = self.others.get(key).into_iter().flatten();
        let others = others.map(|held| &held.record);
        let mut all: Vec<_> = others.chain(self.own.get(key)).cloned().collect();
        all.shuffle(&mut rand::rng());
        all
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
            return;
        }
        self.remove_one(key, provider);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(key: u32, provider: PeerId, expires: Instant) -> ProviderRecord {
        let mut bytes = vec![0; KEY_BYTES];
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        let mut record = ProviderRecord::new(bytes, provider, Vec::new());
        record.expires = Some(expires);
        record
    }

    fn store() -> (ProviderStore, Instant, Instant) {
        let now = Instant::now();
        let store = ProviderStore::new(PeerId::random());
        (store, now, now + Duration::from_secs(3600))
    }

    #[test]
    fn a_provider_leaves_only_so_many_records_and_a_key_takes_only_so_many_providers() {
        let (mut store, now, later) = store();
        let greedy = PeerId::random();
        let taken =
            (0..1000).filter(|key| store.add(record(*key, greedy, later), None, now).is_ok());
        assert_eq!(taken.count(), limits::KADEMLIA_RECORDS_PER_PROVIDER);
        let (mut store, ..) = self::store();
        let first = PeerId::random();
        store.add(record(1, first, later), None, now).unwrap();
        for _ in 0..1000 {
            let _ = store.add(record(1, PeerId::random(), later), None, now);
        }
        let there = store.providers(&record(1, first, later).key);
        assert_eq!(there.len(), limits::KADEMLIA_RECORDS_PER_KEY);
        assert!(there.iter().any(|record| record.provider == first));
    }

    #[test]
    fn one_machine_does_not_take_a_key_and_crowded_networks_make_place() {
        let (mut store, now, later) = store();
        let net = |a: usize, b: usize| {
            Some(Subnet::V4([
                1,
                u8::try_from(a).unwrap(),
                u8::try_from(b).unwrap(),
            ]))
        };
        let mut add = |subnet| {
            let record = record(1, PeerId::random(), later);
            store.add(record, subnet, now).is_ok()
        };
        let taken = (0..100).filter(|_| add(net(0, 0))).count();
        assert_eq!(taken, limits::KADEMLIA_RECORDS_PER_SUBNET);
        // Many come from nowhere, and make place for who comes from a network of its own.
        while add(None) {}
        assert!(add(net(1, 1)));
        assert!(!add(None), "the place is not taken back");
        let newcomers = (0..200).filter(|one| add(net(2, *one))).count();
        assert!(
            newcomers >= limits::KADEMLIA_RECORDS_PER_KEY - 4,
            "{newcomers}"
        );
        assert!(!add(net(3, 3)), "one of each is left");
        let there = store.providers(&record(1, PeerId::random(), later).key);
        assert_eq!(there.len(), limits::KADEMLIA_RECORDS_PER_KEY);
        assert_eq!(store.records, limits::KADEMLIA_RECORDS_PER_KEY);
    }

    #[test]
    fn a_full_store_refuses_until_records_expire() {
        let (mut store, now, later) = store();
        let mut key = 0;
        while store.records < limits::KADEMLIA_RECORDS {
            key += 1;
            store
                .add(record(key, PeerId::random(), later), None, now)
                .unwrap();
        }
        let late = later + Duration::from_secs(3600);
        assert!(
            store
                .add(record(0, PeerId::random(), late), None, now)
                .is_err()
        );
        store
            .add(record(0, PeerId::random(), late), None, later)
            .unwrap();
        assert_eq!(store.records, 1);
        assert_eq!(store.of_provider.len(), 1);
        assert_eq!(store.others.len(), 1);
    }

    #[test]
    fn the_key_of_a_peer_is_its_own() {
        let (mut store, now, later) = store();
        let victim = PeerId::random();
        let key = RecordKey::from(peer_key(&victim).to_vec());
        let of = |provider| {
            let mut record = ProviderRecord::new(key.clone(), provider, Vec::new());
            record.expires = Some(later);
            record
        };
        for _ in 0..1000 {
            let _ = store.add(of(PeerId::random()), None, now);
        }
        store.add(of(victim), None, now).unwrap();
        assert!(store.add(of(PeerId::random()), None, now).is_err());
        store.add(of(victim), None, now).unwrap();
        let there = store.providers(&key);
        assert_eq!(there.len(), 1);
        assert_eq!(there[0].provider, victim);
        assert_eq!(store.records, 1);
    }

    #[test]
    fn junk_is_refused() {
        let (mut store, now, later) = store();
        let mut short = record(1, PeerId::random(), later);
        short.key = RecordKey::from(vec![1; 31]);
        assert!(store.add(short, None, now).is_err());
        let mut wordy = record(1, PeerId::random(), later);
        let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        wordy.addresses = vec![address; limits::KADEMLIA_ADDRESSES + 1];
        assert!(store.add(wordy, None, now).is_err());
        let value = Record::new(RecordKey::from(vec![1; 32]), vec![1]);
        assert!(store.put(value).is_err());
    }

    #[test]
    fn what_is_removed_is_no_longer_counted() {
        let (mut store, now, later) = store();
        let provider = PeerId::random();
        for key in 0..10 {
            store.add(record(key, provider, later), None, now).unwrap();
        }
        for key in 0..10 {
            store.remove_provider(&record(key, provider, later).key, &provider);
        }
        assert_eq!(store.records, 0);
        assert!(store.of_provider.is_empty() && store.others.is_empty());
    }
}

//! What a subscription has told its module, so that a full state of the node becomes the events
//! that are missing. Pure.

use std::collections::HashMap;

use derouter_sdk::{
    OfferId, OfferSnapshot, PeerId, ProtocolId, ProviderRecord, SnapshotId, UnixSeconds,
};
use derouter_wire::rpc::event::OfferRemoved;

/// Offers or providers that one subscription remembers. Beyond it events still flow; only the
/// difference after a gap tells some things twice.
const MAX_TOLD: usize = 50_000;

type OfferKey = (PeerId, ProtocolId, OfferId);

/// News of the offers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OfferNews {
    Updated(OfferSnapshot),
    Removed(OfferRemoved),
}

/// The offers that a module knows of.
#[derive(Default)]
pub(super) struct ToldOffers {
    begun: bool,
    offers: HashMap<OfferKey, SnapshotId>,
}

impl ToldOffers {
    /// Takes all active offers. Wire 0.1 tells what happens from now on, so the first time there
    /// is no news; later it is what changed in the gap.
    pub(super) fn reset(&mut self, all: Vec<OfferSnapshot>) -> Vec<OfferNews> {
        let before = std::mem::take(&mut self.offers);
        let mut gone = before.clone();
        let mut news = Vec::new();
        for offer in all {
            let key = offer_key(&offer);
            gone.remove(&key);
            let known = before.get(&key) == Some(&offer.snapshot_id);
            self.remember(key, offer.snapshot_id);
            if !known {
                news.push(OfferNews::Updated(offer));
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        news.extend(gone.into_iter().map(removed_news));
        news
    }

    pub(super) fn updated(&mut self, offer: &OfferSnapshot) {
        self.remember(offer_key(offer), offer.snapshot_id);
    }

    pub(super) fn removed(&mut self, offer: &OfferRemoved) {
        let provider = offer.provider_peer_id;
        let key = (provider, offer.protocol_id.clone(), offer.offer_id.clone());
        self.offers.remove(&key);
    }

    fn remember(&mut self, key: OfferKey, snapshot_id: SnapshotId) {
        if self.offers.len() < MAX_TOLD || self.offers.contains_key(&key) {
            self.offers.insert(key, snapshot_id);
        }
    }
}

fn offer_key(offer: &OfferSnapshot) -> OfferKey {
    let provider = offer.provider_peer_id;
    (provider, offer.protocol_id.clone(), offer.offer_id.clone())
}

fn removed_news((key, snapshot_id): (OfferKey, SnapshotId)) -> OfferNews {
    let (provider_peer_id, protocol_id, offer_id) = key;
    OfferNews::Removed(OfferRemoved {
        snapshot_id,
        provider_peer_id,
        protocol_id,
        offer_id,
    })
}

/// The providers that a module knows of.
#[derive(Default)]
pub(super) struct ToldProviders {
    begun: bool,
    providers: HashMap<PeerId, Told>,
}

struct Told {
    updated_at: UnixSeconds,
    /// Told before its turn, because an event that needs it came first.
    ahead: bool,
}

impl ToldProviders {
    /// Takes all active providers; like [`ToldOffers::reset`].
    pub(super) fn reset(&mut self, all: &[ProviderRecord]) -> Vec<ProviderRecord> {
        let begun = std::mem::replace(&mut self.begun, true);
        let known = |told: Option<&Told>, record: &ProviderRecord| {
            told.is_some_and(|told| told.updated_at == record.updated_at)
        };
        let is_news =
            |record: &ProviderRecord| begun && !known(self.providers.get(&record.peer_id), record);
        let news = all
            .iter()
            .filter(|record| is_news(record))
            .cloned()
            .collect();
        for record in all {
            self.remember(record, false);
        }
        news
    }

    /// Whether an update is news: the one that was told ahead of its turn is not.
    pub(super) fn updated(&mut self, record: &ProviderRecord) -> bool {
        let told = self.providers.get(&record.peer_id);
        let ahead = told.is_some_and(|told| told.ahead && told.updated_at == record.updated_at);
        self.remember(record, false);
        !ahead
    }

    pub(super) fn told_ahead(&mut self, record: &ProviderRecord) {
        self.remember(record, true);
    }

    pub(super) fn knows(&self, peer: &PeerId) -> bool {
        self.providers.contains_key(peer)
    }

    fn remember(&mut self, record: &ProviderRecord, ahead: bool) {
        let (peer, updated_at) = (record.peer_id, record.updated_at);
        if self.providers.len() < MAX_TOLD || self.providers.contains_key(&peer) {
            self.providers.insert(peer, Told { updated_at, ahead });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
        text.parse().unwrap()
    }

    fn offer(name: &str, snapshot: u64) -> OfferSnapshot {
        OfferSnapshot {
            snapshot_id: SnapshotId(snapshot),
            active: true,
            provider_peer_id: peer(),
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new(name).unwrap(),
            protocol_payload: "{}".into(),
        }
    }

    fn provider(updated_at: u64) -> ProviderRecord {
        ProviderRecord {
            peer_id: peer(),
            name: None,
            teaser: None,
            description: None,
            updated_at: UnixSeconds(updated_at),
            latest_heartbeat_at: UnixSeconds(updated_at),
        }
    }

    #[test]
    fn the_first_state_is_no_news_and_a_later_one_is_its_difference() {
        let mut told = ToldOffers::default();
        assert_eq!(
            told.reset(vec![offer("a", 1), offer("b", 2), offer("c", 3)]),
            []
        );
        told.updated(&offer("d", 4));
        let news = told.reset(vec![offer("a", 1), offer("b", 9), offer("d", 4)]);
        let removed = removed_news((offer_key(&offer("c", 3)), SnapshotId(3)));
        assert_eq!(news, [OfferNews::Updated(offer("b", 9)), removed]);
        assert_eq!(
            told.reset(vec![offer("a", 1), offer("b", 9), offer("d", 4)]),
            []
        );
    }

    #[test]
    fn an_offer_that_left_before_a_gap_is_not_removed_twice() {
        let mut told = ToldOffers::default();
        told.reset(vec![offer("a", 1)]);
        let OfferNews::Removed(removed) = removed_news((offer_key(&offer("a", 1)), SnapshotId(1)))
        else {
            panic!("not removed");
        };
        told.removed(&removed);
        assert_eq!(told.reset(vec![]), []);
    }

    #[test]
    fn a_provider_told_ahead_of_its_turn_is_not_told_again() {
        let mut told = ToldProviders::default();
        assert_eq!(told.reset(&[]), []);
        assert!(!told.knows(&peer()));
        told.told_ahead(&provider(5));
        assert!(told.knows(&peer()));
        assert!(!told.updated(&provider(5)));
        assert!(
            told.updated(&provider(5)),
            "a second time is news: it came back"
        );
        assert!(told.updated(&provider(6)));
    }

    #[test]
    fn providers_that_changed_in_a_gap_are_news() {
        let mut told = ToldProviders::default();
        assert_eq!(told.reset(&[provider(5)]), []);
        assert_eq!(told.reset(&[provider(5)]), []);
        assert_eq!(told.reset(&[provider(6)]), [provider(6)]);
    }
}

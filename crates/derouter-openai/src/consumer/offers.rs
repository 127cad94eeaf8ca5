//! The offers of the protocol, by model, as the node's events tell them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use derouter_sdk::{OfferEvent, OfferId, OfferSnapshot, PeerId, SnapshotId};

use crate::protocol::{OfferPayload, PROTOCOL, v0_2};
use crate::terms::Terms;

/// Offers that are kept, of all models. A market of that size is far off; past it new offers are
/// left out, and those that are known stay usable.
const MAX_OFFERS: usize = 20_000;

/// The largest context window that is believed, in tokens: above all there is today. It bounds
/// bills, so that one beyond all sense must not pass.
const MAX_CONTEXT_SIZE: u64 = 16 * 1024 * 1024;

/// An offer that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) snapshot_id: SnapshotId,
    pub(crate) provider: PeerId,
    pub(crate) offer_id: OfferId,
    pub(crate) terms: Arc<Terms>,
    /// Its payload, when it is one of `openai:0.1`.
    pub(crate) of_0_1: Option<OfferPayload>,
}

impl Offer {
    fn read(snapshot: OfferSnapshot) -> Option<Self> {
        let payload = &snapshot.protocol_payload;
        let (terms, of_0_1) = match snapshot.protocol_id.as_str() {
            PROTOCOL => {
                let payload = OfferPayload::parse(payload)?;
                (Terms::of_0_1(&payload), Some(payload))
            }
            v0_2::PROTOCOL => (v0_2::OfferPayload::parse(payload)?.terms(), None),
            _ => return None,
        };
        (terms.context <= MAX_CONTEXT_SIZE).then_some(Self {
            snapshot_id: snapshot.snapshot_id,
            provider: snapshot.provider_peer_id,
            offer_id: snapshot.offer_id,
            terms: Arc::new(terms),
            of_0_1,
        })
    }
}

type Key = (PeerId, OfferId);

/// What a provider offers under one name: with `openai:0.1`, with `openai:0.2`, or with both.
#[derive(Debug, Default)]
struct Versions {
    v0_1: Option<Arc<Offer>>,
    v0_2: Option<Arc<Offer>>,
}

impl Versions {
    /// The one that is used.
    fn best(&self) -> Option<&Arc<Offer>> {
        self.v0_2.as_ref().or(self.v0_1.as_ref())
    }

    fn of(&mut self, protocol: &str) -> Option<&mut Option<Arc<Offer>>> {
        match protocol {
            PROTOCOL => Some(&mut self.v0_1),
            v0_2::PROTOCOL => Some(&mut self.v0_2),
            _ => None,
        }
    }
}

/// The offers on the market.
#[derive(Debug, Default)]
pub(crate) struct OfferIndex {
    /// Whether the node has told its offers once.
    known: bool,
    offers: HashMap<Key, Versions>,
    /// By each of their models' names. Sorted, so that lists of models are.
    by_model: BTreeMap<String, Vec<Arc<Offer>>>,
    /// Offers left out for want of room since the last full state.
    left_out: u64,
}

impl OfferIndex {
    /// Takes over what happened.
    pub(crate) fn apply(&mut self, event: OfferEvent) {
        match event {
            OfferEvent::Reset(snapshots) => {
                *self = Self {
                    known: true,
                    ..Self::default()
                };
                for snapshot in snapshots {
                    self.put(snapshot);
                }
            }
            OfferEvent::Updated(snapshot) => self.put(snapshot),
            OfferEvent::Removed(removed) => {
                let key = (removed.provider_peer_id, removed.offer_id);
                self.set(&key, removed.protocol_id.as_str(), None);
            }
        }
    }

    /// Whether the node has told its offers.
    pub(crate) fn known(&self) -> bool {
        self.known
    }

    /// Offers left out because there are too many.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The offers of a model.
    pub(crate) fn of_model(&self, model: &str) -> &[Arc<Offer>] {
        self.by_model.get(model).map_or(&[], Vec::as_slice)
    }

    /// All offers, each once, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Offer>> {
        let best = self.offers.values().filter_map(Versions::best);
        best.cloned().collect()
    }

    /// All models with their offers, by name. None is without an offer.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&str, &[Arc<Offer>])> {
        self.by_model
            .iter()
            .map(|(model, offers)| (model.as_str(), offers.as_slice()))
    }

    fn put(&mut self, snapshot: OfferSnapshot) {
        let key = (snapshot.provider_peer_id, snapshot.offer_id.clone());
        let protocol = snapshot.protocol_id.clone();
        let offer = match snapshot.active {
            true => Offer::read(snapshot).map(Arc::new),
            false => None,
        };
        self.set(&key, protocol.as_str(), offer);
    }

    fn set(&mut self, key: &Key, protocol: &str, offer: Option<Arc<Offer>>) {
        let known = self.offers.contains_key(key);
        if offer.is_some() && !known && self.offers.len() >= MAX_OFFERS {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        if offer.is_none() && !known {
            return;
        }
        let versions = self.offers.entry(key.clone()).or_default();
        let before = versions.best().cloned();
        if let Some(place) = versions.of(protocol) {
            *place = offer;
        }
        let now = versions.best().cloned();
        if now.is_none() {
            self.offers.remove(key);
        }
        if let Some(before) = before {
            self.unlist(&before);
        }
        if let Some(now) = now {
            self.list(&now);
        }
    }

    fn list(&mut self, offer: &Arc<Offer>) {
        for model in &offer.terms.models {
            let offers = self.by_model.entry(model.clone()).or_default();
            // An offer may name a model twice.
            if !offers.iter().any(|listed| Arc::ptr_eq(listed, offer)) {
                offers.push(Arc::clone(offer));
            }
        }
    }

    fn unlist(&mut self, offer: &Arc<Offer>) {
        for model in &offer.terms.models {
            let Some(offers) = self.by_model.get_mut(model) else {
                continue;
            };
            offers.retain(|listed| !Arc::ptr_eq(listed, offer));
            if offers.is_empty() {
                self.by_model.remove(model);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::ProtocolId;
    use derouter_sdk::wire::rpc::event::OfferRemoved;

    fn snapshot(provider: PeerId, offer_id: &str, model: &str) -> OfferSnapshot {
        let payload = format!(
            r#"{{"model_id":"{model}","context_size":1,"input_token_price":{{"$pol":"1"}},"output_token_price":{{"$pol":"1"}}}}"#
        );
        OfferSnapshot {
            snapshot_id: SnapshotId(1),
            active: true,
            provider_peer_id: provider,
            protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
            offer_id: OfferId::new(offer_id).unwrap(),
            protocol_payload: payload,
        }
    }

    fn names(index: &OfferIndex) -> Vec<&str> {
        index.models().map(|(model, _)| model).collect()
    }

    #[test]
    fn an_update_replaces_the_offer_of_the_same_name() {
        let mut index = OfferIndex::default();
        assert!(!index.known());
        let provider = PeerId::random();
        index.apply(OfferEvent::Reset(vec![snapshot(provider, "a", "one")]));
        assert!(index.known());
        index.apply(OfferEvent::Updated(snapshot(provider, "a", "two")));
        assert_eq!(names(&index), ["two"]);
        index.apply(OfferEvent::Updated(snapshot(PeerId::random(), "a", "two")));
        assert_eq!(index.of_model("two").len(), 2);
    }

    #[test]
    fn removed_inactive_and_foreign_offers_are_not_there() {
        let mut index = OfferIndex::default();
        let provider = PeerId::random();
        let mut foreign = snapshot(provider, "f", "foreign");
        foreign.protocol_id = ProtocolId::new("other:1").unwrap();
        let mut broken = snapshot(provider, "b", "broken");
        broken.protocol_payload = "{}".into();
        let mut boundless = snapshot(provider, "x", "boundless");
        let context = r#""context_size":90000000000"#;
        let payload = boundless.protocol_payload;
        boundless.protocol_payload = payload.replace(r#""context_size":1"#, context);
        index.apply(OfferEvent::Reset(vec![
            snapshot(provider, "a", "one"),
            snapshot(provider, "c", "two"),
            foreign,
            broken,
            boundless,
        ]));
        assert_eq!(names(&index), ["one", "two"]);
        let mut gone = snapshot(provider, "c", "two");
        gone.active = false;
        index.apply(OfferEvent::Updated(gone));
        index.apply(OfferEvent::Removed(OfferRemoved {
            snapshot_id: SnapshotId(1),
            provider_peer_id: provider,
            protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
            offer_id: OfferId::new("a").unwrap(),
        }));
        assert_eq!(names(&index), [""; 0]);
        assert!(index.offers.is_empty());
    }

    #[test]
    fn a_flood_of_offers_leaves_the_known_ones() {
        let mut index = OfferIndex::default();
        let provider = PeerId::random();
        let flood = (0..=MAX_OFFERS).map(|n| snapshot(provider, &n.to_string(), "m"));
        index.apply(OfferEvent::Reset(flood.collect()));
        assert_eq!(index.of_model("m").len(), MAX_OFFERS);
        assert_eq!(index.left_out(), 1);
    }

    #[test]
    fn of_an_offer_in_both_versions_the_newer_is_used() {
        let mut index = OfferIndex::default();
        let provider = PeerId::random();
        let old = snapshot(provider, "a", "one");
        let mut new = snapshot(provider, "a", "");
        new.protocol_id = ProtocolId::new(v0_2::PROTOCOL).unwrap();
        new.protocol_payload = r#"{"models":["one","alias"],"endpoints":["chat/completions"],"context":1,"prices":{}}"#.into();
        index.apply(OfferEvent::Reset(vec![new.clone(), old.clone()]));
        let is_old = |index: &OfferIndex| {
            let offers = index.of_model("one");
            assert_eq!(offers.len(), 1);
            offers[0].of_0_1.is_some()
        };
        assert!(!is_old(&index));
        assert_eq!(names(&index), ["alias", "one"]);
        new.active = false;
        index.apply(OfferEvent::Updated(new.clone()));
        assert!(is_old(&index));
        assert_eq!(names(&index), ["one"]);
        new.active = true;
        index.apply(OfferEvent::Updated(new));
        assert!(!is_old(&index));
    }
}

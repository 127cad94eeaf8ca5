//! The prices that offers had, for whoever looks. Pure; the time is given.

use std::collections::{HashMap, VecDeque};

use derouter_sdk::{OfferId, PeerId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use super::offers::Offer;

/// Offers whose prices are followed. Those that were not seen for longest make room.
const MAX_OFFERS: usize = 5000;

/// Changes that are remembered of each.
const MAX_PRICES: usize = 32;

/// Of these, those that are kept over a restart: the file stays small.
const MAX_KEPT: usize = 16;

/// An offer that was not seen for so long is not kept.
const LONG_GONE_SECONDS: u64 = 30 * 24 * 60 * 60;

/// A price of an offer, of a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastPrice {
    /// Since when it had it.
    pub since: UnixSeconds,
    /// Of a prompt.
    pub input: Wei,
    /// Of an answer.
    pub output: Wei,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct PriceHistory {
    offers: HashMap<(PeerId, OfferId), Known>,
}

#[derive(Debug)]
struct Known {
    seen: UnixSeconds,
    /// Oldest first.
    prices: VecDeque<PastPrice>,
}

/// What is kept of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptPrices {
    provider: String,
    offer: OfferId,
    seen: UnixSeconds,
    prices: Vec<PastPrice>,
}

impl PriceHistory {
    /// Notes the price that an offer has now.
    pub(crate) fn note(&mut self, offer: &Offer, now: UnixSeconds) {
        let prices = &offer.terms.prices;
        let price = PastPrice {
            since: now,
            input: prices.input.of_million(),
            output: prices.output.of_million(),
        };
        self.note_one((offer.provider, offer.offer_id.clone()), price);
    }

    fn note_one(&mut self, key: (PeerId, OfferId), price: PastPrice) {
        if !self.offers.contains_key(&key) && self.offers.len() >= MAX_OFFERS {
            self.make_room();
        }
        let known = self.offers.entry(key).or_insert_with(|| Known {
            seen: price.since,
            prices: VecDeque::new(),
        });
        known.seen = known.seen.max(price.since);
        known.add(price);
    }

    /// The prices that an offer had, oldest first.
    pub(crate) fn of(&self, provider: &PeerId, offer: &OfferId) -> Vec<PastPrice> {
        let known = self.offers.get(&(*provider, offer.clone()));
        known.map_or_else(Vec::new, |known| known.prices.iter().copied().collect())
    }

    /// What is to be kept.
    pub(crate) fn keep(&self, now: UnixSeconds) -> Vec<KeptPrices> {
        let fresh = self
            .offers
            .iter()
            .filter(|(_, known)| now.0.saturating_sub(known.seen.0) < LONG_GONE_SECONDS);
        let keep = |((provider, offer), known): (&(PeerId, OfferId), &Known)| KeptPrices {
            provider: provider.to_string(),
            offer: offer.clone(),
            seen: known.seen,
            prices: {
                let old = known.prices.len().saturating_sub(MAX_KEPT);
                known.prices.iter().skip(old).copied().collect()
            },
        };
        fresh.map(keep).collect()
    }

    /// What was kept.
    pub(crate) fn recall(kept: Vec<KeptPrices>) -> Self {
        let mut history = Self::default();
        for kept in kept.into_iter().take(MAX_OFFERS) {
            let Ok(provider) = kept.provider.parse() else {
                continue;
            };
            let mut known = Known {
                seen: kept.seen,
                prices: VecDeque::new(),
            };
            kept.prices.into_iter().for_each(|price| known.add(price));
            history.offers.insert((provider, kept.offer), known);
        }
        history
    }

    fn make_room(&mut self) {
        let oldest = self.offers.iter().min_by_key(|(_, known)| known.seen);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.offers.remove(&key);
        }
    }
}

impl Known {
    fn add(&mut self, price: PastPrice) {
        let last = self.prices.back();
        if last.is_some_and(|last| last.input == price.input && last.output == price.output) {
            return;
        }
        if self.prices.len() >= MAX_PRICES {
            self.prices.pop_front();
        }
        self.prices.push_back(price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(since: u64, wei: u128) -> PastPrice {
        PastPrice {
            since: UnixSeconds(since),
            input: Wei::from_wei(wei),
            output: Wei::from_wei(2 * wei),
        }
    }

    fn key(id: usize) -> (PeerId, OfferId) {
        (PeerId::random(), OfferId::new(id.to_string()).unwrap())
    }

    #[test]
    fn changes_are_noted_and_outlast_a_restart() {
        let mut history = PriceHistory::default();
        let key = key(1);
        for (since, wei) in [(1, 5), (2, 5), (3, 7), (4, 5)] {
            history.note_one(key.clone(), price(since, wei));
        }
        let right = [price(1, 5), price(3, 7), price(4, 5)];
        assert_eq!(history.of(&key.0, &key.1), right);
        let text = serde_json::to_string(&history.keep(UnixSeconds(5))).unwrap();
        let again = PriceHistory::recall(serde_json::from_str(&text).unwrap());
        assert_eq!(again.of(&key.0, &key.1), right);
        let late = UnixSeconds(4 + LONG_GONE_SECONDS);
        assert!(history.keep(late).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut history = PriceHistory::default();
        let first = key(0);
        history.note_one(first.clone(), price(0, 1));
        for n in 1..=MAX_OFFERS {
            let since = u64::try_from(n).unwrap();
            history.note_one(key(n), price(since, 1));
        }
        assert_eq!(history.offers.len(), MAX_OFFERS);
        assert!(history.of(&first.0, &first.1).is_empty(), "the oldest goes");
        let last = key(1);
        for n in 0..100 {
            history.note_one(last.clone(), price(n, u128::from(n)));
        }
        assert_eq!(history.of(&last.0, &last.1).len(), MAX_PRICES);
        let kept = history.keep(UnixSeconds(MAX_OFFERS.try_into().unwrap()));
        assert!(kept.iter().all(|kept| kept.prices.len() <= MAX_KEPT));
    }
}

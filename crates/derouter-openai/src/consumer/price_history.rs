//! The prices that offers had, for whoever looks. Pure; the time is given.

use std::collections::{HashMap, VecDeque};

use derouter_sdk::{OfferId, PeerId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use super::offers::Offer;

/// Offers whose prices are followed. Those that are gone make room for newcomers; while none is, newcomers
/// are not followed.
const MAX_OFFERS: usize = 5000;

/// An offer that was not seen for so long is gone: longer than many rounds of notes.
const GONE_SECONDS: u64 = 10 * 60;

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

#[derive(Debug, Default)]
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
    /// Notes the prices that all offers have now.
    pub(crate) fn note<'a>(&mut self, offers: impl Iterator<Item = &'a Offer>, now: UnixSeconds) {
        let priced = offers.map(|offer| {
            let prices = &offer.terms.prices;
            let price = PastPrice {
                since: now,
                input: prices.input.of_million(),
                output: prices.output.of_million(),
            };
            ((offer.provider, offer.offer_id.clone()), price)
        });
        self.note_all(priced, now);
    }

    fn note_all(
        &mut self,
        offers: impl Iterator<Item = ((PeerId, OfferId), PastPrice)>,
        now: UnixSeconds,
    ) {
        let mut newcomers = Vec::new();
        for (key, price) in offers {
            match self.offers.get_mut(&key) {
                Some(known) => known.see(price),
                None if newcomers.len() < MAX_OFFERS => newcomers.push((key, price)),
                None => {}
            }
        }
        self.make_room(newcomers.len(), now);
        let free = MAX_OFFERS.saturating_sub(self.offers.len());
        for (key, price) in newcomers.into_iter().take(free) {
            let known = self.offers.entry(key).or_default();
            known.see(price);
        }
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

    /// Forgets the offers that are gone for longest, as far as newcomers need their places. In one pass: there
    /// may be thousands of both.
    fn make_room(&mut self, newcomers: usize, now: UnixSeconds) {
        let wanted = self.offers.len().saturating_add(newcomers);
        let wanted = wanted.saturating_sub(MAX_OFFERS);
        if wanted == 0 {
            return;
        }
        // A clock that was set back makes none of them stay for ever.
        let is_gone = |known: &Known| known.seen.0.abs_diff(now.0) > GONE_SECONDS;
        let gone = self.offers.iter().filter(|(_, known)| is_gone(known));
        let mut gone: Vec<_> = gone.map(|(key, known)| (known.seen, key.clone())).collect();
        gone.sort_unstable_by_key(|(seen, _)| *seen);
        for (_, key) in gone.into_iter().take(wanted) {
            self.offers.remove(&key);
        }
    }
}

impl KeptPrices {
    /// How many there are.
    pub(super) fn changes(&self) -> usize {
        self.prices.len()
    }
}

impl Known {
    fn see(&mut self, price: PastPrice) {
        self.seen = price.since;
        self.add(price);
    }

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
impl KeptPrices {
    /// Those of an offer whose price changed so often.
    pub(super) fn of_changes(offer: u64, changes: u64) -> Self {
        let price = |since| PastPrice {
            since: UnixSeconds(since),
            input: Wei::from_wei(since.into()),
            output: Wei::from_wei(since.into()),
        };
        Self {
            provider: PeerId::random().to_string(),
            offer: OfferId::new(offer.to_string()).unwrap(),
            seen: UnixSeconds(changes),
            prices: (1..=changes).map(price).collect(),
        }
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

    fn note<'a>(
        history: &mut PriceHistory,
        keys: impl IntoIterator<Item = &'a (PeerId, OfferId)>,
        price: PastPrice,
    ) {
        let priced = keys.into_iter().map(|key| (key.clone(), price));
        history.note_all(priced, price.since);
    }

    #[test]
    fn changes_are_noted_and_outlast_a_restart() {
        let mut history = PriceHistory::default();
        let key = key(1);
        for (since, wei) in [(1, 5), (2, 5), (3, 7), (4, 5)] {
            note(&mut history, [&key], price(since, wei));
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
        let keys: Vec<_> = (0..4 * MAX_OFFERS).map(key).collect();
        note(&mut history, &keys, price(0, 1));
        assert_eq!(history.offers.len(), MAX_OFFERS);
        let first = &keys[0];
        for n in 0..100 {
            note(&mut history, [first], price(n, u128::from(n)));
        }
        assert_eq!(history.of(&first.0, &first.1).len(), MAX_PRICES);
        let kept = history.keep(UnixSeconds(100));
        assert!(kept.iter().all(|kept| kept.prices.len() <= MAX_KEPT));
    }

    #[test]
    fn newcomers_take_the_places_of_offers_that_are_gone_alone() {
        let mut history = PriceHistory::default();
        let keys: Vec<_> = (0..2 * MAX_OFFERS).map(key).collect();
        let (known, newcomers) = keys.split_at(MAX_OFFERS);
        let (first, others) = known.split_at(2);
        let knows = |history: &PriceHistory, keys: &[(PeerId, OfferId)]| {
            let keys = keys.iter();
            let known = keys.filter(|key| !history.of(&key.0, &key.1).is_empty());
            known.count()
        };
        note(&mut history, known, price(0, 1));
        // However many there are, and whoever is told of first.
        let all = newcomers.iter().chain(known);
        note(&mut history, all, price(10, 2));
        assert_eq!(knows(&history, newcomers), 0);
        assert_eq!(history.of(&known[0].0, &known[0].1).len(), 2);

        note(&mut history, others, price(10 + GONE_SECONDS, 2));
        note(&mut history, newcomers, price(10 + GONE_SECONDS, 2));
        assert_eq!(knows(&history, first), 2, "they may come back");
        note(&mut history, &newcomers[..1], price(11 + GONE_SECONDS, 2));
        assert_eq!(
            knows(&history, first),
            1,
            "no more go than there is need for"
        );
        note(&mut history, newcomers, price(11 + GONE_SECONDS, 2));
        assert_eq!(knows(&history, first), 0);
        assert_eq!(knows(&history, others), others.len());
        assert_eq!(knows(&history, newcomers), 2);

        // The clock was set back by a day: nobody has a place for ever.
        let mut history = PriceHistory::default();
        note(&mut history, known, price(100_000, 1));
        note(&mut history, newcomers, price(100_000 - 86_400, 1));
        assert_eq!(knows(&history, newcomers), MAX_OFFERS);
    }
}

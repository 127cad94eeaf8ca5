//! How long providers are on the market, out of the time since they were first seen there.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use derouter_sdk::{OfferId, PeerId};
use tokio::time::Instant;

use super::kept::{KeptPresence, PeerName, seconds};

/// Providers that are remembered. One that is gone makes room for one that comes.
const MAX_PROVIDERS: usize = 20_000;

/// Offers of one provider that are told apart: one that has more is there.
const MAX_OFFERS: usize = 64;

/// Time on the market that everybody is given: a newcomer is not yet to be blamed for a minute's
/// absence.
const GIVEN: Duration = Duration::from_secs(60 * 60);

/// Who is gone for so long is not kept over a restart.
const LONG_GONE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The providers that were seen.
#[derive(Debug, Default)]
pub(super) struct Presences {
    providers: HashMap<PeerId, Presence>,
    /// Those that are gone, by since when: who went first is forgotten first.
    gone: BTreeSet<(Instant, PeerId)>,
}

#[derive(Debug)]
struct Presence {
    first_seen: Instant,
    /// Of the time before `since`.
    there: Duration,
    offers: BTreeSet<OfferId>,
    /// When it came or went last.
    since: Instant,
}

impl Presence {
    fn new(now: Instant) -> Self {
        Self {
            first_seen: now,
            there: Duration::ZERO,
            offers: BTreeSet::new(),
            since: now,
        }
    }

    fn there(&self, now: Instant) -> Duration {
        match self.offers.is_empty() {
            true => self.there,
            false => self.there + now.saturating_duration_since(self.since),
        }
    }
}

impl Presences {
    pub(super) fn offered(&mut self, provider: PeerId, offer: &OfferId, now: Instant) {
        if !self.providers.contains_key(&provider) && !self.has_room() {
            return;
        }
        let entry = self.providers.entry(provider);
        let presence = entry.or_insert_with(|| Presence::new(now));
        if presence.offers.is_empty() {
            self.gone.remove(&(presence.since, provider));
            presence.since = now;
        }
        if presence.offers.len() < MAX_OFFERS {
            presence.offers.insert(offer.clone());
        }
    }

    pub(super) fn withdrawn(&mut self, provider: &PeerId, offer: &OfferId, now: Instant) {
        let Some(presence) = self.providers.get_mut(provider) else {
            return;
        };
        if !presence.offers.contains(offer) || presence.offers.len() > 1 {
            presence.offers.remove(offer);
            return;
        }
        presence.there = presence.there(now);
        presence.offers.clear();
        presence.since = now;
        self.gone.insert((now, *provider));
    }

    /// What is told anew right away was not gone: the time in between is none.
    pub(super) fn all_withdrawn(&mut self, now: Instant) {
        for (provider, presence) in &mut self.providers {
            if presence.offers.is_empty() {
                continue;
            }
            presence.there = presence.there(now);
            presence.offers.clear();
            presence.since = now;
            self.gone.insert((now, *provider));
        }
    }

    pub(super) fn uptime(&self, provider: &PeerId, now: Instant) -> f64 {
        let Some(presence) = self.providers.get(provider) else {
            return 1.0;
        };
        let known = now.saturating_duration_since(presence.first_seen) + GIVEN;
        let there = presence.there(now) + GIVEN;
        (there.as_secs_f64() / known.as_secs_f64()).min(1.0)
    }

    /// What is to be kept: not who is gone for long.
    pub(super) fn keep(&self, now: Instant) -> Vec<KeptPresence> {
        let keep = |(provider, presence): (&PeerId, &Presence)| {
            let gone = match presence.offers.is_empty() {
                true => now.saturating_duration_since(presence.since),
                false => Duration::ZERO,
            };
            (gone < LONG_GONE).then(|| KeptPresence {
                provider: PeerName(*provider),
                known: now
                    .saturating_duration_since(presence.first_seen)
                    .as_secs_f64(),
                there: presence.there(now).as_secs_f64(),
                gone: gone.as_secs_f64(),
            })
        };
        self.providers.iter().filter_map(keep).collect()
    }

    /// Takes over what was kept, so long ago. All of them are gone until they are heard of.
    pub(super) fn recall(&mut self, kept: &[KeptPresence], down: Duration, now: Instant) {
        for kept in kept.iter().take(MAX_PROVIDERS) {
            let gone = seconds(kept.gone).saturating_add(down);
            let known = seconds(kept.known);
            let times = (now.checked_sub(known), now.checked_sub(gone));
            let (Some(first_seen), Some(since)) = times else {
                continue;
            };
            if gone >= LONG_GONE {
                continue;
            }
            let presence = Presence {
                first_seen,
                there: seconds(kept.there).min(known),
                offers: BTreeSet::new(),
                since,
            };
            if self.providers.insert(kept.provider.0, presence).is_none() {
                self.gone.insert((since, kept.provider.0));
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.providers.len() >= MAX_PROVIDERS
            && let Some((_, oldest)) = self.gone.pop_first()
        {
            self.providers.remove(&oldest);
        }
        self.providers.len() < MAX_PROVIDERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn offer(id: &str) -> OfferId {
        OfferId::new(id).unwrap()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_time_away_counts_from_when_the_last_offer_went() {
        let mut presences = Presences::default();
        let (provider, start) = (PeerId::random(), Instant::now());
        presences.offered(provider, &offer("a"), start);
        presences.offered(provider, &offer("b"), start);
        presences.offered(provider, &offer("b"), start);
        presences.withdrawn(&provider, &offer("a"), start + HOUR);
        assert!(near(presences.uptime(&provider, start + 3 * HOUR), 1.0));
        presences.withdrawn(&provider, &offer("b"), start + 3 * HOUR);
        presences.withdrawn(&provider, &offer("b"), start + 3 * HOUR);
        assert!(near(presences.uptime(&provider, start + 7 * HOUR), 0.5));
        presences.offered(provider, &offer("a"), start + 7 * HOUR);
        assert!(near(presences.uptime(&provider, start + 15 * HOUR), 0.75));
        assert!(near(presences.uptime(&PeerId::random(), start), 1.0));
    }

    #[test]
    fn a_list_that_is_told_anew_is_no_absence() {
        let mut presences = Presences::default();
        let (provider, start) = (PeerId::random(), Instant::now());
        presences.offered(provider, &offer("a"), start);
        presences.all_withdrawn(start + HOUR);
        presences.offered(provider, &offer("a"), start + HOUR);
        assert!(near(presences.uptime(&provider, start + 2 * HOUR), 1.0));
        assert!(presences.gone.is_empty());
    }

    #[test]
    fn who_is_gone_makes_room_and_who_is_there_does_not() {
        let mut presences = Presences::default();
        let start = Instant::now();
        let first = PeerId::random();
        presences.offered(first, &offer("a"), start);
        for _ in 1..MAX_PROVIDERS {
            presences.offered(PeerId::random(), &offer("a"), start);
        }
        let late = PeerId::random();
        presences.offered(late, &offer("a"), start);
        assert!(!presences.providers.contains_key(&late));
        presences.withdrawn(&first, &offer("a"), start + HOUR);
        presences.offered(late, &offer("a"), start + HOUR);
        assert!(presences.providers.contains_key(&late));
        assert_eq!(presences.providers.len(), MAX_PROVIDERS);
        assert!(presences.gone.is_empty());
    }
}

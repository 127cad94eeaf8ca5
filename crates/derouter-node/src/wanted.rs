//! For which protocols the network looks for more providers: those that modules ask about while few
//! providers of them are known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{OfferFilter, OfferSnapshot, PeerId};
use derouter_wire::ProtocolId;
use tokio::sync::mpsc;

use crate::shared::Shared;

/// Protocols that modules asked about; the one that was asked for longest ago is forgotten. As many
/// as the network looks for.
const INTERESTS: usize = 16;
/// With as many providers of a protocol the node looks for no more: they tell of others.
const ENOUGH: usize = 8;
/// How often the providers are counted again.
const RECOUNT: Duration = Duration::from_secs(30);
/// Questions that wait for the task; more tell it nothing new.
pub(crate) const WANTED_QUEUE: usize = 64;

/// What modules asked about, the latest last.
#[derive(Debug, Default)]
struct Interests(Vec<ProtocolId>);

impl Interests {
    /// True when this is new.
    fn add(&mut self, protocol: ProtocolId) -> bool {
        let before = self.0.len();
        self.0.retain(|known| *known != protocol);
        let new = self.0.len() == before;
        if self.0.len() >= INTERESTS {
            self.0.remove(0);
        }
        self.0.push(protocol);
        new
    }

    /// Those of which few providers are there.
    fn short<'a>(&self, offers: impl Iterator<Item = &'a OfferSnapshot>) -> Vec<ProtocolId> {
        let mut providers: HashMap<&ProtocolId, HashSet<PeerId>> = HashMap::new();
        for protocol in &self.0 {
            providers.insert(protocol, HashSet::new());
        }
        for offer in offers {
            if let Some(known) = providers.get_mut(&offer.protocol_id)
                && known.len() < ENOUGH
            {
                known.insert(offer.provider_peer_id);
            }
        }
        let short = |protocol: &&ProtocolId| {
            let known = providers.get(*protocol);
            known.is_none_or(|known| known.len() < ENOUGH)
        };
        self.0.iter().filter(short).cloned().collect()
    }
}

impl Shared {
    /// A module asks for offers of these protocols.
    pub(crate) fn note_interest(&self, filter: &OfferFilter) {
        for protocol in filter.protocol_ids.iter().flatten().take(INTERESTS) {
            // Full: others are looked at first, and the next question comes.
            let _ = self.wanted.try_send(protocol.clone());
        }
    }
}

/// Tells the network what is wanted, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>, mut asked: mpsc::Receiver<ProtocolId>) {
    let mut interests = Interests::default();
    let mut told = Vec::new();
    let stop = shared.stop.clone();
    let mut recount = tokio::time::interval(RECOUNT);
    recount.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            protocol = asked.recv() => match protocol {
                None => return,
                Some(protocol) => {
                    if !interests.add(protocol) {
                        continue;
                    }
                }
            },
            _ = recount.tick() => {}
        }
        let short = interests.short(shared.market().index.active_offers());
        if short != told {
            shared.net.want_protocols(short.clone()).await;
            told = short;
        }
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::{OfferId, SnapshotId};

    use super::*;

    fn protocol(number: usize) -> ProtocolId {
        ProtocolId::new(format!("test:{number}")).unwrap()
    }

    fn offer(number: usize) -> OfferSnapshot {
        OfferSnapshot {
            snapshot_id: SnapshotId(1),
            active: true,
            provider_peer_id: PeerId::random(),
            protocol_id: protocol(number),
            offer_id: OfferId::new("offer").unwrap(),
            protocol_payload: String::new(),
        }
    }

    #[test]
    fn providers_are_wanted_of_what_was_asked_about_until_there_are_enough() {
        let mut interests = Interests::default();
        assert!(interests.add(protocol(1)));
        assert!(!interests.add(protocol(1)));
        assert!(interests.add(protocol(2)));
        let mut offers: Vec<_> = (0..ENOUGH).map(|_| offer(2)).collect();
        offers.push(offer(3));
        assert_eq!(interests.short(offers.iter()), [protocol(1)]);
        assert_eq!(interests.short(offers.iter().skip(1)).len(), 2);
        // Many offers of one provider are one provider.
        let mut one = vec![offer(1)];
        one.resize(100, one[0].clone());
        assert!(interests.short(one.iter()).contains(&protocol(1)));
    }

    #[test]
    fn only_the_latest_interests_are_kept() {
        let mut interests = Interests::default();
        for number in 0..100 {
            interests.add(protocol(number));
        }
        assert_eq!(interests.0.len(), INTERESTS);
        assert_eq!(interests.0.last(), Some(&protocol(99)));
    }
}

//! Announcements that are spread only when their list is here, so that who forwards one has the
//! list. Pure.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;

use crate::limits;

#[derive(Debug)]
struct HeldAnnouncement {
    forwarder: PeerId,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    providers: HashMap<PeerId, HeldAnnouncement>,
    of_forwarder: HashMap<PeerId, usize>,
}

impl Held {
    /// Holds the announcement of a provider, in place of an older one. False where there is no room for
    /// it.
    pub(super) fn hold(&mut self, provider: PeerId, forwarder: PeerId, now: Instant) -> bool {
        self.release(&provider);
        let share = self.of_forwarder.get(&forwarder).copied().unwrap_or(0);
        let full = self.providers.len() >= limits::HELD_ANNOUNCEMENTS;
        if full || share >= limits::HELD_PER_FORWARDER {
            return false;
        }
        self.of_forwarder.insert(forwarder, share + 1);
        let until = now + limits::HOLD;
        let held = HeldAnnouncement { forwarder, until };
        self.providers.insert(provider, held);
        true
    }

    /// The provider's list is here. Who brought an announcement that waited for it, and is to be spread now.
    pub(super) fn release(&mut self, provider: &PeerId) -> Option<PeerId> {
        let held = self.providers.remove(provider)?;
        if let Some(share) = self.of_forwarder.get_mut(&held.forwarder) {
            *share = share.saturating_sub(1);
            if *share == 0 {
                self.of_forwarder.remove(&held.forwarder);
            }
        }
        Some(held.forwarder)
    }

    /// Those that waited too long are not spread.
    pub(super) fn forget_late(&mut self, now: Instant) {
        let late = self.providers.iter().filter(|(_, held)| held.until <= now);
        let late: Vec<PeerId> = late.map(|(provider, _)| *provider).collect();
        for provider in late {
            self.release(&provider);
        }
    }

    /// When the first has waited too long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.providers.values().map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_waits_for_its_list_and_is_not_spread_without() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        held.hold(peer, peer, now);
        held.forget_late(now);
        assert_eq!(held.due(), Some(now + limits::HOLD));
        assert_eq!(held.release(&peer), Some(peer));
        assert_eq!(held.release(&peer), None);
        held.hold(peer, peer, now);
        held.forget_late(now + limits::HOLD);
        assert_eq!(held.release(&peer), None);
        assert!(held.of_forwarder.is_empty());
    }

    #[test]
    fn a_newer_one_of_a_provider_waits_anew() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        held.hold(peer, peer, now);
        held.hold(peer, peer, now + limits::HOLD / 2);
        held.forget_late(now + limits::HOLD);
        assert_eq!(held.of_forwarder[&peer], 1);
        assert!(held.release(&peer).is_some());
    }

    #[test]
    fn a_forwarder_has_so_many_places_and_others_have_theirs() {
        let mut held = Held::default();
        let (now, greedy, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let many: Vec<PeerId> = (0..=limits::HELD_PER_FORWARDER)
            .map(|_| PeerId::random())
            .collect();
        for provider in &many {
            let taken = held.hold(*provider, greedy, now);
            assert_eq!(taken, Some(provider) != many.last());
        }
        let (last, first) = (many.last().unwrap(), &many[0]);
        assert!(held.release(last).is_none());
        held.hold(other, other, now);
        assert!(held.release(&other).is_some() && held.release(first).is_some());
        held.hold(*last, greedy, now);
        assert!(held.release(last).is_some());
    }
}

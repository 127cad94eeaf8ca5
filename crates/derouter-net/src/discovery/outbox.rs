//! Providers whose announcements are handed to the neighbours next: those that come soon after each
//! other go together. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use libp2p::PeerId;

use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In the order in which they came, and who brought each.
    providers: VecDeque<(PeerId, PeerId)>,
    waiting: HashSet<PeerId>,
    of_bringer: HashMap<PeerId, usize>,
    /// When some were taken last.
    last: Option<Instant>,
}

impl Outbox {
    /// False where there is no room for it: beyond [`limits::OUTBOX`], or beyond the share of who brought
    /// it.
    pub(super) fn add(&mut self, provider: PeerId, bringer: PeerId) -> bool {
        if self.waiting.contains(&provider) {
            return true;
        }
        let share = self.of_bringer.get(&bringer).copied().unwrap_or(0);
        let full = self.providers.len() >= limits::OUTBOX;
        if full || share >= limits::OUTBOX_PER_NEIGHBOUR {
            return false;
        }
        self.of_bringer.insert(bringer, share + 1);
        self.waiting.insert(provider);
        self.providers.push_back((provider, bringer));
        true
    }

    /// When some are to be taken: at once, or [`limits::HAND_ON_GATHER`] behind the last ones.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.providers.is_empty() {
            return None;
        }
        Some(self.last.map_or(now, |last| last + limits::HAND_ON_GATHER))
    }

    /// Those that are to be handed on now, with who brought them: [`limits::OUTBOX_PER_TURN`] at most.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(PeerId, PeerId)> {
        if self.due(now).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.last = Some(now);
        let count = self.providers.len().min(limits::OUTBOX_PER_TURN);
        let taken: Vec<_> = self.providers.drain(..count).collect();
        for (provider, bringer) in &taken {
            self.waiting.remove(provider);
            self.give_back(bringer);
        }
        taken
    }

    fn give_back(&mut self, bringer: &PeerId) {
        let Some(share) = self.of_bringer.get_mut(bringer) else {
            return;
        };
        *share = share.saturating_sub(1);
        if *share == 0 {
            self.of_bringer.remove(bringer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_and_the_next_together() {
        let mut outbox = Outbox::default();
        let now = Instant::now();
        let [first, second, third, bringer] = [(); 4].map(|()| PeerId::random());
        assert_eq!(outbox.due(now), None);
        outbox.add(first, bringer);
        assert_eq!(outbox.due(now), Some(now));
        assert_eq!(outbox.take(now), [(first, bringer)]);
        outbox.add(second, bringer);
        outbox.add(third, bringer);
        assert!(outbox.add(second, third), "it is there");
        assert!(outbox.take(now).is_empty());
        let due = outbox.due(now).unwrap();
        assert_eq!(due, now + limits::HAND_ON_GATHER);
        assert_eq!(outbox.take(due), [(second, bringer), (third, bringer)]);
        assert_eq!(outbox.due(due), None);
        outbox.add(second, bringer);
        let later = due + limits::HAND_ON_GATHER;
        assert_eq!(outbox.take(later), [(second, bringer)], "a newer one");
        assert!(outbox.of_bringer.is_empty());
    }

    #[test]
    fn a_neighbour_has_its_share_and_all_together_theirs() {
        let mut outbox = Outbox::default();
        let mut now = Instant::now();
        let fill = |outbox: &mut Outbox| {
            let bringer = PeerId::random();
            let more = || outbox.add(PeerId::random(), bringer);
            std::iter::repeat_with(more)
                .take_while(|taken| *taken)
                .count()
        };
        let shares = limits::OUTBOX / limits::OUTBOX_PER_NEIGHBOUR;
        for _ in 0..shares {
            assert_eq!(fill(&mut outbox), limits::OUTBOX_PER_NEIGHBOUR);
        }
        assert_eq!(fill(&mut outbox), 0);
        let mut taken = 0;
        while let Some(due) = outbox.due(now) {
            now = due;
            let some = outbox.take(now).len();
            assert!(some > 0 && some <= limits::OUTBOX_PER_TURN);
            taken += some;
        }
        assert_eq!(taken, limits::OUTBOX);
        assert!(outbox.waiting.is_empty() && outbox.of_bringer.is_empty());
    }
}

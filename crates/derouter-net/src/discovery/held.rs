//! Announcements that are spread only when their list is here, so that who forwards one has the
//! list. Pure.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::gossipsub::{MessageAcceptance, MessageId};

use crate::limits;

/// What gossipsub is told of a message: which, from whom, and what to do with it.
pub(crate) type Judged = (MessageId, PeerId, MessageAcceptance);

#[derive(Debug)]
struct HeldMessage {
    id: MessageId,
    forwarder: PeerId,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    messages: HashMap<PeerId, HeldMessage>,
    of_forwarder: HashMap<PeerId, usize>,
}

impl Held {
    /// Holds the announcement of a provider. Gives what is not to be spread: an older one of the
    /// provider, or this one when there is no room for it.
    pub(super) fn hold(
        &mut self,
        provider: PeerId,
        id: MessageId,
        forwarder: PeerId,
        now: Instant,
    ) -> Option<Judged> {
        let older = self.take(&provider, MessageAcceptance::Ignore);
        let share = self.of_forwarder.entry(forwarder).or_default();
        let full = self.messages.len() >= limits::HELD_ANNOUNCEMENTS;
        if full || *share >= limits::HELD_PER_FORWARDER {
            return Some((id, forwarder, MessageAcceptance::Ignore));
        }
        *share += 1;
        let message = HeldMessage {
            id,
            forwarder,
            until: now + limits::HOLD,
        };
        self.messages.insert(provider, message);
        older
    }

    /// The provider's list is here: its announcement is spread.
    pub(super) fn release(&mut self, provider: &PeerId) -> Option<Judged> {
        self.take(provider, MessageAcceptance::Accept)
    }

    fn take(&mut self, provider: &PeerId, acceptance: MessageAcceptance) -> Option<Judged> {
        let held = self.messages.remove(provider)?;
        if let Some(share) = self.of_forwarder.get_mut(&held.forwarder) {
            *share = share.saturating_sub(1);
            if *share == 0 {
                self.of_forwarder.remove(&held.forwarder);
            }
        }
        Some((held.id, held.forwarder, acceptance))
    }

    /// Those that waited too long are not spread.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Judged> {
        let late = self.messages.iter().filter(|(_, held)| held.until <= now);
        let late: Vec<PeerId> = late.map(|(provider, _)| *provider).collect();
        late.iter()
            .filter_map(|provider| self.take(provider, MessageAcceptance::Ignore))
            .collect()
    }

    /// When the first has waited too long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.messages.values().map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> MessageId {
        MessageId::from(vec![number])
    }

    fn is_spread(judged: &Judged) -> bool {
        matches!(judged.2, MessageAcceptance::Accept)
    }

    #[test]
    fn a_message_waits_for_its_list_and_is_not_spread_without() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        assert!(held.hold(peer, id(1), peer, now).is_none());
        assert!(held.late(now).is_empty());
        assert_eq!(held.due(), Some(now + limits::HOLD));
        let late = held.late(now + limits::HOLD).remove(0);
        assert_eq!(late.0, id(1));
        assert!(!is_spread(&late));
        assert!(held.release(&peer).is_none());
        held.hold(peer, id(2), peer, now);
        assert!(is_spread(&held.release(&peer).unwrap()));
    }

    #[test]
    fn a_newer_message_of_a_provider_replaces_the_one_that_waits() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        held.hold(peer, id(1), peer, now);
        let old = held.hold(peer, id(2), peer, now).unwrap();
        assert_eq!(old.0, id(1));
        assert!(!is_spread(&old));
        assert_eq!(held.release(&peer).unwrap().0, id(2));
    }

    #[test]
    fn a_forwarder_has_so_many_places_and_others_have_theirs() {
        let mut held = Held::default();
        let (now, greedy, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut first = None;
        for _ in 0..limits::HELD_PER_FORWARDER {
            let peer = PeerId::random();
            first.get_or_insert(peer);
            assert!(held.hold(peer, id(1), greedy, now).is_none());
        }
        let refused = held.hold(PeerId::random(), id(2), greedy, now).unwrap();
        assert_eq!(refused.0, id(2));
        assert!(!is_spread(&refused));
        assert!(held.hold(PeerId::random(), id(3), other, now).is_none());
        held.release(&first.unwrap());
        assert!(held.hold(PeerId::random(), id(4), greedy, now).is_none());
    }
}

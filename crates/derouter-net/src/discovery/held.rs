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
pub(super) struct Held(HashMap<PeerId, HeldMessage>);

impl Held {
    /// Holds the announcement of a provider. Gives what is to be told at once: an older one of the
    /// provider is over, and when there is no room this one is spread without its list.
    pub(super) fn hold(
        &mut self,
        provider: PeerId,
        id: MessageId,
        forwarder: PeerId,
        now: Instant,
    ) -> Option<Judged> {
        let full = self.0.len() >= limits::HELD_ANNOUNCEMENTS && !self.0.contains_key(&provider);
        if full {
            return Some((id, forwarder, MessageAcceptance::Accept));
        }
        let until = now + limits::HOLD;
        let message = HeldMessage {
            id,
            forwarder,
            until,
        };
        let old = self.0.insert(provider, message)?;
        Some((old.id, old.forwarder, MessageAcceptance::Ignore))
    }

    /// The provider's list is here, or has been waited for long enough.
    pub(super) fn release(&mut self, provider: &PeerId) -> Option<Judged> {
        let held = self.0.remove(provider)?;
        Some((held.id, held.forwarder, MessageAcceptance::Accept))
    }

    /// Spreads what waited too long.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Judged> {
        let late = self.0.iter().filter(|(_, held)| held.until <= now);
        let late: Vec<PeerId> = late.map(|(provider, _)| *provider).collect();
        late.iter()
            .filter_map(|provider| self.release(provider))
            .collect()
    }

    /// When the first has waited too long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> MessageId {
        MessageId::from(vec![number])
    }

    #[test]
    fn a_message_waits_for_its_list_but_not_for_long() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        assert!(held.hold(peer, id(1), peer, now).is_none());
        assert!(held.late(now).is_empty());
        assert_eq!(held.due(), Some(now + limits::HOLD));
        let (late, _, acceptance) = held.late(now + limits::HOLD).remove(0);
        assert_eq!(late, id(1));
        assert!(matches!(acceptance, MessageAcceptance::Accept));
        assert!(held.release(&peer).is_none());
    }

    #[test]
    fn a_newer_message_of_a_provider_replaces_the_one_that_waits() {
        let mut held = Held::default();
        let (now, peer) = (Instant::now(), PeerId::random());
        held.hold(peer, id(1), peer, now);
        let (old, _, acceptance) = held.hold(peer, id(2), peer, now).unwrap();
        assert_eq!(old, id(1));
        assert!(matches!(acceptance, MessageAcceptance::Ignore));
        assert_eq!(held.release(&peer).unwrap().0, id(2));
    }

    #[test]
    fn messages_beyond_the_limit_are_spread_at_once() {
        let mut held = Held::default();
        let now = Instant::now();
        for _ in 0..limits::HELD_ANNOUNCEMENTS {
            let peer = PeerId::random();
            assert!(held.hold(peer, id(1), peer, now).is_none());
        }
        let peer = PeerId::random();
        let (_, _, acceptance) = held.hold(peer, id(2), peer, now).unwrap();
        assert!(matches!(acceptance, MessageAcceptance::Accept));
    }
}

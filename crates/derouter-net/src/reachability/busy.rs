//! Connections on which something is going on, and how long nothing came on them. Pure.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::swarm::ConnectionId;

use crate::limits;

/// Busy connections: at most as many as there are.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// What each had received, and since when it has been no more than that.
    received: HashMap<ConnectionId, (u64, Instant)>,
    next: Option<Instant>,
}

impl Busy {
    /// Whether to look now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// When to look next: soon while anything is busy. Others are found when all is looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| !self.received.is_empty())
    }

    /// The connections that are busy now, with what they have received so far. Gives those on which
    /// nothing came for a while; each again after as long.
    pub(crate) fn silent(
        &mut self,
        busy: impl Iterator<Item = (ConnectionId, u64)>,
        now: Instant,
    ) -> Vec<ConnectionId> {
        self.next = Some(now + limits::BUSY_LOOK);
        let before = std::mem::take(&mut self.received);
        let mut silent = Vec::new();
        for (connection, bytes) in busy {
            let known = before.get(&connection).filter(|(known, _)| *known == bytes);
            let mut since = known.map_or(now, |(_, since)| *since);
            if now.duration_since(since) >= limits::BUSY_SILENCE {
                silent.push(connection);
                since = now;
            }
            self.received.insert(connection, (bytes, since));
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_connection_on_which_nothing_comes_is_silent_once_in_a_while() {
        let start = Instant::now();
        let [quiet, lively] = [1, 2].map(ConnectionId::new_unchecked);
        let mut busy = Busy::default();
        let mut asked = Vec::new();
        let looks = 3 * limits::BUSY_SILENCE.as_secs();
        for look in 0..=looks {
            let now = start + limits::BUSY_LOOK * u32::try_from(look).unwrap();
            assert!(busy.is_due(now));
            let silent = busy.silent([(quiet, 7), (lively, look)].into_iter(), now);
            assert!(!silent.contains(&lively));
            if silent.contains(&quiet) {
                asked.push(now - start);
            }
            assert!(!busy.is_due(now));
        }
        let expected = [1, 2, 3].map(|times| limits::BUSY_SILENCE * times);
        assert_eq!(asked, expected);
        assert!(busy.due().is_some());
        busy.silent([].into_iter(), start);
        assert_eq!(busy.due(), None, "nothing is busy");
    }
}

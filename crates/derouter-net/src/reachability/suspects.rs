//! Connections that may have died while the machine slept or changed its network. Pure.
//!
//! TCP and QUIC notice by themselves, but only after half a minute of silence or more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;

use crate::limits;

/// A living connection answers a ping in this time: pings go at an interval, and take a round trip.
const LIFE_SIGN: Duration = limits::PING_INTERVAL.saturating_add(Duration::from_secs(3));

/// Connections that have to show that they live.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    until: HashMap<ConnectionId, Instant>,
}

impl Suspects {
    /// All of these have to give a sign of life from now on.
    pub(crate) fn suspect(
        &mut self,
        connections: impl Iterator<Item = ConnectionId>,
        now: Instant,
    ) {
        for connection in connections {
            // The first change counts: a second one must not give more time.
            self.until.entry(connection).or_insert(now + LIFE_SIGN);
        }
    }

    /// The connection answered a ping, or is gone.
    pub(crate) fn clear(&mut self, connection: &ConnectionId) {
        self.until.remove(connection);
    }

    /// Those that gave no sign in time.
    pub(crate) fn dead(&mut self, now: Instant) -> Vec<ConnectionId> {
        let late = self.until.iter().filter(|(_, until)| **until <= now);
        let dead: Vec<ConnectionId> = late.map(|(connection, _)| *connection).collect();
        for connection in &dead {
            self.until.remove(connection);
        }
        dead
    }

    /// When the next one is late.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_answers_no_ping_after_a_change_is_dead_and_one_that_does_is_not() {
        let now = Instant::now();
        let ids: Vec<ConnectionId> = (1..=3).map(ConnectionId::new_unchecked).collect();
        let mut suspects = Suspects::default();
        suspects.suspect(ids.iter().copied(), now);
        suspects.clear(&ids[0]);
        let later = now + Duration::from_secs(5);
        suspects.suspect(std::iter::once(ids[1]), later);
        assert!(suspects.dead(later).is_empty());
        let due = suspects.due().unwrap();
        assert_eq!(due, now + LIFE_SIGN, "a second change gives no more time");
        let mut dead = suspects.dead(due);
        dead.sort();
        assert_eq!(dead, ids[1..]);
        assert!(suspects.dead(due).is_empty());
        assert_eq!(suspects.due(), None);
    }
}

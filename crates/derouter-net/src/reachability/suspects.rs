//! Connections that have to give a sign of life, because an answer on them is late or the machine
//! slept or changed its network. Pure.
//!
//! TCP and QUIC notice by themselves, but only after half a minute of silence or more.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use crate::limits;

/// A connection that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) connection: ConnectionId,
    pub(crate) peer: PeerId,
    /// What it had received when that began, in bytes.
    pub(crate) received: u64,
}

/// Connections that have to show that they live: at most as many as there are.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    until: HashMap<ConnectionId, (Suspect, Instant)>,
    all_looked_at: Option<Instant>,
}

impl Suspects {
    /// This one has to give a sign of life from now on, and is to be pinged. False when that is so
    /// already: a second reason must not give more time.
    pub(crate) fn suspect(&mut self, suspect: Suspect, now: Instant) -> bool {
        if self.until.contains_key(&suspect.connection) {
            return false;
        }
        let until = now + limits::LIFE_SIGN;
        self.until.insert(suspect.connection, (suspect, until));
        true
    }

    /// The connection answered a ping, or is gone.
    pub(crate) fn clear(&mut self, connection: &ConnectionId) {
        self.until.remove(connection);
    }

    /// Those that answered nothing in time.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<Suspect> {
        let late = self.until.values().filter(|(_, until)| *until <= now);
        let late: Vec<Suspect> = late.map(|(suspect, _)| *suspect).collect();
        for suspect in &late {
            self.until.remove(&suspect.connection);
        }
        late
    }

    /// One died in silence: whether all others are to be looked at.
    pub(crate) fn look_at_all(&mut self, now: Instant) -> bool {
        let lately = |at: Instant| now.duration_since(at) < limits::LOOK_AT_ALL;
        if self.all_looked_at.is_some_and(lately) {
            return false;
        }
        self.all_looked_at = Some(now);
        true
    }

    /// When the next one is late.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.until.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn suspect(id: usize) -> Suspect {
        Suspect {
            connection: ConnectionId::new_unchecked(id),
            peer: PeerId::random(),
            received: 0,
        }
    }

    #[test]
    fn a_connection_that_answers_no_ping_is_late_once_and_one_that_does_is_not() {
        let now = Instant::now();
        let [one, two, three] = [1, 2, 3].map(suspect);
        let mut suspects = Suspects::default();
        for one in [one, two, three] {
            assert!(suspects.suspect(one, now));
        }
        suspects.clear(&one.connection);
        let later = now + Duration::from_secs(2);
        assert!(!suspects.suspect(two, later), "it is pinged already");
        assert!(suspects.late(later).is_empty());
        let due = suspects.due().unwrap();
        assert_eq!(due, now + limits::LIFE_SIGN, "not more time");
        let mut late = suspects.late(due);
        late.sort_by_key(|suspect| suspect.connection);
        assert_eq!(late, [two, three]);
        assert!(suspects.late(due).is_empty());
        assert_eq!(suspects.due(), None);
        assert!(suspects.suspect(two, due));
    }

    #[test]
    fn many_deaths_have_the_others_looked_at_once_in_a_while() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        assert!(suspects.look_at_all(now));
        assert!(!suspects.look_at_all(now + Duration::from_secs(29)));
        assert!(suspects.look_at_all(now + limits::LOOK_AT_ALL));
    }
}

//! Connections that have to give a sign of life, because an answer on them is late or the machine
//! slept or changed its network. Pure.
//!
//! TCP and QUIC notice by themselves, but only after half a minute of silence or more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

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

#[derive(Clone, Copy, Debug)]
struct Asked {
    suspect: Suspect,
    at: Instant,
    until: Instant,
}

/// Connections that have to show that they live: at most as many as there are.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    asked: HashMap<ConnectionId, Asked>,
    all_looked_at: Option<Instant>,
    relays_looked_at: Option<Instant>,
}

impl Suspects {
    /// This one has to give a sign of life within `patience`, and is to be pinged. False when it was
    /// asked already: a second reason may give less time, but not more.
    pub(crate) fn suspect(&mut self, suspect: Suspect, patience: Duration, now: Instant) -> bool {
        let until = now + patience;
        if let Some(asked) = self.asked.get_mut(&suspect.connection) {
            asked.until = asked.until.min(until);
            return false;
        }
        let at = now;
        let asked = Asked { suspect, at, until };
        self.asked.insert(suspect.connection, asked);
        true
    }

    /// The connection answered a ping, or is gone.
    pub(crate) fn clear(&mut self, connection: &ConnectionId) {
        self.asked.remove(connection);
    }

    /// Those that answered nothing in time.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<Suspect> {
        let late = self.asked.values().filter(|asked| asked.until <= now);
        let late: Vec<Suspect> = late.map(|asked| asked.suspect).collect();
        for suspect in &late {
            self.asked.remove(&suspect.connection);
        }
        late
    }

    /// One of them has been silent for long enough to look at this node's relays as well; true once
    /// in a while.
    pub(crate) fn look_at_relays(&mut self, now: Instant) -> bool {
        if self.doubted().is_none_or(|doubted| doubted > now) || self.doubted_lately(now) {
            return false;
        }
        self.relays_looked_at = Some(now);
        true
    }

    /// When the first of them becomes doubtful.
    fn doubted(&self) -> Option<Instant> {
        let first = self.asked.values().map(|asked| asked.at).min()?;
        first.checked_add(limits::DOUBT)
    }

    fn doubted_lately(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.duration_since(at) < limits::DOUBT_PAUSE;
        self.relays_looked_at.is_some_and(lately)
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

    /// When the next one is late, or doubtful.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let late = self.asked.values().map(|asked| asked.until).min();
        let doubted = self.doubted().filter(|_| !self.doubted_lately(now));
        late.into_iter().chain(doubted).min()
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
            assert!(suspects.suspect(one, limits::LIFE_SIGN, now));
        }
        suspects.clear(&one.connection);
        let later = now + Duration::from_secs(2);
        assert!(
            !suspects.suspect(two, limits::LIFE_SIGN, later),
            "it is pinged already"
        );
        assert!(suspects.late(later).is_empty());
        let doubted = suspects.due(later).unwrap();
        assert_eq!(doubted, now + limits::DOUBT);
        assert!(suspects.look_at_relays(later) && !suspects.look_at_relays(later));
        let due = suspects.due(later).unwrap();
        assert_eq!(due, now + limits::LIFE_SIGN, "not more time");
        let mut late = suspects.late(due);
        late.sort_by_key(|suspect| suspect.connection);
        assert_eq!(late, [two, three]);
        assert!(suspects.late(due).is_empty());
        assert_eq!(suspects.due(due), None);
        assert!(suspects.suspect(two, limits::LIFE_SIGN, due));
    }

    #[test]
    fn relays_are_looked_at_when_a_sign_of_life_takes_a_second_and_not_again_soon() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        assert!(!suspects.look_at_relays(now), "nobody is silent");
        suspects.suspect(suspect(1), limits::LIFE_SIGN, now);
        assert!(!suspects.look_at_relays(now + limits::DOUBT / 2));
        assert!(suspects.look_at_relays(now + limits::DOUBT));
        suspects.clear(&suspect(1).connection);
        let soon = now + limits::DOUBT_PAUSE;
        suspects.suspect(suspect(2), limits::LIFE_SIGN, now + limits::DOUBT);
        assert!(!suspects.look_at_relays(soon));
        assert!(suspects.look_at_relays(soon + limits::DOUBT));
    }

    #[test]
    fn a_second_reason_may_give_less_time_and_not_more() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        suspects.suspect(suspect(1), limits::BUSY_LIFE_SIGN, now);
        suspects.suspect(suspect(2), limits::LIFE_SIGN, now);
        for patience in [limits::LIFE_SIGN, limits::BUSY_LIFE_SIGN] {
            assert!(!suspects.suspect(suspect(1), patience, now));
            assert!(!suspects.suspect(suspect(2), patience, now));
        }
        assert_eq!(suspects.late(now + limits::LIFE_SIGN).len(), 2);
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

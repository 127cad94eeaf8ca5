//! When a node with few peers dials more of those it knows. Pure: the caller gives the time and the
//! chance.

use std::time::{Duration, Instant};

use crate::limits;

/// Between two rounds of dials, at first.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// And at most.
const LAST_DELAY: Duration = Duration::from_secs(60);

/// Keeps a node connected to [`limits::MIN_PEERS`].
#[derive(Debug)]
pub(crate) struct Connector {
    due: Option<Instant>,
    delay: Duration,
}

impl Connector {
    /// The first round is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            due: Some(now),
            delay: FIRST_DELAY,
        }
    }

    /// When the next round is due; `None` while there are peers enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many peers to dial now, with so many connected and so many being dialled. `chance` from
    /// 0 to 1.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        chance: f64,
        connected: usize,
        dialling: usize,
    ) -> usize {
        if self.due.is_none_or(|due| due > now) {
            return 0;
        }
        if connected >= limits::MIN_PEERS {
            self.due = None;
            return 0;
        }
        self.due = Some(now + jittered(self.delay, chance));
        self.delay = (self.delay * 2).min(LAST_DELAY);
        limits::MIN_PEERS.saturating_sub(connected.saturating_add(dialling))
    }

    /// A peer is gone.
    pub(crate) fn lost_peer(&mut self, now: Instant, chance: f64) {
        if self.due.is_none() {
            self.delay = FIRST_DELAY;
            self.due = Some(now + jittered(Duration::from_secs(1), chance));
        }
    }
}

fn jittered(delay: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lonely_node_dials_up_to_eight_now_and_the_missing_ones_in_5_to_60_seconds() {
        let start = Instant::now();
        let mut connector = Connector::new(start);
        assert_eq!(connector.take(start, 0.5, 0, 0), 8);
        assert_eq!(connector.take(start, 0.5, 0, 0), 0, "not due");
        let mut now = start;
        let mut delays = Vec::new();
        for _ in 0..6 {
            let due = connector.due().unwrap();
            delays.push((due - now).as_secs());
            now = due;
            assert_eq!(connector.take(now, 0.5, 2, 1), 5);
        }
        assert_eq!(delays, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn with_peers_enough_it_rests_until_one_goes() {
        let now = Instant::now();
        let mut connector = Connector::new(now);
        assert_eq!(connector.take(now, 0.5, limits::MIN_PEERS, 0), 0);
        assert_eq!(connector.due(), None);
        connector.lost_peer(now, 1.0);
        let due = connector.due().unwrap();
        assert!(due <= now + Duration::from_secs(2));
        connector.lost_peer(now, 1.0);
        assert_eq!(connector.due(), Some(due));
        assert_eq!(connector.take(due, 0.5, limits::MIN_PEERS - 1, 0), 1);
    }
}

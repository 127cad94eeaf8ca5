//! When to reconcile with a peer of chance: what the mesh did not bring comes by that. Pure: the caller
//! gives the time and the chance, from 0 to 1.
//!
//! Whoever is asked can lie about how long it knew what it gives, and keep a node wary: that costs the node
//! and its peers a reconciliation every few seconds, which is as much as a node outside the mesh asks for.

use std::time::{Duration, Instant};

/// The pauses, from half to the whole of it: at first this, so that a node that has just come soon knows
/// whether its mesh brings what it should, then twice the last one.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// A node outside the mesh is told of little: it asks this often.
const PAUSE_ALONE: Duration = Duration::from_secs(2);
/// A mesh that keeps things back is not relied on: the pause then, for so many providers.
const PAUSE_AFTER_MISS: Duration = Duration::from_secs(4);
/// A reconciliation costs by how much is known, and so does the pause.
const PROVIDERS_A_PAUSE: usize = 10_000;
/// For how long after the last time that something was missed.
const WARY: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(super) struct Rounds {
    next: Instant,
    pause: Duration,
    /// The next round comes before its time.
    hurried: bool,
    wary_until: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(now: Instant, chance: f64) -> Self {
        Self {
            next: now + jittered(FIRST_PAUSE, chance),
            pause: FIRST_PAUSE,
            hurried: false,
            wary_until: None,
        }
    }

    /// The first peers are there, or the machine slept.
    pub(super) fn begin_anew(&mut self, now: Instant, chance: f64) {
        let wary_until = self.wary_until;
        *self = Self {
            wary_until,
            ..Self::new(now, chance)
        };
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A round begins, while so many providers are known.
    pub(super) fn begin(&mut self, known: usize, now: Instant, chance: f64) {
        if !std::mem::take(&mut self.hurried) {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.next = now + jittered(self.pause, chance);
        if self.wary_until.is_some_and(|until| now < until) {
            self.next = self.next.min(now + after_miss(known));
        }
    }

    /// This node is outside the mesh, or the last round came to nothing.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.bring_forward(now + PAUSE_ALONE);
    }

    /// A round brought what the mesh should have brought long before.
    pub(super) fn missed(&mut self, known: usize, now: Instant) {
        self.wary_until = Some(now + WARY);
        self.bring_forward(now + after_miss(known));
    }

    fn bring_forward(&mut self, at: Instant) {
        if at < self.next {
            self.next = at;
            self.hurried = true;
        }
    }
}

fn jittered(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

fn after_miss(known: usize) -> Duration {
    let times = known.div_ceil(PROVIDERS_A_PAUSE).clamp(1, 30);
    PAUSE_AFTER_MISS * u32::try_from(times).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses before the next rounds, in seconds, and when they are over.
    fn pauses(
        rounds: &mut Rounds,
        known: usize,
        count: usize,
        start: Instant,
    ) -> (Vec<u64>, Instant) {
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..count {
            let pause = (0..).find(|second| rounds.is_due(now + Duration::from_secs(*second)));
            pauses.push(pause.unwrap());
            now += Duration::from_secs(pause.unwrap());
            rounds.begin(known, now, 1.0);
        }
        (pauses, now)
    }

    #[test]
    fn rounds_become_rare() {
        let now = Instant::now();
        let mut rounds = Rounds::new(now, 1.0);
        let (pauses, now) = pauses(&mut rounds, 100, 5, now);
        assert_eq!(pauses, [15, 30, 60, 120, 120]);
        rounds.begin(100, now, 0.0);
        assert!(rounds.is_due(now + LONGEST_PAUSE / 2));
        rounds.hurry(now);
        assert!(rounds.is_due(now + PAUSE_ALONE));
        rounds.begin_anew(now, 1.0);
        rounds.hurry(now);
        let (told, _) = self::pauses(&mut rounds, 100, 3, now);
        assert_eq!(told, [2, 15, 30], "one that was hurried does not count");
    }

    #[test]
    fn a_mesh_that_keeps_things_back_is_not_relied_on_for_some_minutes() {
        let now = Instant::now();
        let mut rounds = Rounds::new(now, 1.0);
        let (_, now) = pauses(&mut rounds, 100, 5, now);
        rounds.missed(100, now);
        let wary = usize::try_from(WARY.as_secs() / PAUSE_AFTER_MISS.as_secs()).unwrap();
        let (told, now) = pauses(&mut rounds, 100, wary + 1, now);
        assert_eq!(told[..wary], vec![4; wary]);
        assert_eq!(told[wary], 120);
        // What costs more is done less often, and never less often than without.
        for (known, expected) in [(10_001, 8), (100_000, 40), (usize::MAX, 120)] {
            rounds.missed(known, now);
            rounds.begin(known, now, 1.0);
            let due = now + Duration::from_secs(expected);
            assert!(
                rounds.is_due(due) && !rounds.is_due(due - PAUSE_ALONE),
                "{known}"
            );
        }
    }
}

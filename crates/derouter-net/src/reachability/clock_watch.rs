//! Whether this machine's clock is wrong, from what others say the time is. Pure.
//!
//! Announcements and heartbeats that are off by over four hours are not taken, so a wrong clock empties
//! the market without another sign.

use std::time::{Duration, Instant};

use libp2p::PeerId;

/// What is older says nothing: heartbeats come every 30 s, announcements every 5 minutes.
const RECENT: Duration = Duration::from_secs(15 * 60);
/// Sources that must agree: one alone is likelier wrong than this machine.
const ENOUGH: usize = 2;
/// Sources that are remembered; the oldest goes first.
const SOURCES: usize = 16;

/// Which way a time is off, seen from this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffClock {
    /// Others are over four hours ahead.
    Ahead,
    /// Others are over four hours behind.
    Behind,
}

impl OffClock {
    pub(crate) fn new(ahead: bool) -> Self {
        if ahead { Self::Ahead } else { Self::Behind }
    }
}

/// Who was off lately, and when somebody was right.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    off: Vec<(PeerId, OffClock, Instant)>,
    right: Option<Instant>,
}

impl ClockWatch {
    /// What this source said is off.
    pub(crate) fn off(&mut self, source: PeerId, off: OffClock, now: Instant) {
        self.off.retain(|(known, ..)| *known != source);
        if self.off.len() >= SOURCES {
            self.off.remove(0);
        }
        self.off.push((source, off, now));
    }

    /// Somebody's time is like ours. With a wrong clock nobody's is, while sources that are off can
    /// be made up.
    pub(crate) fn right(&mut self, now: Instant) {
        self.right = Some(now);
    }

    /// Which way all others are off, when the clock of this machine is likely wrong.
    pub(crate) fn suspicion(&self, now: Instant) -> Option<OffClock> {
        let recent = |at: Instant| now.duration_since(at) < RECENT;
        if self.right.is_some_and(recent) {
            return None;
        }
        let mut lately = self.off.iter().filter(|(.., at)| recent(*at));
        let (_, first, _) = lately.next()?;
        let others: Vec<OffClock> = lately.map(|(_, off, _)| *off).collect();
        let agree = others.iter().all(|off| off == first) && others.len() + 1 >= ENOUGH;
        agree.then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_suspected_when_several_are_off_the_same_way_and_nobody_is_right() {
        let now = Instant::now();
        let [one, other] = [PeerId::random(), PeerId::random()];
        let mut watch = ClockWatch::default();
        watch.off(one, OffClock::Ahead, now);
        watch.off(one, OffClock::Ahead, now);
        assert_eq!(watch.suspicion(now), None, "one alone");
        watch.off(other, OffClock::Ahead, now);
        assert_eq!(watch.suspicion(now), Some(OffClock::Ahead));
        assert_eq!(watch.suspicion(now + RECENT), None, "long ago");
        watch.off(other, OffClock::Behind, now);
        assert_eq!(watch.suspicion(now), None, "they do not agree");
        watch.off(other, OffClock::Ahead, now);
        watch.right(now);
        assert_eq!(watch.suspicion(now), None, "somebody is right");
    }

    #[test]
    fn few_sources_are_remembered() {
        let now = Instant::now();
        let mut watch = ClockWatch::default();
        for _ in 0..100 {
            watch.off(PeerId::random(), OffClock::Behind, now);
        }
        assert_eq!(watch.off.len(), SOURCES);
        assert_eq!(watch.suspicion(now), Some(OffClock::Behind));
    }
}

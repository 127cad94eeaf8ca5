//! Whether peers of version 0.1 are seen anywhere, so that heartbeats are sent for them (wire 0.2).
//! Pure: the caller gives the time.

use std::time::{Duration, Instant};

use crate::heartbeat::bucket::{Bucket, Rate};

/// Who is connected to a 0.1 peer says so this often, unless another just did.
const BEACON: Duration = Duration::from_secs(60);
/// A beacon that found nobody is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Heartbeats are sent for so long after a beacon: a few may be lost.
const HEARD: Duration = Duration::from_secs(300);

/// Beacons that are passed on: one a minute. The other one of a burst is for an honest one that
/// comes a little early.
const FORWARD_RATE: Rate = Rate {
    every: BEACON,
    burst: 2,
};

/// Knows of 0.1 peers, our own and those that others tell of.
#[derive(Debug, Default)]
pub(crate) struct LegacyWatch {
    /// One is connected to us.
    direct: bool,
    heard_until: Option<Instant>,
    due: Option<Instant>,
    forwarded: Bucket,
}

impl LegacyWatch {
    /// Whether a 0.1 peer is connected to us.
    pub(crate) fn connected(&mut self, direct: bool, now: Instant) {
        if direct && !self.direct {
            let recent = self
                .heard_until
                .is_some_and(|until| until > now + HEARD - BEACON);
            self.due = Some(if recent { now + BEACON } else { now });
        }
        if !direct {
            self.due = None;
        }
        self.direct = direct;
    }

    /// Another node is connected to a 0.1 peer.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_until = Some(now + HEARD);
        if self.direct {
            self.due = Some(now + BEACON);
        }
    }

    /// Whether to pass on a beacon that was heard.
    pub(crate) fn may_forward(&mut self, now: Instant) -> bool {
        self.forwarded.try_take(FORWARD_RATE, 1, now)
    }

    /// Whether heartbeats are to be sent.
    pub(crate) fn wants_heartbeats(&self, now: Instant) -> bool {
        self.direct || self.heard_until.is_some_and(|until| until > now)
    }

    /// When something changes by itself.
    pub(crate) fn due(&self) -> Option<Instant> {
        let times = [self.due, self.heard_until];
        times.into_iter().flatten().min()
    }

    /// Whether to publish a beacon now. Say how it went with [`LegacyWatch::published`].
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.heard_until.is_some_and(|until| until <= now) {
            self.heard_until = None;
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether anybody took the beacon.
    pub(crate) fn published(&mut self, ok: bool, now: Instant) {
        self.due = Some(now + if ok { BEACON } else { RETRY });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_0_1_that_comes_is_told_of_at_once_and_then_each_minute_while_it_stays() {
        let mut watch = LegacyWatch::default();
        let now = Instant::now();
        assert!(!watch.wants_heartbeats(now) && watch.due().is_none());
        watch.connected(true, now);
        assert!(watch.wants_heartbeats(now) && watch.take(now));
        watch.published(true, now);
        assert!(!watch.take(now + BEACON / 2));
        assert!(watch.take(now + BEACON));
        watch.published(false, now + BEACON);
        assert!(watch.take(now + BEACON + RETRY), "nobody heard it");
        watch.connected(false, now);
        assert!(!watch.take(now + HEARD) && !watch.wants_heartbeats(now));
    }

    #[test]
    fn beacons_are_passed_on_once_a_minute() {
        let mut watch = LegacyWatch::default();
        let now = Instant::now();
        assert!(watch.may_forward(now));
        assert!(watch.may_forward(now + BEACON - RETRY), "a little early");
        let mut passed = 0;
        for second in 60..660 {
            passed += u32::from(watch.may_forward(now + Duration::from_secs(second)));
        }
        assert!((9..=11).contains(&passed), "{passed}");
    }

    #[test]
    fn what_another_node_tells_makes_heartbeats_for_five_minutes_and_saves_our_beacon() {
        let mut watch = LegacyWatch::default();
        let now = Instant::now();
        watch.heard(now);
        assert!(watch.wants_heartbeats(now + HEARD - RETRY));
        assert!(!watch.wants_heartbeats(now + HEARD));
        watch.connected(true, now + RETRY);
        assert!(!watch.take(now + RETRY), "the other has just told");
        assert!(watch.take(now + RETRY + BEACON));
        watch.heard(now + RETRY + BEACON);
        assert!(!watch.take(now + RETRY + BEACON));
        watch.connected(false, now + BEACON * 2);
        let over = now + RETRY + BEACON + HEARD;
        assert_eq!(watch.due(), Some(over));
        assert!(!watch.take(over));
        assert_eq!(watch.due(), None, "nothing wakes it for ever");
    }
}

//! When the next frame of a network may be read. Pure but for the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::address::Subnet;
use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;

/// What the connections of one network share.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    bucket: Mutex<Bucket>,
}

impl Pace {
    fn new(rate: Rate) -> Arc<Self> {
        Arc::new(Self {
            rate,
            bucket: Mutex::default(),
        })
    }

    /// Pays for a frame that was read. Until when its connection reads no more: each is at most one
    /// frame ahead, so connections that want all take turns.
    pub(super) fn pay(&self, now: Instant) -> Instant {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = bucket.ready_at(self.rate, 1, now);
        bucket.take(self.rate, 1, now);
        ready
    }

    fn is_full(&self, now: Instant) -> bool {
        let bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.ready_at(self.rate, self.rate.burst, now) <= now
    }
}

/// The paces of all networks.
#[derive(Debug)]
pub(super) struct Paces {
    rate: Rate,
    /// At most [`limits::PACED_NETWORKS`] beside those that are connected. Remembered beyond the last
    /// connection, so that connecting again gives no new burst.
    networks: HashMap<Subnet, Arc<Pace>>,
}

impl Paces {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            networks: HashMap::new(),
        }
    }

    /// The pace of a connection: its network's, or one of its own.
    pub(super) fn of(&mut self, network: Option<Subnet>) -> Arc<Pace> {
        let Some(network) = network else {
            return Pace::new(self.rate);
        };
        if let Some(known) = self.networks.get(&network) {
            return Arc::clone(known);
        }
        self.make_room(Instant::now());
        let pace = Pace::new(self.rate);
        self.networks.insert(network, Arc::clone(&pace));
        pace
    }

    /// At the limit those go that owe nothing, and if there are none, all that are not connected.
    fn make_room(&mut self, now: Instant) {
        let connected = |pace: &Arc<Pace>| Arc::strong_count(pace) > 1;
        if self.networks.len() >= limits::PACED_NETWORKS {
            self.networks
                .retain(|_, pace| connected(pace) || !pace.is_full(now));
        }
        if self.networks.len() >= limits::PACED_NETWORKS {
            self.networks.retain(|_, pace| connected(pace));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate {
        every: Duration::from_millis(2),
        burst: 100,
    };

    fn network(number: u16) -> Subnet {
        Subnet::V6([0x2600, number, 0])
    }

    /// Frames of each connection within a second, when all read whatever they may.
    fn read(paces: &[Arc<Pace>], start: Instant) -> Vec<u32> {
        let mut read = vec![0; paces.len()];
        let mut until = vec![start; paces.len()];
        for step in 0..1000 {
            let now = start + Duration::from_millis(step);
            for (index, pace) in paces.iter().enumerate() {
                while until[index] <= now {
                    until[index] = pace.pay(now);
                    read[index] += 1;
                    assert!(read[index] < 10_000, "nothing holds it back");
                }
            }
        }
        read
    }

    #[test]
    fn connections_of_one_network_share_its_pace_and_another_network_has_its_own() {
        let mut paces = Paces::new(RATE);
        let one = paces.of(Some(network(1)));
        let crowd: Vec<_> = (0..4).map(|_| paces.of(Some(network(1)))).collect();
        assert!(crowd.iter().all(|pace| Arc::ptr_eq(pace, &one)));
        let frames: u32 = read(&crowd, Instant::now()).iter().sum();
        assert!((550..=650).contains(&frames), "{frames}");
        let other = paces.of(Some(network(2)));
        assert!(other.is_full(Instant::now()));
    }

    #[test]
    fn connections_of_one_network_take_turns() {
        let mut paces = Paces::new(RATE);
        let crowd: Vec<_> = (0..4).map(|_| paces.of(Some(network(1)))).collect();
        let start = Instant::now();
        // The burst goes to who asks first.
        read(&crowd, start);
        let frames = read(&crowd, start + Duration::from_secs(1));
        let fair = frames.iter().sum::<u32>() / 4;
        assert!(
            frames.iter().all(|own| own.abs_diff(fair) <= fair / 4 + 1),
            "{frames:?}"
        );
    }

    #[test]
    fn a_network_that_comes_back_gets_no_new_burst() {
        let mut paces = Paces::new(RATE);
        let now = Instant::now();
        let pace = paces.of(Some(network(1)));
        while pace.pay(now) <= now {}
        drop(pace);
        let again = paces.of(Some(network(1)));
        assert!(again.pay(now) > now);
    }

    #[test]
    fn networks_beyond_the_limit_are_forgotten_but_those_that_are_connected() {
        let mut paces = Paces::new(RATE);
        let connected = paces.of(Some(network(0)));
        for number in 1..5000 {
            drop(paces.of(Some(network(number))));
        }
        assert!(paces.networks.len() <= limits::PACED_NETWORKS);
        assert!(Arc::ptr_eq(&connected, &paces.of(Some(network(0)))));
    }

    #[test]
    fn connections_without_a_network_have_paces_of_their_own() {
        let mut paces = Paces::new(RATE);
        assert!(!Arc::ptr_eq(&paces.of(None), &paces.of(None)));
    }
}

//! When a packet arrives. Pure: the caller gives the time and the chances.

use std::time::{Duration, Instant};

/// What a link does to packets, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// How long a packet travels, one way.
    pub delay: Duration,
    /// Up to so much longer, at random. Packets stay in order.
    pub jitter: Duration,
    /// The share of packets that are lost, from 0 to 1.
    pub loss: f64,
    /// The share of packets that come late, from 0 to 1: those behind them overtake them.
    pub late: f64,
    /// How late those come.
    pub late_by: Duration,
    /// The share of packets that arrive twice, from 0 to 1.
    pub doubled: f64,
    /// Bits a second; `None` for as many as the machine can carry.
    pub rate: Option<u64>,
    /// Bytes that wait for their turn where there is a rate; a packet that finds more is lost.
    pub queue_bytes: u64,
}

impl Default for Shape {
    /// No delay, no loss, no rate; all in order, and once.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            late: 0.0,
            late_by: Duration::ZERO,
            doubled: 0.0,
            rate: None,
            queue_bytes: 4 << 20,
        }
    }
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Direction {
    shape: Shape,
    /// When the last packet was through the bottleneck.
    free: Option<Instant>,
    /// When the last packet arrives.
    last: Option<Instant>,
}

impl Direction {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            free: None,
            last: None,
        }
    }

    /// When a packet that is sent now arrives; `None` when it is lost. The chances are from 0 to 1.
    pub(super) fn arrival(
        &mut self,
        now: Instant,
        bytes: usize,
        loss_chance: f64,
        jitter_chance: f64,
    ) -> Option<Instant> {
        if loss_chance < self.shape.loss {
            return None;
        }
        let through = self.through_bottleneck(now, bytes)?;
        let travel = self.shape.delay + self.shape.jitter.mul_f64(jitter_chance.clamp(0.0, 1.0));
        let arrival = (through + travel).max(self.last.unwrap_or(now));
        self.last = Some(arrival);
        Some(arrival)
    }

    /// By how much a packet comes later than its turn.
    pub(super) fn lateness(&self, chance: f64) -> Duration {
        if chance < self.shape.late {
            return self.shape.late_by;
        }
        Duration::ZERO
    }

    /// Whether a packet arrives twice.
    pub(super) fn doubles(&self, chance: f64) -> bool {
        chance < self.shape.doubled
    }

    fn through_bottleneck(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.shape.rate else {
            return Some(now);
        };
        let start = self.free.map_or(now, |free| free.max(now));
        let waits = start - now;
        let waiting_bytes = waits.as_nanos() * u128::from(rate) / 8_000_000_000;
        if waiting_bytes + bytes as u128 > u128::from(self.shape.queue_bytes) {
            return None;
        }
        let nanos = bytes as u128 * 8_000_000_000 / u128::from(rate.max(1));
        let through = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free = Some(through);
        Some(through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_arrives_after_the_delay_and_packets_stay_in_order() {
        let now = Instant::now();
        let mut direction = Direction::new(Shape {
            delay: 30 * MS,
            jitter: 10 * MS,
            ..Shape::default()
        });
        assert_eq!(direction.arrival(now, 100, 0.5, 1.0), Some(now + 40 * MS));
        assert_eq!(direction.arrival(now, 100, 0.5, 0.0), Some(now + 40 * MS));
        let later = now + 20 * MS;
        assert_eq!(direction.arrival(later, 100, 0.5, 0.0), Some(now + 50 * MS));
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
        let now = Instant::now();
        let mut direction = Direction::new(Shape {
            rate: Some(8_000_000),
            queue_bytes: 3_000,
            ..Shape::default()
        });
        for number in 1..=3 {
            let arrival = direction.arrival(now, 1_000, 0.5, 0.0);
            assert_eq!(arrival, Some(now + number * MS));
        }
        assert_eq!(direction.arrival(now, 1_000, 0.5, 0.0), None);
        let later = now + MS;
        assert_eq!(
            direction.arrival(later, 1_000, 0.5, 0.0),
            Some(now + 4 * MS)
        );
    }

    #[test]
    fn late_and_doubled_packets_are_the_shares_asked_for() {
        let direction = Direction::new(Shape {
            late: 0.25,
            late_by: 7 * MS,
            doubled: 0.5,
            ..Shape::default()
        });
        assert_eq!(direction.lateness(0.2), 7 * MS);
        assert_eq!(direction.lateness(0.3), Duration::ZERO);
        assert!(direction.doubles(0.4) && !direction.doubles(0.6));
    }

    #[test]
    fn the_share_of_lost_packets_is_the_one_asked_for() {
        let now = Instant::now();
        let mut direction = Direction::new(Shape {
            loss: 0.1,
            ..Shape::default()
        });
        let lost = (0..100).filter(|number| {
            let chance = f64::from(*number) / 100.0;
            direction.arrival(now, 100, chance, 0.0).is_none()
        });
        assert_eq!(lost.count(), 10);
    }
}

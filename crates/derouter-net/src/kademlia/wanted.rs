//! For which protocols providers are looked for. Pure.

use std::time::{Duration, Instant};

use derouter_wire::ProtocolId;

use crate::limits;

/// The first repetition of a search.
const FIRST_DELAY: Duration = Duration::from_secs(20);
/// The slowest one.
const LAST_DELAY: Duration = Duration::from_secs(10 * 60);

#[derive(Debug)]
struct Wanted {
    protocol: ProtocolId,
    due: Instant,
    delay: Duration,
}

/// Protocols of which the node wants to know more providers.
#[derive(Debug, Default)]
pub(crate) struct WantedProtocols {
    wanted: Vec<Wanted>,
}

impl WantedProtocols {
    /// What is wanted from now on: what is new at once, the rest when it is due. Those over the
    /// limit are left out.
    pub(crate) fn set(&mut self, protocols: &[ProtocolId], now: Instant) {
        self.wanted
            .retain(|wanted| protocols.contains(&wanted.protocol));
        for protocol in protocols {
            let known = self.wanted.iter().any(|one| one.protocol == *protocol);
            if known || self.wanted.len() >= limits::WANTED_PROTOCOLS {
                continue;
            }
            self.wanted.push(Wanted {
                protocol: protocol.clone(),
                due: now,
                delay: FIRST_DELAY,
            });
        }
    }

    /// There is somebody to ask now.
    pub(crate) fn restart(&mut self, now: Instant) {
        for wanted in &mut self.wanted {
            wanted.due = now;
            wanted.delay = FIRST_DELAY;
        }
    }

    /// When the next search is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.wanted.iter().map(|wanted| wanted.due).min()
    }

    /// A protocol to search for now. `chance` from 0 to 1.
    pub(crate) fn take(&mut self, now: Instant, chance: f64) -> Option<ProtocolId> {
        let wanted = self.wanted.iter_mut().find(|wanted| wanted.due <= now)?;
        let jittered = wanted.delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        wanted.due = now + jittered;
        wanted.delay = (wanted.delay * 2).min(LAST_DELAY);
        Some(wanted.protocol.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(number: usize) -> ProtocolId {
        ProtocolId::new(format!("test:{number}")).unwrap()
    }

    #[test]
    fn a_wanted_protocol_is_searched_at_once_and_then_ever_more_rarely() {
        let mut wanted = WantedProtocols::default();
        let mut now = Instant::now();
        wanted.set(&[protocol(1)], now);
        let mut delays = Vec::new();
        for _ in 0..8 {
            assert_eq!(wanted.take(now, 0.5), Some(protocol(1)));
            assert_eq!(wanted.take(now, 0.5), None);
            // Wanting it again changes nothing.
            wanted.set(&[protocol(1)], now);
            let due = wanted.due().unwrap();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [20, 40, 80, 160, 320, 600, 600, 600]);
        wanted.set(&[], now);
        assert_eq!(wanted.due(), None);
    }

    #[test]
    fn only_so_many_protocols_are_wanted() {
        let mut wanted = WantedProtocols::default();
        let all: Vec<_> = (0..100).map(protocol).collect();
        wanted.set(&all, Instant::now());
        assert_eq!(wanted.wanted.len(), limits::WANTED_PROTOCOLS);
    }
}

//! The node's two clocks: the wall clock for records and the wire, the monotonic one for waits.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use derouter_market::offers::Now;
use derouter_wire::UnixSeconds;

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            unix: unix_now(),
            uptime: self.started.elapsed(),
        }
    }
}

/// The wall clock. Before 1970 counts as 1970: the wire has no earlier times.
pub(crate) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(since.as_secs())
}

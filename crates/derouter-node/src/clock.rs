//! The node's two clocks: the wall clock for records and the wire, and one that never jumps, for
//! how old things are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_market::offers::Now;
use derouter_wire::UnixSeconds;

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: derouter_net::boot_time(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            unix: unix_now(),
            uptime: derouter_net::boot_time().saturating_sub(self.started),
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

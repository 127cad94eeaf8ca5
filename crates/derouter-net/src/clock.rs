//! The time on the wire and on disk.

use std::time::{SystemTime, UNIX_EPOCH};

use derouter_wire::UnixSeconds;

/// This machine's clock.
pub(crate) fn unix_now() -> UnixSeconds {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(elapsed.map_or(0, |elapsed| elapsed.as_secs()))
}

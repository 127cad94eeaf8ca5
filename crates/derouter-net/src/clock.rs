//! The time on the wire and on disk, and that since the machine started.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_wire::UnixSeconds;

/// This machine's clock.
pub(crate) fn unix_now() -> UnixSeconds {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(elapsed.map_or(0, |elapsed| elapsed.as_secs()))
}

/// A monotonic clock that goes on while the machine sleeps, where the system has one (Linux,
/// Android, macOS); elsewhere `Instant` is one already (Windows) or nothing shows the sleep. Only
/// differences mean something. Setting the wall clock does not change it.
pub fn boot_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(target_vendor = "apple")]
    let clock = rustix::time::ClockId::Monotonic;
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        let time = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_goes_on_and_no_slower_than_the_monotonic_one() {
        let (boot, start) = (boot_time(), std::time::Instant::now());
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(boot_time() - boot >= Duration::from_millis(20));
    }
}

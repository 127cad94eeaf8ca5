//! Points at which tests let the disk fail, or the process end. They are compiled in by the feature
//! `failpoints` alone; without it nothing of them is left.
//!
//! A point is set by the environment, for example `FAILPOINTS='store::sync=1*return(eio)'` (see the
//! documentation of the crate `fail`). What it may return: `eio`, `enospc`, `erofs`, and `crash`,
//! which ends the process at once, as a kill or a power cut would.

use std::io;

/// Before a transaction begins.
pub(crate) const BEGIN: &str = "store::begin";

/// Before a transaction is committed.
pub(crate) const COMMIT: &str = "store::commit";

/// Before the log is synced to the disk, also when it was written anew.
pub(crate) const SYNC: &str = "store::sync";

/// What was asked is done (and on the disk, where that was asked), and nobody has been told.
pub(crate) const BEFORE_ANSWER: &str = "store::before-answer";

/// Fails if a test says so.
#[cfg(feature = "failpoints")]
pub(crate) fn at(point: &'static str) -> io::Result<()> {
    fail::fail_point!(point, |what| match what.as_deref() {
        Some("crash") => std::process::abort(),
        Some("enospc") => Err(io::Error::from_raw_os_error(28)),
        Some("erofs") => Err(io::Error::from_raw_os_error(30)),
        _ => Err(io::Error::from_raw_os_error(5)),
    });
    Ok(())
}

/// Never fails: this program has no such points.
#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it does")]
pub(crate) fn at(_: &'static str) -> io::Result<()> {
    Ok(())
}

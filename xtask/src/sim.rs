//! `cargo xtask sim discovery`.

use crate::bench;
use crate::shell::Failure;

/// Builds the simulation for release and runs it.
pub(crate) fn discovery(options: &[&str]) -> Result<(), Failure> {
    bench::alone("sim_discovery", options)
}

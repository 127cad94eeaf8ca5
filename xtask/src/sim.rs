//! `cargo xtask sim discovery` and `router`.

use crate::bench;
use crate::shell::Failure;

/// Builds the simulation for release and runs it.
pub(crate) fn discovery(options: &[&str]) -> Result<(), Failure> {
    bench::alone("sim_discovery", options)
}

/// Builds the simulation of the router for release and runs it.
pub(crate) fn router(options: &[&str]) -> Result<(), Failure> {
    bench::alone_with(
        "sim_router",
        &["--features", "derouter-testkit/router"],
        options,
    )
}

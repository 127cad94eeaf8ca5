//! `cargo xtask bench gateway` and `cargo xtask bench streams`.

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{Failure, cargo, root, run};

/// Builds node, proxy, backend and load generator for release, and runs the load generator.
pub(crate) fn gateway(options: &[&str]) -> Result<(), Failure> {
    let binaries = build(&[
        "--package",
        "derouter",
        "--package",
        "derouter-testkit",
        "--bins",
    ])?;
    let mut bench = Command::new(binaries.join("bench_gateway"));
    run(bench
        .arg("--node")
        .arg(binaries.join("derouter"))
        .args(options))
}

/// Builds and runs the measurement of job streams against raw TCP.
pub(crate) fn streams(options: &[&str]) -> Result<(), Failure> {
    let binaries = build(&["--package", "derouter-testkit", "--bin", "bench_streams"])?;
    run(Command::new(binaries.join("bench_streams")).args(options))
}

/// Builds for release; where the binaries are.
fn build(what: &[&str]) -> Result<PathBuf, Failure> {
    let mut build = cargo();
    run(build.args(["build", "--release", "--locked"]).args(what))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), Into::into);
    Ok(target.join("release"))
}

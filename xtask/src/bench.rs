//! `cargo xtask bench gateway`.

use crate::shell::{Failure, cargo, root, run};

/// Builds node, proxy, backend and load generator for release, and runs the load generator.
pub(crate) fn gateway(options: &[&str]) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--release", "--locked"]);
    run(build.args([
        "--package",
        "derouter",
        "--package",
        "derouter-testkit",
        "--bins",
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), Into::into);
    let binaries = target.join("release");
    let mut bench = std::process::Command::new(binaries.join("bench_gateway"));
    run(bench
        .arg("--node")
        .arg(binaries.join("derouter"))
        .args(options))
}

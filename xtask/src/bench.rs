//! `cargo xtask bench`: the gateway, job streams, the ledger, and a chat under attack.

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{Failure, cargo, root, run};

/// Builds node, proxy, backend and load generator for release, and runs the load generator.
pub(crate) fn gateway(options: &[&str]) -> Result<(), Failure> {
    on_node(
        "bench_gateway",
        &["testkit_backend", "testkit_proxy"],
        options,
    )
}

/// Makes a database of many jobs, asks it, and starts a node on it.
pub(crate) fn ledger(options: &[&str]) -> Result<(), Failure> {
    on_node("bench_ledger", &[], options)
}

/// Keeps nodes at work for long, and looks whether anything grows.
pub(crate) fn soak(options: &[&str]) -> Result<(), Failure> {
    on_node("soak", &[], options)
}

/// Times a chat while peers attack both of its nodes.
pub(crate) fn hostile(options: &[&str]) -> Result<(), Failure> {
    on_node("bench_hostile", &[], options)
}

/// Builds and runs the measurement of job streams against raw TCP.
pub(crate) fn streams(options: &[&str]) -> Result<(), Failure> {
    alone("bench_streams", options)
}

/// Builds and runs a program of the testkit that needs no other.
pub(crate) fn alone(program: &str, options: &[&str]) -> Result<(), Failure> {
    alone_with(program, &[], options)
}

/// The same, built with more than the usual features.
pub(crate) fn alone_with(
    program: &str,
    features: &[&str],
    options: &[&str],
) -> Result<(), Failure> {
    let what = ["--package", "derouter-testkit", "--bin", program];
    let binaries = build(&[&what, features].concat())?;
    run(Command::new(binaries.join(program)).args(options))
}

/// Builds the node, a program of the testkit and what that starts, and runs it. Nothing else is
/// built: linking for release takes a minute for each.
fn on_node(program: &str, helpers: &[&str], options: &[&str]) -> Result<(), Failure> {
    let mut what = vec!["--package", "derouter", "--package", "derouter-testkit"];
    for binary in ["derouter", program].iter().chain(helpers) {
        what.extend(["--bin", *binary]);
    }
    let binaries = build(&what)?;
    let mut bench = Command::new(binaries.join(program));
    run(bench
        .arg("--node")
        .arg(binaries.join("derouter"))
        .args(options))
}

/// Builds for release; where the binaries are.
fn build(what: &[&str]) -> Result<PathBuf, Failure> {
    let mut build = cargo();
    run(build.args(["build", "--release", "--locked"]).args(what))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), Into::into);
    Ok(target.join("release"))
}

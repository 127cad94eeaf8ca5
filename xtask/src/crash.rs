//! `cargo xtask crash`: nodes that end in the middle of jobs, disks that fail, networks that cut.

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{Failure, cargo, is_root, root, run};
use crate::test::Report;

/// Runs of each kind where everything is checked: as many as take a minute or two on two cores.
const CHECKED: [(&str, &str); 3] = [("", "20"), ("--disk", "4"), ("--network", "2")];

/// After so many minutes no further run is begun where everything is checked.
const LONGEST: &str = "5";

/// With the points at which a node can be made to end. The same packages and features as the tests: with
/// others all third-party code would be built once more.
const POINTS: [&str; 3] = ["--workspace", "--features", "derouter/failpoints"];

fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    target.map_or(root().join("target"), Into::into)
}

/// Builds the node with its points, and the program that makes the runs.
pub(crate) fn by_hand(options: &[&str]) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--locked", "--bin", "derouter", "--bin", "crash"]);
    run(build.args(POINTS))?;
    runs(options)
}

/// A few runs of each kind, with what the tests were built with.
pub(crate) fn check(report: &mut Report) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--locked"]);
    run(build.args(POINTS))?;
    for (kind, many) in CHECKED {
        if kind == "--network" && !is_root() {
            report.skip("runs with networks that lose and cut: need root".to_owned());
            continue;
        }
        let mut options = vec!["--runs", many, "--minutes", LONGEST];
        options.extend(Some(kind).filter(|kind| !kind.is_empty()));
        runs(&options)?;
    }
    Ok(())
}

/// A minute of the gateway's soak, with what the tests were built with.
pub(crate) fn soak(_: &mut Report) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--locked", "--bin", "derouter", "--bin", "soak"]);
    run(build.args(POINTS))?;
    start("soak", &["gateway", "--minutes", "1"])
}

fn runs(options: &[&str]) -> Result<(), Failure> {
    start("crash", options)
}

/// Starts a program of the testkit on the node.
fn start(program: &str, options: &[&str]) -> Result<(), Failure> {
    // In a place of its own: another build of the node must not take its place in the middle.
    let (built, own) = (target().join("debug"), target().join("crash"));
    let node = own.join("derouter");
    // What still runs from an earlier one keeps its file; it can't be written over.
    let _ = std::fs::remove_file(&node);
    std::fs::create_dir_all(&own)
        .and_then(|()| std::fs::copy(built.join("derouter"), &node))
        .map_err(|error| format!("can't copy the node to {}: {error}", node.display()))?;
    let mut command = Command::new(built.join(program));
    command.current_dir(root()).args(options);
    run(command.arg("--node").arg(&node))
}

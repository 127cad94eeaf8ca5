//! `cargo xtask test`: everything that is checked, in one command.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::{self, Clients};
use crate::shell::{Failure, cargo, is_root, works};
use crate::{crash, deny, shell, system, unused};

/// What happened, for the summary.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<(&'static str, Duration)>,
    skipped: Vec<String>,
}

impl Report {
    /// Notes that something was not checked, and why.
    pub(crate) fn skip(&mut self, what: String) {
        println!("skipped: {what}");
        self.skipped.push(what);
    }

    fn print(&self) {
        println!("\n== summary");
        for (name, took) in &self.steps {
            println!("{name:<10} {:>7.1} s", took.as_secs_f64());
        }
        let total: Duration = self.steps.iter().map(|(_, took)| *took).sum();
        println!("{:<10} {:>7.1} s", "all", total.as_secs_f64());
        for what in &self.skipped {
            println!("skipped: {what}");
        }
    }
}

type Step = fn(&mut Report) -> Result<(), Failure>;

/// In the order in which a failure is cheapest to learn of.
const STEPS: [(&str, Step); 9] = [
    ("fmt", fmt),
    ("unused", unused::check),
    ("system", system::install),
    ("clippy", clippy),
    ("doc", doc),
    ("deny", deny::check),
    ("test", test),
    ("crash", crash::check),
    ("soak", crash::soak),
];

/// Runs all steps, or those named by `--only`.
pub(crate) fn run_steps(only: &[&str], report: &mut Report) -> Result<(), Failure> {
    for (name, step) in STEPS {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        println!("\n== {name}");
        let begin = Instant::now();
        let done = step(report);
        report.steps.push((name, begin.elapsed()));
        done.map_err(|error| format!("step {name}: {error}"))?;
    }
    Ok(())
}

pub(crate) fn run(options: &[&str]) -> Result<(), Failure> {
    let names = STEPS.map(|(name, _)| name);
    let mut only = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--list" => {
                println!("{}", names.join("\n"));
                return Ok(());
            }
            "--only" => {
                let step = rest.next().filter(|step| names.contains(step));
                only.push(*step.ok_or(format!("--only takes one of: {}", names.join(", ")))?);
            }
            other => return Err(format!("unknown option {other}; see cargo xtask help")),
        }
    }
    let mut report = Report::default();
    let done = run_steps(&only, &mut report);
    report.print();
    if done.is_ok() {
        println!("all checks passed");
    }
    done
}

fn fmt(_: &mut Report) -> Result<(), Failure> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &mut Report) -> Result<(), Failure> {
    let mut command = cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
    ]);
    shell::run(command.args(["--", "-D", "warnings"]))
}

fn doc(_: &mut Report) -> Result<(), Failure> {
    let mut command = cargo();
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(command.args(["doc", "--workspace", "--no-deps", "--locked"]))
}

fn test(report: &mut Report) -> Result<(), Failure> {
    let clients = clients::install(report)?;
    if !is_root() || !works("ip", &["-V"]) {
        report.skip("mDNS between network namespaces: needs root and iproute2".to_owned());
    }
    cargo_test(&clients)
}

fn cargo_test(clients: &Clients) -> Result<(), Failure> {
    let mut command: Command = cargo();
    // With the points at which tests let the disk fail, which do nothing unless a test sets them.
    let points = ["--features", "derouter/failpoints"];
    command
        .args(["test", "--workspace", "--locked"])
        .args(points);
    clients.tell(&mut command);
    shell::run(&mut command)
}

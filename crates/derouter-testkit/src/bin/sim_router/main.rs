//! The simulation of `cargo xtask sim router`, which builds and starts it: the gateway's own router
//! buys from synthetic providers, beside simple ways to choose and one that knows everything.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod market;
mod policy;
mod population;
mod run;

use std::process::ExitCode;

use policy::Policy;
use population::Population;
use run::Outcome;

const USAGE: &str = "\
Usage: sim_router [OPTION]...
  --requests N   requests of a run (3000)
  --runs N       runs with different chances, averaged (10)
  --only NAME    one population: mixed, traps, load, newcomers, change or flaky
";

struct Options {
    requests: usize,
    runs: u64,
    only: Option<String>,
}

fn options() -> Option<Options> {
    let mut options = Options {
        requests: 3000,
        runs: 10,
        only: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--requests" => options.requests = value.parse().ok()?,
            "--runs" => options.runs = value.parse().ok()?,
            "--only" => options.only = Some(value),
            _ => return None,
        }
    }
    (options.requests > 0 && options.runs > 0).then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    println!(
        "{} requests a run, {} runs. Regret: against an oracle that knows every provider's true prices, speed,\n\
         load and failures. Value: the mean of ln(price) + 0.5 ln(seconds), above the oracle's.",
        options.requests, options.runs
    );
    for population in Population::ALL {
        if options
            .only
            .as_ref()
            .is_none_or(|only| only == population.name())
        {
            report(population, &options);
        }
    }
    ExitCode::SUCCESS
}

fn report(population: Population, options: &Options) {
    println!("\n{}: {}", population.name(), population.about());
    println!(
        "{:<22} {:>10} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "mPOL", "regret", "mean s", "regret", "p95 s", "value", "tries", "failed"
    );
    let outcome = |policy: Policy| {
        let runs =
            (0..options.runs).map(|seed| run::run(population, policy, options.requests, seed));
        Outcome::merge(runs)
    };
    let oracle = outcome(Policy::Oracle);
    for policy in Policy::ALL {
        let own = match policy {
            Policy::Oracle => oracle.clone(),
            policy => outcome(policy),
        };
        println!(
            "{:<22} {:>10.4} {:>8.1}% {:>8.2} {:>8.2} {:>8.1} {:>8.3} {:>8.3} {:>7.2}%",
            policy.name(),
            own.price() * 1000.0,
            (own.price() / oracle.price() - 1.0) * 100.0,
            own.seconds(),
            own.seconds() - oracle.seconds(),
            own.percentile(0.95),
            own.value() - oracle.value(),
            own.tries(),
            own.failed() * 100.0,
        );
    }
}

//! `cargo xtask crash`, which builds and starts it: nodes that end in the middle of jobs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_testkit::crash::ledgers::Findings;
use derouter_testkit::crash::plan::Plan;
use derouter_testkit::crash::report::{Total, heading, row};
use derouter_testkit::crash::run::{Ran, run};
use tokio::task::{JoinSet, LocalSet, spawn_local};

const USAGE: &str = "\
Usage: crash --node <derouter binary> [--runs N] [--seed S] [--parallel N] [--minutes N]
  --runs N      so many runs (50); run number i has the seed S + i
  --seed S      the first seed (1)
  --parallel N  so many at once (3)
  --minutes N   begin none after so long
The node must be built with the feature `failpoints`.
";

/// Where the files of runs with violations are kept.
const KEEP: &str = "target/crash";

struct Options {
    node: PathBuf,
    runs: u64,
    seed: u64,
    parallel: usize,
    longest: Option<Duration>,
}

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        runs: Plan::cycle(),
        seed: 1,
        parallel: 3,
        longest: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--node" => options.node = PathBuf::from(value).canonicalize().ok()?,
            "--runs" => options.runs = value.parse().ok()?,
            "--seed" => options.seed = value.parse().ok()?,
            "--parallel" => options.parallel = value.parse().ok().filter(|many| *many > 0)?,
            "--minutes" => {
                let minutes: u64 = value.parse().ok()?;
                options.longest = Some(Duration::from_secs(minutes.saturating_mul(60)));
            }
            _ => return None,
        }
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

fn repeat(seed: u64) -> String {
    format!("cargo xtask crash --runs 1 --seed {seed}")
}

fn show(ran: &Ran, total: &mut Total) {
    println!("{}", row(ran, &repeat(ran.seed)));
    total.add(ran);
}

async fn all(options: Options) -> Total {
    let begin = Instant::now();
    let node = Arc::new(options.node);
    let (mut running, mut total) = (JoinSet::new(), Total::default());
    println!("{}", heading());
    for seed in (options.seed..).take(usize::try_from(options.runs).unwrap_or(usize::MAX)) {
        if options
            .longest
            .is_some_and(|longest| begin.elapsed() > longest)
        {
            println!("the time is over; seed {seed} and later did not run");
            break;
        }
        if running.len() >= options.parallel
            && let Some(Ok(ran)) = running.join_next().await
        {
            show(&ran, &mut total);
        }
        let node = Arc::clone(&node);
        running.spawn_local(one(node, seed));
    }
    while let Some(Ok(ran)) = running.join_next().await {
        show(&ran, &mut total);
    }
    println!("\n{}", total.text(begin.elapsed()));
    total
}

/// A run that panics has shown why: it counts as one with a violation.
async fn one(node: Arc<PathBuf>, seed: u64) -> Ran {
    let begin = Instant::now();
    let plan = Plan::of(seed);
    let title = plan.title();
    let running = spawn_local(async move { run(&node, &plan, KEEP.as_ref()).await });
    running.await.unwrap_or_else(|error| Ran {
        title,
        seed,
        reached: false,
        quiet: false,
        findings: Findings {
            violations: vec![format!("the run could not be made: {error}")],
            ..Findings::default()
        },
        took: begin.elapsed(),
        kept: None,
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let total = runtime.block_on(LocalSet::new().run_until(all(options)));
    for seed in &total.bad {
        println!("again: {}", repeat(*seed));
    }
    match total.bad.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

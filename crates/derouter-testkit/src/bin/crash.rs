//! `cargo xtask crash`, which builds and starts it: nodes that end in the middle of jobs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_testkit::crash::disk::{self, DiskPlan};
use derouter_testkit::crash::ledgers::Findings;
use derouter_testkit::crash::network::{self, NetworkPlan};
use derouter_testkit::crash::plan::Plan;
use derouter_testkit::crash::report::{Total, heading, row};
use derouter_testkit::crash::run::{Ran, run};
use tokio::task::{JoinSet, LocalSet, spawn_local};

const USAGE: &str = "\
Usage: crash --node <derouter binary> [--disk | --network] [--runs N] [--seed S] [--parallel N]
             [--minutes N]
  --disk        runs with disks that fail, in place of nodes that end (needs root for some)
  --network     runs with networks that lose, double, reorder and cut, and clocks that are off
                (needs root); one at a time
  --runs N      so many runs (every kind once); run number i has the seed S + i
  --seed S      the first seed (1)
  --parallel N  so many at once (3)
  --minutes N   begin none after so long
The node must be built with the feature `failpoints`.
";

/// Where the files of runs with violations are kept.
const KEEP: &str = "target/crash";

/// What the runs are about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Crash,
    Disk,
    Network,
}

impl About {
    fn flag(self) -> &'static str {
        match self {
            Self::Crash => "",
            Self::Disk => "--disk ",
            Self::Network => "--network ",
        }
    }

    fn cycle(self) -> u64 {
        match self {
            Self::Crash => Plan::cycle(),
            Self::Disk => DiskPlan::CYCLE,
            Self::Network => NetworkPlan::CYCLE,
        }
    }

    fn title(self, seed: u64) -> String {
        match self {
            Self::Crash => Plan::of(seed).title(),
            Self::Disk => DiskPlan::of(seed).title(),
            Self::Network => NetworkPlan::of(seed).title(),
        }
    }

    /// `None` where such a run can't be made.
    async fn run(self, node: &Path, seed: u64) -> Option<Ran> {
        let keep = KEEP.as_ref();
        match self {
            Self::Crash => Some(run(node, &Plan::of(seed), keep).await),
            Self::Disk => disk::run(node, &DiskPlan::of(seed), keep).await,
            Self::Network => Some(network::run(node, &NetworkPlan::of(seed), keep).await),
        }
    }
}

struct Options {
    about: About,
    node: PathBuf,
    runs: Option<u64>,
    seed: u64,
    parallel: usize,
    longest: Option<Duration>,
}

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        about: About::Crash,
        runs: None,
        seed: 1,
        parallel: 3,
        longest: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--disk" => options.about = About::Disk,
            "--network" => options.about = About::Network,
            _ => options.set(argument, arguments.next()?)?,
        }
    }
    if options.about == About::Network {
        options.parallel = 1;
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

impl Options {
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "--node" => self.node = PathBuf::from(value).canonicalize().ok()?,
            "--runs" => self.runs = Some(value.parse().ok()?),
            "--seed" => self.seed = value.parse().ok()?,
            "--parallel" => self.parallel = value.parse().ok().filter(|many| *many > 0)?,
            "--minutes" => {
                let minutes: u64 = value.parse().ok()?;
                self.longest = Some(Duration::from_secs(minutes.saturating_mul(60)));
            }
            _ => return None,
        }
        Some(())
    }
}

fn repeat(about: About, seed: u64) -> String {
    format!("cargo xtask crash {}--runs 1 --seed {seed}", about.flag())
}

fn show(about: About, ran: &Ran, total: &mut Total) {
    println!("{}", row(ran, &repeat(about, ran.seed)));
    total.add(ran);
}

async fn all(options: Options) -> Total {
    let begin = Instant::now();
    let about = options.about;
    let runs = options.runs.unwrap_or(about.cycle());
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let node = Arc::new(options.node);
    let (mut running, mut total) = (JoinSet::new(), Total::default());
    println!("{}", heading());
    for seed in (options.seed..).take(runs) {
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
            show(about, &ran, &mut total);
        }
        let node = Arc::clone(&node);
        running.spawn_local(one(about, node, seed));
    }
    while let Some(Ok(ran)) = running.join_next().await {
        show(about, &ran, &mut total);
    }
    println!("\n{}", total.text(begin.elapsed()));
    total
}

/// A run that panics has shown why: it counts as one with a violation.
async fn one(about: About, node: Arc<PathBuf>, seed: u64) -> Ran {
    let begin = Instant::now();
    let running = spawn_local(async move { about.run(&node, seed).await });
    let (title, violations) = match running.await {
        Ok(Some(ran)) => return ran,
        Ok(None) => (format!("skipped: {}", about.title(seed)), vec![]),
        Err(error) => (
            about.title(seed),
            vec![format!("the run could not be made: {error}")],
        ),
    };
    Ran {
        title,
        seed,
        reached: false,
        quiet: false,
        findings: Findings {
            violations,
            ..Findings::default()
        },
        took: begin.elapsed(),
        kept: None,
    }
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
    let about = options.about;
    if about == About::Network
        && let Some(reason) = network::unavailable()
    {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let total = runtime.block_on(LocalSet::new().run_until(all(options)));
    for seed in &total.bad {
        println!("again: {}", repeat(about, *seed));
    }
    match total.bad.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

//! The load generator of `cargo xtask bench gateway`, which builds and starts it.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;

use derouter_testkit::bench::load::{self, Batch, Shape};
use derouter_testkit::bench::proxy::{PlainClient, client};
use derouter_testkit::bench::report::{Figures, Route, Section, table};
use derouter_testkit::bench::stage::Stage;

/// What nodes may add to the median at concurrency 1, as a multiple of what the proxies add.
const ADDED_LIMIT: f64 = 6.0;

/// What a node may take of memory, in MiB.
const MEMORY_LIMIT_MIB: f64 = 40.0;

/// The concurrency at which nothing may fail.
const CROWD: usize = 64;

const USAGE: &str = "\
Usage: bench_gateway --node <derouter binary> [--rounds N] [--requests N] [--quick]
  --rounds N    how often the routes take turns (20)
  --requests N  requests of a turn (25; eight times as many at concurrency 16)
  --quick       2 rounds of 10
";

struct Options {
    node: PathBuf,
    rounds: usize,
    requests: usize,
}

fn options() -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        rounds: 20,
        requests: 25,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--node" => options.node = arguments.next()?.into(),
            "--rounds" => options.rounds = arguments.next()?.parse().ok()?,
            "--requests" => options.requests = arguments.next()?.parse().ok()?,
            "--quick" => (options.rounds, options.requests) = (2, 10),
            _ => return None,
        }
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(options) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let stage = Stage::start(&options.node).await;
    let client = client();
    let mut failed = warm_up(&stage, &client).await;
    let mut sections = Vec::new();
    for concurrency in [1, 16] {
        for shape in [Shape::Plain, Shape::Streamed] {
            sections.push(measure(&stage, &client, shape, concurrency, &options).await);
        }
    }
    for shape in [Shape::Plain, Shape::Streamed] {
        sections.push(crowd(&stage, &client, shape, &options).await);
    }
    print!("\n{}", table(&sections));
    for section in &sections {
        failed += section
            .figures
            .iter()
            .map(|figures| figures.failed)
            .sum::<usize>();
    }
    let in_memory = report_memory(&stage);
    let in_time = report_aims(&sections, failed);
    if in_memory && in_time {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Connections are made and caches filled before anything is measured.
async fn warm_up(stage: &Stage, client: &PlainClient) -> usize {
    let mut failed = 0;
    for route in Route::ALL {
        for shape in [Shape::Plain, Shape::Streamed] {
            let batch = load::run(client, stage.url(route), shape, 4, 40).await;
            failed += batch.failed;
            tell(&batch);
        }
    }
    failed
}

fn tell(batch: &Batch) {
    for failure in &batch.failures {
        eprintln!("failed: {failure}");
    }
}

/// The routes take turns, each time in another order, so that what else the machine does meets
/// them alike.
async fn measure(
    stage: &Stage,
    client: &PlainClient,
    shape: Shape,
    concurrency: usize,
    options: &Options,
) -> Section {
    eprintln!("{} at concurrency {concurrency} ...", shape.name());
    let requests = options.requests * concurrency.div_ceil(2);
    let mut batches = [const { None }; 3].map(|_: Option<()>| Batch::default());
    for round in 0..options.rounds {
        for turn in 0..Route::ALL.len() {
            let index = (round + turn) % Route::ALL.len();
            let Some((route, total)) = Route::ALL.get(index).zip(batches.get_mut(index)) else {
                continue;
            };
            let batch = load::run(client, stage.url(*route), shape, concurrency, requests).await;
            tell(&batch);
            total.add(batch);
        }
    }
    Section {
        shape,
        concurrency,
        figures: batches.map(|batch| Figures::of(&batch)),
    }
}

/// A crowd at once: what matters is that nothing fails.
async fn crowd(stage: &Stage, client: &PlainClient, shape: Shape, options: &Options) -> Section {
    let few = Options {
        node: PathBuf::new(),
        rounds: 2.min(options.rounds),
        requests: options.requests,
    };
    measure(stage, client, shape, CROWD, &few).await
}

fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX);
    f64::from(kib) / 1_024.0
}

fn report_memory(stage: &Stage) -> bool {
    let mut good = true;
    println!();
    for (name, node) in [("provider", &stage.provider), ("consumer", &stage.consumer)] {
        let process = node.process();
        let (now, peak) = (
            mib(process.memory_bytes()),
            mib(process.peak_memory_bytes()),
        );
        let files = process.open_files();
        println!("{name} node: {now:.1} MiB resident, {peak:.1} MiB at most, {files} open files");
        good &= peak < MEMORY_LIMIT_MIB;
    }
    println!(
        "aim: under {MEMORY_LIMIT_MIB} MiB a node: {}",
        verdict(good)
    );
    good
}

fn report_aims(sections: &[Section], failed: usize) -> bool {
    let mut good = failed == 0;
    println!(
        "aim: no failure, also at {CROWD}: {failed} failed: {}",
        verdict(good)
    );
    for section in sections.iter().filter(|section| section.concurrency == 1) {
        let ratio = section.added_ratio();
        let fits = ratio <= ADDED_LIMIT;
        let shape = section.shape.name();
        println!(
            "aim: {shape}, added p50 at most {ADDED_LIMIT}x the proxies': {ratio:.2}x: {}",
            verdict(fits)
        );
        good &= fits;
    }
    good
}

fn verdict(good: bool) -> &'static str {
    if good { "met" } else { "MISSED" }
}

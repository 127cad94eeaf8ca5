//! The load generator of `cargo xtask bench gateway`, which builds and starts it.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;

use derouter_testkit::bench::load::{self, Batch, Shape};
use derouter_testkit::bench::proxy::{PlainClient, client};
use derouter_testkit::bench::report::{BUSY, Figures, Route, Section, aims, aims_table, table};
use derouter_testkit::bench::stage::Stage;

/// What a node may take of memory, in MiB.
const MEMORY_LIMIT_MIB: f64 = 40.0;

/// The concurrency at which nothing may fail.
const CROWD: usize = 64;

const USAGE: &str = "\
Usage: bench_gateway --node <derouter binary> [--rounds N] [--requests N] [--quick]
                     [--nginx PATH] [--litellm PATH]
  --rounds N      how often the routes take turns (20)
  --requests N    requests of a turn (25; eight times as many at concurrency 16)
  --quick         2 rounds of 10
  --nginx PATH    an nginx that is not on the search path (Debian: apt install nginx-light)
  --litellm PATH  a LiteLLM proxy that is not on the search path
                  (python3 -m venv V; V/bin/pip install 'litellm[proxy]'; V/bin/litellm)
";

struct Options {
    node: PathBuf,
    rounds: usize,
    requests: usize,
    nginx: Option<PathBuf>,
    litellm: Option<PathBuf>,
}

fn options() -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        rounds: 20,
        requests: 25,
        nginx: None,
        litellm: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--node" => options.node = arguments.next()?.into(),
            "--rounds" => options.rounds = arguments.next()?.parse().ok()?,
            "--requests" => options.requests = arguments.next()?.parse().ok()?,
            "--nginx" => options.nginx = Some(arguments.next()?.into()),
            "--litellm" => options.litellm = Some(arguments.next()?.into()),
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
    let (nginx, litellm) = (options.nginx.as_deref(), options.litellm.as_deref());
    let stage = Stage::start(&options.node, nginx, litellm).await;
    let client = client();
    let mut failed = warm_up(&stage, &client).await;
    let mut sections = Vec::new();
    let shapes = [Shape::Plain, Shape::Streamed, Shape::Paced];
    let alone = shapes.map(|shape| (shape, 1));
    let busy = shapes.map(|shape| (shape, BUSY));
    for (shape, concurrency) in alone.into_iter().chain(busy) {
        let all = Route::ALL.as_slice();
        sections.push(measure(&stage, &client, (shape, concurrency), all, &options).await);
    }
    for shape in [Shape::Plain, Shape::Streamed] {
        sections.push(crowd(&stage, &client, shape, &options).await);
    }
    print!("\n{}", table(&sections));
    for section in &sections {
        failed += section.failed();
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
        let Some(url) = stage.url(route) else {
            continue;
        };
        for shape in [Shape::Plain, Shape::Streamed] {
            let batch = load::run(client, url, shape, 4, route.share_of(40)).await;
            failed += if route.is_ours() { batch.failed } else { 0 };
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
    (shape, concurrency): (Shape, usize),
    routes: &[Route],
    options: &Options,
) -> Section {
    eprintln!("{} at concurrency {concurrency} ...", shape.name());
    let requests = options.requests * concurrency.div_ceil(2);
    let there = routes
        .iter()
        .filter_map(|route| Some((*route, stage.url(*route)?)));
    let mut totals: Vec<(Route, &str, Batch)> = there
        .map(|(route, url)| (route, url, Batch::default()))
        .collect();
    for _ in 0..options.rounds {
        for (route, url, total) in &mut totals {
            // A paced answer takes a third of a second whatever answers it, and has many chunks.
            let requests = if shape == Shape::Paced {
                requests.div_ceil(4)
            } else {
                requests
            };
            let requests = route.share_of(requests).max(concurrency);
            let batch = load::run(client, url, shape, concurrency, requests).await;
            tell(&batch);
            total.add(batch);
        }
        totals.rotate_left(1);
    }
    let of = |route: &Route| {
        let mut taken = totals.iter().filter(|(taken, ..)| taken == route);
        taken
            .next()
            .map(|(route, _, batch)| (*route, Figures::of(batch)))
    };
    Section {
        shape,
        concurrency,
        figures: Route::ALL.iter().filter_map(of).collect(),
    }
}

/// A crowd at once: what matters is that nothing fails.
async fn crowd(stage: &Stage, client: &PlainClient, shape: Shape, options: &Options) -> Section {
    let few = Options {
        node: PathBuf::new(),
        rounds: 2.min(options.rounds),
        requests: options.requests,
        nginx: None,
        litellm: None,
    };
    let routes = [Route::Direct, Route::Proxies, Route::Nginx, Route::Nodes];
    measure(stage, client, (shape, CROWD), &routes, &few).await
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
    println!(
        "aim: no failure, also at {CROWD}: {failed} failed: {}",
        verdict(failed == 0)
    );
    let aims = aims(sections);
    print!("\n{}", aims_table(&aims));
    failed == 0 && aims.iter().all(|aim| aim.met)
}

fn verdict(good: bool) -> &'static str {
    if good { "met" } else { "MISSED" }
}

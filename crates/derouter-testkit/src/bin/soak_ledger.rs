//! `cargo xtask soak ledger`, which builds and starts it: two nodes that trade at a steady pace, and
//! whether their memory, their open files or their logs grow.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use derouter_testkit::crash::node::CrashNode;
use derouter_testkit::crash::run::Trading;
use derouter_testkit::soak::slope;
use tokio::time::sleep;

const USAGE: &str = "\
Usage: soak_ledger --node <derouter binary> [--minutes N]
  --minutes N   how long (30); growth is judged from 10 on
";

/// What passes before it counts: caches and pools fill.
const WARM_UP: f64 = 0.25;

/// Buyers at once: so many that the bounded memories of a node, of a few thousand jobs each, are full well
/// before it counts.
const CLIENTS: u64 = 64;

/// A shorter run judges nothing: the log grows to 4 MiB before it is used anew, and caches fill.
const SHORTEST_MINUTES: u64 = 10;

/// Samples of a run, at least; each at most ten seconds after the one before.
const SAMPLES: u32 = 60;

/// How long both ledgers are given to come to rest.
const SETTLE: Duration = Duration::from_secs(30);

/// What is looked at, and the growth in an hour that is taken for none.
const MEASURES: [(&str, f64); 3] = [
    ("memory, MiB", 2.0),
    ("open files", 1.0),
    ("log (WAL), MiB", 1.0),
];

const MIB: f64 = 1_048_576.0;

fn options(arguments: &[String]) -> Option<(PathBuf, u64)> {
    let (mut node, mut minutes) = (None, 30);
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--node" => node = PathBuf::from(value).canonicalize().ok(),
            "--minutes" => minutes = value.parse().ok().filter(|minutes| *minutes > 0)?,
            _ => return None,
        }
    }
    Some((node?, minutes))
}

fn sample(node: &CrashNode) -> [f64; 3] {
    let process = node.process().process();
    let log = fs::metadata(node.data_dir().join("derouter.sqlite-wal"));
    [
        process.memory_bytes() as f64 / MIB,
        process.open_files() as f64,
        log.map_or(0, |log| log.len()) as f64 / MIB,
    ]
}

/// Samples of one node: hours since the begin, and each measure.
type Samples = Vec<(f64, [f64; 3])>;

/// Memory at each tenth of the run: whether it levels out is seen better than told by a slope.
fn course(name: &str, samples: &Samples) {
    let tenth = (samples.len() / 10).max(1);
    let tenths = samples
        .iter()
        .step_by(tenth)
        .map(|(_, all)| all.first().copied().unwrap_or_default());
    let memory: Vec<String> = tenths.map(|memory| format!("{memory:.1}")).collect();
    println!("{name:<9} memory, MiB: {}", memory.join(" "));
}

fn judge(name: &str, samples: &Samples) -> bool {
    let first = samples.last().map_or(0.0, |(at, _)| at * WARM_UP);
    let mut good = true;
    for (place, (measure, tolerated)) in MEASURES.iter().enumerate() {
        let counted = samples.iter().filter(|(at, _)| *at >= first);
        let counted: Vec<(f64, f64)> = counted
            .map(|(at, all)| (*at, all.get(place).copied().unwrap_or_default()))
            .collect();
        let Some(line) = slope(&counted) else {
            println!("{name:<9} {measure:<15} too few samples");
            continue;
        };
        let grows = line.grows(*tolerated);
        let verdict = if grows { "GROWS" } else { "steady" };
        println!(
            "{name:<9} {measure:<15} mean {:>8.2}  slope {:>+8.3} +- {:.3} an hour  {verdict}",
            line.mean, line.slope, line.margin
        );
        good &= !grows;
    }
    good
}

async fn soak(node: PathBuf, minutes: u64) -> bool {
    let mut trading = Trading::new(&node);
    let Some(offer) = trading.open().await else {
        eprintln!("the nodes do not come up");
        return false;
    };
    let begin = Instant::now();
    let longest = Duration::from_secs(minutes * 60);
    let pause = (longest / SAMPLES / 2).min(Duration::from_secs(10));
    trading.trade(&offer, minutes, CLIENTS);
    let mut samples: [Samples; 2] = Default::default();
    while begin.elapsed() < longest {
        sleep(pause).await;
        let at = begin.elapsed().as_secs_f64() / 3600.0;
        for (node, samples) in [&trading.consumer, &trading.provider]
            .iter()
            .zip(&mut samples)
        {
            samples.push((at, sample(node)));
        }
    }
    trading.close();
    let quiet = trading.settle(SETTLE).await;
    let findings = trading.compare().await;
    println!(
        "{} jobs in {minutes} minutes ({:.1} a second); at rest: {quiet}; {} violations",
        findings.jobs(),
        findings.jobs() as f64 / longest.as_secs_f64(),
        findings.violations.len()
    );
    course("consumer", &samples[0]);
    course("provider", &samples[1]);
    let consumer = judge("consumer", &samples[0]);
    let provider = judge("provider", &samples[1]);
    let steady = consumer && provider;
    if !steady && minutes < SHORTEST_MINUTES {
        println!(
            "a run of less than {SHORTEST_MINUTES} minutes judges no growth: logs and caches still fill"
        );
    }
    (steady || minutes < SHORTEST_MINUTES) && findings.violations.is_empty()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((node, minutes)) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let good = match runtime {
        Ok(runtime) => runtime.block_on(soak(node, minutes)),
        Err(error) => {
            eprintln!("no runtime: {error}");
            false
        }
    };
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

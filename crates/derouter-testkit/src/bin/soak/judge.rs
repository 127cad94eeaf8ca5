//! What is sampled of a node, and whether it grows.

use std::fs;
use std::time::Duration;

use derouter_testkit::crash::node::CrashNode;
use derouter_testkit::soak::slope;

/// What passes before it counts: caches and pools fill.
const WARM_UP: f64 = 0.25;

/// A shorter run judges nothing: the log grows to 4 MiB before it is used anew, and caches fill.
pub(crate) const SHORTEST_MINUTES: u64 = 10;

/// Samples of a run, at least; each at most ten seconds after the one before.
const SAMPLES: u32 = 60;

/// What is looked at, and the growth in an hour that is taken for none.
const MEASURES: [(&str, f64); 3] = [
    ("memory, MiB", 2.0),
    ("open files", 1.0),
    ("log (WAL), MiB", 1.0),
];

const MIB: f64 = 1_048_576.0;

/// How long to wait between two samples.
pub(crate) fn pause(longest: Duration) -> Duration {
    (longest / SAMPLES / 2).min(Duration::from_secs(10))
}

/// Looks at a node.
pub(crate) fn sample(node: &CrashNode) -> [f64; 3] {
    let process = node.process().process();
    let log = fs::metadata(node.data_dir().join("derouter.sqlite-wal"));
    [
        process.memory_bytes() as f64 / MIB,
        process.open_files() as f64,
        log.map_or(0, |log| log.len()) as f64 / MIB,
    ]
}

/// Samples of one node: hours since the begin, and each measure.
pub(crate) type Samples = Vec<(f64, [f64; 3])>;

/// Memory at each tenth of the run: whether it levels out is seen better than told by a slope.
pub(crate) fn course(name: &str, samples: &Samples) {
    let tenth = (samples.len() / 10).max(1);
    let tenths = samples
        .iter()
        .step_by(tenth)
        .map(|(_, all)| all.first().copied().unwrap_or_default());
    let memory: Vec<String> = tenths.map(|memory| format!("{memory:.1}")).collect();
    println!("{name:<9} memory, MiB: {}", memory.join(" "));
}

/// Tells whether each measure grows; false when one does.
pub(crate) fn judge(name: &str, samples: &Samples) -> bool {
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

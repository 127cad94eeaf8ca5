//! The simulation of `cargo xtask sim discovery`, which builds and starts it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use derouter_testkit::sim::options::{Options, Wire};
use derouter_testkit::sim::usage::Rates;
use derouter_testkit::sim::{cost, feed, mesh, subject};

const USAGE: &str = "\
Usage: sim_discovery [OPTION]...
  --providers N       simulated providers that one real node hears of (10000)
  --offers N          offers of each, about 250 bytes (5)
  --nodes N           real nodes in a mesh (200)
  --real-providers N  of these, those that provide (20)
  --changes N         offer changes that are timed (20)
  --relays N          real nodes that pass on to the one that is measured (4)
  --window SECONDS    over which bytes and processor time are measured (120)
  --warm-up SECONDS   at most, until all heartbeats are known (240)
  --sharding          announcements of 0.2 on sixteen topics, too
  --legacy            heartbeats of 0.1 among our nodes, with their limits, too
  --plain             heartbeats of 0.1 among nodes as version 0.1.0 has them, too: plain gossipsub
                      over TCP, all peers explicit, no limits; without the mesh, which is of our nodes
  --only WIRE         0.1, 0.1-plain, 0.2 or 0.2-sharded alone
  --no-mesh           without the mesh of real nodes
  --no-feed           without the node that hears of many
  --memory            what a node takes that holds all providers, and nothing else
  --cost              what one announcement costs, and nothing else
";

fn options() -> Option<Options> {
    let mut options = Options {
        providers: 10_000,
        offers: 5,
        nodes: 200,
        real_providers: 20,
        changes: 20,
        relays: 4,
        window: 120,
        warm_up: 240,
        wires: vec![Wire::Announcements],
        mesh: true,
        feed: true,
        memory: false,
        cost: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<usize>().ok();
        match argument.as_str() {
            "--providers" => options.providers = number()?,
            "--offers" => options.offers = number()?,
            "--nodes" => options.nodes = number()?,
            "--real-providers" => options.real_providers = number()?,
            "--changes" => options.changes = number()?,
            "--relays" => options.relays = number()?,
            "--window" => options.window = number()? as u64,
            "--warm-up" => options.warm_up = number()? as u64,
            "--sharding" => options.wires.push(Wire::Sharded),
            "--legacy" => options.wires.push(Wire::Heartbeats),
            "--plain" => options.wires.push(Wire::PlainHeartbeats),
            "--only" => options.wires = vec![Wire::named(&arguments.next()?)?],
            "--no-mesh" => options.mesh = false,
            "--no-feed" => options.feed = false,
            "--memory" => options.memory = true,
            "--cost" => options.cost = true,
            _ => return None,
        }
    }
    let sound = options.nodes > 1 && options.real_providers > 0 && options.providers > 0;
    (sound && options.relays > 0 && options.window > 0).then_some(options)
}

fn rates(rates: &Rates) -> String {
    format!(
        "{:>10.1} {:>10.1} {:>7.2}",
        rates.bytes_in / 1000.0,
        rates.bytes_out / 1000.0,
        rates.processor
    )
}

async fn run_mesh(options: &Options) {
    let mut lines = Vec::new();
    let ours = options.wires.iter();
    for wire in ours.filter(|wire| **wire != Wire::PlainHeartbeats) {
        let figures = mesh::run(options, *wire).await;
        let [p50, p99, most] = figures.seen.map(|time| time.as_millis());
        lines.push(format!(
            "{:<12} {p50:>7} {p99:>7} {most:>7} {:>6}   {}   {}   {:>6.1}",
            wire.name(),
            figures.missed,
            rates(&figures.idle),
            rates(&figures.changing),
            figures.memory
        ));
    }
    println!(
        "\n{} real nodes, {} providers with 5 offers, {} changes; of one node:",
        options.nodes, options.real_providers, options.changes
    );
    println!(
        "wire         p50 ms  p99 ms  max ms missed      kB/s in   kB/s out  cpu % (idle)    kB/s in   kB/s out  cpu % (1 change/s)  MiB"
    );
    for line in lines {
        println!("{line}");
    }
}

async fn run_feed(options: &Options) {
    let mut lines = Vec::new();
    for wire in &options.wires {
        let figures = feed::run(options, *wire).await;
        let join = figures
            .join
            .map(|join| format!("{:.1}", join.as_secs_f64()));
        lines.push(format!(
            "{:<12} {:>8} {:>10.0}   {}   {:>9} {:>9} {:>8.1}",
            wire.name(),
            join.unwrap_or_else(|| "never".to_owned()),
            figures.join_bytes as f64 / 1000.0,
            rates(&figures.steady),
            figures.providers,
            figures.announcements,
            figures.memory
        ));
    }
    println!(
        "\none real node that hears of {} providers with {} offers through {} others, over {} s:",
        options.providers, options.offers, options.relays, options.window
    );
    println!(
        "wire           join s    join kB      kB/s in   kB/s out   cpu %   providers announced      MiB"
    );
    for line in lines {
        println!("{line}");
    }
}

async fn run_cost() {
    let figures = cost::run().await;
    let check = figures.check.as_secs_f64();
    println!("\nprocessor time for one announcement, in microseconds, and in signature checks:");
    let lines = [
        ("a signature check alone", figures.check),
        ("new, given in an exchange", figures.given),
        ("given again", figures.given_again),
        ("new, by gossip", figures.gossiped),
        ("the same in another batch", figures.gossiped_again),
        ("an older one, by gossip", figures.older),
    ];
    for (name, time) in lines {
        let seconds = time.as_secs_f64();
        println!("{name:<32} {:>8.1} {:>8.2}", seconds * 1e6, seconds / check);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, wire, directory, bootstrap @ ..] = arguments.as_slice()
        && first == "--subject"
        && let Some(wire) = Wire::named(wire)
    {
        subject::serve(wire, Path::new(directory), bootstrap).await;
        return ExitCode::SUCCESS;
    }
    let Some(options) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    if options.cost {
        run_cost().await;
        return ExitCode::SUCCESS;
    }
    if options.memory {
        let (status, memory) = feed::run_direct(&options).await;
        println!("{status:?}: {memory:.1} MiB");
        return ExitCode::SUCCESS;
    }
    if options.mesh {
        run_mesh(&options).await;
    }
    if options.feed {
        run_feed(&options).await;
    }
    ExitCode::SUCCESS
}

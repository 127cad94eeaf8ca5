//! `cargo xtask bench hostile`, which builds and starts it: a chat between two nodes, timed without
//! and with peers that attack both.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use derouter_net::Multiaddr;
use derouter_testkit::Pair;
use derouter_testkit::hostile::chat::{Lateness, measure, tokens_of};
use derouter_testkit::hostile::{Attack, Running};

const USAGE: &str = "\
Usage: bench_hostile --node <derouter binary> [--chats N]
  --chats N  chats of 250 tokens, 20 ms apart, in each round (4)
";

/// What a node may take of memory under any attack, in MiB.
const MEMORY_LIMIT_MIB: f64 = 256.0;
const MODEL: &str = "bench-model";

struct Options {
    node: PathBuf,
    chats: usize,
}

fn options() -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        chats: 4,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--node" => options.node = arguments.next()?.into(),
            "--chats" => options.chats = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

struct Round {
    name: &'static str,
    lateness: Lateness,
    done: u64,
    refused: u64,
    memory: [f64; 2],
}

async fn round(pair: &Pair, attack: Option<Attack>, chats: usize) -> Round {
    let victims = [&pair.provider, &pair.consumer];
    let victims = victims.map(|node| node.ready.bootstrap());
    let victims: Vec<Multiaddr> = victims
        .iter()
        .map(|address| address.parse().expect("an address"))
        .collect();
    let running = attack.map(|attack| Running::start(attack, &victims));
    let lateness = measure(pair.url(), MODEL, chats).await;
    let memory = [&pair.provider, &pair.consumer];
    let memory = memory.map(|node| mib(node.process().memory_bytes()));
    let count = |pick: fn(&Running) -> u64| running.as_ref().map_or(0, pick);
    Round {
        name: attack.map_or("idle", Attack::name),
        lateness,
        done: count(|running| running.done.load(Ordering::Relaxed)),
        refused: count(|running| running.refused.load(Ordering::Relaxed)),
        memory,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(options) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let pair = Pair::start(&options.node, &[MODEL]).await;
    round(&pair, None, 1).await;
    let mut rounds = vec![round(&pair, None, options.chats).await];
    for attack in Attack::ALL {
        rounds.push(round(&pair, Some(attack), options.chats).await);
    }
    println!(
        "attack            p50 ms   p99 ms   max ms  tokens        sent  refused  provider MiB  consumer MiB"
    );
    let mut sound = true;
    let idle = rounds.first().map(|round| round.lateness.p99);
    for round in &rounds {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
        let [provider, consumer] = round.memory;
        println!(
            "{:<16} {:>7.1}  {:>7.1}  {:>7.1}  {:>6}  {:>10}  {:>7}  {:>12.1}  {:>12.1}",
            round.name,
            ms(round.lateness.median),
            ms(round.lateness.p99),
            ms(round.lateness.longest),
            round.lateness.tokens,
            round.done,
            round.refused,
            provider,
            consumer
        );
        sound &= idle.is_some_and(|idle| round.lateness.p99 <= idle * 2);
        sound &= round.lateness.tokens >= tokens_of(options.chats);
        sound &= provider.max(consumer) <= MEMORY_LIMIT_MIB;
    }
    println!(
        "aims (p99 of the gaps between tokens within twice that of idle, no token lost, {MEMORY_LIMIT_MIB} MiB): {}",
        if sound { "reached" } else { "MISSED" }
    );
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

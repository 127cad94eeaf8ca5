//! `cargo xtask bench hostile`, which builds and starts it: a chat between two nodes, timed without
//! and with peers that attack both, in turns.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use derouter_testkit::hostile::Attack;
use derouter_testkit::hostile::attackers::{self, Attackers, Progress};
use derouter_testkit::hostile::chat::{Gaps, measure};
use derouter_testkit::hostile::ground::Ground;
use derouter_testkit::measure::{peak_memory_bytes, reset_peak_memory};
use derouter_testkit::sim::usage::processor_time;

const USAGE: &str = "\
Usage: bench_hostile --node <derouter binary> [--chats N] [--attacks NAME,NAME...]
  --chats N    chats of 250 tokens, 20 ms apart, in each round (4)
  --attacks    only these: forged, replayed, forged-heartbeats, large-heartbeats, too-many-offers,
               sybils, silent, never-reads, greedy, deaf-neighbours
As root, with `ip` and `nft`, nodes and attackers are on machines of their own in a network lab.
";

/// What a node may take of memory under any attack, in MiB.
const MEMORY_LIMIT_MIB: f64 = 256.0;
const MODEL: &str = "bench-model";
/// What else runs on this machine is not what is measured: the nodes, the backend and the client go
/// before it, where that is allowed.
const NICE: i32 = -10;
/// After an attack, until what it left behind no longer disturbs the idle round.
const SETTLE: Duration = Duration::from_secs(2);

struct Options {
    node: PathBuf,
    chats: usize,
    attacks: Vec<Attack>,
}

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        chats: 4,
        attacks: Attack::ALL.to_vec(),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--node" => options.node = arguments.next()?.into(),
            "--chats" => options.chats = arguments.next()?.parse().ok()?,
            "--attacks" => {
                let names = arguments.next()?.split(',');
                options.attacks = names.map(Attack::named).collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

/// What a node took in a round.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// In percent of one processor.
    processor: f64,
    /// The most, in MiB.
    memory: f64,
}

/// A chat's gaps, and what it cost meanwhile.
struct Round {
    gaps: Gaps,
    taken: [Taken; 2],
    /// Done and refused in a second.
    rates: [f64; 2],
}

async fn round(ground: &Ground, chats: usize, attackers: Option<&Attackers>) -> Round {
    let before = ground.nodes().map(|node| {
        reset_peak_memory(node.pid());
        (node.pid(), processor_time(node.pid()))
    });
    let progress = attackers.map(Attackers::progress);
    let begin = Instant::now();
    let url = ground.url();
    let chat = async move { measure(&url, MODEL, chats).await };
    let gaps = ground.consumer.machine.run(chat).await;
    let seconds = begin.elapsed().as_secs_f64();
    let taken = before.map(|(pid, processor)| Taken {
        processor: 100.0 * (processor_time(pid) - processor).as_secs_f64() / seconds,
        memory: peak_memory_bytes(pid) as f64 / f64::from(1 << 20),
    });
    let rates = |earlier: &Progress| attackers.map(|now| now.progress().rates_since(earlier));
    Round {
        gaps,
        taken,
        rates: progress.as_ref().and_then(rates).unwrap_or_default(),
    }
}

async fn attacked(ground: &mut Ground, chats: usize, attack: Attack) -> Round {
    let machine = ground.attackers();
    let victims = ground.nodes().map(|node| node.address.clone());
    let attackers = Attackers::start(attack, &machine, &victims).await;
    let round = round(ground, chats, Some(&attackers)).await;
    attackers.stop().await;
    tokio::time::sleep(SETTLE).await;
    round
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

fn print_head() {
    println!(
        "                      gaps in ms                 times     lost      done    refused   provider     consumer     load"
    );
    println!(
        "attack               p50    p99    max  idle p99  idle   tokens        /s        /s    CPU%  MiB    CPU%  MiB"
    );
}

fn print(name: &str, round: &Round, idle: Option<&Gaps>) {
    let gap = |percent| ms(round.gaps.percentile(percent));
    let [done, refused] = round.rates;
    let idle = idle.map_or(gap(99), |idle| ms(idle.percentile(99)));
    let [provider, consumer] = round.taken;
    println!(
        "{name:<18} {:>6.1} {:>6.1} {:>6.1}    {idle:>6.1} {:>5.2} {:>8} {done:>9.0} {refused:>9.0}   {:>5.1} {:>5.1}  {:>5.1} {:>5.1}   {}",
        gap(50),
        gap(99),
        gap(100),
        gap(99) / idle,
        round.gaps.lost,
        provider.processor,
        provider.memory,
        consumer.processor,
        consumer.memory,
        load()
    );
}

/// Whether the round kept to what a node may be disturbed, against the idle rounds around it.
fn is_sound(round: &Round, idle: &Gaps) -> bool {
    let memory = round.taken.iter().map(|taken| taken.memory);
    round.gaps.percentile(99) <= idle.percentile(99) * 2
        && round.gaps.lost == 0
        && memory.fold(0.0, f64::max) <= MEMORY_LIMIT_MIB
}

async fn bench(options: &Options) -> bool {
    let mut ground = Ground::start(&options.node, MODEL).await;
    round(&ground, 1, None).await;
    print_head();
    let mut sound = true;
    let mut before = round(&ground, options.chats, None).await;
    print("idle", &before, None);
    for attack in &options.attacks {
        let during = attacked(&mut ground, options.chats, *attack).await;
        let after = round(&ground, options.chats, None).await;
        let idle = before.gaps.with(&after.gaps);
        print(attack.name(), &during, Some(&idle));
        print("idle", &after, None);
        sound &= is_sound(&during, &idle) && after.gaps.lost == 0;
        before = after;
    }
    for attack in &options.attacks {
        println!("{}: {} are counted as done", attack.name(), attack.unit());
    }
    sound
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == attackers::ARGUMENT
    {
        return match attackers::run(rest) {
            Some(()) => ExitCode::SUCCESS,
            None => ExitCode::from(2),
        };
    }
    let Some(options) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    // Before there are other threads and processes, which take over what this one has.
    let _ = rustix::process::setpriority_process(None, NICE);
    let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
    let sound = runtime.block_on(bench(&options));
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

//! `cargo xtask bench streams`, which builds and starts it.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use derouter_testkit::bench::streams::cipher;
use derouter_testkit::bench::streams::client::Client;
use derouter_testkit::bench::streams::opens::open_and_close;
use derouter_testkit::bench::streams::report::{Plan, measure};
use derouter_testkit::bench::streams::transfer::Window;
use derouter_testkit::bench::streams::{Places, Route, server};
use derouter_testkit::link::{End, Link, Shape};
use derouter_testkit::process::Process;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// The share of raw TCP that job streams on TCP are to reach on 127.0.0.1, and with a delay.
const LOCAL_AIM: f64 = 0.4;
const DELAYED_AIM: f64 = 0.8;
/// How fast a job stream is to open on 127.0.0.1, in ms.
const OPEN_AIM_MS: f64 = 1.0;
/// One way.
const DELAY: Duration = Duration::from_millis(30);

const USAGE: &str = "\
Usage: bench_streams [--rounds N] [--quick] [--local | --delayed]
       bench_streams --opens N
  --rounds N   how often the routes take turns (7 on 127.0.0.1; half of it with a delay)
  --quick      one round
  --local      only on 127.0.0.1
  --delayed    only with a delay of 60 ms there and back (needs root)
  --opens N    open and use N streams on each transport, and tell what they leave behind
";

/// What very many streams may leave behind in a process: as much as the allocator's habits.
const GROWTH_BYTES: u64 = 16 << 20;
/// The same in open files: none are a stream's own.
const GROWTH_FILES: u64 = 4;

struct Options {
    rounds: usize,
    opens: Option<usize>,
    local: bool,
    delayed: bool,
}

fn options(arguments: &[&str]) -> Option<Options> {
    let mut options = Options {
        rounds: 7,
        opens: None,
        local: true,
        delayed: true,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--rounds" => options.rounds = arguments.next()?.parse().ok()?,
            "--opens" => options.opens = Some(arguments.next()?.parse().ok()?),
            "--quick" => options.rounds = 1,
            "--local" => options.delayed = false,
            "--delayed" => options.local = false,
            _ => return None,
        }
    }
    Some(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["server", ip] => serve(ip).await,
        ["client", places, kind, rounds] => run_client(places, kind, rounds).await,
        other => match options(other) {
            Some(options) => tokio::select! {
                code = orchestrate(&options) => code,
                signal = told_to_end() => {
                    eprintln!("not done: ended by {signal}");
                    ExitCode::FAILURE
                }
            },
            None => {
                eprint!("{USAGE}");
                ExitCode::from(2)
            }
        },
    }
}

/// Waits for a signal that ends this program, and names it. Its children and namespaces go with it.
/// Not for SIGHUP, which would then reach it under `nohup`.
async fn told_to_end() -> &'static str {
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let mut interrupt = listen(SignalKind::interrupt());
    let mut terminate = listen(SignalKind::terminate());
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Ends this process with the one that started it, however that ends.
fn end_with_parent() {
    let ended = set_parent_process_death_signal(Some(Signal::TERM));
    ended.expect("Linux does that");
}

async fn serve(ip: &str) -> ExitCode {
    end_with_parent();
    let (places, _nodes) = server::start(ip.parse().expect("an IP address")).await;
    println!("{}", serde_json::to_string(&places).expect("it is JSON"));
    std::future::pending().await
}

async fn run_client(places: &str, kind: &str, rounds: &str) -> ExitCode {
    end_with_parent();
    let places: Places = serde_json::from_str(places).expect("what the server printed");
    let rounds: usize = rounds.parse().expect("a number");
    if kind == "opens" {
        return run_opens(places, rounds).await;
    }
    let local = kind == "local";
    let plan = match local {
        true => Plan {
            rounds,
            window: Window {
                warm_up: Duration::from_millis(300),
                measured: Duration::from_secs(1),
            },
            opens: 1_000,
        },
        false => Plan {
            rounds: rounds.div_ceil(2),
            window: Window {
                warm_up: Duration::from_secs(3),
                measured: Duration::from_secs(3),
            },
            opens: 20,
        },
    };
    let client = Client::start(places).await;
    let measured = measure(&client, plan, |part| println!("{part}")).await;
    if local {
        let [seal, open] = cipher::rates(Duration::from_secs(1)).map(|rate| rate * 8e-6);
        println!("ChaCha20-Poly1305, one core alone: seals {seal:.0}, opens {open:.0} Mbit/s");
    }
    let aim = if local { LOCAL_AIM } else { DELAYED_AIM };
    let mut good = true;
    for route in [Route::Tcp, Route::Quic] {
        let least = measured.least_share(route);
        let aimed = route == Route::Tcp;
        let verdict = match (aimed, least >= aim) {
            (false, _) => "for information",
            (true, true) => "met",
            (true, false) => "MISSED",
        };
        good &= !aimed || least >= aim;
        println!(
            "aim: {}, at least {:.0}% of raw TCP: {:.1}% at least: {verdict}",
            route.name(),
            aim * 100.0,
            least * 100.0
        );
        if local {
            let open = measured.open_p50_ms(route);
            let met = open < OPEN_AIM_MS;
            let verdict = if met { "met" } else { "MISSED" };
            println!(
                "aim: {}, opened in under {OPEN_AIM_MS} ms at p50: {open:.3} ms: {verdict}",
                route.name()
            );
            good &= met;
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run_opens(places: Places, count: usize) -> ExitCode {
    let client = Arc::new(Client::start(places).await);
    let mut good = true;
    for route in [Route::Tcp, Route::Quic] {
        let opened = open_and_close(&client, route, count).await;
        print!("{}", opened.report(route));
        good &= opened.held == [0; 2];
        good &= opened
            .grown
            .iter()
            .all(|grown| grown.resident < GROWTH_BYTES && grown.files <= GROWTH_FILES);
    }
    if good {
        ExitCode::SUCCESS
    } else {
        println!(
            "MISSED: under {} MiB and {GROWTH_FILES} files more, and no stream held",
            GROWTH_BYTES >> 20
        );
        ExitCode::FAILURE
    }
}

async fn orchestrate(options: &Options) -> ExitCode {
    let mut good = true;
    if let Some(count) = options.opens {
        return match run_pair(&[], &[], "127.0.0.1", "opens", count).await {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    if options.local {
        println!("== 127.0.0.1");
        good &= run_pair(&[], &[], "127.0.0.1", "local", options.rounds).await;
    }
    if options.delayed {
        good &= delayed(options).await;
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn delayed(options: &Options) -> bool {
    if let Some(reason) = Link::unavailable() {
        println!("== with a delay: skipped: {reason}");
        return true;
    }
    let mut good = true;
    for (name, rate) in [("100 Mbit/s", Some(100_000_000)), ("no rate limit", None)] {
        println!("== 60 ms there and back, {name}");
        let shape = Shape {
            delay: DELAY,
            rate,
            ..Shape::default()
        };
        let (left, right) = (Namespace::new("left"), Namespace::new("right"));
        let link = Link::start(
            &End::named(&left.0, "link0", &["10.99.0.1/24"]),
            &End::named(&right.0, "link0", &["10.99.0.2/24"]),
            shape,
        );
        let link = link.expect("a link can be made");
        let enter = |namespace: &Namespace| ["ip", "netns", "exec", &namespace.0].map(String::from);
        let (client, server) = (enter(&left), enter(&right));
        good &= run_pair(&server, &client, "10.99.0.2", "delayed", options.rounds).await;
        println!("carried: {link:?}\n");
    }
    good
}

/// Runs server and client, each behind its command's first words.
async fn run_pair(
    server: &[String],
    client: &[String],
    ip: &str,
    kind: &str,
    rounds: usize,
) -> bool {
    let own = std::env::current_exe().expect("this program has a path");
    let command = |before: &[String]| {
        let words: Vec<String> = before.to_vec();
        let mut words = words.into_iter();
        match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&own);
                command
            }
            None => Command::new(&own),
        }
    };
    let mut serving = command(server);
    serving.args(["server", ip]);
    let mut serving = Process::spawn("server", serving);
    let places = serving
        .wait_line("its places", |line| {
            serde_json::from_str::<Places>(line).ok()
        })
        .await;
    let places = serde_json::to_string(&places).expect("it is JSON");
    let mut measuring = command(client);
    measuring.args(["client", &places, kind, &rounds.to_string()]);
    measuring.stdin(Stdio::null()).kill_on_drop(true);
    let status = measuring.status().await.expect("it starts");
    println!(
        "the server had {} MiB resident at most",
        serving.peak_memory_bytes() >> 20
    );
    if !status.success() {
        // A missed aim ends it with 1.
        eprintln!("the client ended: {status}");
        for line in serving.stderr() {
            eprintln!("server: {line}");
        }
    }
    status.success()
}

/// A network namespace, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(part: &str) -> Self {
        let name = format!("derouter-bench-{}-{part}", std::process::id());
        let mut add = std::process::Command::new("ip");
        let status = add.args(["netns", "add", &name]).status();
        assert!(status.expect("ip is there").success(), "no namespace");
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut delete = std::process::Command::new("ip");
        let _ = delete.args(["netns", "del", &self.0]).status();
    }
}

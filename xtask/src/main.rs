//! The project's task runner.
//!
//! `cargo xtask test` checks everything, installing what that needs; `cargo xtask bench gateway`
//! measures the gateway against a plain reverse-proxy chain, `cargo xtask bench streams` job streams
//! against raw TCP, `cargo xtask lab` runs whole nodes behind NATs, and `cargo xtask fuzz` the fuzz
//! targets. `.ci/run` calls the first.
// What it prints is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod clients;
mod crash;
mod deny;
mod fuzz;
mod lab;
mod shell;
mod sim;
mod system;
mod test;
mod unused;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <task>

Tasks:
  test [--only STEP]...    check everything, or only these steps
  test --list              name the steps
  bench gateway [OPTION]...  measure the gateway; options go to the load generator
                           (--rounds N, --requests N, --quick)
  bench streams [OPTION]...  measure job streams against raw TCP, on 127.0.0.1 and with a
                           delay of 60 ms (--rounds N, --quick, --local, --delayed)
  bench streams --opens N  open and use so many streams, and tell what they leave behind
  bench ledger [--jobs N] [--payload-bytes N]
                           ask a database of so many jobs (1,000,000), and start a node on it
  bench jobs [--concurrency N,...] [--seconds N]
                           whole jobs between two processes, against plain TCP (1,16,256; 10)
  bench hostile [--chats N] [--attacks NAME,...]
                             time a chat while peers attack both of its nodes; as root, in a network lab
  crash [--disk | --network] [--runs N] [--seed S] [--parallel N]
                           nodes that end in the middle of jobs, at every named point and at random;
                           disks that fail; networks that lose, double, reorder and cut (root)
  soak ledger [--minutes N]  two nodes that trade for so long (30): does anything grow?
  soak gateway [--minutes N]
                           a gateway under mixed load for so long (30), whose providers come, go, are
                           killed and fail: does it answer, does anything grow?
  lab [matrix | events]    whole nodes behind NATs, in network namespaces (needs root)
  lab --only NAME,...      these pairs of the matrix, such as symmetric/port-restricted, and these
                           events, such as sleep
  fuzz [TARGET]... [--seconds N] [--keep]
                           fuzz the decoders, each for 180 s or N; --keep adds what is found to the
                           corpus. Needs a nightly compiler and cargo-fuzz
  sim discovery [OPTION]...  many nodes, and one node among many providers; options go to the
                           simulation (--providers N, --nodes N, --sharding, --legacy, ...)
  sim router [OPTION]...   the gateway's choice of providers against cheapest-first, random, round-robin
                           and an oracle, over synthetic providers (--requests N, --runs N, --only NAME)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", options @ ..] => test::run(options),
        ["bench", "gateway", options @ ..] => bench::gateway(options),
        ["bench", "streams", options @ ..] => bench::streams(options),
        ["bench", "ledger", options @ ..] => bench::ledger(options),
        ["bench", "jobs", options @ ..] => bench::alone("bench_jobs", options),
        ["crash", options @ ..] => crash::by_hand(options),
        ["soak", "ledger" | "gateway", ..] => bench::soak(words.get(1..).unwrap_or_default()),
        ["bench", "hostile", options @ ..] => bench::hostile(options),
        ["lab", options @ ..] => lab::run_lab(options),
        ["sim", "discovery", options @ ..] => sim::discovery(options),
        ["sim", "router", options @ ..] => sim::router(options),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

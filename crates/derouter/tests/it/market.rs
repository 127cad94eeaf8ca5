//! Commands about the market, with two real nodes: what they print, and JSON against docs/schemas.

mod buying;
mod jobs;
mod offers;
mod providing;
mod rpc;
mod status;

use derouter_testkit::schema::check_document;
use derouter_testkit::{Exit, NodeHome, Pair, Process};
use serde_json::Value;
use tokio::process::Command;

use crate::DEROUTER;

const MODEL: &str = "test-model";

/// Runs a command for a node, with variables of its environment.
async fn run_with(home: &NodeHome, arguments: &[&str], variables: &[(&str, &str)]) -> Exit {
    let exit = begin(home, arguments, variables).exit().await;
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    exit
}

fn begin(home: &NodeHome, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
    let mut command = Command::new(DEROUTER);
    command.args(arguments).arg("-c").arg(home.config_path());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DEROUTER_")) {
        command.env_remove(name);
    }
    command.env("COLUMNS", "80").envs(variables.iter().copied());
    Process::spawn(arguments[0], command)
}

async fn run(home: &NodeHome, arguments: &[&str]) -> Exit {
    run_with(home, arguments, &[]).await
}

#[track_caller]
fn expect(exit: &Exit, code: i32, said: &str) {
    let shown = format!("{:?}: {}{}", exit.code, exit.stdout, exit.stderr);
    assert_eq!(exit.code, Some(code), "{shown}");
    assert!(shown.contains(said), "{said}: {shown}");
}

/// The one object that a command prints with `--json`, checked.
async fn json(home: &NodeHome, arguments: &[&str]) -> Value {
    let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let exit = run(home, &all).await;
    expect(&exit, 0, "");
    document(&exit.stdout)
}

#[track_caller]
fn document(text: &str) -> Value {
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_else(|| panic!("nothing is printed"));
    assert_eq!(lines.next(), None, "more than one line: {text}");
    checked(line)
}

#[track_caller]
fn checked(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap();
    check_document(&value).unwrap_or_else(|error| panic!("{error}\n{line}"));
    value
}

async fn pair() -> Pair {
    Pair::start(DEROUTER, &[MODEL]).await
}

/// Buys a short answer.
async fn chat(pair: &Pair) -> Value {
    json(&pair.consumer_home, &["chat", MODEL, "Say some words"]).await
}

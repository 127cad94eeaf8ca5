//! Running the programs that set networks up.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `program` with `input`, and panics with what it says when it fails.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program was looked for before");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be awaited");
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}{}\ninput:\n{input}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Lets `ip` do these steps; panics when one fails.
pub(super) fn ip(steps: &[String]) {
    run("ip", &["-batch", "-"], &format!("{}\n", steps.join("\n")));
}

/// Whether `ip` does this.
pub(super) fn ip_works(step: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(step.split(' '));
    command.output().is_ok_and(|output| output.status.success())
}

/// The words that `ip` answers.
pub(super) fn ip_words(step: &str) -> Vec<String> {
    let output = Command::new("ip").args(step.split(' ')).output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    text.split_whitespace().map(str::to_owned).collect()
}

//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a task failed, in words for its user.
pub(crate) type Failure = String;

/// The workspace's root: the directory above this crate's.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The cargo that runs us, so that a toolchain override stays.
pub(crate) fn cargo() -> Command {
    let name = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs a command with its output shown; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    println!("$ {}", describe(command));
    let status = command
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`{}` failed ({status})", describe(command)))
}

/// Runs a command and returns its standard output; fails when it does.
pub(crate) fn read(command: &mut Command) -> Result<String, Failure> {
    command.stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        return Err(format!(
            "`{}` failed ({})",
            describe(command),
            output.status
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    format!("`{}` can't be started: {error}", describe(command))
}

/// Whether a program is there and says yes, without output.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether we may install packages and make network namespaces.
pub(crate) fn is_root() -> bool {
    let id = read(Command::new("id").arg("-u"));
    id.is_ok_and(|id| id.trim() == "0")
}

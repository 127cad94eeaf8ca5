//! The command line as people and scripts use it: in a home directory of its own, with real nodes.

mod doctor;
mod files;
mod first_steps;

use std::fs;
use std::path::{Path, PathBuf};

use derouter_testkit::schema::check_document;
use derouter_testkit::{Exit, Process};
use serde_json::Value;
use tempfile::TempDir;

use crate::DEROUTER;

/// A user's home directory, in which nothing is yet. The node that was left running in it ends with it.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        let directory = TempDir::with_prefix("derouter-home-").unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self) -> PathBuf {
        self.path().join("config/derouter/config.json")
    }

    fn data(&self) -> PathBuf {
        self.path().join("data/derouter")
    }

    /// Writes the configuration, with permissions as an editor has them.
    fn configure(&self, text: &str) {
        fs::create_dir_all(self.config().parent().unwrap()).unwrap();
        fs::write(self.config(), text).unwrap();
    }

    fn command(&self, program: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).current_dir(self.path());
        // What the tester has set must not matter.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DEROUTER_") {
                command.env_remove(name);
            }
        }
        for name in [
            "RUST_LOG",
            "COLUMNS",
            "NO_COLOR",
            "NOTIFY_SOCKET",
            "INVOCATION_ID",
        ] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("XDG_DATA_HOME", self.path().join("data"));
        command
    }

    async fn run(&self, arguments: &[&str]) -> Exit {
        self.run_with(arguments, &[]).await
    }

    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Exit {
        let mut command = self.command(DEROUTER, arguments);
        command.envs(variables.iter().copied());
        let exit = Process::spawn(arguments[0], command).exit().await;
        assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
        exit
    }

    /// Runs a command that must succeed, and returns what it said.
    async fn good(&self, arguments: &[&str]) -> String {
        let exit = self.run(arguments).await;
        assert_eq!(exit.code, Some(0), "{arguments:?}: {exit:?}");
        exit.stdout
    }

    /// Runs a command that must fail in this way.
    async fn bad(&self, arguments: &[&str], code: i32) -> String {
        let exit = self.run(arguments).await;
        assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
        exit.stderr
    }

    /// Runs a command with `--json`, whatever its exit code, and checks each object that it prints against its schema.
    async fn documents(&self, arguments: &[&str]) -> (Exit, Vec<Value>) {
        let exit = self.run(&[arguments, &["--json"]].concat()).await;
        let lines = exit.stdout.lines().map(|line| checked(line, arguments));
        let documents = lines.collect();
        if exit.code != Some(0) {
            let error = exit.stderr.lines().last().unwrap_or_default();
            let error = checked(error, arguments);
            assert_eq!(error["code"].as_i64(), exit.code.map(i64::from), "{error}");
        }
        (exit, documents)
    }

    /// The same for one that prints one object and succeeds.
    async fn document(&self, arguments: &[&str]) -> Value {
        let (exit, mut documents) = self.documents(arguments).await;
        assert_eq!(exit.code, Some(0), "{arguments:?}: {exit:?}");
        assert_eq!(documents.len(), 1, "{arguments:?}: {exit:?}");
        documents.remove(0)
    }
}

fn checked(line: &str, arguments: &[&str]) -> Value {
    let document: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
    if let Err(problem) = check_document(&document) {
        panic!("{arguments:?}: {problem}\n{document:#}");
    }
    document
}

impl Drop for Home {
    fn drop(&mut self) {
        let state = fs::read_to_string(self.data().join("node.json")).ok();
        let state: Option<Value> = state.and_then(|text| serde_json::from_str(&text).ok());
        let Some(pid) = state.and_then(|state| state["pid"].as_i64()) else {
            return;
        };
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.data().join("logs/derouter.log"));
            eprintln!("---- log\n{}", log.unwrap_or_default());
        }
    }
}

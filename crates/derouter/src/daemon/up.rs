//! `derouter up` and `derouter restart`: a node in the background, ready when the command ends.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::control::{self, LOOK};
use super::state::{Manager, Running};
use super::{down, log_file};
use crate::cli::RunArgs;
use crate::cli::daemon::{PlaceArgs, RestartArgs, UpArgs};
use crate::config::node::RunConfig;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::text;

/// What the node said before its log was there, in the log's directory.
const START_FILE: &str = "start.err";

/// Bytes of that which are shown.
const SHOWN_BYTES: u64 = 4096;

/// Bytes of the line that says that all is up.
const READY_BYTES: u64 = 256 * 1024;

/// Starts a node.
pub(crate) async fn up(args: UpArgs, output: Output) -> Result<(), Failure> {
    if args.foreground {
        return Box::pin(crate::run::run(args.run, output)).await;
    }
    let config = args.run.load()?;
    if let Running::Yes(state) = control::running(&config.data_dir)? {
        let ready = state.as_ref().and_then(|state| state.ready.clone());
        let pid = state.as_ref().map(|state| state.pid);
        output.note("a node runs already with this data directory");
        tell(&config, pid, ready.as_ref(), false, output);
        return Ok(());
    }
    let started = start(&args.run, &config, args.wait, output).await?;
    tell(
        &config,
        Some(started.pid),
        Some(&started.ready),
        true,
        output,
    );
    Ok(())
}

/// Stops a node and starts it with what it was started with.
pub(crate) async fn restart(args: RestartArgs, output: Output) -> Result<(), Failure> {
    let data_dir = control::data_dir(&args.down.place)?;
    let mut run = RunArgs {
        config: args.down.place.config.clone(),
        data_dir: args.down.place.data_dir.clone(),
        ..RunArgs::default()
    };
    if let Running::Yes(Some(state)) = control::running(&data_dir)? {
        if state.manager == Manager::Foreground {
            return Err(Failure::failed(format_args!(
                "the node (process {}) runs in a terminal or under another program, and was not started by \
                 `derouter up`: stop it there, or with `derouter down`",
                state.pid
            )));
        }
        let place = PlaceArgs {
            config: None,
            data_dir: Some(data_dir),
        };
        run.config = state.config.or(run.config);
        run.data_dir = state.data_dir_flag.or(run.data_dir);
        // What could not start again is not stopped.
        run.load()?;
        down::stop(&place, args.down.now, output).await?;
    }
    let config = run.load()?;
    let started = start(&run, &config, args.wait, output).await?;
    tell(
        &config,
        Some(started.pid),
        Some(&started.ready),
        true,
        output,
    );
    Ok(())
}

struct Started {
    pid: u32,
    ready: Value,
}

#[cfg(not(unix))]
async fn start(_: &RunArgs, _: &RunConfig, _: Duration, _: Output) -> Result<Started, Failure> {
    Err(Failure::failed(
        "a node in the background needs a Unix system: here, run `derouter run`",
    ))
}

#[cfg(unix)]
async fn start(
    run: &RunArgs,
    config: &RunConfig,
    wait: Duration,
    output: Output,
) -> Result<Started, Failure> {
    let log = log_file::path(&config.data_dir);
    let said = log.with_file_name(START_FILE);
    let mut child = spawn(run, config, &log, &said, output)?;
    let pid = child.id().unwrap_or_default();
    let deadline = Instant::now() + wait;
    let ready = ready_line(&mut child, deadline, output).await;
    match ready {
        Ok(Some(ready)) => Ok(Started { pid, ready }),
        Ok(None) => {
            let status = child.wait().await.map_err(Failure::failed)?;
            Err(not_started(status, &said, &log))
        }
        Err(failure) => Err(failure.with(&format!(
            "It goes on starting; `derouter logs -f` shows it ({})",
            log.display()
        ))),
    }
}

/// Starts this program as a node that leaves the terminal.
fn spawn(
    run: &RunArgs,
    config: &RunConfig,
    log: &Path,
    said: &Path,
    output: Output,
) -> Result<Child, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::environment(format_args!("can't {what}: {error}"))
    };
    let directory = log.parent().unwrap_or(Path::new("."));
    super::make_directory(directory)
        .map_err(|error| failed(&format!("make {}", directory.display()), error))?;
    let stderr =
        private(said).map_err(|error| failed(&format!("write {}", said.display()), error))?;
    let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut command = Command::new(program);
    command.args(["run", "--ready-json", "--detached", "--log-file"]);
    command.arg(absolute(log));
    // The one that was read, so that the two can't differ.
    if let Some(file) = &config.file {
        command.arg("--config").arg(absolute(file));
    }
    if let Some(directory) = &run.data_dir {
        command.arg("--data-dir").arg(absolute(directory));
    }
    if let Some(format) = run.output.log_format {
        command.arg("--log-format").arg(format.name());
    }
    if output.is_quiet() {
        command.arg("--quiet");
    }
    for _ in 0..output.verbosity().min(2) {
        command.arg("--verbose");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    command
        .spawn()
        .map_err(|error| failed("start the node", error))
}

/// Opens a file anew for this user alone.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The line that says that all is up. `None`: the node ended without.
async fn ready_line(
    child: &mut Child,
    deadline: Instant,
    output: Output,
) -> Result<Option<Value>, Failure> {
    let Some(stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let mut line = String::new();
    let mut reader = BufReader::new(stdout).take(READY_BYTES);
    let read = reader.read_line(&mut line);
    tokio::pin!(read);
    let begun = Instant::now();
    let mut progress = output.progress();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            read = timeout_at(deadline, &mut read) => {
                return match read {
                    Ok(Ok(0)) | Ok(Err(_)) => Ok(None),
                    Ok(Ok(_)) => serde_json::from_str(&line).map(Some).map_err(|error| {
                        Failure::failed(format_args!("what the node says makes no sense: {error}"))
                    }),
                    Err(_) => Err(Failure::time_is_up("the node is not up yet")),
                };
            }
            _ = ticks.tick() => {
                progress.say(&format!("starting ... {} s", begun.elapsed().as_secs()));
            }
        }
    }
}

/// What the node said before it ended, under its own exit code.
fn not_started(status: ExitStatus, said: &Path, log: &Path) -> Failure {
    let mut text = String::new();
    if let Ok(file) = File::open(said) {
        let _ = file.take(SHOWN_BYTES).read_to_string(&mut text);
    }
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map(|line| text::printable(line.trim_start_matches("derouter: ")));
    let kind = match status.code() {
        Some(3) => Kind::Config,
        Some(2) => Kind::Usage,
        _ => Kind::Failed,
    };
    match last {
        Some(last) => Failure::of(kind, last),
        None => Failure::of(
            kind,
            format_args!(
                "the node ended at once ({status}). {} says more",
                log.display()
            ),
        ),
    }
}

/// Says what is up, and where.
fn tell(
    config: &RunConfig,
    pid: Option<u32>,
    ready: Option<&Value>,
    started: bool,
    output: Output,
) {
    let log = log_file::path(&config.data_dir);
    let mut ready = ready.cloned().unwrap_or_default();
    if let Value::Object(fields) = &mut ready {
        fields.remove("schema");
        fields.remove("event");
    }
    let told = json!({
        "started": started,
        "pid": pid,
        "config": config.file,
        "data_dir": config.data_dir,
        "log": log,
        "node": ready,
    });
    output.show("derouter.up/1", &told, |_| screen(&told, &ready, &log));
}

fn screen(told: &Value, ready: &Value, log: &Path) -> String {
    let field = |name: &str| ready.get(name).and_then(Value::as_str).map(text::printable);
    let mut lines = vec![match told.get("pid").and_then(Value::as_u64) {
        Some(pid) => format!("the node is up: process {pid}"),
        None => "the node is up".to_owned(),
    }];
    let mut item = |label: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {label:<10} {value}"));
        }
    };
    item("peer", field("peer_id"));
    item("OpenAI", field("openai"));
    item("dashboard", field("dashboard"));
    item("RPC", field("rpc"));
    item("log", Some(log.display().to_string()));
    lines.push("`derouter status` tells how it is, `derouter down` stops it".to_owned());
    lines.join("\n")
}

/// Leaves the terminal and its session, so that closing it does not end the node.
pub(crate) fn detach() -> Result<(), Failure> {
    #[cfg(unix)]
    rustix::process::setsid()
        .map_err(|error| Failure::failed(format_args!("can't leave the terminal: {error}")))?;
    Ok(())
}

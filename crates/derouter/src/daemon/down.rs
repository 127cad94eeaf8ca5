//! `derouter down`: asks a node to end, and waits until it has.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::control::{self, LOOK};
use super::state::{self, Manager, NodeState, Phase, Running};
use crate::cli::daemon::{DownArgs, PlaceArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::text;

/// What a stop takes behind the drain, at the most: the modules (15 s), the node (20 s), and some more.
const STOP_TIME: Duration = Duration::from_secs(60);

/// How long a node may take to hear the first signal, before a second one would be taken for it.
const HEAR: Duration = Duration::from_secs(5);

/// Stops it.
pub(crate) async fn down(args: DownArgs, output: Output) -> Result<(), Failure> {
    let stopped = stop(&args.place, args.now, output).await?;
    let told = json!({"pid": stopped.pid, "now": args.now});
    output.show("derouter.down/1", &told, |_| {
        format!("the node (process {}) has stopped", stopped.pid)
    });
    Ok(())
}

/// Stops it, and says which it was.
pub(super) async fn stop(
    place: &PlaceArgs,
    now: bool,
    output: Output,
) -> Result<NodeState, Failure> {
    let data_dir = control::data_dir(place)?;
    let node = control::running_node(&data_dir)?;
    if let Manager::Systemd { unit, user } = &node.manager {
        let user = if *user { " --user" } else { "" };
        return Err(Failure::failed(format_args!(
            "systemd runs this node, and may start it again: `systemctl{user} stop {unit}` stops it, \
             `systemctl{user} restart {unit}` starts it anew"
        )));
    }
    terminate(&node)?;
    if now {
        let deadline = Instant::now() + HEAR;
        while is_serving(&data_dir) && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        // It may have ended by now: that is what was asked for.
        let _ = terminate(&node);
    }
    wait(&data_dir, &node, output).await?;
    Ok(node)
}

fn is_serving(data_dir: &Path) -> bool {
    match state::running(data_dir) {
        Ok(Running::Yes(Some(state))) => state.phase != Phase::Stopping,
        Ok(Running::Yes(None)) => true,
        Ok(Running::No) | Err(_) => false,
    }
}

async fn wait(data_dir: &Path, node: &NodeState, output: Output) -> Result<(), Failure> {
    let limit = Duration::from_secs(node.drain_seconds).saturating_add(STOP_TIME);
    let deadline = Instant::now() + limit;
    let mut progress = output.progress();
    loop {
        let told = match control::running(data_dir)? {
            Running::No => return Ok(()),
            // Another one: a service manager was quicker.
            Running::Yes(Some(other)) if other.pid != node.pid => return Ok(()),
            Running::Yes(told) => told,
        };
        progress.say(&waiting(told.as_deref()));
        if Instant::now() >= deadline {
            return Err(Failure::time_is_up(format_args!(
                "the node (process {}) has not stopped within {}. `derouter down --now` cuts off what runs; \
                 `derouter logs` says what it does",
                node.pid,
                text::duration(limit)
            )));
        }
        sleep(LOOK).await;
    }
}

fn waiting(state: Option<&NodeState>) -> String {
    let remaining = state.and_then(|state| state.remaining.as_ref());
    match remaining {
        Some(left) if left.jobs > 0 || left.signatures > 0 => format!(
            "finishing {} and {}, until {} ...",
            counted(left.jobs, "job"),
            counted(left.signatures, "signature"),
            text::printable(&left.until)
        ),
        _ => "stopping ...".to_owned(),
    }
}

fn counted(number: usize, thing: &str) -> String {
    text::counted(u32::try_from(number).unwrap_or(u32::MAX), thing)
}

#[cfg(unix)]
fn terminate(node: &NodeState) -> Result<(), Failure> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return Err(Failure::failed("the node says no process of this system"));
    };
    kill_process(pid, Signal::TERM).map_err(|error| {
        let message = format!("can't stop the node (process {}): {error}", node.pid);
        match error {
            rustix::io::Errno::PERM => Failure::of(crate::failure::Kind::NotAuthorised, message)
                .with("It is another user's"),
            _ => Failure::failed(message),
        }
    })
}

#[cfg(not(unix))]
fn terminate(node: &NodeState) -> Result<(), Failure> {
    Err(Failure::failed(format_args!(
        "this system has no signals: end the process {} where it runs",
        node.pid
    )))
}

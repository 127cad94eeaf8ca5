//! The running node's side: it holds its data directory, and says there how it is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use derouter_node::Left;
use serde::Serialize;

use super::state::{Hold, Manager, NodeState, Phase, Remaining};
use crate::cli::RunArgs;
use crate::config::node::RunConfig;
use crate::text;

/// What a node says of itself. Nothing of it is needed to run: where the disk refuses, the log says so,
/// and commands such as `down` do not find the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    hold: Hold,
    state: Mutex<NodeState>,
}

impl Claim {
    /// Takes hold of the data directory.
    pub(crate) fn take(args: &RunArgs, config: &RunConfig) -> Self {
        let hold = match Hold::take(&config.data_dir) {
            Ok(Some(hold)) => hold,
            // The database says that better, and stops the start.
            Ok(None) => return Self::default(),
            Err(error) => {
                tracing::debug!(%error, "can't hold the data directory");
                return Self::default();
            }
        };
        let state = NodeState {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: text::now().0,
            config: config.file.as_deref().and_then(absolute),
            data_dir_flag: args.data_dir.as_deref().and_then(absolute),
            log: args.background.log_file(&config.data_dir),
            manager: manager(args),
            drain_seconds: config.drain.as_secs(),
            phase: Phase::Starting,
            ready: None,
            remaining: None,
        };
        let held = Held {
            hold,
            state: Mutex::new(state),
        };
        let claim = Self(Some(Arc::new(held)));
        claim.change(|_| ());
        claim
    }

    /// All is up.
    pub(crate) fn serving(&self, ready: &impl Serialize) {
        self.change(|state| {
            state.phase = Phase::Serving;
            state.ready = serde_json::to_value(ready).ok();
        });
    }

    /// The end begins, and may take so long.
    pub(crate) fn stopping(&self, limit: Duration) {
        self.change(|state| {
            state.phase = Phase::Stopping;
            state.drain_seconds = limit.as_secs();
        });
    }

    /// What the stop waits for.
    pub(crate) fn remaining(&self, left: Left, until: &str) {
        self.change(|state| {
            state.remaining = Some(Remaining {
                jobs: left.jobs,
                signatures: left.signatures,
                until: until.to_owned(),
            });
        });
    }

    /// Nothing runs any more.
    pub(crate) fn end(self) {
        if let Some(held) = self.0 {
            held.hold.forget();
        }
    }

    fn change(&self, change: impl FnOnce(&mut NodeState)) {
        let Some(held) = &self.0 else {
            return;
        };
        let mut state = held.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let Err(error) = held.hold.tell(&state) {
            tracing::debug!(%error, "can't say in the data directory how the node is");
        }
    }
}

fn absolute(path: &std::path::Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

fn manager(args: &RunArgs) -> Manager {
    if args.background.detached {
        return Manager::Up;
    }
    // systemd sets the first for what it starts; terminals inside of a session inherit it, and have no
    // NOTIFY_SOCKET.
    let is_unit =
        std::env::var_os("INVOCATION_ID").is_some() && std::env::var_os("NOTIFY_SOCKET").is_some();
    let unit = is_unit
        .then(|| std::fs::read_to_string("/proc/self/cgroup").ok())
        .flatten()
        .and_then(|text| unit_of(&text));
    match unit {
        Some((unit, user)) => Manager::Systemd { unit, user },
        None => Manager::Foreground,
    }
}

/// The unit in a cgroup's path: its last part that is a service.
fn unit_of(cgroup: &str) -> Option<(String, bool)> {
    let path = cgroup.lines().find_map(|line| line.rsplit(':').next())?;
    let mut parts = path.split('/').rev();
    let unit = parts.find(|part| {
        part.strip_suffix(".service")
            .is_some_and(|name| !name.starts_with("user@"))
    })?;
    let user = path.contains("/user.slice/");
    Some((text::printable(unit), user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_in_its_cgroup() {
        assert_eq!(
            unit_of("0::/system.slice/derouter.service\n"),
            Some(("derouter.service".into(), false))
        );
        assert_eq!(
            unit_of(
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/derouter.service\n"
            ),
            Some(("derouter.service".into(), true))
        );
        assert_eq!(
            unit_of("0::/user.slice/user-1000.slice/session-2.scope\n"),
            None
        );
        assert_eq!(unit_of(""), None);
    }
}

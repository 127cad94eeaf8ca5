//! What a running node says of itself in its data directory, for commands that look after it.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Held by the node while it runs: the system takes it away however the process ends.
const LOCK_FILE: &str = "node.lock";

/// What it says.
const STATE_FILE: &str = "node.json";

/// Bytes of that at most; a node with many addresses writes some KiB.
const STATE_BYTES: u64 = 256 * 1024;

/// Who started the node, and so who stops it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Manager {
    /// `derouter up`.
    Up,
    /// Whoever ran `derouter run`.
    Foreground,
    /// systemd.
    Systemd {
        /// The unit.
        unit: String,
        /// Whether it is one of the user's own manager.
        user: bool,
    },
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// It opens its database and settles what was open.
    Starting,
    /// All is up.
    Serving,
    /// It finishes what runs.
    Stopping,
}

/// What is still to be finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remaining {
    /// Jobs that run.
    pub(crate) jobs: usize,
    /// Signatures to deliver.
    pub(crate) signatures: usize,
    /// When they are cut off: `14:03:07 UTC`.
    pub(crate) until: String,
}

/// A running node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// The process.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
    /// When it was started, in Unix seconds.
    pub(crate) started_at: u64,
    /// Its configuration file.
    pub(crate) config: Option<PathBuf>,
    /// The data directory that the command line gave.
    pub(crate) data_dir_flag: Option<PathBuf>,
    /// Where its log goes, when that is a file.
    pub(crate) log: Option<PathBuf>,
    /// Who started it.
    pub(crate) manager: Manager,
    /// Seconds that a stop may take to finish what runs.
    pub(crate) drain_seconds: u64,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Where it listens, as `--ready-json` tells, once all is up.
    #[serde(default)]
    pub(crate) ready: Option<Value>,
    /// What a stop waits for.
    #[serde(default)]
    pub(crate) remaining: Option<Remaining>,
}

/// Whether a node runs with a data directory.
#[derive(Debug)]
pub(crate) enum Running {
    /// It does; what it says of itself, if that can be read.
    Yes(Option<Box<NodeState>>),
    /// None does.
    No,
}

/// Looks.
pub(crate) fn running(data_dir: &Path) -> io::Result<Running> {
    let lock = match File::options()
        .read(true)
        .write(true)
        .open(data_dir.join(LOCK_FILE))
    {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Running::No),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        // Given back when it is closed.
        Ok(()) => Ok(Running::No),
        Err(TryLockError::WouldBlock) => Ok(Running::Yes(read(data_dir).map(Box::new))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What the last node said, running or not.
pub(crate) fn read(data_dir: &Path) -> Option<NodeState> {
    let file = File::open(data_dir.join(STATE_FILE)).ok()?;
    let mut text = String::new();
    file.take(STATE_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The running node's hold on its data directory.
#[derive(Debug)]
pub(super) struct Hold {
    _lock: File,
    directory: PathBuf,
}

impl Hold {
    /// Takes it. `None`: another node has it.
    pub(super) fn take(data_dir: &Path) -> io::Result<Option<Self>> {
        super::make_directory(data_dir)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let lock = options.open(data_dir.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                _lock: lock,
                directory: data_dir.to_owned(),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Says how it is: whole or not at all, for this user alone.
    pub(super) fn tell(&self, state: &NodeState) -> io::Result<()> {
        let text = serde_json::to_string(state)?;
        let mut file = tempfile::NamedTempFile::with_prefix_in(".node-", &self.directory)?;
        file.write_all(text.as_bytes())?;
        let placed = file.persist(self.directory.join(STATE_FILE));
        placed.map(drop).map_err(|error| error.error)
    }

    /// Nothing runs any more.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.directory.join(STATE_FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_seen_while_it_holds_its_directory_and_not_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        assert!(matches!(running(&path).unwrap(), Running::No));
        let hold = Hold::take(&path).unwrap().unwrap();
        assert!(Hold::take(&path).unwrap().is_none(), "there is one hold");
        assert!(matches!(running(&path).unwrap(), Running::Yes(None)));
        let state = NodeState {
            pid: 7,
            version: "0.2.0".into(),
            started_at: 1,
            config: None,
            data_dir_flag: None,
            log: None,
            manager: Manager::Systemd {
                unit: "derouter.service".into(),
                user: true,
            },
            drain_seconds: 30,
            phase: Phase::Serving,
            ready: None,
            remaining: Some(Remaining::default()),
        };
        hold.tell(&state).unwrap();
        match running(&path).unwrap() {
            Running::Yes(told) => assert_eq!(*told.unwrap(), state),
            Running::No => panic!("it runs"),
        }
        drop(hold);
        assert!(matches!(running(&path).unwrap(), Running::No));
        assert!(read(&path).is_some(), "a crash leaves what was said");
    }
}

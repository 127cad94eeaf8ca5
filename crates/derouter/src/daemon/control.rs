//! What commands that look after a node have in common: which node is meant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::daemon::PlaceArgs;
use crate::config::node::RunConfig;
use crate::failure::Failure;

use super::state::{self, NodeState, Running};

/// How often to look whether something has changed.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// The data directory that is meant.
pub(crate) fn data_dir(place: &PlaceArgs) -> Result<PathBuf, Failure> {
    match &place.data_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(RunConfig::load(place.config.as_deref())?.data_dir),
    }
}

/// Whether a node runs there.
pub(crate) fn running(data_dir: &Path) -> Result<Running, Failure> {
    state::running(data_dir).map_err(|error| {
        Failure::environment(format_args!(
            "can't look into {}: {error}. Is it another user's?",
            data_dir.display()
        ))
    })
}

/// The node that runs there. A failure when there is none.
pub(super) fn running_node(data_dir: &Path) -> Result<NodeState, Failure> {
    match running(data_dir)? {
        Running::Yes(Some(state)) => Ok(*state),
        Running::Yes(None) => Err(Failure::failed(format_args!(
            "a node runs with {}, but it has not said which process it is. Try again in a moment",
            data_dir.display()
        ))),
        Running::No => Err(not_running(data_dir)),
    }
}

fn not_running(data_dir: &Path) -> Failure {
    Failure::not_running(format_args!(
        "no node runs with the data directory {}. Start one with `derouter up`, or say which is meant \
         with `-c FILE` or `--data-dir DIR`",
        data_dir.display()
    ))
}

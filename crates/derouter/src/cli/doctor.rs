//! The command line of `derouter doctor`.

use std::path::PathBuf;

use clap::Args;

use super::daemon::PlaceArgs;

/// What to examine, and what to do about it.
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Mend what can be mended without a loss: permissions, what a crash left behind
    #[arg(long)]
    pub(crate) fix: bool,
    /// Write all of it to a new file, for whoever helps you: the checks, the configuration without its
    /// secrets, the network report, the last lines of the log
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// Ask neither the servers that are sold from nor the running node
    #[arg(long)]
    pub(crate) offline: bool,
}

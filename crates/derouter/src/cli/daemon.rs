//! The command line of a node in the background: `up`, `down`, `restart`, `logs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::RunArgs;
use super::network::seconds;
use crate::daemon::log_file;

/// Which node.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PlaceArgs {
    /// The node's configuration (JSON5), for its `data_dir` [env: DEROUTER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory [env: DEROUTER_DATA_DIR]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// How to run in the background. For `derouter up` alone.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BackgroundArgs {
    /// Leave the terminal
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
    /// Write the log to a file in the data directory, and keep it bounded
    #[arg(long, hide = true, conflicts_with = "log_file")]
    pub(crate) log_to_data_dir: bool,
    /// Write the log there, and keep it bounded
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

impl BackgroundArgs {
    /// Where the log goes, if that is a file.
    pub(crate) fn log_file(&self, data_dir: &Path) -> Option<PathBuf> {
        let of_data_dir = || log_file::path(data_dir);
        let named = self.log_file.clone();
        named.or_else(|| self.log_to_data_dir.then(of_data_dir))
    }
}

/// How to start a node.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// How to run it.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Stay in the foreground: the same as `derouter run`
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Wait up to so many seconds until all is up; a large database of 0.1.0 takes minutes
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) wait: Duration,
}

/// How to stop a node.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DownArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Do not wait until jobs that run have ended: they are cut off, and their consumers pay nothing
    #[arg(long)]
    pub(crate) now: bool,
}

/// How to start a node anew.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestartArgs {
    /// How to stop it.
    #[command(flatten)]
    pub(crate) down: DownArgs,
    /// Wait up to so many seconds until all is up
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) wait: Duration,
}

/// Which part of the log.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogsArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Go on as the log grows, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) grep: Option<String>,
}

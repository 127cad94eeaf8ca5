//! The command line of `derouter service`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with the system's service.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Have the system start the node at boot or login, and start it anew when it dies
    #[command(after_help = "Examples:\n  \
        derouter service install --print\n  \
        derouter service install\n  \
        sudo derouter service install --system -c /etc/derouter/config.json\n\n\
        For this user, unless root asks: systemd on Linux, launchd on macOS.")]
    Install(InstallArgs),
    /// Stop the service and remove it; the node's files stay
    #[command(after_help = "Example:\n  derouter service uninstall")]
    Uninstall(ScopeArgs),
    /// Say whether there is a service, and whether it runs
    #[command(
        after_help = "Examples:\n  derouter service status\n  derouter service status --json\n\n\
        Exit codes: 0 it runs, 1 it does not, or there is none."
    )]
    Status(ScopeArgs),
}

/// Whose service.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ScopeArgs {
    /// The whole machine's, under a user of its own [default: for root]
    #[arg(long, conflicts_with = "user")]
    pub(crate) system: bool,
    /// This user's [default: for everybody else]
    #[arg(long)]
    pub(crate) user: bool,
}

/// What to install.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallArgs {
    /// Whose.
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    /// The node's configuration [env: DEROUTER_CONFIG] [default: config.json in the usual directory; for the whole
    /// machine /etc/derouter/config.json]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the file and change nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Install it, but do not start it now
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Write over a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

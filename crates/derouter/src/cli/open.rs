//! `derouter open`.

use clap::Args;

use super::daemon::PlaceArgs;

/// Which dashboard to open.
#[derive(Clone, Debug, Args)]
pub(crate) struct OpenArgs {
    /// Of which node.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Print the link, and start no browser
    #[arg(long)]
    pub(crate) print: bool,
}

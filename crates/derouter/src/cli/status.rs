//! The command line of `derouter status`.

use std::time::Duration;

use clap::Args;

use super::market::MarketArgs;

/// What to look at.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Look again and again, until Ctrl-C; with --json one object a line
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = super::network::seconds)]
    pub(crate) interval: Duration,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

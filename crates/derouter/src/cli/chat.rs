//! The command line of `derouter chat`.

use std::time::Duration;

use clap::Args;
use derouter_sdk::Wei;

use super::market::MarketArgs;
use super::offers::pol;
use super::quote::SortBy;

/// What to ask, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChatArgs {
    /// The model [default: the cheapest that may be bought]
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// What to ask; `-` or nothing reads it from the standard input, on a terminal line by line
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The longest answer, in tokens
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// From 0 (always alike) to 2
    #[arg(long, value_name = "NUMBER")]
    pub(crate) temperature: Option<f32>,
    /// Ask these providers only: peer ids or the last 8 characters of them or more, with commas between
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Try providers in this order in place of that of the score
    #[arg(long, value_enum, value_name = "BY")]
    pub(crate) sort: Option<SortBy>,
    /// The most for 1,000,000 tokens, in POL, of prompt and answer each
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) max_price: Option<Wei>,
    /// Give an answer up after so many seconds, with exit code 124
    #[arg(long, value_name = "SECONDS", value_parser = super::network::seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

//! The command line of `quote`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What to ask the gateway.
#[derive(Clone, Debug, Args)]
pub(crate) struct QuoteArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Tokens of the prompt
    #[arg(long = "in", value_name = "N", default_value_t = 1000)]
    pub(crate) input: u64,
    /// Tokens of the answer
    #[arg(long = "out", value_name = "N", default_value_t = 500)]
    pub(crate) output: u64,
    /// Sort by this in place of the score
    #[arg(long, value_enum, value_name = "BY")]
    pub(crate) sort: Option<SortBy>,
    /// Ask these providers only: peer ids or the last 8 characters of them or more, with commas between
    #[arg(long, value_name = "PEER,...")]
    pub(crate) only: Option<String>,
    /// The most for 1,000,000 tokens, in POL: 0.5, or prompt=0.2,completion=1
    #[arg(long, value_name = "POL")]
    pub(crate) max_price: Option<String>,
    /// The configuration of the node, for the address of its OpenAI endpoint
    #[arg(short, long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) config: Option<PathBuf>,
    /// Where the OpenAI endpoint is [env: DEROUTER_URL] [default: http://127.0.0.1:9002]
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) url: Option<String>,
}

/// What offers may be sorted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SortBy {
    /// The cheapest first
    Price,
    /// The quickest to the first token first
    Latency,
    /// The most tokens a second first
    Throughput,
}

impl SortBy {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Price => "price",
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }
}

//! The command line of `derouter offers` and `derouter models`.

use clap::{Args, Subcommand, ValueEnum};
use derouter_sdk::Wei;

use super::market::MarketArgs;

/// What to do with offers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum OffersCommand {
    /// List the offers on the market, with what this node saw of their providers
    #[command(after_help = "Examples:\n  \
        derouter offers list\n  \
        derouter offers list \"llama*\" --sort price --max-price 0.5 --buyable\n  \
        derouter offers list --feature tools --min-context 32768 --json\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    List(ListArgs),
    /// Tell all about one offer
    #[command(after_help = "Examples:\n  \
        derouter offers show llama\n  \
        derouter offers show 6vnc6iDEp/llama --json\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs, 6 there is no such offer.")]
    Show(ShowArgs),
    /// Follow what comes, changes and goes
    #[command(after_help = "Examples:\n  \
        derouter offers watch\n  \
        derouter offers watch \"llama*\" --json\n\n\
        With --json one object a line, each as it comes. Ends with Ctrl-C.")]
    Watch(WatchArgs),
}

/// Which offers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// The model, by any of its names; `*` stands for anything
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Only those of a provider: its peer id, or the end of it
    #[arg(long, value_name = "PEER")]
    pub(crate) provider: Option<String>,
    /// The most for 1,000,000 tokens, in POL, of prompt and answer each
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) max_price: Option<Wei>,
    /// Only those that say that they can do this: tools, json_schema, reasoning, ...; may be repeated
    #[arg(long = "feature", value_name = "NAME", value_delimiter = ',')]
    pub(crate) features: Vec<String>,
    /// The smallest context window, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) min_context: Option<u64>,
    /// Only those that the configuration of the OpenAI endpoint lets be bought
    #[arg(long)]
    pub(crate) buyable: bool,
}

/// Which offers to list, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Which offers.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// What to sort by
    #[arg(long, value_enum, value_name = "BY", default_value = "model")]
    pub(crate) sort: OfferSort,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) limit: usize,
    /// Whole peer ids and texts, however wide
    #[arg(long)]
    pub(crate) full: bool,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

/// What offers may be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OfferSort {
    /// By model, then price
    Model,
    /// The cheapest first, prompt and answer together
    Price,
    /// The quickest to the first token first; those not measured last
    Latency,
    /// The most tokens a second first; those not measured last
    Throughput,
    /// The largest context window first
    Context,
}

/// Which offer.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id or model, or PEER/ID with the end of its provider's peer id
    #[arg(value_name = "OFFER")]
    pub(crate) offer: String,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

/// Which offers to follow.
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    /// Which offers.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

/// Which models.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelsArgs {
    /// The model; `*` stands for anything
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Only those of which an offer may be bought
    #[arg(long)]
    pub(crate) buyable: bool,
    /// Which node and endpoint.
    #[command(flatten)]
    pub(crate) market: MarketArgs,
}

/// An amount of POL.
pub(crate) fn pol(text: &str) -> Result<Wei, String> {
    Wei::from_pol_text(text).map_err(|error| error.to_string())
}

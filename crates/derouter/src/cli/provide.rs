//! The command line of `derouter provide`.

use clap::{Args, Subcommand};
use derouter_openai::provider::prices::{NoWindow, PriceWindow};
use derouter_sdk::Wei;

use super::network::NodeArgs;
use super::offers::pol;

/// What to do with what this node sells.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ProvideCommand {
    /// List what this node sells: how each offer stands, what it earned, and why nobody buys
    #[command(after_help = "Examples:\n  \
        derouter provide list\n  \
        derouter provide list llama --json\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    List(ListArgs),
    /// Add an offer without a restart; the configuration stays as it is
    #[command(after_help = "Examples:\n  \
        derouter provide add llama --model llama3.2 --context 8192 --in-price 0.1 --out-price 0.4\n  \
        derouter provide add big --model big-70b --backend-model big:70b --context 32768 \
        --in-price 1 --out-price 3 --feature tools --max-concurrency 4\n\n\
        Exit codes: 0 added, 2 usage, 3 configuration.")]
    Add(AddArgs),
    /// Change an offer without a restart, also one of the configuration
    #[command(after_help = "Examples:\n  \
        derouter provide edit llama --in-price 0.2 --out-price 0.6\n  \
        derouter provide edit llama --max-concurrency 2 --description \"\"\n  \
        derouter provide edit llama --schedule \"sat,sun x0.5\" --schedule \"22:00-06:00 0.1/0.4\"\n\n\
        An empty text and a trial of 0 take away what was there. Answers that run are not touched.\n\n\
        Exit codes: 0 changed, 2 usage, 3 configuration.")]
    Edit(EditArgs),
    /// Take an offer back for good: one that was added is gone, one of the configuration until `restore`
    #[command(after_help = "Example:\n  derouter provide remove llama\n\n\
        Exit codes: 0 removed, 2 usage, 3 configuration.")]
    Remove(OfferArgs),
    /// Drop all changes of an offer: it is as the configuration has it again
    #[command(after_help = "Example:\n  derouter provide restore llama\n\n\
        Exit codes: 0 dropped, 2 usage, 3 configuration.")]
    Restore(OfferArgs),
    /// Take an offer from the market for now; answers that run go on
    #[command(after_help = "Example:\n  derouter provide pause llama\n\n\
        Exit codes: 0 paused, 2 usage, 3 configuration.")]
    Pause(OfferArgs),
    /// Put a paused offer on the market again
    #[command(after_help = "Example:\n  derouter provide resume llama\n\n\
        Exit codes: 0 resumed, 2 usage, 3 configuration.")]
    Resume(OfferArgs),
    /// Send one request through the own backend, and check the answer and what it would be billed by
    #[command(after_help = "Examples:\n  \
        derouter provide test\n  \
        derouter provide test llama --json\n\n\
        Nothing is bought or sold.\n\n\
        Exit codes: 0 all well, 1 something is not, 2 usage, 3 configuration, 8 the backend failed.")]
    Test(TestArgs),
    /// Measure the own backend: time to the first token and tokens a second, for one and for many at once
    #[command(after_help = "Examples:\n  \
        derouter provide bench\n  \
        derouter provide bench llama --parallel 8 --tokens 256 --json\n\n\
        Nothing is bought or sold, and the backend has less for its consumers meanwhile.\n\n\
        Exit codes: 0 measured, 2 usage, 3 configuration, 8 the backend failed.")]
    Bench(BenchArgs),
}

/// Which offers to list.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this offer, with all about it
    #[arg(value_name = "OFFER")]
    pub(crate) offer: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Which offer.
#[derive(Clone, Debug, Args)]
pub(crate) struct OfferArgs {
    /// The offer's id
    #[arg(value_name = "OFFER")]
    pub(crate) offer: String,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A window of prices, or none at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window(pub(crate) Option<PriceWindow>);

fn window(text: &str) -> Result<Window, NoWindow> {
    match text.trim() {
        "" => Ok(Window(None)),
        text => text.parse().map(|window| Window(Some(window))),
    }
}

/// What an offer may have.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TermsArgs {
    /// The model as the backend names it, where that is another name
    #[arg(long, value_name = "NAME")]
    pub(crate) backend_model: Option<String>,
    /// Other names of the model, with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) aliases: Option<Vec<String>>,
    /// The longest answer, in tokens; 0 for what the context leaves
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_output: Option<u64>,
    /// Prices by the clock (UTC), once for each window; the first that holds counts. "sat,sun 22:00-06:00 x0.5" is
    /// half the prices, "22:00-06:00 0.1/0.4" other ones, in POL; "" takes the schedule away
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    pub(crate) schedule: Option<Vec<Window>>,
    /// POL for a request that is answered
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) request_price: Option<Wei>,
    /// POL that each new consumer may have for nothing
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) trial: Option<Wei>,
    /// About the offer
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Answers at a time
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<u32>,
    /// Of these for one consumer
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency_per_consumer: Option<u32>,
    /// Requests that wait for a place
    #[arg(long, value_name = "N")]
    pub(crate) max_queue: Option<u32>,
    /// What the model can: tools, json_schema, reasoning, logprobs; with commas between
    #[arg(long = "feature", value_name = "NAMES", value_delimiter = ',')]
    pub(crate) features: Option<Vec<String>>,
    /// How the weights are stored, such as q4_k_m
    #[arg(long, value_name = "NAME")]
    pub(crate) quantization: Option<String>,
    /// Where the provider is, as two letters
    #[arg(long, value_name = "CC")]
    pub(crate) region: Option<String>,
}

/// The offer to add.
#[derive(Clone, Debug, Args)]
pub(crate) struct AddArgs {
    /// The new offer's id
    #[arg(value_name = "OFFER")]
    pub(crate) offer: String,
    /// The model as the market names it
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// The context window, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: u64,
    /// POL for 1,000,000 tokens of the prompt
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) in_price: Wei,
    /// POL for 1,000,000 tokens of the answer
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) out_price: Wei,
    /// The base URL of the configured backend that serves it [default: the only one]
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) backend: Option<String>,
    /// What else it has.
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// What to change of an offer.
#[derive(Clone, Debug, Args)]
pub(crate) struct EditArgs {
    /// The offer's id
    #[arg(value_name = "OFFER")]
    pub(crate) offer: String,
    /// The base URL of another configured backend that serves it from now on; of an added offer only
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) backend: Option<String>,
    /// The model as the market names it
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// The context window, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<u64>,
    /// POL for 1,000,000 tokens of the prompt
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) in_price: Option<Wei>,
    /// POL for 1,000,000 tokens of the answer
    #[arg(long, value_name = "POL", value_parser = pol)]
    pub(crate) out_price: Option<Wei>,
    /// What else.
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// What to test.
#[derive(Clone, Debug, Args)]
pub(crate) struct TestArgs {
    /// Only this offer [default: all of the configuration and all that were added]
    #[arg(value_name = "OFFER")]
    pub(crate) offer: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// The offer [default: the first]
    #[arg(value_name = "OFFER")]
    pub(crate) offer: Option<String>,
    /// How many requests at once, besides one by one [default: as many as the offer serves at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Option<u32>,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub(crate) tokens: u32,
    /// Requests one by one
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

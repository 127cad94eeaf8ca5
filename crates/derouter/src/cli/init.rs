//! The command line of `derouter init`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use derouter_node::Multiaddr;
use derouter_sdk::Wei;

use super::frame::ConsentArgs;

/// What the configuration is to be.
#[derive(Clone, Debug, Args)]
pub(crate) struct InitArgs {
    /// What the node does; asked for on a terminal [default: both where a server is found, else buy]
    #[arg(long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Base URL of the OpenAI-compatible server to sell from; without it, one is looked for on this machine
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) backend: Option<String>,
    /// The server's key; better in DEROUTER_BACKEND_API_KEY, where nobody sees it
    #[arg(
        long,
        value_name = "KEY",
        env = "DEROUTER_BACKEND_API_KEY",
        hide_env_values = true
    )]
    pub(crate) backend_key: Option<String>,
    /// A model to sell; may be repeated [default: every model that the server names]
    #[arg(long = "model", value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// Price of 1,000,000 tokens of the prompt, in POL
    #[arg(long, value_name = "POL", value_parser = amount, default_value = "0.1")]
    pub(crate) input_price: Wei,
    /// Price of 1,000,000 tokens of the answer, in POL
    #[arg(long, value_name = "POL", value_parser = amount, default_value = "0.4")]
    pub(crate) output_price: Wei,
    /// The context window in tokens where the server does not tell it
    #[arg(long, value_name = "TOKENS", default_value = "4096")]
    pub(crate) context: std::num::NonZeroU64,
    /// The most that is spent a day (UTC), in POL [default: 10]
    #[arg(long, value_name = "POL", value_parser = amount)]
    pub(crate) daily: Option<Wei>,
    /// What others see of the node while it sells
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// A peer to begin with, with /p2p/PEER at its end; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// A fixed port for peers (TCP and UDP) [default: chosen once by the system, and kept]
    #[arg(long, value_name = "PORT")]
    pub(crate) peer_port: Option<std::num::NonZeroU16>,
    /// The port of the OpenAI endpoint [default: 9002]
    #[arg(long, value_name = "PORT")]
    pub(crate) endpoint_port: Option<u16>,
    /// The port of the node's RPC [default: 4269]
    #[arg(long, value_name = "PORT")]
    pub(crate) rpc_port: Option<u16>,
    /// Do not look for peers in the local network
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// The file to write [env: DEROUTER_CONFIG] [default: config.json in the usual directory]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory [env: DEROUTER_DATA_DIR] [default: the usual one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Write over a file that is there; it is kept beside it as FILE.bak
    #[arg(long)]
    pub(crate) force: bool,
    /// Consent.
    #[command(flatten)]
    pub(crate) consent: ConsentArgs,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// An OpenAI-compatible endpoint on this machine, that buys from others
    Buy,
    /// Sells what an OpenAI-compatible server answers
    Sell,
    /// Both
    Both,
}

impl Role {
    /// Whether it sells.
    pub(crate) fn sells(self) -> bool {
        self != Self::Buy
    }

    /// Whether it buys.
    pub(crate) fn buys(self) -> bool {
        self != Self::Sell
    }
}

fn amount(text: &str) -> Result<Wei, String> {
    Wei::from_pol_text(text).map_err(|error| error.to_string())
}

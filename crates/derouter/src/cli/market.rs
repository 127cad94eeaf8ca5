//! What commands about the market take: which node, and which endpoint.

use clap::Args;

use super::network::NodeArgs;

/// Which node to ask, and which OpenAI endpoint.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MarketArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Where the OpenAI endpoint is [env: DEROUTER_URL] [default: where the node's is, else
    /// http://127.0.0.1:9002]
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) url: Option<String>,
}

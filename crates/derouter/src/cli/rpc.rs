//! The command line of `derouter rpc`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::network::{NodeArgs, seconds};

/// What to do with the RPC.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RpcCommand {
    /// Send one request of RPC 0.2 to the node, for authors of modules
    #[command(after_help = "Examples:\n  \
        derouter rpc call QueryNetwork\n  \
        derouter rpc call ListOffers \"{limit: 5}\"\n  \
        derouter rpc call PingPeer \"{peer_id: '12D3KooW...', timeout_ms: 5000}\"\n\n\
        docs/rpc.md describes the requests. Peer ids are text both ways; other byte strings are \
        {\"$hex\": \"...\"}. Events of subscriptions are not followed, and whatever is provided ends with the \
        command.\n\n\
        Exit codes: 0 answered, 1 the node answers with an error, 2 usage, 3 configuration, 4 no node \
        runs, 5 not authorised, 124 no answer in time.")]
    Call(CallArgs),
}

/// What to ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct CallArgs {
    /// The request's name, such as ListJobs
    #[arg(value_name = "METHOD")]
    pub(crate) method: String,
    /// Its data, as JSON or JSON5; `-` reads it from the standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(crate) data: String,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Go on although the request may spend money or change something
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

//! The command line of what looks at the network: `netcheck`, `ping`, `peers`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Which node to ask.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NodeArgs {
    /// The node's configuration (JSON5), for its `data_dir` and `server.port` [env: DEROUTER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory, with its socket and cookie file [env: DEROUTER_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the node's RPC is, for example 127.0.0.1:4269 or unix:/var/lib/derouter/rpc.sock
    /// [env: DEROUTER_RPC]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) rpc: Option<String>,
    /// The node's cookie file, for an --rpc over TCP [env: DEROUTER_RPC_COOKIE] [default: the one in
    /// the data directory of the configuration, if that is given]
    #[arg(long, value_name = "FILE")]
    pub(crate) rpc_cookie: Option<PathBuf>,
}

/// How to check the network.
#[derive(Clone, Debug, Args)]
pub(crate) struct NetcheckArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Check without a running node: take part in the network for a while, under a key that is
    /// thrown away, and sell and buy nothing
    #[arg(long, conflicts_with = "rpc")]
    pub(crate) standalone: bool,
    /// Wait up to so many seconds until it is known whether others can dial the node [default: 0,
    /// standalone: 20]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
}

/// How to ping.
#[derive(Clone, Debug, Args)]
pub(crate) struct PingArgs {
    /// Whom: a peer id, the end of one as `derouter peers` shows it, or a multiaddr that ends in
    /// /p2p/PEER
    #[arg(value_name = "PEER|MULTIADDR")]
    pub(crate) target: String,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// How often [default: 4, with --until-direct: until then]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// Seconds between two pings
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// End as soon as the path is direct: exit code 0 then, 1 after the last ping, 124 when the
    /// time is up
    #[arg(long)]
    pub(crate) until_direct: bool,
    /// Give up after so many seconds altogether, with exit code 124 [default: none, with
    /// --until-direct: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

/// Which peers to show, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct PeersArgs {
    /// All about one peer: its id, or the end of it as the table shows it
    #[arg(value_name = "PEER")]
    pub(crate) peer: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Peers that are remembered but not connected, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Whole peer ids and texts, however wide
    #[arg(long)]
    pub(crate) full: bool,
}

/// Seconds, with a fraction if need be, up to a day.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 86_400.0;
    let number: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    if !(0.0..=MOST).contains(&number) {
        return Err(format!("not from 0 to {MOST} seconds"));
    }
    Ok(Duration::from_secs_f64(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_and_must_make_sense() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "-1", "NaN", "inf", "1e9", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}

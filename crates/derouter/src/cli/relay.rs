//! The command line of `derouter relay`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use derouter_node::Multiaddr;

use super::OutputArgs;

/// How to run a relay. Flags go before what the file says.
#[derive(Clone, Debug, Args)]
pub(crate) struct RelayArgs {
    /// The relay's configuration (JSON5)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen; may be repeated [default: TCP and QUIC on port 4001 of all networks]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<Multiaddr>,
    /// An address under which others reach this relay; may be repeated. Needed behind a NAT, also that of
    /// a cloud or of Docker, where a relay finds out its address only from those that --bootstrap
    /// names [default: the addresses of this machine]
    #[arg(long = "external-address", value_name = "MULTIADDR")]
    pub(crate) external_addresses: Vec<Multiaddr>,
    /// Another relay or node to stay connected to; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// The key file, made when it is absent. DEROUTER_RELAY_KEY (64 hex digits) goes before it
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Where to serve /metrics and /healthz, and where --health asks [env: DEROUTER_RELAY_HTTP]
    /// [default: 127.0.0.1:9090]
    #[arg(long, value_name = "IP:PORT", value_parser = http_address)]
    pub(crate) http: Option<SocketAddr>,
    /// Limits.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Ask the relay that runs at --http whether it is well, and exit with 0 if it is
    #[arg(long)]
    pub(crate) health: bool,
    /// What all commands take.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Reads an IP address with its port.
pub(crate) fn http_address(text: &str) -> Result<SocketAddr, String> {
    let why = "it must be an IP address and a port, such as 127.0.0.1:9090";
    text.parse().map_err(|_| why.to_owned())
}

/// What a relay gives at most.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Peers that may be reached through it [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) reservations: Option<std::num::NonZeroU32>,
    /// Circuits at a time [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) circuits: Option<std::num::NonZeroU32>,
    /// Circuits at a time from one peer [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) circuits_per_peer: Option<std::num::NonZeroU32>,
    /// Minutes that one circuit lives [default: 720]
    #[arg(long, value_name = "MINUTES")]
    pub(crate) circuit_minutes: Option<u64>,
    /// Bytes through one circuit, both directions together [default: 4294967296]
    #[arg(long, value_name = "BYTES")]
    pub(crate) circuit_bytes: Option<std::num::NonZeroU64>,
    /// Bytes a second through the whole relay, both directions together: circuits and its own traffic
    /// with peers. 65536 at least [default: no limit]
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes_per_second: Option<u64>,
}

//! The running node, for commands that ask it.

use std::path::PathBuf;
use std::time::Duration;

use derouter_sdk::tcp::{COOKIE_FILE, SOCKET_FILE, TcpOptions};
use derouter_sdk::{Node, NodeError, PeerId, PeerQuery, PeerReport, TcpNode};

use crate::cli::network::NodeArgs;
use crate::config::node::{DEFAULT_RPC_PORT, RunConfig};
use crate::config::{paths, place};
use crate::failure::{Failure, Kind};

/// Whoever waits is a person at a terminal, and the node is on this machine.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Peers in one answer.
const PAGE: u32 = 100;

/// The least of a peer id's end that is looked for.
const LEAST_PART: usize = 4;

/// A node that runs.
pub(crate) struct RpcNode {
    node: TcpNode,
    address: String,
}

impl RpcNode {
    /// Finds it: at `--rpc`, else in the configuration's or the usual data directory.
    pub(crate) async fn find(args: &NodeArgs) -> Result<Self, Failure> {
        let found = connect(args)?;
        found
            .node
            .peer_id()
            .await
            .map_err(|error| found.failure(error))?;
        Ok(found)
    }

    /// The node's calls.
    pub(crate) fn calls(&self) -> &TcpNode {
        &self.node
    }

    /// What a failed call means to the user.
    pub(crate) fn failure(&self, error: NodeError) -> Failure {
        match error {
            NodeError::Unreachable(reason) => Failure::not_running(format_args!(
                "no node runs at {}: {reason}. Start one with `derouter up`, or say \
                 where it is with `-c FILE` or `--rpc HOST:PORT`",
                self.address
            )),
            NodeError::Refused(_) => Failure::of(Kind::NotAuthorised, error),
            error => Failure::failed(error),
        }
    }

    /// All peers, page by page.
    pub(crate) async fn peers(&self, connected_only: bool) -> Result<Vec<PeerReport>, Failure> {
        let mut all = Vec::new();
        let mut query = PeerQuery {
            connected_only,
            limit: PAGE,
            ..PeerQuery::default()
        };
        loop {
            let page = self.node.peers(&query).await;
            let page = page.map_err(|error| self.failure(error))?;
            let Some(last) = page.last() else {
                return Ok(all);
            };
            query.after = Some(last.peer);
            all.extend(page);
        }
    }

    /// The peer that a text means: its id, or the end of one that the node knows.
    pub(crate) async fn resolve(&self, text: &str) -> Result<PeerId, Failure> {
        if let Ok(peer) = text.parse() {
            return Ok(peer);
        }
        let is_part = text.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_part || text.len() < LEAST_PART {
            return Err(Failure::usage(format_args!(
                "{text:?} is not a peer id. It looks like 12D3KooW...; of a peer that this node \
                 knows the end is enough, as `derouter peers` shows it"
            )));
        }
        let known = self.peers(false).await?;
        let mut meant = known
            .iter()
            .filter(|report| report.peer.to_string().ends_with(text));
        match (meant.next(), meant.next()) {
            (Some(only), None) => Ok(only.peer),
            (Some(_), Some(_)) => Err(Failure::usage(format_args!(
                "several peers have ids that end in {text}: give more of it"
            ))),
            (None, _) => Err(Failure::failed(format_args!(
                "this node knows no peer whose id ends in {text}. Give the whole id, or a \
                 multiaddr that ends in /p2p/<peer id>"
            ))),
        }
    }
}

fn connect(args: &NodeArgs) -> Result<RpcNode, Failure> {
    let rpc = rpc_address(args);
    // Where the RPC's address is all that is told, no file need be right.
    let is_told = rpc.is_some() && args.config.is_none() && args.data_dir.is_none();
    let config = match is_told {
        true => None,
        false => Some(RunConfig::load(args.config.as_deref())?),
    };
    let of_config = config.as_ref().map(|config| config.data_dir.clone());
    let data_dir = args.data_dir.clone().or(of_config);
    let mut options = TcpOptions::default();
    options.connect_wait = CONNECT_WAIT;
    options.module_name = "derouter command".to_owned();
    let cookie = args.rpc_cookie.clone();
    options.cookie = cookie.or_else(|| place::variable(place::RPC_COOKIE).map(PathBuf::from));
    if let Some(address) = rpc {
        let of_directory = data_dir.map(|directory| directory.join(COOKIE_FILE));
        options.cookie = options.cookie.or(of_directory);
        return Ok(RpcNode {
            node: TcpNode::connect(address.clone(), options),
            address,
        });
    }
    let port = match &config {
        Some(config) => config.node.rpc.as_ref().map_or(0, |rpc| rpc.port),
        None => DEFAULT_RPC_PORT,
    };
    let Some(data_dir) = data_dir.or_else(paths::default_data_dir) else {
        return Err(no_port());
    };
    let socket = data_dir.join(SOCKET_FILE);
    let address = format!("127.0.0.1:{port}");
    if port == 0 && !socket.exists() {
        // A node that runs has the socket, where there are such.
        return Err(match cfg!(unix) {
            true => Failure::not_running(format_args!(
                "no node runs with the data directory {}. Start one with `derouter up`, or say where it is \
                 with `-c FILE`, `--data-dir DIR` or `--rpc HOST:PORT`",
                data_dir.display()
            )),
            false => no_port(),
        });
    }
    Ok(RpcNode {
        node: TcpNode::find(&data_dir, address.clone(), options),
        address: match port {
            0 => socket.display().to_string(),
            _ => address,
        },
    })
}

/// Where the RPC is, if that is told: by the flag, or by the environment unless a flag names the node
/// otherwise.
fn rpc_address(args: &NodeArgs) -> Option<String> {
    let named = args.config.is_some() || args.data_dir.is_some();
    let of_variable = || place::variable(place::RPC)?.into_string().ok();
    match (&args.rpc, named) {
        (Some(address), _) => Some(address.clone()),
        (None, false) => of_variable(),
        (None, true) => None,
    }
}

fn no_port() -> Failure {
    Failure::environment(
        "the configuration lets the system choose `server.port`, and no node answers in its data \
         directory: say where the node's RPC is with `--rpc HOST:PORT` (its log and `--ready-json` \
         tell)",
    )
}

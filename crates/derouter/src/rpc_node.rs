//! The running node, for commands that ask it.

use std::time::Duration;

use derouter_sdk::tcp::TcpOptions;
use derouter_sdk::{Node, NodeError, PeerId, PeerQuery, PeerReport, TcpNode};

use crate::cli::network::NodeArgs;
use crate::config::node::{DEFAULT_RPC_PORT, RunConfig};
use crate::failure::Failure;

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
    /// Finds it: at `--rpc`, else at the configuration's `server.port`, else at the usual port.
    pub(crate) async fn find(args: &NodeArgs) -> Result<Self, Failure> {
        let address = address(args)?;
        let mut options = TcpOptions::default();
        options.connect_wait = CONNECT_WAIT;
        let node = TcpNode::connect(address.clone(), options);
        let found = Self { node, address };
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
                "no node runs at {}: {reason}. Start one with `derouter -c config.json`, or say \
                 where it is with `-c FILE` or `--rpc HOST:PORT`",
                self.address
            )),
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

fn address(args: &NodeArgs) -> Result<String, Failure> {
    if let Some(address) = &args.rpc {
        return Ok(address.clone());
    }
    let port = match &args.config {
        Some(path) => RunConfig::load(Some(path))?.node.rpc_port,
        None => Some(DEFAULT_RPC_PORT),
    };
    match port {
        Some(0) | None => Err(Failure::environment(
            "the configuration lets the system choose `server.port`: say where the node's RPC is \
             with `--rpc HOST:PORT` (its log and `--ready-json` tell)",
        )),
        Some(port) => Ok(format!("127.0.0.1:{port}")),
    }
}

//! `derouter peers`: whom this node knows, and how each is reached.

mod table;

use derouter_sdk::{Node, PeerId, PeerQuery, PeerReport};
use serde_json::json;

use crate::cli::network::PeersArgs;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::rpc_node::RpcNode;
use crate::text;

/// Tells of all peers, or of one.
pub(crate) async fn peers(args: PeersArgs, output: Output) -> Result<(), Failure> {
    let node = RpcNode::find(&args.node).await?;
    if let Some(peer) = &args.peer {
        let peer = node.resolve(peer).await?;
        let report = one(&node, peer).await?;
        output.show("derouter.peer/1", &report, |_| {
            table::detail(&report, text::now())
        });
        return Ok(());
    }
    let mut reports = node.peers(!args.all).await?;
    reports.iter_mut().for_each(text::clean_peer);
    // The connected ones first, each kind in the order of ids.
    reports.sort_by_key(|report| report.paths.is_empty());
    if output.is_json() {
        output::document("derouter.peers/1", &json!({"peers": reports}));
        return Ok(());
    }
    if reports.is_empty() {
        let hint = match args.all {
            true => "no peer is known",
            false => "no peer is connected. `derouter netcheck` says what to do about it",
        };
        output.note(hint);
        return Ok(());
    }
    let room = (!args.full).then_some(output.width());
    output::line(&table::table(&reports, text::now(), room));
    Ok(())
}

async fn one(node: &RpcNode, peer: PeerId) -> Result<PeerReport, Failure> {
    let query = PeerQuery {
        peer: Some(peer),
        limit: 1,
        ..PeerQuery::default()
    };
    let found = node.calls().peers(&query).await;
    let mut found = found.map_err(|error| node.failure(error))?;
    let report = found.pop().filter(|report| report.peer == peer);
    let mut report = report
        .ok_or_else(|| Failure::failed(format_args!("this node does not know the peer {peer}")))?;
    text::clean_peer(&mut report);
    Ok(report)
}

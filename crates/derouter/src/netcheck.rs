//! `derouter netcheck`: whether others can reach this node, how, and what to do about it.

mod screen;
mod standalone;

use std::time::Duration;

use derouter_sdk::Node;
use derouter_sdk::wire::rpc::network::{NetworkReport, Reachability};
use tokio::time::Instant;

use crate::cli::network::NetcheckArgs;
use crate::failure::Failure;
use crate::rpc_node::RpcNode;
use crate::{output, text};

/// How often to look whether more is known.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long to take part in the network without a node: two rounds of tests by peers.
const STANDALONE_WAIT: Duration = Duration::from_secs(20);

/// Tells what the node, or a network side of its own, finds out.
pub(crate) async fn netcheck(args: NetcheckArgs) -> Result<(), Failure> {
    let mut report = match args.standalone {
        true => standalone::check(&args.node, args.wait.unwrap_or(STANDALONE_WAIT)).await?,
        false => of_node(&args).await?,
    };
    text::clean_network(&mut report);
    match args.json {
        true => output::json(&report),
        false => output::line(&screen::screen(&report, text::now())),
    }
    Ok(())
}

async fn of_node(args: &NetcheckArgs) -> Result<NetworkReport, Failure> {
    let node = RpcNode::find(&args.node)
        .await
        .map_err(|failure| failure.with("`--standalone` checks the network without a node"))?;
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    loop {
        let report = node.calls().network().await;
        let report = report.map_err(|error| node.failure(error))?;
        if is_settled(&report) || Instant::now() >= deadline {
            return Ok(report);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether waiting longer would tell little more.
fn is_settled(report: &NetworkReport) -> bool {
    use derouter_sdk::wire::rpc::network::ReservationState;
    let waiting = report
        .relays
        .iter()
        .any(|relay| relay.state == ReservationState::Pending);
    match report.reachability {
        Reachability::Unknown => false,
        Reachability::Public => true,
        Reachability::Private => !waiting,
    }
}

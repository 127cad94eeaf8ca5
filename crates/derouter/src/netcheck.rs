//! `derouter netcheck`: whether others can reach this node, how, and what to do about it.

mod screen;
mod standalone;

use std::time::Duration;

use derouter_sdk::Node;
use derouter_sdk::wire::rpc::network::{NetworkReport, Reachability, ReservationState};
use tokio::time::Instant;

use crate::cli::network::NetcheckArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::rpc_node::RpcNode;
use crate::text;

/// How often to look whether more is known.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long to take part in the network without a node: two rounds of tests by peers.
const STANDALONE_WAIT: Duration = Duration::from_secs(20);

/// Tells what the node, or a network side of its own, finds out. Fails when that is not well.
pub(crate) async fn netcheck(args: NetcheckArgs, output: Output) -> Result<(), Failure> {
    let mut report = match args.standalone {
        true => standalone::check(&args.node, args.wait.unwrap_or(STANDALONE_WAIT)).await?,
        false => of_node(&args).await?,
    };
    text::clean_network(&mut report);
    output.show("derouter.netcheck/1", &report, |output| {
        screen::screen(&report, text::now(), output.width())
    });
    match trouble(&report) {
        Some(trouble) => Err(Failure::failed(trouble)),
        None => Ok(()),
    }
}

/// Why nobody can trade with this node. What is not known yet is no trouble.
pub(crate) fn trouble(report: &NetworkReport) -> Option<&'static str> {
    if report.peers == 0 {
        return Some("not well: no peer is connected");
    }
    let is_reserved = |state| state == ReservationState::Reserved;
    let relayed = report.relays.iter().any(|relay| is_reserved(relay.state));
    let unreachable = report.reachability == Reachability::Private && !relayed;
    unreachable.then_some("not well: others can't dial this node, and no relay has taken it in")
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

#[cfg(test)]
mod tests {
    use super::screen::tests::{behind_a_nat, new_node};
    use super::*;

    #[test]
    fn a_node_without_peers_or_that_nobody_reaches_is_not_well() {
        assert!(trouble(&new_node()).is_some_and(|trouble| trouble.contains("no peer")));
        let relayed = behind_a_nat();
        assert_eq!(trouble(&relayed), None, "reached through a relay");
        let mut pending = relayed.clone();
        for relay in &mut pending.relays {
            relay.state = ReservationState::Pending;
        }
        assert!(trouble(&pending).is_some_and(|trouble| trouble.contains("relay")));
        for reachability in [Reachability::Public, Reachability::Unknown] {
            let report = NetworkReport {
                reachability,
                relays: Vec::new(),
                ..relayed.clone()
            };
            assert_eq!(trouble(&report), None, "{reachability:?}");
        }
    }
}

//! The node that runs: whether it answers, who reaches it, and what it advises.

use std::time::Duration;

use derouter_sdk::Node;
use derouter_sdk::wire::rpc::network::NetworkReport;

use super::{Check, Patient};
use crate::cli::daemon::PlaceArgs;
use crate::cli::network::NodeArgs;
use crate::daemon::state::{self, Running};
use crate::netcheck;
use crate::rpc_node::RpcNode;
use crate::text;

/// The endpoint is on this machine, and names its models from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Advice about the clock, of which the check has the name.
const CLOCK: &str = "clock";

pub(super) async fn check(patient: &Patient, place: &PlaceArgs, checks: &mut Vec<Check>) {
    const ID: &str = "node";
    if !patient.running {
        checks.push(Check::skip(ID, "none runs"));
        return;
    }
    checks.push(version(patient));
    if patient.offline {
        checks.push(Check::skip(ID, "it was not asked"));
        return;
    }
    let args = NodeArgs {
        config: place.config.clone(),
        data_dir: place.data_dir.clone(),
        ..NodeArgs::default()
    };
    match report(&args).await {
        Ok(report) => {
            checks.push(Check::ok(ID, format!("{} answers", report.peer_id)));
            network(&report, checks);
        }
        Err(found) => checks.push(Check::fail(
            ID,
            format!("it runs, but does not answer: {found}"),
            "look into its log (derouter logs), and start it anew: derouter restart",
        )),
    }
    endpoint(patient, checks).await;
}

/// What the node says of its network.
pub(super) async fn report(args: &NodeArgs) -> Result<NetworkReport, String> {
    let node = RpcNode::find(args)
        .await
        .map_err(|failure| failure.to_string())?;
    let report = node.calls().network().await;
    let mut report = report.map_err(|error| error.to_string())?;
    text::clean_network(&mut report);
    Ok(report)
}

fn version(patient: &Patient) -> Check {
    const ID: &str = "version";
    let own = env!("CARGO_PKG_VERSION");
    let state = patient.data_dir.as_deref().map(state::running);
    match state {
        Some(Ok(Running::Yes(Some(state)))) if state.version != own => Check::warn(
            ID,
            format!(
                "the node is of version {}, this command of {own}",
                state.version
            ),
            "start it anew, so that it is of this version: derouter restart",
        ),
        _ => Check::ok(ID, own),
    }
}

fn network(report: &NetworkReport, checks: &mut Vec<Check>) {
    checks.push(match netcheck::trouble(report) {
        Some(trouble) => Check::warn(
            "network",
            trouble,
            "`derouter netcheck` says why and what to do",
        ),
        None => {
            let peers = text::counted(report.peers, "peer");
            Check::ok("network", format!("{peers} connected"))
        }
    });
    for advice in &report.advice {
        let (id, found) = match advice.code.contains(CLOCK) {
            true => ("clock", "other nodes say another time"),
            false => ("advice", advice.code.as_str()),
        };
        checks.push(Check::warn(id, found, advice.text.as_str()));
    }
}

async fn endpoint(patient: &Patient, checks: &mut Vec<Check>) {
    const ID: &str = "models";
    let state = patient.data_dir.as_deref().map(state::running);
    let Some(Ok(Running::Yes(Some(state)))) = state else {
        return;
    };
    let ready = state.ready.unwrap_or_default();
    let Some(url) = ready.get("openai").and_then(|url| url.as_str()) else {
        return;
    };
    let asked = async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()?;
        let answer = client.get(format!("{url}/models")).send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.bytes().await?))
    };
    checks.push(match asked.await {
        Err(error) => Check::fail(
            ID,
            format!("the OpenAI endpoint at {url} does not answer: {error}"),
            "look into the log (derouter logs), and start the node anew: derouter restart",
        ),
        Ok((status, _)) if status.as_u16() == 401 => Check::ok(ID, "the endpoint wants a key"),
        Ok((status, body)) => {
            let list: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let models = list.get("data").and_then(|data| data.as_array());
            match models.map(Vec::len) {
                Some(0) => Check::warn(
                    ID,
                    "nothing can be bought now",
                    "no provider is known whose price is within your limits: see `bootstrap`, `derouter peers`, \
                     and `openai.consumer.server.maxInputPrice`",
                ),
                Some(number) => Check::ok(ID, format!("{number} can be bought")),
                None => Check::fail(
                    ID,
                    format!("the OpenAI endpoint at {url} answers {status}"),
                    "look into the log: derouter logs",
                ),
            }
        }
    });
}

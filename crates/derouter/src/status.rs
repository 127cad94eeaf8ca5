//! `derouter status`: how the node is, on one screen.

mod text;
mod warnings;

use std::io::IsTerminal;
use std::time::Duration;

use derouter_openai::consumer::view::{ActiveView, SpendingView};
use derouter_openai::provider::view::ProviderView;
use derouter_sdk::wire::rpc::network::NetworkReport;
use derouter_sdk::{ModuleReport, Node, NodeError, NodeState, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::cli::status::StatusArgs;
use crate::failure::Failure;
use crate::gateway::GATEWAY_SCHEMA;
use crate::output::{self, Output};
use crate::rpc_node::RpcNode;
use crate::text::{clean_network, now, printable};
use crate::{market, provide};
use warnings::Warning;

/// Looks are no closer together than this: each asks the node for all it knows.
const CLOSEST: Duration = Duration::from_millis(200);

/// The node tells at once whether it takes new work; one of 0.1 never does.
const STATE_WAIT: Duration = Duration::from_secs(1);

/// How the node calls commands of this program among its modules.
const COMMANDS: &str = "derouter command";

/// All that is shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Status {
    at: UnixSeconds,
    node: NodePart,
    network: Option<NetworkReport>,
    gateways: Vec<GatewayPart>,
    providers: Vec<ProviderView>,
    modules: Vec<ModulePart>,
    jobs: JobsPart,
    warnings: Vec<Warning>,
}

#[derive(Clone, Debug, Serialize)]
struct NodePart {
    peer_id: String,
    agent: Option<String>,
    state: &'static str,
}

/// What a gateway tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GatewayPart {
    #[serde(skip_serializing)]
    schema: String,
    base_url: String,
    spending: SpendingView,
    active: ActiveView,
    /// What is wrong with the list of pinned and blocked providers.
    #[serde(default)]
    problem: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ModulePart {
    name: String,
    version: Option<String>,
    place: &'static str,
    capabilities: Vec<String>,
    since: UnixSeconds,
}

/// Jobs that run now, and those since the modules started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct JobsPart {
    bought_now: usize,
    sold_now: usize,
    waiting_now: usize,
    bought: u64,
    sold: u64,
}

/// Looks once, or again and again.
pub(crate) async fn status(args: StatusArgs, output: Output) -> Result<(), Failure> {
    if !args.watch {
        let status = look(&args).await?;
        show(&status, output);
        return Ok(());
    }
    let clear = std::io::stdout().is_terminal() && !output.is_json();
    let every = args.interval.max(CLOSEST);
    loop {
        let status = look(&args).await?;
        if clear {
            output::text("\u{1b}[H\u{1b}[2J");
        }
        show(&status, output);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn show(status: &Status, output: Output) {
    output.show("derouter.status/1", status, |output| {
        text::text(status, output)
    });
}

async fn look(args: &StatusArgs) -> Result<Status, Failure> {
    let node = RpcNode::find(&args.market.node).await?;
    let calls = node.calls();
    let peer_id = calls.peer_id().await.map_err(|error| node.failure(error))?;
    let network = match calls.network().await {
        Ok(report) => Some(report),
        Err(NodeError::Unsupported(_)) => None,
        Err(error) => return Err(node.failure(error)),
    };
    let network = network.map(|mut report| {
        clean_network(&mut report);
        report
    });
    let modules = market::modules(&node).await;
    let gateways = gateways(&modules);
    let providers = provide::views(&modules);
    let mut status = Status {
        at: now(),
        node: NodePart {
            peer_id: peer_id.to_string(),
            agent: network.as_ref().map(|report| printable(&report.agent)),
            state: state(&node).await,
        },
        jobs: jobs(&gateways, &providers),
        network,
        gateways,
        providers,
        modules: modules.iter().filter_map(part).collect(),
        warnings: Vec::new(),
    };
    status.warnings = warnings::warnings(&status);
    Ok(status)
}

/// Whether it takes new work.
async fn state(node: &RpcNode) -> &'static str {
    let told = async {
        let mut watch = node.calls().watch_state().await.ok()?;
        watch.next().await
    };
    match tokio::time::timeout(STATE_WAIT, told).await {
        Ok(Some(NodeState::Serving)) => "serving",
        Ok(Some(NodeState::Draining { .. })) => "draining",
        _ => "unknown",
    }
}

fn gateways(modules: &[ModuleReport]) -> Vec<GatewayPart> {
    let states = modules.iter().filter_map(|module| module.state.as_deref());
    let told = states.filter_map(|state| serde_json::from_str::<GatewayPart>(state).ok());
    told.filter(|part| part.schema == GATEWAY_SCHEMA).collect()
}

fn part(module: &ModuleReport) -> Option<ModulePart> {
    let name = printable(&module.name);
    (name != COMMANDS).then(|| ModulePart {
        name,
        version: module.version.as_deref().map(printable),
        place: match module.place {
            derouter_sdk::ModulePlace::Node => "node",
            derouter_sdk::ModulePlace::Connection => "connection",
        },
        capabilities: module.capabilities.clone(),
        since: module.since,
    })
}

fn jobs(gateways: &[GatewayPart], providers: &[ProviderView]) -> JobsPart {
    let offers = || providers.iter().flat_map(|view| &view.offers);
    JobsPart {
        bought_now: gateways.iter().map(|it| it.active.requests.len()).sum(),
        sold_now: offers().map(|offer| offer.in_use).sum(),
        waiting_now: offers().map(|offer| offer.queued).sum(),
        bought: gateways
            .iter()
            .filter_map(|it| Some(it.spending.counts?.signed))
            .sum(),
        sold: providers.iter().map(|view| view.counts.completed).sum(),
    }
}

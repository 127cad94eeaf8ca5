//! `derouter openai provide` and `consume`: a module as a process of its own, over the node's RPC.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::tcp::TcpOptions;
use derouter_sdk::{Node, NodeError, PeerId, TcpNode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::{ModuleArgs, OutputArgs};
use crate::config::module::{self, ModuleConfig, RpcAddress};
use crate::config::place;
use crate::failure::Failure;
use crate::modules::{start_consumer, start_provider};
use crate::output::Output;
use crate::ready::Ready;
use crate::supervisor::{self, Supervised};
use crate::{logging, signals};

/// How long to wait for a node that is not there yet: one that is started at the same time opens
/// its database first.
const NODE_WAIT: Duration = Duration::from_secs(15);

/// What a stop takes behind the answers: bills that are signed, jobs that are given up.
const STOP_TIME: Duration = Duration::from_secs(15);

/// How often to look for the node until then.
const NODE_RETRY: Duration = Duration::from_millis(250);

/// Sells, until a signal asks it to end.
pub(crate) async fn provide(args: ModuleArgs, output: Output) -> Result<(), Failure> {
    let config = module::read_provider(&args.config)?;
    let stop = begin(&args, &config, output)?;
    let start = async {
        let (node, peer) = connect(&config.rpc).await?;
        Ok::<_, Failure>((start_provider(&node, config.module).await?, peer))
    };
    let (running, peer) = tokio::select! {
        started = Box::pin(start) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    tell(args.output, &Ready::new(peer));
    wait_and_stop(&stop, config.drain).await;
    running.shutdown(config.drain).await;
    Ok(())
}

/// Buys, until a signal asks it to end.
pub(crate) async fn consume(args: ModuleArgs, output: Output) -> Result<(), Failure> {
    let config = module::read_consumer(&args.config)?;
    let stop = begin(&args, &config, output)?;
    let start = async {
        let (node, peer) = connect(&config.rpc).await?;
        Ok::<_, Failure>((start_consumer(&node, config.module).await?, peer))
    };
    let (running, peer) = tokio::select! {
        started = Box::pin(start) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    tell(
        args.output,
        &Ready::new(peer).openai(Some(running.local_addr())),
    );
    wait_and_stop(&stop, config.drain).await;
    running.shutdown_within(config.drain).await;
    Ok(())
}

/// Tells the service manager that all is up, and once a signal has come, that it ends.
async fn wait_and_stop(stop: &CancellationToken, drain: Duration) {
    supervisor::ready("serving");
    let _watching = supervisor::watch(ModuleLife);
    stop.cancelled().await;
    supervisor::stopping("finishing the answers that run");
    supervisor::more_time(drain + STOP_TIME);
    tracing::info!(
        seconds = drain.as_secs(),
        "answers that run may finish; a second signal stops at once"
    );
}

/// A module lives while its runtime does.
struct ModuleLife;

impl Supervised for ModuleLife {
    async fn pulse(&self, _: Duration) -> Result<(), String> {
        Ok(())
    }

    async fn status(&self) -> String {
        "serving".to_owned()
    }
}

fn begin<M>(
    args: &ModuleArgs,
    config: &ModuleConfig<M>,
    output: Output,
) -> Result<CancellationToken, Failure> {
    logging::start(
        args.output.log_format.unwrap_or(config.log),
        logging::NODE,
        output,
    )?;
    say_what_is_used(&args.config, config.has_database_url);
    signals::listen()
}

fn say_what_is_used(path: &Path, has_database_url: bool) {
    tracing::info!(path = %path.display(), "configuration read");
    if has_database_url {
        tracing::info!("`database_url` is ignored: this module needs no database of its own");
    }
}

fn tell(output: OutputArgs, ready: &Ready) {
    if output.ready_json {
        ready.print();
    }
}

/// Finds the node, and who it is.
async fn connect(rpc: &RpcAddress) -> Result<(Arc<dyn Node>, PeerId), Failure> {
    let address = rpc.to_string();
    let deadline = Instant::now() + NODE_WAIT;
    loop {
        // Looked for anew each time: a node that starts makes its socket first.
        let node: Arc<dyn Node> = Arc::new(node_at(rpc, &address));
        match node.peer_id().await {
            Ok(peer) => {
                tracing::info!(address, %peer, "connected to the node");
                return Ok((node, peer));
            }
            Err(NodeError::Unreachable(reason)) if Instant::now() < deadline => {
                tracing::info!(address, reason, "no node there yet, waiting");
                tokio::time::sleep(NODE_RETRY).await;
            }
            Err(error) => return Err(no_node(&address, &error)),
        }
    }
}

fn node_at(rpc: &RpcAddress, address: &str) -> TcpNode {
    let mut options = TcpOptions::default();
    options.module_name = "derouter openai".to_owned();
    options.cookie = place::variable(place::RPC_COOKIE).map(PathBuf::from);
    match &rpc.data_dir {
        Some(data_dir) => TcpNode::find(data_dir, address, options),
        None => TcpNode::connect(address, options),
    }
}

fn no_node(address: &str, error: &NodeError) -> Failure {
    Failure::environment(format_args!(
        "no node answers at {address}: {error}. Start one with `derouter -c config.json`, or set \
         `rpc: {{host, port}}` to where it is (its `server.port`, by default 4269)"
    ))
}

//! `derouter run`: a node with the modules that its configuration has.

use std::path::Path;

use derouter_node::RunningNode;

use crate::cli::RunArgs;
use crate::config::node::RunConfig;
use crate::config::paths;
use crate::failure::Failure;
use crate::modules::RunningModules;
use crate::ready::Ready;
use crate::{logging, signals};

/// Runs until a signal asks it to end.
pub(crate) async fn run(args: RunArgs) -> Result<(), Failure> {
    let config = RunConfig::load(args.config.as_deref())?;
    logging::start(args.output.log_format.unwrap_or(config.log), logging::NODE)?;
    say_what_is_used(args.config.as_deref(), &config);
    let stop = signals::listen()?;
    let running = tokio::select! {
        running = Box::pin(Running::start(config)) => running?,
        () = stop.cancelled() => return Ok(()),
    };
    let ready = running.ready().await;
    ready.log();
    if args.output.ready_json {
        ready.print();
    }
    stop.cancelled().await;
    running.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

fn say_what_is_used(path: Option<&Path>, config: &RunConfig) {
    match path {
        Some(path) => tracing::info!(path = %path.display(), "configuration read"),
        None => tracing::info!(
            data_dir = ?paths::default_data_dir(),
            "no configuration given (-c FILE): a node with the defaults, and no OpenAI module"
        ),
    }
    for key in &config.openai.ignored {
        tracing::info!(
            key,
            "has no use in a section of the node's own file, and is ignored"
        );
    }
    if config.node.bootstrap.is_empty() {
        let mdns = config.node.mdns;
        tracing::info!(
            mdns,
            "no bootstrap peers: only those found by mDNS will be known"
        );
    }
}

/// A node and its modules.
struct Running {
    node: RunningNode,
    modules: RunningModules,
}

impl Running {
    /// Starts all or nothing.
    async fn start(config: RunConfig) -> Result<Self, Failure> {
        let node = start_node(config.node).await?;
        match RunningModules::start(&node.handle(), config.openai).await {
            Ok(modules) => Ok(Self { node, modules }),
            Err(failure) => {
                node.shutdown().await;
                Err(failure)
            }
        }
    }

    async fn ready(&self) -> Ready {
        Ready::new(self.node.peer_id())
            .listen(&self.node.listen_addresses().await)
            .rpc(self.node.rpc_addr())
            .openai(self.modules.openai())
    }

    async fn shutdown(self) {
        self.modules.shutdown().await;
        self.node.shutdown().await;
    }
}

/// Starts a node. Every reason why it does not start is one that the user can mend.
pub(crate) async fn start_node(config: derouter_node::NodeConfig) -> Result<RunningNode, Failure> {
    Box::pin(derouter_node::start(config))
        .await
        .map_err(Failure::environment)
}

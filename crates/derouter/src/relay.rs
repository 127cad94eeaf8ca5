//! `derouter relay`: a relay, bootstrap node and Kademlia server for others, which forwards what
//! nodes tell each other. It sells nothing, has no jobs and no database.

mod http;
mod key;
mod metrics;
mod process;

use std::time::Duration;

use derouter_net::{Net, NetConfig, StartError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::relay::RelayArgs;
use crate::config::network::of_this_node;
use crate::config::relay::RelayConfig;
use crate::failure::Failure;
use crate::output::Output;
use crate::ready::Ready;
use crate::run::check_ports;
use crate::supervisor::{self, Supervised};
use crate::{drain, logging, signals};

/// Runs until a signal asks it to end.
pub(crate) async fn relay(args: RelayArgs, output: Output) -> Result<(), Failure> {
    let config = RelayConfig::load(&args)?;
    if args.health {
        return http::ask_health(config.http).await;
    }
    logging::start(config.log, logging::NODE, output)?;
    let keypair = key::load(config.key_file.as_deref())?;
    let stop = signals::listen()?;
    let listener = http::bind(config.http).await?;
    check_ports(&config.net.listen)?;
    let external = config.net.external_addresses.clone();
    of_this_node(&external, keypair.public().to_peer_id()).map_err(Failure::environment)?;
    let private_network = config.net.private_network;
    let net_config = NetConfig {
        options: config.net,
        ..NetConfig::new(keypair)
    };
    let started = Box::pin(derouter_net::start(net_config, CancellationToken::new())).await;
    let (net, events) = started.map_err(not_started)?;
    tokio::spawn(drain::drain(events));
    let ready = Ready::new(net.local_peer_id())
        .listen(&net.listen_addresses().await)
        .external(&external)
        .http(Some(listener.address));
    tokio::spawn(http::serve(listener, net.clone(), stop.clone()));
    ready.log_relay(private_network);
    if args.output.ready_json {
        ready.print();
    }
    supervisor::ready("serving");
    let watching = supervisor::watch(RelayLife(net.clone()));
    let outcome = wait(&net, &stop).await;
    drop(watching);
    supervisor::stopping("closing the connections");
    net.shutdown().await;
    tracing::info!("stopped");
    outcome
}

/// Until a signal, or the end of the network: a service manager then starts it again.
async fn wait(net: &Net, stop: &CancellationToken) -> Result<(), Failure> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = http::until_unwell(net) => {
            Err(Failure::failed("the network side ended by itself; its log says why"))
        }
    }
}

/// What tells whether the relay lives.
struct RelayLife(Net);

impl Supervised for RelayLife {
    async fn pulse(&self, limit: Duration) -> Result<(), String> {
        match timeout(limit, self.0.answers()).await {
            Ok(true) => Ok(()),
            _ => Err("the network's task does not answer".to_owned()),
        }
    }

    async fn status(&self) -> String {
        format!("serving: {} peers", self.0.peers().await.len())
    }
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn not_started(error: StartError) -> Failure {
    let remedy = match error {
        StartError::Listen { .. } => {
            ". Check `listen`: it looks like /ip4/0.0.0.0/tcp/4001 or /ip4/0.0.0.0/udp/4001/quic-v1"
        }
        _ => "",
    };
    Failure::environment(format_args!("{error}{remedy}"))
}

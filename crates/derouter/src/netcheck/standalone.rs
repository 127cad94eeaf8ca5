//! A network side for a while, where no node runs.

use std::time::Duration;

use derouter_net::{Keypair, Net, NetConfig, NetEvents, NetOptions};
use derouter_sdk::wire::rpc::network::NetworkReport;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LOOK_AGAIN, is_settled};
use crate::cli::network::NodeArgs;
use crate::config::node::{RunConfig, default_listen};
use crate::failure::Failure;
use crate::run::check_ports;
use crate::{drain, output, text};

/// Takes part in the network until it is known how others reach this machine, or for so long.
pub(super) async fn check(args: &NodeArgs, wait: Duration) -> Result<NetworkReport, Failure> {
    let options = RunConfig::load(args.config.as_deref())?.node.net;
    let options = NetOptions {
        mdns: false,
        relay_server: None,
        ..options
    };
    if options.bootstrap.is_empty() {
        output::error_line(
            "no bootstrap nodes are configured, so nobody can try this machine's addresses: name \
             a configuration that has some with `-c FILE`",
        );
    }
    output::error_line(&format!(
        "checking for up to {} with a key that is thrown away ...",
        text::duration(wait)
    ));
    let (net, events) = start(options).await?;
    let draining = tokio::spawn(drain::drain(events));
    let report = watch(&net, wait).await;
    net.shutdown().await;
    draining.abort();
    report.ok_or_else(|| Failure::failed("the network side ended by itself"))
}

/// On the ports of the configuration, whose forwarding and firewall are what is checked; on free
/// ones when a node has those.
async fn start(options: NetOptions) -> Result<(Net, NetEvents), Failure> {
    if check_ports(&options.listen).is_ok()
        && let Ok(started) = listen(options.clone()).await
    {
        return Ok(started);
    }
    output::error_line(
        "the ports of `listen` are taken, probably by a node that runs: checking on other ports",
    );
    let listen_on = default_listen(crate::config::node::has_ipv6());
    let options = NetOptions {
        listen: listen_on,
        ..options
    };
    listen(options).await.map_err(Failure::environment)
}

async fn listen(options: NetOptions) -> Result<(Net, NetEvents), derouter_net::StartError> {
    let config = NetConfig {
        options,
        ..NetConfig::new(Keypair::generate_ed25519())
    };
    Box::pin(derouter_net::start(config, CancellationToken::new())).await
}

async fn watch(net: &Net, wait: Duration) -> Option<NetworkReport> {
    let deadline = Instant::now() + wait;
    loop {
        let report = net.network_report().await?;
        if is_settled(&report) || Instant::now() >= deadline {
            return Some(report);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

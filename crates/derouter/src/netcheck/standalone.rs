//! A network side for a while, where no node runs.

use std::time::Duration;

use derouter_net::{Keypair, Multiaddr, Net, NetConfig, NetEvents, NetOptions};
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
    let node = RunConfig::load(args.config.as_deref())?.node;
    let kept = derouter_node::kept_listen(&node.database_path).await;
    let options = NetOptions {
        mdns: false,
        relay_server: None,
        ..node.net
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
    let (net, events) = start(options, kept).await?;
    let draining = tokio::spawn(drain::drain(events));
    let report = watch(&net, wait).await;
    net.shutdown().await;
    draining.abort();
    report.ok_or_else(|| Failure::failed("the network side ended by itself"))
}

/// On the ports of the configuration, or that its node keeps, whose forwarding and firewall are what
/// is checked; on free ones when a node has those.
async fn start(options: NetOptions, kept: Vec<Multiaddr>) -> Result<(Net, NetEvents), Failure> {
    let free = check_ports(&options.listen).is_ok();
    let kept_are_free = check_ports(&kept).is_ok();
    if free
        && kept_are_free
        && let Ok(started) = listen(options.clone(), kept).await
    {
        return Ok(started);
    }
    output::error_line(
        "the node's ports are taken, probably as it runs: checking on other ports, without \
         `external_addresses`, so what a router forwards to the node is not checked (`derouter \
         netcheck` asks the node that runs)",
    );
    let listen_on = match free && !kept_are_free {
        // Port 0 of the configuration takes a free one.
        true => options.listen,
        false => default_listen(crate::config::node::has_ipv6()),
    };
    let options = NetOptions {
        listen: listen_on,
        external_addresses: Vec::new(),
        ..options
    };
    listen(options, Vec::new())
        .await
        .map_err(Failure::environment)
}

async fn listen(
    options: NetOptions,
    kept_listen: Vec<Multiaddr>,
) -> Result<(Net, NetEvents), derouter_net::StartError> {
    let config = NetConfig {
        options,
        kept_listen,
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

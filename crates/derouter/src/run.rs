//! `derouter run`: a node with the modules that its configuration has.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use derouter_node::rpc::BindError;
use derouter_node::{Multiaddr, NodeConfig, Pulse, RunningNode, StartError};
use derouter_web::RunningWeb;
use tokio_util::sync::CancellationToken;

use crate::cli::RunArgs;
use crate::config::node::RunConfig;
use crate::daemon::claim::Claim;
use crate::failure::Failure;
use crate::modules::RunningModules;
use crate::output::Output;
use crate::ready::Ready;
use crate::settings::effective::Over;
use crate::supervisor::{self, Supervised, Watching};
use crate::web::{self, WebPlan};
use crate::{daemon, ending, logging, settings, signals};

/// Runs until a signal asks it to end.
pub(crate) async fn run(args: RunArgs, output: Output) -> Result<(), Failure> {
    if args.background.detached {
        daemon::up::detach()?;
    }
    let config = args.load()?;
    let plan = web_plan(&config, args.over()?);
    let format = args.output.log_format.unwrap_or(config.log);
    let file = args.background.log_file(&config.data_dir);
    logging::start_to(file.as_deref(), format, logging::NODE, output)?;
    say_what_is_used(&config);
    let (asked, drain) = (signals::listen_twice()?, config.drain);
    supervisor::status("starting");
    let claim = Claim::take(&args, &config);
    let running = tokio::select! {
        running = Box::pin(Running::start(config, plan)) => running,
        () = asked.stop.cancelled() => {
            claim.end();
            return Ok(());
        }
    };
    let running = match running {
        Ok(running) => running,
        Err(failure) => {
            // In the log too, where whoever looks for a reason looks.
            if file.is_some() {
                tracing::error!(%failure, "can't start");
            }
            claim.end();
            return Err(failure);
        }
    };
    let ready = running.ready().await;
    ready.log();
    if args.output.ready_json {
        ready.print();
    }
    claim.serving(&ready);
    supervisor::ready("serving");
    let watching = supervisor::watch(running.life(asked.stop.clone()));
    asked.stop.cancelled().await;
    claim.stopping(drain);
    let database = running.node.database();
    tokio::select! {
        () = Box::pin(running.end(drain, watching, &claim)) => {}
        () = asked.abort.cancelled() => {
            database.close().await;
            claim.end();
            return Err(Failure::aborted());
        }
    }
    claim.end();
    tracing::info!("stopped");
    Ok(())
}

fn say_what_is_used(config: &RunConfig) {
    match &config.file {
        Some(path) => tracing::info!(path = %path.display(), "configuration read"),
        None => tracing::info!(
            data_dir = %config.data_dir.display(),
            "no configuration given (-c FILE): a node with the defaults, and no OpenAI module"
        ),
    }
    for key in &config.openai.ignored {
        tracing::info!(
            key,
            "has no use in a section of the node's own file, and is ignored"
        );
    }
    if config.node.net.bootstrap.is_empty() {
        let mdns = config.node.net.mdns;
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
    web: Option<RunningWeb>,
}

impl Running {
    /// Starts all or nothing.
    async fn start(config: RunConfig, plan: Option<WebPlan>) -> Result<Self, Failure> {
        let node = start_node(config.node).await?;
        let modules = match RunningModules::start(&node.handle(), config.openai).await {
            Ok(modules) => modules,
            Err(failure) => {
                node.shutdown().await;
                return Err(failure);
            }
        };
        let web = match plan {
            Some(plan) => web::start(node.handle(), &modules, plan).await.map(Some),
            None => Ok(None),
        };
        match web {
            Ok(web) => Ok(Self { node, modules, web }),
            Err(failure) => {
                modules.shutdown().await;
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
            .dashboard(self.web.as_ref().map(RunningWeb::url))
    }

    fn life(&self, stop: CancellationToken) -> NodeLife {
        NodeLife {
            pulse: self.node.pulse(),
            stop,
        }
    }

    async fn end(mut self, drain: Duration, watching: Watching, claim: &Claim) {
        ending::drain(&self.node, &mut self.modules, drain, claim).await;
        // What closes gives no sign of life; the service manager waits for the end now.
        drop(watching);
        if let Some(web) = self.web.take() {
            web.shutdown().await;
        }
        ending::close(self.node, self.modules).await;
    }
}

/// What the dashboard needs, unless it is switched off.
fn web_plan(config: &RunConfig, over: Over) -> Option<WebPlan> {
    let options = config.web.clone()?;
    Some(WebPlan {
        options,
        settings: settings::effective::settings(config, over),
        file: config.file.clone(),
        data_dir: config.data_dir.clone(),
        database: config.node.database_path.clone(),
        backends: web::servers(&config.openai),
    })
}

/// What tells whether the node lives.
struct NodeLife {
    pulse: Pulse,
    stop: CancellationToken,
}

impl Supervised for NodeLife {
    async fn pulse(&self, limit: Duration) -> Result<(), String> {
        let felt = self.pulse.feel(limit).await;
        felt.map_err(|silent| silent.to_string())
    }

    async fn status(&self) -> String {
        let jobs = self.pulse.left().jobs;
        if self.stop.is_cancelled() {
            return format!("stopping: {jobs} jobs run");
        }
        let peers = self.pulse.peers().await;
        format!("serving: {peers} peers, {jobs} jobs run")
    }
}

/// Starts a node. Every reason why it does not start is one that the user can mend.
pub(crate) async fn start_node(config: NodeConfig) -> Result<RunningNode, Failure> {
    check_ports(&config.net.listen)?;
    Box::pin(derouter_node::start(config))
        .await
        .map_err(|error| {
            let remedy = match error {
                StartError::Rpc(BindError::Port { .. }) => {
                    ". Stop the program that uses it (another node?), or set another `server.port`"
                }
                StartError::Net(_) => ". Check `listen` in the configuration",
                _ => "",
            };
            Failure::environment(format_args!("{error}{remedy}"))
        })
}

/// Looks whether the TCP ports to listen on are free. libp2p sets SO_REUSEPORT, with which two
/// nodes can have the same port, and each gets connections that are meant for the other.
pub(crate) fn check_ports(listen: &[Multiaddr]) -> Result<(), Failure> {
    for address in listen {
        let bound = match socket_address(address) {
            Some(("tcp", socket)) => TcpListener::bind(socket).map(drop),
            Some((_, socket)) => UdpSocket::bind(socket).map(drop),
            None => continue,
        };
        match bound {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(Failure::environment(format_args!(
                    "can't listen on {address}: the port is in use. Stop the program that uses it \
                     (another node?), or set another port in `listen`"
                )));
            }
            // Other errors are told by the node itself, which knows more about addresses.
            _ => {}
        }
    }
    Ok(())
}

/// The transport and socket address of `/ip4/../tcp/..` or `/ip4/../udp/..` with a port that is given.
fn socket_address(address: &Multiaddr) -> Option<(&'static str, SocketAddr)> {
    let text = address.to_string();
    // The port of a relay is one of another program.
    if text.contains("/p2p-circuit") {
        return None;
    }
    let mut parts = text.split('/').skip(1);
    let (kind, ip, transport) = (parts.next()?, parts.next()?, parts.next()?);
    let port: u16 = parts.next()?.parse().ok()?;
    let transport = ["tcp", "udp"]
        .into_iter()
        .find(|known| *known == transport)?;
    if !matches!(kind, "ip4" | "ip6") || port == 0 {
        return None;
    }
    Some((transport, SocketAddr::new(ip.parse().ok()?, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_with_a_port_are_looked_at() {
        let socket = |text: &str| socket_address(&text.parse().unwrap());
        let at = |transport, text: &str| Some((transport, text.parse().unwrap()));
        assert_eq!(
            socket("/ip4/127.0.0.1/tcp/4001"),
            at("tcp", "127.0.0.1:4001")
        );
        assert_eq!(socket("/ip6/::1/tcp/4001"), at("tcp", "[::1]:4001"));
        assert_eq!(
            socket("/ip4/0.0.0.0/udp/4001/quic-v1"),
            at("udp", "0.0.0.0:4001")
        );
        for other in [
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/0.0.0.0/udp/0/quic-v1",
            "/dns4/a/tcp/1",
            "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit",
        ] {
            assert_eq!(socket(other), None, "{other}");
        }
    }

    #[test]
    fn a_port_that_another_node_has_is_refused() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let failure = check_ports(std::slice::from_ref(&address)).unwrap_err();
        assert!(format!("{failure:?}").contains(&address.to_string()));
        drop(other);
        check_ports(&[address]).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
            .parse()
            .unwrap();
        check_ports(std::slice::from_ref(&address)).unwrap_err();
        drop(other);
        check_ports(&[address]).unwrap();
    }
}

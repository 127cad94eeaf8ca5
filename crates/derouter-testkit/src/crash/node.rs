//! One node of a run: its home, and its process while it has one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use derouter_sdk::{TcpNode, TcpOptions};
use serde_json::json;
use tokio::process::Command;
use tokio::time::sleep;

use super::points::Side;
use crate::home::{NodeConfig, NodeHome};
use crate::process::{NodeProcess, Process};

/// How often it is looked whether a node has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Ports for nodes that must come back where they were: below those that the system gives to whoever
/// asks for any.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports that a process of runs takes before it begins anew; others have other ones.
const PORTS_EACH: u32 = 500;

static PORTS_TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port that nobody has, and that nobody is given by chance while its node is down.
pub fn own_port() -> u16 {
    let first = std::process::id().wrapping_mul(PORTS_EACH);
    let many = u32::from(PORTS.end - PORTS.start);
    loop {
        let next = PORTS_TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(first.wrapping_add(next) % many).unwrap_or_default();
        let port = PORTS.start + port;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How a node's command is wrapped, for example to run in a network namespace or with another clock.
pub type Wrap = Box<dyn Fn(Command) -> Command + Send + Sync>;

/// A node that ends and comes back.
pub struct CrashNode {
    /// Which one.
    pub side: Side,
    /// Its files.
    pub home: NodeHome,
    binary: PathBuf,
    config: NodeConfig,
    rpc: u16,
    points: String,
    started: bool,
    process: Option<NodeProcess>,
    wrap: Option<Wrap>,
    address: Option<String>,
    /// What its processes said that have ended.
    log: String,
}

impl std::fmt::Debug for CrashNode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut told = formatter.debug_struct("CrashNode");
        told.field("side", &self.side).finish_non_exhaustive()
    }
}

impl CrashNode {
    /// A home for a node of `binary`, on ports that stay the same over its lives.
    pub fn new(side: Side, binary: &Path, config: NodeConfig) -> Self {
        let rpc = own_port();
        let config = config.with("server", json!({"port": rpc}));
        let home = NodeHome::new(side.name(), &config);
        Self {
            side,
            home,
            binary: binary.to_owned(),
            config,
            rpc,
            points: String::new(),
            started: false,
            process: None,
            wrap: None,
            address: None,
            log: String::new(),
        }
    }

    /// Wraps its command from now on.
    pub fn wrap(&mut self, wrap: Wrap) {
        self.wrap = Some(wrap);
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        let named = self.config.0.get("data_dir").and_then(|dir| dir.as_str());
        named.map_or(self.home.data_dir(), PathBuf::from)
    }

    /// Tells it of another node, if it knows of none.
    pub fn bootstrap(&mut self, address: &str) {
        let known = self.config.0["bootstrap"].as_array();
        if known.is_none_or(Vec::is_empty) {
            self.config = self.config.clone().bootstrap(address);
            self.home.configure(&self.config);
        }
    }

    /// Sets points for the next start.
    pub fn arm(&mut self, points: &str) {
        points.clone_into(&mut self.points);
    }

    /// Whether it was ever started.
    pub fn was_started(&self) -> bool {
        self.started
    }

    /// Whether it has a process that has not ended.
    pub fn lives(&mut self) -> bool {
        self.process.as_mut().is_some_and(|node| !node.has_ended())
    }

    /// Where others reach it, when that is not on 127.0.0.1: a multiaddr without its peer id.
    pub fn reached_at(&mut self, address: &str) {
        self.address = Some(address.to_owned());
    }

    /// Where others reach it, now that it runs.
    pub fn bootstrap_address(&self) -> String {
        let ready = &self.process().ready;
        match &self.address {
            Some(address) => format!("{address}/p2p/{}", ready.peer_id),
            None => ready.bootstrap(),
        }
    }

    /// The port of its RPC.
    pub fn rpc_port(&self) -> u16 {
        self.rpc
    }

    /// Starts it. False when it ended before it served.
    pub async fn start(&mut self) -> bool {
        self.started = true;
        let mut command = self.home.command(&self.binary);
        let points = std::mem::take(&mut self.points);
        if !points.is_empty() {
            command.env("FAILPOINTS", points);
        }
        if let Some(wrap) = &self.wrap {
            command = wrap(command);
        }
        let process = Process::spawn(self.side.name(), command);
        match NodeProcess::or_ended(process).await {
            Ok(node) => {
                self.process = Some(node);
                true
            }
            Err(process) => {
                self.keep(&process.output());
                false
            }
        }
    }

    /// Its process.
    pub fn process(&self) -> &NodeProcess {
        self.process.as_ref().expect("the node was started")
    }

    /// Its RPC: the same over its lives.
    pub fn rpc(&self) -> TcpNode {
        TcpNode::connect(format!("127.0.0.1:{}", self.rpc), TcpOptions::default())
    }

    /// Waits until it ends by itself; false when it does not within `longest`.
    pub async fn ends_within(&mut self, longest: Duration) -> bool {
        let ended = async {
            while self.process.as_mut().is_some_and(|node| !node.has_ended()) {
                sleep(LOOK).await;
            }
        };
        tokio::time::timeout(longest, ended).await.is_ok()
    }

    /// Kills it, if it lives.
    pub async fn kill(&mut self) {
        let Some(node) = self.process.take() else {
            return;
        };
        self.keep(&node.process().output());
        node.kill().await;
    }

    fn keep(&mut self, output: &str) {
        self.log.push_str(output);
        self.log.push_str("\n---- its process ended\n");
    }

    /// All that it said.
    pub fn log(&self) -> String {
        let now = self.process.as_ref().map(|node| node.process().output());
        format!("{}{}", self.log, now.unwrap_or_default())
    }
}

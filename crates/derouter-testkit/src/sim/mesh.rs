//! Many real nodes in a random mesh: how fast a change is seen by all, and what it costs.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use derouter_net::{Keypair, Net, NetConfig, NetEvents, start};
use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::options::{Options, Wire};
use super::providers::offer_list;
use super::usage::{Rates, Sample, memory_mib, percentile};
use crate::wait::eventually;

/// Earlier nodes that each node dials.
const DIALLED: usize = 4;
/// What nodes saw and nobody has looked at yet; they wait.
const SEEN: usize = 65_536;
/// Given up for a change that does not come.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Clone, Debug)]
pub struct MeshFigures {
    /// How long nodes took to see a change, all nodes and changes together.
    pub seen: [Duration; 3],
    /// Nodes that did not see a change in time.
    pub missed: usize,
    /// Of one node, while nothing changes.
    pub idle: Rates,
    /// Of one node, while one offer changes each second somewhere.
    pub changing: Rates,
    /// Resident memory for each node, in MiB.
    pub memory: f64,
}

/// A node saw a list of this name.
struct Seen {
    node: usize,
    name: String,
    at: Instant,
}

fn watch(node: usize, mut events: NetEvents, seen: mpsc::Sender<Seen>) {
    tokio::spawn(async move {
        loop {
            let list = tokio::select! {
                Some(heartbeat) = events.heartbeats.recv() => heartbeat.heartbeat.provider,
                Some(news) = events.offers.recv() => {
                    news.list.and_then(|list| list.decode().ok())
                }
                Some(_) = events.peers.recv() => None,
                else => return,
            };
            let Some(name) = list.and_then(|list| list.name) else {
                continue;
            };
            let at = Instant::now();
            if seen.send(Seen { node, name, at }).await.is_err() {
                return;
            }
        }
    });
}

struct Mesh {
    nodes: Vec<Net>,
    seen: mpsc::Receiver<Seen>,
    cancel: CancellationToken,
}

async fn build(options: &Options, wire: Wire) -> Mesh {
    let (sender, seen) = mpsc::channel(SEEN);
    let cancel = CancellationToken::new();
    let mut nodes: Vec<Net> = Vec::new();
    let mut addresses = Vec::new();
    for number in 0..options.nodes {
        let known = addresses.iter().cloned();
        let bootstrap = known.choose_multiple(&mut rand::rng(), DIALLED);
        let mut config = NetConfig::new(Keypair::generate_ed25519());
        config.options = wire.net_options(bootstrap);
        let (net, events) = start(config, cancel.clone()).await.expect("a node starts");
        watch(number, events, sender.clone());
        let address = net.listen_addresses().await.remove(0);
        addresses.push(address.with_p2p(net.local_peer_id()).expect("no id yet"));
        nodes.push(net);
    }
    for net in &nodes {
        eventually("every node is connected", async || {
            (!net.peers().await.is_empty()).then_some(())
        })
        .await;
    }
    Mesh {
        nodes,
        seen,
        cancel,
    }
}

impl Mesh {
    async fn announce(&self, provider: usize, change: usize) -> String {
        let name = format!("mesh {provider}.{change}");
        let list = offer_list(name.clone(), 5, 1_000_000 + change as u64);
        self.nodes[provider].announce(Some(list)).await;
        name
    }

    /// Waits until all nodes but the provider saw it. Gives their times, and how many did not.
    async fn wait(&mut self, provider: usize, name: &str) -> (Vec<Duration>, usize) {
        let begin = Instant::now();
        let mut times = Vec::new();
        let mut waiting: HashSet<usize> = (0..self.nodes.len()).collect();
        waiting.remove(&provider);
        while !waiting.is_empty() {
            let next = tokio::time::timeout(CHANGE_DEADLINE, self.seen.recv()).await;
            let Ok(Some(seen)) = next else { break };
            if seen.name == name && waiting.remove(&seen.node) {
                times.push(seen.at.saturating_duration_since(begin));
            }
            if begin.elapsed() > CHANGE_DEADLINE {
                break;
            }
        }
        (times, waiting.len())
    }

    async fn sample(&self) -> Sample {
        let (mut bytes_in, mut bytes_out) = (0, 0);
        for net in &self.nodes {
            let report = net.network_report().await.expect("the node runs");
            bytes_in += report.bytes_in;
            bytes_out += report.bytes_out;
        }
        Sample::new(bytes_in, bytes_out, std::process::id())
    }

    fn of_one(&self, rates: Rates) -> Rates {
        let nodes = self.nodes.len() as f64;
        Rates {
            bytes_in: rates.bytes_in / nodes,
            bytes_out: rates.bytes_out / nodes,
            processor: rates.processor / nodes,
        }
    }
}

/// Builds the mesh and measures it.
pub async fn run(options: &Options, wire: Wire) -> MeshFigures {
    let before = memory_mib(std::process::id());
    let mut mesh = build(options, wire).await;
    let providers = options.real_providers.min(options.nodes);
    eprintln!("{}: {} nodes run", wire.name(), options.nodes);
    for provider in 0..providers {
        mesh.announce(provider, 0).await;
    }
    // The last of them reaches everyone: the mesh is formed.
    let name = mesh.announce(providers - 1, 1).await;
    mesh.wait(providers - 1, &name).await;

    let mut times = Vec::new();
    let mut missed = 0;
    for change in 0..options.changes {
        let provider = change % providers;
        // Not in step with anybody's timers.
        let pause = rand::rng().random_range(1000..2000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let name = mesh.announce(provider, 10 + change).await;
        let (seen, without) = mesh.wait(provider, &name).await;
        times.extend(seen);
        missed += without;
    }
    let window = Duration::from_secs(options.window);
    let first = mesh.sample().await;
    tokio::time::sleep(window).await;
    let idle = first.to(&mesh.sample().await);

    let first = mesh.sample().await;
    let begin = Instant::now();
    let mut change = 1000;
    while begin.elapsed() < window / 2 {
        mesh.announce(change % providers, change).await;
        while mesh.seen.try_recv().is_ok() {}
        change += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let changing = first.to(&mesh.sample().await);
    let memory = (memory_mib(std::process::id()) - before) / options.nodes as f64;
    mesh.cancel.cancel();
    MeshFigures {
        seen: [50, 99, 100].map(|percent| percentile(&mut times, percent)),
        missed,
        idle: mesh.of_one(idle),
        changing: mesh.of_one(changing),
        memory,
    }
}

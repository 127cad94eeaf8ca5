//! Relays on the internet, a provider and a consumer somewhere behind it.

use std::time::{Duration, Instant};

use derouter_sdk::wire::rpc::network::{NetworkReport, PathKind, PeerReport};
use derouter_sdk::{Node, PeerId, PeerQuery, TcpNode};
use derouter_testkit::http::{self, Answer};
use derouter_testkit::lab::{Lab, Namespace, Nat, Site};
use derouter_testkit::{Backend, NodeConfig, NodeHome, NodeProcess, Process, ledger};
use serde_json::{Value, json};

use super::relay::Relay;
use crate::DEROUTER;

/// What the provider sells.
pub(crate) const MODEL: &str = "test-model";

/// How often to look for what must come. Each look is a request to a node, or a chat.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A running node of a site.
pub(crate) struct Member {
    /// Its process; `None` while it is stopped.
    pub(crate) node: Option<NodeProcess>,
    /// Its directory.
    pub(crate) home: NodeHome,
    /// Where it is. The last to go.
    pub(crate) site: Site,
    _backend: Option<Backend>,
}

/// Looks until there is something or the deadline has passed.
pub(crate) async fn within<T>(
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if begin.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Listens where a node of a home does: on every address of both families, TCP and QUIC.
fn listen() -> Value {
    json!([
        "/ip4/0.0.0.0/tcp/0",
        "/ip4/0.0.0.0/udp/0/quic-v1",
        "/ip6/::/tcp/0",
        "/ip6/::/udp/0/quic-v1",
    ])
}

async fn start(home: &NodeHome, host: &Namespace, name: &str) -> NodeProcess {
    let mut command = host.command(DEROUTER);
    home.arguments(&mut command);
    NodeProcess::of_process(Process::spawn(name, command)).await
}

impl Member {
    async fn new(site: Site, config: NodeConfig, backend: Option<Backend>) -> Self {
        let home = NodeHome::new(site.name(), &config);
        let mut member = Self {
            node: None,
            home,
            site,
            _backend: backend,
        };
        member.start().await;
        member
    }

    /// Starts the node, again if it was stopped.
    pub(crate) async fn start(&mut self) {
        let name = format!("{} ({})", self.site.name(), self.site.nat());
        self.node = Some(start(&self.home, &self.site.host, &name).await);
    }

    /// Kills the node.
    pub(crate) async fn kill(&mut self) {
        if let Some(node) = self.node.take() {
            node.kill().await;
        }
    }

    /// The running node.
    pub(crate) fn running(&self) -> &NodeProcess {
        self.node.as_ref().expect("the node was started")
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.running().process()
    }

    /// Its peer id.
    pub(crate) fn peer(&self) -> PeerId {
        self.running().ready.peer_id.parse().expect("a peer id")
    }

    /// Its RPC.
    async fn rpc(&self) -> TcpNode {
        let ready = self.running().ready.clone();
        self.site
            .host
            .run(async move { ledger::node(&ready) })
            .await
    }

    /// The network as it sees it.
    pub(crate) async fn network(&self) -> Option<NetworkReport> {
        let rpc = self.rpc().await;
        self.site
            .host
            .run(async move { rpc.network().await.ok() })
            .await
    }

    /// What it tells of another node.
    pub(crate) async fn peer_report(&self, peer: PeerId) -> Option<PeerReport> {
        let rpc = self.rpc().await;
        let query = PeerQuery {
            peer: Some(peer),
            limit: 1,
            ..PeerQuery::default()
        };
        let peers = self
            .site
            .host
            .run(async move { rpc.peers(&query).await })
            .await;
        peers.ok()?.into_iter().find(|report| report.peer == peer)
    }

    /// How it reaches another node: the connection that new streams take.
    pub(crate) async fn path(&self, peer: PeerId) -> Option<PathKind> {
        let report = self.peer_report(peer).await?;
        report.paths.first().map(|path| path.kind)
    }

    /// One chat with the consumer's endpoint, from the consumer's own host.
    pub(crate) async fn chat(&self, chunks: u32) -> Result<Answer, String> {
        let url = format!("{}/chat/completions", self.running().ready.openai_url());
        let body = chat_body(chunks, 0);
        let answer = self
            .site
            .host
            .run(async move { http::post_json(&url, &body).await })
            .await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok(answer),
            status => Err(format!("{status}: {}", answer.text())),
        }
    }
}

/// A streamed chat of `chunks` words, one every `pace_ms`.
pub(crate) fn chat_body(chunks: u32, pace_ms: u64) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "How are you connected?"}],
        "stream": true,
        "derouter_test": {"chunks": chunks, "pace_ms": pace_ms},
    })
}

/// An internet with relays.
pub(crate) struct World {
    /// The relays, each in a network of its own. They are everyone's bootstrap nodes, and never
    /// know the provider or the consumer before.
    pub(crate) relays: Vec<Relay>,
    /// Before it go the sites that are attached to it.
    pub(crate) lab: Lab,
}

impl World {
    /// Starts so many relays.
    pub(crate) async fn new(relays: usize) -> Self {
        let mut lab = Lab::new();
        let sites = (1..=relays).map(|number| lab.site(&format!("relay{number}"), Nat::Public));
        let starts = sites.collect::<Vec<_>>().into_iter().map(Relay::new);
        let relays = futures::future::join_all(starts).await;
        Self { relays, lab }
    }

    /// The addresses of the relays.
    pub(crate) fn bootstrap(&self) -> Vec<String> {
        let addresses = self.relays.iter().flat_map(Relay::addresses);
        addresses.collect()
    }

    fn config(&self, nat: Nat) -> NodeConfig {
        let config = NodeConfig::default()
            .with("listen", listen())
            .with("bootstrap", self.bootstrap());
        if nat.maps_ports() {
            return config.with("port_mapping", true);
        }
        config
    }

    /// A provider behind a NAT, with a backend on its own host.
    pub(crate) async fn provider(&mut self, nat: Nat) -> Member {
        let site = self.lab.site("provider", nat);
        let backend = site.host.run(Backend::start()).await;
        let config = self.config(nat).provides(&backend.url(), &[MODEL]);
        Member::new(site, config, Some(backend)).await
    }

    /// A consumer behind a NAT.
    pub(crate) async fn consumer(&mut self, nat: Nat) -> Member {
        let site = self.lab.site("consumer", nat);
        Member::new(site, self.config(nat).consumes(), None).await
    }

    /// A provider and a consumer.
    pub(crate) async fn pair(&mut self, provider: Nat, consumer: Nat) -> (Member, Member) {
        let provider = self.provider(provider).await;
        let consumer = self.consumer(consumer).await;
        (provider, consumer)
    }
}

//! What the demo brings up: a provider node, a consumer node, and their OpenAI modules, each node
//! with its own key, database and sockets in a directory that goes when the demo ends.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use derouter_node::{
    Multiaddr, NetOptions, NodeConfig, PayloadRetention, ProviderDetails, RpcOptions, RunningNode,
};
use derouter_openai::consumer::{ConsumerConfig, RunningConsumer};
use derouter_openai::provider::{
    BackendCheck, BackendConfig, BackendOptions, EchoBackend, OfferConfig, OfferTerms,
    ProviderConfig, RunningProvider,
};
use derouter_sdk::{Node, PeerId, Wei};
use tempfile::TempDir;

use super::backend::Backend;
use super::screen::Screen;
use crate::failure::Failure;
use crate::modules::{GRACE, start_consumer, start_provider};
use crate::ready::{Ready, openai_url};
use crate::run::start_node;

/// What the demo asks for 1,000,000 prompt tokens: 0.1 POL.
const INPUT_PRICE_WEI: u128 = 100_000_000_000_000_000;

/// What the demo asks for 1,000,000 tokens of an answer: 0.4 POL.
const OUTPUT_PRICE_WEI: u128 = 400_000_000_000_000_000;

/// The context window that the demo offers. What local servers usually have at least.
const CONTEXT_SIZE: u64 = 8_192;

/// How long the offer may take from one node to the other. It takes a second or two.
const OFFER_DEADLINE: Duration = Duration::from_secs(20);

/// How often to look whether the offer is there.
const OFFER_POLL: Duration = Duration::from_millis(100);

/// All that is up; filled as it comes up, so that what there is can be taken down at any moment.
#[derive(Default)]
pub(super) struct Stage {
    provider: Option<NodeHome>,
    consumer: Option<NodeHome>,
    selling: Option<RunningProvider>,
    buying: Option<RunningConsumer>,
    echo: Option<EchoBackend>,
}

/// A node and its directory.
struct NodeHome {
    node: RunningNode,
    directory: TempDir,
}

/// The two sides, to look at and talk to.
pub(super) struct Actors {
    pub(super) provider: Arc<dyn Node>,
    pub(super) consumer: Arc<dyn Node>,
    pub(super) provider_id: PeerId,
    pub(super) consumer_id: PeerId,
    ready: Ready,
    url: String,
}

impl Actors {
    /// The base URL of the OpenAI endpoint.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What is up.
    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }
}

impl Stage {
    /// Brings all up.
    pub(super) async fn raise(
        &mut self,
        backend: Backend,
        port: u16,
        screen: &Screen,
    ) -> Result<(), Failure> {
        let model = backend.model.clone();
        let config = provider_config(&backend);
        self.echo = backend.echo;

        let provider = NodeHome::start("provider", Vec::new()).await?;
        let bootstrap = provider.addresses().await;
        let (seller, node) = (provider.node.peer_id(), provider.node.handle());
        self.provider = Some(provider);
        self.selling = Some(start_provider(&node, config).await?);
        screen.item("provider", &format!("node {seller}"));
        let price = |wei| Wei::from_wei(wei).to_pol_text();
        let (input, output) = (price(INPUT_PRICE_WEI), price(OUTPUT_PRICE_WEI));
        screen.under(&format!(
            "sells {model} for {input} POL (prompt) and {output} POL (answer) per 1M tokens"
        ));

        let consumer = NodeHome::start("consumer", bootstrap).await?;
        let (buyer, node) = (consumer.node.peer_id(), consumer.node.handle());
        self.consumer = Some(consumer);
        let config = ConsumerConfig {
            port,
            ..ConsumerConfig::default()
        };
        let buying = start_consumer(&node, config).await?;
        let url = openai_url(buying.local_addr());
        self.buying = Some(buying);
        screen.item("consumer", &format!("node {buyer}"));
        screen.under(&format!(
            "buys, and serves {url} to the programs on this machine"
        ));
        Ok(())
    }

    /// The two sides, once all is up.
    pub(super) async fn actors(&self) -> Result<Actors, Failure> {
        let (Some(provider), Some(consumer), Some(buying)) =
            (&self.provider, &self.consumer, &self.buying)
        else {
            return Err(Failure::failed("the nodes are not up"));
        };
        let address = buying.local_addr();
        let ready = Ready::new(consumer.node.peer_id())
            .listen(&consumer.node.listen_addresses().await)
            .rpc(consumer.node.rpc_addr())
            .openai(Some(address));
        Ok(Actors {
            provider: provider.node.handle(),
            consumer: consumer.node.handle(),
            provider_id: provider.node.peer_id(),
            consumer_id: consumer.node.peer_id(),
            ready,
            url: openai_url(address),
        })
    }

    /// Where the nodes keep their files.
    #[cfg(test)]
    pub(super) fn directories(&self) -> Vec<std::path::PathBuf> {
        let homes = [&self.provider, &self.consumer].into_iter().flatten();
        homes
            .map(|home| home.directory.path().to_path_buf())
            .collect()
    }

    /// Takes down what there is, and removes the directories.
    pub(super) async fn shutdown(self) {
        if let Some(buying) = self.buying {
            buying.shutdown().await;
        }
        if let Some(selling) = self.selling {
            selling.shutdown(GRACE).await;
        }
        for home in [self.consumer, self.provider].into_iter().flatten() {
            home.node.shutdown().await;
            let path = home.directory.path().to_path_buf();
            if let Err(error) = home.directory.close() {
                tracing::warn!(path = %path.display(), %error, "can't remove the demo's files");
            }
        }
        drop(self.echo);
    }
}

impl NodeHome {
    async fn start(name: &str, bootstrap: Vec<Multiaddr>) -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("derouter-demo-{name}-"))
            .tempdir()
            .map_err(|error| {
                Failure::environment(format_args!(
                    "can't make a temporary directory in {}: {error}. Set TMPDIR to a directory \
                     that can be written",
                    std::env::temp_dir().display()
                ))
            })?;
        let node = start_node(node_config(name, directory.path(), bootstrap)).await?;
        Ok(Self { node, directory })
    }

    /// Where the node is dialled, with its peer id.
    async fn addresses(&self) -> Vec<Multiaddr> {
        let peer = self.node.peer_id();
        let addresses = self.node.listen_addresses().await.into_iter();
        addresses
            .filter_map(|address| format!("{address}/p2p/{peer}").parse().ok())
            .collect()
    }
}

fn node_config(name: &str, directory: &Path, bootstrap: Vec<Multiaddr>) -> NodeConfig {
    NodeConfig {
        keypair_path: directory.join("keypair.bin"),
        database_path: directory.join("derouter.sqlite"),
        legacy_database_path: None,
        net: NetOptions {
            // A constant.
            listen: "/ip4/127.0.0.1/tcp/0".parse().into_iter().collect(),
            bootstrap,
            ..NetOptions::default()
        },
        provider: ProviderDetails {
            name: Some(format!("demo {name}")),
            ..Default::default()
        },
        rpc: Some(RpcOptions::default()),
        store_payloads: false,
        retention: PayloadRetention::default(),
    }
}

fn provider_config(backend: &Backend) -> ProviderConfig {
    let offer = OfferConfig {
        model_id: backend.model.clone(),
        context_size: CONTEXT_SIZE,
        description: None,
        input_token_price: Wei::from_wei(INPUT_PRICE_WEI),
        output_token_price: Wei::from_wei(OUTPUT_PRICE_WEI),
        max_concurrency: None,
        backend_model: None,
        terms: OfferTerms::default(),
    };
    let config = BackendConfig {
        base_url: backend.base_url.clone(),
        api_key: backend.api_key.clone(),
        offers: BTreeMap::from([("demo".to_owned(), offer)]),
        // The user chose the model; the echo answers under any name.
        options: BackendOptions {
            check: BackendCheck::Alive,
            ..BackendOptions::default()
        },
    };
    ProviderConfig {
        backends: vec![config],
        max_unsigned: Some(Wei::from_wei(10_u128.pow(18))),
        ..ProviderConfig::default()
    }
}

/// Looks whether the endpoint's port is free, before anything is started.
pub(super) fn check_port(port: u16) -> Result<(), Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let other = if port == u16::MAX { port - 1 } else { port + 1 };
            Err(Failure::environment(format_args!(
                "{address} is in use, perhaps by another `derouter demo` or a consumer module \
                 (`ss -ltnp` names the program). Stop that one, or choose another port: \
                 derouter demo --port {other}"
            )))
        }
        Err(error) => Err(Failure::environment(format_args!(
            "can't listen on {address}: {error}. Choose another port with --port"
        ))),
    }
}

/// Waits until the offer has come from the provider to the consumer's endpoint.
pub(super) async fn wait_for_model(url: &str, model: &str) -> Result<(), Failure> {
    let client = super::chat::client()?;
    let look = async {
        while !super::backend::lists_model(&client, url, model).await {
            tokio::time::sleep(OFFER_POLL).await;
        }
    };
    tokio::time::timeout(OFFER_DEADLINE, look)
        .await
        .map_err(|_| {
            Failure::failed(format_args!(
                "the offer of {model} did not reach the consumer within {} s. Run it again with \
             RUST_LOG=info to see why",
                OFFER_DEADLINE.as_secs()
            ))
        })
}

//! A provider and a consumer that know each other.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::backend::Backend;
use crate::home::{NodeConfig, NodeHome, openai_consumer, openai_provider};
use crate::http;
use crate::ledger::Ledger;
use crate::process::{NodeProcess, Process};
use crate::wait::eventually;

/// Where the OpenAI modules run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// Inside the nodes.
    Inside,
    /// As `derouter openai provide` and `derouter openai consume`, over the RPC.
    AsProcesses,
}

/// Two nodes on 127.0.0.1, each a process: one sells what a backend answers, the other is an
/// OpenAI endpoint that buys it.
#[derive(Debug)]
pub struct Pair {
    /// The provider's node.
    pub provider: NodeProcess,
    /// The consumer's node.
    pub consumer: NodeProcess,
    /// The modules that are processes of their own: provider, consumer.
    pub modules: Vec<Process>,
    /// The provider's directory.
    pub provider_home: NodeHome,
    /// The consumer's directory.
    pub consumer_home: NodeHome,
    /// The provider's backend.
    pub backend: Backend,
    url: String,
    binary: PathBuf,
}

impl Pair {
    /// Starts a backend and both nodes with the modules inside, and waits until every model can
    /// be bought.
    pub async fn start(binary: impl AsRef<Path>, models: &[&str]) -> Self {
        Self::start_with(binary, models, Modules::Inside).await
    }

    /// Starts a backend, both nodes, and the modules where they are wanted, and waits until every
    /// model can be bought.
    pub async fn start_with(binary: impl AsRef<Path>, models: &[&str], modules: Modules) -> Self {
        let backend = Backend::start().await;
        let selling = NodeConfig::default().with("provider", json!({"name": "testkit"}));
        let buying = NodeConfig::default();
        let pair = match modules {
            Modules::Inside => {
                let selling = selling.provides(&backend.url(), models);
                Self::of_nodes(binary, backend, &selling, buying.consumes()).await
            }
            Modules::AsProcesses => {
                let mut pair = Self::of_nodes(binary, backend, &selling, buying).await;
                pair.start_modules(models).await;
                pair
            }
        };
        for model in models {
            wait_model(&pair.url, model).await;
        }
        pair
    }

    /// Starts both nodes as configured. The consumer gets the provider's address besides.
    pub async fn of_nodes(
        binary: impl AsRef<Path>,
        backend: Backend,
        selling: &NodeConfig,
        buying: NodeConfig,
    ) -> Self {
        let binary = binary.as_ref().to_owned();
        let provider_home = NodeHome::new("provider", selling);
        let provider = provider_home.start(&binary).await;
        let buying = buying.bootstrap(provider.ready.bootstrap());
        let consumer_home = NodeHome::new("consumer", &buying);
        let consumer = consumer_home.start(&binary).await;
        Self {
            url: consumer.ready.openai.clone().unwrap_or_default(),
            provider,
            consumer,
            modules: Vec::new(),
            provider_home,
            consumer_home,
            backend,
            binary,
        }
    }

    async fn start_modules(&mut self, models: &[&str]) {
        let mut selling = openai_provider(&self.backend.url(), models);
        selling["rpc"] = rpc_section(&self.provider);
        let home = &self.provider_home;
        let (provide, _) = start_module(&self.binary, home, "provide", &selling).await;
        let mut buying = openai_consumer();
        buying["rpc"] = rpc_section(&self.consumer);
        let home = &self.consumer_home;
        let (consume, ready) = start_module(&self.binary, home, "consume", &buying).await;
        self.url = ready
            .openai
            .expect("a consumer module says where its endpoint is");
        self.modules = vec![provide, consume];
    }

    /// The `derouter` binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The base URL of the consumer's OpenAI endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What both sides have of their jobs from now on.
    pub async fn ledger(&self) -> Ledger {
        Ledger::open(&self.provider.ready, &self.consumer.ready).await
    }
}

fn rpc_section(node: &NodeProcess) -> Value {
    let rpc = node.ready.rpc;
    json!({"host": rpc.ip().to_string(), "port": rpc.port()})
}

/// The line that `derouter openai ... --ready-json` prints once it serves.
#[derive(Clone, Debug, Deserialize)]
struct ModuleReady {
    event: String,
    #[serde(default)]
    openai: Option<String>,
}

async fn start_module(
    binary: &Path,
    home: &NodeHome,
    task: &str,
    config: &Value,
) -> (Process, ModuleReady) {
    let path = home.write(&format!("{task}.json"), &config.to_string());
    let mut command = Command::new(binary);
    command
        .args(["openai", task, "--ready-json", "-c"])
        .arg(path);
    home.environment(&mut command);
    let mut process = Process::spawn(task, command);
    let parse = |line: &str| {
        let ready = serde_json::from_str::<ModuleReady>(line).ok();
        ready.filter(|ready| ready.event == "ready")
    };
    let ready = process.wait_line("readiness", parse).await;
    (process, ready)
}

/// A port that was free a moment ago, for a node that must come back where it was.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    address.port()
}

/// The models that an OpenAI endpoint names; `None` when it does not answer.
pub async fn models(openai_url: &str) -> Option<Vec<String>> {
    let answer = http::get(&format!("{openai_url}/models")).await.ok()?;
    let list: Value = serde_json::from_slice(&answer.body).ok()?;
    let models = list["data"].as_array()?.iter();
    let names = models.filter_map(|model| model["id"].as_str().map(str::to_owned));
    Some(names.collect())
}

/// Waits until an OpenAI endpoint names a model.
pub async fn wait_model(openai_url: &str, model: &str) {
    let what = format!("model {model} at {openai_url}");
    eventually(&what, async || {
        let models = models(openai_url).await?;
        models.iter().any(|known| known == model).then_some(())
    })
    .await;
}

/// Waits until an OpenAI endpoint does not name a model any more.
pub async fn wait_no_model(openai_url: &str, model: &str) {
    let what = format!("model {model} gone at {openai_url}");
    eventually(&what, async || {
        let models = models(openai_url).await?;
        (!models.iter().any(|known| known == model)).then_some(())
    })
    .await;
}

//! A provider and a consumer that know each other.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::backend::Backend;
use crate::home::{NodeConfig, NodeHome};
use crate::process::NodeProcess;
use crate::wait::eventually;

/// Two nodes on 127.0.0.1, each a process: one sells what a backend answers, the other is an
/// OpenAI endpoint that buys it.
#[derive(Debug)]
pub struct Pair {
    /// The provider's node.
    pub provider: NodeProcess,
    /// The consumer's node.
    pub consumer: NodeProcess,
    /// The provider's directory.
    pub provider_home: NodeHome,
    /// The consumer's directory.
    pub consumer_home: NodeHome,
    /// The provider's backend.
    pub backend: Backend,
    binary: PathBuf,
}

impl Pair {
    /// Starts a backend and both nodes, and waits until every model can be bought.
    pub async fn start(binary: impl AsRef<Path>, models: &[&str]) -> Self {
        let backend = Backend::start().await;
        let selling = NodeConfig::default().provides(&backend.url(), models);
        let buying = NodeConfig::default().consumes();
        let pair = Self::start_with(binary, backend, &selling, buying).await;
        for model in models {
            wait_model(pair.consumer.ready.openai_url(), model).await;
        }
        pair
    }

    /// Starts both nodes as configured. The consumer gets the provider's address besides.
    pub async fn start_with(
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
            provider,
            consumer,
            provider_home,
            consumer_home,
            backend,
            binary,
        }
    }

    /// The `derouter` binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The base URL of the consumer's OpenAI endpoint.
    pub fn url(&self) -> &str {
        self.consumer.ready.openai_url()
    }
}

/// The models that an OpenAI endpoint names; `None` when it does not answer.
pub async fn models(openai_url: &str) -> Option<Vec<String>> {
    let response = reqwest::get(format!("{openai_url}/models")).await.ok()?;
    let list: Value = serde_json::from_slice(&response.bytes().await.ok()?).ok()?;
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

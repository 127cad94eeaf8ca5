//! The OpenAI modules, on a node in this process or elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use derouter_openai::consumer::{self, ConsumerConfig, RunningConsumer};
use derouter_openai::provider::{self, ProviderConfig, RunningProvider};
use derouter_sdk::{ModuleDetails, ModulePlace, ModuleRegistration, ModuleReporter, Node};

use crate::config::openai::OpenAiModules;
use crate::failure::Failure;
use crate::gateway::{GATEWAY_SCHEMA, dialled};
use crate::output::with_schema;
use crate::provide::PROVIDER_SCHEMA;
use crate::ready::openai_url;

/// How long running answers may go on when the modules stop: long enough for a short one, short
/// enough for whoever pressed Ctrl-C.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Modules that run until they are shut down.
#[derive(Debug, Default)]
pub(crate) struct RunningModules {
    consumer: Option<RunningConsumer>,
    providers: Vec<RunningProvider>,
    registrations: Vec<ModuleRegistration>,
}

impl RunningModules {
    /// Starts them all, or none: what was started before an error is stopped.
    pub(crate) async fn start(
        node: &Arc<dyn Node>,
        config: OpenAiModules,
    ) -> Result<Self, Failure> {
        let mut running = Self::default();
        match running.start_each(node, config).await {
            Ok(()) => Ok(running),
            Err(failure) => {
                running.shutdown().await;
                Err(failure)
            }
        }
    }

    async fn start_each(
        &mut self,
        node: &Arc<dyn Node>,
        config: OpenAiModules,
    ) -> Result<(), Failure> {
        // The endpoint first: its port may be in use, and nothing is announced before that shows.
        if let Some(config) = config.consumer {
            let consumer = start_consumer(node, config).await?;
            let state = GatewayState::new(&consumer);
            self.register(node, "openai gateway", "consume", Arc::new(state));
            self.consumer = Some(consumer);
        }
        for config in config.providers {
            let provider = start_provider(node, config).await?;
            let state = ProviderState(provider.viewer());
            self.register(node, "openai provider", "provide", Arc::new(state));
            self.providers.push(provider);
        }
        Ok(())
    }

    /// Lets a module be among those that the node tells of.
    fn register(
        &mut self,
        node: &Arc<dyn Node>,
        name: &str,
        capability: &str,
        reporter: Arc<dyn ModuleReporter>,
    ) {
        let details = ModuleDetails {
            name: name.to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            place: ModulePlace::Node,
            from: None,
            capabilities: vec![capability.to_owned()],
        };
        match node.register_module(details, reporter) {
            Ok(registration) => self.registrations.push(registration),
            Err(error) => tracing::debug!(%error, name, "a module is not told of"),
        }
    }

    /// Looks at the endpoint, if there is one.
    pub(crate) fn gateway(&self) -> Option<consumer::view::Viewer> {
        self.consumer.as_ref().map(RunningConsumer::viewer)
    }

    /// Looks at the providers.
    pub(crate) fn providers(&self) -> Vec<provider::view::Viewer> {
        self.providers.iter().map(RunningProvider::viewer).collect()
    }

    /// Where the OpenAI endpoint listens, if there is one.
    pub(crate) fn openai(&self) -> Option<SocketAddr> {
        self.consumer.as_ref().map(|consumer| consumer.local_addr())
    }

    /// Closes the endpoint once running answers have ended, within `grace`.
    pub(crate) async fn finish_consumer(&mut self, grace: Duration) {
        if let Some(consumer) = self.consumer.take() {
            consumer.shutdown_within(grace).await;
        }
    }

    /// Takes the offers back, closes the endpoint, and lets running answers end within a limit.
    pub(crate) async fn shutdown(self) {
        let providers = self
            .providers
            .into_iter()
            .map(|provider| provider.shutdown(GRACE));
        let consumer = async {
            if let Some(consumer) = self.consumer {
                consumer.shutdown().await;
            }
        };
        futures::join!(futures::future::join_all(providers), consumer);
    }
}

/// What the gateway tells of itself.
struct GatewayState {
    base_url: String,
    viewer: consumer::view::Viewer,
}

impl GatewayState {
    fn new(consumer: &RunningConsumer) -> Self {
        let address = consumer.local_addr();
        let dialled = SocketAddr::new(dialled(address.ip()), address.port());
        Self {
            base_url: format!("http://{dialled}"),
            viewer: consumer.viewer(),
        }
    }
}

impl ModuleReporter for GatewayState {
    fn state(&self) -> Option<String> {
        let told = serde_json::json!({
            "base_url": self.base_url,
            "spending": self.viewer.spending(),
            "active": self.viewer.active(),
            "problem": self.viewer.problem(),
        });
        let told = with_schema(GATEWAY_SCHEMA, &told).ok()?;
        Some(told.to_string())
    }
}

/// What a provider tells of itself.
struct ProviderState(provider::view::Viewer);

impl ModuleReporter for ProviderState {
    fn state(&self) -> Option<String> {
        let told = with_schema(PROVIDER_SCHEMA, &self.0.view()).ok()?;
        Some(told.to_string())
    }
}

/// Starts the endpoint.
pub(crate) async fn start_consumer(
    node: &Arc<dyn Node>,
    config: ConsumerConfig,
) -> Result<RunningConsumer, Failure> {
    let limits = config.limits;
    if !config.host.is_loopback() {
        tracing::warn!(
            host = %config.host,
            "the OpenAI endpoint is open to other machines: whoever has a key spends your money, and \
             what is sent is not encrypted"
        );
    }
    let started = consumer::start(Arc::clone(node), config).await;
    let running = started.map_err(|error| match error {
        consumer::StartError::Bind { .. } => Failure::environment(format_args!(
            "{error} (`server.host` and `server.port` in the consumer's configuration)"
        )),
        consumer::StartError::Tokenizer(error) => Failure::environment(format_args!(
            "{error} (`tokenizers` in the consumer's configuration)"
        )),
        error => Failure::environment(error),
    })?;
    let text = |limit: Option<derouter_sdk::Wei>| {
        limit.map_or_else(
            || "none".to_owned(),
            |limit| format!("{} POL", limit.to_pol_text()),
        )
    };
    tracing::info!(
        url = openai_url(running.local_addr()),
        daily_limit = text(limits.daily),
        total_limit = text(limits.total),
        provider_daily_limit = text(limits.provider_daily),
        request_limit = text(limits.request),
        job_limit = text(limits.job),
        "the OpenAI endpoint may spend"
    );
    Ok(running)
}

/// Puts a provider's offers on the market.
pub(crate) async fn start_provider(
    node: &Arc<dyn Node>,
    config: ProviderConfig,
) -> Result<RunningProvider, Failure> {
    provider::start(Arc::clone(node), config)
        .await
        .map_err(Failure::environment)
}

//! The OpenAI modules, on a node in this process or elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use derouter_openai::consumer::{self, ConsumerConfig, RunningConsumer};
use derouter_openai::provider::{self, ProviderConfig, RunningProvider};
use derouter_sdk::Node;

use crate::config::openai::OpenAiModules;
use crate::failure::Failure;
use crate::ready::openai_url;

/// How long running answers may go on when the modules stop: long enough for a short one, short
/// enough for whoever pressed Ctrl-C.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Modules that run until they are shut down.
#[derive(Debug, Default)]
pub(crate) struct RunningModules {
    consumer: Option<RunningConsumer>,
    providers: Vec<RunningProvider>,
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
            self.consumer = Some(start_consumer(node, config).await?);
        }
        for config in config.providers {
            self.providers.push(start_provider(node, config).await?);
        }
        Ok(())
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

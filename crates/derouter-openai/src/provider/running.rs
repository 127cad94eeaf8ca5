//! Starts and stops the provider.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::wire::limits;
use derouter_sdk::{
    Node, OfferId, OfferSpec, ProvideError, ProvideOptions, ProviderService, Provision,
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Lane};
use super::backend::{Backend, BackendConfigError};
use super::config::{BackendConfig, DEFAULT_QUEUE_TIME, OfferConfig, ProviderConfig};
use super::counters::Counters;
use super::pump::{Offer, Shared};
use super::registry::Registry;
use super::service::Service;
use super::v0_2::{self, Sold};
use crate::protocol::{self, protocol_id};

/// How often finished answers are looked through for too old ones.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long jobs may take to be failed when the provider stops.
const FAIL_LIMIT: Duration = Duration::from_secs(5);

/// Why a provider does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is nothing to offer.
    #[error("the provider has no offers: add at least one under \"offers\"")]
    NoOffers,
    /// Two backends have an offer of the same id.
    #[error("two offers are called {0:?}: give one of them another id")]
    DuplicateOffer(String),
    /// An offer's id or payload is too long, or its concurrency is zero.
    #[error("the offer {offer_id:?} can't be provided: {reason}")]
    Offer {
        /// The offer.
        offer_id: String,
        /// Why.
        reason: String,
    },
    /// A backend's address or key can't be used.
    #[error(transparent)]
    Backend(#[from] BackendConfigError),
    /// The node does not put the offers on the market.
    #[error(transparent)]
    Provide(#[from] ProvideError),
}

/// A provider at work. Dropping it takes its offers back and fails its running jobs.
#[derive(Debug)]
pub struct RunningProvider {
    provision: Option<Provision>,
    stop: CancellationToken,
    jobs: TaskTracker,
    /// Connections of consumers that are served.
    connections: TaskTracker,
    /// The node may ask it for accepted jobs after the offers were taken back.
    _service: Arc<Service>,
    /// What runs until the stop.
    background: TaskTracker,
    counters: Arc<Counters>,
}

/// Puts the configured offers on the market and serves them until the result is dropped or shut
/// down. Backends are looked at once, in the background: one that can't be reached is a warning in
/// the log, since it may come up later.
///
/// # Errors
/// See [`StartError`]; nothing is on the market then.
pub async fn start(
    node: Arc<dyn Node>,
    config: ProviderConfig,
) -> Result<RunningProvider, StartError> {
    let stop = CancellationToken::new();
    let (jobs, background) = (TaskTracker::new(), TaskTracker::new());
    let counters = Arc::new(Counters::default());
    let (mut offers, mut sold) = (HashMap::new(), HashMap::new());
    let mut specs = Vec::new();
    let mut probes = Vec::new();
    for backend_config in &config.backends {
        let backend = backend(backend_config, &config)?;
        for (offer_id, offer) in &backend_config.offers {
            let (spec, offer) = offer_of(offer_id, offer, &backend)?;
            let offer = Arc::new(offer);
            let (spec_0_2, of_0_2) = sold_0_2(&spec.offer_id, &offer)?;
            sold.insert(spec.offer_id.clone(), Arc::new(of_0_2));
            if offers.insert(spec.offer_id.clone(), offer).is_some() {
                return Err(StartError::DuplicateOffer(offer_id.clone()));
            }
            specs.extend([spec, spec_0_2]);
        }
        probes.push((backend, models_of(backend_config)));
    }
    if specs.is_empty() {
        return Err(StartError::NoOffers);
    }
    let shared = Arc::new(Shared {
        node: Arc::clone(&node),
        limits: config.limits,
        registry: Registry::default(),
        admission: Admission::new(config.consumers.clone(), config.rates),
        counters: Arc::clone(&counters),
        store_payloads: config.store_payloads,
        stop: stop.clone(),
        tasks: jobs.clone(),
    });
    let count = offers.len();
    let options = ProvideOptions {
        max_unsigned: config.max_unsigned,
    };
    let service = Arc::new(Service {
        offers,
        sold,
        jobs: Arc::default(),
        shared: Arc::clone(&shared),
        connections: TaskTracker::new(),
    });
    let provision = node
        .provide(
            specs,
            options,
            Arc::clone(&service) as Arc<dyn ProviderService>,
        )
        .await?;
    for (backend, models) in probes {
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(probe(backend, models)),
        );
    }
    background.spawn(stop.clone().run_until_cancelled_owned(sweep(shared)));
    tracing::info!(offers = count, "openai provider started");
    Ok(RunningProvider {
        provision: Some(provision),
        stop,
        jobs,
        connections: service.connections.clone(),
        _service: service,
        background,
        counters,
    })
}

impl RunningProvider {
    /// What happened so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Takes the offers back, lets running answers finish within `grace`, and fails the others.
    pub async fn shutdown(mut self, grace: Duration) {
        drop(self.provision.take());
        self.jobs.close();
        self.background.close();
        self.connections.close();
        let served = async {
            self.jobs.wait().await;
            // The ends of the answers are on their way.
            self.connections.wait().await;
        };
        let _ = timeout(grace, served).await;
        self.stop.cancel();
        let ended = async {
            self.jobs.wait().await;
            self.background.wait().await;
        };
        if timeout(FAIL_LIMIT, ended).await.is_err() {
            tracing::warn!("some jobs could not be ended in time");
        }
    }
}

impl Drop for RunningProvider {
    fn drop(&mut self) {
        drop(self.provision.take());
        self.stop.cancel();
    }
}

fn backend(
    backend: &BackendConfig,
    config: &ProviderConfig,
) -> Result<Arc<Backend>, BackendConfigError> {
    let key = backend.api_key.as_ref();
    Backend::new(&backend.base_url, key, config.limits).map(Arc::new)
}

fn offer_of(
    offer_id: &str,
    config: &OfferConfig,
    backend: &Arc<Backend>,
) -> Result<(OfferSpec, Offer), StartError> {
    let refuse = |reason: String| StartError::Offer {
        offer_id: offer_id.to_owned(),
        reason,
    };
    let payload = config.payload();
    let spec = OfferSpec {
        protocol_id: protocol_id(),
        offer_id: OfferId::new(offer_id).map_err(|error| refuse(error.to_string()))?,
        protocol_payload: payload.to_json(),
    };
    if spec.protocol_payload.len() > limits::OFFER_PAYLOAD_BYTES {
        return Err(refuse("its description is too long".to_owned()));
    }
    let places = config.places();
    if places.slots == 0 || places.per_consumer == 0 {
        return Err(refuse("max_concurrency must be at least 1".to_owned()));
    }
    let queue_time = config.terms.queue_time.unwrap_or(DEFAULT_QUEUE_TIME);
    let offer = Offer {
        config: config.clone(),
        payload,
        backend: Arc::clone(backend),
        lane: Arc::new(Lane::new(places, queue_time)),
    };
    Ok((spec, offer))
}

/// The same offer, as `openai:0.2` sells it.
fn sold_0_2(offer_id: &OfferId, offer: &Arc<Offer>) -> Result<(OfferSpec, Sold), StartError> {
    let refuse = |reason: &str| StartError::Offer {
        offer_id: offer_id.to_string(),
        reason: reason.to_owned(),
    };
    let payload = v0_2::payload(&offer.config);
    let protocol_payload = payload.to_json();
    if protocol_payload.len() > limits::OFFER_PAYLOAD_BYTES {
        return Err(refuse("what it says is too long"));
    }
    // Read back as consumers read it.
    let read = protocol::v0_2::OfferPayload::parse(&protocol_payload);
    let read = read.ok_or_else(|| refuse("a name in it is empty or too long"))?;
    let spec = OfferSpec {
        protocol_id: protocol::v0_2::protocol_id(),
        offer_id: offer_id.clone(),
        protocol_payload,
    };
    let sold = Sold {
        offer: Arc::clone(offer),
        terms: read.terms(),
    };
    Ok((spec, sold))
}

fn models_of(config: &BackendConfig) -> Vec<String> {
    let models = config.offers.values().map(OfferConfig::backend_model);
    models.map(str::to_owned).collect()
}

/// Looks once whether a backend is there and has the models. Tells the operator what to do.
async fn probe(backend: Arc<Backend>, models: Vec<String>) {
    let shown = backend.shown();
    match backend.models().await {
        Err(error) => tracing::warn!(
            backend = shown,
            error,
            "the backend can't be reached: jobs fail until it is started, or openai_base_url corrected"
        ),
        Ok(known) => {
            for model in models.iter().filter(|model| !known.contains(model)) {
                tracing::warn!(
                    backend = shown,
                    model,
                    "the backend does not name this model: load it there, or set the offer's backend_model to the name it has there"
                );
            }
        }
    }
}

async fn sweep(shared: Arc<Shared>) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.registry.sweep(Instant::now());
    }
}

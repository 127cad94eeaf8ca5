//! Starts and stops the provider.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{Node, NodeError, ProvideError, ProvideOptions};
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::backend::{Backend, BackendConfigError};
use super::board::{Board, Reach};
use super::config::{BackendConfig, ProviderConfig};
use super::counters::Counters;
use super::keeper::{Keeper, OnMarket};
use super::monitor::Monitor;
use super::overlay::Follow;
use super::pump::Shared;
use super::registry::Registry;
use super::trial::Trials;
use super::view::Viewer;

/// How often finished answers are looked through for too old ones.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often the node is asked how others reach it: for people who look, who do not wait for it.
const REACH_EVERY: Duration = Duration::from_secs(5);

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
    /// The offers.
    on_market: Arc<OnMarket>,
    stop: CancellationToken,
    jobs: TaskTracker,
    /// Connections of consumers that are served.
    connections: TaskTracker,
    /// What runs until the stop.
    background: TaskTracker,
    counters: Arc<Counters>,
    viewer: Viewer,
}

/// Puts the offers on the market and serves them until the result is dropped or shut down. Those whose
/// backend is down, full or without their model leave the market meanwhile. Each backend is looked at
/// first, for a second at most, so that nothing is offered that is not there.
///
/// # Errors
/// See [`StartError`]; nothing is on the market then.
pub async fn start(
    node: Arc<dyn Node>,
    config: ProviderConfig,
) -> Result<RunningProvider, StartError> {
    let stop = CancellationToken::new();
    let (jobs, background, connections) =
        (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let counters = Arc::new(Counters::default());
    let shared = Arc::new(Shared {
        node,
        limits: config.limits,
        registry: Registry::default(),
        jobs: Arc::default(),
        admission: Admission::new(config.consumers.clone(), config.rates),
        trials: Trials::default(),
        counters: Arc::clone(&counters),
        store_payloads: config.store_payloads,
        stop: stop.clone(),
        tasks: jobs.clone(),
    });
    let options = ProvideOptions {
        max_unsigned: config.max_unsigned,
    };
    let changed = Arc::new(Notify::new());
    let mut keeper = Keeper::new(
        Arc::clone(&shared),
        connections.clone(),
        options,
        Arc::clone(&changed),
        Follow::new(config.data_dir.as_deref()),
    );
    let monitors = add_backends(&mut keeper, &config, &changed)?;
    join_all(monitors.iter().map(|monitor| monitor.look_first())).await;
    keeper.open().await?;
    let on_market = Arc::clone(keeper.on_market());
    let board = Arc::clone(keeper.board());
    let viewer = Viewer::new(Arc::clone(&board), monitors.clone(), Arc::clone(&counters));
    let node = Arc::clone(&shared.node);
    background.spawn(
        stop.clone()
            .run_until_cancelled_owned(follow_reach(node, board)),
    );
    for monitor in monitors {
        background.spawn(stop.clone().run_until_cancelled_owned(monitor.run()));
    }
    background.spawn(stop.clone().run_until_cancelled_owned(keeper.run()));
    background.spawn(stop.clone().run_until_cancelled_owned(sweep(shared)));
    tracing::info!(offers = on_market.len(), "openai provider started");
    Ok(RunningProvider {
        on_market,
        stop,
        jobs,
        connections,
        background,
        counters,
        viewer,
    })
}

fn add_backends(
    keeper: &mut Keeper,
    config: &ProviderConfig,
    changed: &Arc<Notify>,
) -> Result<Vec<Arc<Monitor>>, StartError> {
    let mut monitors = Vec::new();
    let mut sells = false;
    for backend_config in &config.backends {
        let backend = backend(backend_config, config)?;
        let monitor = Monitor::new(backend, &backend_config.options, Arc::clone(changed));
        let monitor = Arc::new(monitor);
        keeper.add_backend(&monitor);
        for (offer_id, offer) in &backend_config.offers {
            keeper.add(offer_id, offer, &monitor)?;
        }
        sells |= !backend_config.offers.is_empty() || monitor.discover.is_some();
        monitors.push(monitor);
    }
    if !sells {
        return Err(StartError::NoOffers);
    }
    Ok(monitors)
}

impl RunningProvider {
    /// What happened so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What it knows, for whoever looks at it in this process.
    pub fn viewer(&self) -> Viewer {
        self.viewer.clone()
    }

    /// Takes the offers back, lets running answers finish within `grace`, and fails the others.
    pub async fn shutdown(self, grace: Duration) {
        self.on_market.close();
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
        self.on_market.close();
        self.stop.cancel();
    }
}

fn backend(
    backend: &BackendConfig,
    config: &ProviderConfig,
) -> Result<Arc<Backend>, BackendConfigError> {
    let (key, options) = (backend.api_key.as_ref(), &backend.options);
    let allow_link_local = options.allow_link_local;
    Backend::new_at(&backend.base_url, key, config.limits, allow_link_local).map(Arc::new)
}

/// Asks the node now and then how others reach it. One that does not tell is not asked again.
async fn follow_reach(node: Arc<dyn Node>, board: Arc<Board>) {
    let mut ticks = interval(REACH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match node.network().await {
            Ok(report) => board.put_reach(Reach::of(&report)),
            Err(NodeError::Unsupported(_)) => return,
            Err(error) => tracing::debug!(%error, "can't learn how this node is reached"),
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

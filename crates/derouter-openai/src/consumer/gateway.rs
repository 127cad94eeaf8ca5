//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use derouter_sdk::{Node, OfferEvent, PeerId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::config::ConsumerConfig;
use super::health::{Blame, Health, Standing};
use super::keys::Keys;
use super::ledger::{Ledger, unix_now};
use super::offers::{Offer, OfferIndex};
use super::router::Terms;

/// Requests that run at once, their bills included. Each holds a buffer of 64 KiB and a job
/// stream.
pub(crate) const MAX_IN_FLIGHT: usize = 512;

/// What all requests share.
pub(crate) struct Gateway {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) config: ConsumerConfig,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) keys: Keys,
    pub(crate) counters: Arc<ConsumerCounters>,
    pub(crate) in_flight: Arc<Semaphore>,
    /// Work that outlives its request: bills to check, jobs to give up.
    pub(crate) tasks: Tasks,
    /// When the gateway started, in Unix seconds: how old its models are.
    pub(crate) started_at: u64,
    /// Who this node is, and that what was spent before is known. Requests wait for neither.
    ready: OnceLock<PeerId>,
    /// The node takes no new work.
    draining: AtomicBool,
    offers: RwLock<OfferIndex>,
    health: Mutex<Health>,
}

/// Spawns what must not end with the request that caused it.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    handle: Handle,
}

/// Counts since the start.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ConsumerCounters {
    /// Requests for an answer.
    pub requests: AtomicU64,
    /// Attempts that failed before an answer began: each went to the next provider, or was the
    /// last.
    pub failed_attempts: AtomicU64,
    /// Jobs whose bill was right and was signed.
    pub signed: AtomicU64,
    /// Jobs whose bill was wrong or missing, and was not signed.
    pub violations: AtomicU64,
    /// Answers that broke after they had begun.
    pub broken: AtomicU64,
    /// Jobs given up because the client went away.
    pub abandoned: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tasks {
    /// Runs a task to its end, also when called outside the runtime.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn_on(task, &self.handle)
    }
}

impl Gateway {
    pub(crate) fn new(node: Arc<dyn Node>, config: ConsumerConfig, keys: Keys) -> Self {
        Self {
            keys,
            ledger: Arc::new(Ledger::new(config.limits)),
            counters: Arc::default(),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            tasks: Tasks {
                tracker: TaskTracker::new(),
                handle: Handle::current(),
            },
            started_at: unix_now().0,
            ready: OnceLock::new(),
            draining: AtomicBool::new(false),
            offers: RwLock::default(),
            health: Mutex::default(),
            node,
            config,
        }
    }

    /// This node's peer id, once it and the spending are known.
    pub(crate) fn own_peer_id(&self) -> Option<&PeerId> {
        self.ready.get()
    }

    /// Whether the node is on its way down.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The node is on its way down, or is back.
    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// This node is known, and so is what it spent.
    pub(crate) fn set_ready(&self, own: PeerId) {
        // A second call would bring the same peer id.
        let _ = self.ready.set(own);
    }

    /// Takes over what happened to the offers. Returns how many are left out.
    pub(crate) fn apply(&self, event: OfferEvent) -> u64 {
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        offers.apply(event);
        offers.left_out()
    }

    /// Looks at the offers. What is done with them must be short.
    pub(crate) fn with_offers<T>(&self, look: impl FnOnce(&OfferIndex) -> T) -> T {
        look(&self.offers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What offers of a model must meet.
    pub(crate) fn terms(&self, model: &str) -> Terms {
        let rule = self.config.rule(model);
        Terms {
            cap: self.config.cap(model),
            min_context_size: rule.and_then(|rule| rule.min_context_size),
        }
    }

    /// A provider failed or declined: it comes last for a while.
    pub(crate) fn blame(&self, offer: &Offer, blame: Blame) {
        self.health().blame(offer.provider, blame, Instant::now());
    }

    /// A provider did what it should.
    pub(crate) fn praise(&self, offer: &Offer) {
        self.health().succeeded(&offer.provider);
    }

    /// How a provider did lately.
    pub(crate) fn standing(&self, provider: &PeerId) -> Standing {
        self.health().standing(provider, Instant::now())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

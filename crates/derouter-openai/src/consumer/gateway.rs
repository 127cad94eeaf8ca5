//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use derouter_sdk::{Node, OfferEvent, OfferSnapshot, PeerId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::active::Active;
use super::config::ConsumerConfig;
use super::hedge::Budget;
use super::keys::Keys;
use super::ledger::{Ledger, unix_now};
use super::memory;
use super::offers::{Offer, OfferIndex};
use super::operator::Operator;
use super::paths::Paths;
use super::price_history::PriceHistory;
use super::quality::{Blame, Quality, Sample};
use super::request::Asked;
use super::router::Path;
use super::standing::Standings;
use super::tokens::{Counting, Said, Tokenizer, Tokenizers};

/// Requests that run at once, their bills included. Each holds a buffer of 64 KiB and a job
/// stream.
pub(crate) const MAX_IN_FLIGHT: usize = 512;

/// What all requests share.
pub(crate) struct Gateway {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) config: ConsumerConfig,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) keys: Keys,
    tokenizers: Tokenizers,
    pub(crate) counting: Counting,
    /// Providers that the owner pinned or blocked.
    pub(crate) standings: Standings,
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
    quality: Mutex<Quality>,
    prices: Mutex<PriceHistory>,
    hedging: Mutex<Budget>,
    paths: RwLock<Paths>,
    active: Mutex<Active>,
    operator: OnceLock<Operator>,
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
    /// Requests for which a second provider was asked beside the first.
    pub hedges: AtomicU64,
    /// Those whose second provider was quicker.
    pub hedges_won: AtomicU64,
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
    pub(crate) fn new(
        node: Arc<dyn Node>,
        config: ConsumerConfig,
        keys: Keys,
        tokenizers: Tokenizers,
        counting: Counting,
    ) -> Self {
        let (quality, prices) = memory::recall(config.data_dir.as_deref());
        Self {
            tokenizers,
            counting,
            standings: Standings::load(config.data_dir.as_deref()),
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
            quality: Mutex::new(quality),
            prices: Mutex::new(prices),
            hedging: Mutex::default(),
            paths: RwLock::default(),
            active: Mutex::default(),
            operator: OnceLock::new(),
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
        self.note_presence(&event);
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        offers.apply(event);
        offers.left_out()
    }

    /// Looks at the offers. What is done with them must be short.
    pub(crate) fn with_offers<T>(&self, look: impl FnOnce(&OfferIndex) -> T) -> T {
        look(&self.offers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who is on the market counts towards its uptime.
    fn note_presence(&self, event: &OfferEvent) {
        let now = Instant::now();
        let mut quality = self.quality();
        match event {
            OfferEvent::Updated(offer) => note_one(&mut quality, offer, now),
            OfferEvent::Removed(gone) => {
                quality.withdrawn(&gone.provider_peer_id, &gone.offer_id, now);
            }
            OfferEvent::Reset(offers) => {
                quality.all_withdrawn(now);
                offers
                    .iter()
                    .for_each(|offer| note_one(&mut quality, offer, now));
            }
        }
    }

    /// The tokenizer by which a bill is checked, if the owner names one.
    pub(crate) fn tokenizer(&self, asked: &Asked, offer: &Offer) -> Option<Tokenizer> {
        self.tokenizers.of([asked.model.as_str(), model(offer)])
    }

    /// What holds an answer's text until it is counted, if it will be.
    pub(crate) fn listener(&self, asked: &Asked, offer: &Offer) -> Option<Box<Said>> {
        self.tokenizer(asked, offer)
            .map(|_| Box::new(Said::of(asked)))
    }

    /// A request begins with a provider.
    pub(crate) fn began(&self, offer: &Offer) {
        self.quality().began(&offer.provider, model(offer));
    }

    /// A request with a provider is over.
    pub(crate) fn ended(&self, offer: &Offer) {
        self.quality().ended(&offer.provider, model(offer));
    }

    /// A provider failed or declined: it comes last for a while.
    pub(crate) fn blame(&self, offer: &Offer, blame: Blame) {
        let now = Instant::now();
        self.quality()
            .blame(&offer.provider, model(offer), blame, now);
    }

    /// A provider did what it should.
    pub(crate) fn praise(&self, offer: &Offer, sample: Sample) {
        let now = Instant::now();
        self.quality()
            .succeeded(&offer.provider, model(offer), sample, now);
    }

    /// The first token of a streamed answer came.
    pub(crate) fn first_token(&self, offer: &Offer, after: Duration) {
        let now = Instant::now();
        self.quality()
            .first_token(&offer.provider, model(offer), after, now);
    }

    /// How long a provider usually takes to the first token.
    pub(crate) fn usual_first_token(&self, offer: &Offer) -> Duration {
        let now = Instant::now();
        let observed = self.quality().observed(&offer.provider, model(offer), now);
        let seconds = observed.first_token.map_or(1.0, |first| first.value);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1))
    }

    /// The time to the first token that so many percent of a provider's latest answers kept.
    pub(crate) fn slow_first_token(&self, offer: &Offer, percent: f64) -> Option<Duration> {
        let quality = self.quality();
        quality.slow_first_token(&offer.provider, model(offer), percent)
    }

    /// How many requests may still be hedged. Held for short.
    pub(crate) fn hedging(&self) -> MutexGuard<'_, Budget> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a provider is reached.
    pub(crate) fn path(&self, provider: &PeerId) -> Path {
        if self.own_peer_id() == Some(provider) {
            return Path::Own;
        }
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        paths.of(provider)
    }

    /// From now on, whoever shows this token is the owner.
    pub(crate) fn know_operator(&self, operator: Operator) {
        // A second one would be of the same directory, which only one gateway may have.
        let _ = self.operator.set(operator);
    }

    /// Whether a key that was presented is the owner's token.
    pub(crate) fn is_operator(&self, presented: Option<&str>) -> bool {
        let operator = self.operator.get();
        operator.is_some_and(|operator| operator.is(presented))
    }

    /// The requests that run. Held for short.
    pub(crate) fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is known of paths. What is done with it must be short.
    pub(crate) fn look_at_paths<T>(&self, look: impl FnOnce(&Paths) -> T) -> T {
        look(&self.paths.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known of paths.
    pub(crate) fn with_paths(&self, change: impl FnOnce(&mut Paths)) {
        change(&mut self.paths.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes the prices that offers have now.
    pub(crate) fn note_prices(&self) {
        let offers = self.with_offers(OfferIndex::all);
        let now = unix_now();
        self.with_prices(|prices| prices.note(offers.iter().map(|offer| &**offer), now));
    }

    /// Looks at the prices that offers had, or changes them.
    pub(crate) fn with_prices<T>(&self, look: impl FnOnce(&mut PriceHistory) -> T) -> T {
        look(&mut self.prices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of providers. Held for short.
    pub(crate) fn quality(&self) -> MutexGuard<'_, Quality> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The model's own name.
fn model(offer: &Offer) -> &str {
    offer.terms.model()
}

fn note_one(quality: &mut Quality, offer: &OfferSnapshot, now: Instant) {
    let provider = &offer.provider_peer_id;
    match offer.active {
        true => quality.offered(*provider, &offer.offer_id, now),
        false => quality.withdrawn(provider, &offer.offer_id, now),
    }
}

//! Keeps on the market what can be served now, at the price of now.
//!
//! Each time that offers are provided they get a [`Service`] of their own, which holds the payloads that were
//! announced: the node asks the service that came with the payload that a consumer means, so a job has the
//! price of its own snapshot.
//!
//! Offers are provided one by one, so that one can be taken back without the others. Providers with many
//! provide those of a backend together, as each provision is some work for the node; when one of these
//! changes, the others are away for a moment.

mod changes;
mod stand;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::{
    OfferId, OfferSpec, ProvideError, ProvideOptions, ProviderService, Provision, UnixSeconds,
};
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::board::Board;
use super::config::OfferConfig;
use super::monitor::{Found, Monitor};
use super::overlay::Follow;
use super::pump::{Offer, Shared};
use super::running::StartError;
use super::service::Service;
use super::v0_2::Sold;
use crate::protocol::{OfferPayload, protocol_id};
use changes::with_entry;
use stand::Stand;
pub(super) use stand::{Absent, Origin, check_config};

/// How often prices, slots and lists are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long all slots and the queue of an offer have to be taken for it to be withdrawn, and how long
/// there has to be room for it to come back.
const FULL_FOR: Duration = Duration::from_secs(30);
const ROOM_FOR: Duration = Duration::from_secs(10);

/// The same for a model that its backend does not name any more: longer than between two lists.
const MISSING_FOR: Duration = Duration::from_secs(20);
const NAMED_FOR: Duration = Duration::from_secs(10);

/// The first pause before an offer that the node does not take is provided again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Offers of a provider up to which each is provided on its own.
const MOST_ALONE: usize = 64;

/// Services of offers that are kept for their running jobs.
const MAX_SERVICES: usize = 16_384;

/// Offers on the market, and the services of those that were.
#[derive(Default)]
pub(super) struct OnMarket {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    offers: HashMap<OfferId, Held>,
    /// The node may ask for accepted jobs after the offers were taken back.
    services: HashMap<OfferId, Arc<Service>>,
}

impl State {
    /// Makes room for another service.
    fn forget_a_service(&mut self, newcomer: &OfferId) {
        if self.services.len() < MAX_SERVICES || self.services.contains_key(newcomer) {
            return;
        }
        let idle = self
            .services
            .keys()
            .find(|id| !self.offers.contains_key(id));
        let idle = idle.cloned();
        idle.and_then(|idle| self.services.remove(&idle));
    }
}

struct Held {
    announced: Announced,
    /// Its own, or shared with those that were provided with it.
    provision: Arc<Provision>,
}

/// What changes of what is said of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Announced {
    /// The prices.
    payload: OfferPayload,
    load: Option<u8>,
}

impl fmt::Debug for OnMarket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnMarket")
            .field("offers", &self.lock().offers.len())
            .finish()
    }
}

impl OnMarket {
    /// Takes all offers back, for good.
    pub(super) fn close(&self) {
        let taken_back = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.offers)
        };
        drop(taken_back);
    }

    /// How many offers are on the market.
    pub(super) fn len(&self) -> usize {
        self.lock().offers.len()
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn announced(&self, offer_id: &OfferId) -> Option<Announced> {
        let state = self.lock();
        let held = state.offers.get(offer_id);
        held.map(|held| held.announced.clone())
    }

    /// Takes an offer back, and with it those that were provided together with it.
    fn take_back(&self, offer_id: &OfferId) {
        let mut gone = Vec::new();
        {
            let mut state = self.lock();
            let Some(held) = state.offers.remove(offer_id) else {
                return;
            };
            let together =
                |_: &OfferId, other: &mut Held| Arc::ptr_eq(&other.provision, &held.provision);
            if Arc::strong_count(&held.provision) > 1 {
                gone.extend(state.offers.extract_if(together).map(|(_, held)| held));
            }
            gone.push(held);
        }
        drop(gone);
    }

    fn put(&self, offers: Vec<(OfferId, Announced)>, provision: Provision, service: &Arc<Service>) {
        let provision = Arc::new(provision);
        let mut earlier = Vec::new();
        let mut state = self.lock();
        for (id, announced) in offers {
            state.forget_a_service(&id);
            let service = Arc::clone(service);
            earlier.push(state.services.insert(id.clone(), service));
            if !state.closed {
                let held = Held {
                    announced,
                    provision: Arc::clone(&provision),
                };
                state.offers.insert(id, held);
            }
        }
        // What is dropped here may call the node.
        drop(state);
        drop((earlier, provision));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the offers of all backends.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    connections: TaskTracker,
    options: ProvideOptions,
    on_market: Arc<OnMarket>,
    monitors: Vec<Arc<Monitor>>,
    /// The offers of the configuration, as it has them.
    configured: Vec<Configured>,
    stands: Vec<Stand>,
    /// Of the stands.
    ids: HashSet<OfferId>,
    changed: Arc<Notify>,
    /// What is changed of the configuration's offers while this runs.
    overlay: Follow,
    /// Where whoever looks finds how the offers are.
    board: Arc<Board>,
}

/// An offer of the configuration.
struct Configured {
    offer_id: String,
    config: OfferConfig,
    monitor: Arc<Monitor>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        connections: TaskTracker,
        options: ProvideOptions,
        changed: Arc<Notify>,
        overlay: Follow,
    ) -> Self {
        Self {
            shared,
            connections,
            options,
            on_market: Arc::default(),
            monitors: Vec::new(),
            configured: Vec::new(),
            stands: Vec::new(),
            ids: HashSet::new(),
            changed,
            overlay,
            board: Arc::default(),
        }
    }

    pub(super) fn on_market(&self) -> &Arc<OnMarket> {
        &self.on_market
    }

    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    pub(super) fn add_backend(&mut self, monitor: &Arc<Monitor>) {
        self.monitors.push(Arc::clone(monitor));
    }

    /// Adds a configured offer.
    pub(super) fn add(
        &mut self,
        offer_id: &str,
        config: &OfferConfig,
        monitor: &Arc<Monitor>,
    ) -> Result<(), StartError> {
        let stand = Stand::new(offer_id, config.clone(), monitor, Origin::Config)?;
        if !self.ids.insert(stand.offer_id.clone()) {
            return Err(StartError::DuplicateOffer(offer_id.to_owned()));
        }
        self.stands.push(stand);
        self.configured.push(Configured {
            offer_id: offer_id.to_owned(),
            config: config.clone(),
            monitor: Arc::clone(monitor),
        });
        Ok(())
    }

    /// Puts on the market what can be served now.
    pub(super) async fn open(&mut self) -> Result<(), ProvideError> {
        if self.overlay.look().await {
            self.apply_changes();
        }
        self.discover();
        for (_, provided) in self.settle().await {
            provided?;
        }
        self.show();
        Ok(())
    }

    /// Tells whoever looks how the offers are.
    fn show(&self) {
        let on_market = |stand: &Stand| self.on_market.announced(&stand.offer_id).is_some();
        let seats = self.stands.iter();
        let seats = seats.map(|stand| stand.seat(on_market(stand))).collect();
        let problem = self.overlay.problem().map(str::to_owned);
        self.board.put(seats, problem);
    }

    /// Follows what changes, until the offers are taken back for good.
    pub(super) async fn run(mut self) {
        while !self.on_market.is_closed() {
            // Whichever comes first.
            let _ = timeout(LOOK_EVERY, self.changed.notified()).await;
            if self.overlay.look().await {
                self.apply_changes();
            }
            self.discover();
            for (offers, provided) in self.settle().await {
                self.try_later(&offers, provided.err().as_ref());
            }
            self.show();
        }
    }

    /// Takes in models that are new, and lets go of those that are gone.
    fn discover(&mut self) {
        for monitor in self.monitors.clone() {
            let Some(found) = monitor.found() else {
                continue;
            };
            let of_backend = |stand: &Stand| Arc::ptr_eq(&stand.monitor, &monitor);
            let configured: HashSet<String> = self
                .stands
                .iter()
                .filter(|stand| of_backend(stand) && stand.origin == Origin::Config)
                .map(|stand| stand.config.backend_model().to_owned())
                .collect();
            self.stands.retain(|stand| {
                // Those that are missing only for a moment stay.
                let stays = !(of_backend(stand) && stand.found().is_some())
                    || found.iter().any(|found| stand.found() == Some(found))
                    || self.on_market.announced(&stand.offer_id).is_some()
                        && !monitor.has(stand.config.backend_model());
                if !stays {
                    self.on_market.take_back(&stand.offer_id);
                    self.ids.remove(&stand.offer_id);
                }
                stays
            });
            let fresh = found
                .iter()
                .filter(|found| !configured.contains(&found.model));
            for found in fresh {
                self.add_found(found, &monitor);
            }
        }
    }

    fn add_found(&mut self, found: &Found, monitor: &Arc<Monitor>) {
        let Some(discover) = &monitor.discover else {
            return;
        };
        if self.ids.iter().any(|id| id.as_str() == found.model) {
            return;
        }
        let entries = self.overlay.entries();
        let entry = entries.get(&found.model);
        if entry.is_some_and(|entry| entry.removed) {
            return;
        }
        let base = discover.offer(&found.model, found.context_size);
        let config = with_entry(&base, entry);
        let (config, problem) = match check_config(&config) {
            Ok(()) => (config, None),
            Err(problem) => (base.clone(), Some(problem)),
        };
        let edited = config != base;
        let origin = Origin::Discovered(found.clone());
        // One whose name is taken, by another backend's offer perhaps, can't be told apart.
        match Stand::new(&found.model, config, monitor, origin) {
            Ok(mut stand) if self.ids.insert(stand.offer_id.clone()) => {
                stand.paused = entry.is_some_and(|entry| entry.paused);
                (stand.edited, stand.problem) = (edited, problem);
                self.stands.push(stand);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(model = found.model, %error, "a model becomes no offer"),
        }
    }

    /// Makes the market fit what can be served. What became of the offers that were provided.
    async fn settle(&mut self) -> Vec<(Vec<OfferId>, Result<(), ProvideError>)> {
        let now = Instant::now();
        // One that is provided together with others would take them away for a moment.
        let alone = self.stands.len() <= MOST_ALONE;
        let known = self.overlay.is_known();
        let wanted: Vec<_> = self
            .stands
            .iter_mut()
            .map(|stand| stand.wanted(now, alone).filter(|_| known))
            .collect();
        for (stand, wanted) in self.stands.iter().zip(&wanted) {
            let held = self.on_market.announced(&stand.offer_id);
            if held.is_some() && held != *wanted {
                self.on_market.take_back(&stand.offer_id);
            }
        }
        let batches = self.batches(wanted, now);
        let provided: Vec<_> = batches
            .into_iter()
            .map(|batch| self.provide(batch))
            .collect();
        // In their order, and all at once: the node stores what came meanwhile together.
        futures::stream::iter(provided)
            .buffered(MOST_ALONE)
            .collect()
            .await
    }

    /// What is to be provided now, in batches.
    fn batches(&self, wanted: Vec<Option<Announced>>, now: Instant) -> Vec<Vec<Arc<Offer>>> {
        let together = self.stands.len() > MOST_ALONE;
        let mut batches: Vec<Vec<Arc<Offer>>> = Vec::new();
        for (stand, wanted) in self.stands.iter().zip(wanted) {
            let early = stand.retry_at.is_some_and(|at| now < at);
            let Some(announced) = wanted.filter(|_| !early) else {
                continue;
            };
            if self.on_market.announced(&stand.offer_id).is_some() {
                continue;
            }
            let offer = stand.offer(announced);
            let same = |batch: &&mut Vec<Arc<Offer>>| {
                let first = batch.first();
                first.is_some_and(|first| Arc::ptr_eq(&first.monitor, &offer.monitor))
            };
            match batches.last_mut().filter(same) {
                Some(batch) if together => batch.push(offer),
                _ => batches.push(vec![offer]),
            }
        }
        batches
    }

    /// Puts offers on the market together.
    fn provide(
        &self,
        offers: Vec<Arc<Offer>>,
    ) -> impl Future<Output = (Vec<OfferId>, Result<(), ProvideError>)> + Send + use<> {
        let (on_market, options) = (Arc::clone(&self.on_market), self.options.clone());
        let shared = Arc::clone(&self.shared);
        let connections = self.connections.clone();
        async move {
            let ids: Vec<OfferId> = offers.iter().map(|offer| offer.id.clone()).collect();
            if on_market.is_closed() {
                return (ids, Ok(()));
            }
            let spec = |offer: &Arc<Offer>| OfferSpec {
                protocol_id: protocol_id(),
                offer_id: offer.id.clone(),
                protocol_payload: offer.payload.to_json(),
            };
            let specs: Vec<OfferSpec> = offers.iter().map(spec).collect();
            let announced = |offer: &Arc<Offer>| {
                let announced = Announced {
                    payload: offer.payload.clone(),
                    load: offer.load,
                };
                (offer.id.clone(), announced)
            };
            let announced: Vec<_> = offers.iter().map(announced).collect();
            let sold: Vec<Sold> = offers.iter().map(Sold::new).collect();
            let of_0_2 = sold.iter().map(Sold::spec);
            let both = specs.into_iter().zip(of_0_2);
            let both = both.flat_map(|(spec, of_0_2)| [spec, of_0_2]).collect();
            let by_id = offers.into_iter().map(|offer| (offer.id.clone(), offer));
            let sold_by_id = sold
                .into_iter()
                .map(|sold| (sold.offer.id.clone(), Arc::new(sold)));
            let service = Arc::new(Service {
                offers: by_id.collect(),
                sold: sold_by_id.collect(),
                shared: Arc::clone(&shared),
                connections,
            });
            let serves = Arc::clone(&service) as Arc<dyn ProviderService>;
            match shared.node.provide(both, options, serves).await {
                Ok(provision) => {
                    on_market.put(announced, provision, &service);
                    (ids, Ok(()))
                }
                Err(error) => (ids, Err(error)),
            }
        }
    }

    /// Has offers that the node did not take wait before they are provided again.
    fn try_later(&mut self, offers: &[OfferId], error: Option<&ProvideError>) {
        let ids: HashSet<&OfferId> = offers.iter().collect();
        let stands = self.stands.iter_mut();
        for stand in stands.filter(|stand| ids.contains(&stand.offer_id)) {
            let Some(error) = error else {
                (stand.retry_at, stand.pause) = (None, FIRST_PAUSE);
                stand.refused = None;
                continue;
            };
            stand.refused = Some(error.to_string());
            // Over the RPC, an offer that was taken back may be there for a moment.
            if stand.pause > FIRST_PAUSE {
                tracing::warn!(offer = %stand.offer_id, %error, "the offer can't be put on the market yet");
            }
            stand.retry_at = Some(Instant::now() + stand.pause);
            stand.pause = stand.pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }
}

/// The time by this machine's clock.
pub(super) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

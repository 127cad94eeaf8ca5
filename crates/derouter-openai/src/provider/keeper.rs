//! Keeps on the market what can be served now, at the price of now.
//!
//! Each offer is provided on its own, so that one can be taken back without the others. Each time it is
//! provided it gets a [`Service`] of its own, which holds the payload that was announced: the node asks the
//! service that came with the payload that a consumer means, so a job has the price of its own snapshot.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::{
    OfferId, OfferSpec, ProvideError, ProvideOptions, ProviderService, Provision, UnixSeconds,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::admission::Lane;
use super::config::{DEFAULT_QUEUE_TIME, OfferConfig};
use super::health::Steady;
use super::monitor::{Found, Monitor};
use super::pump::{Offer, Shared};
use super::running::StartError;
use super::service::Service;
use super::v0_2;
use crate::protocol::{self, OfferPayload, protocol_id};

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

/// Services of offers that are kept for their running jobs.
const MAX_SERVICES: usize = 1_024;

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

struct Held {
    payload: String,
    _provision: Provision,
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

    fn payload(&self, offer_id: &OfferId) -> Option<String> {
        let state = self.lock();
        state.offers.get(offer_id).map(|held| held.payload.clone())
    }

    fn take_back(&self, offer_id: &OfferId) {
        let held = self.lock().offers.remove(offer_id);
        drop(held);
    }

    fn put(&self, offer_id: OfferId, held: Held, service: Arc<Service>) {
        let mut state = self.lock();
        if !state.services.contains_key(&offer_id) && state.services.len() >= MAX_SERVICES {
            let idle = state
                .services
                .keys()
                .find(|id| !state.offers.contains_key(id));
            let idle = idle.cloned();
            idle.and_then(|idle| state.services.remove(&idle));
        }
        let earlier = state.services.insert(offer_id.clone(), service);
        let late = if state.closed {
            Some(held)
        } else {
            state.offers.insert(offer_id, held)
        };
        drop(state);
        drop((earlier, late));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An offer, on the market or not.
struct Stand {
    offer_id: OfferId,
    config: OfferConfig,
    monitor: Arc<Monitor>,
    lane: Arc<Lane>,
    /// It is one of the models that the backend names.
    discovered: bool,
    named: Steady,
    roomy: Steady,
    /// Why it is not on the market; what the operator was told last.
    told: Option<Absent>,
    retry_at: Option<Instant>,
    pause: Duration,
}

/// Why an offer is not on the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    BackendDown,
    BackendFull,
    ModelMissing,
    NoRoom,
}

impl Stand {
    fn new(
        offer_id: &str,
        config: OfferConfig,
        monitor: &Arc<Monitor>,
        discovered: bool,
    ) -> Result<Self, StartError> {
        let refuse = |reason: String| StartError::Offer {
            offer_id: offer_id.to_owned(),
            reason,
        };
        let id = OfferId::new(offer_id).map_err(|error| refuse(error.to_string()))?;
        let places = config.places();
        if places.slots == 0 || places.per_consumer == 0 {
            return Err(refuse("max_concurrency must be at least 1".to_owned()));
        }
        let most = derouter_sdk::wire::limits::OFFER_PAYLOAD_BYTES;
        let of_0_2 = v0_2::payload(&config, &config.payload()).to_json();
        if config.payload().to_json().len().max(of_0_2.len()) > most {
            return Err(refuse("its description is too long".to_owned()));
        }
        // As consumers read it.
        if protocol::v0_2::OfferPayload::parse(&of_0_2).is_none() {
            let reason = "a name in it is empty or too long, or there are too many";
            return Err(refuse(reason.to_owned()));
        }
        let queue_time = config.terms.queue_time.unwrap_or(DEFAULT_QUEUE_TIME);
        Ok(Self {
            offer_id: id,
            config,
            monitor: Arc::clone(monitor),
            lane: Arc::new(Lane::new(places, queue_time)),
            discovered,
            named: Steady::new(MISSING_FOR, NAMED_FOR),
            roomy: Steady::new(FULL_FOR, ROOM_FOR),
            told: None,
            retry_at: None,
            pause: FIRST_PAUSE,
        })
    }

    /// Whether it can be served now.
    fn absent(&mut self, now: Instant) -> Option<Absent> {
        let named = self.monitor.has(self.config.backend_model());
        let named = self.named.see(named, now);
        let roomy = self.roomy.see(!self.lane.is_full(), now);
        if !self.monitor.is_up() {
            Some(Absent::BackendDown)
        } else if !named {
            Some(Absent::ModelMissing)
        } else if self.monitor.is_full() {
            Some(Absent::BackendFull)
        } else if !roomy {
            Some(Absent::NoRoom)
        } else {
            None
        }
    }

    /// Tells the operator, once.
    fn tell(&mut self, absent: Option<Absent>) {
        let before = std::mem::replace(&mut self.told, absent);
        if before == absent {
            return;
        }
        let (offer, model) = (&self.offer_id, self.config.backend_model());
        let backend = self.monitor.backend.shown();
        match absent {
            // The monitor has told that, once for all offers.
            Some(Absent::BackendDown) => tracing::debug!(%offer, "not on the market"),
            Some(Absent::ModelMissing) => tracing::warn!(
                %offer, model, backend, named = self.monitor.named(),
                "the backend does not name this offer's model, so the offer is not on the market: load the model there, set the offer's backend_model to the name it has there, or check_backend to \"alive\" if the server takes any name"
            ),
            Some(Absent::BackendFull) => tracing::info!(
                %offer, backend,
                "the backend refuses jobs for too many requests: the offer leaves the market for a while"
            ),
            Some(Absent::NoRoom) => tracing::info!(
                %offer,
                "all slots have been taken for a while: the offer leaves the market until there is room"
            ),
            None => tracing::info!(%offer, "the offer can be served again"),
        }
    }
}

/// Keeps the offers of all backends.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    connections: TaskTracker,
    options: ProvideOptions,
    on_market: Arc<OnMarket>,
    monitors: Vec<Arc<Monitor>>,
    stands: Vec<Stand>,
    changed: Arc<Notify>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        connections: TaskTracker,
        options: ProvideOptions,
        changed: Arc<Notify>,
    ) -> Self {
        Self {
            shared,
            connections,
            options,
            on_market: Arc::default(),
            monitors: Vec::new(),
            stands: Vec::new(),
            changed,
        }
    }

    pub(super) fn on_market(&self) -> &Arc<OnMarket> {
        &self.on_market
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
        let stand = Stand::new(offer_id, config.clone(), monitor, false)?;
        if self.has(&stand.offer_id) {
            return Err(StartError::DuplicateOffer(offer_id.to_owned()));
        }
        self.stands.push(stand);
        Ok(())
    }

    fn has(&self, offer_id: &OfferId) -> bool {
        self.stands.iter().any(|stand| stand.offer_id == *offer_id)
    }

    /// Puts on the market what can be served now.
    pub(super) async fn open(&mut self) -> Result<(), ProvideError> {
        self.discover();
        for index in 0..self.stands.len() {
            self.settle(index).await?;
        }
        Ok(())
    }

    /// Follows what changes, until the offers are taken back for good.
    pub(super) async fn run(mut self) {
        while !self.on_market.is_closed() {
            // Whichever comes first.
            let _ = timeout(LOOK_EVERY, self.changed.notified()).await;
            self.discover();
            for index in 0..self.stands.len() {
                let settled = self.settle(index).await;
                if let Err(error) = settled {
                    self.try_later(index, &error);
                }
            }
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
                .filter(|stand| of_backend(stand) && !stand.discovered)
                .map(|stand| stand.config.backend_model().to_owned())
                .collect();
            self.stands.retain(|stand| {
                // Those that are missing only for a moment stay.
                let stays = !(of_backend(stand) && stand.discovered)
                    || found.iter().any(|found| is_stand_of(stand, found))
                    || self.on_market.payload(&stand.offer_id).is_some()
                        && !monitor.has(stand.config.backend_model());
                if !stays {
                    self.on_market.take_back(&stand.offer_id);
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
        let config = discover.offer(&found.model, found.context_size);
        // One whose name is taken, by another backend's offer perhaps, can't be told apart.
        match Stand::new(&found.model, config, monitor, true) {
            Ok(stand) if !self.has(&stand.offer_id) => self.stands.push(stand),
            Ok(_) => {}
            Err(error) => tracing::debug!(model = found.model, %error, "a model becomes no offer"),
        }
    }

    /// Makes the market fit what can be served of an offer.
    async fn settle(&mut self, index: usize) -> Result<(), ProvideError> {
        let now = Instant::now();
        let Some(stand) = self.stands.get_mut(index) else {
            return Ok(());
        };
        let absent = stand.absent(now);
        stand.tell(absent);
        let payload = match absent {
            None => Some(stand.config.payload_at(unix_now())),
            Some(_) => None,
        };
        let wanted = payload.as_ref().map(OfferPayload::to_json);
        let held = self.on_market.payload(&stand.offer_id);
        if wanted == held {
            return Ok(());
        }
        if held.is_some() {
            self.on_market.take_back(&stand.offer_id);
        }
        let early = stand.retry_at.is_some_and(|at| now < at);
        match payload {
            Some(payload) if !early && !self.on_market.is_closed() => {
                self.provide(index, payload).await
            }
            _ => Ok(()),
        }
    }

    async fn provide(&mut self, index: usize, payload: OfferPayload) -> Result<(), ProvideError> {
        let Some(stand) = self.stands.get_mut(index) else {
            return Ok(());
        };
        let spec = OfferSpec {
            protocol_id: protocol_id(),
            offer_id: stand.offer_id.clone(),
            protocol_payload: payload.to_json(),
        };
        let of_0_2 = v0_2::payload(&stand.config, &payload);
        let spec_0_2 = OfferSpec {
            protocol_id: protocol::v0_2::protocol_id(),
            offer_id: stand.offer_id.clone(),
            protocol_payload: of_0_2.to_json(),
        };
        let offer = Offer {
            id: stand.offer_id.clone(),
            config: stand.config.clone(),
            payload,
            backend: Arc::clone(&stand.monitor.backend),
            monitor: Arc::clone(&stand.monitor),
            lane: Arc::clone(&stand.lane),
        };
        let offer = Arc::new(offer);
        let sold = v0_2::Sold {
            offer: Arc::clone(&offer),
            terms: of_0_2.terms(),
        };
        let service = Arc::new(Service {
            offers: HashMap::from([(stand.offer_id.clone(), offer)]),
            sold: HashMap::from([(stand.offer_id.clone(), Arc::new(sold))]),
            shared: Arc::clone(&self.shared),
            connections: self.connections.clone(),
        });
        let serves = Arc::clone(&service) as Arc<dyn ProviderService>;
        let text = spec.protocol_payload.clone();
        let options = self.options.clone();
        let provision = self
            .shared
            .node
            .provide(vec![spec, spec_0_2], options, serves)
            .await?;
        (stand.retry_at, stand.pause) = (None, FIRST_PAUSE);
        let held = Held {
            payload: text,
            _provision: provision,
        };
        self.on_market.put(stand.offer_id.clone(), held, service);
        Ok(())
    }

    fn try_later(&mut self, index: usize, error: &ProvideError) {
        let Some(stand) = self.stands.get_mut(index) else {
            return;
        };
        // Over the RPC, an offer that was taken back may be there for a moment.
        if stand.pause > FIRST_PAUSE {
            tracing::warn!(offer = %stand.offer_id, %error, "the offer can't be put on the market yet");
        }
        stand.retry_at = Some(Instant::now() + stand.pause);
        stand.pause = stand.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

fn is_stand_of(stand: &Stand, found: &Found) -> bool {
    stand.config.model_id == found.model && stand.config.context_size == found.context_size
}

fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

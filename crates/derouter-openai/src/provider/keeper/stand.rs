//! One offer, on the market or not.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{OfferId, UnixSeconds};
use tokio::time::Instant;

use super::{Announced, FIRST_PAUSE, FULL_FOR, MISSING_FOR, NAMED_FOR, ROOM_FOR, unix_now};
use crate::protocol;
use crate::provider::admission::Lane;
use crate::provider::board::Seat;
use crate::provider::config::{DEFAULT_QUEUE_TIME, OfferConfig};
use crate::provider::health::Steady;
use crate::provider::load::LoadSign;
use crate::provider::monitor::{Found, Monitor};
use crate::provider::pump::Offer;
use crate::provider::running::StartError;
use crate::provider::v0_2;

/// Looks for what no offer can have.
pub(in crate::provider) fn check_config(config: &OfferConfig) -> Result<(), String> {
    let places = config.places();
    if places.slots == 0 || places.per_consumer == 0 {
        return Err("max_concurrency must be at least 1".to_owned());
    }
    let most = derouter_sdk::wire::limits::OFFER_PAYLOAD_BYTES;
    let of_0_2 = v0_2::payload(config, &config.payload()).to_json();
    if config.payload().to_json().len().max(of_0_2.len()) > most {
        return Err("its description is too long".to_owned());
    }
    // As consumers read it.
    if protocol::v0_2::OfferPayload::parse(&of_0_2).is_none() {
        let reason = "a name in it is empty or too long, or there are too many";
        return Err(reason.to_owned());
    }
    Ok(())
}

fn queue_time(config: &OfferConfig) -> Duration {
    config.terms.queue_time.unwrap_or(DEFAULT_QUEUE_TIME)
}

/// An offer, on the market or not.
pub(super) struct Stand {
    pub(super) offer_id: OfferId,
    pub(super) config: Arc<OfferConfig>,
    pub(super) monitor: Arc<Monitor>,
    lane: Arc<Lane>,
    pub(super) origin: Origin,
    /// Something of it is not as the configuration has it.
    pub(super) edited: bool,
    /// Its owner does not want it to be on the market now.
    pub(super) paused: bool,
    /// Why a change of it does not hold.
    pub(super) problem: Option<String>,
    named: Steady,
    roomy: Steady,
    load: LoadSign,
    /// Why it is not on the market; what the operator was told last.
    told: Option<Absent>,
    /// Since when that is so.
    since: UnixSeconds,
    pub(super) retry_at: Option<Instant>,
    pub(super) pause: Duration,
    /// Why the node did not take it.
    pub(super) refused: Option<String>,
}

/// Where an offer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Origin {
    /// The configuration has it.
    Config,
    /// It is one of the models that the backend names.
    Discovered(Found),
    /// It was added while a provider ran.
    Added,
}

/// Why an offer is not on the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Absent {
    Paused,
    BackendDown,
    BackendFull,
    ModelMissing,
    NoRoom,
}

impl Stand {
    pub(super) fn new(
        offer_id: &str,
        config: OfferConfig,
        monitor: &Arc<Monitor>,
        origin: Origin,
    ) -> Result<Self, StartError> {
        let refuse = |reason: String| StartError::Offer {
            offer_id: offer_id.to_owned(),
            reason,
        };
        let id = OfferId::new(offer_id).map_err(|error| refuse(error.to_string()))?;
        check_config(&config).map_err(refuse)?;
        let lane = Lane::new(config.places(), queue_time(&config));
        Ok(Self {
            offer_id: id,
            config: Arc::new(config),
            monitor: Arc::clone(monitor),
            lane: Arc::new(lane),
            origin,
            edited: false,
            paused: false,
            problem: None,
            named: Steady::new(MISSING_FOR, NAMED_FOR),
            roomy: Steady::new(FULL_FOR, ROOM_FOR),
            load: LoadSign::default(),
            told: None,
            since: unix_now(),
            retry_at: None,
            pause: FIRST_PAUSE,
            refused: None,
        })
    }

    /// The model of its backend that it was found as.
    pub(super) fn found(&self) -> Option<&Found> {
        match &self.origin {
            Origin::Discovered(found) => Some(found),
            Origin::Config | Origin::Added => None,
        }
    }

    /// Changes it. Says whether what is announced may be another now.
    pub(super) fn change(&mut self, config: OfferConfig) -> Result<bool, String> {
        if config == *self.config {
            return Ok(false);
        }
        check_config(&config)?;
        self.lane.resize(config.places(), queue_time(&config));
        if config.backend_model() != self.config.backend_model() {
            self.named = Steady::new(MISSING_FOR, NAMED_FOR);
        }
        self.config = Arc::new(config);
        Ok(true)
    }

    /// What is shown of it.
    pub(super) fn seat(&self, on_market: bool) -> Seat {
        Seat {
            offer_id: self.offer_id.clone(),
            config: Arc::clone(&self.config),
            monitor: Arc::clone(&self.monitor),
            lane: Arc::clone(&self.lane),
            origin: self.origin.clone(),
            edited: self.edited,
            problem: self.problem.clone(),
            absent: self.told,
            on_market,
            since: self.since,
            refused: self.refused.clone(),
        }
    }

    /// Whether it can be served now.
    pub(super) fn absent(&mut self, now: Instant) -> Option<Absent> {
        let named = self.monitor.has(self.config.backend_model());
        let named = self.named.see(named, now);
        let roomy = self.roomy.see(!self.lane.is_full(), now);
        if self.paused {
            Some(Absent::Paused)
        } else if !self.monitor.is_up() {
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

    /// What is to be announced now, if anything.
    pub(super) fn wanted(&mut self, now: Instant, tells_load: bool) -> Option<Announced> {
        let absent = self.absent(now);
        self.tell(absent);
        let load = self.load.see(self.lane.taken(), now);
        match absent {
            None => Some(Announced {
                payload: self.config.payload_at(unix_now()),
                load: load.filter(|_| tells_load),
            }),
            Some(_) => None,
        }
    }

    pub(super) fn offer(&self, announced: Announced) -> Arc<Offer> {
        let Announced { payload, load } = announced;
        Arc::new(Offer {
            id: self.offer_id.clone(),
            config: OfferConfig::clone(&self.config),
            payload,
            load,
            backend: Arc::clone(&self.monitor.backend),
            monitor: Arc::clone(&self.monitor),
            lane: Arc::clone(&self.lane),
        })
    }

    /// Tells the operator, once.
    fn tell(&mut self, absent: Option<Absent>) {
        let before = std::mem::replace(&mut self.told, absent);
        if before == absent {
            return;
        }
        self.since = unix_now();
        let (offer, model) = (&self.offer_id, self.config.backend_model());
        let backend = self.monitor.backend.shown();
        match absent {
            Some(Absent::Paused) => {
                tracing::info!(%offer, "the offer is paused and leaves the market");
            }
            // The monitor has told that, once for all offers.
            Some(Absent::BackendDown) => tracing::debug!(%offer, "not on the market"),
            Some(Absent::ModelMissing) if self.found().is_some() => tracing::info!(
                %offer, backend,
                "the backend does not name this model any more: the offer leaves the market"
            ),
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

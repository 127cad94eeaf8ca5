//! How a request goes to a provider: what it takes up while it runs, and what its client is told
//! of the way.

use std::fmt;
use std::sync::Arc;

use derouter_sdk::Wei;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::active::{ActiveId, Entry, Subject};
use super::gateway::Gateway;
use super::offers::Offer;
use super::router::Path;

/// The way of an attempt, for as long as anything of it runs.
pub(crate) struct Route {
    /// Which attempt it is, from 1.
    pub(crate) attempt: usize,
    /// How the provider is reached.
    pub(crate) path: Path,
    /// What the request will probably cost there.
    pub(crate) estimated_cost: Wei,
    gateway: Arc<Gateway>,
    offer: Arc<Offer>,
    active: ActiveId,
    /// The request's place among those that run.
    _place: Arc<OwnedSemaphorePermit>,
}

impl Route {
    /// Counts the request among those that run with the provider, until this is dropped.
    pub(crate) fn new(
        gateway: &Arc<Gateway>,
        offer: &Arc<Offer>,
        place: &Arc<OwnedSemaphorePermit>,
        (attempt, estimated_cost): (usize, Wei),
        asked: Subject,
    ) -> Self {
        gateway.began(offer);
        let path = gateway.path(&offer.provider);
        let active = gateway.active().add(Entry {
            offer: Arc::clone(offer),
            asked,
            attempt,
            path,
            estimated_cost,
            began: Instant::now(),
        });
        Self {
            attempt,
            path,
            estimated_cost,
            active,
            gateway: Arc::clone(gateway),
            offer: Arc::clone(offer),
            _place: Arc::clone(place),
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.gateway.ended(&self.offer);
        self.gateway.active().remove(self.active);
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("attempt", &self.attempt)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

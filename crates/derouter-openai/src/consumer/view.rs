//! What the gateway knows, for whoever looks at it: the command line, the page, programs.
//!
//! All of it comes from memory. Offers are listed under a lock that requests only read with, what was
//! measured is read in small steps, so that no request waits for a long list.
//!
//! Amounts are decimal POL as text. Shares are from 0 to 1, times Unix seconds.

mod models;
mod offers;
mod requests;
mod spending;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use models::{ModelView, ModelsView, models_of};
pub use offers::{
    ExclusionView, ObservedView, OfferView, OffersQuery, OffersView, PathView, PricesView,
    SpreadView, offers_of,
};
pub use requests::{ActiveView, RequestView};
pub use spending::{CountsView, KeyView, LimitView, ProviderView, SpendingView};

use derouter_sdk::{OfferId, PeerId};

use super::gateway::Gateway;
use super::keys::KeyRecord;
pub use super::price_history::PastPrice;

/// Who looks: whoever may see all, or the holder of a key, who sees what that key is for.
#[derive(Clone, Debug)]
pub(crate) enum Onlooker {
    /// The node's owner, or anybody on this machine while there are no keys.
    Owner,
    /// The holder of a key.
    Key(Arc<KeyRecord>),
}

impl Onlooker {
    pub(super) fn key(&self) -> Option<&KeyRecord> {
        match self {
            Self::Owner => None,
            Self::Key(key) => Some(key),
        }
    }
}

/// Looks at a gateway in this process, with its owner's eyes. Cheap to clone. It keeps the gateway's
/// memory, so drop it when the gateway is shut down.
#[derive(Clone)]
pub struct Viewer {
    pub(super) gateway: Arc<Gateway>,
}

impl Viewer {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    /// The offers that the gateway knows.
    pub fn offers(&self, query: &OffersQuery) -> OffersView {
        offers::offers(&self.gateway, query, &Onlooker::Owner)
    }

    /// The prices that an offer had, oldest first, those of earlier runs among them.
    pub fn prices(&self, provider: &PeerId, offer: &OfferId) -> Vec<PastPrice> {
        self.gateway
            .with_prices(|prices| prices.of(provider, offer))
    }

    /// The models on offer.
    pub fn models(&self) -> ModelsView {
        models::models(&self.gateway, &Onlooker::Owner)
    }

    /// What was spent.
    pub fn spending(&self) -> SpendingView {
        spending::spending(&self.gateway, &Onlooker::Owner)
    }

    /// The requests that run.
    pub fn active(&self) -> ActiveView {
        requests::active(&self.gateway, &Onlooker::Owner)
    }
}

impl std::fmt::Debug for Viewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Viewer")
    }
}

pub(super) use models::models;
pub(super) use offers::offers;
pub(super) use requests::active;
pub(super) use spending::spending;

/// To a thousandth: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

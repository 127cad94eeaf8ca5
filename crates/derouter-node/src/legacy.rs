//! Providers that speak no wire 0.2, so that each job of theirs is not tried there first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use derouter_sdk::PeerId;

/// How long that is believed: a node may be updated.
const LASTS: Duration = Duration::from_secs(300);

/// Providers remembered. Above it, those of the longest ago are tried again.
const MOST: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LegacyProviders(Mutex<HashMap<PeerId, Duration>>);

impl LegacyProviders {
    /// A provider refused wire 0.2.
    pub(crate) fn add(&self, peer: PeerId, now: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, since| now.saturating_sub(*since) < LASTS);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(peer, now);
    }

    /// Whether it did lately.
    pub(crate) fn has(&self, peer: &PeerId, now: Duration) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = known.get(peer);
        since.is_some_and(|since| now.saturating_sub(*since) < LASTS)
    }
}

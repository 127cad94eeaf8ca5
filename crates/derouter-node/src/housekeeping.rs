//! Keeps the database from growing with what strangers announce: offers that nobody bought and that
//! are off the market, and providers that have been silent for long, are forgotten.
//!
//! The market task does this between announcements, so that no snapshot is forgotten while it is
//! on its way onto the market.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{SnapshotId, UnixSeconds};
use derouter_store::Idle;

use crate::clock::unix_now;
use crate::shared::Shared;

/// How often it is looked. A snapshot lives from one look to the next at least.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The pause between two bites of a large clean-up, so that others are served in between.
const BITE_PAUSE: Duration = Duration::from_millis(200);

/// A provider that was silent for this long is forgotten: thirty days.
const SILENT_SECS: u64 = 30 * 86_400;

pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    /// Snapshots behind this one are too young to be forgotten.
    up_to: SnapshotId,
    /// Up to where the next round may go: the newest snapshot when this round began.
    next_up_to: Option<SnapshotId>,
}

impl Housekeeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            up_to: SnapshotId(0),
            next_up_to: None,
        }
    }

    /// Forgets some of what is idle, which takes milliseconds; returns when to come again.
    pub(crate) async fn bite(&mut self) -> Duration {
        let idle = Idle {
            active: self.shared.market().index.known_snapshots().collect(),
            up_to: self.up_to,
            heard_before: UnixSeconds(unix_now().0.saturating_sub(SILENT_SECS)),
        };
        let forgotten = match self.shared.store.forget_idle(idle).await {
            Ok(forgotten) => forgotten,
            Err(error) => {
                tracing::warn!(%error, "could not clean up the database");
                return INTERVAL;
            }
        };
        let next = *self.next_up_to.get_or_insert(forgotten.newest);
        if forgotten.snapshots > 0 || forgotten.providers > 0 {
            tracing::debug!(?forgotten, "forgot idle offers and providers");
            return BITE_PAUSE;
        }
        self.up_to = next;
        self.next_up_to = None;
        INTERVAL
    }
}

//! Keeps the database from growing with what strangers announce: offers that nobody bought and that
//! are off the market, and providers that have been silent for long, are forgotten.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::{SnapshotId, UnixSeconds};
use derouter_store::{Forgotten, Idle};

use crate::clock::unix_now;
use crate::shared::Shared;

/// How often it is looked. A snapshot lives from one look to the next at least.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The pause between two bites of a large clean-up, so that the database serves others too.
const BITE_PAUSE: Duration = Duration::from_millis(200);

/// Bites in one clean-up: a million rows an hour, more than strangers can add in one.
const MAX_BITES: u32 = 1000;

/// A provider that was silent for this long is forgotten: thirty days.
const SILENT_SECS: u64 = 30 * 86_400;

pub(crate) async fn run(shared: Arc<Shared>) {
    let mut up_to = SnapshotId(0);
    loop {
        up_to = clean_up(&shared, up_to).await.unwrap_or(up_to);
        let pause = tokio::time::sleep(INTERVAL);
        if shared.stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// Forgets what is idle, and returns the newest snapshot, up to which the next call may go.
async fn clean_up(shared: &Shared, up_to: SnapshotId) -> Option<SnapshotId> {
    let mut newest = None;
    for _ in 0..MAX_BITES {
        let forgotten = forget(shared, up_to).await?;
        newest.get_or_insert(forgotten.newest);
        if forgotten.snapshots == 0 && forgotten.providers == 0 {
            break;
        }
        tracing::debug!(?forgotten, "forgot idle offers and providers");
        shared
            .stop
            .run_until_cancelled(tokio::time::sleep(BITE_PAUSE))
            .await?;
    }
    newest
}

async fn forget(shared: &Shared, up_to: SnapshotId) -> Option<Forgotten> {
    let idle = Idle {
        active: shared.market().index.known_snapshots().collect(),
        up_to,
        heard_before: UnixSeconds(unix_now().0.saturating_sub(SILENT_SECS)),
    };
    match shared.store.forget_idle(idle).await {
        Ok(forgotten) => Some(forgotten),
        Err(error) => {
            tracing::warn!(%error, "could not clean up the database");
            None
        }
    }
}

//! Forgets payloads by age and by size, and gives the space back, a little at a time. What was signed
//! stays: see `derouter_store`'s retention.

use std::time::Duration;

use derouter_sdk::UnixSeconds;
use derouter_store::{PayloadMark, Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::clock::unix_now;
use crate::config::PayloadRetention;

/// How often it is looked. Payloads may be so much older, or more, than is allowed.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The first look: not in the way of what starts.
const FIRST: Duration = Duration::from_secs(60);

/// The pause between two steps, so that others are served in between.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Runs until the node stops.
pub(crate) async fn run(store: Store, retention: PayloadRetention, stop: CancellationToken) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = INTERVAL;
        let round = tokio::select! {
            () = stop.cancelled() => return,
            round = forget(&store, retention) => round,
        };
        if let Err(error) = round {
            tracing::warn!(%error, "could not forget old payloads; trying again in an hour");
        }
    }
}

/// One round: by age, by size, then the space.
pub(crate) async fn forget(store: &Store, retention: PayloadRetention) -> Result<(), StoreError> {
    if let Some(age) = retention.max_age {
        let oldest = UnixSeconds(unix_now().0.saturating_sub(age.as_secs()));
        prune(store, PayloadMark::before(oldest), "age").await?;
    }
    if let Some(allowed) = retention.max_bytes
        && let Some(mark) = first_over(store, allowed).await?
    {
        prune(store, mark, "size").await?;
    }
    while store.give_back_space().await? {
        tokio::time::sleep(STEP_PAUSE).await;
    }
    Ok(())
}

async fn prune(store: &Store, mark: PayloadMark, by: &'static str) -> Result<(), StoreError> {
    let (mut jobs, mut bytes) = (0_u64, 0_u64);
    loop {
        let pruned = store.prune_payloads(mark).await?;
        if pruned.jobs == 0 {
            break;
        }
        jobs = jobs.saturating_add(pruned.jobs);
        bytes = bytes.saturating_add(pruned.bytes);
        tokio::time::sleep(STEP_PAUSE).await;
    }
    if jobs > 0 {
        tracing::info!(
            jobs,
            bytes,
            by,
            "forgot payloads; outcomes and signatures stay"
        );
    }
    Ok(())
}

/// The newest payload that has no place within `allowed` bytes.
async fn first_over(store: &Store, allowed: u64) -> Result<Option<PayloadMark>, StoreError> {
    let mut from = None;
    let mut left = allowed;
    loop {
        let sizes = store.payload_sizes(from, left).await?;
        if sizes.over.is_some() || sizes.next.is_none() {
            return Ok(sizes.over);
        }
        left = left.saturating_sub(sizes.bytes);
        from = sizes.next;
        tokio::time::sleep(STEP_PAUSE).await;
    }
}

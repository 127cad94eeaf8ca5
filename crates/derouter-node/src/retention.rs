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

#[cfg(test)]
mod tests {
    use derouter_sdk::{JobId, JobKey, OfferId, PeerId, ProtocolId};
    use derouter_store::market::Role;
    use derouter_store::{Durability, NewJob};
    use derouter_wire::Currency;
    use derouter_wire::rpc::record::FailureReason;

    use super::*;

    /// A failed job that was made so many seconds ago, with a request of 1000 bytes.
    async fn failed(store: &Store, provider: PeerId, id: &str, age: u64) {
        let protocol = ProtocolId::new("p").unwrap();
        let offer = vec![(protocol, OfferId::new("o").unwrap(), String::new())];
        let key = JobKey {
            provider,
            job_id: JobId::new(id).unwrap(),
        };
        let at = UnixSeconds(unix_now().0 - age);
        let new = NewJob {
            wire: derouter_wire::job::JobWire::V0_2,
            stage: derouter_market::job::Stage::Accepted,
            role: Role::Consumer,
            key: key.clone(),
            consumer: provider,
            snapshot_id: store.snapshot_ids(provider, offer).await.unwrap()[0],
            currency: Currency::Pol,
            job_args: Some("x".repeat(1000)),
            created_at_sync: at,
            created_at_local: at,
        };
        store.insert_job(new, Durability::Wal).await.unwrap();
        let failure = FailureReason {
            reason: "no".into(),
            reason_class: None,
        };
        let step = move |job: &derouter_market::Job| {
            let cause = derouter_wire::jobs::FailureCause::ConsumerGaveUp;
            job.fail(cause, failure, at).ok()
        };
        let failed = store.update_job(Role::Consumer, &key, Durability::Wal, step);
        failed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn payloads_go_by_age_then_by_size() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("derouter.sqlite")).unwrap();
        let provider = PeerId::random();
        for (id, age) in [("old", 5000), ("a", 300), ("b", 200), ("c", 100)] {
            failed(&store, provider, id, age).await;
        }
        let left = async || {
            let mut left = Vec::new();
            for id in ["old", "a", "b", "c"] {
                let job_id = JobId::new(id).unwrap();
                let key = JobKey { provider, job_id };
                let args = store.job_args(Role::Consumer, &key).await.unwrap();
                left.push(args.is_some());
            }
            left
        };
        let mut retention = PayloadRetention {
            max_age: None,
            max_bytes: None,
        };
        forget(&store, retention).await.unwrap();
        assert_eq!(left().await, [true, true, true, true]);
        retention.max_age = Some(Duration::from_secs(1000));
        forget(&store, retention).await.unwrap();
        assert_eq!(left().await, [false, true, true, true]);
        retention.max_bytes = Some(2500);
        forget(&store, retention).await.unwrap();
        assert_eq!(left().await, [false, false, true, true]);
        retention.max_bytes = Some(0);
        forget(&store, retention).await.unwrap();
        assert_eq!(left().await, [false; 4]);
        store.close().await.unwrap();
    }
}

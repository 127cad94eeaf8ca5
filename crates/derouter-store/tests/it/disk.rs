//! A disk that is full.

use std::fs;

use derouter_market::Role;
use derouter_store::{Durability, InsertJobError, Store, StoreError};

use tokio::task::JoinSet;

use crate::opening::mount;
use crate::support::{Fixture, offer};

#[tokio::test]
async fn a_full_disk_refuses_writes_keeps_what_is_stored_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = mount(directory.path(), "size=1m") else {
        return;
    };
    let ballast = directory.path().join("ballast");
    fs::write(&ballast, vec![1; 256 * 1024]).unwrap();
    let mut fixture = Fixture::new().await;
    let path = directory.path().join("derouter.sqlite");
    fixture.store = Store::open(&path).unwrap();
    fixture.snapshot = offer(&fixture.store, fixture.provider, "openai:0.1").await;

    let mut stored = Vec::new();
    let mut error = None;
    for number in 0..200 {
        let id = format!("job-{number}");
        let mut new = fixture.new_job(Role::Consumer, &id);
        new.job_args = Some("x".repeat(16 * 1024));
        match fixture.store.insert_job(new, Durability::Fsync).await {
            Ok(_) => stored.push(id),
            Err(refused) => {
                error = Some(refused);
                break;
            }
        }
    }
    assert_eq!(error, Some(InsertJobError::Store(StoreError::DiskFull)));
    assert!(!stored.is_empty());

    // All who share a transaction are told, and none of them is stored.
    let hold = fixture.hold_by("job-0").await;
    let mut tasks = JoinSet::new();
    for number in 0..8 {
        let mut new = fixture.new_job(Role::Consumer, &format!("late-{number}"));
        new.job_args = Some("x".repeat(64 * 1024));
        let store = fixture.store.clone();
        tasks.spawn(async move { store.insert_job(new, Durability::Wal).await });
    }
    fixture.until_queued(8).await;
    drop(hold);
    for refused in tasks.join_all().await {
        assert_eq!(refused, Err(InsertJobError::Store(StoreError::DiskFull)));
    }
    assert!(
        fixture.store.counters().lost_transactions >= 2,
        "{:?}",
        fixture.store.counters()
    );

    fs::remove_file(&ballast).unwrap();
    fixture.insert(Role::Consumer, "after").await;
    stored.push("after".into());
    fixture.store.close().await.unwrap();
    let store = Store::open(&path).unwrap();
    for id in &stored {
        assert!(
            store
                .job(Role::Consumer, &fixture.key(id))
                .await
                .unwrap()
                .is_some(),
            "{id}"
        );
    }
    assert_eq!(
        store.count_open_jobs(Role::Consumer).await.unwrap(),
        stored.len() as u64
    );
    store.close().await.unwrap();
}

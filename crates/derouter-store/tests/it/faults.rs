//! Faults at the points of `src/faults.rs`. The points are of the whole process, so each test runs
//! in one of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use derouter_market::Role;
use derouter_store::{Durability, InsertJobError, Store, StoreError};

use crate::support::Fixture;

/// Set for the process that a test runs in.
const CHILD: &str = "DEROUTER_STORE_FAULT_TEST";

/// Runs the named test of this module in a process of its own. True in that process.
fn is_child(name: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let name = format!("faults::{name}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name.as_str(), "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("1 passed"), "{shown}");
    false
}

async fn insert(fixture: &Fixture, id: &str, durability: Durability) -> Result<(), StoreError> {
    let new = fixture.new_job(Role::Consumer, id);
    match fixture.store.insert_job(new, durability).await {
        Ok(_) => Ok(()),
        Err(InsertJobError::Store(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

async fn has(store: &Store, fixture: &Fixture, id: &str) -> bool {
    let found = store.job(Role::Consumer, &fixture.key(id)).await;
    found.unwrap().is_some()
}

#[tokio::test]
async fn a_transaction_that_the_disk_refuses_is_undone_told_and_forgotten() {
    if !is_child("a_transaction_that_the_disk_refuses_is_undone_told_and_forgotten") {
        return;
    }
    let fixture = Fixture::new().await;
    insert(&fixture, "before", Durability::Wal).await.unwrap();
    let faults = [
        ("store::begin", "return(eio)"),
        ("store::commit", "return(eio)"),
        ("store::commit", "return(enospc)"),
        ("store::commit", "return(erofs)"),
    ];
    for (point, action) in faults {
        fail::cfg(point, action).unwrap();
        let error = insert(&fixture, "lost", Durability::Fsync)
            .await
            .unwrap_err();
        let right = match action {
            "return(enospc)" => error == StoreError::DiskFull,
            "return(erofs)" => error == StoreError::ReadOnly,
            _ => matches!(error, StoreError::Io(_)),
        };
        assert!(right, "{point} {action}: {error}");
        assert_eq!(fixture.store.trouble(), Some(error));
        // Reads are served, and see nothing of it.
        assert!(has(&fixture.store, &fixture, "before").await);
        assert!(!has(&fixture.store, &fixture, "lost").await);
        assert!(fixture.store.probe().await.is_err());
        fail::remove(point);
        fixture.store.probe().await.unwrap();
        assert_eq!(fixture.store.trouble(), None);
    }
    insert(&fixture, "after", Durability::Fsync).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_durable_until_the_log_is_written_anew() {
    if !is_child("after_a_failed_sync_nothing_is_durable_until_the_log_is_written_anew") {
        return;
    }
    let fixture = Fixture::new().await;
    insert(&fixture, "before", Durability::Fsync).await.unwrap();
    fail::cfg("store::sync", "return(eio)").unwrap();
    let error = insert(&fixture, "doubtful", Durability::Fsync)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotDurable(_)), "{error}");
    assert!(error.may_be_stored());
    // Also what asks for less is refused: it would lie behind what may be gone.
    for durability in [Durability::Wal, Durability::Fsync] {
        let error = insert(&fixture, "refused", durability).await.unwrap_err();
        assert!(matches!(error, StoreError::NotDurable(_)), "{error}");
    }
    assert!(has(&fixture.store, &fixture, "before").await);
    let trouble = fixture.store.trouble();
    assert!(
        matches!(trouble, Some(StoreError::NotDurable(_))),
        "{trouble:?}"
    );

    fail::remove("store::sync");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = fixture.store.probe().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fixture.store.trouble(), None);
    insert(&fixture, "after", Durability::Fsync).await.unwrap();
    for id in ["before", "doubtful", "after"] {
        assert!(has(&fixture.store, &fixture, id).await, "{id}");
    }
    assert!(!has(&fixture.store, &fixture, "refused").await);
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let store = Store::open(&path).unwrap();
    assert!(has(&store, &fixture, "after").await);
    store.close().await.unwrap();
}

/// What a failing disk really does: what was synced in vain is gone. Everything before it is kept,
/// everything behind it is left out, and the store goes on.
#[tokio::test]
async fn what_the_disk_dropped_is_left_out_when_the_log_is_read_anew() {
    if !is_child("what_the_disk_dropped_is_left_out_when_the_log_is_read_anew") {
        return;
    }
    let fixture = Fixture::new().await;
    insert(&fixture, "kept", Durability::Fsync).await.unwrap();
    let log = fixture.directory.path().join("derouter.sqlite-wal");
    let kept = usize::try_from(std::fs::metadata(&log).unwrap().len()).unwrap();
    fail::cfg("store::sync", "return(eio)").unwrap();
    insert(&fixture, "dropped", Durability::Fsync)
        .await
        .unwrap_err();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[kept..].fill(0);
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&log).unwrap(),
        &bytes[kept..],
        kept as u64,
    )
    .unwrap();
    fail::remove("store::sync");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = fixture.store.probe().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(has(&fixture.store, &fixture, "kept").await);
    assert!(!has(&fixture.store, &fixture, "dropped").await);
    insert(&fixture, "after", Durability::Fsync).await.unwrap();
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let report = derouter_store::Reader::open(&path).unwrap();
    assert_eq!(report.check(false, |_| ()).unwrap().found, 0);
}

#[tokio::test]
async fn a_process_that_ends_before_it_answers_has_stored_what_it_was_asked() {
    const PATH: &str = "DEROUTER_STORE_FAULT_PATH";
    let name = "faults::a_process_that_ends_before_it_answers_has_stored_what_it_was_asked";
    if let Some(path) = std::env::var_os(PATH) {
        let store = Store::open(std::path::Path::new(&path)).unwrap();
        fail::cfg("store::before-answer", "return(crash)").unwrap();
        store.probe().await.unwrap();
        unreachable!("the process ends before the answer");
    }
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    insert(&fixture, "a", Durability::Wal).await.unwrap();
    fixture.store.close().await.unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact"])
        .env(PATH, &path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "ended by a signal: {output:?}");
    let store = Store::open(&path).unwrap();
    assert!(has(&store, &fixture, "a").await);
    store.close().await.unwrap();
}

//! Group commit.

use std::collections::HashSet;

use derouter_market::Role;
use derouter_store::{Durability, InsertJobError, JobPage, NewJob, StoreError};
use tokio::task::JoinSet;

use crate::support::Fixture;

#[tokio::test]
async fn what_waits_together_is_committed_together() {
    let fixture = Fixture::new().await;
    let hold = fixture.hold().await;
    let before = fixture.store.counters();
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let (store, new) = (
            fixture.store.clone(),
            fixture.new_job(Role::Consumer, &number.to_string()),
        );
        let durability = if number == 50 {
            Durability::Fsync
        } else {
            Durability::Wal
        };
        tasks.spawn(async move { store.insert_job(new, durability).await.unwrap() });
    }
    fixture.until_queued(100).await;
    drop(hold);
    tasks.join_all().await;
    let after = fixture.store.counters();
    // The held command was counted as a write before; its commit comes after.
    assert_eq!(after.writes - before.writes, 100);
    assert_eq!(after.commits - before.commits, 2);
    assert_eq!(after.synced_commits - before.synced_commits, 1);
    assert_eq!(after.queued, 0);
}

#[tokio::test]
async fn a_command_that_fails_leaves_its_neighbours() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Consumer, "known").await;
    let hold = fixture.hold().await;
    let before = fixture.store.counters();
    let insert = |new: NewJob| {
        let store = fixture.store.clone();
        tokio::spawn(async move { store.insert_job(new, Durability::Wal).await })
    };
    let first = insert(fixture.new_job(Role::Consumer, "first"));
    fixture.until_queued(1).await;
    let duplicate = insert(fixture.new_job(Role::Consumer, "known"));
    let mut of_no_offer = fixture.new_job(Role::Consumer, "no offer");
    of_no_offer.snapshot_id.0 += 100;
    let of_no_offer = insert(of_no_offer);
    let panicking = {
        let (store, key) = (fixture.store.clone(), fixture.key("known"));
        tokio::spawn(async move {
            let decide = |_: &_| panic!("a bug in a decision");
            store
                .update_job(Role::Consumer, &key, Durability::Wal, decide)
                .await
        })
    };
    fixture.until_queued(4).await;
    let last = insert(fixture.new_job(Role::Consumer, "last"));
    fixture.until_queued(5).await;
    drop(hold);
    assert!(first.await.unwrap().is_ok());
    assert_eq!(
        duplicate.await.unwrap().unwrap_err(),
        InsertJobError::Duplicate
    );
    assert_eq!(
        of_no_offer.await.unwrap().unwrap_err(),
        InsertJobError::UnknownOffer
    );
    assert_eq!(panicking.await.unwrap().unwrap_err(), StoreError::Panicked);
    assert!(last.await.unwrap().is_ok());
    let after = fixture.store.counters();
    assert_eq!(
        after.commits - before.commits,
        2,
        "the held one, and these together"
    );
    assert_eq!(after.lost_transactions, 0);
    for id in ["first", "known", "last"] {
        assert!(
            fixture
                .store
                .job(Role::Consumer, &fixture.key(id))
                .await
                .unwrap()
                .is_some()
        );
    }
}

#[tokio::test]
async fn a_read_sees_the_writes_before_it_in_the_same_batch() {
    let fixture = Fixture::new().await;
    let hold = fixture.hold().await;
    let (store, new) = (
        fixture.store.clone(),
        fixture.new_job(Role::Consumer, "new"),
    );
    let write = tokio::spawn(async move { store.insert_job(new, Durability::Wal).await });
    fixture.until_queued(1).await;
    let (store, key) = (fixture.store.clone(), fixture.key("new"));
    let read = tokio::spawn(async move { store.job(Role::Consumer, &key).await });
    fixture.until_queued(2).await;
    drop(hold);
    let written = write.await.unwrap().unwrap();
    assert_eq!(read.await.unwrap().unwrap(), Some(written));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_inserts_are_all_there_in_far_fewer_commits() {
    const TASKS: usize = 500;
    const EACH: usize = 20;
    let fixture = Fixture::new().await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = fixture.store.clone();
        let new: Vec<_> = (0..EACH)
            .map(|number| fixture.new_job(Role::Provider, &format!("{task}/{number}")))
            .collect();
        tasks.spawn(async move {
            let mut rows = Vec::new();
            for new in new {
                rows.push(
                    store
                        .insert_job(new, Durability::Fsync)
                        .await
                        .unwrap()
                        .row_id,
                );
            }
            rows
        });
    }
    let rows: HashSet<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(rows.len(), TASKS * EACH);
    assert_eq!(
        fixture.store.count_open_jobs(Role::Provider).await.unwrap(),
        (TASKS * EACH) as u64
    );
    let counters = fixture.store.counters();
    assert!(counters.commits < counters.writes / 4, "{counters:?}");

    let mut page = JobPage {
        limit: 100,
        ..JobPage::default()
    };
    let mut seen = 0;
    loop {
        let jobs = fixture.store.jobs_page(page.clone()).await.unwrap();
        let Some(last) = jobs.last() else { break };
        assert!(jobs.is_sorted_by_key(|job| job.row_id));
        assert!(
            jobs.iter()
                .all(|job| Some(job.row_id) > page.after && rows.contains(&job.row_id))
        );
        seen += jobs.len();
        page.after = Some(last.row_id);
    }
    assert_eq!(seen, TASKS * EACH);
    fixture.store.close().await.unwrap();
}

#[tokio::test]
async fn a_thread_that_hangs_gives_no_sign_of_life() {
    let fixture = Fixture::new().await;
    fixture.store.ping().await.unwrap();
    let hold = fixture.hold().await;
    let patience = std::time::Duration::from_millis(200);
    let ping = tokio::time::timeout(patience, fixture.store.ping()).await;
    assert!(ping.is_err(), "{ping:?}");
    drop(hold);
    fixture.store.ping().await.unwrap();
}

//! Payloads go, what was signed stays.

use derouter_market::{JobState, Role};
use derouter_store::{Durability, PayloadMark, Pruned, Reader};
use derouter_wire::jobs::FailureCause;
use derouter_wire::{RowId, UnixSeconds};

use crate::support::Fixture;

/// A failed job of that time with a payload of that many bytes.
async fn failed(fixture: &Fixture, job_id: &str, at: u64, bytes: usize) {
    let mut new = fixture.new_job(Role::Consumer, job_id);
    new.created_at_local = UnixSeconds(at);
    new.job_args = Some("x".repeat(bytes));
    let job = fixture
        .store
        .insert_job(new, Durability::Wal)
        .await
        .unwrap();
    let fail = |job: &derouter_market::Job| {
        let failure = derouter_wire::rpc::record::FailureReason {
            reason: "no".into(),
            reason_class: None,
        };
        job.fail(FailureCause::ConsumerGaveUp, failure, UnixSeconds(9))
            .ok()
    };
    fixture.step(Role::Consumer, &job.key, fail).await;
}

async fn args(fixture: &Fixture, job_id: &str) -> Option<String> {
    let key = fixture.key(job_id);
    fixture.store.job_args(Role::Consumer, &key).await.unwrap()
}

#[tokio::test]
async fn payloads_go_by_age_and_the_signed_outcome_stays() {
    let fixture = Fixture::new().await;
    fixture.signed("signed", 5, true).await;
    fixture.signed("undelivered", 5, false).await;
    let mut open = fixture.new_job(Role::Consumer, "open");
    open.job_args = Some("asked".into());
    fixture
        .store
        .insert_job(open, Durability::Wal)
        .await
        .unwrap();
    failed(&fixture, "young", 5000, 10).await;
    let find = async |id: &str| {
        let key = fixture.key(id);
        fixture
            .store
            .job(Role::Consumer, &key)
            .await
            .unwrap()
            .unwrap()
    };
    let before = find("signed").await;
    assert!(before.private_payload.is_some());

    let mark = PayloadMark::before(UnixSeconds(5000));
    let pruned = fixture.store.prune_payloads(mark).await.unwrap();
    assert_eq!(pruned, Pruned { jobs: 1, bytes: 7 });
    assert_eq!(
        fixture.store.prune_payloads(mark).await.unwrap(),
        Pruned::default()
    );

    let after = find("signed").await;
    assert_eq!(after.private_payload, None);
    assert_eq!(after.state, before.state);
    assert_eq!(after.hash(), before.hash());
    assert!(find("undelivered").await.private_payload.is_some());
    assert_eq!(args(&fixture, "open").await.as_deref(), Some("asked"));
    assert!(args(&fixture, "young").await.is_some());
    // The signature still fits what is left.
    let report = Reader::open(fixture.store.path()).unwrap();
    let report = report.check(false, |_| ()).unwrap();
    assert_eq!((report.found, report.signatures), (0, 2));
}

#[tokio::test]
async fn payloads_over_a_size_are_found_and_go_oldest_first() {
    let fixture = Fixture::new().await;
    for (id, at) in [("c", 30), ("a", 10), ("b", 20)] {
        failed(&fixture, id, at, 1000).await;
    }
    let sizes = fixture.store.payload_sizes(None, 3000).await.unwrap();
    assert_eq!((sizes.bytes, sizes.over, sizes.next), (3000, None, None));
    let over = fixture.store.payload_sizes(None, 2999).await.unwrap().over;
    let mark = over.unwrap();
    assert_eq!(mark.created_at, UnixSeconds(10));
    fixture.store.prune_payloads(mark).await.unwrap();
    let mut left = Vec::new();
    for id in ["a", "b", "c"] {
        left.push(args(&fixture, id).await.is_some());
    }
    assert_eq!(left, [false, true, true]);
    // A mark need not be one of a row.
    let far = PayloadMark {
        created_at: UnixSeconds(30),
        row: RowId(u64::MAX),
    };
    assert_eq!(fixture.store.prune_payloads(far).await.unwrap().jobs, 2);
}

#[tokio::test]
async fn one_call_forgets_little_and_space_goes_back_to_the_file_system() {
    let fixture = Fixture::new().await;
    for number in 0..100_u64 {
        failed(&fixture, &number.to_string(), number, 200_000).await;
    }
    let mark = PayloadMark::before(UnixSeconds(1000));
    let first = fixture.store.prune_payloads(mark).await.unwrap();
    assert!(first.bytes <= 4 << 20 && first.jobs > 1, "{first:?}");
    let mut jobs = first.jobs;
    loop {
        let pruned = fixture.store.prune_payloads(mark).await.unwrap();
        if pruned.jobs == 0 {
            break;
        }
        jobs += pruned.jobs;
    }
    assert_eq!(jobs, 100);
    while fixture.store.give_back_space().await.unwrap() {}
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length < 6 << 20, "{length}");
    let store = derouter_store::Store::open(&path).unwrap();
    let key = fixture.key("7");
    let job = store.job(Role::Consumer, &key).await.unwrap().unwrap();
    assert!(matches!(job.state, JobState::Failed { .. }));
    store.close().await.unwrap();
}

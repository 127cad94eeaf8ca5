//! The order in which jobs changed.

use derouter_market::Role;
use derouter_store::{Durability, Store};
use derouter_wire::UnixSeconds;

use crate::support::Fixture;

async fn names(store: &Store, after: u64) -> (Vec<String>, u64) {
    let changes = store.job_changes(after, 100).await.unwrap().jobs;
    let last = changes.last().map_or(after, |(number, _)| *number);
    let names = changes
        .into_iter()
        .map(|(_, job)| job.key.job_id.to_string());
    (names.collect(), last)
}

#[tokio::test]
async fn each_job_is_told_once_in_the_order_of_its_latest_change_also_after_a_restart() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    for name in ["a", "b", "c"] {
        fixture.insert(Role::Provider, name).await;
    }
    let (told, place) = names(&fixture.store, 0).await;
    assert_eq!(told, ["a", "b", "c"]);
    let history = fixture.store.job_history().await.unwrap();
    assert_eq!(history.last, place);
    fixture.store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    assert_eq!(store.job_history().await.unwrap(), history);
    assert_eq!(names(&store, place).await.0, Vec::<String>::new());
    // A change of many rows at once, by another way than a step.
    let given_up = store.fail_open_provided(
        derouter_wire::jobs::FailureCause::ProviderStopped,
        "stopped",
        UnixSeconds(9),
    );
    assert_eq!(given_up.await.unwrap(), 3);
    let (told, later) = names(&store, place).await;
    assert_eq!(told, ["a", "b", "c"]);
    assert_eq!(later, place + 3);
    assert_eq!(names(&store, later - 1).await.0, ["c"]);
    assert_eq!(store.job_history().await.unwrap().last, later);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_step_that_is_refused_is_no_change() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Consumer, "a").await;
    let key = fixture.key("a");
    let place = fixture.store.job_history().await.unwrap().last;
    let refused = fixture
        .store
        .update_job(Role::Consumer, &key, Durability::Wal, |_| None);
    assert_eq!(refused.await.unwrap(), None);
    assert_eq!(fixture.store.job_history().await.unwrap().last, place);
}

//! Steps on jobs, pages, debts.

use derouter_market::job::{AlreadyEnded, Delivery, Failure, Notice, SignatureState, Stage};
use derouter_market::{JobChange, JobState, Role};
use derouter_store::{ChangeOutcome, Durability, InsertJobError, JobPage, StoreError, limits};
use derouter_wire::jobs::FailureCause;
use derouter_wire::reqres::ConfirmJobResult;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{PeerId, ProtocolId, RowId, UnixSeconds, Wei};

use crate::support::{Fixture, completed, offer, outcome, undelivered};

const WAL: Durability = Durability::Wal;

#[tokio::test]
async fn an_inserted_job_comes_back_with_its_offer() {
    let fixture = Fixture::new().await;
    let job = fixture.insert(Role::Consumer, "a").await;
    assert_eq!(job.state, JobState::Open(Stage::Accepted));
    assert_eq!(job.offer.snapshot_id, fixture.snapshot);
    assert_eq!(
        (job.offer.protocol_id.as_str(), job.offer.payload.as_str()),
        ("openai:0.1", "{}")
    );
    assert_eq!(
        (job.consumer, &job.key),
        (fixture.consumer, &fixture.key("a"))
    );
    assert_eq!(
        fixture.store.job(Role::Consumer, &job.key).await.unwrap(),
        Some(job.clone())
    );
    assert_eq!(
        fixture.store.job(Role::Provider, &job.key).await.unwrap(),
        None
    );
    assert_eq!(
        fixture
            .store
            .job_args(Role::Consumer, &job.key)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn each_side_has_one_row_for_a_job_and_only_for_the_providers_own_offer() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Consumer, "a").await;
    let mut own = fixture.new_job(Role::Provider, "a");
    own.job_args = Some("{}".into());
    fixture.store.insert_job(own, WAL).await.unwrap();
    let args = fixture
        .store
        .job_args(Role::Provider, &fixture.key("a"))
        .await
        .unwrap();
    assert_eq!(args.as_deref(), Some("{}"));
    let again = fixture
        .store
        .insert_job(fixture.new_job(Role::Consumer, "a"), WAL)
        .await;
    assert_eq!(again.unwrap_err(), InsertJobError::Duplicate);
    let mut foreign = fixture.new_job(Role::Consumer, "b");
    foreign.key.provider = PeerId::random();
    let error = fixture.store.insert_job(foreign, WAL).await.unwrap_err();
    assert_eq!(error, InsertJobError::UnknownOffer);
}

#[tokio::test]
async fn a_step_is_decided_on_the_job_as_it_is() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Provider, "a").await;
    let key = fixture.key("a");
    let complete = || {
        fixture
            .store
            .change_job(Role::Provider, &key, Durability::Fsync, |job| {
                job.complete_as_provider(outcome(5), None, Some("private".into()))
            })
    };
    let ChangeOutcome::Changed(job) = complete().await.unwrap() else {
        panic!()
    };
    assert_eq!(job.private_payload.as_deref(), Some("private"));
    assert_eq!(
        fixture
            .store
            .job(Role::Provider, &key)
            .await
            .unwrap()
            .as_ref(),
        Some(&*job)
    );
    let completed_at_sync = outcome(5).completed_at_sync;
    assert_eq!(
        complete().await.unwrap(),
        ChangeOutcome::Refused(AlreadyEnded::Completed { completed_at_sync })
    );
    let unknown = fixture.key("unknown");
    let fail = |job: &derouter_market::Job| {
        let cause = FailureCause::ConsumerGaveUp;
        job.fail(cause, FailureReason::default(), UnixSeconds(1))
    };
    let outcome = fixture
        .store
        .change_job(Role::Provider, &unknown, WAL, fail)
        .await
        .unwrap();
    assert_eq!(outcome, ChangeOutcome::NotFound);
}

#[tokio::test]
async fn concurrent_steps_on_one_job_are_taken_one_after_the_other() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Consumer, "a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, key) = (fixture.store.clone(), fixture.key("a"));
        tasks.spawn(async move {
            let sign =
                |job: &derouter_market::Job| job.sign_as_consumer(outcome(5), vec![1; 64], None);
            store
                .change_job(Role::Consumer, &key, WAL, sign)
                .await
                .unwrap()
        });
    }
    let outcomes = tasks.join_all().await;
    let changed = outcomes
        .iter()
        .filter(|one| matches!(one, ChangeOutcome::Changed(_)))
        .count();
    assert_eq!(changed, 1);
}

#[tokio::test]
async fn what_is_undelivered_is_listed_until_it_is_delivered() {
    let fixture = Fixture::new().await;
    for id in ["a", "b", "c", "open"] {
        fixture.insert(Role::Consumer, id).await;
    }
    for id in ["a", "b", "c"] {
        let sign = |_: &_| Some(completed(5, undelivered()));
        let key = fixture.key(id);
        fixture
            .store
            .update_job(Role::Consumer, &key, WAL, sign)
            .await
            .unwrap()
            .unwrap();
    }
    let deliver = |id: &str, delivery: Delivery| {
        let (store, key) = (fixture.store.clone(), fixture.key(id));
        async move {
            let step = move |job: &derouter_market::Job| job.delivered(delivery, UnixSeconds(9));
            store
                .update_job(Role::Consumer, &key, Durability::Fsync, step)
                .await
                .unwrap()
        }
    };
    let tried = deliver("a", Delivery::Unreached("gone".into()))
        .await
        .unwrap();
    deliver("b", Delivery::Answered(ConfirmJobResult::Ok))
        .await
        .unwrap();
    assert_eq!(
        deliver("b", Delivery::Answered(ConfirmJobResult::Ok)).await,
        None
    );
    let waiting = fixture.store.jobs_with_news(10, None).await.unwrap();
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[0], tried);
    let JobState::Completed { signature, .. } = &waiting[0].state else {
        panic!()
    };
    let SignatureState::Undelivered {
        attempts: 1,
        last_error,
        ..
    } = signature
    else {
        panic!()
    };
    assert_eq!(last_error.as_deref(), Some("gone"));
    let first = Some(waiting[0].row_id);
    assert_eq!(
        fixture.store.jobs_with_news(10, first).await.unwrap(),
        waiting[1..]
    );
    assert_eq!(
        fixture.store.jobs_with_news(1, None).await.unwrap(),
        waiting[..1]
    );
}

#[tokio::test]
async fn unsigned_debts_are_summed_for_each_consumer() {
    let mut fixture = Fixture::new().await;
    let (one, other) = (fixture.consumer, PeerId::random());
    let most = derouter_wire::Wei::MAX;
    for (id, consumer, wei) in [
        ("a", one, 5),
        ("b", one, 6),
        ("c", other, 7),
        ("d", other, 0),
    ] {
        fixture.consumer = consumer;
        fixture.insert(Role::Provider, id).await;
        let awaited = move |_: &_| Some(completed(wei, SignatureState::Awaited));
        fixture
            .store
            .update_job(Role::Provider, &fixture.key(id), WAL, awaited)
            .await
            .unwrap();
    }
    let mut debts = fixture.store.unsigned_debts().await.unwrap();
    debts.sort_by_key(|(_, debt)| *debt);
    assert_eq!(debts, [(other, Wei::from_wei(7)), (one, Wei::from_wei(11))]);

    fixture.insert(Role::Provider, "e").await;
    let huge = move |job: &derouter_market::Job| {
        let mut outcome = outcome(0);
        outcome.balance_delta = Some(most);
        job.complete_as_provider(outcome, None, None).ok()
    };
    fixture
        .store
        .update_job(Role::Provider, &fixture.key("e"), WAL, huge)
        .await
        .unwrap();
    let debts = fixture.store.unsigned_debts().await.unwrap();
    assert!(debts.contains(&(other, most)), "{debts:?}");
}

#[tokio::test]
async fn open_jobs_are_counted_for_each_side() {
    let fixture = Fixture::new().await;
    for id in ["a", "b", "c"] {
        fixture.insert(Role::Provider, id).await;
    }
    fixture.insert(Role::Consumer, "a").await;
    let fail = |_: &_| {
        let reason = FailureReason {
            reason: "gone".into(),
            reason_class: Some(-1),
        };
        Some(JobChange::to(JobState::Failed(Failure {
            cause: FailureCause::ProviderGaveUp,
            reason,
            at_local: UnixSeconds(3),
            notice: Notice::Unneeded,
        })))
    };
    fixture
        .store
        .update_job(Role::Provider, &fixture.key("b"), WAL, fail)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        fixture.store.count_open_jobs(Role::Provider).await.unwrap(),
        2
    );
    assert_eq!(
        fixture.store.count_open_jobs(Role::Consumer).await.unwrap(),
        1
    );
}

#[tokio::test]
async fn filters_of_a_page_combine_and_its_cursor_moves_on() {
    let mut fixture = Fixture::new().await;
    let store = fixture.store.clone();
    let (provider_a, consumer_a) = (fixture.provider, fixture.consumer);
    let (provider_b, consumer_b) = (PeerId::random(), PeerId::random());
    let mut rows = Vec::new();
    for (provider, protocol) in [
        (provider_a, "openai:0.1"),
        (provider_b, "openai:0.1"),
        (provider_b, "x:1"),
    ] {
        fixture.provider = provider;
        fixture.snapshot = offer(&store, provider, protocol).await;
        for consumer in [consumer_a, consumer_b] {
            fixture.consumer = consumer;
            let id = rows.len().to_string();
            rows.push(fixture.insert(Role::Consumer, &id).await.row_id);
        }
    }
    let ids = |protocols: &[&str]| {
        Some(
            protocols
                .iter()
                .map(|id| ProtocolId::new(*id).unwrap())
                .collect::<Vec<_>>(),
        )
    };
    let found = async |page: JobPage| {
        let jobs = store
            .jobs_page(JobPage {
                limit: if page.limit == 0 { 100 } else { page.limit },
                ..page
            })
            .await
            .unwrap();
        let found = jobs
            .iter()
            .map(|job| rows.iter().position(|row| *row == job.row_id).unwrap());
        found.collect::<Vec<_>>()
    };
    let all = JobPage::default();
    assert_eq!(found(all.clone()).await, [0, 1, 2, 3, 4, 5]);
    let only_b = JobPage {
        providers: Some(vec![provider_b]),
        ..all.clone()
    };
    assert_eq!(found(only_b.clone()).await, [2, 3, 4, 5]);
    let several = JobPage {
        providers: Some(vec![provider_b, provider_a, provider_b]),
        after: Some(rows[0]),
        limit: 3,
        ..all.clone()
    };
    assert_eq!(found(several.clone()).await, [1, 2, 3]);
    let of_protocol = JobPage {
        protocol_ids: ids(&["x:1", "y:1"]),
        ..several
    };
    assert_eq!(found(of_protocol).await, [4, 5]);
    let protocol_ids = ids(&["openai:0.1"]);
    let and = JobPage {
        consumers: Some(vec![consumer_b]),
        protocol_ids,
        ..only_b.clone()
    };
    assert_eq!(found(and).await, [3]);
    let either = JobPage {
        protocol_ids: ids(&["x:1", "openai:0.1"]),
        ..only_b.clone()
    };
    assert_eq!(found(either.clone()).await, [2, 3, 4, 5]);
    assert_eq!(
        found(JobPage {
            after: Some(rows[3]),
            ..either
        })
        .await,
        [4, 5]
    );
    assert_eq!(
        found(JobPage {
            consumers: Some(vec![]),
            ..all.clone()
        })
        .await,
        [0; 0]
    );
    assert_eq!(
        found(JobPage {
            protocol_ids: ids(&["x'--"]),
            ..all.clone()
        })
        .await,
        [0; 0]
    );
    assert_eq!(
        found(JobPage {
            after: Some(RowId(u64::MAX)),
            ..all.clone()
        })
        .await,
        [0; 0]
    );
    // The newest first, by one lookup and by several.
    let newest = JobPage {
        newest_first: true,
        limit: 3,
        ..all.clone()
    };
    assert_eq!(found(newest.clone()).await, [5, 4, 3]);
    let behind = JobPage {
        after: Some(rows[3]),
        ..newest
    };
    assert_eq!(found(behind.clone()).await, [2, 1, 0]);
    let merged = JobPage {
        providers: Some(vec![provider_a, provider_b]),
        limit: 2,
        ..behind
    };
    assert_eq!(found(merged).await, [2, 1]);
    let consumers = Some(vec![consumer_a; limits::IDS]);
    let widest = JobPage {
        consumers,
        protocol_ids: ids(&["x:1"; limits::IDS]),
        ..all.clone()
    };
    assert_eq!(found(widest).await, [4]);

    let limited = store
        .jobs_page(JobPage { limit: 2, ..only_b })
        .await
        .unwrap();
    assert_eq!(
        limited.iter().map(|job| job.row_id).collect::<Vec<_>>(),
        rows[2..4]
    );
    let too_many = JobPage {
        consumers: Some(vec![consumer_a; limits::IDS + 1]),
        ..all
    };
    assert!(matches!(
        store.jobs_page(too_many).await,
        Err(StoreError::TooMany { .. })
    ));
}

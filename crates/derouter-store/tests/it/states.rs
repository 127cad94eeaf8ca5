//! Every state of a job survives the database; what is no state is refused or named.

use derouter_market::job::{Failure, Notice, Outcome, SignatureState, Stage};
use derouter_market::{JobChange, JobState, Role};
use derouter_store::{Durability, Store, StoreError};
use derouter_wire::jobs::FailureCause;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{UnixSeconds, Wei};
use proptest::prelude::*;

use crate::support::{Fixture, completed, undelivered};

fn at() -> impl Strategy<Value = UnixSeconds> {
    prop_oneof![Just(0), Just(i64::MAX as u64), 0..2_000_000_000_u64].prop_map(UnixSeconds)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "\\PC{0,40}",
        Just("nul \0 inside".to_owned())
    ]
}

fn amount() -> impl Strategy<Value = Option<Wei>> {
    prop_oneof![
        Just(None),
        Just(Some(Wei::ZERO)),
        Just(Some(Wei::MAX)),
        any::<u128>().prop_map(|wei| Some(Wei::from_wei(wei))),
    ]
}

fn signature() -> impl Strategy<Value = (Role, SignatureState)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..80);
    let role = prop_oneof![Just(Role::Consumer), Just(Role::Provider)];
    prop_oneof![
        Just((Role::Provider, SignatureState::Awaited)),
        (text(), at()).prop_map(|(reason, at_local)| {
            (
                Role::Provider,
                SignatureState::Disputed { reason, at_local },
            )
        }),
        (bytes(), any::<u32>(), proptest::option::of(text())).prop_map(
            |(signature, attempts, last_error)| {
                (
                    Role::Consumer,
                    SignatureState::Undelivered {
                        signature,
                        attempts,
                        last_error,
                    },
                )
            }
        ),
        (bytes(), text()).prop_map(|(signature, error)| {
            (Role::Consumer, SignatureState::Refused { signature, error })
        }),
        (role, bytes(), at()).prop_map(|(role, signature, at_local)| {
            (
                role,
                SignatureState::Confirmed {
                    signature,
                    at_local,
                },
            )
        }),
    ]
}

fn cause() -> impl Strategy<Value = FailureCause> {
    proptest::sample::select(FailureCause::ALL.to_vec())
}

fn notice() -> impl Strategy<Value = Notice> {
    prop_oneof![
        Just(Notice::Unneeded),
        any::<u32>().prop_map(|attempts| Notice::Undelivered { attempts }),
        Just(Notice::Delivered),
    ]
}

fn state() -> impl Strategy<Value = (Role, JobState)> {
    let role = || prop_oneof![Just(Role::Consumer), Just(Role::Provider)];
    let outcome = (text(), amount(), at(), at()).prop_map(
        |(public_payload, balance_delta, completed_at_sync, completed_at_local)| Outcome {
            public_payload,
            balance_delta,
            completed_at_sync,
            completed_at_local,
        },
    );
    let receipt = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80));
    prop_oneof![
        Just((Role::Consumer, JobState::Open(Stage::Created))),
        (role(), any::<bool>()).prop_map(|(role, running)| {
            let stage = if running {
                Stage::Running
            } else {
                Stage::Accepted
            };
            (role, JobState::Open(stage))
        }),
        (
            role(),
            cause(),
            text(),
            proptest::option::of(any::<i64>()),
            at(),
            notice()
        )
            .prop_map(|(role, cause, reason, reason_class, at_local, notice)| {
                let reason = FailureReason {
                    reason,
                    reason_class,
                };
                let failure = Failure {
                    cause,
                    reason,
                    at_local,
                    notice,
                };
                (role, JobState::Failed(failure))
            }),
        (outcome, signature(), receipt)
            .prop_map(|(outcome, (role, signature), provider_signature)| {
                let state = JobState::Completed {
                    outcome,
                    signature,
                    provider_signature,
                };
                (role, state)
            })
            .boxed(),
    ]
}

#[test]
fn any_state_comes_back_as_it_was_stored() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::new());
    let mut number = 0;
    let next = std::cell::RefCell::new(&mut number);
    proptest!(ProptestConfig::with_cases(256), |(
        (role, state) in state(),
        private_payload in proptest::option::of(text()),
    )| {
        **next.borrow_mut() += 1;
        let id = next.borrow().to_string();
        let (stored, read) = runtime.block_on(async {
            let job = fixture.insert(role, &id).await;
            let change = JobChange {
                private_payload: private_payload.clone(),
                ..JobChange::to(state.clone())
            };
            let step = move |_: &_| Some(change);
            let store = &fixture.store;
            let stored = store.update_job(role, &job.key, Durability::Wal, step).await.unwrap();
            (stored.unwrap(), store.job(role, &job.key).await.unwrap().unwrap())
        });
        prop_assert_eq!(&read.state, &state);
        prop_assert_eq!(&read.private_payload, &private_payload);
        prop_assert_eq!(stored, read);
    });
}

#[tokio::test]
async fn a_state_of_the_other_side_is_refused_and_changes_nothing() {
    let fixture = Fixture::new().await;
    for (role, signature) in [
        (Role::Consumer, SignatureState::Awaited),
        (Role::Provider, undelivered()),
    ] {
        let job = fixture.insert(role, "a").await;
        let step = move |_: &_| Some(completed(1, signature));
        let result = fixture
            .store
            .update_job(role, &job.key, Durability::Wal, step)
            .await;
        assert!(matches!(result, Err(StoreError::Sql(_))), "{result:?}");
        assert_eq!(fixture.store.job(role, &job.key).await.unwrap(), Some(job));
    }
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named_and_harms_no_other() {
    let fixture = Fixture::new().await;
    let good = fixture.insert(Role::Consumer, "good").await;
    let path = fixture.store.path().to_path_buf();
    let nonsense = [
        ("state", "UPDATE jobs SET state = 'resting'"),
        (
            "amount",
            "UPDATE jobs SET balance_delta = '-1', state = 'awaited', public_payload = '',
             completed_at_sync = 1, completed_at_local = 1",
        ),
        ("peer", "UPDATE jobs SET consumer = x'00'"),
        ("currency", "UPDATE jobs SET currency = 77"),
        ("time", "UPDATE jobs SET created_at_sync = -1"),
        (
            "lacking",
            "UPDATE jobs SET state = 'confirmed', public_payload = '',
             completed_at_sync = 1, completed_at_local = 1, signature = x'00'",
        ),
        ("offer", "UPDATE jobs SET snapshot_id = 777"),
    ];
    let mut rows = Vec::new();
    for (id, _) in nonsense {
        rows.push(fixture.insert(Role::Consumer, id).await.row_id);
    }
    fixture.store.close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
        .unwrap();
    for (id, sql) in nonsense {
        let changed = connection
            .execute(&format!("{sql} WHERE job_id = ?1"), [id])
            .unwrap();
        assert_eq!(changed, 1, "{id}");
    }
    connection.close().unwrap();
    let store = Store::open(&path).unwrap();
    for ((id, _), row) in nonsense.iter().zip(rows) {
        let error = store
            .job(Role::Consumer, &fixture.key(id))
            .await
            .unwrap_err();
        let StoreError::BadRow {
            table, row: found, ..
        } = &error
        else {
            panic!("{id}: {error}")
        };
        assert_eq!(
            (*table, found.unsigned_abs()),
            ("jobs", row.0),
            "{id}: {error}"
        );
    }
    assert_eq!(
        store
            .job(Role::Consumer, &fixture.key("good"))
            .await
            .unwrap(),
        Some(good)
    );
    store.close().await.unwrap();
}

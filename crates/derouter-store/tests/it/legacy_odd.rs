//! Import of 0.1.0 databases that are damaged, in use, something else, or odd.

use std::fs;

use derouter_market::job::{Failure, SignatureState, Stage};
use derouter_market::{JobState, Role};
use derouter_store::{ImportError, ImportOutcome};
use derouter_wire::{PeerId, Wei};

use crate::legacy::{Legacy, NOW};

#[tokio::test]
async fn a_signature_that_does_not_fit_is_counted_and_kept_with_that_remark() {
    let legacy = Legacy::new("consumer");
    legacy.change(
        "UPDATE service_jobs SET consumer_signature = zeroblob(64),
           signature_confirmed_at_local = NULL WHERE rowid = 1",
    );
    let report = legacy.report().await;
    assert_eq!(
        (report.jobs, report.mismatched, report.unconfirmed),
        (3, 1, 1)
    );
    let JobState::Completed { signature, .. } = &legacy.jobs().await[0].state else {
        panic!()
    };
    let SignatureState::Undelivered { last_error, .. } = signature else {
        panic!()
    };
    assert!(last_error.as_deref().unwrap().contains("does not fit"));
}

#[tokio::test]
async fn a_balance_is_read_the_way_that_fits_the_signature() {
    let legacy = Legacy::new("provider");
    legacy.change("UPDATE service_jobs SET balance_delta = '363030303030303030303030303030'");
    let report = legacy.report().await;
    assert_eq!((report.jobs, report.mismatched), (3, 0));
    let JobState::Completed { outcome, .. } = &legacy.jobs().await[0].state else {
        panic!()
    };
    assert_eq!(
        outcome.balance_delta,
        Some(Wei::from_wei(600_000_000_000_000))
    );
}

#[tokio::test]
async fn failed_and_open_jobs_keep_their_state() {
    let legacy = Legacy::new("provider");
    legacy.change(
        "UPDATE service_jobs SET reason = 'the backend died', reason_class = 1 WHERE rowid = 1;
         UPDATE service_jobs SET completed_at_sync = NULL, consumer_signature = NULL,
           signature_confirmed_at_local = NULL, public_payload = NULL WHERE rowid = 2;
         UPDATE service_jobs SET consumer_signature = NULL WHERE rowid = 3",
    );
    assert_eq!(legacy.report().await.jobs, 3);
    let jobs = legacy.jobs().await;
    let JobState::Failed(Failure {
        reason: failure, ..
    }) = &jobs[0].state
    else {
        panic!()
    };
    assert_eq!(
        (failure.reason.as_str(), failure.reason_class),
        ("the backend died", Some(1))
    );
    assert_eq!(jobs[1].state, JobState::Open(Stage::Accepted));
    let JobState::Completed { signature, .. } = &jobs[2].state else {
        panic!()
    };
    assert_eq!(
        *signature,
        SignatureState::Awaited,
        "no signature, no confirmation"
    );
}

#[tokio::test]
async fn a_job_on_ones_own_offer_has_two_rows() {
    let legacy = Legacy::new("provider");
    legacy.change(
        "UPDATE service_jobs SET consumer_peer_id = (SELECT peer_id FROM peers) WHERE rowid = 1",
    );
    let report = legacy.report().await;
    assert_eq!((report.jobs, report.skipped), (4, 0));
    let jobs = legacy.jobs().await;
    assert_eq!(jobs[0].key, jobs[1].key);
    assert_eq!(
        [jobs[0].role, jobs[1].role],
        [Role::Consumer, Role::Provider]
    );
}

#[tokio::test]
async fn jobs_of_other_peers_are_left_out() {
    let legacy = Legacy::new("provider");
    let stranger = PeerId::random();
    let outcome = legacy
        .store
        .import_legacy(&legacy.database, stranger, NOW)
        .await
        .unwrap();
    let ImportOutcome::Imported(report) = outcome else {
        panic!()
    };
    assert_eq!((report.snapshots, report.jobs, report.skipped), (1, 0, 3));
    // With the right key the same file has something to say after all.
    assert_eq!(legacy.report().await.jobs, 3);
}

#[tokio::test]
async fn rows_that_make_no_sense_are_left_out_and_the_others_imported() {
    let legacy = Legacy::new("consumer");
    legacy.change(
        "UPDATE service_jobs SET consumer_signature = NULL WHERE rowid = 1;
         UPDATE service_jobs SET balance_delta = 'much' WHERE rowid = 2;
         UPDATE service_jobs SET created_at_local = 'yesterday' WHERE rowid = 3;
         INSERT INTO peers (peer_id, their_provider_updated_at)
           VALUES ('nobody', '2026-11-22 20:28:10')",
    );
    let report = legacy.report().await;
    assert_eq!((report.peers, report.jobs, report.skipped), (1, 1, 3));
    let jobs = legacy.jobs().await;
    assert_eq!(jobs[0].created_at_local, jobs[0].created_at_sync);
}

#[tokio::test]
async fn a_log_beside_the_database_is_read_and_left_as_it_is() {
    let legacy = Legacy::new("consumer");
    let connection = rusqlite::Connection::open(&legacy.database).unwrap();
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .unwrap();
    let sql = "UPDATE service_jobs SET signature_confirmed_at_local = NULL";
    connection.execute(sql, []).unwrap();
    let before = legacy.files();
    assert!(before.iter().any(|(path, (bytes, _))| {
        path.to_string_lossy().ends_with("-wal") && !bytes.is_empty()
    }));
    assert_eq!(legacy.report().await.unconfirmed, 3);
    assert_eq!(legacy.files(), before);
    assert!(
        !legacy
            .our_files()
            .iter()
            .any(|name| name.contains("legacy"))
    );
    assert_eq!(
        legacy.import().await.unwrap(),
        ImportOutcome::AlreadyImported
    );
    connection.close().unwrap();
}

#[tokio::test]
async fn a_transaction_that_0_1_0_did_not_finish_is_not_imported() {
    let legacy = Legacy::new("consumer");
    let connection = rusqlite::Connection::open(&legacy.database).unwrap();
    // With hardly any cache, half a transaction is in the file, and its undo in the journal.
    connection
        .execute_batch("PRAGMA cache_size = 1; BEGIN")
        .unwrap();
    let sql =
        "UPDATE service_jobs SET provider_job_id = 'half', private_payload = zeroblob(100000)";
    connection.execute(sql, []).unwrap();
    let before = legacy.files();
    assert!(
        before
            .keys()
            .any(|path| path.to_string_lossy().ends_with("-journal"))
    );
    assert_eq!(legacy.report().await.jobs, 3);
    assert!(
        legacy
            .jobs()
            .await
            .iter()
            .all(|job| job.key.job_id.as_str() != "half")
    );
    assert_eq!(legacy.files(), before);
}

#[tokio::test]
async fn what_is_no_0_1_0_database_is_refused_and_changes_nothing() {
    let legacy = Legacy::new("consumer");
    let good = fs::read(&legacy.database).unwrap();
    fs::write(&legacy.database, "not a database, but longer than nothing").unwrap();
    assert!(matches!(
        legacy.import().await,
        Err(ImportError::NotLegacy { .. })
    ));
    fs::write(&legacy.database, "").unwrap();
    assert!(matches!(
        legacy.import().await,
        Err(ImportError::NotLegacy { .. })
    ));
    fs::write(&legacy.database, &good).unwrap();
    legacy.change("DROP TABLE service_jobs");
    let error = legacy.import().await.unwrap_err();
    assert!(matches!(error, ImportError::NotLegacy { .. }), "{error}");
    assert!(error.to_string().contains("service_jobs"), "{error}");
    let ours = legacy.store.path().to_path_buf();
    let error = legacy
        .store
        .import_legacy(&ours, legacy.peer, NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, ImportError::NotLegacy { .. }), "{error}");
    let gone = legacy.directory.path().join("gone.sqlite");
    let error = legacy
        .store
        .import_legacy(&gone, legacy.peer, NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, ImportError::Io { .. }), "{error}");

    // Peers and snapshots came before the missing table: they were undone.
    let provider = "12D3KooWJpTBAVj9c1e4M5PURYT5abtsribkxtnAvz4bKdw7cNYT"
        .parse()
        .unwrap();
    assert!(
        legacy
            .store
            .providers(vec![provider])
            .await
            .unwrap()
            .is_empty()
    );
    fs::write(&legacy.database, &good).unwrap();
    assert_eq!(legacy.report().await.snapshots, 1);
}

#[tokio::test]
async fn a_damaged_0_1_0_database_is_refused_and_changes_nothing() {
    let legacy = Legacy::new("consumer");
    let good = fs::read(&legacy.database).unwrap();
    let mut torn = good.clone();
    torn.truncate(5 * 4096);
    fs::write(&legacy.database, torn).unwrap();
    let error = legacy.import().await.unwrap_err();
    assert!(matches!(error, ImportError::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains("restore it from a backup"),
        "{error}"
    );
    assert!(legacy.jobs().await.is_empty());
    fs::write(&legacy.database, good).unwrap();
    assert_eq!(legacy.report().await.jobs, 3);
}

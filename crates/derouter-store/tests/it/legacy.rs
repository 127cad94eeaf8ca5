//! Import of the two databases of a real 0.1.0 pair.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use derouter_market::job::{SignatureState, Stage};
use derouter_market::{Job, JobState, Role};
use derouter_store::{ImportError, ImportOutcome, ImportReport, JobPage, Store};
use derouter_wire::{PeerId, UnixSeconds, Wei};
use libp2p_identity::Keypair;
use tempfile::TempDir;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A data directory as 0.1.0 left it. Never opened where it is.
pub(crate) fn vector(side: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/vectors/0.1-data")
        .join(side)
}

/// A copy of one, and a store of ours elsewhere.
pub(crate) struct Legacy {
    pub(crate) directory: TempDir,
    pub(crate) database: PathBuf,
    pub(crate) peer: PeerId,
    pub(crate) store: Store,
    ours: TempDir,
}

impl Legacy {
    pub(crate) fn new(side: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("db.sqlite");
        fs::copy(vector(side).join("db.sqlite"), &database).unwrap();
        let key = fs::read(vector(side).join("keypair.bin")).unwrap();
        let peer = Keypair::from_protobuf_encoding(&key)
            .unwrap()
            .public()
            .to_peer_id();
        let ours = tempfile::tempdir().unwrap();
        let store = Store::open(&ours.path().join("derouter.sqlite")).unwrap();
        Self {
            directory,
            database,
            peer,
            store,
            ours,
        }
    }

    /// Changes the copy, as if 0.1.0 had written it so.
    pub(crate) fn change(&self, sql: &str) {
        let connection = rusqlite::Connection::open(&self.database).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
    }

    pub(crate) async fn import(&self) -> Result<ImportOutcome, ImportError> {
        self.store
            .import_legacy(&self.database, self.peer, NOW)
            .await
    }

    pub(crate) async fn report(&self) -> ImportReport {
        match self.import().await.unwrap() {
            ImportOutcome::Imported(report) => report,
            ImportOutcome::AlreadyImported => panic!("not imported"),
        }
    }

    pub(crate) async fn jobs(&self) -> Vec<Job> {
        let page = JobPage {
            limit: 100,
            ..JobPage::default()
        };
        self.store.jobs_page(page).await.unwrap()
    }

    /// Every file of a 0.1.0 directory: its bytes, and when it was written.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        files(self.directory.path())
    }

    /// Names of the files beside our own database.
    pub(crate) fn our_files(&self) -> Vec<String> {
        let names = files(self.ours.path()).into_keys();
        names
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            let bytes = fs::read(&path).unwrap_or_default();
            (path, (bytes, written))
        })
        .collect()
}

fn counts(report: ImportReport) -> [u64; 6] {
    let ImportReport {
        peers,
        snapshots,
        jobs,
        skipped,
        unconfirmed,
        mismatched,
        ..
    } = report;
    [peers, snapshots, jobs, skipped, unconfirmed, mismatched]
}

#[tokio::test]
async fn both_sides_of_a_0_1_0_pair_are_imported_with_their_signatures() {
    for (side, role, peers) in [
        ("consumer", Role::Consumer, 1),
        ("provider", Role::Provider, 0),
    ] {
        let legacy = Legacy::new(side);
        assert_eq!(
            counts(legacy.report().await),
            [peers, 1, 3, 0, 0, 0],
            "{side}"
        );
        let jobs = legacy.jobs().await;
        assert_eq!(jobs.len(), 3);
        for job in &jobs {
            assert_eq!(job.role, role);
            let JobState::Completed {
                outcome, signature, ..
            } = &job.state
            else {
                panic!("{side}")
            };
            assert_eq!(
                outcome.balance_delta,
                Some(Wei::from_wei(600_000_000_000_000))
            );
            assert!(outcome.public_payload.contains("prompt_tokens"));
            assert!(matches!(
                outcome.completed_at_local.0,
                1_795_379_328..=1_795_379_330
            ));
            let SignatureState::Confirmed {
                signature,
                at_local,
            } = signature
            else {
                panic!("{side}")
            };
            assert_eq!((signature.len(), at_local.0), (64, 1_795_379_329));
            assert!(job.private_payload.is_some());
            let args = legacy.store.job_args(role, &job.key).await.unwrap();
            assert!(args.unwrap().contains("messages"));
        }
        assert!(
            legacy
                .store
                .jobs_with_news(10, None)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(legacy.store.unsigned_debts().await.unwrap().is_empty());
        legacy.store.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_imported_jobs_hash_is_the_one_that_0_1_0_signed() {
    let legacy = Legacy::new("consumer");
    legacy.report().await;
    let connection = rusqlite::Connection::open(&legacy.database).unwrap();
    let mut statement = connection
        .prepare("SELECT hash FROM service_jobs ORDER BY rowid")
        .unwrap();
    let hashes = statement
        .query_map([], |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    let hashes: Vec<_> = hashes.map(Result::unwrap).collect();
    let ours: Vec<_> = legacy
        .jobs()
        .await
        .iter()
        .map(|job| job.hash().unwrap().0.to_vec())
        .collect();
    assert_eq!(ours, hashes);
}

#[tokio::test]
async fn the_providers_details_and_times_are_imported() {
    let legacy = Legacy::new("consumer");
    legacy.report().await;
    let provider = legacy.jobs().await[0].key.provider;
    let rows = legacy.store.providers(vec![provider]).await.unwrap();
    let [row] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    assert_eq!(
        (
            row.name.as_deref(),
            row.teaser.as_deref(),
            row.description.as_deref()
        ),
        (Some("A"), Some("t"), Some("d"))
    );
    assert_eq!(row.updated_at, UnixSeconds(1_795_379_290));
    assert_eq!(row.heartbeat_timestamp, UnixSeconds(1_795_379_315));
    assert_eq!(row.heard_at, UnixSeconds(1_795_379_315));
}

#[tokio::test]
async fn an_import_writes_neither_to_the_database_nor_beside_it() {
    for side in ["consumer", "provider"] {
        let legacy = Legacy::new(side);
        let before = legacy.files();
        legacy.report().await;
        assert_eq!(legacy.files(), before);
        assert!(
            !legacy
                .our_files()
                .iter()
                .any(|name| name.contains("legacy"))
        );
    }
}

#[tokio::test]
async fn the_same_database_is_imported_once_also_over_a_restart() {
    let legacy = Legacy::new("consumer");
    legacy.report().await;
    assert_eq!(
        legacy.import().await.unwrap(),
        ImportOutcome::AlreadyImported
    );
    legacy.store.close().await.unwrap();
    let store = Store::open(legacy.store.path()).unwrap();
    let again = store
        .import_legacy(&legacy.database, legacy.peer, NOW)
        .await
        .unwrap();
    assert_eq!(again, ImportOutcome::AlreadyImported);
    let page = JobPage {
        limit: 100,
        ..JobPage::default()
    };
    assert_eq!(store.jobs_page(page).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_database_that_0_1_0_went_on_with_brings_only_what_is_new() {
    let legacy = Legacy::new("consumer");
    let before = legacy.report().await;
    legacy.change(
        "INSERT INTO service_jobs (offer_snapshot_rowid, consumer_peer_id, currency,
           provider_job_id, created_at_sync)
         SELECT 1, consumer_peer_id, 0, 'later', 1795380000 FROM service_jobs LIMIT 1",
    );
    let after = legacy.report().await;
    assert_eq!(counts(before), [1, 1, 3, 0, 0, 0]);
    assert_eq!(counts(after), [0, 0, 1, 3, 0, 0]);
    assert_eq!(
        legacy.jobs().await[3].state,
        JobState::Open(Stage::Accepted)
    );
}

#[tokio::test]
async fn a_signature_that_was_not_confirmed_is_still_to_be_delivered() {
    let legacy = Legacy::new("consumer");
    legacy.change(
        "UPDATE service_jobs SET signature_confirmed_at_local = NULL,
           confirmation_error = 'ProviderUnreachable' WHERE rowid = 2",
    );
    assert_eq!(counts(legacy.report().await), [1, 1, 3, 0, 1, 0]);
    let undelivered = legacy.store.jobs_with_news(10, None).await.unwrap();
    let [job] = undelivered.as_slice() else {
        panic!("{undelivered:?}")
    };
    assert!(job.key.job_id.as_str().starts_with("b447df39"));
    let JobState::Completed { signature, .. } = &job.state else {
        panic!()
    };
    let SignatureState::Undelivered {
        signature,
        attempts: 0,
        last_error,
    } = signature
    else {
        panic!("{signature:?}")
    };
    assert_eq!(signature.len(), 64);
    assert_eq!(last_error.as_deref(), Some("ProviderUnreachable"));
}

#[tokio::test]
async fn a_job_without_its_consumers_signature_is_a_debt_of_that_consumer() {
    let legacy = Legacy::new("provider");
    legacy.change(
        "UPDATE service_jobs SET signature_confirmed_at_local = NULL, consumer_signature = NULL
         WHERE rowid > 1",
    );
    assert_eq!(counts(legacy.report().await), [0, 1, 3, 0, 2, 0]);
    let debts = legacy.store.unsigned_debts().await.unwrap();
    let consumer = legacy.jobs().await[0].consumer;
    assert_eq!(debts, [(consumer, Wei::from_wei(1_200_000_000_000_000))]);
}

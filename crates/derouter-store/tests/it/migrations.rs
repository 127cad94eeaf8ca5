//! Databases of every earlier schema become current ones with all that was in them.

use derouter_market::Role;
use derouter_market::job::{JobState, SignatureState, Stage};
use derouter_store::{JobPage, OpenError, Reader, Store};
use derouter_wire::PeerId;
use rusqlite::{Connection, params};

/// Those that had jobs of wire 0.1 alone; they never change.
const SCHEMAS: [&str; 2] = [
    include_str!("../../src/schema/1.sql"),
    include_str!("../../src/schema/2.sql"),
];

/// `state` and the columns that it needs, for each role that can have it.
const STATES: [(&str, &str, &str); 8] = [
    ("consumer", "open", ""),
    ("provider", "open", ""),
    (
        "consumer",
        "failed",
        "failure_reason = 'no', failure_class = 3, failed_at_local = 20",
    ),
    (
        "provider",
        "awaited",
        "public_payload = 'p', balance_delta = '7', completed_at_sync = 30, completed_at_local = 31",
    ),
    (
        "consumer",
        "undelivered",
        "public_payload = 'p', balance_delta = '7', completed_at_sync = 30, completed_at_local = 31,
         signature = x'0102', delivery_attempts = 2, confirmation_error = 'away'",
    ),
    (
        "consumer",
        "refused",
        "public_payload = 'p', completed_at_sync = 30, completed_at_local = 31,
         signature = x'0102', confirmation_error = 'JobNotFound'",
    ),
    (
        "consumer",
        "confirmed",
        "public_payload = 'p', completed_at_sync = 30, completed_at_local = 31,
         signature = x'0102', confirmed_at_local = 40",
    ),
    (
        "provider",
        "confirmed",
        "public_payload = 'p', balance_delta = '0', completed_at_sync = 30, completed_at_local = 31,
         signature = x'0102', confirmed_at_local = 40",
    ),
];

/// A database as a version with that schema left it, with a row of every kind.
fn database_of(schema: usize, path: &std::path::Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA application_id = 1147490927; PRAGMA journal_mode = WAL")
        .unwrap();
    for sql in &SCHEMAS[..schema] {
        connection.execute_batch(sql).unwrap();
    }
    let version = u32::try_from(schema).unwrap();
    connection
        .pragma_update(None, "user_version", version)
        .unwrap();
    let (provider, consumer) = (PeerId::random().to_bytes(), PeerId::random().to_bytes());
    connection
        .execute(
            "INSERT INTO providers VALUES (?1, 'n', NULL, NULL, 1, 2, 3)",
            [&provider],
        )
        .unwrap();
    connection
        .execute(
            "INSERT INTO offer_snapshots (provider, protocol_id, offer_id, payload, payload_sha256)
             VALUES (?1, 'p', 'o', '{}', zeroblob(32))",
            [&provider],
        )
        .unwrap();
    for (number, (role, state, columns)) in STATES.iter().enumerate() {
        let job_id = number.to_string();
        connection
            .execute(
                "INSERT INTO jobs (role, provider, job_id, consumer, snapshot_id, protocol_id,
                   currency, created_at_sync, created_at_local, job_args, private_payload, state)
                 VALUES (?1, ?2, ?3, ?4, 1, 'p', 0, 10, 11, 'args', 'private', 'open')",
                params![role, provider, job_id, consumer],
            )
            .unwrap();
        let columns = match columns.is_empty() {
            true => String::new(),
            false => format!(", {columns}"),
        };
        let sql = format!("UPDATE jobs SET state = '{state}'{columns} WHERE job_id = ?1");
        assert_eq!(connection.execute(&sql, [job_id]).unwrap(), 1);
    }
    connection
        .execute_batch(
            "INSERT INTO announcement_clock VALUES (1, 5, zeroblob(32), 6);
             INSERT INTO peers (peer_id, connected_at) SELECT peer_id, 9 FROM providers;
             INSERT INTO peer_addresses (peer_id, rank, address)
               SELECT peer_id, 0, '/ip4/192.0.2.1/tcp/1' FROM providers;
             INSERT INTO legacy_imports VALUES ('db.sqlite', 'f', 1)",
        )
        .unwrap();
    connection.close().unwrap();
}

fn kind(job: &derouter_market::Job) -> (&'static str, &'static str) {
    let role = match job.role {
        Role::Consumer => "consumer",
        Role::Provider => "provider",
    };
    let state = match &job.state {
        JobState::Open(Stage::Accepted) => "open",
        JobState::Open(_) => panic!("no old job is that"),
        JobState::Failed { .. } => "failed",
        JobState::Completed { signature, .. } => match signature {
            SignatureState::Awaited => "awaited",
            SignatureState::Disputed { .. } => panic!("no old job is disputed"),
            SignatureState::Undelivered { .. } => "undelivered",
            SignatureState::Refused { .. } => "refused",
            SignatureState::Confirmed { .. } => "confirmed",
        },
    };
    (role, state)
}

#[tokio::test]
async fn a_database_of_every_earlier_schema_is_taken_over_with_all_its_rows() {
    for schema in 1..=SCHEMAS.len() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("derouter.sqlite");
        database_of(schema, &path);
        if schema < SCHEMAS.len() {
            let error = Reader::open(&path).unwrap().expect_current().unwrap_err();
            assert!(matches!(error, OpenError::OlderSchema { .. }), "{error}");
        }
        let store = Store::open(&path).unwrap();
        let page = JobPage {
            limit: 100,
            ..JobPage::default()
        };
        let jobs = store.jobs_page(page).await.unwrap();
        let kinds: Vec<_> = jobs.iter().map(kind).collect();
        let made: Vec<_> = STATES
            .iter()
            .map(|(role, state, _)| (*role, *state))
            .collect();
        assert_eq!(kinds, made, "schema {schema}");
        assert!(
            jobs.iter()
                .all(|job| job.private_payload.as_deref() == Some("private"))
        );
        assert_eq!(store.unsigned_debts().await.unwrap().len(), 1);
        assert_eq!(store.jobs_with_news(9, None).await.unwrap().len(), 1);
        assert_eq!(store.peers(9).await.unwrap()[0].addresses.len(), 1);
        let clock = store.announcement_clock().await.unwrap().unwrap();
        assert_eq!(clock.heartbeat_floor.0, 6);
        store.close().await.unwrap();
        let reader = Reader::open(&path).unwrap();
        reader.expect_current().unwrap();
        let report = reader.check(true, |_| ()).unwrap();
        assert_eq!((report.found, report.jobs), (0, 8), "{report:?}");
    }
}

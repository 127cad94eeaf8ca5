//! Check, backup, export and vacuum.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use derouter_market::Role;
use derouter_store::{BackupError, Finding, OpenError, Reader, Store, StoredJobs, vacuum};
use derouter_wire::UnixSeconds;

use crate::opening::mount;
use crate::support::Fixture;

#[tokio::test]
async fn a_backup_of_a_database_in_use_is_whole_and_for_its_user_only() {
    let fixture = Fixture::new().await;
    for number in 0..50 {
        fixture.signed(&number.to_string(), 3, true).await;
    }
    let to = fixture.directory.path().join("backup.sqlite");
    let reader = Reader::open(fixture.store.path()).unwrap();
    let mut told = Vec::new();
    reader.backup(&to, |progress| told.push(progress)).unwrap();
    assert!(
        told.last()
            .is_some_and(|last| last.copied == last.pages && last.pages > 0)
    );
    fixture.insert(Role::Consumer, "later").await;
    assert_eq!(
        fs::metadata(&to).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let error = reader.backup(&to, |_| ()).unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    let copy = Store::open(&to).unwrap();
    let find = async |id| copy.job(Role::Consumer, &fixture.key(id)).await.unwrap();
    assert!(find("49").await.is_some());
    assert!(find("later").await.is_none());
    copy.close().await.unwrap();
    let report = Reader::open(&to).unwrap().check(false, |_| ()).unwrap();
    assert_eq!((report.found, report.jobs, report.signatures), (0, 50, 50));
    // Nothing of the way there is left.
    let names: Vec<_> = fs::read_dir(fixture.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".derouter-backup"))
        .collect();
    assert_eq!(names, Vec::<String>::new());
}

#[tokio::test]
async fn a_backup_that_finds_the_disk_full_leaves_nothing() {
    let fixture = Fixture::new().await;
    for number in 0..200 {
        let mut new = fixture.new_job(Role::Consumer, &number.to_string());
        new.job_args = Some("x".repeat(8000));
        let durability = derouter_store::Durability::Wal;
        fixture.store.insert_job(new, durability).await.unwrap();
    }
    let small = tempfile::tempdir().unwrap();
    let Some(_mount) = mount(small.path(), "size=1m") else {
        return;
    };
    let reader = Reader::open(fixture.store.path()).unwrap();
    let error = reader.backup(&small.path().join("b"), |_| ()).unwrap_err();
    assert!(error.to_string().contains("disk is full"), "{error}");
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn jobs_are_listed_in_pages_and_by_what_is_asked() {
    let fixture = Fixture::new().await;
    for number in 0..150_u64 {
        let role = if number % 2 == 0 {
            Role::Consumer
        } else {
            Role::Provider
        };
        let mut new = fixture.new_job(role, &number.to_string());
        new.created_at_local = UnixSeconds(number);
        let durability = derouter_store::Durability::Wal;
        fixture.store.insert_job(new, durability).await.unwrap();
    }
    let reader = Reader::open(fixture.store.path()).unwrap();
    let list = |mut which: StoredJobs| {
        let mut times = Vec::new();
        loop {
            let page = reader.jobs(&which).unwrap();
            assert!(page.jobs.len() <= 100);
            times.extend(
                page.jobs
                    .iter()
                    .map(|job| job.as_ref().unwrap().job.created_at_local.0),
            );
            match page.next {
                Some(row) => which.after = Some(row),
                None => return times,
            }
        }
    };
    assert_eq!(list(StoredJobs::default()), (0..150).collect::<Vec<_>>());
    let newest = StoredJobs {
        newest_first: true,
        ..StoredJobs::default()
    };
    assert_eq!(list(newest), (0..150).rev().collect::<Vec<_>>());
    let some = StoredJobs {
        role: Some(Role::Provider),
        since: Some(UnixSeconds(10)),
        until: Some(UnixSeconds(15)),
        ..StoredJobs::default()
    };
    assert_eq!(list(some), [11, 13]);
}

#[tokio::test]
async fn a_check_finds_signatures_rows_and_references_that_are_wrong() {
    let fixture = Fixture::new().await;
    for id in ["good", "forged", "odd", "dangling"] {
        fixture.signed(id, 3, true).await;
    }
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;
             UPDATE jobs SET balance_delta = '4' WHERE job_id = 'forged';
             UPDATE jobs SET currency = 77 WHERE job_id = 'odd';
             UPDATE jobs SET snapshot_id = 99 WHERE job_id = 'dangling'",
        )
        .unwrap();
    connection.close().unwrap();
    let report = Reader::open(&path).unwrap().check(false, |_| ()).unwrap();
    assert_eq!((report.jobs, report.signatures), (4, 2));
    let has = |wanted: fn(&Finding) -> bool| report.findings.iter().filter(|f| wanted(f)).count();
    assert_eq!(
        has(|f| matches!(f, Finding::Signature(row) if row.0 == 2)),
        1
    );
    assert_eq!(has(|f| matches!(f, Finding::DanglingReference { .. })), 1);
    assert_eq!(has(|f| matches!(f, Finding::BadRow(_))), 2);
    assert!(report.findings.iter().any(Finding::is_damage));
}

#[tokio::test]
async fn a_damaged_page_in_the_middle_is_found_and_the_rest_can_be_read() {
    let fixture = Fixture::new().await;
    for number in 0..500 {
        fixture.signed(&number.to_string(), 3, true).await;
    }
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    let report = Reader::open(&path).unwrap().check(false, |_| ()).unwrap();
    assert!(report.findings.iter().any(Finding::is_damage), "{report:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a check changes nothing");
    // A node that meets it says so for what it concerns, and goes on with the rest.
    let store = Store::open(&path).unwrap();
    let mut lost = 0;
    for number in 0..500 {
        let found = store
            .job(Role::Consumer, &fixture.key(&number.to_string()))
            .await;
        lost += u32::from(!matches!(found, Ok(Some(_))));
    }
    // How many depends on what the page was of: a table, or an index that nobody asked.
    assert!(lost < 400, "{lost}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_vacuum_makes_the_file_smaller_and_is_refused_while_it_is_used() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    for number in 0..200 {
        let mut new = fixture.new_job(Role::Consumer, &number.to_string());
        new.job_args = Some("x".repeat(8000));
        let durability = derouter_store::Durability::Wal;
        fixture.store.insert_job(new, durability).await.unwrap();
    }
    let error = vacuum(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    fixture.store.close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("UPDATE jobs SET job_args = NULL", [])
        .unwrap();
    connection.close().unwrap();
    let done = vacuum(&path).unwrap();
    assert!(done.after * 2 < done.before, "{done:?}");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let store = Store::open(&path).unwrap();
    assert_eq!(store.count_open_jobs(Role::Consumer).await.unwrap(), 200);
    store.close().await.unwrap();
    let absent = vacuum(&path.with_file_name("absent")).unwrap_err();
    assert!(matches!(absent, OpenError::Io { .. }), "{absent}");
    assert!(!path.with_file_name("absent").exists());
}

#[tokio::test]
async fn a_database_on_a_read_only_medium_can_be_read_and_is_refused_to_a_node() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = mount(directory.path(), "size=4m") else {
        return;
    };
    let mut fixture = Fixture::new().await;
    let path = directory.path().join("a?b#c.sqlite");
    let store = Store::open(&path).unwrap();
    fixture.snapshot = crate::support::offer(&store, fixture.provider, "p").await;
    fixture.store = store;
    fixture.signed("a", 3, true).await;
    fixture.store.close().await.unwrap();
    let remounted = std::process::Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(directory.path())
        .status();
    assert!(remounted.is_ok_and(|status| status.success()));
    let error = Store::open(&path).unwrap_err();
    assert!(error.to_string().contains("Read-only"), "{error}");
    let report = Reader::open(&path).unwrap().check(false, |_| ()).unwrap();
    assert_eq!((report.found, report.jobs), (0, 1));
}

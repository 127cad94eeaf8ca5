//! Opening, locking, closing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use derouter_market::Role;
use derouter_store::{OpenError, Store, StoreError};

use crate::support::{Fixture, reopen};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_database_is_for_its_user_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/deeper/derouter.sqlite");
    let store = Store::open(&path).unwrap();
    store.announcement_clock().await.unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&directory.path().join("data")), 0o700);
    for beside in fs::read_dir(path.parent().unwrap()).unwrap() {
        assert_eq!(mode(&beside.unwrap().path()), 0o600);
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_second_node_on_the_same_database_is_refused_until_the_first_closes() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    let link = fixture.directory.path().join("link.sqlite");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link] {
        let error = Store::open(name).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("derouter.sqlite") && text.contains("data_dir"),
            "{text}"
        );
    }
    fixture.store.close().await.unwrap();
    Store::open(&path).unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_one_file_without_a_log() {
    let fixture = Fixture::new().await;
    fixture.insert(Role::Consumer, "a").await;
    let clone = fixture.store.clone();
    let (first, second) = tokio::join!(fixture.store.close(), clone.close());
    first.unwrap();
    second.unwrap();
    let error = clone
        .job(Role::Consumer, &fixture.key("a"))
        .await
        .unwrap_err();
    assert_eq!(error, StoreError::Closed);
    let wal = fixture.directory.path().join("derouter.sqlite-wal");
    assert!(!wal.exists());
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_store() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    let key = fixture.key("a");
    fixture.insert(Role::Consumer, "a").await;
    let Fixture {
        store, directory, ..
    } = fixture;
    drop(store);
    let store = reopen(&path).await;
    assert!(store.job(Role::Consumer, &key).await.unwrap().is_some());
    store.close().await.unwrap();
    drop(directory);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.close().unwrap();
    let before = fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::NewerSchema {
                found: 99,
                known: 4,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.sqlite");
    let original = crate::legacy::vector("consumer").join("db.sqlite");
    fs::copy(original, &path).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing beside it"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derouter.sqlite");
    fs::write(&path, "these are my notes").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().contains("restore it from a backup"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"these are my notes");
}

#[tokio::test]
async fn a_damaged_schema_is_found_at_the_start() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..4096].fill(0xAA);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_in_the_place_of_the_database_or_a_file_in_its_path_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("derouter.sqlite")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(
        error.to_string().contains(&file.display().to_string()),
        "{error}"
    );
}

/// Unmounts what a test mounted.
pub(crate) struct Mount<'a>(pub(crate) &'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Mounts a tmpfs, or says why not: that takes root.
pub(crate) fn mount<'a>(path: &'a Path, options: &str) -> Option<Mount<'a>> {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "derouter-test"])
        .arg(path)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        println!("skipped: a tmpfs can't be mounted here (not root?)");
        return None;
    }
    Some(Mount(path))
}

#[tokio::test]
async fn a_read_only_directory_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = mount(directory.path(), "ro,size=1m") else {
        return;
    };
    let error = Store::open(&directory.path().join("derouter.sqlite")).unwrap_err();
    assert!(
        matches!(error, OpenError::Io { action: "open", .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("Read-only") && text.contains("derouter.sqlite"),
        "{text}"
    );
}

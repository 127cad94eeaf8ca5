//! A copy of the database while it is in use, with SQLite's online backup API.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tempfile::NamedTempFile;

use super::Reader;
use crate::error::StoreError;
use crate::sync::sync_directory_of;

/// Pages that are copied between two reports: 4 MiB.
const STEP_PAGES: i32 = 1024;

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupProgress {
    /// Pages copied.
    pub copied: u64,
    /// Pages to copy in all.
    pub pages: u64,
}

/// Why there is no backup. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something of that name is there.
    #[error("{} is there already: name another file, or move that one away", .path.display())]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("can't {action} {}: {source}. Check the directory, its permissions and the free space", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading the database or writing the copy failed.
    #[error("the backup failed: {0}")]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Reader {
    /// Copies the database as it is now to a file that is not there yet. The copy is one file, for
    /// this user only; it gets its name once it is complete and on the disk. A node goes on meanwhile
    /// (its log grows until the copy is done).
    pub fn backup(
        &self,
        to: &Path,
        mut progress: impl FnMut(BackupProgress),
    ) -> Result<(), BackupError> {
        if to.symlink_metadata().is_ok() {
            return Err(BackupError::Exists {
                path: to.to_path_buf(),
            });
        }
        let copy = temporary_beside(to)?;
        self.copy_to(copy.path(), &mut progress)?;
        keep(copy, to)
    }

    fn copy_to(
        &self,
        path: &Path,
        progress: &mut impl FnMut(BackupProgress),
    ) -> Result<(), BackupError> {
        // One snapshot for all steps: without it each change by the node would begin the copy anew.
        let snapshot = self.connection.unchecked_transaction()?;
        snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let mut copy = Connection::open(path)?;
        let backup = Backup::new(&snapshot, &mut copy)?;
        loop {
            let step = backup.step(STEP_PAGES)?;
            progress(told(&backup));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(StoreError::Busy.into()),
            }
        }
        drop(backup);
        drop(snapshot);
        // One file without a log, so that it can be moved about.
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        copy.close().map_err(|(_, error)| error)?;
        Ok(())
    }
}

fn told(backup: &Backup<'_, '_>) -> BackupProgress {
    let progress = backup.progress();
    let pages = u64::try_from(progress.pagecount).unwrap_or(0);
    let left = u64::try_from(progress.remaining).unwrap_or(0);
    BackupProgress {
        copied: pages.saturating_sub(left),
        pages,
    }
}

/// Made with mode 0600, and removed unless it is kept.
fn temporary_beside(to: &Path) -> Result<NamedTempFile, BackupError> {
    let directory = to
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".derouter-backup-")
        .tempfile_in(directory)
        .map_err(|source| BackupError::Io {
            action: "make a file in",
            path: directory.to_path_buf(),
            source,
        })
}

fn keep(copy: NamedTempFile, to: &Path) -> Result<(), BackupError> {
    let failed = |action| {
        move |source| BackupError::Io {
            action,
            path: to.to_path_buf(),
            source,
        }
    };
    // A file of its own: who opens a file is told of what failed on it before.
    let written = File::open(copy.path()).and_then(|file| file.sync_all());
    written.map_err(failed("write"))?;
    copy.persist_noclobber(to)
        .map_err(|failure| match failure.error.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Exists {
                path: to.to_path_buf(),
            },
            _ => failed("make")(failure.error),
        })?;
    sync_directory_of(to).map_err(failed("make"))
}

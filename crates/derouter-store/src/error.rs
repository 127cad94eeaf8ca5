//! One error enum for each operation.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why a call on an open store did not work. Nothing of the call was stored, but for
/// [`StoreError::Timeout`], after which it may still happen, and [`StoreError::NotDurable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store was closed. The node is shutting down.
    #[error("the database is closed")]
    Closed,
    /// The disk stalls or is overloaded; what was asked for may still happen. Steps on jobs can
    /// be taken again.
    #[error("the database did not answer within {0} s")]
    Timeout(u64),
    /// Make room, then try again.
    #[error("the disk is full: nothing was stored. Make room")]
    DiskFull,
    /// The file system takes no writes, for example because it found itself damaged.
    #[error("the file system is read-only: nothing was stored. Mount it for writing")]
    ReadOnly,
    /// The disk fails.
    #[error("the disk fails ({0}): nothing was stored. Look at the system's log")]
    Io(String),
    /// The disk did not confirm what was written: it is there now and may be gone after a power cut.
    /// Until the disk has taken the whole log anew, which is tried every second, no write is taken.
    #[error("the disk did not confirm what was written ({0}). Look at the system's log")]
    NotDurable(String),
    /// Another program holds the database for longer than a moment.
    #[error("another program holds the database: nothing was stored. End that program")]
    Busy,
    /// The file is damaged, or something else wrote it. Restore it from a backup.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
    /// One row does not hold what its table may hold; the others are not concerned.
    #[error("row {row} of table {table} makes no sense: {reason}")]
    BadRow {
        /// The table.
        table: &'static str,
        /// The row's number.
        row: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// An argument is over its limit in [`crate::limits`].
    #[error("{what}: {given} given, at most {max} are taken")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many were given.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// A number is over 2^63-1, which is the most that a column holds.
    #[error("{0} is over 2^63-1")]
    OutOfRange(u64),
    /// A step inside the store panicked; its changes were undone. A bug.
    #[error("a step inside the database panicked, its changes were undone")]
    Panicked,
    /// Anything else that SQLite says.
    #[error("the database says: {0}")]
    Sql(String),
}

impl StoreError {
    /// Whether what was asked for may be stored in spite of the error, now or soon.
    pub fn may_be_stored(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::NotDurable(_))
    }
}

/// Why a database could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one, or give this one another data_dir", .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error("{} was written by a newer version (schema {found}, this one knows up to {known}): update, or use another data_dir", .path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// An earlier version of this program wrote it, and it is to be read without being changed.
    #[error("{} was written by an earlier version (schema {found}, now {known}): start the node once, or run `derouter db vacuum`, which bring it up to date", .path.display())]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is a database of another program, for example of version 0.1.0. It was not touched.
    #[error("{} is a database, but not one of this program's: name another file", .path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// It can't be read as a database.
    #[error("{} is damaged or not a database ({reason}): restore it from a backup, or move it away to begin anew", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The file system refuses.
    #[error("can't {action} {}: {source}. Check the path, its permissions and the free space, or use another data_dir", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Anything else that SQLite says.
    #[error("can't open {}: {source}. Check its permissions and the free space, or use another data_dir", .path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: StoreError,
    },
}

/// Why a job was not inserted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertJobError {
    /// This side has a row for that provider and job id.
    #[error("there is a job of that id already")]
    Duplicate,
    /// No snapshot of that id, or it is another provider's.
    #[error("there is no such offer of that provider")]
    UnknownOffer,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a 0.1.0 database was not imported. Neither it nor ours was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It can't be read.
    #[error("can't {action} {}: {reason}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It is something else.
    #[error("{} is not a database of version 0.1.0 ({reason})", .path.display())]
    NotLegacy {
        /// The file.
        path: PathBuf,
        /// What is missing in it.
        reason: String,
    },
    /// SQLite finds it damaged.
    #[error("{} is damaged ({reason}): restore it from a backup, or move it away to begin without it", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// It changed while it was read: something still writes it.
    #[error("{} changed while it was read: stop the 0.1.0 node that uses it, then start again", .path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// Our own store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt(error.to_string())
            }
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly,
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
                StoreError::Io(error.to_string())
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
            _ => StoreError::Sql(error.to_string()),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::DiskFull,
            ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly,
            _ => StoreError::Io(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for InsertJobError {
    fn from(error: rusqlite::Error) -> Self {
        InsertJobError::Store(error.into())
    }
}

impl From<rusqlite::Error> for ImportError {
    fn from(error: rusqlite::Error) -> Self {
        ImportError::Store(error.into())
    }
}

/// Refuses a list that is over its limit.
pub(crate) fn at_most(what: &'static str, given: usize, max: usize) -> Result<(), StoreError> {
    if given > max {
        return Err(StoreError::TooMany { what, given, max });
    }
    Ok(())
}

//! The database file: made, locked against other processes, checked, opened, closed.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::{OpenError, StoreError};
use crate::schema;

/// Prepared statements kept for reuse; there are about forty different ones.
const CACHED_STATEMENTS: usize = 64;

/// How long a commit waits for a backup tool that has the file locked for a moment. Two nodes never
/// wait for each other: the second is refused at start.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// An open database and the lock that keeps other processes out.
pub(crate) struct OpenFile {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    lock: File,
}

impl OpenFile {
    pub(crate) fn open(path: &Path) -> Result<OpenFile, OpenError> {
        make_parents(path)?;
        let failed = |action| {
            move |source| OpenError::Io {
                action,
                path: path.to_path_buf(),
                source,
            }
        };
        let mut file = private_file(path).map_err(failed("open"))?;
        // The lock must be the same for all names of the file (links, relative paths).
        let path = std::fs::canonicalize(path).map_err(failed("find"))?;
        // First, so that not even a lock file is made beside what is not ours.
        check_header(&mut file, &path)?;
        drop(file);
        let lock = lock_beside(&path)?;
        let connection = connect(&path).map_err(|error| sql_error(&path, error))?;
        schema::migrate(&connection, &path)?;
        Ok(OpenFile {
            connection,
            path,
            lock,
        })
    }

    /// Closes the database as it is and opens it again, whereby SQLite reads its log anew, checks it
    /// and leaves out what is not as it was written. On an error nothing is open; to be tried again.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        let stand_in = Connection::open_in_memory()?;
        let old = std::mem::replace(&mut self.connection, stand_in);
        old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        old.close().map_err(|(_, error)| error)?;
        self.connection = connect(&self.path)?;
        Ok(())
    }

    /// Whether there is a database behind the connection: see [`OpenFile::reopen`].
    pub(crate) fn is_open(&self) -> bool {
        self.connection.path().is_some_and(|path| !path.is_empty())
    }

    /// From now on, closing leaves the log as it is: what it holds can't be trusted.
    pub(crate) fn leave_log(&self) {
        let leave = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        if let Err(error) = self.connection.set_db_config(leave, true) {
            tracing::warn!(%error, "can't leave the database's log as it is");
        }
    }

    /// Moves the log into the database file, then releases both.
    pub(crate) fn close(self) {
        drop(self.close_locked());
    }

    /// Moves the log into the database file and releases that; the lock is still held.
    pub(crate) fn close_locked(self) -> File {
        let OpenFile {
            connection,
            path,
            lock,
        } = self;
        let leave = connection.db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE);
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if !matches!(leave, Ok(true))
            && let Err(error) = connection.query_row(checkpoint, [], |_| Ok(()))
        {
            tracing::warn!(%error, "can't move the log into the database; the next start will");
        }
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "can't close the database");
        }
        tracing::debug!(path = %path.display(), "database closed");
        lock
    }
}

pub(crate) fn sql_error(path: &Path, error: impl Into<StoreError>) -> OpenError {
    let path = path.to_path_buf();
    match error.into() {
        StoreError::Corrupt(reason) => OpenError::Corrupt { path, reason },
        source => OpenError::Sql { path, source },
    }
}

fn make_parents(path: &Path) -> Result<(), OpenError> {
    let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    private_directories(parent).map_err(|source| OpenError::Io {
        action: "make the directory",
        path: parent.to_path_buf(),
        source,
    })
}

/// Makes a directory and its missing parents, for this user only. One that exists stays as it is.
pub(crate) fn private_directories(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file, made for this user only if need be. SQLite gives `-wal` and `-shm` the same mode.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn lock_beside(path: &Path) -> Result<File, OpenError> {
    let lock_path = with_suffix(path, ".lock");
    let failed = |source| OpenError::Io {
        action: "lock",
        path: lock_path.clone(),
        source,
    };
    let lock = private_file(&lock_path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// `path` with something behind its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Looks at the file before SQLite does, as SQLite may write to what it opens (a database of 0.1.0
/// must never be written to).
pub(crate) fn check_header(file: &mut File, path: &Path) -> Result<(), OpenError> {
    let header = Header::read(file).map_err(|source| OpenError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })?;
    match header {
        Header::Empty => Ok(()),
        Header::Database { application_id } if application_id == schema::APPLICATION_ID => Ok(()),
        Header::Database { .. } => Err(OpenError::Foreign {
            path: path.to_path_buf(),
        }),
        Header::Other => Err(OpenError::Corrupt {
            path: path.to_path_buf(),
            reason: "it does not begin like a database".into(),
        }),
    }
}

/// What the first 100 bytes of a file say (<https://www.sqlite.org/fileformat2.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Empty,
    Database { application_id: i32 },
    Other,
}

impl Header {
    pub(crate) fn read(file: &mut impl Read) -> io::Result<Header> {
        let mut bytes = Vec::with_capacity(100);
        file.take(100).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(Header::Empty);
        }
        let id = bytes
            .get(68..72)
            .and_then(|id| id.try_into().ok())
            .map(i32::from_be_bytes);
        Ok(match id {
            Some(application_id) if bytes.starts_with(MAGIC) => Header::Database { application_id },
            _ => Header::Other,
        })
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    // No mutex inside SQLite: one thread owns the connection. No URI: a path may hold a `?`.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let set = |name: &str, value: &str| connection.pragma_update(None, name, value);
    // Says whose file it is, also in the main file's header: written before the log takes over.
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != schema::APPLICATION_ID {
        // Free pages can be given back in small steps (`crate::retention`). It counts for a file that
        // is being made; one that was made without it gets it by `derouter db vacuum`.
        set("auto_vacuum", "INCREMENTAL")?;
        set("application_id", &schema::APPLICATION_ID.to_string())?;
    }
    // Readers and a backup don't stop the writer, and a commit is one append.
    set("journal_mode", "WAL")?;
    // Commits append to the log and wait for no disk; who needs that waits for `crate::sync`. In WAL
    // mode this can't damage the database.
    set("synchronous", "NORMAL")?;
    // A job without its offer can't be hashed.
    set("foreign_keys", "ON")?;
    // A node's memory is counted in MiB: 1 MiB of pages, and none mapped.
    set("cache_size", "-1024")?;
    set("mmap_size", "0")?;
    // What is sorted may be private; it never goes to a shared temporary directory.
    set("temp_store", "MEMORY")?;
    // The log is moved into the file every 4 MiB, and cut back when a burst made it longer.
    set("wal_autocheckpoint", "1000")?;
    set("journal_size_limit", "8388608")?;
    // A damaged file must not run functions of its own.
    set("trusted_schema", "OFF")?;
    // Statements are planned once, not anew for each value that is bound to them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

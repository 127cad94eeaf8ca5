//! A second look at a database that a node may be using: to check it, to copy it, to list its jobs.
//! Nothing here changes it, and no node waits for it.

mod backup;
mod check;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use derouter_market::{Job, Role};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub use backup::{BackupError, BackupProgress};
pub use check::{CheckReport, Finding};

use crate::error::{OpenError, StoreError};
use crate::file::{check_header, sql_error, with_suffix};
use crate::jobs::{self, StoredJobs, StoredPage};
use crate::schema;

/// How long a look waits while a node that starts or stops has the file for itself.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A database, open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens a database that is there. Blocks for the disk, as all calls do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |action| {
            move |source| OpenError::Io {
                action,
                path: path.to_path_buf(),
                source,
            }
        };
        let mut file = File::open(path).map_err(failed("open"))?;
        let path = std::fs::canonicalize(path).map_err(failed("find"))?;
        check_header(&mut file, &path)?;
        let length = file.metadata().map_err(failed("read"))?.len();
        if length == 0 {
            return Err(OpenError::Corrupt {
                path,
                reason: "it is empty".into(),
            });
        }
        drop(file);
        let connection = connect(&path).map_err(|error| sql_error(&path, error))?;
        Ok(Self { connection, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A page of jobs with all that is stored of them, for export. Pages are read one by one: what
    /// changes in between is told as it is then.
    pub fn jobs(&self, which: &StoredJobs) -> Result<StoredPage, StoreError> {
        jobs::read_stored(&self.connection, which)
    }

    /// The jobs whose id begins so, on either side or one; at most ten.
    pub fn jobs_named(&self, id: &str, role: Option<Role>) -> Result<Vec<Job>, StoreError> {
        jobs::read_named(&self.connection, id, role)
    }

    /// Refuses a database of another schema than this program's.
    pub fn expect_current(&self) -> Result<(), OpenError> {
        schema::expect_current(&self.connection, &self.path)
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let log = std::fs::metadata(with_suffix(path, "-wal"));
    let has_log = log.is_ok_and(|log| log.len() > 0);
    match connect_shared(path, has_log) {
        // On a medium that is read-only there is no place for the index of a log.
        Err(StoreError::Io(_) | StoreError::ReadOnly) if !has_log => connect_immutable(path),
        connected => connected,
    }
}

fn connect_shared(path: &Path, has_log: bool) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    // What a node that was killed left is for its next start to take in. Without a log, closing takes
    // away the empty one that this look makes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    Ok(connection)
}

/// Opens a file that nobody can change.
fn connect_immutable(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let mut name = path.to_string_lossy().into_owned();
    for (special, escaped) in [("%", "%25"), ("?", "%3f"), ("#", "%23")] {
        name = name.replace(special, escaped);
    }
    let connection = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?;
    prepare(&connection)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let set = |name: &str, value: &str| connection.pragma_update(None, name, value);
    set("query_only", "ON")?;
    set("trusted_schema", "OFF")?;
    set("mmap_size", "0")?;
    set("temp_store", "MEMORY")?;
    // Opens the file, which is put off until something is read.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}

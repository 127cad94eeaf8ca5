//! A 0.1.0 database as something to read only: nothing is ever written to it or beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, OpenFlags};

use crate::error::ImportError;
use crate::file::{Header, private_directories, private_file, with_suffix};

/// What SQLite keeps beside a database when it was not closed well.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// An open 0.1.0 database.
pub(super) struct Source {
    pub(super) connection: Connection,
    /// The copy that is read, if there had to be one. Dropped behind the connection.
    _copy: Option<CopyDirectory>,
}

/// A directory that goes when it is not needed any more: it holds a copy of private data.
struct CopyDirectory(PathBuf);

impl Drop for CopyDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "can't remove the copy of a database");
        }
    }
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> ImportError {
    ImportError::Io {
        action,
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}

/// What tells a database from its later self: sizes and times of it and its logs.
pub(super) fn fingerprint(path: &Path) -> Result<String, ImportError> {
    let describe = |path: &Path| -> io::Result<String> {
        let metadata = fs::metadata(path)?;
        let since = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(format!(
            "{}@{}.{:09}",
            metadata.len(),
            since.as_secs(),
            since.subsec_nanos()
        ))
    };
    let mut parts = describe(path).map_err(|error| failed("read", path, &error))?;
    for log in LOGS {
        match describe(&with_suffix(path, log)) {
            Ok(part) => parts.extend([" ", log, " ", &part]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", path, &error)),
        }
    }
    Ok(parts)
}

impl Source {
    /// Opens the database. One with a log that is not empty is copied to `scratch` (which is made,
    /// and removed again) and opened there, as SQLite would otherwise write the log back.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Source, ImportError> {
        check_header(path)?;
        let has_log = LOGS.iter().any(|log| {
            fs::metadata(with_suffix(path, log)).is_ok_and(|metadata| metadata.len() > 0)
        });
        let copy = if has_log {
            Some(copy_to(path, scratch)?)
        } else {
            None
        };
        let opened = match &copy {
            Some(copy) => Connection::open_with_flags(
                copy.0.join("db.sqlite"),
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            ),
            None => Connection::open_with_flags(
                immutable_uri(path),
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX
                    | OpenFlags::SQLITE_OPEN_URI,
            ),
        };
        let connection = opened.map_err(|error| damaged(path, error.to_string()))?;
        let source = Source {
            connection,
            _copy: copy,
        };
        source.check(path)?;
        Ok(source)
    }

    fn check(&self, path: &Path) -> Result<(), ImportError> {
        // A file from elsewhere must not run functions of its own, nor cost much memory.
        self.connection
            .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cache_size = -1024;")
            .map_err(|error| damaged(path, error.to_string()))?;
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| damaged(path, error.to_string()))?;
        if verdict == "ok" {
            Ok(())
        } else {
            Err(damaged(path, verdict))
        }
    }
}

fn damaged(path: &Path, reason: String) -> ImportError {
    ImportError::Damaged {
        path: path.to_path_buf(),
        reason,
    }
}

fn check_header(path: &Path) -> Result<(), ImportError> {
    let mut file = File::open(path).map_err(|error| failed("open", path, &error))?;
    let header = Header::read(&mut file).map_err(|error| failed("read", path, &error))?;
    let reason = match header {
        // 0.1.0 sets no application id.
        Header::Database { application_id: 0 } => return Ok(()),
        Header::Database { .. } => "it is another program's database",
        Header::Empty => "it is empty",
        Header::Other => "it does not begin like a database",
    };
    Err(ImportError::NotLegacy {
        path: path.to_path_buf(),
        reason: reason.into(),
    })
}

/// Copies the database and its logs into a directory that only this user can read.
fn copy_to(path: &Path, scratch: &Path) -> Result<CopyDirectory, ImportError> {
    // One may be left of an import that was killed; the store's lock says that it is not in use.
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", scratch, &error));
        }
        _ => {}
    }
    private_directories(scratch).map_err(|error| failed("make", scratch, &error))?;
    let directory = CopyDirectory(scratch.to_path_buf());
    for suffix in [""].into_iter().chain(LOGS) {
        let from = with_suffix(path, suffix);
        let to = with_suffix(&scratch.join("db.sqlite"), suffix);
        let mut original = match File::open(&from) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open", &from, &error)),
        };
        private_file(&to)
            .and_then(|mut copy| io::copy(&mut original, &mut copy))
            .map_err(|error| failed("copy", &from, &error))?;
    }
    Ok(directory)
}

/// The path as a URI that tells SQLite to take no lock and make no file.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_hold_what_a_uri_gives_a_meaning() {
        let uri = immutable_uri(Path::new("/data/50% off?#1/db ü.sqlite"));
        assert_eq!(
            uri,
            "file:/data/50%25%20off%3F%231/db%20%C3%BC.sqlite?immutable=1"
        );
    }
}

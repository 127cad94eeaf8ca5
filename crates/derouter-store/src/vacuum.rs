//! Writing a database anew without its free pages. Nobody else may use it meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{OpenError, StoreError};
use crate::file::{OpenFile, sql_error, with_suffix};
use crate::sync::sync_directory_of;

/// What a vacuum did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacuumed {
    /// Bytes of the file before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// Writes the database at `path` anew, smaller, and puts it in the place of the old one once it is on
/// the disk. Brings its schema up to date. Needs as much free space as the database is large. Refused
/// while a node uses it. Blocks for the disk.
pub fn vacuum(path: &Path) -> Result<Vacuumed, OpenError> {
    if let Err(source) = std::fs::metadata(path) {
        return Err(OpenError::Io {
            action: "find",
            path: path.to_path_buf(),
            source,
        });
    }
    let file = OpenFile::open(path)?;
    let path = file.path.clone();
    let anew = with_suffix(&path, ".vacuum");
    let before = length(&path)?;
    let copied = copy(&file, &anew).map_err(|error| sql_error(&path, error));
    // Closed before it is replaced: its log must not outlive it.
    let lock = file.close_locked();
    let placed = copied
        .and_then(|()| expect_no_log(&path))
        .and_then(|()| place(&anew, &path));
    if placed.is_err() {
        let _ = std::fs::remove_file(&anew);
    }
    placed?;
    let after = length(&path)?;
    drop(lock);
    Ok(Vacuumed { before, after })
}

fn copy(file: &OpenFile, anew: &Path) -> Result<(), StoreError> {
    // What a vacuum that was killed left.
    match std::fs::remove_file(anew) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // For this user only, from the first byte. SQLite takes an empty file.
    crate::file::private_file(anew)?;
    let name = anew.to_str().ok_or_else(|| {
        StoreError::Sql("the path is not UTF-8 text, which this needs: move the database".into())
    })?;
    let connection = &file.connection;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.execute("VACUUM INTO ?1", [name])?;
    File::open(anew)?.sync_all()?;
    Ok(())
}

/// A log that is still there belongs to the old file, and somebody who reads that: a backup, say.
fn expect_no_log(path: &Path) -> Result<(), OpenError> {
    match with_suffix(path, "-wal").exists() {
        true => Err(OpenError::InUse {
            path: path.to_path_buf(),
        }),
        false => Ok(()),
    }
}

fn place(anew: &Path, path: &Path) -> Result<(), OpenError> {
    std::fs::rename(anew, path)
        .and_then(|()| sync_directory_of(path))
        .map_err(|source| OpenError::Io {
            action: "replace",
            path: path.to_path_buf(),
            source,
        })
}

fn length(path: &Path) -> Result<u64, OpenError> {
    let metadata = std::fs::metadata(path).map_err(|source| OpenError::Io {
        action: "read",
        path: PathBuf::from(path),
        source,
    })?;
    Ok(metadata.len())
}

//! Where things are.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// 0.1.0's name for its database in the data directory.
const LEGACY_DATABASE: &str = "db.sqlite";

/// Our name for ours.
const DATABASE: &str = "derouter.sqlite";

/// The first bytes of every SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// `DeRo`: what the header of our databases has as its `application_id`.
const APPLICATION_ID: [u8; 4] = *b"DeRo";

/// The data directory without a configuration, the same as 0.1.0's: the platform's local data
/// directory for `derouter`. `None` without a home directory.
pub(crate) fn default_data_dir() -> Option<PathBuf> {
    let project = directories::ProjectDirs::from("org", "", "derouter")?;
    Some(project.data_local_dir().to_path_buf())
}

/// Our database in a data directory.
pub(crate) fn in_data_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(DATABASE)
}

/// Our database, and one of 0.1.0 to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DatabasePaths {
    pub(super) database: PathBuf,
    pub(super) legacy: Option<PathBuf>,
}

/// Finds the databases. `named` is `database_path`: a database of another program there is taken
/// for 0.1.0's, which is imported and never written to, and ours lies beside it. The error is a
/// file that can't be looked at.
pub(super) fn database(data_dir: &Path, named: Option<&Path>) -> Result<DatabasePaths, String> {
    let Some(named) = named else {
        let legacy = data_dir.join(LEGACY_DATABASE);
        let legacy = is_foreign_database(&legacy)?.then_some(legacy);
        return Ok(DatabasePaths {
            database: in_data_dir(data_dir),
            legacy,
        });
    };
    if named.is_dir() {
        return Err(format!("{} is a directory. Name a file", named.display()));
    }
    if is_foreign_database(named)? {
        let database = named.with_file_name(DATABASE);
        if database == named {
            let named = named.display();
            return Err(format!(
                "{named} is a database of another program. Name another file"
            ));
        }
        return Ok(DatabasePaths {
            database,
            legacy: Some(named.to_path_buf()),
        });
    }
    Ok(DatabasePaths {
        database: named.to_path_buf(),
        legacy: None,
    })
}

/// Whether the file is an SQLite database that is not ours. The header tells
/// (<https://www.sqlite.org/fileformat2.html>): nothing opens the file, as opening may write to it.
fn is_foreign_database(path: &Path) -> Result<bool, String> {
    let header = match read_header(path) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("can't read {}: {error}", path.display())),
    };
    let application_id = header.get(68..72);
    Ok(header.starts_with(SQLITE_MAGIC)
        && application_id.is_some_and(|id| id != APPLICATION_ID.as_slice()))
}

fn read_header(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(100);
    File::open(path)?.take(100).read_to_end(&mut header)?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(side: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/0.1-data");
        root.join(side)
    }

    #[test]
    fn a_new_data_directory_gets_our_database_alone() {
        let directory = tempfile::tempdir().unwrap();
        let paths = database(directory.path(), None).unwrap();
        assert_eq!(paths.database, directory.path().join("derouter.sqlite"));
        assert_eq!(paths.legacy, None);
    }

    #[test]
    fn a_0_1_0_database_in_the_data_directory_is_to_be_imported() {
        let directory = vectors("provider");
        let paths = database(&directory, None).unwrap();
        assert_eq!(paths.database, directory.join("derouter.sqlite"));
        assert_eq!(paths.legacy, Some(directory.join("db.sqlite")));
    }

    #[test]
    fn a_0_1_0_database_that_is_named_is_imported_and_ours_lies_beside() {
        let named = vectors("consumer").join("db.sqlite");
        let paths = database(Path::new("/elsewhere"), Some(&named)).unwrap();
        assert_eq!(paths.database, vectors("consumer").join("derouter.sqlite"));
        assert_eq!(paths.legacy, Some(named));
    }

    #[test]
    fn a_named_file_that_is_absent_or_ours_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let named = directory.path().join("mine.sqlite");
        let ours = DatabasePaths {
            database: named.clone(),
            legacy: None,
        };
        assert_eq!(
            database(Path::new("/elsewhere"), Some(&named)),
            Ok(ours.clone())
        );
        let mut header = SQLITE_MAGIC.to_vec();
        header.resize(100, 0);
        header[68..72].copy_from_slice(&APPLICATION_ID);
        std::fs::write(&named, header).unwrap();
        assert_eq!(database(Path::new("/elsewhere"), Some(&named)), Ok(ours));
    }

    #[test]
    fn a_directory_is_not_a_database() {
        let directory = tempfile::tempdir().unwrap();
        assert!(database(Path::new("/elsewhere"), Some(directory.path())).is_err());
    }
}

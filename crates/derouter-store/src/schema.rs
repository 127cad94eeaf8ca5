//! The tables, and how an older database becomes a current one.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{OpenError, StoreError};
use crate::file::sql_error;

/// `DeRo` in ASCII: the `application_id` in the header of our files.
pub(crate) const APPLICATION_ID: i32 = 0x4465_526f;

/// Each brings the schema from its index to the next. Never changed once released; add another.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// Brings the schema up to date, each step in its own transaction.
pub(crate) fn migrate(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let found = known_version(connection, path)?;
    for (step, sql) in (1_u32..).zip(MIGRATIONS).filter(|(step, _)| *step > found) {
        apply(connection, step, sql).map_err(|error| sql_error(path, error))?;
        tracing::info!(path = %path.display(), schema = step, "database schema brought up to date");
    }
    Ok(())
}

/// Refuses a database that is not of the current schema.
pub(crate) fn expect_current(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let (found, known) = (known_version(connection, path)?, newest());
    if found < known {
        return Err(OpenError::OlderSchema {
            path: path.to_path_buf(),
            found,
            known,
        });
    }
    Ok(())
}

/// The schema of a database; an error when a newer version of this program made it.
fn known_version(connection: &Connection, path: &Path) -> Result<u32, OpenError> {
    let found = version(connection).map_err(|error| sql_error(path, error))?;
    let known = newest();
    if found > known {
        return Err(OpenError::NewerSchema {
            path: path.to_path_buf(),
            found,
            known,
        });
    }
    Ok(found)
}

fn newest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

fn version(connection: &Connection) -> Result<u32, StoreError> {
    // Counting the tables makes SQLite read the schema, so that damage there shows now.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

fn apply(connection: &Connection, step: u32, sql: &str) -> Result<(), StoreError> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", step)?;
    transaction.commit()?;
    Ok(())
}

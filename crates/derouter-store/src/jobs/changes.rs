//! The order in which jobs changed. Triggers number each change (schema/5.sql), so that whoever
//! changes a job can't forget to.

use derouter_market::Job;
use rusqlite::{Connection, OptionalExtension};

use super::row::{JOB_COLUMNS, read_page};
use crate::column::integer;
use crate::error::{StoreError, at_most};
use crate::limits;
use crate::store::Store;

/// A history of jobs, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobHistory {
    /// Random, and another one in each database.
    pub id: [u8; 8],
    /// The number of the last change.
    pub last: u64,
}

/// The jobs that changed, as they are now, in the order of their latest changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobChanges {
    /// Each with the number of its latest change.
    pub jobs: Vec<(u64, Job)>,
}

impl Store {
    /// Which history this is, and how far it goes.
    pub async fn job_history(&self) -> Result<JobHistory, StoreError> {
        self.read(history).await
    }

    /// The jobs whose latest change is behind `after`, at most `limit`, and fewer where payloads are
    /// large: only without any there are no more. A job that changed twice is there once, as it is now.
    pub async fn job_changes(&self, after: u64, limit: usize) -> Result<JobChanges, StoreError> {
        at_most("rows", limit, limits::PAGE_ROWS)?;
        let after = integer(after)?;
        self.read(move |connection| changes(connection, after, limit))
            .await
    }
}

fn history(connection: &Connection) -> Result<JobHistory, StoreError> {
    let id = connection
        .prepare_cached("SELECT id FROM job_history")?
        .query_row([], |row| row.get(0))?;
    // Not `max(seq)`: the latest job may have been forgotten.
    let last: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'job_changes'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(JobHistory {
        id,
        last: last.unwrap_or(0).unsigned_abs(),
    })
}

fn changes(connection: &Connection, after: i64, limit: usize) -> Result<JobChanges, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let numbers = connection
        .prepare_cached("SELECT seq FROM job_changes WHERE seq > ?1 ORDER BY seq LIMIT ?2")?
        .query_map([after, limit], |row| row.get::<_, i64>(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM job_changes JOIN jobs ON jobs.id = job
         WHERE seq > ?1 ORDER BY seq LIMIT ?2"
    );
    let jobs = read_page(
        connection,
        &mut *connection.prepare_cached(&sql)?,
        [after, limit],
    )?;
    let numbers = numbers.into_iter().map(i64::unsigned_abs);
    Ok(JobChanges {
        jobs: numbers.zip(jobs).collect(),
    })
}

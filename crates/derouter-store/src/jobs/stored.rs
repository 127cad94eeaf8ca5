//! All that is stored of jobs, for export and check.

use derouter_market::{Job, Role};
use derouter_wire::{RowId, UnixSeconds};
use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, Row, ToSql, params};

use super::page::Order;
use super::row::{JOB_COLUMNS, JobRow, PayloadBytes, role_text};
use crate::announcements::SnapshotCache;
use crate::column::{RowName, time};
use crate::error::StoreError;
use crate::limits;

/// A job with what the consumer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// The job.
    pub job: Job,
    /// The consumer's request, where payloads are stored and it was not forgotten yet.
    pub job_args: Option<String>,
}

/// Which jobs to read, by row id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredJobs {
    /// Only rows behind this one, in the order of the pages.
    pub after: Option<RowId>,
    /// Whether the newest come first, else the oldest.
    pub newest_first: bool,
    /// Only those of a side.
    pub role: Option<Role>,
    /// Only those made at this time or later, by our clock.
    pub since: Option<UnixSeconds>,
    /// Only those made before this time.
    pub until: Option<UnixSeconds>,
}

/// A page of jobs; a row that makes no sense is an error of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPage {
    /// The jobs.
    pub jobs: Vec<Result<StoredJob, StoreError>>,
    /// Where to go on; `None` at the end.
    pub next: Option<RowId>,
}

/// An absent bound as a number that bounds nothing.
struct Bound(Option<UnixSeconds>, i64);

impl ToSql for Bound {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let at = self.0.map_or(self.1, |at| time(at).unwrap_or(i64::MAX));
        Ok(ToSqlOutput::Owned(Value::Integer(at)))
    }
}

pub(crate) fn read(connection: &Connection, which: &StoredJobs) -> Result<StoredPage, StoreError> {
    let order = Order::new(which.newest_first, which.after);
    let (behind, by) = (order.condition("?1"), order.by());
    let sql = format!(
        "SELECT {JOB_COLUMNS}, job_args FROM jobs WHERE {behind} AND (?2 IS NULL OR role = ?2)
         AND created_at_local >= ?3 AND created_at_local <= ?4 {by} LIMIT ?5"
    );
    let until = which
        .until
        .map(|until| UnixSeconds(until.0.saturating_sub(1)));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![
        order.after(),
        which.role.map(role_text),
        Bound(which.since, i64::MIN),
        Bound(until, i64::MAX),
        i64::try_from(limits::PAGE_ROWS).unwrap_or(i64::MAX),
    ])?;
    let (mut cache, mut bytes) = (SnapshotCache::new(), PayloadBytes::default());
    let mut page = StoredPage {
        jobs: Vec::new(),
        next: None,
    };
    while let Some(row) = rows.next()? {
        let name = RowName {
            table: "jobs",
            row: row.get(0)?,
        };
        let stored = stored(connection, row, name, &mut cache);
        if let Ok(stored) = &stored {
            bytes.add(&stored.job, stored.job_args.as_deref());
        }
        page.jobs.push(stored);
        if bytes.are_enough() || page.jobs.len() >= limits::PAGE_ROWS {
            page.next = Some(RowId(name.row.unsigned_abs()));
            break;
        }
    }
    Ok(page)
}

fn stored(
    connection: &Connection,
    row: &Row<'_>,
    name: RowName,
    cache: &mut SnapshotCache,
) -> Result<StoredJob, StoreError> {
    let bad = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(_) => StoreError::from(error),
        None => name.bad(error.to_string()),
    };
    Ok(StoredJob {
        job_args: row.get("job_args").map_err(bad)?,
        job: JobRow::read(row)
            .map_err(bad)?
            .into_job(connection, cache)?,
    })
}

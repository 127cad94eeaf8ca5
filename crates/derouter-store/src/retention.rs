//! Forgetting payloads: what was asked and answered is kept for a while and up to a size. What the
//! job hash covers, and the signature, are kept for ever, and so is all of a job that is open or
//! whose signature is not delivered yet.
//!
//! Every call here is short, as all others wait meanwhile; the node makes many of them with pauses.

use derouter_wire::{RowId, UnixSeconds};
use rusqlite::{Connection, params};

use crate::column::{RowName, integer, time};
use crate::error::StoreError;
use crate::store::{Durability, Store};

/// Entries of the index that one call adds up: about a millisecond.
const SIZED_ROWS: usize = 4096;

/// Rows of which one call forgets the payloads. With [`PRUNED_BYTES`] a few milliseconds.
const PRUNED_ROWS: usize = 64;

/// Bytes of payloads that one call forgets; one row's may be more.
const PRUNED_BYTES: u64 = 4 * 1024 * 1024;

/// Free pages that stay in the file for what comes next (4 MiB).
const FREE_PAGES_KEPT: u32 = 1024;

/// Free pages that one call gives back to the file system (1 MiB).
const PAGES_GIVEN_BACK: u32 = 256;

/// The bytes of a job's payloads that may be forgotten. The text is that of the index
/// `jobs_payloads`, so that the index answers and no payload is read.
const BYTES: &str = "iif(state IN ('created', 'accepted', 'running', 'undelivered'), 0,
    ifnull(length(CAST(job_args AS BLOB)), 0) + ifnull(length(CAST(private_payload AS BLOB)), 0))";

/// A place among the jobs with payloads, which are ordered by when this side made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PayloadMark {
    /// When the job was made, by our clock.
    pub created_at: UnixSeconds,
    /// Its row.
    pub row: RowId,
}

impl PayloadMark {
    /// Behind all that was made before a time.
    pub fn before(time: UnixSeconds) -> Self {
        Self {
            created_at: time,
            row: RowId(0),
        }
    }
}

/// How large payloads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadSizes {
    /// Bytes of those that were looked at.
    pub bytes: u64,
    /// The newest that is over the allowed bytes; all older ones are too.
    pub over: Option<PayloadMark>,
    /// Where to go on; `None` at the end.
    pub next: Option<PayloadMark>,
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs. 0 when there is nothing left to forget.
    pub jobs: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

impl Store {
    /// Adds up the payloads of jobs, the newest first, behind `from` (else from the newest), until
    /// they are over `allowed` bytes; at most 4096 jobs in one call.
    pub async fn payload_sizes(
        &self,
        from: Option<PayloadMark>,
        allowed: u64,
    ) -> Result<PayloadSizes, StoreError> {
        self.read(move |connection| sizes(connection, from, allowed))
            .await
    }

    /// Forgets payloads of ended jobs up to and with `up_to`, the oldest first; at most 64 jobs and
    /// about 4 MiB in one call. To be called again until it says 0 jobs.
    pub async fn prune_payloads(&self, up_to: PayloadMark) -> Result<Pruned, StoreError> {
        self.write(Durability::Wal, move |connection| prune(connection, up_to))
            .await
    }

    /// Gives free pages back to the file system, at most 1 MiB in one call; 4 MiB stay for what comes
    /// next. Says whether there is more to give back.
    pub async fn give_back_space(&self) -> Result<bool, StoreError> {
        self.write(Durability::Wal, give_back).await
    }
}

fn sizes(
    connection: &Connection,
    from: Option<PayloadMark>,
    allowed: u64,
) -> Result<PayloadSizes, StoreError> {
    let sql = format!(
        "SELECT created_at_local, id, {BYTES} FROM jobs
         WHERE {BYTES} > 0 AND (created_at_local, id) < (?1, ?2)
         ORDER BY created_at_local DESC, id DESC LIMIT ?3"
    );
    let (created_at, row) = match from {
        Some(mark) => columns(mark)?,
        None => (i64::MAX, i64::MAX),
    };
    let limit = i64::try_from(SIZED_ROWS).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![created_at, row, limit])?;
    let mut sizes = PayloadSizes {
        bytes: 0,
        over: None,
        next: None,
    };
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        let (mark, bytes) = mark_of(row.get(0)?, row.get(1)?, row.get(2)?)?;
        sizes.bytes = sizes.bytes.saturating_add(bytes);
        if sizes.bytes > allowed {
            sizes.over = Some(mark);
            return Ok(sizes);
        }
        looked_at += 1;
        sizes.next = (looked_at == SIZED_ROWS).then_some(mark);
    }
    Ok(sizes)
}

fn columns(mark: PayloadMark) -> Result<(i64, i64), StoreError> {
    let row = integer(mark.row.0).unwrap_or(i64::MAX);
    Ok((time(mark.created_at)?, row))
}

fn mark_of(created_at: i64, row: i64, bytes: i64) -> Result<(PayloadMark, u64), StoreError> {
    let name = RowName { table: "jobs", row };
    let mark = PayloadMark {
        created_at: name.time(created_at)?,
        row: RowId(name.unsigned(row)?),
    };
    Ok((mark, name.unsigned(bytes)?))
}

fn prune(connection: &Connection, up_to: PayloadMark) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    let mut forget = connection
        .prepare_cached("UPDATE jobs SET job_args = NULL, private_payload = NULL WHERE id = ?1")?;
    for (row, bytes) in oldest(connection, up_to)? {
        if pruned.jobs > 0 && pruned.bytes.saturating_add(bytes) > PRUNED_BYTES {
            break;
        }
        forget.execute([row])?;
        pruned.jobs = pruned.jobs.saturating_add(1);
        pruned.bytes = pruned.bytes.saturating_add(bytes);
    }
    Ok(pruned)
}

fn oldest(connection: &Connection, up_to: PayloadMark) -> Result<Vec<(i64, u64)>, StoreError> {
    let sql = format!(
        "SELECT created_at_local, id, {BYTES} FROM jobs
         WHERE {BYTES} > 0 AND (created_at_local, id) <= (?1, ?2)
         ORDER BY created_at_local, id LIMIT ?3"
    );
    let (created_at, row) = columns(up_to)?;
    let limit = i64::try_from(PRUNED_ROWS).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![created_at, row, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(1)?;
        let (_, bytes) = mark_of(row.get(0)?, id, row.get(2)?)?;
        found.push((id, bytes));
    }
    Ok(found)
}

fn give_back(connection: &Connection) -> Result<bool, StoreError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let is_incremental = number("auto_vacuum")? == 2;
    let spare = number("freelist_count")?.saturating_sub(FREE_PAGES_KEPT);
    if !is_incremental || spare == 0 {
        return Ok(false);
    }
    let pages = spare.min(PAGES_GIVEN_BACK);
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(spare > pages)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(sql: &str) -> String {
        let connection = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&connection, Path::new("memory")).unwrap();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let rows = statement.query_map([], |row| row.get(3)).unwrap();
        rows.collect::<Result<Vec<String>, _>>().unwrap().join("; ")
    }

    #[test]
    fn payloads_are_sized_from_the_index_alone_and_found_by_it() {
        let newest = format!(
            "SELECT created_at_local, id, {BYTES} FROM jobs WHERE {BYTES} > 0
             AND (created_at_local, id) < (9, 9) ORDER BY created_at_local DESC, id DESC LIMIT 9"
        );
        assert_eq!(
            plan(&newest),
            "SEARCH jobs USING COVERING INDEX jobs_payloads (created_at_local<?)"
        );
    }

    #[test]
    fn debts_are_added_up_from_the_index_alone() {
        let debts = "SELECT id, consumer, balance_delta FROM jobs
                     WHERE state IN ('awaited', 'disputed') AND balance_delta IS NOT NULL";
        assert_eq!(plan(debts), "SCAN jobs USING COVERING INDEX jobs_debts");
    }
}

//! Forgetting offers and providers that nobody needs, as strangers announce what they like and a
//! disk is not for them to fill.

use std::collections::HashSet;

use derouter_wire::{SnapshotId, UnixSeconds};
use rusqlite::{Connection, params};

use crate::column::{RowName, integer, time};
use crate::error::StoreError;
use crate::store::{Durability, Store};

/// Rows of each kind that one call removes at most: a few milliseconds for those who wait.
const FORGET_ROWS: usize = 1000;

/// What may be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Snapshots that are on offer now: they stay.
    pub active: HashSet<SnapshotId>,
    /// Snapshots behind this one stay. Pass [`Forgotten::newest`] of the call before, so that each
    /// snapshot lives from one call to the next at least: a module may just have been told of it.
    pub up_to: SnapshotId,
    /// Providers heard at or after this time stay.
    pub heard_before: UnixSeconds,
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Snapshots removed. 1000 at most; then there may be more.
    pub snapshots: u64,
    /// Providers removed, likewise.
    pub providers: u64,
    /// The newest snapshot there is.
    pub newest: SnapshotId,
}

impl Store {
    /// Removes offer snapshots that are not on offer and that no job is about, and providers not
    /// heard for long of which no snapshot and no job is left. Their ids are never given again. To
    /// be called every hour or so, and again at once while it removes 1000.
    pub async fn forget_idle(&self, idle: Idle) -> Result<Forgotten, StoreError> {
        self.write(Durability::Wal, move |connection| {
            let snapshots = forget_snapshots(connection, &idle)?;
            let providers = forget_providers(connection, idle.heard_before)?;
            let row: i64 = connection
                .prepare_cached("SELECT coalesce(max(id), 0) FROM offer_snapshots")?
                .query_row([], |row| row.get(0))?;
            let newest = RowName {
                table: "offer_snapshots",
                row,
            }
            .unsigned(row)?;
            Ok(Forgotten {
                snapshots,
                providers,
                newest: SnapshotId(newest),
            })
        })
        .await
    }
}

fn forget_snapshots(connection: &Connection, idle: &Idle) -> Result<u64, StoreError> {
    let up_to = integer(idle.up_to.0).unwrap_or(i64::MAX);
    let mut unused = connection.prepare_cached(
        "SELECT id FROM offer_snapshots AS snapshot WHERE id <= ?1
         AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.snapshot_id = snapshot.id) ORDER BY id",
    )?;
    let mut rows = unused.query([up_to])?;
    let mut doomed = Vec::new();
    while doomed.len() < FORGET_ROWS
        && let Some(row) = rows.next()?
    {
        let row: i64 = row.get(0)?;
        let id = SnapshotId(
            RowName {
                table: "offer_snapshots",
                row,
            }
            .unsigned(row)?,
        );
        if !idle.active.contains(&id) {
            doomed.push(row);
        }
    }
    drop(rows);
    let mut delete = connection.prepare_cached("DELETE FROM offer_snapshots WHERE id = ?1")?;
    let mut forgotten = 0_u64;
    for row in doomed {
        delete.execute([row])?;
        forgotten = forgotten.saturating_add(1);
    }
    Ok(forgotten)
}

fn forget_providers(connection: &Connection, heard_before: UnixSeconds) -> Result<u64, StoreError> {
    let limit = i64::try_from(FORGET_ROWS).unwrap_or(i64::MAX);
    let forgotten = connection
        .prepare_cached(
            "DELETE FROM providers WHERE peer_id IN (
               SELECT peer_id FROM providers AS idle WHERE heard_at < ?1
               AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.provider = idle.peer_id)
               AND NOT EXISTS
                 (SELECT 1 FROM offer_snapshots WHERE offer_snapshots.provider = idle.peer_id)
               LIMIT ?2)",
        )?
        .execute(params![time(heard_before)?, limit])?;
    Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
}

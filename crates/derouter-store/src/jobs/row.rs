//! A row of `jobs` as a [`Job`], and a [`JobState`] as columns.

use derouter_market::job::{Failure, JobOffer, Notice, Outcome, SignatureState, Stage};
use derouter_market::{Job, JobState, Role};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{Currency, JobId, JobKey, RowId, SnapshotId, Wei};
use rusqlite::{Connection, Params, Row, Statement};

use crate::announcements::{SnapshotCache, snapshot_for};
use crate::column::{RowName, time};
use crate::error::StoreError;
use crate::limits;

/// In the order in which [`JobRow::read`] takes them.
pub(super) const JOB_COLUMNS: &str = "id, wire, role, provider, job_id, consumer, snapshot_id,
    currency, created_at_sync, created_at_local, private_payload, state, failure_cause,
    failure_reason, failure_class, failed_at_local, notice, public_payload, balance_delta,
    completed_at_sync, completed_at_local, provider_signature, signature, delivery_attempts,
    confirmation_error, disputed_at_local, confirmed_at_local";

/// A wire as its column has it.
pub(super) fn wire_number(wire: JobWire) -> i64 {
    match wire {
        JobWire::V0_1 => 1,
        JobWire::V0_2 => 2,
    }
}

/// A role as its column has it.
pub(crate) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Consumer => "consumer",
        Role::Provider => "provider",
    }
}

/// A row as SQLite has it.
pub(super) struct JobRow {
    id: i64,
    wire: i64,
    role: String,
    provider: Vec<u8>,
    job_id: String,
    consumer: Vec<u8>,
    snapshot_id: i64,
    currency: i64,
    created_at_sync: i64,
    created_at_local: i64,
    private_payload: Option<String>,
    state: String,
    columns: StateColumns,
}

/// The columns that depend on the state.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) failure_cause: Option<String>,
    pub(super) failure_reason: Option<String>,
    pub(super) failure_class: Option<i64>,
    pub(super) failed_at_local: Option<i64>,
    pub(super) notice: Option<String>,
    pub(super) public_payload: Option<String>,
    pub(super) balance_delta: Option<String>,
    pub(super) completed_at_sync: Option<i64>,
    pub(super) completed_at_local: Option<i64>,
    pub(super) provider_signature: Option<Vec<u8>>,
    pub(super) signature: Option<Vec<u8>>,
    pub(super) delivery_attempts: Option<u32>,
    pub(super) confirmation_error: Option<String>,
    pub(super) disputed_at_local: Option<i64>,
    pub(super) confirmed_at_local: Option<i64>,
}

impl StateColumns {
    /// A state as columns. The table's CHECKs refuse what the job's role can't have.
    pub(super) fn of(state: &JobState) -> Result<Self, StoreError> {
        match state {
            JobState::Open(stage) => Ok(Self {
                state: match stage {
                    Stage::Created => "created",
                    Stage::Accepted => "accepted",
                    Stage::Running => "running",
                },
                ..Self::default()
            }),
            JobState::Failed(failure) => Self::failed(failure),
            JobState::Completed {
                outcome,
                signature,
                provider_signature,
            } => {
                let mut columns = Self {
                    public_payload: Some(outcome.public_payload.clone()),
                    balance_delta: outcome.balance_delta.map(|amount| amount.to_string()),
                    completed_at_sync: Some(time(outcome.completed_at_sync)?),
                    completed_at_local: Some(time(outcome.completed_at_local)?),
                    provider_signature: provider_signature.clone(),
                    ..Self::default()
                };
                columns.sign(signature)?;
                Ok(columns)
            }
        }
    }

    fn failed(failure: &Failure) -> Result<Self, StoreError> {
        let (notice, delivery_attempts) = match failure.notice {
            Notice::Unneeded => ("unneeded", None),
            Notice::Undelivered { attempts } => ("undelivered", Some(attempts)),
            Notice::Delivered => ("delivered", None),
        };
        Ok(Self {
            state: "failed",
            failure_cause: Some(failure.cause.name().into()),
            failure_reason: Some(failure.reason.reason.clone()),
            failure_class: failure.reason.reason_class,
            failed_at_local: Some(time(failure.at_local)?),
            notice: Some(notice.into()),
            delivery_attempts,
            ..Self::default()
        })
    }

    /// Whether the other side is to be told of something.
    pub(super) fn news(&self) -> bool {
        self.delivery_attempts.is_some()
    }

    fn sign(&mut self, state: &SignatureState) -> Result<(), StoreError> {
        match state {
            SignatureState::Awaited => self.state = "awaited",
            SignatureState::Disputed { reason, at_local } => {
                self.state = "disputed";
                self.confirmation_error = Some(reason.clone());
                self.disputed_at_local = Some(time(*at_local)?);
            }
            SignatureState::Undelivered {
                signature,
                attempts,
                last_error,
            } => {
                self.state = "undelivered";
                self.signature = Some(signature.clone());
                self.delivery_attempts = Some(*attempts);
                self.confirmation_error.clone_from(last_error);
            }
            SignatureState::Refused { signature, error } => {
                self.state = "refused";
                self.signature = Some(signature.clone());
                self.confirmation_error = Some(error.clone());
            }
            SignatureState::Confirmed {
                signature,
                at_local,
            } => {
                self.state = "confirmed";
                self.signature = Some(signature.clone());
                self.confirmed_at_local = Some(time(*at_local)?);
            }
        }
        Ok(())
    }

    fn into_state(self, state: &str, name: RowName) -> Result<JobState, StoreError> {
        match state {
            "created" => Ok(JobState::Open(Stage::Created)),
            "accepted" => Ok(JobState::Open(Stage::Accepted)),
            "running" => Ok(JobState::Open(Stage::Running)),
            "failed" => self.into_failure(name).map(JobState::Failed),
            _ => {
                let balance = self.balance_delta.as_deref();
                let outcome = Outcome {
                    public_payload: name.need(self.public_payload, "public_payload")?,
                    balance_delta: balance.map(|text| amount(name, text)).transpose()?,
                    completed_at_sync: name
                        .time(name.need(self.completed_at_sync, "completed_at_sync")?)?,
                    completed_at_local: name
                        .time(name.need(self.completed_at_local, "completed_at_local")?)?,
                };
                let signed = SignatureColumns {
                    signature: self.signature,
                    attempts: self.delivery_attempts,
                    error: self.confirmation_error,
                    disputed_at_local: self.disputed_at_local,
                    confirmed_at_local: self.confirmed_at_local,
                };
                Ok(JobState::Completed {
                    outcome,
                    signature: signed.into_state(state, name)?,
                    provider_signature: self.provider_signature,
                })
            }
        }
    }

    fn into_failure(self, name: RowName) -> Result<Failure, StoreError> {
        let cause = name.need(self.failure_cause, "failure_cause")?;
        let notice = match name.need(self.notice, "notice")?.as_str() {
            "unneeded" => Notice::Unneeded,
            "delivered" => Notice::Delivered,
            "undelivered" => Notice::Undelivered {
                attempts: name.need(self.delivery_attempts, "delivery_attempts")?,
            },
            other => return Err(name.bad(format!("unknown notice {other:?}"))),
        };
        Ok(Failure {
            cause: FailureCause::from_name(&cause),
            reason: FailureReason {
                reason: name.need(self.failure_reason, "failure_reason")?,
                reason_class: self.failure_class,
            },
            at_local: name.time(name.need(self.failed_at_local, "failed_at_local")?)?,
            notice,
        })
    }
}

/// The columns that depend on where the signature is.
struct SignatureColumns {
    signature: Option<Vec<u8>>,
    attempts: Option<u32>,
    error: Option<String>,
    disputed_at_local: Option<i64>,
    confirmed_at_local: Option<i64>,
}

impl SignatureColumns {
    fn into_state(self, state: &str, name: RowName) -> Result<SignatureState, StoreError> {
        if state == "awaited" {
            return Ok(SignatureState::Awaited);
        }
        if state == "disputed" {
            let at = name.need(self.disputed_at_local, "disputed_at_local")?;
            return Ok(SignatureState::Disputed {
                reason: name.need(self.error, "confirmation_error")?,
                at_local: name.time(at)?,
            });
        }
        let signature = name.need(self.signature, "signature")?;
        match state {
            "undelivered" => Ok(SignatureState::Undelivered {
                signature,
                attempts: name.need(self.attempts, "delivery_attempts")?,
                last_error: self.error,
            }),
            "refused" => {
                let error = name.need(self.error, "confirmation_error")?;
                Ok(SignatureState::Refused { signature, error })
            }
            "confirmed" => {
                let at = name.need(self.confirmed_at_local, "confirmed_at_local")?;
                Ok(SignatureState::Confirmed {
                    signature,
                    at_local: name.time(at)?,
                })
            }
            other => Err(name.bad(format!("unknown state {other:?}"))),
        }
    }
}

/// An amount of a row.
pub(super) fn amount(name: RowName, text: &str) -> Result<Wei, StoreError> {
    text.parse()
        .map_err(|error| name.bad(format!("balance_delta: {error}")))
}

impl JobRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let columns = StateColumns {
            state: "",
            failure_cause: row.get(12)?,
            failure_reason: row.get(13)?,
            failure_class: row.get(14)?,
            failed_at_local: row.get(15)?,
            notice: row.get(16)?,
            public_payload: row.get(17)?,
            balance_delta: row.get(18)?,
            completed_at_sync: row.get(19)?,
            completed_at_local: row.get(20)?,
            provider_signature: row.get(21)?,
            signature: row.get(22)?,
            delivery_attempts: row.get(23)?,
            confirmation_error: row.get(24)?,
            disputed_at_local: row.get(25)?,
            confirmed_at_local: row.get(26)?,
        };
        Ok(Self {
            id: row.get(0)?,
            wire: row.get(1)?,
            role: row.get(2)?,
            provider: row.get(3)?,
            job_id: row.get(4)?,
            consumer: row.get(5)?,
            snapshot_id: row.get(6)?,
            currency: row.get(7)?,
            created_at_sync: row.get(8)?,
            created_at_local: row.get(9)?,
            private_payload: row.get(10)?,
            state: row.get(11)?,
            columns,
        })
    }

    /// The job, with its offer.
    pub(super) fn into_job(
        self,
        connection: &Connection,
        cache: &mut SnapshotCache,
    ) -> Result<Job, StoreError> {
        let name = RowName {
            table: "jobs",
            row: self.id,
        };
        let role = match self.role.as_str() {
            "consumer" => Role::Consumer,
            "provider" => Role::Provider,
            other => return Err(name.bad(format!("unknown role {other:?}"))),
        };
        let wire = match self.wire {
            1 => JobWire::V0_1,
            2 => JobWire::V0_2,
            other => return Err(name.bad(format!("unknown wire {other}"))),
        };
        let snapshot_id = SnapshotId(name.unsigned(self.snapshot_id)?);
        let snapshot = snapshot_for(connection, cache, snapshot_id, name)?;
        let currency = Currency::from_number(name.unsigned(self.currency)?)
            .ok_or_else(|| name.bad(format!("unknown currency {}", self.currency)))?;
        let job_id = JobId::new(self.job_id).map_err(|error| name.bad(error.to_string()))?;
        Ok(Job {
            row_id: RowId(name.unsigned(self.id)?),
            wire,
            role,
            key: JobKey {
                provider: name.peer(&self.provider)?,
                job_id,
            },
            consumer: name.peer(&self.consumer)?,
            offer: JobOffer {
                snapshot_id,
                protocol_id: snapshot.protocol_id,
                offer_id: snapshot.offer_id,
                payload: snapshot.payload,
            },
            currency,
            created_at_sync: name.time(self.created_at_sync)?,
            created_at_local: name.time(self.created_at_local)?,
            private_payload: self.private_payload,
            state: self.columns.into_state(&self.state, name)?,
        })
    }
}

/// The bytes of payloads in a page of jobs.
#[derive(Default)]
pub(super) struct PayloadBytes(usize);

impl PayloadBytes {
    pub(super) fn add(&mut self, job: &Job, args: Option<&str>) {
        let public = match &job.state {
            JobState::Completed { outcome, .. } => outcome.public_payload.len(),
            JobState::Open(_) | JobState::Failed(_) => 0,
        };
        let own = [job.private_payload.as_deref(), args];
        let own = own.into_iter().flatten().map(str::len);
        let all = own.chain([public, job.offer.payload.len()]);
        self.0 = all.fold(self.0, usize::saturating_add);
    }

    /// Whether the page ends here.
    pub(super) fn are_enough(&self) -> bool {
        self.0 >= limits::PAGE_PAYLOAD_BYTES
    }
}

/// The jobs that a query over [`JOB_COLUMNS`] finds, until they have [`limits::PAGE_PAYLOAD_BYTES`]: one
/// at least, if there is any.
pub(super) fn read_page(
    connection: &Connection,
    statement: &mut Statement<'_>,
    parameters: impl Params,
) -> Result<Vec<Job>, StoreError> {
    let most = limits::PAGE_PAYLOAD_BYTES;
    read_until(connection, statement, parameters, most)
}

/// All jobs that a query over [`JOB_COLUMNS`] finds, for few of them.
pub(super) fn read_all(
    connection: &Connection,
    statement: &mut Statement<'_>,
    parameters: impl Params,
) -> Result<Vec<Job>, StoreError> {
    read_until(connection, statement, parameters, usize::MAX)
}

fn read_until(
    connection: &Connection,
    statement: &mut Statement<'_>,
    parameters: impl Params,
    most: usize,
) -> Result<Vec<Job>, StoreError> {
    let mut cache = SnapshotCache::new();
    let (mut jobs, mut bytes) = (Vec::new(), PayloadBytes::default());
    let mut rows = statement.query(parameters)?;
    while bytes.0 < most
        && let Some(row) = rows.next()?
    {
        let job = JobRow::read(row)?.into_job(connection, &mut cache)?;
        bytes.add(&job, None);
        jobs.push(job);
    }
    Ok(jobs)
}

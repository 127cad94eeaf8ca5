//! Jobs: inserted, changed by a decision inside the transaction, listed.

mod changes;
mod page;
mod row;
mod stored;

use derouter_market::job::Stage;
use derouter_market::{Job, JobChange, JobState, Role};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use derouter_wire::{Currency, JobKey, PeerId, RowId, SnapshotId, UnixSeconds, Wei};
use rusqlite::{Connection, OptionalExtension, params};

pub use changes::{JobChanges, JobHistory};
pub use page::JobPage;
pub(crate) use stored::read as read_stored;
pub use stored::{StoredJob, StoredJobs, StoredPage};

use crate::announcements::SnapshotCache;
use crate::column::{RowName, integer, time};
use crate::error::{InsertJobError, StoreError, at_most};
use crate::limits;
use crate::store::{Durability, Store};
use row::{JOB_COLUMNS, JobRow, StateColumns, role_text};

/// A job to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// The wire on which it is created.
    pub wire: JobWire,
    /// How far it is.
    pub stage: Stage,
    /// Our side.
    pub role: Role,
    /// Provider and job id.
    pub key: JobKey,
    /// Who pays.
    pub consumer: PeerId,
    /// What was bought: a snapshot of the key's provider.
    pub snapshot_id: SnapshotId,
    /// What it is paid in.
    pub currency: Currency,
    /// The consumer's request; only when payloads are to be stored.
    pub job_args: Option<String>,
    /// When the provider created it; for one that it has not answered yet, our own time.
    pub created_at_sync: UnixSeconds,
    /// Now, by our clock.
    pub created_at_local: UnixSeconds,
}

/// What became of a step on a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome<E> {
    /// This side has no such job.
    NotFound,
    /// The decision was against it; nothing changed.
    Refused(E),
    /// The job as it is now.
    Changed(Box<Job>),
}

impl Store {
    /// Inserts an open job. Returns it with its offer.
    pub async fn insert_job(
        &self,
        new: NewJob,
        durability: Durability,
    ) -> Result<Job, InsertJobError> {
        self.write(durability, move |connection| insert_open(connection, &new))
            .await
    }

    /// A job of ours.
    pub async fn job(&self, role: Role, key: &JobKey) -> Result<Option<Job>, StoreError> {
        let key = key.clone();
        self.read(move |connection| find(connection, role, &key))
            .await
    }

    /// Jobs of one side, at most [`limits::PAGE_ROWS`], in the order of the keys.
    pub async fn jobs_of(
        &self,
        role: Role,
        keys: Vec<JobKey>,
    ) -> Result<Vec<Option<Job>>, StoreError> {
        at_most("jobs", keys.len(), limits::PAGE_ROWS)?;
        self.read(move |connection| {
            let found = keys.iter().map(|key| find(connection, role, key));
            found.collect()
        })
        .await
    }

    /// The consumer's request of a job, where payloads are stored.
    pub async fn job_args(&self, role: Role, key: &JobKey) -> Result<Option<String>, StoreError> {
        let key = key.clone();
        self.read(move |connection| {
            let sql = "SELECT job_args FROM jobs WHERE role = ?1 AND provider = ?2 AND job_id = ?3";
            let args = connection
                .prepare_cached(sql)?
                .query_row(
                    params![
                        role_text(role),
                        key.provider.to_bytes(),
                        key.job_id.as_str()
                    ],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(args.flatten())
        })
        .await
    }

    /// Takes a step on a job. `decide` gets the job as it is and runs inside the transaction, on
    /// the store's thread, so that no other step comes in between; it must not block. Answered
    /// once the change is as durable as asked.
    pub async fn change_job<E: Send + 'static>(
        &self,
        role: Role,
        key: &JobKey,
        durability: Durability,
        decide: impl FnOnce(&Job) -> Result<JobChange, E> + Send + 'static,
    ) -> Result<ChangeOutcome<E>, StoreError> {
        let key = key.clone();
        self.write(durability, move |connection| {
            let Some(job) = find(connection, role, &key)? else {
                return Ok(ChangeOutcome::NotFound);
            };
            match decide(&job) {
                Ok(change) => {
                    let job = apply(connection, job, change)?;
                    Ok(ChangeOutcome::Changed(Box::new(job)))
                }
                Err(refusal) => Ok(ChangeOutcome::Refused(refusal)),
            }
        })
        .await
    }

    /// Takes a step on each of several jobs of one side, at most [`limits::PAGE_ROWS`], in one
    /// transaction. `decide` gets the index and the job, if there is one, and gives an answer and maybe
    /// a change. Returns the answers with the changed jobs, in that order.
    pub async fn change_jobs<T: Send + 'static>(
        &self,
        role: Role,
        keys: Vec<JobKey>,
        durability: Durability,
        mut decide: impl FnMut(usize, Option<&Job>) -> (T, Option<JobChange>) + Send + 'static,
    ) -> Result<Vec<(T, Option<Job>)>, StoreError> {
        at_most("jobs", keys.len(), limits::PAGE_ROWS)?;
        self.write(durability, move |connection| {
            let mut changed = Vec::with_capacity(keys.len());
            for (index, key) in keys.iter().enumerate() {
                let job = find(connection, role, key)?;
                let (answer, change) = decide(index, job.as_ref());
                let job = match job.zip(change) {
                    Some((job, change)) => Some(apply(connection, job, change)?),
                    None => None,
                };
                changed.push((answer, job));
            }
            Ok(changed)
        })
        .await
    }

    /// [`Store::change_job`] for decisions that may find nothing to change, such as
    /// [`Job::delivered`]. Returns the changed job; `None` when there is no such job or nothing
    /// to change.
    pub async fn update_job(
        &self,
        role: Role,
        key: &JobKey,
        durability: Durability,
        decide: impl FnOnce(&Job) -> Option<JobChange> + Send + 'static,
    ) -> Result<Option<Job>, StoreError> {
        let decide = move |job: &Job| decide(job).ok_or(());
        match self.change_job(role, key, durability, decide).await? {
            ChangeOutcome::Changed(job) => Ok(Some(*job)),
            ChangeOutcome::NotFound | ChangeOutcome::Refused(()) => Ok(None),
        }
    }

    /// A page of jobs in its order. It ends early at [`limits::PAGE_PAYLOAD_BYTES`]: only behind one
    /// without any are there no more.
    pub async fn jobs_page(&self, page: JobPage) -> Result<Vec<Job>, StoreError> {
        page.check()?;
        self.read(move |connection| page::read(connection, &page))
            .await
    }

    /// Jobs of which the provider is to be told something, our signature or that we gave them up,
    /// ascending by row id, and paged as [`Store::jobs_page`] is.
    pub async fn jobs_with_news(
        &self,
        limit: usize,
        after: Option<RowId>,
    ) -> Result<Vec<Job>, StoreError> {
        at_most("rows", limit, limits::PAGE_ROWS)?;
        self.read(move |connection| {
            let sql = format!(
                "SELECT {JOB_COLUMNS} FROM jobs WHERE news = 1 AND id > ?1
                 ORDER BY id LIMIT ?2"
            );
            let after = after.map_or(0, |row| integer(row.0).unwrap_or(i64::MAX));
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            row::read_page(
                connection,
                &mut *connection.prepare_cached(&sql)?,
                [after, limit],
            )
        })
        .await
    }

    /// What each consumer owes us for completed jobs without having signed.
    pub async fn unsigned_debts(&self) -> Result<Vec<(PeerId, Wei)>, StoreError> {
        self.read(debts).await
    }

    /// Gives up every open job that this node provides; returns how many. For the start of a node,
    /// when nobody can be serving any.
    pub async fn fail_open_provided(
        &self,
        cause: FailureCause,
        reason: &'static str,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let now = integer(now.0)?;
        self.write(Durability::Wal, move |connection| {
            let sql = "UPDATE jobs SET state = 'failed', failure_cause = ?1, failure_reason = ?2,
                         failed_at_local = ?3, notice = 'unneeded'
                       WHERE state IN ('created', 'accepted', 'running') AND role = 'provider'";
            let values = params![cause.name(), reason, now];
            Ok(connection.prepare_cached(sql)?.execute(values)?)
        })
        .await
    }

    /// The open jobs of a side, ascending by row id, and paged as [`Store::jobs_page`] is.
    pub async fn open_jobs(
        &self,
        role: Role,
        limit: usize,
        after: Option<RowId>,
    ) -> Result<Vec<Job>, StoreError> {
        at_most("rows", limit, limits::PAGE_ROWS)?;
        self.read(move |connection| {
            let sql = format!(
                "SELECT {JOB_COLUMNS} FROM jobs
                 WHERE state IN ('created', 'accepted', 'running') AND role = ?1 AND id > ?2
                 ORDER BY id LIMIT ?3"
            );
            let after = after.map_or(0, |row| integer(row.0).unwrap_or(i64::MAX));
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            row::read_page(
                connection,
                &mut *connection.prepare_cached(&sql)?,
                params![role_text(role), after, limit],
            )
        })
        .await
    }

    /// How many jobs of a side are neither completed nor failed.
    pub async fn count_open_jobs(&self, role: Role) -> Result<u64, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM jobs
                       WHERE state IN ('created', 'accepted', 'running') AND role = ?1";
            let count: i64 = connection
                .prepare_cached(sql)?
                .query_row([role_text(role)], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    /// Forgets a job that its provider refused: nothing ever came of it. Only one that is no further
    /// than created; true when there was one.
    pub async fn forget_refused(&self, key: &JobKey) -> Result<bool, StoreError> {
        let key = key.clone();
        self.write(Durability::Wal, move |connection| {
            let sql = "DELETE FROM jobs WHERE role = 'consumer' AND provider = ?1 AND job_id = ?2
                       AND state = 'created'";
            let named = params![key.provider.to_bytes(), key.job_id.as_str()];
            Ok(connection.prepare_cached(sql)?.execute(named)? > 0)
        })
        .await
    }

    /// Takes outcomes that wait for a signature since before `since`, by our clock, for disputed; at
    /// most [`limits::PAGE_ROWS`], and returns how many.
    pub async fn dispute_unsigned(
        &self,
        since: UnixSeconds,
        reason: &'static str,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let (since, now) = (integer(since.0)?, integer(now.0)?);
        self.write(Durability::Wal, move |connection| {
            let sql = "UPDATE jobs SET state = 'disputed', confirmation_error = ?1,
                         disputed_at_local = ?2
                       WHERE id IN (SELECT id FROM jobs WHERE state = 'awaited'
                         AND completed_at_local < ?3 LIMIT ?4)";
            let most = i64::try_from(limits::PAGE_ROWS).unwrap_or(i64::MAX);
            let values = params![reason, now, since, most];
            Ok(connection.prepare_cached(sql)?.execute(values)?)
        })
        .await
    }
}

/// The jobs whose id begins so, on either side or one; at most ten. Looks at every job: for people, not
/// for nodes.
pub(crate) fn read_named(
    connection: &Connection,
    id: &str,
    role: Option<Role>,
) -> Result<Vec<Job>, StoreError> {
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM jobs
         WHERE substr(job_id, 1, length(?1)) = ?1 AND role = ifnull(?2, role) ORDER BY id LIMIT 10"
    );
    let mut statement = connection.prepare(&sql)?;
    row::read_all(connection, &mut statement, params![id, role.map(role_text)])
}

fn debts(connection: &Connection) -> Result<Vec<(PeerId, Wei)>, StoreError> {
    let mut debts = std::collections::HashMap::<PeerId, Wei>::new();
    let sql = "SELECT id, consumer, balance_delta FROM jobs
               WHERE state IN ('awaited', 'disputed') AND balance_delta IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name = RowName {
            table: "jobs",
            row: row.get(0)?,
        };
        let consumer = name.peer(&row.get::<_, Vec<u8>>(1)?)?;
        let amount = row::amount(name, &row.get::<_, String>(2)?)?;
        let debt = debts.entry(consumer).or_default();
        *debt = debt.saturating_add(amount);
    }
    Ok(debts.into_iter().collect())
}

fn find(connection: &Connection, role: Role, key: &JobKey) -> Result<Option<Job>, StoreError> {
    let sql =
        format!("SELECT {JOB_COLUMNS} FROM jobs WHERE role = ?1 AND provider = ?2 AND job_id = ?3");
    let key = params![
        role_text(role),
        key.provider.to_bytes(),
        key.job_id.as_str()
    ];
    let row = connection
        .prepare_cached(&sql)?
        .query_row(key, JobRow::read)
        .optional()?;
    row.map(|row| row.into_job(connection, &mut SnapshotCache::new()))
        .transpose()
}

fn insert_open(connection: &Connection, new: &NewJob) -> Result<Job, InsertJobError> {
    insert(connection, new, None, &JobState::Open(new.stage))?;
    let job = find(connection, new.role, &new.key)?;
    job.ok_or_else(|| StoreError::Sql("the job just inserted is not there".into()).into())
}

/// Inserts a job in any state.
pub(crate) fn insert(
    connection: &Connection,
    new: &NewJob,
    private_payload: Option<&str>,
    state: &JobState,
) -> Result<(), InsertJobError> {
    let provider = new.key.provider.to_bytes();
    let snapshot_id = integer(new.snapshot_id.0).map_err(|_| InsertJobError::UnknownOffer)?;
    let protocol_id: String = connection
        .prepare_cached("SELECT protocol_id FROM offer_snapshots WHERE id = ?1 AND provider = ?2")?
        .query_row(params![snapshot_id, provider], |row| row.get(0))
        .optional()?
        .ok_or(InsertJobError::UnknownOffer)?;
    let columns = StateColumns::of(state)?;
    let inserted = connection
        .prepare_cached(
            "INSERT INTO jobs (wire, role, provider, job_id, consumer, snapshot_id, protocol_id,
               currency, created_at_sync, created_at_local, job_args, private_payload, state, news,
               failure_cause, failure_reason, failure_class, failed_at_local, notice,
               public_payload, balance_delta, completed_at_sync, completed_at_local,
               provider_signature, signature, delivery_attempts, confirmation_error,
               disputed_at_local, confirmed_at_local)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
               ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29)
             ON CONFLICT (role, provider, job_id) DO NOTHING",
        )?
        .execute(params![
            row::wire_number(new.wire),
            role_text(new.role),
            provider,
            new.key.job_id.as_str(),
            new.consumer.to_bytes(),
            snapshot_id,
            protocol_id,
            new.currency.number(),
            time(new.created_at_sync)?,
            time(new.created_at_local)?,
            new.job_args,
            private_payload,
            columns.state,
            columns.news(),
            columns.failure_cause,
            columns.failure_reason,
            columns.failure_class,
            columns.failed_at_local,
            columns.notice,
            columns.public_payload,
            columns.balance_delta,
            columns.completed_at_sync,
            columns.completed_at_local,
            columns.provider_signature,
            columns.signature,
            columns.delivery_attempts,
            columns.confirmation_error,
            columns.disputed_at_local,
            columns.confirmed_at_local,
        ])?;
    if inserted == 0 {
        Err(InsertJobError::Duplicate)
    } else {
        Ok(())
    }
}

fn apply(connection: &Connection, mut job: Job, change: JobChange) -> Result<Job, StoreError> {
    job.state = change.state;
    if change.private_payload.is_some() {
        job.private_payload = change.private_payload;
    }
    if let Some(created_at_sync) = change.created_at_sync {
        job.created_at_sync = created_at_sync;
    }
    let columns = StateColumns::of(&job.state)?;
    connection
        .prepare_cached(
            "UPDATE jobs SET created_at_sync = ?2, private_payload = ?3, state = ?4, news = ?5,
               failure_cause = ?6, failure_reason = ?7, failure_class = ?8, failed_at_local = ?9,
               notice = ?10, public_payload = ?11, balance_delta = ?12, completed_at_sync = ?13,
               completed_at_local = ?14, provider_signature = ?15, signature = ?16,
               delivery_attempts = ?17, confirmation_error = ?18, disputed_at_local = ?19,
               confirmed_at_local = ?20
             WHERE id = ?1",
        )?
        .execute(params![
            integer(job.row_id.0)?,
            time(job.created_at_sync)?,
            job.private_payload,
            columns.state,
            columns.news(),
            columns.failure_cause,
            columns.failure_reason,
            columns.failure_class,
            columns.failed_at_local,
            columns.notice,
            columns.public_payload,
            columns.balance_delta,
            columns.completed_at_sync,
            columns.completed_at_local,
            columns.provider_signature,
            columns.signature,
            columns.delivery_attempts,
            columns.confirmation_error,
            columns.disputed_at_local,
            columns.confirmed_at_local,
        ])?;
    Ok(job)
}

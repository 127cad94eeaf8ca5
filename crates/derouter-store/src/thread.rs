//! The thread that owns the connection: it takes what is queued, runs it in one transaction,
//! commits, and only then answers (group commit), or lets [`crate::sync`] answer once the disk has it.
//!
//! Each write has a savepoint of its own, so that one that fails leaves its neighbours. If the
//! transaction as a whole is lost (disk full), every command of it gets that error and the thread
//! goes on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::faults;
use crate::file::OpenFile;
use crate::health::Health;
use crate::store::Durability;
use crate::sync::{self, Syncer};

/// Commands in one transaction at most: enough to share a disk flush among all who wait at full
/// load, few enough that the first of them is answered within milliseconds.
const BATCH_COMMANDS: usize = 256;

/// The pause between two attempts to write a doubtful log anew: megabytes, on a disk that fails.
const MEND_PAUSE: Duration = Duration::from_secs(1);

/// What a store has done since it was opened. For metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commands that only read.
    pub reads: u64,
    /// Commands that may write.
    pub writes: u64,
    /// Transactions committed. Far fewer than writes under load.
    pub commits: u64,
    /// Times that the log was synced to the disk, each for all commands that waited for that.
    pub synced_commits: u64,
    /// Transactions lost as a whole, for example to a full disk.
    pub lost_transactions: u64,
    /// Commands that wait now.
    pub queued: usize,
}

/// [`Counters`] as the thread counts them.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) synced_commits: AtomicU64,
    pub(crate) lost_transactions: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What is asked of the thread.
pub(crate) enum Message {
    /// Work on the database.
    Command(Box<dyn Command>),
    /// Finish, and say when the file is released.
    Close(oneshot::Sender<()>),
}

/// Whether a command's changes stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Undo,
}

/// Work on the database, and who waits for it.
pub(crate) trait Command: Send {
    /// `None` for a command that only reads.
    fn durability(&self) -> Option<Durability>;
    /// Does the work inside the transaction.
    fn run(&mut self, connection: &Connection) -> Verdict;
    /// Answers, now that it is known whether the transaction was committed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A closure as a [`Command`].
pub(crate) struct Call<T, E, F> {
    pub(crate) durability: Option<Durability>,
    pub(crate) work: Option<F>,
    pub(crate) result: Option<Result<T, E>>,
    pub(crate) reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Command for Call<T, E, F>
where
    T: Send,
    E: Send + From<StoreError>,
    F: FnOnce(&Connection) -> Result<T, E> + Send,
{
    fn durability(&self) -> Option<Durability> {
        self.durability
    }

    fn run(&mut self, connection: &Connection) -> Verdict {
        let Some(work) = self.work.take() else {
            return Verdict::Undo;
        };
        if self.durability.is_none() && self.reply.is_closed() {
            return Verdict::Undo;
        }
        // A caller's decision runs in here; if it panics, the thread must live on for the others.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(StoreError::Panicked.into()));
        let verdict = if result.is_ok() {
            Verdict::Keep
        } else {
            Verdict::Undo
        };
        self.result = Some(result);
        verdict
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (self.result, committed) {
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err(StoreError::Closed.into()),
        };
        // Who asked may have gone; what is stored stays stored.
        let _gone = self.reply.send(result);
    }
}

/// The thread's state.
pub(crate) struct Worker {
    file: OpenFile,
    counters: Arc<LiveCounters>,
    syncer: Syncer,
    health: Arc<Health>,
    next_mending: Instant,
}

impl Worker {
    pub(crate) fn new(
        file: OpenFile,
        syncer: Syncer,
        counters: Arc<LiveCounters>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            file,
            counters,
            syncer,
            health,
            next_mending: Instant::now(),
        }
    }

    /// Works until it is told to close, or until nobody is left who could ask.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = queue.blocking_recv() else {
                break;
            };
            let mut batch = VecDeque::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Command(command) => batch.push_back(command),
                    Message::Close(reply) => {
                        closing = Some(reply);
                        break;
                    }
                }
                next = if batch.len() < BATCH_COMMANDS {
                    queue.try_recv().ok()
                } else {
                    None
                };
            }
            self.run_batch(batch);
        }
        // All that was committed is answered before the file is released.
        drop(self.syncer);
        if self.health.log_in_doubt() {
            self.file.leave_log();
        }
        self.file.close();
        // Callers that were too late get `Closed`, as their reply channels go with the queue. Only
        // now: whoever sees the queue gone may open the file again.
        drop(queue);
        if let Some(reply) = closing {
            let _gone = reply.send(());
        }
    }

    /// Runs all of a batch. A transaction that is lost in the middle ends there; the rest goes on
    /// in another.
    fn run_batch(&mut self, mut waiting: VecDeque<Box<dyn Command>>) {
        if let Err(error) = self.mend() {
            refuse_writes(&mut waiting, &error);
            if !self.file.is_open() {
                waiting
                    .drain(..)
                    .for_each(|command| command.answer(Err(error.clone())));
            }
        }
        while !waiting.is_empty() {
            let mut done = Vec::with_capacity(waiting.len());
            let committed = if waiting.iter().any(|command| is_write(command.as_ref())) {
                let committed = self.run_transaction(&mut waiting, &mut done);
                self.note(&committed, done.len());
                committed
            } else {
                self.run_reads(&mut waiting, &mut done);
                Ok(())
            };
            let _ = faults::at(faults::BEFORE_ANSWER);
            self.answer(done, &committed);
        }
    }

    fn note(&self, committed: &Result<(), StoreError>, commands: usize) {
        match committed {
            Ok(()) => self.health.committed(),
            Err(error) => {
                count(&self.counters.lost_transactions);
                tracing::error!(%error, commands, "database transaction lost");
                self.health.lost(error);
            }
        }
    }

    /// After a failed sync: writes the whole log anew and has SQLite read it back. Until that has
    /// worked no write is taken, as it would come to lie behind what the disk may not have.
    fn mend(&mut self) -> Result<(), StoreError> {
        if !self.health.log_in_doubt() {
            return Ok(());
        }
        let doubtful = |error: StoreError| StoreError::NotDurable(error.to_string());
        if Instant::now() < self.next_mending {
            let trouble = self.health.trouble();
            return Err(trouble.unwrap_or_else(|| doubtful(StoreError::Closed)));
        }
        let mended = sync::rewrite(&self.file.path)
            .map_err(StoreError::from)
            .and_then(|()| self.file.reopen());
        self.next_mending = Instant::now() + MEND_PAUSE;
        if let Err(error) = mended {
            tracing::error!(%error, "could not write the database's log anew; trying again");
            return Err(doubtful(error));
        }
        self.health.log_mended();
        tracing::warn!("the disk has taken the database's log; writes are taken again");
        Ok(())
    }

    /// Answers now, or once the disk has it for those that asked for that.
    fn answer(&self, done: Vec<Box<dyn Command>>, committed: &Result<(), StoreError>) {
        let mut for_good = Vec::new();
        for command in done {
            if committed.is_ok() && command.durability() == Some(Durability::Fsync) {
                for_good.push(command);
            } else {
                command.answer(committed.clone());
            }
        }
        self.syncer.sync(for_good);
    }

    fn run_reads(
        &self,
        waiting: &mut VecDeque<Box<dyn Command>>,
        done: &mut Vec<Box<dyn Command>>,
    ) {
        while let Some(mut command) = waiting.pop_front() {
            count(&self.counters.reads);
            command.run(&self.file.connection);
            done.push(command);
        }
    }

    fn run_transaction(
        &mut self,
        waiting: &mut VecDeque<Box<dyn Command>>,
        done: &mut Vec<Box<dyn Command>>,
    ) -> Result<(), StoreError> {
        if let Err(error) = self.begin() {
            take_writes(waiting, done);
            return Err(error);
        }
        while let Some(mut command) = waiting.pop_front() {
            let ran = self.run_one(command.as_mut());
            done.push(command);
            // After a full disk or an I/O error SQLite may have rolled everything back by itself.
            if self.file.connection.is_autocommit() {
                return Err(ran.err().unwrap_or(StoreError::DiskFull));
            }
            if let Err(error) = ran {
                self.roll_back();
                return Err(error);
            }
        }
        self.commit()
    }

    /// Runs one command; a write inside a savepoint of its own. An error here is one of the
    /// transaction, not of the command.
    fn run_one(&self, command: &mut dyn Command) -> Result<(), StoreError> {
        let connection = &self.file.connection;
        if command.durability().is_none() {
            count(&self.counters.reads);
            command.run(connection);
            return Ok(());
        }
        count(&self.counters.writes);
        let statement = |sql| connection.prepare_cached(sql)?.execute([]);
        statement("SAVEPOINT command")?;
        if command.run(connection) == Verdict::Undo && !connection.is_autocommit() {
            statement("ROLLBACK TO command")?;
        }
        if !connection.is_autocommit() {
            statement("RELEASE command")?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<(), StoreError> {
        faults::at(faults::BEGIN)?;
        self.file
            .connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        Ok(())
    }

    fn commit(&self) -> Result<(), StoreError> {
        let committed = faults::at(faults::COMMIT)
            .map_err(StoreError::from)
            .and_then(|()| {
                let mut commit = self.file.connection.prepare_cached("COMMIT")?;
                Ok(commit.execute([])?)
            });
        if let Err(error) = committed {
            self.roll_back();
            return Err(error);
        }
        count(&self.counters.commits);
        Ok(())
    }

    fn roll_back(&self) {
        if self.file.connection.is_autocommit() {
            return;
        }
        if let Err(error) = self.file.connection.execute_batch("ROLLBACK") {
            tracing::error!(%error, "can't roll a database transaction back");
        }
    }
}

fn is_write(command: &dyn Command) -> bool {
    command.durability().is_some()
}

/// Takes the writes out; the reads can be served still.
fn take_writes(waiting: &mut VecDeque<Box<dyn Command>>, writes: &mut Vec<Box<dyn Command>>) {
    let (refused, reads): (Vec<_>, Vec<_>) = waiting
        .drain(..)
        .partition(|command| is_write(command.as_ref()));
    writes.extend(refused);
    waiting.extend(reads);
}

fn refuse_writes(waiting: &mut VecDeque<Box<dyn Command>>, error: &StoreError) {
    let mut refused = Vec::new();
    take_writes(waiting, &mut refused);
    for command in refused {
        command.answer(Err(error.clone()));
    }
}

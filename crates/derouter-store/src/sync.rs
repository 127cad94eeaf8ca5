//! The thread that waits for the disk, so that nobody else does.
//!
//! Every transaction is committed with `synchronous = NORMAL`, which writes the log without waiting.
//! For commands that ask for [`Durability::Fsync`](crate::Durability::Fsync) this thread then syncs
//! the log file, once for all that wait, and answers them. That is what `synchronous = FULL` does
//! inside the commit, where every read and every other write would wait too. It is as safe: a commit
//! that is no longer in the log was moved into the database by a checkpoint, which in NORMAL mode
//! syncs the log before and the database after.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::error::StoreError;
use crate::faults;
use crate::thread::{Command, LiveCounters};

/// Committed batches that may wait for the disk. At this limit the store waits too.
const QUEUE_BATCHES: usize = 64;

/// Commands that were committed and wait for the disk.
type Committed = Vec<Box<dyn Command>>;

/// The thread's handle. Dropping it syncs and answers what waits, and ends the thread.
pub(crate) struct Syncer {
    queue: Option<SyncSender<Committed>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread for the database at `path`.
    pub(crate) fn start(path: &Path, counters: Arc<LiveCounters>) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE_BATCHES);
        let mut log = LogFile::of(path);
        let thread = std::thread::Builder::new()
            .name("derouter-sync".into())
            .spawn(move || run(&mut log, &waiting, &counters))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Answers these commands once the disk has what they wrote.
    pub(crate) fn sync(&self, committed: Committed) {
        if committed.is_empty() {
            return;
        }
        let Some(queue) = &self.queue else { return };
        if let Err(unsent) = queue.send(committed) {
            answer(unsent.0, &Err(StoreError::Panicked));
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(log: &mut LogFile, waiting: &Receiver<Committed>, counters: &LiveCounters) {
    while let Ok(mut commands) = waiting.recv() {
        while let Ok(more) = waiting.try_recv() {
            commands.extend(more);
        }
        let synced = log.sync().map_err(|error| {
            tracing::error!(%error, "the disk did not take a signature or an outcome for good");
            StoreError::Sql(format!("syncing the log: {error}"))
        });
        counters.synced_commits.fetch_add(1, Ordering::Relaxed);
        let _ = faults::at(faults::BEFORE_ANSWER);
        answer(commands, &synced);
    }
}

fn answer(commands: Committed, synced: &Result<(), StoreError>) {
    for command in commands {
        command.answer(synced.clone());
    }
}

/// The database's write-ahead log. SQLite keeps one file for as long as the database is open.
struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            file: None,
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                // The file's name must survive too.
                if let Some(directory) = self.path.parent() {
                    File::open(directory)?.sync_all()?;
                }
                self.file.insert(File::open(&self.path)?)
            }
        };
        faults::at(faults::SYNC)?;
        file.sync_data()
    }
}

//! The thread that waits for the disk, so that nobody else does.
//!
//! Every transaction is committed with `synchronous = NORMAL`, which writes the log without waiting.
//! For commands that ask for [`Durability::Fsync`](crate::Durability::Fsync) this thread then syncs
//! the log file, once for all that wait, and answers them. That is what `synchronous = FULL` does
//! inside the commit, where every read and every other write would wait too. It is as safe: a commit
//! that is no longer in the log was moved into the database by a checkpoint, which in NORMAL mode
//! syncs the log before and the database after.
//!
//! When a sync fails, the system may have dropped what it could not write and have marked it as
//! written: the next sync would succeed and mean nothing. So none is tried. All who wait are told
//! [`StoreError::NotDurable`], and the store's thread takes no write until it has written the whole
//! log anew ([`rewrite`]), synced it, and had SQLite read it back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::error::StoreError;
use crate::faults;
use crate::file::with_suffix;
use crate::health::Health;
use crate::thread::{Command, LiveCounters};

/// Committed batches that may wait for the disk. At this limit the store waits too.
const QUEUE_BATCHES: usize = 64;

/// Bytes of the log that are written anew at a time.
const REWRITE_BYTES: usize = 64 * 1024;

/// Commands that were committed and wait for the disk.
type Committed = Vec<Box<dyn Command>>;

/// The thread's handle. Dropping it syncs and answers what waits, and ends the thread.
pub(crate) struct Syncer {
    queue: Option<SyncSender<Committed>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread for the open database at `path`.
    pub(crate) fn start(
        path: &Path,
        counters: Arc<LiveCounters>,
        health: Arc<Health>,
    ) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE_BATCHES);
        // From the start: a file that is opened later is not told of what failed before.
        let mut log = LogFile::open(path)?;
        let thread = std::thread::Builder::new()
            .name("derouter-sync".into())
            .spawn(move || run(&mut log, &waiting, &counters, &health))?;
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

fn run(log: &mut LogFile, waiting: &Receiver<Committed>, counters: &LiveCounters, health: &Health) {
    while let Ok(mut commands) = waiting.recv() {
        while let Ok(more) = waiting.try_recv() {
            commands.extend(more);
        }
        let synced = sync(log, health);
        counters.synced_commits.fetch_add(1, Ordering::Relaxed);
        let _ = faults::at(faults::BEFORE_ANSWER);
        answer(commands, &synced);
    }
}

fn sync(log: &mut LogFile, health: &Health) -> Result<(), StoreError> {
    if health.log_in_doubt() {
        return Err(StoreError::NotDurable("an earlier sync failed".into()));
    }
    log.sync().map_err(|error| {
        tracing::error!(%error, "the disk did not take a signature or an outcome for good");
        let error = StoreError::NotDurable(error.to_string());
        health.doubt_log(&error);
        error
    })
}

fn answer(commands: Committed, synced: &Result<(), StoreError>) {
    for command in commands {
        command.answer(synced.clone());
    }
}

/// The database's write-ahead log. SQLite keeps one file for as long as the database is open.
struct LogFile {
    path: PathBuf,
    file: File,
    /// Whether the file's name is on the disk too.
    is_named: bool,
}

impl LogFile {
    fn open(database: &Path) -> io::Result<Self> {
        let path = path_of(database);
        let file = File::open(&path)?;
        Ok(Self {
            path,
            file,
            is_named: false,
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        faults::at(faults::SYNC)?;
        if !self.is_named {
            sync_directory_of(&self.path)?;
            self.is_named = true;
        }
        self.file.sync_data()
    }
}

fn path_of(database: &Path) -> PathBuf {
    with_suffix(database, "-wal")
}

/// Makes the names in a file's directory outlive a power cut.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(directory) => File::open(directory)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Writes the log of a database anew, byte for byte, so that all of it has to go to the disk, and
/// syncs it. Nobody else may write meanwhile. A power cut in between leaves no page worse than it was.
pub(crate) fn rewrite(database: &Path) -> io::Result<()> {
    let path = path_of(database);
    let mut log = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut at = 0_u64;
    let mut bytes = Vec::with_capacity(REWRITE_BYTES);
    loop {
        bytes.clear();
        log.seek(SeekFrom::Start(at))?;
        let most = u64::try_from(REWRITE_BYTES).unwrap_or(u64::MAX);
        let read = Read::by_ref(&mut log).take(most).read_to_end(&mut bytes)?;
        if read == 0 {
            break;
        }
        log.seek(SeekFrom::Start(at))?;
        log.write_all(&bytes)?;
        at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    faults::at(faults::SYNC)?;
    log.sync_data()?;
    sync_directory_of(&path)
}

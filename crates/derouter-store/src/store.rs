//! The handle, and how a call travels to the thread and back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{OpenError, StoreError};
use crate::file::OpenFile;
use crate::health::Health;
use crate::sync::Syncer;
use crate::thread::{Call, Counters, LiveCounters, Message, Worker};

/// Commands that may wait for the thread. At this limit callers wait too (back-pressure). A
/// waiting command is a few hundred bytes plus its payloads.
const QUEUE_COMMANDS: usize = 1024;

/// The longest a call takes. A disk that is slower than this is as good as none.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// The longest [`Store::close`] waits for queued commands and the checkpoint.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How much a write survives once it is answered. In ascending order: a transaction is as durable as
/// the most demanding of its commands asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The end of this process, even a kill. A power cut may take the latest of these writes,
    /// never the database.
    Wal,
    /// A power cut: the disk has it. For what the other side relies on: signatures, outcomes.
    Fsync,
}

/// A node's database. Clones share it. It is closed by [`Store::close`], or a moment after the last
/// clone is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    queue: mpsc::Sender<Message>,
    counters: Arc<LiveCounters>,
    health: Arc<Health>,
    path: Arc<Path>,
}

impl Store {
    /// Opens the database at `path`, made if need be (file 0600, missing directories 0700), brings
    /// its schema up to date and locks it against other processes. Blocks for the disk.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let file = OpenFile::open(path)?;
        let path: Arc<Path> = file.path.as_path().into();
        let (queue, receiver) = mpsc::channel(QUEUE_COMMANDS);
        let counters = Arc::new(LiveCounters::default());
        let no_thread = |source| OpenError::Io {
            action: "start the threads of",
            path: path.to_path_buf(),
            source,
        };
        let health = Arc::new(Health::new());
        let syncer = Syncer::start(&path, Arc::clone(&counters), Arc::clone(&health));
        let worker = Worker::new(
            file,
            syncer.map_err(no_thread)?,
            Arc::clone(&counters),
            Arc::clone(&health),
        );
        std::thread::Builder::new()
            .name("derouter-store".into())
            .spawn(move || worker.run(receiver))
            .map_err(no_thread)?;
        tracing::debug!(path = %path.display(), "database open");
        Ok(Store {
            queue,
            counters,
            health,
            path,
        })
    }

    /// Why the latest write was lost; `None` once a later one worked. While there is something, what
    /// others would rely on is better not begun.
    pub fn trouble(&self) -> Option<StoreError> {
        self.health.trouble()
    }

    /// [`Store::trouble`], to be waited on.
    pub fn watch_trouble(&self) -> watch::Receiver<Option<StoreError>> {
        self.health.watch()
    }

    /// Writes something that changes nothing, all the way to the disk: to find out whether trouble is
    /// over.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.write(Durability::Fsync, |connection| {
            let version: u32 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            connection.pragma_update(None, "user_version", version)?;
            Ok(())
        })
        .await
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes what is queued, moves the log into the database file and releases it. Waits 10 s
    /// at most; after that the thread still ends by itself. Further calls say
    /// [`StoreError::Closed`]; closing twice is fine.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        let closing = async {
            if self.queue.send(Message::Close(reply)).await.is_ok() {
                // An error means that another close came first.
                let _ = closed.await;
            }
            self.queue.closed().await;
        };
        tokio::time::timeout(CLOSE_DEADLINE, closing)
            .await
            .map_err(|_| StoreError::Timeout(CLOSE_DEADLINE.as_secs()))
    }

    /// Asks the thread for a sign of life. It is answered behind what is queued.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|_| Ok(())).await
    }

    /// What the store has done, and how much waits.
    pub fn counters(&self) -> Counters {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            reads: read(&self.counters.reads),
            writes: read(&self.counters.writes),
            commits: read(&self.counters.commits),
            synced_commits: read(&self.counters.synced_commits),
            lost_transactions: read(&self.counters.lost_transactions),
            queued: self
                .queue
                .max_capacity()
                .saturating_sub(self.queue.capacity()),
        }
    }

    pub(crate) async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        self.call(None, CALL_DEADLINE, work).await
    }

    pub(crate) async fn write<T, E, F>(&self, durability: Durability, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        self.call(Some(durability), CALL_DEADLINE, work).await
    }

    /// Sends work to the thread and waits for its answer.
    pub(crate) async fn call<T, E, F>(
        &self,
        durability: Option<Durability>,
        deadline: Duration,
        work: F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            durability,
            work: Some(work),
            result: None,
            reply,
        };
        let answered = async {
            let message = Message::Command(Box::new(call));
            self.queue
                .send(message)
                .await
                .map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        };
        tokio::time::timeout(deadline, answered)
            .await
            .unwrap_or_else(|_| Err(StoreError::Timeout(deadline.as_secs()).into()))
    }
}

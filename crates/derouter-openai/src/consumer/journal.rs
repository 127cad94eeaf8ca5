//! What was spent with each key, on disk: the node's records know jobs, and not keys.
//!
//! A file of lines that only grows, one JSON object each, which is now and then replaced by its
//! sums. Before a job of a key is signed, a line says so and is synced; after a crash each such
//! line counts unless the node's record says that the job was not signed. So a crash at any point
//! loses nothing that was signed, and counts nothing that was not.
//!
//! - Before the line is synced: nothing was signed.
//! - Behind it: the record decides. Where there is none, or it is open still, the line counts.
//! - While the file is replaced: the old one is whole until the new one is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::{JobId, JobKey, PeerId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::keys::{private_file, replace};
use super::spending::{Days, day_of};

/// The file in the data directory.
const JOURNAL_FILE: &str = "spending.jsonl";

/// Held by the gateway that writes it.
const LOCK_FILE: &str = "spending.lock";

/// How long a start waits for an earlier gateway to let go of the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Bytes behind which the file is replaced by its sums: some 5000 jobs.
const COMPACT_BYTES: u64 = 1024 * 1024;

/// The largest file that is read: the sums of half a million keys, those that were revoked among
/// them.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// How far from the end of the file a line may be torn by a crash: what is written at once is
/// bounded by the requests that run.
const TORN_BYTES: usize = 1024 * 1024;

/// The version of the file.
const VERSION: u32 = 1;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file or its directory.
    #[error("can't use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another gateway has it.
    #[error(
        "another OpenAI endpoint uses {}: two would each spend up to the limits. Stop it, or give each its own node",
        .0.display()
    )]
    InUse(PathBuf),
    /// It is not what this program wrote.
    #[error(
        "{} is damaged at line {line}: restore it from a backup, or remove it, which forgets what was spent with each key",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// What was spent with one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) total: Wei,
    pub(crate) days: Days,
    /// The last day on which it was used.
    pub(crate) used: u64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Version {
        version: u32,
    },
    /// All that was spent with a key up to here.
    Sum {
        key: String,
        total: Wei,
        days: Vec<(u64, Wei)>,
        used: u64,
    },
    /// A job is about to be signed.
    Signing {
        key: String,
        #[serde(with = "peer_text")]
        provider: PeerId,
        job: JobId,
        wei: Wei,
        at: UnixSeconds,
    },
    /// It was not signed after all.
    NotSigned {
        #[serde(with = "peer_text")]
        provider: PeerId,
        job: JobId,
    },
    /// A key was used on a day.
    Used {
        key: String,
        day: u64,
    },
}

/// A peer id as text.
mod peer_text {
    use derouter_sdk::PeerId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(peer: &PeerId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(peer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PeerId, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A signature of which the outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signing {
    key: String,
    wei: Wei,
    at: UnixSeconds,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    sums: HashMap<String, Sum>,
    open: HashMap<JobKey, Signing>,
}

impl Model {
    fn take(&mut self, line: Line) {
        match line {
            Line::Version { .. } => {}
            Line::Sum {
                key,
                total,
                days,
                used,
            } => {
                let sum = self.sums.entry(key).or_default();
                sum.total = sum.total.saturating_add(total);
                for (day, spent) in days {
                    sum.days.add(day, spent);
                }
                sum.used = sum.used.max(used);
            }
            Line::Signing {
                key,
                provider,
                job,
                wei,
                at,
            } => {
                let job = JobKey {
                    provider,
                    job_id: job,
                };
                self.open.insert(job, Signing { key, wei, at });
            }
            Line::NotSigned { provider, job } => {
                let job = JobKey {
                    provider,
                    job_id: job,
                };
                self.open.remove(&job);
            }
            Line::Used { key, day } => {
                let sum = self.sums.entry(key).or_default();
                sum.used = sum.used.max(day);
            }
        }
    }

    /// The job was signed: its amount goes into its key's sum.
    fn close(&mut self, job: &JobKey) {
        let Some(signing) = self.open.remove(job) else {
            return;
        };
        let day = day_of(signing.at);
        let sum = self.sums.entry(signing.key).or_default();
        sum.total = sum.total.saturating_add(signing.wei);
        sum.days.add(day, signing.wei);
        sum.used = sum.used.max(day);
    }

    /// The shortest file that says the same.
    fn text(&self) -> String {
        let mut lines = vec![Line::Version { version: VERSION }];
        let sums = self.sums.iter();
        lines.extend(sums.map(|(key, sum)| Line::Sum {
            key: key.clone(),
            total: sum.total,
            days: sum.days.iter().collect(),
            used: sum.used,
        }));
        let open = self.open.iter();
        lines.extend(open.map(|(job, signing)| Line::Signing {
            key: signing.key.clone(),
            provider: job.provider,
            job: job.job_id.clone(),
            wei: signing.wei,
            at: signing.at,
        }));
        lines.iter().map(text_of).collect()
    }
}

fn text_of(line: &Line) -> String {
    // Texts and numbers only, which JSON can always hold.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads a file's text. A crash may have torn what was written last, and nothing before it.
fn parse(path: &Path, text: &[u8]) -> Result<Model, JournalError> {
    let mut model = Model::default();
    let mut left = text.len();
    for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let parsed = line.ends_with(b"\n").then(|| serde_json::from_slice(line));
        match parsed {
            Some(Ok(Line::Version { version })) if version != VERSION => {
                return Err(damaged(path, index));
            }
            Some(Ok(line)) => model.take(line),
            _ if index > 0 && left <= TORN_BYTES => {
                tracing::warn!(line = index + 1, path = %path.display(), "a torn line is left out");
            }
            _ => return Err(damaged(path, index)),
        }
        left = left.saturating_sub(line.len());
    }
    Ok(model)
}

fn damaged(path: &Path, index: usize) -> JournalError {
    JournalError::Damaged {
        path: path.to_owned(),
        line: index.saturating_add(1),
    }
}

fn read(path: &Path) -> Result<Model, JournalError> {
    let failed = |source| JournalError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Model::default()),
        Err(error) => return Err(failed(error)),
    };
    if metadata.len() > FILE_BYTES {
        return Err(failed(io::Error::other("it is over 64 MiB")));
    }
    parse(path, &std::fs::read(path).map_err(failed)?)
}

/// What was spent with each key, by its id, as a gateway that may run has written it.
pub fn spent_by_key(data_dir: &Path) -> Result<HashMap<String, KeySpending>, JournalError> {
    let mut model = read(&data_dir.join(JOURNAL_FILE))?;
    let open: Vec<JobKey> = model.open.keys().cloned().collect();
    open.iter().for_each(|job| model.close(job));
    let sums = model.sums.into_iter();
    Ok(sums.map(|(key, sum)| (key, KeySpending(sum))).collect())
}

/// What was spent with one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySpending(Sum);

impl KeySpending {
    /// In all.
    pub fn total(&self) -> Wei {
        self.0.total
    }

    /// Today, by UTC.
    pub fn today(&self, now: UnixSeconds) -> Wei {
        self.0.days.since(day_of(now))
    }

    /// The begin of the last day on which the key was used; `None`: never.
    pub fn last_used(&self) -> Option<UnixSeconds> {
        (self.0.used > 0).then(|| UnixSeconds(self.0.used.saturating_mul(86_400)))
    }
}

/// Lines that wait to be written, and what the file says with them.
#[derive(Debug, Default)]
struct Waiting {
    model: Model,
    text: String,
    /// The number of the last line, and of the last before `text`.
    last: u64,
    before: u64,
}

#[derive(Debug, Default)]
struct Disk {
    /// `None` until the first write, and after one that failed: the file is then replaced.
    file: Option<Arc<File>>,
    bytes: u64,
    /// The number of the last line that is on disk.
    synced: u64,
}

/// The file of a gateway that runs.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    _lock: File,
    waiting: Mutex<Waiting>,
    /// Those who write, one after another: one write takes the lines of all who wait.
    disk: tokio::sync::Mutex<Disk>,
    /// A write failed, and none has succeeded since.
    failing: AtomicBool,
}

impl Journal {
    /// Reads the file of a data directory, which this gateway alone writes from now on.
    pub(crate) async fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let path = data_dir.join(JOURNAL_FILE);
        let failed = |source| JournalError::Io {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let lock = private_file(&data_dir.join(LOCK_FILE)).map_err(failed)?;
        take_lock(&lock, &path).await?;
        let model = read(&path)?;
        Ok(Self {
            path,
            _lock: lock,
            waiting: Mutex::new(Waiting {
                model,
                ..Waiting::default()
            }),
            disk: tokio::sync::Mutex::default(),
            failing: AtomicBool::new(false),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the outcome of any signature is not known.
    pub(crate) fn has_open(&self) -> bool {
        !self.waiting().model.open.is_empty()
    }

    /// The node's record of a job of an earlier run says that it was not signed.
    pub(crate) fn was_not_signed(&self, job: &JobKey) {
        self.waiting().model.open.remove(job);
    }

    /// All records were read: what is open still counts as signed. Returns each key's sum.
    pub(crate) fn settle_past(&self) -> Vec<(String, Sum)> {
        let mut waiting = self.waiting();
        let open: Vec<JobKey> = waiting.model.open.keys().cloned().collect();
        open.iter().for_each(|job| waiting.model.close(job));
        let sums = waiting.model.sums.iter();
        sums.map(|(key, sum)| (key.clone(), sum.clone())).collect()
    }

    /// Says that a job is about to be signed. Once this returns, a crash does not forget it.
    pub(crate) async fn signing(
        &self,
        key: &str,
        job: &JobKey,
        wei: Wei,
        at: UnixSeconds,
    ) -> io::Result<()> {
        self.append(Line::Signing {
            key: key.to_owned(),
            provider: job.provider,
            job: job.job_id.clone(),
            wei,
            at,
        })
        .await
    }

    /// The job was signed, or may have been.
    pub(crate) fn signed(&self, job: &JobKey) {
        self.waiting().model.close(job);
    }

    /// The job was not signed after all.
    pub(crate) async fn not_signed(&self, job: &JobKey) -> io::Result<()> {
        self.append(Line::NotSigned {
            provider: job.provider,
            job: job.job_id.clone(),
        })
        .await
    }

    /// A key is used. Written once a day.
    pub(crate) async fn used(&self, key: &str, now: UnixSeconds) -> io::Result<()> {
        let day = day_of(now);
        let known = self.waiting().model.sums.get(key).map(|sum| sum.used);
        if known.is_some_and(|used| used >= day) {
            return Ok(());
        }
        let key = key.to_owned();
        self.append(Line::Used { key, day }).await
    }

    /// Writes what could not be written before. For a gateway that may not go on without.
    pub(crate) async fn recover(&self) -> io::Result<()> {
        if !self.failing.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut disk = self.disk.lock().await;
        if disk.file.is_some() {
            return Ok(());
        }
        let written = self.compact(&mut disk).await;
        self.note(written)
    }

    fn note(&self, written: io::Result<()>) -> io::Result<()> {
        self.failing.store(written.is_err(), Ordering::Release);
        written
    }

    async fn append(&self, line: Line) -> io::Result<()> {
        let number = {
            let mut waiting = self.waiting();
            waiting.text.push_str(&text_of(&line));
            waiting.model.take(line);
            waiting.last = waiting.last.saturating_add(1);
            waiting.last
        };
        let mut disk = self.disk.lock().await;
        if disk.synced >= number {
            return Ok(());
        }
        let written = match disk.file.take() {
            Some(file) if disk.bytes < COMPACT_BYTES && self.follows(disk.synced) => {
                self.write(&mut disk, file).await
            }
            _ => self.compact(&mut disk).await,
        };
        self.note(written)
    }

    /// Whether the lines that wait are those behind a number: after a write that was given up
    /// half way they are not.
    fn follows(&self, synced: u64) -> bool {
        self.waiting().before == synced
    }

    /// Appends the lines of all who wait. Fails with the file gone, so that the next one replaces
    /// it: what is at its end is not known.
    async fn write(&self, disk: &mut Disk, file: Arc<File>) -> io::Result<()> {
        let (text, last) = self.take_waiting();
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let writing = Arc::clone(&file);
        blocking(move || {
            (&*writing).write_all(text.as_bytes())?;
            writing.sync_data()
        })
        .await?;
        disk.file = Some(file);
        disk.bytes = disk.bytes.saturating_add(bytes);
        disk.synced = last;
        Ok(())
    }

    fn take_waiting(&self) -> (String, u64) {
        let mut waiting = self.waiting();
        waiting.before = waiting.last;
        (std::mem::take(&mut waiting.text), waiting.last)
    }

    fn take_all(&self) -> (String, u64) {
        let mut waiting = self.waiting();
        waiting.before = waiting.last;
        waiting.text.clear();
        (waiting.model.text(), waiting.last)
    }

    /// Replaces the file by its sums.
    async fn compact(&self, disk: &mut Disk) -> io::Result<()> {
        disk.file = None;
        let (text, last) = self.take_all();
        disk.bytes = 0;
        let path = self.path.clone();
        let file = blocking(move || {
            replace(&path, text.as_bytes())?;
            private_file(&path)
        })
        .await?;
        disk.file = Some(Arc::new(file));
        disk.synced = last;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

/// An earlier gateway of this process may be on its way out still.
async fn take_lock(lock: &File, path: &Path) -> Result<(), JournalError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(JournalError::InUse(path.to_owned()));
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(JournalError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;

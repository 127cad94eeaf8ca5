//! The keys with which clients prove who they are: a file of their hashes, names and limits.
//!
//! The file holds no key, so that who reads it can't use one. A key is 256 random bits: it is
//! looked up by its hash, and how long that takes says nothing of it. The command `derouter token`
//! replaces the file as a whole; a gateway that runs reads it again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use derouter_sdk::{UnixSeconds, Wei};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::spending::KeyLimits;
use crate::files::{Stamp, private_file, replace};

/// The file in the data directory.
const KEYS_FILE: &str = "keys.json";

/// Held by a command that changes it.
const LOCK_FILE: &str = "keys.lock";

/// What a key begins with, so that a scan for secrets finds one that leaked.
const PREFIX: &str = "dr-";

/// Keys in one file. Each request looks one up; a file of this many is 1 MiB at most.
const MAX_KEYS: usize = 1000;

/// Bytes of the file that are read.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Characters of a key's name.
const NAME_CHARS: usize = 64;

/// Patterns of models for one key, and bytes of each.
const MAX_MODELS: usize = 64;
const MODEL_BYTES: usize = 256;

/// How long a change of the file may go unnoticed: a key that was revoked is refused after that.
const RELOAD: Duration = Duration::from_millis(250);

/// Bytes of a presented key that are looked at. More is no key of ours.
const PRESENTED_BYTES: usize = 1024;

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// What the books know it by: random, so that a new key of an old name begins with nothing
    /// spent.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// SHA-256 of the key, in hex.
    sha256: String,
    /// What it may be used for.
    #[serde(default)]
    pub rules: KeyRules,
    /// When it was made.
    pub created: UnixSeconds,
}

/// What a key may be used for. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRules {
    /// Models, in which `*` stands for anything. `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// What one request may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_request: Option<Wei>,
    /// What may be spent in one day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<Wei>,
    /// What may be spent in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Wei>,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixSeconds>,
}

impl KeyRecord {
    /// What may be spent with it.
    pub(crate) fn limits(&self) -> KeyLimits {
        KeyLimits {
            request: self.rules.per_request,
            daily: self.rules.daily,
            total: self.rules.total,
        }
    }

    /// Whether it may be used for a model.
    pub(crate) fn allows(&self, model: &str) -> bool {
        let models = self.rules.models.as_ref();
        models.is_none_or(|models| models.iter().any(|pattern| matches(pattern, model)))
    }
}

/// Whether a name is one of a pattern, in which `*` stands for any characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

/// Why the keys can't be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file or its directory.
    #[error("can't use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not what this program wrote.
    #[error("{} is not a file of keys: {reason}. Restore it, or remove it and make new keys", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No key has that name.
    #[error("there is no key named {0:?}")]
    NoSuchKey(String),
    /// A key has that name.
    #[error("there is a key named {0:?} already: revoke it first, or choose another name")]
    NameTaken(String),
    /// The name can't be one.
    #[error("{0:?} can't be a key's name: 1 to 64 letters, digits, dots, dashes and underscores")]
    BadName(String),
    /// A pattern can't be one.
    #[error("a key takes at most 64 models, each 1 to 256 bytes long")]
    BadModels,
    /// There are as many as the gateway looks through.
    #[error("there are 1000 keys already: revoke some")]
    TooMany,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    keys: Vec<KeyRecord>,
}

/// The version of the file.
const VERSION: u32 = 1;

/// The keys of one data directory, for commands that change them.
#[derive(Clone, Debug)]
pub struct KeyStore {
    directory: PathBuf,
}

impl KeyStore {
    /// Those of a data directory, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(KEYS_FILE)
    }

    /// All keys; `None` when there is no file, which is when none was ever made.
    pub fn list(&self) -> Result<Option<Vec<KeyRecord>>, KeyError> {
        Ok(read(&self.path())?.map(|file| file.keys))
    }

    /// Makes a key, and returns it: it is nowhere else.
    pub fn create(
        &self,
        name: &str,
        rules: KeyRules,
        now: UnixSeconds,
    ) -> Result<String, KeyError> {
        check_name(name)?;
        check_models(&rules)?;
        let mut secret = [0; 32];
        let mut id = [0; 8];
        rand::rng().fill_bytes(&mut secret);
        rand::rng().fill_bytes(&mut id);
        let key = format!("{PREFIX}{}", hex::encode(secret));
        let record = KeyRecord {
            id: hex::encode(id),
            name: name.to_owned(),
            sha256: hash(&key),
            rules,
            created: now,
        };
        self.change(|keys| {
            if keys.iter().any(|key| key.name == name) {
                return Err(KeyError::NameTaken(name.to_owned()));
            }
            if keys.len() >= MAX_KEYS {
                return Err(KeyError::TooMany);
            }
            keys.push(record);
            Ok(())
        })?;
        Ok(key)
    }

    /// Changes what a key may be used for. What was spent with it stays.
    pub fn set(
        &self,
        name: &str,
        change: impl FnOnce(&mut KeyRules),
    ) -> Result<KeyRecord, KeyError> {
        self.change(|keys| {
            let key = keys.iter_mut().find(|key| key.name == name);
            let key = key.ok_or_else(|| KeyError::NoSuchKey(name.to_owned()))?;
            change(&mut key.rules);
            check_models(&key.rules)?;
            Ok(key.clone())
        })
    }

    /// Takes a key back. Returns how many are left: with none, the gateway refuses everybody.
    pub fn revoke(&self, name: &str) -> Result<usize, KeyError> {
        self.change(|keys| {
            let before = keys.len();
            keys.retain(|key| key.name != name);
            if keys.len() == before {
                return Err(KeyError::NoSuchKey(name.to_owned()));
            }
            Ok(keys.len())
        })
    }

    /// Changes the file as a whole. Commands that run at once wait for each other.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<KeyRecord>) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        let path = self.path();
        let failed = |source| KeyError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let lock = private_file(&self.directory.join(LOCK_FILE)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut file = read(&path)?.unwrap_or(KeyFile {
            version: VERSION,
            keys: Vec::new(),
        });
        let changed = change(&mut file.keys)?;
        let text = serde_json::to_string_pretty(&file).map_err(io::Error::other);
        let text = text.map_err(failed)?;
        replace(&path, text.as_bytes()).map_err(failed)?;
        Ok(changed)
    }
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let right = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if name.is_empty() || name.len() > NAME_CHARS || !name.chars().all(right) {
        let shown = name.chars().take(NAME_CHARS).collect();
        return Err(KeyError::BadName(shown));
    }
    Ok(())
}

fn check_models(rules: &KeyRules) -> Result<(), KeyError> {
    let models = rules.models.as_deref().unwrap_or_default();
    let right = |model: &String| (1..=MODEL_BYTES).contains(&model.len());
    if models.len() > MAX_MODELS || !models.iter().all(right) {
        return Err(KeyError::BadModels);
    }
    Ok(())
}

fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// Reads the file; `None` when there is none.
fn read(path: &Path) -> Result<Option<KeyFile>, KeyError> {
    let failed = |source| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    let mut file = file.take(FILE_BYTES);
    file.read_to_string(&mut text).map_err(failed)?;
    let damaged = |reason: String| KeyError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let file: KeyFile = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if file.version != VERSION {
        return Err(damaged(format!("its version is {}", file.version)));
    }
    if file.keys.len() > MAX_KEYS {
        return Err(damaged(format!("it has more than {MAX_KEYS} keys")));
    }
    Ok(Some(file))
}

/// Why a client is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It gave no key.
    Missing,
    /// It gave one that is not known, or was revoked.
    Unknown,
    /// It gave one that is over.
    Expired { name: String, at: UnixSeconds },
}

/// Keys by their hashes.
type KeySet = HashMap<String, Arc<KeyRecord>>;

fn set_of(file: KeyFile) -> KeySet {
    let keys = file.keys.into_iter();
    keys.map(|key| (key.sha256.clone(), Arc::new(key)))
        .collect()
}

#[derive(Debug)]
struct Loaded {
    stamp: Option<Stamp>,
    /// `None`: no file, so no key is asked for.
    keys: Option<KeySet>,
    looked_at: Instant,
    /// What was last said of a file that can't be read: it is said once.
    complaint: Option<String>,
}

impl Loaded {
    fn complain(&mut self, error: &KeyError) {
        let complaint = Some(error.to_string());
        if self.complaint != complaint {
            tracing::error!(%error, "the keys stay as they were");
            self.complaint = complaint;
        }
    }
}

/// The keys of a gateway that runs.
#[derive(Debug)]
pub(crate) struct Keys {
    path: Option<PathBuf>,
    /// Whether clients without a key are served while there is no file.
    open: bool,
    loaded: RwLock<Loaded>,
    /// Held by the one who reads the file anew.
    reading: tokio::sync::Mutex<()>,
}

impl Keys {
    /// Reads the keys of a data directory. `open`: no key is needed while there are none.
    pub(crate) fn load(data_dir: Option<&Path>, open: bool) -> Result<Self, KeyError> {
        let path = data_dir.map(|directory| directory.join(KEYS_FILE));
        let (stamp, keys) = match &path {
            Some(path) => load(path)?,
            None => (None, None),
        };
        Ok(Self {
            path,
            open,
            loaded: RwLock::new(Loaded {
                stamp,
                keys,
                looked_at: Instant::now(),
                complaint: None,
            }),
            reading: tokio::sync::Mutex::default(),
        })
    }

    /// Whether there is any key.
    pub(crate) fn any(&self) -> bool {
        self.with(|loaded| loaded.keys.as_ref().is_some_and(|keys| !keys.is_empty()))
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<KeyRecord>> {
        let mut all: Vec<Arc<KeyRecord>> = self.with(|loaded| {
            let keys = loaded.keys.iter().flat_map(HashMap::values);
            keys.cloned().collect()
        });
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Who a client is, by the key that it gave; `None` for anybody, while no key is needed.
    pub(crate) async fn identify(
        &self,
        presented: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Option<Arc<KeyRecord>>, Refusal> {
        self.refresh().await;
        self.with(|loaded| match &loaded.keys {
            None if self.open => Ok(None),
            None => Err(Refusal::Unknown),
            Some(keys) => find(keys, presented, now).map(Some),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Loaded) -> T) -> T {
        look(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_fresh(&self) -> bool {
        self.path.is_none() || self.with(|loaded| loaded.looked_at.elapsed() < RELOAD)
    }

    /// Reads the file again if it is another one than before. One that can't be read changes
    /// nothing: the last good keys hold.
    async fn refresh(&self) {
        if self.is_fresh() {
            return;
        }
        let _reading = self.reading.lock().await;
        let Some(path) = self.path.clone().filter(|_| !self.is_fresh()) else {
            return;
        };
        let known = self.with(|loaded| loaded.stamp.clone());
        let read = tokio::task::spawn_blocking(move || reload(&path, known.as_ref())).await;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.looked_at = Instant::now();
        match read {
            Ok(Ok(None)) | Err(_) => {}
            Ok(Ok(Some((stamp, keys)))) => {
                let keys_now = keys.as_ref().map_or(0, HashMap::len);
                tracing::info!(keys = keys_now, "the keys of the endpoint changed");
                loaded.stamp = stamp;
                loaded.keys = keys;
                loaded.complaint = None;
            }
            Ok(Err(error)) => loaded.complain(&error),
        }
    }
}

/// A file as it was read.
type Snapshot = (Option<Stamp>, Option<KeySet>);

fn load(path: &Path) -> Result<Snapshot, KeyError> {
    // Before the file: what changes behind it is found at the next look.
    let stamp = stamp_of(path)?;
    Ok((stamp, read(path)?.map(set_of)))
}

/// `None` when nothing changed.
fn reload(path: &Path, known: Option<&Stamp>) -> Result<Option<Snapshot>, KeyError> {
    if stamp_of(path)?.as_ref() == known {
        return Ok(None);
    }
    load(path).map(Some)
}

fn stamp_of(path: &Path) -> Result<Option<Stamp>, KeyError> {
    Stamp::of(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })
}

fn find(
    keys: &KeySet,
    presented: Option<&str>,
    now: UnixSeconds,
) -> Result<Arc<KeyRecord>, Refusal> {
    let presented = presented.ok_or(Refusal::Missing)?;
    if presented.len() > PRESENTED_BYTES {
        return Err(Refusal::Unknown);
    }
    let key = keys.get(&hash(presented)).ok_or(Refusal::Unknown)?;
    match key.rules.expires {
        Some(at) if at <= now => Err(Refusal::Expired {
            name: key.name.clone(),
            at,
        }),
        _ => Ok(Arc::clone(key)),
    }
}

#[cfg(test)]
mod tests;

//! Offers that are added, changed, removed and paused while a provider runs, on top of those of its
//! configuration: a file in the data directory, which commands and the page replace as a whole and
//! running providers read again when it changes.
//!
//! The configuration stays as it is. An entry about one of its offers changes, pauses or removes that
//! until the entry is dropped. A file that can't be used changes nothing: the last good one holds, and
//! the log and the view say why.

mod edit;
mod follow;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use derouter_sdk::{OfferId, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::config::OfferConfig;
use crate::files::{private_file, replace};
pub use edit::OfferEdit;
pub(super) use follow::Follow;

/// The file in the data directory.
pub const OFFERS_FILE: &str = "openai-offers.json";

/// Held by who changes it.
const LOCK_FILE: &str = "openai-offers.lock";

/// Entries in one file: far more than one person sells.
const MAX_ENTRIES: usize = 1000;

/// Bytes of the file that are read.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why the backend of a configured offer is not changed here.
const SERVER_IS_CONFIGURED: &str = "the configuration says which server answers it. Change it there, or remove the \
     offer and add it anew";

/// The version of the file.
const VERSION: u32 = 1;

/// What is said of one offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferEntry {
    /// The base URL of the configured backend that serves it, for an offer that was added. With
    /// `removed`, it is in the place of one of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What it is, or what of it is changed.
    #[serde(default, skip_serializing_if = "OfferEdit::is_empty")]
    pub edit: OfferEdit,
    /// It is not to be on the market for now.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// It is not to be on the market at all, though the configuration has it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub removed: bool,
    /// When this was last changed.
    #[serde(default)]
    pub changed: UnixSeconds,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl OfferEntry {
    /// Whether it says nothing any more.
    fn is_void(&self) -> bool {
        self.backend.is_none() && self.edit.is_empty() && !self.paused && !self.removed
    }

    /// Whether nothing is offered by that id: that of the configuration is removed, and none is in its place.
    pub fn is_gone(&self) -> bool {
        self.removed && self.backend.is_none()
    }

    /// The offer that was added, with the base URL of its backend; `None` for an entry about another one.
    pub fn added(&self) -> Option<(&str, OfferConfig)> {
        let backend = self.backend.as_deref()?;
        Some((backend, self.edit.whole().ok()?))
    }
}

/// Entries by the ids of their offers.
pub type Entries = BTreeMap<String, OfferEntry>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OffersFile {
    version: u32,
    offers: Entries,
}

/// Why the file can't be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The file or its directory.
    #[error("can't use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It can't be used.
    #[error("{} can't be used: {reason}. Correct it, or remove it, which drops all changes that were made to offers while the node ran", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The offer can't be as it is wanted.
    #[error("the offer {id:?} can't be changed so: {reason}")]
    Invalid {
        /// The offer.
        id: String,
        /// Why.
        reason: String,
    },
    /// There is an offer of that id.
    #[error("there is an offer {0:?} already: change that, or choose another id")]
    Taken(String),
    /// There are as many as one file holds.
    #[error("there are {MAX_ENTRIES} changed offers already: drop some")]
    TooMany,
}

/// The changes of one data directory, for whoever makes them.
#[derive(Clone, Debug)]
pub struct OfferStore {
    directory: PathBuf,
}

impl OfferStore {
    /// That of a data directory, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(OFFERS_FILE)
    }

    /// All entries; none when there is no file.
    pub fn list(&self) -> Result<Entries, OverlayError> {
        Ok(read(&self.path())?.unwrap_or_default())
    }

    /// Adds an offer of a configured backend, which is named by its base URL, also in the place of a
    /// configured one that was removed. Whether the configuration has an offer of that id, or such a
    /// backend, is for the caller to see.
    pub fn add(
        &self,
        id: &str,
        backend: &str,
        edit: OfferEdit,
        now: UnixSeconds,
    ) -> Result<(), OverlayError> {
        self.change(|entries| {
            let before = entries.get(id);
            if before.is_some_and(|entry| !entry.is_gone()) {
                return Err(OverlayError::Taken(id.to_owned()));
            }
            let entry = OfferEntry {
                backend: Some(backend.to_owned()),
                edit,
                removed: before.is_some(),
                changed: now,
                ..OfferEntry::default()
            };
            check(id, &entry).map_err(|reason| invalid(id, reason))?;
            entries.insert(id.to_owned(), entry);
            Ok(())
        })
    }

    /// Changes an offer; what `edit` does not say stays. With `backend`, another configured backend
    /// serves it from now on: one that was added only, as the configuration says of its own.
    pub fn edit(
        &self,
        id: &str,
        edit: OfferEdit,
        backend: Option<&str>,
        now: UnixSeconds,
    ) -> Result<(), OverlayError> {
        self.change_entry(id, now, |entry| {
            match (&mut entry.backend, backend) {
                (Some(own), Some(other)) => other.clone_into(own),
                (None, Some(_)) => return Err(SERVER_IS_CONFIGURED.to_owned()),
                (Some(_), None) => {}
                (None, None) => entry.removed = false,
            }
            entry.edit.merge(edit);
            Ok(())
        })
    }

    /// Takes an offer from the market until it is resumed. Answers that run go on.
    pub fn pause(&self, id: &str, now: UnixSeconds) -> Result<(), OverlayError> {
        self.change_entry(id, now, |entry| {
            entry.paused = true;
            Ok(())
        })
    }

    /// Puts a paused offer on the market again.
    pub fn resume(&self, id: &str, now: UnixSeconds) -> Result<(), OverlayError> {
        self.change_entry(id, now, |entry| {
            entry.paused = false;
            Ok(())
        })
    }

    /// Removes an offer: one that was added for good, one of the configuration until it is restored.
    pub fn remove(&self, id: &str, now: UnixSeconds) -> Result<(), OverlayError> {
        self.change_entry(id, now, |entry| {
            *entry = OfferEntry {
                removed: entry.removed || entry.backend.is_none(),
                ..OfferEntry::default()
            };
            Ok(())
        })
    }

    /// Drops all that was changed of an offer: it is as the configuration has it, or gone when that has
    /// none. Says whether anything was.
    pub fn restore(&self, id: &str) -> Result<bool, OverlayError> {
        self.change(|entries| Ok(entries.remove(id).is_some()))
    }

    fn change_entry(
        &self,
        id: &str,
        now: UnixSeconds,
        change: impl FnOnce(&mut OfferEntry) -> Result<(), String>,
    ) -> Result<(), OverlayError> {
        self.change(|entries| {
            let mut entry = entries.get(id).cloned().unwrap_or_default();
            change(&mut entry).map_err(|reason| invalid(id, reason))?;
            if entry.is_void() {
                entries.remove(id);
                return Ok(());
            }
            entry.changed = now;
            check(id, &entry).map_err(|reason| invalid(id, reason))?;
            entries.insert(id.to_owned(), entry);
            Ok(())
        })
    }

    /// Changes the file as a whole. Those who change it at once wait for each other.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Entries) -> Result<T, OverlayError>,
    ) -> Result<T, OverlayError> {
        let path = self.path();
        let failed = |source| OverlayError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let lock = private_file(&self.directory.join(LOCK_FILE)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut offers = read(&path)?.unwrap_or_default();
        let changed = change(&mut offers)?;
        if offers.len() > MAX_ENTRIES {
            return Err(OverlayError::TooMany);
        }
        let file = OffersFile {
            version: VERSION,
            offers,
        };
        let text = serde_json::to_string_pretty(&file).map_err(io::Error::other);
        let text = text.map_err(failed)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES {
            return Err(OverlayError::TooMany);
        }
        replace(&path, text.as_bytes()).map_err(failed)?;
        Ok(changed)
    }
}

fn invalid(id: &str, reason: String) -> OverlayError {
    OverlayError::Invalid {
        id: id.chars().take(100).collect(),
        reason,
    }
}

fn check(id: &str, entry: &OfferEntry) -> Result<(), String> {
    OfferId::new(id).map_err(|error| error.to_string())?;
    entry.edit.check()?;
    if entry.backend.is_some() {
        super::keeper::check_config(&entry.edit.whole()?)?;
    }
    Ok(())
}

/// Reads the file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Entries>, OverlayError> {
    let failed = |source| OverlayError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    let mut file = file.take(FILE_BYTES.saturating_add(1));
    file.read_to_string(&mut text).map_err(failed)?;
    parse(&text)
        .map(Some)
        .map_err(|reason| OverlayError::Damaged {
            path: path.to_owned(),
            reason,
        })
}

fn parse(text: &str) -> Result<Entries, String> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES {
        return Err("it is too large".to_owned());
    }
    let file: OffersFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("its version is {}", file.version));
    }
    if file.offers.len() > MAX_ENTRIES {
        return Err(format!("it has more than {MAX_ENTRIES} offers"));
    }
    for (id, entry) in &file.offers {
        check(id, entry).map_err(|reason| format!("its offer {id:?}: {reason}"))?;
    }
    Ok(file.offers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::Wei;

    const NOW: UnixSeconds = UnixSeconds(7);

    fn whole() -> OfferEdit {
        OfferEdit {
            model_id: Some("m".to_owned()),
            context_size: Some(100),
            input_token_price: Some(Wei::from_wei(1)),
            output_token_price: Some(Wei::from_wei(2)),
            ..OfferEdit::default()
        }
    }

    #[test]
    fn an_added_offer_is_changed_paused_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        assert!(store.list().unwrap().is_empty());
        store.add("o", "http://b/v1", whole(), NOW).unwrap();
        let again = store.add("o", "http://b/v1", whole(), NOW);
        assert!(matches!(again, Err(OverlayError::Taken(_))));
        let dearer = OfferEdit {
            input_token_price: Some(Wei::from_wei(9)),
            ..OfferEdit::default()
        };
        store.edit("o", dearer, Some("http://c/v1"), NOW).unwrap();
        store.pause("o", NOW).unwrap();
        let entry = store.list().unwrap().remove("o").unwrap();
        assert!(entry.paused && entry.changed == NOW);
        let (backend, config) = entry.added().unwrap();
        assert_eq!(
            (backend, config.input_token_price),
            ("http://c/v1", Wei::from_wei(9))
        );
        store.resume("o", NOW).unwrap();
        store.remove("o", NOW).unwrap();
        assert!(store.list().unwrap().is_empty());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(store.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn an_offer_of_the_configuration_is_removed_until_it_is_restored() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        store.remove("of-config", NOW).unwrap();
        assert!(store.list().unwrap()["of-config"].removed);
        assert!(store.restore("of-config").unwrap());
        assert!(!store.restore("of-config").unwrap());
        store.pause("of-config", NOW).unwrap();
        store.resume("of-config", NOW).unwrap();
        assert!(store.list().unwrap().is_empty(), "nothing is said any more");
        let moved = store.edit("of-config", whole(), Some("http://b/v1"), NOW);
        assert!(matches!(moved, Err(OverlayError::Invalid { .. })));
    }

    #[test]
    fn what_is_added_in_the_place_of_a_configured_offer_leaves_that_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        store.remove("o", NOW).unwrap();
        store.add("o", "http://b/v1", whole(), NOW).unwrap();
        let again = store.add("o", "http://c/v1", whole(), NOW);
        assert!(matches!(again, Err(OverlayError::Taken(_))));
        store.edit("o", whole(), None, NOW).unwrap();
        let entry = store.list().unwrap().remove("o").unwrap();
        assert!(entry.removed && !entry.is_gone());
        assert_eq!(entry.added().unwrap().0, "http://b/v1");
        store.remove("o", NOW).unwrap();
        assert!(store.list().unwrap()["o"].is_gone());
        assert!(store.restore("o").unwrap());
    }

    #[test]
    fn what_can_not_be_an_offer_is_refused_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        let no_price = OfferEdit {
            input_token_price: None,
            ..whole()
        };
        let none_at_once = OfferEdit {
            max_concurrency: Some(0),
            ..whole()
        };
        let long = OfferEdit {
            description: Some("x".repeat(100_000)),
            ..whole()
        };
        for edit in [no_price, none_at_once, long] {
            let refused = store.add("o", "http://b/v1", edit, NOW);
            assert!(matches!(refused, Err(OverlayError::Invalid { .. })));
        }
        assert!(store.add("", "http://b/v1", whole(), NOW).is_err());
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_file_of_others_making_is_refused_with_what_is_wrong() {
        for (text, named) in [
            ("", "EOF"),
            ("{}", "version"),
            (r#"{"version":2,"offers":{}}"#, "version is 2"),
            (r#"{"version":1,"offers":{"o":{"what":1}}}"#, "what"),
            (
                r#"{"version":1,"offers":{"o":{"backend":"http://b"}}}"#,
                "model_id",
            ),
            (
                r#"{"version":1,"offers":{"o":{"edit":{"max_concurrency":0}}}}"#,
                "max_concurrency",
            ),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(named), "{text}: {reason}");
        }
    }
}

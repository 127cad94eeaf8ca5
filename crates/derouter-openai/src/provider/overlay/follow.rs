//! The file as a running provider follows it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Entries, OFFERS_FILE, OverlayError, read};
use crate::files::Stamp;

/// The changes that hold, and whether the file can be used.
#[derive(Debug, Default)]
pub(in crate::provider) struct Follow {
    path: Option<PathBuf>,
    /// Of the file that was read last, good or not; `None` before the first look.
    seen: Option<Option<Stamp>>,
    entries: Arc<Entries>,
    problem: Option<String>,
    /// A file was read, or seen not to be there.
    known: bool,
}

/// What a look at the file found.
type Looked = Result<Option<(Option<Stamp>, Entries)>, (Option<Stamp>, OverlayError)>;

impl Follow {
    /// Follows the file of a data directory; without one there are no changes.
    pub(in crate::provider) fn new(data_dir: Option<&Path>) -> Self {
        Self {
            path: data_dir.map(|directory| directory.join(OFFERS_FILE)),
            ..Self::default()
        }
    }

    /// The changes that hold.
    pub(in crate::provider) fn entries(&self) -> Arc<Entries> {
        Arc::clone(&self.entries)
    }

    /// Whether it is known what the owner changed. Until then nothing may be sold: it may be paused.
    pub(in crate::provider) fn is_known(&self) -> bool {
        self.known || self.path.is_none()
    }

    /// Why the latest file is not used.
    pub(in crate::provider) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Looks whether the file is another one than before, and reads it then. Says whether other changes
    /// hold now. What can't be used leaves those that held.
    pub(in crate::provider) async fn look(&mut self) -> bool {
        let Some(path) = self.path.clone() else {
            return false;
        };
        let seen = self.seen.clone();
        let looked = tokio::task::spawn_blocking(move || look(&path, seen.as_ref())).await;
        match looked {
            Ok(Ok(None)) | Err(_) => false,
            Ok(Ok(Some((stamp, entries)))) => {
                if self.problem.take().is_some() {
                    tracing::info!("the file of changed offers can be used again");
                }
                self.seen = Some(stamp);
                self.known = true;
                let changed = entries != *self.entries;
                self.entries = Arc::new(entries);
                changed
            }
            Ok(Err((stamp, error))) => {
                let problem = error.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    match self.known {
                        true => tracing::error!(%error, "the offers stay as they were"),
                        false => tracing::error!(%error, "nothing is sold until it can be read"),
                    }
                }
                self.problem = Some(problem);
                self.seen = Some(stamp);
                false
            }
        }
    }
}

/// `None` when it is the one that was seen.
fn look(path: &Path, seen: Option<&Option<Stamp>>) -> Looked {
    let failed = |source| OverlayError::Io {
        path: path.to_owned(),
        source,
    };
    // Before the file: what changes behind it is found at the next look.
    let stamp = Stamp::of(path).map_err(|error| (None, failed(error)))?;
    if seen == Some(&stamp) {
        return Ok(None);
    }
    match read(path) {
        Ok(entries) => Ok(Some((stamp, entries.unwrap_or_default()))),
        Err(error) => Err((stamp, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::overlay::OfferStore;
    use derouter_sdk::UnixSeconds;

    #[tokio::test]
    async fn what_can_not_be_used_leaves_what_held_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        let mut follow = Follow::new(Some(directory.path()));
        assert!(!follow.look().await, "no file");
        store.pause("o", UnixSeconds(1)).unwrap();
        assert!(follow.look().await);
        assert!(!follow.look().await, "it is the same");
        std::fs::write(store.path(), "{").unwrap();
        assert!(!follow.look().await);
        assert!(
            follow
                .problem()
                .is_some_and(|it| it.contains("can't be used"))
        );
        assert!(follow.entries()["o"].paused);
        std::fs::remove_file(store.path()).unwrap();
        assert!(follow.look().await);
        assert_eq!(follow.problem(), None);
        assert!(follow.entries().is_empty());
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_used_at_the_start_leaves_unknown_what_is_paused() {
        let directory = tempfile::tempdir().unwrap();
        let store = OfferStore::new(directory.path());
        std::fs::write(store.path(), "{").unwrap();
        let mut follow = Follow::new(Some(directory.path()));
        follow.look().await;
        assert!(!follow.is_known());
        std::fs::remove_file(store.path()).unwrap();
        follow.look().await;
        assert!(follow.is_known());
        assert!(
            Follow::new(None).is_known(),
            "without a place for changes there are none"
        );
    }
}

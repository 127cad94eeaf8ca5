//! Providers that the owner pinned or blocked while the gateway runs. A blocked one is never asked, a
//! pinned one before all others that fit, unless a request names an order of its own. They are kept in a
//! file of the data directory, beside what the configuration says.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use derouter_sdk::PeerId;
use serde::{Deserialize, Serialize};

use super::gateway::Gateway;
use super::router::{Candidate, Ranked, Rules, Wanted};
use super::view::Viewer;
use crate::files::replace;

/// The file in the data directory.
pub const STANDING_FILE: &str = "openai-providers.json";

/// Providers that may be pinned, and as many blocked: more than one person judges.
const MOST_PROVIDERS: usize = 1000;

/// Bytes of the file: each name is under 70.
const FILE_BYTES: u64 = 256 * 1024;

/// How the owner stands to a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// As to all others.
    #[default]
    Usual,
    /// It is asked first.
    Pinned,
    /// It is never asked.
    Blocked,
}

/// Why it can't be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StandingError {
    /// The gateway has no data directory.
    #[error("this gateway has no data directory to keep that in")]
    NoPlace,
    /// There are too many.
    #[error("{MOST_PROVIDERS} providers are pinned or blocked already: release some")]
    TooMany,
    /// The file that there is can't be used.
    #[error("{} can't be used ({why}): mend it, or move it away, and start the node again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file.
    #[error("can't write {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(default)]
    pinned: BTreeSet<String>,
    #[serde(default)]
    blocked: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Sets {
    pinned: BTreeSet<PeerId>,
    blocked: BTreeSet<PeerId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    file: Option<PathBuf>,
    sets: RwLock<Arc<Sets>>,
    /// One change at a time, over its write; who reads does not wait for the disk.
    changing: Mutex<()>,
}

impl Standings {
    /// Those of a data directory. A file that can't be used is told, and holds nobody.
    pub(crate) fn load(data_dir: Option<&Path>) -> Self {
        let file = data_dir.map(|directory| directory.join(STANDING_FILE));
        let sets = file.as_deref().map(read);
        let sets = sets.unwrap_or_else(|| Ok(Sets::default()));
        let sets = sets.unwrap_or_else(|error| {
            tracing::warn!(%error, file = STANDING_FILE, "pinned and blocked providers are not known");
            Sets::default()
        });
        Self {
            file,
            sets: RwLock::new(Arc::new(sets)),
            changing: Mutex::default(),
        }
    }

    fn sets(&self) -> Arc<Sets> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&sets)
    }

    /// How the owner stands to a provider.
    pub(crate) fn of(&self, provider: &PeerId) -> Standing {
        let sets = self.sets();
        if sets.blocked.contains(provider) {
            return Standing::Blocked;
        }
        match sets.pinned.contains(provider) {
            true => Standing::Pinned,
            false => Standing::Usual,
        }
    }

    /// Adds the blocked ones to a model's rules.
    pub(crate) fn apply(&self, rules: &mut Rules) {
        rules.deny_providers.extend(&self.sets().blocked);
    }

    /// Puts the pinned ones first, each group in its order.
    pub(crate) fn prefer(&self, candidates: &[Candidate], ranked: &mut Ranked, wanted: &Wanted) {
        let sets = self.sets();
        if sets.pinned.is_empty() || !wanted.preferences.order.is_empty() {
            return;
        }
        let pinned = |place: &usize| {
            let candidate = candidates.get(*place);
            candidate.is_some_and(|it| sets.pinned.contains(&it.provider))
        };
        let order = std::mem::take(&mut ranked.order);
        let why = std::mem::take(&mut ranked.why);
        let (first, rest): (Vec<_>, Vec<_>) = order
            .into_iter()
            .zip(why)
            .partition(|(place, _)| pinned(place));
        (ranked.order, ranked.why) = first.into_iter().chain(rest).unzip();
    }

    /// Changes how the owner stands to a provider, and keeps that. Blocks for the disk.
    fn set(&self, provider: PeerId, standing: Standing) -> Result<(), StandingError> {
        let path = self.file.as_ref().ok_or(StandingError::NoPlace)?;
        // Held over the write, so that two changes at once are both kept.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // What can't be read is not written over: it holds whom the owner blocked.
        read(path).map_err(|error| StandingError::Damaged {
            path: path.clone(),
            why: error.to_string(),
        })?;
        let sets = self.sets();
        let mut new = Sets {
            pinned: sets.pinned.clone(),
            blocked: sets.blocked.clone(),
        };
        new.pinned.remove(&provider);
        new.blocked.remove(&provider);
        match standing {
            Standing::Usual => false,
            Standing::Pinned => new.pinned.insert(provider),
            Standing::Blocked => new.blocked.insert(provider),
        };
        if new.pinned.len().max(new.blocked.len()) > MOST_PROVIDERS {
            return Err(StandingError::TooMany);
        }
        let names = |peers: &BTreeSet<PeerId>| peers.iter().map(PeerId::to_string).collect();
        let kept = Kept {
            pinned: names(&new.pinned),
            blocked: names(&new.blocked),
        };
        let failed = |source| StandingError::Io {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec_pretty(&kept).map_err(io::Error::other);
        replace(path, &text.map_err(failed)?).map_err(failed)?;
        *self.sets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Sets> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sets::default()),
        Err(error) => return Err(error),
    };
    if size > FILE_BYTES {
        return Err(io::Error::other("it is too large"));
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path)?)?;
    let peers = |names: BTreeSet<String>| -> io::Result<BTreeSet<PeerId>> {
        let each = names
            .iter()
            .map(|name| name.parse().map_err(io::Error::other));
        each.collect()
    };
    Ok(Sets {
        pinned: peers(kept.pinned)?,
        blocked: peers(kept.blocked)?,
    })
}

impl Gateway {
    /// What a model's offers must be: what the configuration says, without who is blocked.
    pub(crate) fn rules(&self, model: &str) -> Rules {
        let mut rules = self.config.rules(model);
        self.standings.apply(&mut rules);
        rules
    }
}

impl Viewer {
    /// How the owner stands to a provider.
    pub fn standing(&self, provider: &PeerId) -> Standing {
        self.gateway.standings.of(provider)
    }

    /// Pins a provider, blocks it, or neither, from the next request on and over restarts. Blocks for the
    /// disk.
    ///
    /// # Errors
    /// When it can't be kept. Nothing has changed then.
    pub fn set_standing(&self, provider: PeerId, standing: Standing) -> Result<(), StandingError> {
        self.gateway.standings.set(provider, standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        PeerId::random()
    }

    #[test]
    fn what_is_said_of_providers_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let standings = Standings::load(Some(directory.path()));
        let (one, other) = (peer(), peer());
        standings.set(one, Standing::Pinned).unwrap();
        standings.set(other, Standing::Pinned).unwrap();
        standings.set(other, Standing::Blocked).unwrap();
        let again = Standings::load(Some(directory.path()));
        assert_eq!(again.of(&one), Standing::Pinned);
        assert_eq!(again.of(&other), Standing::Blocked);
        again.set(one, Standing::Usual).unwrap();
        assert_eq!(
            Standings::load(Some(directory.path())).of(&one),
            Standing::Usual
        );
    }

    #[test]
    fn a_file_that_can_not_be_used_holds_nobody_and_there_is_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "{", r#"{"pinned": ["x"]}"#, r#"{"other": 1}"#] {
            fs::write(directory.path().join(STANDING_FILE), text).unwrap();
            let standings = Standings::load(Some(directory.path()));
            assert_eq!(standings.of(&peer()), Standing::Usual);
        }
        let standings = Standings::load(None);
        let nowhere = standings.set(peer(), Standing::Blocked);
        assert!(matches!(nowhere, Err(StandingError::NoPlace)));
    }

    #[test]
    fn a_damaged_file_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(STANDING_FILE);
        fs::write(&file, "{ \"blocked\": [").unwrap();
        let standings = Standings::load(Some(directory.path()));
        let refused = standings.set(PeerId::random(), Standing::Pinned);
        assert!(
            matches!(refused, Err(StandingError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "{ \"blocked\": [");
    }
}

//! Providers that the owner pinned or blocked while the gateway runs. A blocked one is never asked, a
//! pinned one before all others that fit, unless a request names an order of its own. They are kept in a
//! file of the data directory, beside what the configuration says. Nothing is bought while it is not known
//! whom the owner blocked.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use derouter_sdk::PeerId;
use derouter_sdk::wire::cbor::truncate_to_char;
use serde::Serialize;
use serde_json::{Map, Value};

use super::gateway::Gateway;
use super::router::{Candidate, Ranked, Rules, Wanted};
use super::view::Viewer;
use crate::files::{Stamp, read_within, replace};

/// The file in the data directory.
pub const STANDING_FILE: &str = "openai-providers.json";

/// Providers that may be pinned, and as many blocked: more than one person judges.
const MOST_PROVIDERS: usize = 1000;

/// Bytes of the file: each name is under 70.
const FILE_BYTES: u64 = 256 * 1024;

/// How often a running gateway looks at the file: somebody who mends it waits for that.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Bytes of a damaged entry that are shown.
const SHOWN_BYTES: usize = 60;

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
    #[error("{} can't be used ({why}): mend or remove it", path.display())]
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

/// The file, as it is written.
#[derive(Debug, Serialize)]
struct Kept {
    pinned: BTreeSet<String>,
    blocked: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sets {
    pinned: BTreeSet<PeerId>,
    blocked: BTreeSet<PeerId>,
}

/// What holds.
#[derive(Clone, Debug, Default)]
struct Held {
    sets: Sets,
    /// What is wrong with the file.
    problem: Option<String>,
    /// It is not known whom the owner blocked: since the start, the file or one of those in it can't be read.
    unknown: bool,
}

/// What is in a file.
#[derive(Debug, Default)]
struct Contents {
    sets: Sets,
    /// Entries that say nothing, and the first of them.
    skipped: usize,
    first_skipped: Option<String>,
    /// One of them is in `blocked`, and then the first is.
    skips_blocked: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    file: Option<PathBuf>,
    held: RwLock<Arc<Held>>,
    /// Of the file that was read last; `None` before the first look. Held over each read and write, so
    /// that two changes at once are both kept; who asks how things stand does not wait for the disk.
    seen: Mutex<Option<Option<Stamp>>>,
}

impl Standings {
    /// Those of a data directory. Blocks for the disk.
    pub(crate) fn load(data_dir: Option<&Path>) -> Self {
        let standings = Self {
            file: data_dir.map(|directory| directory.join(STANDING_FILE)),
            ..Self::default()
        };
        standings.look(true);
        standings
    }

    fn held(&self) -> Arc<Held> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held)
    }

    fn hold(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }

    /// Looks whether the file is another one than before, and reads it then. What can't be read leaves
    /// those that held. Blocks for the disk.
    fn look(&self, at_the_start: bool) {
        let Some(path) = &self.file else {
            return;
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the file: what changes behind it is found at the next look.
        let stamp = Stamp::of(path).ok();
        if seen.is_some() && *seen == stamp {
            return;
        }
        *seen = stamp;
        let before = self.held();
        let held = judge(path, read(path), &before, at_the_start);
        tell(path, &before, &held);
        self.hold(held);
    }

    /// What is wrong with the file, in words.
    pub(crate) fn problem(&self) -> Option<String> {
        self.held().problem.clone()
    }

    /// Whether it is not known whom the owner blocked, so that nothing may be bought.
    pub(crate) fn are_unknown(&self) -> bool {
        self.held().unknown
    }

    /// How the owner stands to a provider.
    pub(crate) fn of(&self, provider: &PeerId) -> Standing {
        let sets = &self.held().sets;
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
        rules.deny_providers.extend(&self.held().sets.blocked);
    }

    /// Puts the pinned ones first, each group in its order.
    pub(crate) fn prefer(&self, candidates: &[Candidate], ranked: &mut Ranked, wanted: &Wanted) {
        let held = self.held();
        let pinned = &held.sets.pinned;
        if pinned.is_empty() || !wanted.preferences.order.is_empty() {
            return;
        }
        let is_pinned = |place: &usize| {
            let candidate = candidates.get(*place);
            candidate.is_some_and(|it| pinned.contains(&it.provider))
        };
        let order = std::mem::take(&mut ranked.order);
        let why = std::mem::take(&mut ranked.why);
        let (first, rest): (Vec<_>, Vec<_>) = order
            .into_iter()
            .zip(why)
            .partition(|(place, _)| is_pinned(place));
        (ranked.order, ranked.why) = first.into_iter().chain(rest).unzip();
    }

    /// Changes how the owner stands to a provider, and keeps that. Blocks for the disk.
    fn set(&self, provider: PeerId, standing: Standing) -> Result<(), StandingError> {
        let path = self.file.as_ref().ok_or(StandingError::NoPlace)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // What can't be read is not written over: it holds whom the owner blocked.
        let mut sets = read_whole(path).map_err(|why| StandingError::Damaged {
            path: path.clone(),
            why,
        })?;
        sets.pinned.remove(&provider);
        sets.blocked.remove(&provider);
        match standing {
            Standing::Usual => false,
            Standing::Pinned => sets.pinned.insert(provider),
            Standing::Blocked => sets.blocked.insert(provider),
        };
        if sets.pinned.len().max(sets.blocked.len()) > MOST_PROVIDERS {
            return Err(StandingError::TooMany);
        }
        let names = |peers: &BTreeSet<PeerId>| peers.iter().map(PeerId::to_string).collect();
        let kept = Kept {
            pinned: names(&sets.pinned),
            blocked: names(&sets.blocked),
        };
        let failed = |source| StandingError::Io {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec_pretty(&kept).map_err(io::Error::other);
        replace(path, &text.map_err(failed)?).map_err(failed)?;
        *seen = Stamp::of(path).ok();
        self.hold(Held {
            sets,
            ..Held::default()
        });
        Ok(())
    }
}

/// What holds after a look at the file. Pure.
fn judge(path: &Path, read: io::Result<Contents>, before: &Held, at_the_start: bool) -> Held {
    let shown = path.display();
    let mut contents = match read {
        Ok(contents) => contents,
        Err(why) => {
            let unknown = at_the_start || before.unknown;
            let so = match unknown {
                true => "nothing is bought until it is known whom you blocked",
                false => "whoever was pinned or blocked before still is",
            };
            return Held {
                sets: before.sets.clone(),
                problem: Some(format!("{shown} can't be used ({why}): {so}")),
                unknown,
            };
        }
    };
    let unknown = contents.skips_blocked && (at_the_start || before.unknown);
    let problem = contents.complaint().map(|complaint| {
        // It may be one of those that can't be read.
        let blocked = &mut contents.sets.blocked;
        blocked.extend(&before.sets.blocked);
        let so = match unknown {
            true => "nothing is bought until it is known whom you blocked",
            false => "the other entries hold",
        };
        format!("{shown} is damaged: {complaint}; {so}")
    });
    Held {
        sets: contents.sets,
        problem,
        unknown,
    }
}

fn tell(path: &Path, before: &Held, held: &Held) {
    match &held.problem {
        Some(problem) if before.problem.as_ref() != Some(problem) => {
            tracing::error!(problem, "pinned and blocked providers");
        }
        Some(_) => {}
        None if before.problem.is_some() => {
            tracing::info!(file = %path.display(), "pinned and blocked providers are known again");
        }
        None => {}
    }
}

impl Contents {
    fn skip(&mut self, what: &str) {
        self.skipped = self.skipped.saturating_add(1);
        self.first_skipped.get_or_insert_with(|| {
            let mut shown = what.to_owned();
            truncate_to_char(&mut shown, SHOWN_BYTES);
            shown
        });
    }

    fn complaint(&self) -> Option<String> {
        let first = self.first_skipped.as_ref()?;
        Some(match self.skipped {
            1 => format!("{first:?} is no provider"),
            more => format!("{more} entries are no providers, {first:?} among them"),
        })
    }

    /// The providers of a list; entries that name none are skipped.
    fn list(&mut self, value: &Value) -> Option<BTreeSet<PeerId>> {
        let mut peers = BTreeSet::new();
        for entry in value.as_array()? {
            match entry.as_str().and_then(|name| name.parse().ok()) {
                Some(peer) => drop(peers.insert(peer)),
                None => self.skip(&entry.to_string()),
            }
        }
        Some(peers)
    }
}

/// Reads what can be read. An error when it can't be known whom the owner blocked at all.
fn read(path: &Path) -> io::Result<Contents> {
    let Some(bytes) = read_within(path, FILE_BYTES)? else {
        return Ok(Contents::default());
    };
    contents(&serde_json::from_slice(&bytes)?).map_err(io::Error::other)
}

fn contents(fields: &Map<String, Value>) -> Result<Contents, &'static str> {
    let mut contents = Contents::default();
    // Before the others, so that what is wrong with it is told first.
    if let Some(value) = fields.get("blocked") {
        contents.sets.blocked = contents.list(value).ok_or("`blocked` is no list")?;
        contents.skips_blocked = contents.skipped > 0;
    }
    for (name, value) in fields {
        match name.as_str() {
            "blocked" => {}
            "pinned" => match contents.list(value) {
                Some(pinned) => contents.sets.pinned = pinned,
                None => contents.skip(name),
            },
            _ => contents.skip(name),
        }
    }
    if !fields.contains_key("blocked") && contents.skipped > 0 {
        return Err("there is no `blocked`");
    }
    Ok(contents)
}

/// The file without anything to complain of, or what is wrong with it.
fn read_whole(path: &Path) -> Result<Sets, String> {
    let contents = read(path).map_err(|error| error.to_string())?;
    match contents.complaint() {
        Some(complaint) => Err(complaint),
        None => Ok(contents.sets),
    }
}

/// Checks the file of a data directory. Returns how many providers are pinned or blocked.
///
/// # Errors
/// What is wrong with it.
pub fn check_standings(data_dir: &Path) -> Result<usize, String> {
    let path = data_dir.join(STANDING_FILE);
    let sets = read_whole(&path);
    let sets = sets.map_err(|why| format!("{} can't be used ({why})", path.display()))?;
    Ok(sets.pinned.len().saturating_add(sets.blocked.len()))
}

/// Follows the file for as long as the gateway runs.
pub(crate) async fn follow(gateway: Arc<Gateway>) {
    if gateway.standings.file.is_none() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let gateway = Arc::clone(&gateway);
        let looked = tokio::task::spawn_blocking(move || gateway.standings.look(false)).await;
        if looked.is_err() {
            tracing::error!("a look at the pinned and blocked providers ended early");
        }
    }
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
    /// What is wrong with the list of pinned and blocked providers, in words.
    pub fn problem(&self) -> Option<String> {
        self.gateway.standings.problem()
    }

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
    use std::fs;

    use serde_json::json;

    use super::*;

    fn peer() -> PeerId {
        PeerId::random()
    }

    fn write(directory: &Path, text: &str) {
        fs::write(directory.join(STANDING_FILE), text).unwrap();
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
        assert_eq!(check_standings(directory.path()), Ok(2));
        again.set(one, Standing::Usual).unwrap();
        assert_eq!(
            Standings::load(Some(directory.path())).of(&one),
            Standing::Usual
        );
    }

    #[test]
    fn a_damaged_entry_costs_no_other_one() {
        let directory = tempfile::tempdir().unwrap();
        let (pinned, blocked) = (peer().to_string(), peer().to_string());
        for kept in [
            json!({"pinned": [pinned, 7], "blocked": [blocked]}),
            json!({"pinned": [pinned], "blocked": [blocked], "other": 1}),
        ] {
            write(directory.path(), &kept.to_string());
            let standings = Standings::load(Some(directory.path()));
            assert_eq!(standings.of(&blocked.parse().unwrap()), Standing::Blocked);
            assert_eq!(standings.of(&pinned.parse().unwrap()), Standing::Pinned);
            assert!(!standings.are_unknown() && standings.problem().is_some());
            assert!(check_standings(directory.path()).is_err());
        }
        let kept = json!({"pinned": 7, "blocked": [blocked]});
        write(directory.path(), &kept.to_string());
        let standings = Standings::load(Some(directory.path()));
        assert_eq!(standings.of(&blocked.parse().unwrap()), Standing::Blocked);
    }

    #[test]
    fn nothing_is_known_of_a_file_that_can_not_be_read_until_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let too_large = format!("{{}}{}", " ".repeat(256 * 1024));
        let texts = [
            "",
            "{",
            "[]",
            "null",
            r#"{"blocked": ["x"]}"#,
            r#"{"blocked": {}}"#,
            r#"{"blokced": []}"#,
            &too_large,
        ];
        for text in texts {
            write(directory.path(), text);
            let standings = Standings::load(Some(directory.path()));
            assert!(standings.are_unknown(), "{text:.20}");
            assert!(standings.problem().unwrap().contains(STANDING_FILE));
            write(directory.path(), r#"{"blocked": []}"#);
            standings.look(false);
            assert!(!standings.are_unknown() && standings.problem().is_none());
        }
        write(directory.path(), "{");
        let standings = Standings::load(Some(directory.path()));
        fs::remove_file(directory.path().join(STANDING_FILE)).unwrap();
        standings.look(false);
        assert!(!standings.are_unknown(), "removed");
        assert!(!Standings::load(None).are_unknown());
    }

    #[test]
    fn a_damaged_name_of_a_blocked_one_may_be_anybody_until_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let (one, name) = (peer(), "12D3KooWmisspelt");
        let damaged = json!({"another": 1, "blocked": [one.to_string(), name], "pinned": [7]});
        write(directory.path(), &damaged.to_string());
        let standings = Standings::load(Some(directory.path()));
        assert!(standings.are_unknown());
        let problem = standings.problem().unwrap();
        assert!(
            problem.contains(name) && problem.contains("nothing is bought"),
            "{problem}"
        );
        assert_eq!(standings.of(&one), Standing::Blocked);
        // Another file that is no better.
        let no_better = json!({"blocked": [name]}).to_string();
        write(directory.path(), &no_better);
        standings.look(false);
        assert!(standings.are_unknown());
        let mended = json!({"blocked": [one.to_string()]}).to_string();
        write(directory.path(), &mended);
        standings.look(false);
        assert!(!standings.are_unknown() && standings.problem().is_none());
        // Whoever could be read before is known.
        write(directory.path(), &no_better);
        standings.look(false);
        assert!(!standings.are_unknown());
        assert_eq!(standings.of(&one), Standing::Blocked);
    }

    #[test]
    fn who_was_blocked_stays_so_while_the_file_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let standings = Standings::load(Some(directory.path()));
        let (one, other) = (peer(), peer());
        standings.set(one, Standing::Blocked).unwrap();
        for text in [
            "{".to_owned(),
            json!({"blocked": [other.to_string(), "x"]}).to_string(),
        ] {
            write(directory.path(), &text);
            standings.look(false);
            assert_eq!(standings.of(&one), Standing::Blocked);
            assert!(!standings.are_unknown() && standings.problem().is_some());
        }
        assert_eq!(standings.of(&other), Standing::Blocked);
        write(
            directory.path(),
            &json!({"blocked": [other.to_string()]}).to_string(),
        );
        standings.look(false);
        assert_eq!(standings.of(&one), Standing::Usual, "mended");
        assert_eq!(standings.problem(), None);
    }

    #[test]
    fn a_damaged_file_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["{ \"blocked\": [", r#"{"pinned": ["x"], "blocked": []}"#] {
            write(directory.path(), text);
            let standings = Standings::load(Some(directory.path()));
            let refused = standings.set(PeerId::random(), Standing::Pinned);
            assert!(
                matches!(refused, Err(StandingError::Damaged { .. })),
                "{refused:?}"
            );
            let file = directory.path().join(STANDING_FILE);
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let nowhere = Standings::load(None).set(peer(), Standing::Blocked);
        assert!(matches!(nowhere, Err(StandingError::NoPlace)));
    }
}

//! Offers that are changed while a provider runs: makes the stands fit what is wanted of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use derouter_sdk::OfferId;

use super::Keeper;
use super::stand::{Origin, Stand};
use crate::provider::config::OfferConfig;
use crate::provider::monitor::Monitor;
use crate::provider::overlay::{Entries, OfferEntry};

/// An offer as it is to be.
struct Wanted {
    config: OfferConfig,
    monitor: Arc<Monitor>,
    origin: Origin,
    paused: bool,
    edited: bool,
}

/// An offer with what is changed of it.
pub(super) fn with_entry(base: &OfferConfig, entry: Option<&OfferEntry>) -> OfferConfig {
    let mut config = base.clone();
    if let Some(entry) = entry {
        entry.edit.change(&mut config);
    }
    config
}

/// Whether two base URLs are of one backend.
fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

impl Keeper {
    /// Makes the offers fit the changes that hold now. What is announced follows.
    pub(super) fn apply_changes(&mut self) {
        let mut wanted = self.wanted(&self.overlay.entries());
        let mut kept = Vec::with_capacity(self.stands.len());
        for mut stand in std::mem::take(&mut self.stands) {
            let fitting = wanted.remove(stand.offer_id.as_str());
            // One that was configured and is now added, or of another backend, is another one.
            let fitting = fitting.filter(|wanted| {
                wanted.origin == stand.origin && Arc::ptr_eq(&wanted.monitor, &stand.monitor)
            });
            match fitting {
                Some(wanted) => {
                    self.change(&mut stand, wanted);
                    kept.push(stand);
                }
                None => {
                    tracing::info!(offer = %stand.offer_id, "the offer is removed");
                    self.on_market.take_back(&stand.offer_id);
                    self.ids.remove(&stand.offer_id);
                }
            }
        }
        self.stands = kept;
        // What was taken out for being another one comes back as that.
        let again = self.wanted(&self.overlay.entries());
        for (id, wanted) in again {
            let is_new = !self.ids.iter().any(|known| known.as_str() == id);
            if is_new {
                self.put_up(&id, wanted);
            }
        }
    }

    fn change(&self, stand: &mut Stand, wanted: Wanted) {
        stand.paused = wanted.paused;
        match stand.change(wanted.config) {
            Ok(false) => stand.problem = None,
            Ok(true) => {
                stand.problem = None;
                stand.edited = wanted.edited;
                tracing::info!(offer = %stand.offer_id, "the offer is changed");
                // It comes back at once, as it is now.
                self.on_market.take_back(&stand.offer_id);
            }
            Err(problem) => {
                tracing::error!(offer = %stand.offer_id, problem, "the offer stays as it was");
                stand.problem = Some(problem);
            }
        }
    }

    fn put_up(&mut self, id: &str, wanted: Wanted) {
        match Stand::new(id, wanted.config, &wanted.monitor, wanted.origin) {
            Ok(mut stand) => {
                (stand.paused, stand.edited) = (wanted.paused, wanted.edited);
                tracing::info!(offer = %stand.offer_id, "the offer is added");
                self.ids.insert(stand.offer_id.clone());
                self.stands.push(stand);
            }
            Err(error) => tracing::error!(offer = id, %error, "the offer is not added"),
        }
    }

    /// All offers as they are to be.
    fn wanted(&self, entries: &Entries) -> BTreeMap<String, Wanted> {
        let mut wanted = BTreeMap::new();
        for base in &self.configured {
            let entry = entries.get(&base.offer_id);
            let one = Wanted {
                config: base.config.clone(),
                monitor: Arc::clone(&base.monitor),
                origin: Origin::Config,
                paused: false,
                edited: false,
            };
            add(&mut wanted, &base.offer_id, one, entry);
        }
        for stand in &self.stands {
            let Some(found) = stand.found() else { continue };
            let Some(discover) = &stand.monitor.discover else {
                continue;
            };
            let one = Wanted {
                config: discover.offer(&found.model, found.context_size),
                monitor: Arc::clone(&stand.monitor),
                origin: stand.origin.clone(),
                paused: false,
                edited: false,
            };
            add(&mut wanted, &found.model, one, entries.get(&found.model));
        }
        for (id, entry) in entries {
            if let Some(one) = self.added(id, entry)
                && !wanted.contains_key(id)
            {
                wanted.insert(id.clone(), one);
            }
        }
        wanted
    }

    /// An offer that was added, if its backend is one of this provider.
    fn added(&self, id: &str, entry: &OfferEntry) -> Option<Wanted> {
        // Checked when it was read.
        let (backend, config) = entry.added()?;
        OfferId::new(id).ok()?;
        let monitors = self.monitors.iter();
        let monitor = monitors
            .into_iter()
            .find(|monitor| same_url(monitor.backend.shown(), backend))?;
        Some(Wanted {
            config,
            monitor: Arc::clone(monitor),
            origin: Origin::Added,
            paused: entry.paused,
            edited: false,
        })
    }
}

fn add(wanted: &mut BTreeMap<String, Wanted>, id: &str, base: Wanted, entry: Option<&OfferEntry>) {
    if entry.is_some_and(|entry| entry.removed) {
        return;
    }
    let config = with_entry(&base.config, entry);
    let edited = config != base.config;
    let one = Wanted {
        config,
        edited,
        paused: entry.is_some_and(|entry| entry.paused),
        ..base
    };
    wanted.insert(id.to_owned(), one);
}

//! The requests that run now, for whoever looks at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use derouter_sdk::Wei;
use tokio::time::Instant;

use super::keys::KeyRecord;
use super::offers::Offer;
use super::router::Path;
use crate::terms::Endpoint;

/// Which of those that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ActiveId(pub(crate) u64);

/// What is asked for, and on account of whom.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) model: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) stream: bool,
    pub(crate) key: Option<Arc<KeyRecord>>,
}

/// An attempt that runs.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) offer: Arc<Offer>,
    pub(crate) asked: Subject,
    pub(crate) attempt: usize,
    pub(crate) path: Path,
    pub(crate) estimated_cost: Wei,
    pub(crate) began: Instant,
}

/// All of them, oldest first. Bounded by the requests that run at once, of which each has one attempt
/// with a job, and for a moment one whose job is being given up.
#[derive(Debug, Default)]
pub(crate) struct Active {
    next: u64,
    entries: BTreeMap<ActiveId, Entry>,
}

impl Active {
    pub(crate) fn add(&mut self, entry: Entry) -> ActiveId {
        let id = ActiveId(self.next);
        self.next = self.next.wrapping_add(1);
        self.entries.insert(id, entry);
        id
    }

    pub(crate) fn remove(&mut self, id: ActiveId) {
        self.entries.remove(&id);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ActiveId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }
}

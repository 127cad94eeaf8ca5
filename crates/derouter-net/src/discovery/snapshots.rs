//! Snapshots of what is announced, which reconciliations work on. Pure.
//!
//! Making one of 100,000 announcements takes some 20 ms, so they serve for a moment, and peers can
//! have only so many made. Those of this node's own shards and of all shards can always be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reconcile::Snapshot;
use crate::directory::Directory;
use crate::heartbeat::bucket::{Bucket, Rate};

/// How long a snapshot serves.
const AGE: Duration = Duration::from_secs(2);
/// Up to this many announcements a snapshot is made anew each time, which takes under a millisecond:
/// whoever joins just behind a change learns of it too.
const AT_ONCE: usize = 2000;
/// Snapshots of others' shards that are kept.
const KEPT: usize = 8;
/// Snapshots of others' shards that are made, for all peers together.
const RATE: Rate = Rate {
    every: Duration::from_millis(200),
    burst: 16,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Snapshots {
    own: u16,
    kept: Vec<Arc<Snapshot>>,
    others: Bucket,
}

impl Snapshots {
    /// `own`: the shards that this node takes part in.
    pub(super) fn new(own: u16) -> Self {
        Self {
            own,
            kept: Vec::new(),
            others: Bucket::default(),
        }
    }

    /// What is announced in these shards, now or a moment ago. `None` when too many different ones
    /// were asked for.
    pub(super) fn get(
        &mut self,
        directory: &Directory,
        shards: u16,
        now: Instant,
    ) -> Option<Arc<Snapshot>> {
        if directory.len() <= AT_ONCE {
            return make(directory, shards, now);
        }
        self.forget_old(now);
        let known = self.kept.iter().find(|known| known.shards == shards);
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        let common = |shards: u16| shards == self.own || shards == u16::MAX;
        if !common(shards) && !self.others.try_take(RATE, 1, now) {
            return None;
        }
        let made = make(directory, shards, now)?;
        let mut others = self.kept.iter().filter(|known| !common(known.shards));
        if let Some(oldest) = others.next()
            && others.count() + 1 >= KEPT
        {
            let oldest = oldest.shards;
            self.kept.retain(|known| known.shards != oldest);
        }
        self.kept.push(Arc::clone(&made));
        Some(made)
    }

    /// Gives back the memory of those that serve no more.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.kept
            .retain(|snapshot| now.duration_since(snapshot.made) < AGE);
    }

    /// All are of another time: the machine slept.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

fn make(directory: &Directory, shards: u16, now: Instant) -> Option<Arc<Snapshot>> {
    Snapshot::new(shards, directory.items(shards), now).map(Arc::new)
}

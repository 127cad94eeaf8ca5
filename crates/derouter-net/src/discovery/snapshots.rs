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

    /// Whether a snapshot of these shards can always be had.
    pub(super) fn is_common(&self, shards: u16) -> bool {
        shards == self.own || shards == u16::MAX
    }

    /// What is announced in these shards, now or a moment ago: all that is known, or what others are
    /// told of. `None` when too many different ones were asked for.
    pub(super) fn get(
        &mut self,
        directory: &Directory,
        shards: u16,
        for_others: bool,
        now: Instant,
    ) -> Option<Arc<Snapshot>> {
        if directory.len() <= AT_ONCE {
            return make(directory, shards, for_others, now);
        }
        self.forget_old(now);
        let same =
            |known: &&Arc<Snapshot>| (known.shards, known.for_others) == (shards, for_others);
        if let Some(known) = self.kept.iter().find(same) {
            return Some(Arc::clone(known));
        }
        let is_common = self.is_common(shards);
        if !is_common && !self.others.try_take(RATE, 1, now) {
            return None;
        }
        let made = make(directory, shards, for_others, now)?;
        if !is_common {
            self.drop_oldest_of_others();
        }
        self.kept.push(Arc::clone(&made));
        Some(made)
    }

    fn drop_oldest_of_others(&mut self) {
        let is_other = |known: &Arc<Snapshot>| !self.is_common(known.shards);
        let others = self.kept.iter().filter(|known| is_other(known)).count();
        if others < KEPT {
            return;
        }
        if let Some(oldest) = self.kept.iter().position(is_other) {
            self.kept.remove(oldest);
        }
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

fn make(
    directory: &Directory,
    shards: u16,
    for_others: bool,
    now: Instant,
) -> Option<Arc<Snapshot>> {
    let items = directory.items(shards, for_others);
    Snapshot::new((shards, for_others), items, now).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use derouter_wire::UnixSeconds;
    use derouter_wire::announce::{AnnouncementBody, SignedAnnouncement};
    use libp2p::identity::Keypair;

    use super::*;

    /// A directory with so many announcements of one shard each.
    fn directory(count: usize, now: Instant) -> Directory {
        let mut directory = Directory::new(libp2p::PeerId::random());
        for _ in 0..count {
            let keypair = Keypair::generate_ed25519();
            let body = AnnouncementBody {
                peer: keypair.public().to_peer_id(),
                sequence: 1,
                issued_at: UnixSeconds(1_700_000_000),
                lasts: 660,
                list: None,
                tags: Vec::new(),
                addresses: Vec::new(),
            };
            let signed = SignedAnnouncement::sign(body, &keypair).unwrap();
            let arrival = crate::directory::Arrival {
                forwarder: libp2p::PeerId::random(),
                bytes: &signed.encode(),
                remaining: None,
            };
            directory.judge(arrival, now, UnixSeconds(1_700_000_000));
        }
        directory
    }

    #[test]
    fn a_small_directory_is_looked_at_anew_each_time() {
        let now = Instant::now();
        let (directory, mut snapshots) = (directory(3, now), Snapshots::new(1));
        let one = snapshots.get(&directory, 1, true, now).unwrap();
        let other = snapshots.get(&directory, 1, true, now).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
        for shards in 2..200 {
            assert!(snapshots.get(&directory, shards, true, now).is_some());
        }
    }

    #[test]
    fn who_asks_for_many_shards_of_a_large_one_keeps_nobody_from_the_common_ones() {
        let now = Instant::now();
        let (directory, mut snapshots) = (directory(AT_ONCE + 1, now), Snapshots::new(1));
        let own = snapshots.get(&directory, 1, false, now).unwrap();
        let made =
            (2..100).filter(|shards| snapshots.get(&directory, *shards, true, now).is_some());
        assert_eq!(made.count(), 16);
        assert_eq!(snapshots.kept.len(), KEPT + 1);
        for (shards, for_others) in [(1, true), (u16::MAX, true), (u16::MAX, false)] {
            let common = snapshots.get(&directory, shards, for_others, now);
            assert!(common.is_some(), "{shards}");
        }
        let again = snapshots.get(&directory, 1, false, now).unwrap();
        assert!(Arc::ptr_eq(&own, &again));
        let later = now + AGE;
        let anew = snapshots.get(&directory, 1, false, later).unwrap();
        assert!(!Arc::ptr_eq(&own, &anew));
    }
}

//! What each forwarder, or all of its network, may cost us. Remembered beyond its connection, so that connecting again
//! gives no new burst.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::shares::Origin;
use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;

/// Signature checks for one forwarder: 100,000 providers refresh 330 times a second in all, and a
/// node that joins a large network is given it in one go.
const CHECK_RATE: Rate = Rate {
    every: Duration::from_millis(1),
    burst: 20_000,
};
/// Providers that one forwarder may make known to us. A new node learns 20,000 from one peer at
/// once and 100,000 within minutes; keys to sign with cost an attacker nothing.
const NEW_SOURCE_RATE: Rate = Rate {
    every: Duration::from_millis(5),
    burst: 20_000,
};

#[derive(Debug, Default)]
struct Sender {
    checks: Bucket,
    new_sources: Bucket,
    /// Ascending number of the last look, to forget the least recent one.
    seen: u64,
}

#[derive(Debug, Default)]
pub(super) struct Senders {
    senders: HashMap<Origin, Sender>,
    looks: u64,
}

impl Senders {
    /// Takes a signature check, and a new source where it is one, from the forwarder's share.
    pub(super) fn may_send(&mut self, forwarder: Origin, is_new: bool, now: Instant) -> bool {
        let sender = self.sender(forwarder);
        let room = !is_new || sender.new_sources.try_take(NEW_SOURCE_RATE, 1, now);
        room && sender.checks.try_take(CHECK_RATE, 1, now)
    }

    fn sender(&mut self, origin: Origin) -> &mut Sender {
        let known = self.senders.contains_key(&origin);
        if self.senders.len() >= limits::HEARTBEAT_FORWARDERS && !known {
            let least_recent = self.senders.iter().min_by_key(|(_, sender)| sender.seen);
            if let Some(oldest) = least_recent.map(|(origin, _)| *origin) {
                self.senders.remove(&oldest);
            }
        }
        self.looks += 1;
        let sender = self.senders.entry(origin).or_default();
        sender.seen = self.looks;
        sender
    }
}

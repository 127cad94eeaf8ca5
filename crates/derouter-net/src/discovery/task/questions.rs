//! What others ask of the directory, and how much they may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_wire::discovery::{Carried, Want};
use libp2p::PeerId;

use super::super::reconcile::Snapshot;
use super::super::{Ask, Input, Taken};
use super::Discovery;
use crate::actor::Offence;
use crate::counters::count;
use crate::directory::Verdict;
use crate::heartbeat::bucket::{Bucket, Rate};

/// Announcements of one exchange that are spread by gossip when they are no more than this: those
/// that found no mesh, or that a split network has missed.
const SPREAD: usize = 16;
/// Of these, those that wait for their list. The next are left to reconciliations of others.
const FOUND: usize = 256;
/// Questions of one peer: ten lists a second, and what a new node asks at once.
const ASK_RATE: Rate = Rate {
    every: Duration::from_millis(50),
    burst: 1000,
};
/// KiB of lists that one peer is given: the whole of a large network's at once, then 1 MiB a second.
const GIVE_RATE: Rate = Rate {
    every: Duration::from_millis(1),
    burst: 128 * 1024,
};
/// Rounds of reconciliations over other shards than this node's or all.
const OTHER_SHARDS_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 64,
};
/// So many refused questions are an offence.
const REFUSALS: u32 = 100;
/// Peers whose questions are counted.
const ASKERS: usize = 1024;

/// What a peer has asked lately.
#[derive(Debug, Default)]
pub(super) struct Asker {
    questions: Bucket,
    /// Of shards of its own choice.
    snapshots: Bucket,
    /// KiB of lists.
    given: Bucket,
    /// Questions that were too many.
    refused: u32,
}

impl Discovery {
    pub(super) async fn on_input(&mut self, input: Input) {
        match input {
            Input::Learn(provider, reply) => self.learn(&provider, Some(reply)).await,
            Input::Ask(peer, ask) => self.on_ask(peer, ask).await,
        }
    }

    async fn on_ask(&mut self, peer: PeerId, ask: Ask) {
        let now = Instant::now();
        if !self.may_ask(peer, now) {
            // Dropping the reply tells who waits.
            count(&self.counters.discovery_refused);
            return self.count_refusal(peer).await;
        }
        match ask {
            Ask::Lists(wants, reply) => {
                let _ = reply.send(self.give_lists(peer, &wants, now));
            }
            Ask::Snapshot(shards, reply) => {
                if let Some(snapshot) = self.snapshot_for(peer, shards, now) {
                    let _ = reply.send(snapshot);
                }
            }
            Ask::Carried(ids, reply) => {
                let carried = ids.iter().filter_map(|id| self.directory.carried(id, now));
                let _ = reply.send(carried.collect());
            }
            Ask::Take(announcements, done) => {
                let taken = self.take(peer, announcements).await;
                let _ = done.send(taken);
            }
        }
    }

    fn may_ask(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.askers.len() >= ASKERS && !self.askers.contains_key(&peer) {
            let idle = |bucket: &Bucket, rate: Rate| bucket.ready_at(rate, rate.burst, now) <= now;
            self.askers.retain(|_, asker| {
                !idle(&asker.questions, ASK_RATE) || !idle(&asker.given, GIVE_RATE)
            });
        }
        if self.askers.len() >= ASKERS && !self.askers.contains_key(&peer) {
            return false;
        }
        let asker = self.askers.entry(peer).or_default();
        asker.questions.try_take(ASK_RATE, 1, now)
    }

    /// Our own nodes ask less than they may, so who is refused again and again asks to do harm.
    async fn count_refusal(&mut self, peer: PeerId) {
        let Some(asker) = self.askers.get_mut(&peer) else {
            return;
        };
        asker.refused = asker.refused.wrapping_add(1);
        if asker.refused.is_multiple_of(REFUSALS) {
            self.blame(peer, Offence::Flood).await;
        }
    }

    /// Each peer may have snapshots of some other shards than ours made, before all together may.
    fn snapshot_for(&mut self, peer: PeerId, shards: u16, now: Instant) -> Option<Arc<Snapshot>> {
        if shards & !self.shards.bits() != 0 {
            // It would give us what we do not take.
            return None;
        }
        let asker = self.askers.entry(peer).or_default();
        let allowed =
            self.snapshots.is_common(shards) || asker.snapshots.try_take(OTHER_SHARDS_RATE, 1, now);
        if !allowed {
            return None;
        }
        self.snapshots.get(&self.directory, shards, true, now)
    }

    /// The lists that a peer wants, up to what it may have now: it asks for the rest later.
    fn give_lists(&mut self, peer: PeerId, wants: &[Want], now: Instant) -> Vec<Option<Arc<[u8]>>> {
        let asker = self.askers.entry(peer).or_default();
        let mut lists = Vec::with_capacity(wants.len());
        for want in wants {
            let list = self.directory.list(&want.peer, &want.hash);
            let kib = list.as_ref().map_or(0, |list| list.len().div_ceil(1024));
            let kib = u32::try_from(kib).unwrap_or(u32::MAX);
            if !asker.given.try_take(GIVE_RATE, kib, now) {
                break;
            }
            lists.push(list);
        }
        lists
    }

    /// Judges what a peer gave us. A few that are new to us are probably new to others too.
    async fn take(&mut self, peer: PeerId, announcements: Vec<Carried>) -> Taken {
        let (mut new, mut late) = (Vec::new(), 0_usize);
        for carried in announcements {
            let bytes = &carried.announcement.0;
            let verdict = self.judge(peer, bytes, Some(carried.remaining)).await;
            if let Verdict::New { provider, .. } = verdict {
                new.push(provider);
                late += usize::from(self.directory.is_late(&provider, carried.remaining));
            }
            if new.len() % 32 == 31 {
                tokio::task::yield_now().await;
            }
        }
        let taken = Taken {
            new: new.len(),
            late,
        };
        if taken.new > SPREAD {
            return taken;
        }
        for provider in new {
            if self.found.len() < FOUND && self.directory.is_coming(&provider) {
                self.found.insert(provider, peer);
            } else {
                self.hand_on_soon(provider, peer);
            }
        }
        taken
    }
}

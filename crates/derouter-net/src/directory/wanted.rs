//! The lists that are wanted, and whom they are asked of next. Peers take turns, each has a limit of
//! its own, and one that does not answer rests: nobody holds up what others can give.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use derouter_wire::announce::{ListSummary, OfferListHash};
use derouter_wire::limits::{PULL_LISTS, PULL_RESPONSE_BYTES};
use libp2p::PeerId;

use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;

/// The pause before a list is asked for again, doubled with each try.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How often one list is asked for; the next announcement begins anew.
const TRIES: u32 = 9;
/// KiB of lists that one peer may make us pull: a large network's at once, then 1 MiB a second.
const PULL_RATE: Rate = Rate {
    every: Duration::from_millis(1),
    burst: 32 * 1024,
};
/// Providers that are asked themselves although there is no connection. Each is a dial to where it
/// says that it is, which may be anywhere.
const STRANGER_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 16,
};
/// How long a peer that did not answer is left alone, doubled each time.
const FIRST_REST: Duration = Duration::from_secs(5);
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Want {
    summary: ListSummary,
    /// Who gave us the announcement.
    forwarder: PeerId,
    tries: u32,
    /// Where it waits; `None` while it is being asked for.
    place: Option<Place>,
}

/// A place in the queue of a peer, or in that of providers without a connection.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: Option<PeerId>,
    due: Instant,
}

/// A connected peer that may have lists.
#[derive(Debug, Default)]
struct Source {
    due: BTreeSet<(Instant, PeerId)>,
    asking: usize,
    bytes: Bucket,
    failures: u32,
    rests_until: Option<Instant>,
}

/// Providers that are asked themselves, without a connection so far.
#[derive(Debug, Default)]
struct Strangers {
    due: BTreeSet<(Instant, PeerId)>,
    asking: usize,
    rate: Bucket,
}

/// The lists that are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    wants: HashMap<PeerId, Want>,
    sources: HashMap<PeerId, Source>,
    connected: Vec<PeerId>,
    strangers: Strangers,
    /// Whose turn it is; `None` stands for the strangers.
    turns: VecDeque<Option<PeerId>>,
    /// Rises with each choice of a peer, so that all have their part.
    picks: usize,
}

/// Lists to ask one peer for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PullPlan {
    /// Whom to ask.
    pub(crate) source: PeerId,
    /// Whether it is the provider itself, without a connection: it has to be dialled.
    pub(crate) stranger: bool,
    /// Whose lists, and which.
    pub(crate) wants: Vec<(PeerId, ListSummary)>,
}

impl Source {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.asking >= limits::PULLS_PER_PEER {
            return None;
        }
        let (first, _) = self.due.first()?;
        let allowed = self.bytes.ready_at(PULL_RATE, 1, now);
        let ready = (*first).max(allowed);
        Some(self.rests_until.map_or(ready, |until| ready.max(until)))
    }
}

impl Strangers {
    fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.asking >= limits::STRANGER_PULLS {
            return None;
        }
        let (first, _) = self.due.first()?;
        Some((*first).max(self.rate.ready_at(STRANGER_RATE, 1, now)))
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            wants: HashMap::new(),
            sources: HashMap::new(),
            connected: Vec::new(),
            strangers: Strangers::default(),
            turns: [None].into(),
            picks: 0,
        }
    }
}

impl Wanted {
    /// The list of this provider is wanted from now on, and no other of it.
    pub(super) fn want(
        &mut self,
        provider: PeerId,
        summary: ListSummary,
        forwarder: PeerId,
        now: Instant,
    ) {
        self.forget(&provider);
        let want = Want {
            summary,
            forwarder,
            tries: 0,
            place: None,
        };
        self.wants.insert(provider, want);
        self.queue(provider, now, now);
    }

    /// It is wanted no more.
    pub(super) fn forget(&mut self, provider: &PeerId) {
        if let Some(want) = self.wants.remove(provider) {
            self.unqueue(provider, want.place);
        }
    }

    /// Which list of this provider is wanted.
    pub(super) fn hash(&self, provider: &PeerId) -> Option<OfferListHash> {
        self.wants.get(provider).map(|want| want.summary.hash)
    }

    /// The peers that can be asked. What waits for others is asked of these.
    pub(super) fn set_connected(&mut self, peers: &[PeerId], now: Instant) {
        let mut moved = Vec::new();
        for gone in &self.connected {
            if !peers.contains(gone)
                && let Some(source) = self.sources.remove(gone)
            {
                moved.extend(source.due);
            }
        }
        for peer in peers {
            if !self.sources.contains_key(peer) {
                self.sources.insert(*peer, Source::default());
                self.turns.push_back(Some(*peer));
            }
        }
        if self.connected.is_empty() {
            // Until now there was nobody but the providers.
            moved.extend(std::mem::take(&mut self.strangers.due));
        }
        let sources = &self.sources;
        self.turns
            .retain(|turn| turn.is_none_or(|peer| sources.contains_key(&peer)));
        self.connected = peers.to_vec();
        self.move_to_others(moved, now);
    }

    fn move_to_others(&mut self, moved: impl IntoIterator<Item = (Instant, PeerId)>, now: Instant) {
        for (due, provider) in moved {
            self.queue(provider, due, now);
        }
    }

    /// When something is to be asked for next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if self.wants.is_empty() {
            return None;
        }
        let of_peers = self
            .sources
            .values()
            .filter_map(|source| source.ready_at(now));
        of_peers.chain(self.strangers.ready_at(now)).min()
    }

    /// The next lists to ask for, all of one peer.
    pub(super) fn take(&mut self, now: Instant) -> Option<PullPlan> {
        if self.wants.is_empty() {
            return None;
        }
        for _ in 0..self.turns.len() {
            let turn = self.turns.pop_front()?;
            self.turns.push_back(turn);
            let plan = match turn {
                Some(peer) => self.plan(peer, now),
                None => self.plan_stranger(now),
            };
            if plan.is_some() {
                return plan;
            }
        }
        None
    }

    fn plan(&mut self, peer: PeerId, now: Instant) -> Option<PullPlan> {
        let source = self.sources.get_mut(&peer)?;
        if source.ready_at(now)? > now {
            return None;
        }
        let mut plan = PullPlan {
            source: peer,
            stranger: false,
            wants: Vec::new(),
        };
        let mut bytes = 0_u32;
        let most = u32::try_from(PULL_RESPONSE_BYTES / 2).unwrap_or(u32::MAX);
        while plan.wants.len() < PULL_LISTS {
            let Some((due, provider)) = source.due.first().copied() else {
                break;
            };
            let Some(want) = self.wants.get_mut(&provider) else {
                source.due.pop_first();
                continue;
            };
            let more = bytes.saturating_add(want.summary.bytes);
            if due > now || (more > most && bytes > 0) {
                break;
            }
            bytes = more;
            source.due.pop_first();
            want.place = None;
            plan.wants.push((provider, want.summary));
        }
        source.asking += 1;
        source.bytes.take(PULL_RATE, bytes.div_ceil(1024), now);
        Some(plan)
    }

    fn plan_stranger(&mut self, now: Instant) -> Option<PullPlan> {
        if self.strangers.ready_at(now)? > now {
            return None;
        }
        let (_, provider) = self.strangers.due.pop_first()?;
        let want = self.wants.get_mut(&provider)?;
        want.place = None;
        self.strangers.asking += 1;
        self.strangers.rate.take(STRANGER_RATE, 1, now);
        Some(PullPlan {
            source: provider,
            stranger: true,
            wants: vec![(provider, want.summary)],
        })
    }

    /// Asking a peer has ended. One that gave no answer of the protocol (`failed`) rests, and what
    /// waits for it is asked of others.
    pub(super) fn asked(&mut self, peer: PeerId, stranger: bool, failed: bool, now: Instant) {
        if stranger {
            self.strangers.asking = self.strangers.asking.saturating_sub(1);
            return;
        }
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        source.asking = source.asking.saturating_sub(1);
        if !failed {
            source.failures = 0;
            return;
        }
        let rest = FIRST_REST.saturating_mul(1 << source.failures.min(16));
        source.failures = source.failures.saturating_add(1);
        source.rests_until = Some(now + rest.min(LONGEST_REST));
        let moved = std::mem::take(&mut source.due);
        self.move_to_others(moved, now);
    }

    /// A list was asked for and did not come: once more later, `jitter` from 0 to 1. False when it
    /// has been asked for often enough.
    pub(super) fn again(&mut self, provider: &PeerId, now: Instant, jitter: f64) -> bool {
        let Some(want) = self.wants.get_mut(provider) else {
            return false;
        };
        want.tries += 1;
        if want.tries >= TRIES {
            self.forget(provider);
            return false;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << want.tries.min(16));
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.75 + jitter / 2.0);
        self.queue(*provider, now + pause, now);
        true
    }

    fn queue(&mut self, provider: PeerId, due: Instant, now: Instant) {
        let source = self.choose(&provider, now);
        let Some(want) = self.wants.get_mut(&provider) else {
            return;
        };
        let old = want.place.replace(Place { source, due });
        self.unqueue(&provider, old);
        if let Some(queue) = self.queue_of(source) {
            queue.insert((due, provider));
        }
    }

    fn unqueue(&mut self, provider: &PeerId, place: Option<Place>) {
        let Some(Place { source, due }) = place else {
            return;
        };
        if let Some(queue) = self.queue_of(source) {
            queue.remove(&(due, *provider));
        }
    }

    fn queue_of(&mut self, source: Option<PeerId>) -> Option<&mut BTreeSet<(Instant, PeerId)>> {
        match source {
            None => Some(&mut self.strangers.due),
            Some(peer) => self.sources.get_mut(&peer).map(|source| &mut source.due),
        }
    }

    /// First who announced it, then anybody, then the provider itself: it must not be asked by
    /// everyone at once. `None`: the provider, who is not connected.
    fn choose(&mut self, provider: &PeerId, now: Instant) -> Option<PeerId> {
        let want = self.wants.get(provider)?;
        let (tries, forwarder) = (want.tries, want.forwarder);
        match tries % 4 {
            0 | 1 if self.answers(&forwarder, now) => Some(forwarder),
            3 if self.answers(provider, now) => Some(*provider),
            3 => None,
            // They all rest: better later than a dial by everyone.
            _ => self
                .anybody(now)
                .or_else(|| self.connected.first().copied()),
        }
    }

    fn answers(&self, peer: &PeerId, now: Instant) -> bool {
        let source = self.sources.get(peer);
        source.is_some_and(|source| !source.rests(now))
    }

    fn anybody(&mut self, now: Instant) -> Option<PeerId> {
        for _ in 0..self.connected.len() {
            self.picks = self.picks.wrapping_add(1);
            let place = self.picks.checked_rem(self.connected.len())?;
            let peer = self.connected.get(place)?;
            if self.answers(peer, now) {
                return Some(*peer);
            }
        }
        None
    }
}

#[cfg(test)]
impl Wanted {
    /// Each want that waits is in just the queue that it names.
    pub(super) fn is_consistent(&self) -> bool {
        let waiting = self.wants.values().filter(|want| want.place.is_some());
        let queued: usize = self.sources.values().map(|source| source.due.len()).sum();
        let all_there = self.wants.iter().all(|(provider, want)| {
            let Some(Place { source, due }) = want.place else {
                return true;
            };
            let queue = match source {
                None => Some(&self.strangers.due),
                Some(peer) => self.sources.get(&peer).map(|source| &source.due),
            };
            queue.is_some_and(|queue| queue.contains(&(due, *provider)))
        });
        all_there && waiting.count() == queued + self.strangers.due.len()
    }
}

//! The lists that are wanted, and whom they are asked of next. Peers take turns, each has a limit of
//! its own, and one that does not answer rests: nobody holds up what others can give.
//!
//! A peer passes on only announcements whose list it has. So what it brought itself is asked of it
//! first, before what others brought.

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
/// How often one list is asked for; the next announcement of another one begins anew.
const TRIES: u32 = 9;
/// KiB of lists that come from one peer: a large network's at once, then 1 MiB a second.
const PULL_RATE: Rate = Rate {
    every: Duration::from_millis(1),
    burst: 32 * 1024,
};
/// Requests to one peer: fewer than it answers, reconciliations beside them.
const REQUEST_RATE: Rate = Rate {
    every: Duration::from_millis(100),
    burst: 500,
};
/// Providers that are asked themselves although there is no connection. Each is a dial to where it
/// says that it is, which may be anywhere.
const STRANGER_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 16,
};
/// How long a peer that did not answer is left alone, doubled each time.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(60);

type Queue = BTreeSet<(Instant, PeerId)>;

#[derive(Debug)]
struct Want {
    summary: ListSummary,
    /// Who gave us the announcement.
    forwarder: PeerId,
    tries: u32,
    /// Where it waits; `None` while it is being asked for.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    of: QueueOf,
    due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueOf {
    /// Of a connected peer, for what it brought or provides itself.
    Own(PeerId),
    /// Of a connected peer, for what it may have.
    Favours(PeerId),
    /// Of providers without a connection.
    Strangers,
}

/// A peer that is asked for lists.
#[derive(Debug, Default)]
struct Source {
    connected: bool,
    own: Queue,
    favours: Queue,
    asking: usize,
    requests: Bucket,
    bytes: Bucket,
    failures: u32,
    rests_until: Option<Instant>,
}

/// Providers that are asked themselves, without a connection so far.
#[derive(Debug, Default)]
struct Strangers {
    queue: Queue,
    asking: usize,
    rate: Bucket,
}

/// The lists that are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    wants: HashMap<PeerId, Want>,
    /// Those that are connected, and others until what they did no longer counts.
    sources: HashMap<PeerId, Source>,
    strangers: Strangers,
    /// The connected peers, and `None` for the strangers. Who is first is asked next.
    turns: VecDeque<Option<PeerId>>,
    /// Rises with each choice of a peer, so that all have their part.
    picks: usize,
    /// Requests under way.
    asking: usize,
}

/// Lists to ask one peer for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PullPlan {
    /// Whom to ask.
    pub(crate) source: PeerId,
    /// Whether it is the provider itself, without a connection: it has to be dialled.
    pub(crate) stranger: bool,
    /// Whose lists, and which. First those that it brought itself.
    pub(crate) wants: Vec<(PeerId, ListSummary)>,
    /// How many it brought itself.
    pub(crate) own: usize,
}

/// How asking one peer ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullEnd {
    /// Who was asked.
    pub(crate) source: PeerId,
    /// As in its [`PullPlan`].
    pub(crate) stranger: bool,
    /// It did not do what can be expected of it, and gave no list.
    pub(crate) failed: bool,
    /// Bytes of lists that came.
    pub(crate) bytes: usize,
}

impl Source {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    /// When something can be asked of it. `crowded`: only of those of whom nothing is asked.
    fn ready_at(&self, crowded: bool, now: Instant) -> Option<Instant> {
        let most = if crowded { 1 } else { limits::PULLS_PER_PEER };
        if self.asking >= most || !self.connected {
            return None;
        }
        let queues = [self.own.first(), self.favours.first()];
        let (first, _) = queues.into_iter().flatten().min()?;
        let may_ask = self.requests.ready_at(REQUEST_RATE, 1, now);
        let may_take = self.bytes.ready_at(PULL_RATE, 1, now);
        let ready = (*first).max(may_ask).max(may_take);
        Some(self.rests_until.map_or(ready, |until| ready.max(until)))
    }

    /// Whether nothing that it did counts any more.
    fn is_forgotten(&self, now: Instant) -> bool {
        let bytes = self.bytes.ready_at(PULL_RATE, PULL_RATE.burst, now);
        let requests = self
            .requests
            .ready_at(REQUEST_RATE, REQUEST_RATE.burst, now);
        let owes = bytes.max(requests) > now;
        !self.connected && self.asking == 0 && !owes && !self.rests(now)
    }
}

impl Strangers {
    fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.asking >= limits::STRANGER_PULLS {
            return None;
        }
        let (first, _) = self.queue.first()?;
        Some((*first).max(self.rate.ready_at(STRANGER_RATE, 1, now)))
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            wants: HashMap::new(),
            sources: HashMap::new(),
            strangers: Strangers::default(),
            turns: [None].into(),
            picks: 0,
            asking: 0,
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
        if let Some(known) = self.wants.get_mut(&provider)
            && known.summary == summary
        {
            // It keeps its place: announcing it again and again does not put it last.
            known.forwarder = forwarder;
            return;
        }
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

    /// Another peer has passed the announcement on, and so has the list.
    pub(super) fn passed_on(&mut self, provider: PeerId, forwarder: PeerId, now: Instant) {
        let Some(want) = self.wants.get(&provider) else {
            return;
        };
        if self.answers(&want.forwarder, now) && want.tries == 0 {
            return;
        }
        if let Some(want) = self.wants.get_mut(&provider)
            && let Some(place) = want.place
        {
            want.forwarder = forwarder;
            want.tries = want.tries.next_multiple_of(4);
            self.queue(provider, place.due, now);
        }
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
        let mut moved = Queue::new();
        if !self.sources.values().any(|source| source.connected) {
            // There was nobody but the providers.
            moved.append(&mut self.strangers.queue);
        }
        for (peer, source) in &mut self.sources {
            if source.connected && !peers.contains(peer) {
                source.connected = false;
                moved.append(&mut source.own);
                moved.append(&mut source.favours);
            }
        }
        for peer in peers {
            let source = self.sources.entry(*peer).or_default();
            if !std::mem::replace(&mut source.connected, true) {
                self.turns.push_back(Some(*peer));
            }
        }
        self.sources.retain(|_, source| !source.is_forgotten(now));
        if self.sources.len() > limits::PULL_SOURCES {
            self.sources
                .retain(|_, source| source.connected || source.asking > 0);
        }
        let connected = |peer| self.sources.get(&peer).is_some_and(|known| known.connected);
        self.turns.retain(|turn| turn.is_none_or(connected));
        for (due, provider) in moved {
            self.queue(provider, due, now);
        }
    }

    /// When something is to be asked for next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if self.wants.is_empty() || self.asking >= limits::PULLS {
            return None;
        }
        let crowded = self.is_crowded();
        let of_peers = self.sources.values();
        let of_peers = of_peers.filter_map(|source| source.ready_at(crowded, now));
        of_peers.chain(self.strangers.ready_at(now)).min()
    }

    /// The last places are kept for peers of whom nothing is asked so far.
    fn is_crowded(&self) -> bool {
        self.asking + limits::PULLS_KEPT >= limits::PULLS
    }

    /// The next lists to ask for, all of one peer.
    pub(super) fn take(&mut self, now: Instant) -> Option<PullPlan> {
        if self.wants.is_empty() || self.asking >= limits::PULLS {
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
                self.asking += 1;
                return plan;
            }
        }
        None
    }

    fn plan(&mut self, peer: PeerId, now: Instant) -> Option<PullPlan> {
        let crowded = self.is_crowded();
        let source = self.sources.get_mut(&peer)?;
        if source.ready_at(crowded, now)? > now {
            return None;
        }
        let mut wants = Vec::new();
        let mut bytes = 0_u32;
        let most = u32::try_from(PULL_RESPONSE_BYTES / 2).unwrap_or(u32::MAX);
        // What others brought and this peer may not have at all counts no bytes.
        for (queue, counts) in [(&mut source.own, true), (&mut source.favours, false)] {
            while wants.len() < PULL_LISTS
                && let Some((due, provider)) = queue.first().copied()
                && due <= now
            {
                let Some(want) = self.wants.get_mut(&provider) else {
                    break;
                };
                let more = bytes.saturating_add(want.summary.bytes);
                if counts && more > most && bytes > 0 {
                    break;
                }
                bytes = more;
                queue.pop_first();
                want.place = None;
                wants.push((provider, want.summary));
            }
        }
        source.asking += 1;
        source.requests.take(REQUEST_RATE, 1, now);
        let brought = |(provider, _): &&(PeerId, ListSummary)| {
            let want = self.wants.get(provider);
            want.is_some_and(|want| want.forwarder == peer)
        };
        let own = wants.iter().filter(brought).count();
        Some(PullPlan {
            source: peer,
            stranger: false,
            wants,
            own,
        })
    }

    fn plan_stranger(&mut self, now: Instant) -> Option<PullPlan> {
        if self.strangers.ready_at(now)? > now {
            return None;
        }
        let (_, provider) = self.strangers.queue.pop_first()?;
        let want = self.wants.get_mut(&provider)?;
        want.place = None;
        self.strangers.asking += 1;
        self.strangers.rate.take(STRANGER_RATE, 1, now);
        Some(PullPlan {
            source: provider,
            stranger: true,
            wants: vec![(provider, want.summary)],
            own: 1,
        })
    }

    /// Asking a peer has ended. One that failed rests, and what waits for it is asked of others.
    pub(super) fn ended(&mut self, end: PullEnd, now: Instant) {
        self.asking = self.asking.saturating_sub(1);
        if end.stranger {
            self.strangers.asking = self.strangers.asking.saturating_sub(1);
            return;
        }
        let Some(source) = self.sources.get_mut(&end.source) else {
            return;
        };
        source.asking = source.asking.saturating_sub(1);
        let kib = u32::try_from(end.bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        source.bytes.take(PULL_RATE, kib, now);
        if !end.failed {
            source.failures = 0;
            return;
        }
        if source.rests(now) {
            // Requests that failed together are one failure.
            return;
        }
        let rest = FIRST_REST.saturating_mul(1 << source.failures.min(16));
        source.failures = source.failures.saturating_add(1);
        source.rests_until = Some(now + rest.min(LONGEST_REST));
        let mut moved = std::mem::take(&mut source.own);
        moved.append(&mut source.favours);
        for (due, provider) in moved {
            self.queue(provider, due, now);
        }
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
        let Some(of) = self.choose(&provider, now) else {
            return;
        };
        let Some(want) = self.wants.get_mut(&provider) else {
            return;
        };
        let old = want.place.replace(Place { of, due });
        self.unqueue(&provider, old);
        if let Some(queue) = self.queue_mut(of) {
            queue.insert((due, provider));
        }
    }

    fn unqueue(&mut self, provider: &PeerId, place: Option<Place>) {
        let Some(Place { of, due }) = place else {
            return;
        };
        if let Some(queue) = self.queue_mut(of) {
            queue.remove(&(due, *provider));
        }
    }

    fn queue_mut(&mut self, of: QueueOf) -> Option<&mut Queue> {
        match of {
            QueueOf::Strangers => Some(&mut self.strangers.queue),
            QueueOf::Own(peer) => self.sources.get_mut(&peer).map(|source| &mut source.own),
            QueueOf::Favours(peer) => {
                let source = self.sources.get_mut(&peer);
                source.map(|source| &mut source.favours)
            }
        }
    }

    /// First who announced it, then others, then the provider itself: it must not be asked by
    /// everyone at once.
    fn choose(&mut self, provider: &PeerId, now: Instant) -> Option<QueueOf> {
        let want = self.wants.get(provider)?;
        let (turn, forwarder) = (want.tries % 4, want.forwarder);
        if turn == 0 && self.answers(&forwarder, now) {
            return Some(QueueOf::Own(forwarder));
        }
        if turn == 3 && self.answers(provider, now) {
            return Some(QueueOf::Own(*provider));
        }
        let may_dial =
            self.strangers.queue.len() < limits::STRANGERS && !self.is_connected(provider);
        if turn == 3 && may_dial {
            return Some(QueueOf::Strangers);
        }
        let anybody = self.anybody(now).map(QueueOf::Favours);
        Some(anybody.unwrap_or(QueueOf::Strangers))
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.sources
            .get(peer)
            .is_some_and(|source| source.connected)
    }

    fn answers(&self, peer: &PeerId, now: Instant) -> bool {
        let source = self.sources.get(peer);
        source.is_some_and(|source| source.connected && !source.rests(now))
    }

    /// A connected peer, in turn. When all rest, the one whose rest ends first: better later than a
    /// dial by everyone.
    fn anybody(&mut self, now: Instant) -> Option<PeerId> {
        for _ in 0..self.turns.len() {
            self.picks = self.picks.wrapping_add(1);
            let place = self.picks.checked_rem(self.turns.len())?;
            if let Some(Some(peer)) = self.turns.get(place)
                && self.answers(peer, now)
            {
                return Some(*peer);
            }
        }
        let connected = self.sources.iter().filter(|(_, source)| source.connected);
        let first = connected.min_by_key(|(_, source)| source.rests_until);
        first.map(|(peer, _)| *peer)
    }
}

#[cfg(test)]
impl Wanted {
    /// Each want that waits is in just the queue that it names.
    pub(super) fn is_consistent(&self) -> bool {
        let queue = |of| match of {
            QueueOf::Strangers => Some(&self.strangers.queue),
            QueueOf::Own(peer) => self.sources.get(&peer).map(|source| &source.own),
            QueueOf::Favours(peer) => self.sources.get(&peer).map(|source| &source.favours),
        };
        let is_queued = |(provider, want): (&PeerId, &Want)| {
            want.place.is_none_or(|Place { of, due }| {
                queue(of).is_some_and(|queue| queue.contains(&(due, *provider)))
            })
        };
        let waiting = self.wants.values().filter(|want| want.place.is_some());
        let sources = self.sources.values();
        let queued: usize = sources.map(|it| it.own.len() + it.favours.len()).sum();
        let asking: usize = self.sources.values().map(|source| source.asking).sum();
        self.wants.iter().all(is_queued)
            && waiting.count() == queued + self.strangers.queue.len()
            && self.asking == asking + self.strangers.asking
    }
}

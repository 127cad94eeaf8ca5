//! The offer lists that announcements stand for: which are here, and from whom the others are
//! pulled next.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_wire::announce::{ListSummary, OfferListHash};
use derouter_wire::limits::{PULL_LISTS, PULL_RESPONSE_BYTES};
use libp2p::PeerId;

use super::Directory;
use crate::limits;

/// The pause before a list is asked for again, doubled with each try.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How often one list is asked for; the next announcement begins anew.
const TRIES: u32 = 9;
/// Wants that are looked at for one request.
const LOOKED_AT: usize = 1024;

/// What is known of a list.
#[derive(Debug)]
pub(super) enum ListState {
    /// The announcement takes everything back.
    None,
    /// It is here.
    Here(Arc<[u8]>),
    /// It is being pulled.
    Wanted,
    /// Nobody gave it.
    Missing,
    /// It would go beyond [`limits::LIST_BYTES_TOTAL`].
    NoRoom,
}

#[derive(Debug)]
struct Want {
    summary: ListSummary,
    /// Who gave us the announcement.
    forwarder: PeerId,
    tries: u32,
    /// When it is asked for next; `None` while it is being asked for.
    next: Option<Instant>,
}

/// The lists that are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wants: HashMap<PeerId, Want>,
    due: BTreeSet<(Instant, PeerId)>,
}

/// Lists to ask one peer for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PullPlan {
    /// Whom to ask.
    pub(crate) source: PeerId,
    /// Whose lists, and which.
    pub(crate) wants: Vec<(PeerId, ListSummary)>,
}

/// How asking for one list ended.
#[derive(Debug, Clone)]
pub(crate) enum PullOutcome {
    /// The list, checked.
    List(Arc<[u8]>),
    /// No list, for whatever reason.
    Nothing,
}

impl Wanted {
    pub(super) fn want(
        &mut self,
        peer: PeerId,
        summary: ListSummary,
        forwarder: PeerId,
        now: Instant,
    ) {
        self.forget(&peer);
        self.due.insert((now, peer));
        let want = Want {
            summary,
            forwarder,
            tries: 0,
            next: Some(now),
        };
        self.wants.insert(peer, want);
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        if let Some(want) = self.wants.remove(peer)
            && let Some(next) = want.next
        {
            self.due.remove(&(next, *peer));
        }
    }
}

impl Want {
    /// First who announced it, then anybody, then the provider itself: it must not be asked by
    /// everyone at once.
    fn source(&self, provider: PeerId, connected: &[PeerId], pick: usize) -> PeerId {
        let anybody = || {
            pick.checked_rem(connected.len())
                .and_then(|i| connected.get(i))
        };
        let is_there = connected.contains(&self.forwarder);
        match self.tries % 4 {
            0 | 1 if is_there => self.forwarder,
            3 => provider,
            _ => anybody().copied().unwrap_or(provider),
        }
    }

    fn pause(&self, jitter: f64) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.tries.min(16));
        doubled.min(LONGEST_PAUSE).mul_f64(0.75 + jitter / 2.0)
    }
}

impl Directory {
    /// When a list is to be asked for next.
    pub(crate) fn next_pull(&self) -> Option<Instant> {
        self.wanted.due.first().map(|(due, _)| *due)
    }

    /// The next lists to ask for, all of one peer. `connected` are peers that speak the protocol,
    /// `pick` is random.
    pub(crate) fn take_pull(
        &mut self,
        connected: &[PeerId],
        pick: usize,
        now: Instant,
    ) -> Option<PullPlan> {
        let mut plan: Option<PullPlan> = None;
        let mut bytes = 0_usize;
        let mut taken = Vec::new();
        for (due, provider) in self.wanted.due.iter().take(LOOKED_AT) {
            if *due > now {
                break;
            }
            let Some(want) = self.wanted.wants.get(provider) else {
                continue;
            };
            let source = want.source(*provider, connected, pick);
            let plan = plan.get_or_insert_with(|| PullPlan {
                source,
                wants: Vec::new(),
            });
            let more = usize::try_from(want.summary.bytes).unwrap_or(usize::MAX);
            let fits = bytes.saturating_add(more) <= PULL_RESPONSE_BYTES / 2 || bytes == 0;
            if plan.source != source || !fits {
                continue;
            }
            bytes = bytes.saturating_add(more);
            plan.wants.push((*provider, want.summary));
            taken.push((*due, *provider));
            if plan.wants.len() >= PULL_LISTS {
                break;
            }
        }
        for place in taken {
            self.wanted.due.remove(&place);
            if let Some(want) = self.wanted.wants.get_mut(&place.1) {
                want.next = None;
            }
        }
        plan
    }

    /// Notes how asking ended. True when the list is here now. `jitter` is from 0 to 1.
    pub(crate) fn pulled(
        &mut self,
        provider: &PeerId,
        hash: OfferListHash,
        outcome: PullOutcome,
        now: Instant,
        jitter: f64,
    ) -> bool {
        let Some(want) = self.wanted.wants.get_mut(provider) else {
            return false;
        };
        if want.summary.hash != hash {
            // Another list has been announced meanwhile.
            return false;
        }
        if let PullOutcome::List(list) = outcome {
            self.wanted.forget(provider);
            return self.put_list(provider, list);
        }
        want.tries += 1;
        if want.tries >= TRIES {
            self.wanted.forget(provider);
            self.set_list(provider, ListState::Missing);
            return false;
        }
        let next = now + want.pause(jitter);
        if let Some(old) = want.next.replace(next) {
            self.wanted.due.remove(&(old, *provider));
        }
        self.wanted.due.insert((next, *provider));
        false
    }

    fn put_list(&mut self, provider: &PeerId, list: Arc<[u8]>) -> bool {
        let total = self.list_bytes.saturating_add(list.len());
        if total > limits::LIST_BYTES_TOTAL {
            self.set_list(provider, ListState::NoRoom);
            return false;
        }
        self.list_bytes = total;
        self.set_list(provider, ListState::Here(list));
        true
    }

    fn set_list(&mut self, provider: &PeerId, list: ListState) {
        if let Some(entry) = self.entries.get_mut(provider) {
            entry.list = list;
        }
    }

    /// A list that is here.
    pub(crate) fn list(&self, provider: &PeerId, hash: &OfferListHash) -> Option<Arc<[u8]>> {
        let entry = self.entries.get(provider)?;
        match (&entry.list, entry.summary) {
            (ListState::Here(list), Some(summary)) if summary.hash == *hash => {
                Some(Arc::clone(list))
            }
            _ => None,
        }
    }
}

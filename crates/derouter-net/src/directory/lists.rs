//! The offer lists that announcements stand for: which are here, and what becomes of those that are
//! asked for.

use std::sync::Arc;
use std::time::Instant;

use derouter_wire::announce::{ListSummary, OfferListHash};
use libp2p::PeerId;

use super::shares::{Bringer, Origin};
use super::{Directory, Entry, PullEnd, PullPlan, ROOM_PART, ROOM_PAUSE};
use crate::address::Subnet;

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
    /// There is no room for it ([`crate::limits::LIST_BYTES_TOTAL`]), or no more.
    NoRoom,
}

impl ListState {
    /// Bytes of it that are here.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Here(list) => list.len(),
            _ => 0,
        }
    }

    /// Whether the announcement can be passed on: this node gives what it stands for.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::None | Self::Here(_))
    }

    /// Whether others are told that this node knows the announcement.
    pub(super) fn is_known(&self) -> bool {
        self.is_here() || matches!(self, Self::NoRoom)
    }
}

/// How asking for one list ended.
#[derive(Debug, Clone)]
pub(crate) enum PullOutcome {
    /// The list, checked.
    List(Arc<[u8]>),
    /// No list, for whatever reason.
    Nothing,
}

impl Directory {
    /// The peers that are connected and speak the protocol, and the networks that they are in.
    pub(crate) fn set_connected(&mut self, peers: &[(PeerId, Option<Subnet>)], now: Instant) {
        let in_networks = peers.iter();
        let in_networks = in_networks.filter_map(|(peer, network)| Some((*peer, (*network)?)));
        self.networks = in_networks.collect();
        let peers: Vec<PeerId> = peers.iter().map(|(peer, _)| *peer).collect();
        self.wanted.set_connected(&peers, now);
    }

    /// When a list is to be asked for next.
    pub(crate) fn next_pull(&self, now: Instant) -> Option<Instant> {
        self.wanted.next(now)
    }

    /// The next lists to ask for, all of one peer.
    pub(crate) fn take_pull(&mut self, now: Instant) -> Option<PullPlan> {
        self.wanted.take(now)
    }

    /// Asking a peer has ended, with one outcome for each list that was asked for. Gives whose lists
    /// are here now. `jitter` is from 0 to 1.
    pub(crate) fn pull_ended(
        &mut self,
        end: PullEnd,
        outcomes: Vec<(PeerId, OfferListHash, PullOutcome)>,
        now: Instant,
        jitter: f64,
    ) -> Vec<PeerId> {
        // First, so that what did not come is not asked of a peer that has just failed.
        self.wanted.ended(end, now);
        let outcomes = outcomes.into_iter();
        let here = outcomes.filter_map(|(provider, hash, outcome)| {
            let here = self.pulled(&provider, hash, outcome, now, jitter);
            here.then_some(provider)
        });
        here.collect()
    }

    pub(super) fn pulled(
        &mut self,
        provider: &PeerId,
        hash: OfferListHash,
        outcome: PullOutcome,
        now: Instant,
        jitter: f64,
    ) -> bool {
        if self.wanted.hash(provider) != Some(hash) {
            // Another list has been announced meanwhile.
            return false;
        }
        if let PullOutcome::List(list) = outcome {
            self.wanted.forget(provider);
            return self.put_list(provider, list, now);
        }
        if !self.wanted.again(provider, now, jitter) {
            self.set_list(provider, ListState::Missing);
        }
        false
    }

    fn put_list(&mut self, provider: &PeerId, list: Arc<[u8]>, now: Instant) -> bool {
        let Some(bringer) = self.entries.get(provider).map(|entry| entry.bringer) else {
            return false;
        };
        if !self.has_room_for(list.len(), bringer, now) {
            self.set_list(provider, ListState::NoRoom);
            return false;
        }
        self.set_list(provider, ListState::Here(list));
        true
    }

    fn set_list(&mut self, provider: &PeerId, list: ListState) {
        let Some(entry) = self.entries.get_mut(provider) else {
            return;
        };
        let (came, went) = (list.bytes(), entry.list.bytes());
        entry.list = list;
        let bringer = entry.bringer;
        self.count_list_bytes(bringer, came, went);
    }

    pub(super) fn count_list_bytes(&mut self, bringer: Bringer, came: usize, went: usize) {
        self.list_bytes = self.list_bytes.saturating_add(came).saturating_sub(went);
        self.shares.change_list_bytes(bringer, came, went);
    }

    /// Whether there is room for a list of so many bytes that this peer brings. Where there is
    /// none, whoever brought more makes some: its largest lists go.
    fn has_room_for(&mut self, bytes: usize, bringer: Bringer, now: Instant) -> bool {
        if self.fits(bytes) {
            return true;
        }
        if self.next_list_room.is_some_and(|next| next > now) {
            return false;
        }
        let Some((largest, share)) = self.shares.largest(|share| share.list_bytes) else {
            return false;
        };
        let own = self.shares.origin(bringer);
        let own = own.map_or(0, |origin| self.shares.of(origin).list_bytes);
        let room = (self.room.list_bytes / ROOM_PART).max(bytes);
        // Not below the share of who takes the room.
        if share.list_bytes < own.saturating_add(bytes).saturating_add(room) {
            return false;
        }
        self.next_list_room = Some(now + ROOM_PAUSE);
        self.drop_largest_lists(largest, room);
        self.fits(bytes)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.list_bytes.saturating_add(bytes) <= self.room.list_bytes
    }

    fn drop_largest_lists(&mut self, origin: Origin, room: usize) {
        let is_there = |(_, entry): &(&PeerId, &Entry)| entry.list.bytes() > 0;
        let mut lists: Vec<(usize, PeerId)> = self
            .brought_by(origin)
            .filter(is_there)
            .map(|(peer, entry)| (entry.list.bytes(), *peer))
            .collect();
        lists.sort_unstable();
        let mut made = 0_usize;
        while let Some((bytes, provider)) = lists.pop()
            && made < room
        {
            made = made.saturating_add(bytes);
            self.set_list(&provider, ListState::NoRoom);
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

    /// What is known of the list when its announcement comes in. `held`: the list that is here.
    pub(super) fn list_state(
        &mut self,
        summary: Option<ListSummary>,
        held: Option<(ListSummary, Arc<[u8]>)>,
        forwarder: PeerId,
        bringer: Bringer,
        provider: PeerId,
        now: Instant,
    ) -> ListState {
        let bytes = |summary: ListSummary| usize::try_from(summary.bytes).unwrap_or(usize::MAX);
        let state = match (summary, held) {
            (None, _) => ListState::None,
            (Some(summary), Some((known, list))) if known == summary => ListState::Here(list),
            (Some(summary), _) if self.has_room_for(bytes(summary), bringer, now) => {
                self.wanted.want(provider, summary, forwarder, now);
                return ListState::Wanted;
            }
            (Some(_), _) => ListState::NoRoom,
        };
        self.wanted.forget(&provider);
        state
    }
}

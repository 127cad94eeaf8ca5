//! The offer lists that announcements stand for: which are here, and what becomes of those that are
//! asked for.

use std::sync::Arc;
use std::time::Instant;

use derouter_wire::announce::{ListSummary, OfferListHash};
use libp2p::PeerId;

use super::shares::Bringer;
use super::{Directory, PullPlan, ROOM_PART, ROOM_PAUSE};

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
    /// It would go beyond [`crate::limits::LIST_BYTES_TOTAL`].
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

    /// Whether nothing is left to pull.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::None | Self::Here(_))
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
    /// The peers that can be asked for lists.
    pub(crate) fn set_connected(&mut self, peers: &[PeerId], now: Instant) {
        self.wanted.set_connected(peers, now);
    }

    /// When a list is to be asked for next.
    pub(crate) fn next_pull(&self, now: Instant) -> Option<Instant> {
        self.wanted.next(now)
    }

    /// The next lists to ask for, all of one peer.
    pub(crate) fn take_pull(&mut self, now: Instant) -> Option<PullPlan> {
        self.wanted.take(now)
    }

    /// Notes that asking a peer, by a plan for it, has ended; `failed` when it did not answer.
    pub(crate) fn asked(&mut self, peer: PeerId, stranger: bool, failed: bool, now: Instant) {
        self.wanted.asked(peer, stranger, failed, now);
    }

    /// Notes how asking for one list ended. True when the list is here now. `jitter` is from 0 to 1.
    pub(crate) fn pulled(
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
        self.next_list_room = Some(now + ROOM_PAUSE);
        let Some((largest, share)) = self.shares.largest(|share| share.list_bytes) else {
            return false;
        };
        let own = self.shares.get(bringer).map_or(0, |own| own.list_bytes);
        let room = (self.room.list_bytes / ROOM_PART).max(bytes);
        // Not below the share of who takes the room.
        if share.list_bytes < own.saturating_add(bytes).saturating_add(room) {
            return false;
        }
        self.drop_largest_lists(largest, room);
        self.fits(bytes)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.list_bytes.saturating_add(bytes) <= self.room.list_bytes
    }

    fn drop_largest_lists(&mut self, bringer: Bringer, room: usize) {
        let local = self.local;
        let of_bringer = self.entries.iter().filter(|(peer, entry)| {
            entry.bringer == bringer && entry.list.bytes() > 0 && **peer != local
        });
        let mut lists: Vec<(usize, PeerId)> = of_bringer
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
        let Some(summary) = summary else {
            return ListState::None;
        };
        if let Some((known, list)) = held
            && known == summary
        {
            return ListState::Here(list);
        }
        let bytes = usize::try_from(summary.bytes).unwrap_or(usize::MAX);
        if !self.has_room_for(bytes, bringer, now) {
            return ListState::NoRoom;
        }
        self.wanted.want(provider, summary, forwarder, now);
        ListState::Wanted
    }
}

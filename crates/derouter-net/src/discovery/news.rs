//! Providers of whom the node has yet to be told. Bounded by the directory: each waits once, and
//! what it is told is what is known when its turn comes.

use std::collections::{HashSet, VecDeque};

use libp2p::PeerId;

#[derive(Debug, Default)]
pub(super) struct News {
    queue: VecDeque<PeerId>,
    waiting: HashSet<PeerId>,
}

impl News {
    pub(super) fn add(&mut self, provider: PeerId) {
        if self.waiting.insert(provider) {
            self.queue.push_back(provider);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<PeerId> {
        let next = self.queue.pop_front()?;
        self.waiting.remove(&next);
        Some(next)
    }
}

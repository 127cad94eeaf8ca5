//! Which consumers are served at all. Pure.

use std::collections::HashSet;

use derouter_sdk::PeerId;

/// Which consumers are served. Empty lists mean everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerLists {
    /// Only these, unless there are none.
    pub allow: HashSet<PeerId>,
    /// None of these, whatever `allow` says.
    pub block: HashSet<PeerId>,
}

impl ConsumerLists {
    /// Whether a consumer is served. One that the node does not name (RPC 0.1) is served unless only
    /// some are.
    pub(super) fn lets_in(&self, consumer: Option<PeerId>) -> bool {
        match consumer {
            Some(consumer) if self.block.contains(&consumer) => false,
            Some(consumer) => self.allow.is_empty() || self.allow.contains(&consumer),
            None => self.allow.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_consumer_is_out_even_where_it_is_allowed() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let nobody = ConsumerLists::default();
        assert!(nobody.lets_in(Some(a)) && nobody.lets_in(None));
        let block = HashSet::from([a]);
        let lists = ConsumerLists {
            block: block.clone(),
            ..ConsumerLists::default()
        };
        assert!(!lists.lets_in(Some(a)) && lists.lets_in(Some(b)) && lists.lets_in(None));
        let allow = HashSet::from([a, b]);
        let lists = ConsumerLists { allow, block };
        assert!(!lists.lets_in(Some(a)) && lists.lets_in(Some(b)));
        assert!(!lists.lets_in(Some(PeerId::random())) && !lists.lets_in(None));
    }
}

//! What consumers owe a provider without having signed for it yet.

use std::collections::HashMap;

use derouter_wire::{PeerId, Wei};

/// Unsigned debts by consumer. Derived from the jobs; rebuilt from them at start.
#[derive(Debug, Default)]
pub struct CreditBook {
    unsigned: HashMap<PeerId, Wei>,
}

impl CreditBook {
    /// A job of this consumer was completed and awaits its signature.
    pub fn owes(&mut self, consumer: PeerId, amount: Wei) {
        if amount.is_zero() {
            return;
        }
        let debt = self.unsigned.entry(consumer).or_default();
        *debt = debt.saturating_add(amount);
    }

    /// The consumer's signature for such a job came in.
    pub fn signed(&mut self, consumer: &PeerId, amount: Wei) {
        let Some(debt) = self.unsigned.get_mut(consumer) else {
            return;
        };
        *debt = debt.saturating_sub(amount);
        if debt.is_zero() {
            self.unsigned.remove(consumer);
        }
    }

    /// What this consumer owes unsigned.
    pub fn unsigned(&self, consumer: &PeerId) -> Wei {
        self.unsigned.get(consumer).copied().unwrap_or_default()
    }

    /// Whether a consumer may have another job under a limit. One that owes exactly the limit may
    /// not; a limit of zero lets only those in who owe nothing.
    pub fn allows(&self, consumer: &PeerId, limit: Option<Wei>) -> bool {
        let debt = self.unsigned(consumer);
        limit.is_none_or(|limit| debt < limit || debt.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_over_the_limit_waits_until_it_signs() {
        let mut book = CreditBook::default();
        let consumer = PeerId::random();
        let limit = Some(Wei::from_wei(100));
        assert!(book.allows(&consumer, limit));
        book.owes(consumer, Wei::from_wei(60));
        assert!(book.allows(&consumer, limit));
        book.owes(consumer, Wei::from_wei(60));
        assert!(!book.allows(&consumer, limit));
        assert!(
            book.allows(&PeerId::random(), limit),
            "others are not concerned"
        );
        assert!(book.allows(&consumer, None));
        book.signed(&consumer, Wei::from_wei(60));
        assert!(book.allows(&consumer, limit));
        book.signed(&consumer, Wei::from_wei(60));
        assert_eq!(book.unsigned(&consumer), Wei::ZERO);
    }

    #[test]
    fn debts_saturate_in_place_of_wrapping() {
        let mut book = CreditBook::default();
        let consumer = PeerId::random();
        book.owes(consumer, Wei::MAX);
        book.owes(consumer, Wei::MAX);
        assert_eq!(book.unsigned(&consumer), Wei::MAX);
    }
}

//! Who of those that wait gets the next slot of an offer. Pure.
//!
//! Consumers take turns: each free slot goes to the next consumer in the round, whatever the number of
//! requests that it has waiting. A full queue makes room for a consumer with fewer requests in it than
//! another one has, at the cost of that one's latest, so that nobody fills it for all others.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// How much there is to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Requests that are served at a time.
    pub(super) slots: usize,
    /// Of these for one consumer.
    pub(super) per_consumer: usize,
    /// Requests that wait for a slot.
    pub(super) queue: usize,
}

/// A request, as its asker knows it.
pub(super) type Ticket = u64;

/// What became of a request for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It has a slot.
    Served,
    /// It waits.
    Waits,
    /// It waits in the place of another one, which has to go.
    Displaces(Ticket),
    /// There is no room.
    Full,
}

/// The slots of an offer and who waits for one. `C` is a consumer.
#[derive(Debug)]
pub(super) struct Queue<C> {
    places: Places,
    served: usize,
    waiting: usize,
    /// Served requests of each consumer; none is zero.
    running: HashMap<C, usize>,
    /// Those who wait, in the order in which it is their turn; none is empty.
    round: VecDeque<Waiting<C>>,
    /// Who is not held to `per_consumer`.
    unlimited: Option<C>,
}

#[derive(Debug)]
struct Waiting<C> {
    consumer: C,
    tickets: VecDeque<Ticket>,
}

impl<C: Clone + Eq + Hash> Queue<C> {
    pub(super) fn new(places: Places, unlimited: Option<C>) -> Self {
        Self {
            unlimited,
            places,
            served: 0,
            waiting: 0,
            running: HashMap::new(),
            round: VecDeque::new(),
        }
    }

    /// Whether the next consumer would be refused.
    pub(super) fn is_full(&self) -> bool {
        self.served >= self.places.slots && self.waiting >= self.places.queue
    }

    /// The share of the slots that are taken, from 0 to 1.
    pub(super) fn taken(&self) -> f64 {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        number(self.served) / number(self.places.slots.max(1))
    }

    /// A consumer asks for a slot.
    pub(super) fn ask(&mut self, consumer: &C, ticket: Ticket) -> Asked {
        // Nobody who waits could run: each slot is passed on as soon as it is free.
        if self.may_run(consumer) {
            self.run(consumer.clone());
            return Asked::Served;
        }
        if self.waiting < self.places.queue {
            self.wait(consumer, ticket);
            return Asked::Waits;
        }
        match self.displaced_by(consumer) {
            Some(displaced) => {
                self.wait(consumer, ticket);
                Asked::Displaces(displaced)
            }
            None => Asked::Full,
        }
    }

    /// A request does not wait any more. `false` when it did not wait.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        for position in 0..self.round.len() {
            let Some(waiting) = self.round.get_mut(position) else {
                return false;
            };
            let before = waiting.tickets.len();
            waiting.tickets.retain(|other| *other != ticket);
            if waiting.tickets.len() < before {
                self.waiting = self.waiting.saturating_sub(1);
                self.drop_if_empty(position);
                return true;
            }
        }
        false
    }

    /// A consumer's slot is free again: who has one now.
    pub(super) fn release(&mut self, consumer: &C) -> Option<Ticket> {
        self.served = self.served.saturating_sub(1);
        if let Some(running) = self.running.get_mut(consumer) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(consumer);
            }
        }
        self.next()
    }

    /// Serves the next one in the round that may run.
    fn next(&mut self) -> Option<Ticket> {
        let position = (0..self.round.len()).find(|position| {
            let waiting = self.round.get(*position);
            waiting.is_some_and(|waiting| self.may_run(&waiting.consumer))
        })?;
        let mut waiting = self.round.remove(position)?;
        let ticket = waiting.tickets.pop_front()?;
        self.waiting = self.waiting.saturating_sub(1);
        self.run(waiting.consumer.clone());
        if !waiting.tickets.is_empty() {
            // Behind all others: it had its turn.
            self.round.push_back(waiting);
        }
        Some(ticket)
    }

    fn may_run(&self, consumer: &C) -> bool {
        let running = self.running.get(consumer).copied().unwrap_or(0);
        let unlimited = self.unlimited.as_ref() == Some(consumer);
        self.served < self.places.slots && (unlimited || running < self.places.per_consumer)
    }

    fn run(&mut self, consumer: C) {
        self.served = self.served.saturating_add(1);
        let running = self.running.entry(consumer).or_insert(0);
        *running = running.saturating_add(1);
    }

    fn wait(&mut self, consumer: &C, ticket: Ticket) {
        self.waiting = self.waiting.saturating_add(1);
        let known = self
            .round
            .iter_mut()
            .find(|other| other.consumer == *consumer);
        match known {
            Some(waiting) => waiting.tickets.push_back(ticket),
            None => self.round.push_back(Waiting {
                consumer: consumer.clone(),
                tickets: VecDeque::from([ticket]),
            }),
        }
    }

    /// Takes out the latest request of whoever has most waiting, if that is more than this consumer
    /// will have.
    fn displaced_by(&mut self, consumer: &C) -> Option<Ticket> {
        let own = self
            .round
            .iter()
            .find(|other| other.consumer == *consumer)
            .map_or(0, |waiting| waiting.tickets.len());
        let lengths = self.round.iter().map(|other| other.tickets.len());
        let (position, most) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        if most <= own.saturating_add(1) {
            return None;
        }
        let displaced = self.round.get_mut(position)?.tickets.pop_back()?;
        self.waiting = self.waiting.saturating_sub(1);
        self.drop_if_empty(position);
        Some(displaced)
    }

    fn drop_if_empty(&mut self, position: usize) {
        let empty = self
            .round
            .get(position)
            .is_some_and(|waiting| waiting.tickets.is_empty());
        if empty {
            self.round.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(slots: usize, per_consumer: usize, queue: usize) -> Queue<char> {
        let places = Places {
            slots,
            per_consumer,
            queue,
        };
        Queue::new(places, None)
    }

    #[test]
    fn without_a_queue_the_next_one_is_refused() {
        let mut queue = queue(1, 9, 0);
        assert_eq!(queue.ask(&'a', 1), Asked::Served);
        assert!(queue.is_full());
        assert_eq!(queue.ask(&'b', 2), Asked::Full);
        assert_eq!(queue.release(&'a'), None);
        assert_eq!(queue.ask(&'b', 3), Asked::Served);
    }

    #[test]
    fn a_consumer_with_many_requests_does_not_starve_another() {
        let mut queue = queue(1, 9, 100);
        assert_eq!(queue.ask(&'a', 0), Asked::Served);
        for ticket in 1..=50 {
            assert_eq!(queue.ask(&'a', ticket), Asked::Waits);
        }
        assert_eq!(queue.ask(&'b', 51), Asked::Waits);
        assert_eq!(queue.ask(&'b', 52), Asked::Waits);
        let order = [1, 51, 2, 52, 3, 4];
        let mut running = 'a';
        for expected in order {
            assert_eq!(queue.release(&running), Some(expected));
            running = if expected > 50 { 'b' } else { 'a' };
        }
    }

    #[test]
    fn a_full_queue_makes_room_for_who_has_less_in_it() {
        let mut queue = queue(1, 9, 3);
        queue.ask(&'a', 0);
        for ticket in 1..=3 {
            assert_eq!(queue.ask(&'a', ticket), Asked::Waits);
        }
        assert_eq!(queue.ask(&'a', 4), Asked::Full);
        assert_eq!(queue.ask(&'b', 5), Asked::Displaces(3));
        // Two against one is as fair as it gets.
        assert_eq!(queue.ask(&'b', 6), Asked::Full);
        assert_eq!(queue.ask(&'c', 7), Asked::Displaces(2));
        assert_eq!(queue.ask(&'d', 8), Asked::Full);
    }

    #[test]
    fn a_consumer_at_its_own_limit_waits_and_others_pass_it() {
        let mut queue = queue(2, 1, 4);
        assert_eq!(queue.ask(&'a', 0), Asked::Served);
        assert_eq!(queue.ask(&'a', 1), Asked::Waits);
        assert_eq!(queue.ask(&'b', 2), Asked::Served);
        assert_eq!(queue.release(&'b'), None);
        assert_eq!(queue.release(&'a'), Some(1));
    }

    #[test]
    fn who_leaves_is_not_served() {
        let mut queue = queue(1, 9, 4);
        queue.ask(&'a', 0);
        queue.ask(&'b', 1);
        queue.ask(&'c', 2);
        assert!(queue.leave(1));
        assert!(!queue.leave(1) && !queue.leave(0));
        assert_eq!(queue.release(&'a'), Some(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn limits_hold_and_no_slot_is_idle_while_somebody_could_have_it(
            steps in prop::collection::vec((0_u8..3, 0_usize..4, any::<prop::sample::Index>()), 1..200)
        ) {
            let places = Places { slots: 3, per_consumer: 2, queue: 5 };
            let mut queue = Queue::new(places, None);
            let mut running: Vec<(Ticket, usize)> = Vec::new();
            let mut waiting: Vec<(Ticket, usize)> = Vec::new();
            for (ticket, (step, consumer, index)) in (0..).zip(steps) {
                match step {
                    0 => match queue.ask(&consumer, ticket) {
                        Asked::Served => running.push((ticket, consumer)),
                        Asked::Waits => waiting.push((ticket, consumer)),
                        Asked::Displaces(gone) => {
                            waiting.retain(|(other, _)| *other != gone);
                            waiting.push((ticket, consumer));
                        }
                        Asked::Full => {}
                    },
                    1 if !running.is_empty() => {
                        let (_, consumer) = running.remove(index.index(running.len()));
                        if let Some(next) = queue.release(&consumer) {
                            let at = waiting.iter().position(|(other, _)| *other == next).unwrap();
                            running.push(waiting.remove(at));
                        }
                    }
                    2 if !waiting.is_empty() => {
                        let (ticket, _) = waiting.remove(index.index(waiting.len()));
                        prop_assert!(queue.leave(ticket));
                    }
                    _ => {}
                }
                let of = |consumer: usize| running.iter().filter(|(_, other)| *other == consumer).count();
                prop_assert!(running.len() <= places.slots && waiting.len() <= places.queue);
                prop_assert!((0..4).all(|consumer| of(consumer) <= places.per_consumer));
                let could_run = |consumer: usize| running.len() < places.slots && of(consumer) < places.per_consumer;
                prop_assert!(!waiting.iter().any(|(_, consumer)| could_run(*consumer)));
                prop_assert_eq!(queue.is_full(), running.len() >= 3 && waiting.len() >= 5);
            }
        }
    }
}

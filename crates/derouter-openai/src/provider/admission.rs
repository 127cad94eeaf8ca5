//! Who may have a job now: the one owner of slots, queues, rates and lists of consumers, shared by all
//! protocols and offers of a provider.
//!
//! A request waits for its slot inside the node's question whether the job is taken
//! (`ProviderService::accept`), not behind it. So a consumer that waits has no job yet: when it is told
//! Busy it goes to another provider at once, and nothing has to be failed. The node waits 8 s for the answer, and
//! its asker 10 s, so a request waits [`MAX_QUEUE_TIME`] at most.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::{JobRefusal, PeerId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::blocklist::ConsumerLists;
use super::queue::{Asked, Places, Queue, Ticket};
use super::rates::{RateLimits, Rates, TooFast};

/// The longest that a request can wait for a slot: the node has to be answered within 8 s.
pub const MAX_QUEUE_TIME: Duration = Duration::from_secs(6);

/// Who asks; `None` when the node does not say (RPC 0.1). All of those share one place in the round.
pub(super) type Consumer = Option<PeerId>;

/// Which consumers are served, and how much of it they get.
pub(super) struct Admission {
    lists: ConsumerLists,
    rates: Mutex<Rates<PeerId>>,
}

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This consumer is not served.
    Blocked,
    /// It has asked for too much lately.
    TooFast(TooFast),
    /// All slots are taken, and the queue is full.
    Full,
    /// It has waited for as long as one may.
    Waited,
    /// Its place in the queue went to a consumer with fewer requests in it.
    Displaced,
}

impl Refusal {
    /// What the consumer is told.
    pub(super) fn answer(self) -> JobRefusal {
        match self {
            Self::Blocked => {
                JobRefusal::InvalidJobArgs("this provider does not serve this consumer".to_owned())
            }
            Self::TooFast(_) | Self::Full | Self::Waited | Self::Displaced => JobRefusal::Busy,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "the configuration does not let it in",
            Self::TooFast(TooFast::Requests) => "it is over requests_per_minute",
            Self::TooFast(TooFast::Tokens) => "it is over tokens_per_minute",
            Self::Full => "all slots of the offer are taken",
            Self::Waited => "no slot of the offer became free in time",
            Self::Displaced => "its place in the queue went to a consumer that asks for less",
        })
    }
}

impl Admission {
    pub(super) fn new(lists: ConsumerLists, limits: RateLimits) -> Self {
        Self {
            lists,
            rates: Mutex::new(Rates::new(limits)),
        }
    }

    /// Whether a consumer is served at all. Cheap: to be asked before its request is read.
    pub(super) fn lets_in(&self, consumer: Consumer) -> Result<(), Refusal> {
        if self.lists.lets_in(consumer) {
            Ok(())
        } else {
            Err(Refusal::Blocked)
        }
    }

    /// Waits for a slot of an offer. The slot is free again when the result is dropped. May be dropped
    /// while it waits.
    pub(super) async fn admit(
        &self,
        consumer: Consumer,
        lane: &Arc<Lane>,
    ) -> Result<Slot, Refusal> {
        self.lets_in(consumer)?;
        if let Some(consumer) = &consumer {
            let checked = self.rates().check(consumer, Instant::now());
            checked.map_err(Refusal::TooFast)?;
        }
        let slot = lane.slot(consumer).await?;
        if let Some(consumer) = &consumer {
            // Only now: who is told Busy has used up nothing.
            let taken = self.rates().take(consumer, Instant::now());
            taken.map_err(Refusal::TooFast)?;
        }
        Ok(slot)
    }

    /// A consumer has had an answer of so many tokens.
    pub(super) fn served(&self, consumer: Consumer, tokens: u64) {
        if let Some(consumer) = &consumer {
            self.rates().charge(consumer, tokens, Instant::now());
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates<PeerId>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots of an offer. Several protocols that sell one offer share its lane.
pub(super) struct Lane {
    state: Mutex<State>,
    queue_time: Duration,
}

struct State {
    queue: Queue<Consumer>,
    next: Ticket,
    /// Who waits, to be told: `true` for a slot, `false` for none.
    waiting: HashMap<Ticket, oneshot::Sender<bool>>,
}

impl Lane {
    pub(super) fn new(places: Places, queue_time: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                // Consumers without a name are not one consumer.
                queue: Queue::new(places, Some(None)),
                next: 0,
                waiting: HashMap::new(),
            }),
            queue_time: queue_time.min(MAX_QUEUE_TIME),
        }
    }

    /// Whether the next consumer would be refused.
    pub(super) fn is_full(&self) -> bool {
        self.lock().queue.is_full()
    }

    /// The share of the slots that are taken, from 0 to 1.
    pub(super) fn taken(&self) -> f64 {
        self.lock().queue.taken()
    }

    async fn slot(self: &Arc<Self>, consumer: Consumer) -> Result<Slot, Refusal> {
        let (ticket, told) = match self.ask(consumer) {
            Place::Slot => return Ok(self.taken_by(consumer)),
            Place::None => return Err(Refusal::Full),
            Place::Waits(ticket, told) => (ticket, told),
        };
        let mut waiter = Waiter {
            lane: self,
            consumer,
            ticket,
            told,
            done: false,
        };
        match timeout(self.queue_time, &mut waiter.told).await {
            Ok(told) => {
                waiter.done = true;
                match told {
                    Ok(true) => Ok(self.taken_by(consumer)),
                    _ => Err(Refusal::Displaced),
                }
            }
            Err(_) => Err(Refusal::Waited),
        }
    }

    fn taken_by(self: &Arc<Self>, consumer: Consumer) -> Slot {
        Slot {
            lane: Arc::clone(self),
            consumer,
        }
    }

    fn ask(&self, consumer: Consumer) -> Place {
        let mut state = self.lock();
        let ticket = state.next;
        state.next = ticket.wrapping_add(1);
        match state.queue.ask(&consumer, ticket) {
            Asked::Served => return Place::Slot,
            Asked::Full => return Place::None,
            Asked::Waits => {}
            Asked::Displaces(other) => state.tell(other, false),
        }
        let (tell, told) = oneshot::channel();
        state.waiting.insert(ticket, tell);
        Place::Waits(ticket, told)
    }

    fn release(&self, consumer: Consumer) {
        let mut state = self.lock();
        if let Some(next) = state.queue.release(&consumer) {
            state.tell(next, true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a lane has for a request.
enum Place {
    Slot,
    None,
    /// Told `true` for a slot, `false` for none.
    Waits(Ticket, oneshot::Receiver<bool>),
}

impl State {
    fn tell(&mut self, ticket: Ticket, slot: bool) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // Who has gone away meanwhile gives the slot back: see `Waiter`.
            let _ = waiting.send(slot);
        }
    }
}

/// A request that waits. Dropped before it has its slot, it waits no more, and passes on a slot that it
/// was given in that moment.
struct Waiter<'a> {
    lane: &'a Lane,
    consumer: Consumer,
    ticket: Ticket,
    told: oneshot::Receiver<bool>,
    done: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let waited = {
            let mut state = self.lane.lock();
            state.queue.leave(self.ticket);
            state.waiting.remove(&self.ticket).is_some()
        };
        if !waited && self.told.try_recv() == Ok(true) {
            self.lane.release(self.consumer);
        }
    }
}

/// A slot of an offer, taken.
pub(super) struct Slot {
    lane: Arc<Lane>,
    consumer: Consumer,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.lane.release(self.consumer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(slots: usize, queue: usize, queue_time: Duration) -> Arc<Lane> {
        let places = Places {
            slots,
            per_consumer: slots,
            queue,
        };
        Arc::new(Lane::new(places, queue_time))
    }

    fn open() -> Arc<Admission> {
        let admission = Admission::new(ConsumerLists::default(), RateLimits::default());
        Arc::new(admission)
    }

    fn refused(admitted: Result<Slot, Refusal>) -> Refusal {
        admitted.err().expect("refused")
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_slot_and_no_longer_than_it_may() {
        let (admission, lane) = (open(), lane(1, 1, Duration::from_secs(4)));
        let (a, b) = (Some(PeerId::random()), Some(PeerId::random()));
        let first = admission.admit(a, &lane).await.ok().unwrap();
        let begin = Instant::now();
        assert_eq!(refused(admission.admit(b, &lane).await), Refusal::Waited);
        assert_eq!(begin.elapsed(), Duration::from_secs(4));
        assert!(!lane.is_full(), "it waits no more");

        let (waits, lane_of) = (Arc::clone(&admission), Arc::clone(&lane));
        let second = tokio::spawn(async move { waits.admit(b, &lane_of).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(lane.is_full());
        assert_eq!(refused(admission.admit(b, &lane).await), Refusal::Full);
        drop(first);
        let second = second.await.unwrap().ok().unwrap();
        assert_eq!(refused(admission.admit(a, &lane).await), Refusal::Waited);
        drop(second);
        assert!(admission.admit(a, &lane).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_it_waits_takes_no_slot_along() {
        let (admission, lane) = (open(), lane(1, 4, MAX_QUEUE_TIME));
        let consumer = Some(PeerId::random());
        let first = admission.admit(consumer, &lane).await.ok().unwrap();
        let mut gone = Box::pin(admission.admit(consumer, &lane));
        assert!(futures::poll!(gone.as_mut()).is_pending());
        let mut given = Box::pin(admission.admit(consumer, &lane));
        assert!(futures::poll!(given.as_mut()).is_pending());
        drop(gone);
        // The slot is on its way to a request that nobody looks at any more.
        drop(first);
        drop(given);
        assert!(admission.admit(None, &lane).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_less_takes_the_place_of_who_fills_the_queue() {
        let (admission, lane) = (open(), lane(1, 2, MAX_QUEUE_TIME));
        let (many, few) = (Some(PeerId::random()), Some(PeerId::random()));
        let first = admission.admit(many, &lane).await.ok().unwrap();
        let mut waiting: Vec<_> = (0..2)
            .map(|_| Box::pin(admission.admit(many, &lane)))
            .collect();
        for request in &mut waiting {
            assert!(futures::poll!(request.as_mut()).is_pending());
        }
        let mut other = Box::pin(admission.admit(few, &lane));
        assert!(futures::poll!(other.as_mut()).is_pending());
        let displaced = waiting.pop().unwrap().await;
        assert_eq!(refused(displaced), Refusal::Displaced);
        drop(first);
        drop(waiting.pop().unwrap().await.ok().unwrap());
        assert!(other.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn consumers_that_are_not_named_are_not_one_consumer() {
        let places = Places {
            slots: 4,
            per_consumer: 1,
            queue: 0,
        };
        let (admission, lane) = (open(), Arc::new(Lane::new(places, Duration::ZERO)));
        let one = Some(PeerId::random());
        let _first = admission.admit(one, &lane).await.ok().unwrap();
        assert_eq!(refused(admission.admit(one, &lane).await), Refusal::Full);
        let _second = admission.admit(None, &lane).await.ok().unwrap();
        let _third = admission.admit(None, &lane).await.ok().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_consumer_is_told_so_and_a_hasty_one_that_it_is_too_early() {
        let (blocked, hasty) = (PeerId::random(), PeerId::random());
        let lists = ConsumerLists {
            block: [blocked].into(),
            ..ConsumerLists::default()
        };
        let limits = RateLimits {
            requests_per_minute: Some(1),
            tokens_per_minute: Some(100),
        };
        let admission = Admission::new(lists, limits);
        let lane = lane(4, 0, Duration::ZERO);
        let refusal = refused(admission.admit(Some(blocked), &lane).await);
        let answer =
            JobRefusal::InvalidJobArgs("this provider does not serve this consumer".to_owned());
        assert_eq!(refusal.answer(), answer);
        drop(admission.admit(Some(hasty), &lane).await.ok().unwrap());
        let refusal = refused(admission.admit(Some(hasty), &lane).await);
        assert_eq!(refusal, Refusal::TooFast(TooFast::Requests));
        assert_eq!(refusal.answer(), JobRefusal::Busy);
        tokio::time::advance(Duration::from_secs(60)).await;
        admission.served(Some(hasty), 150);
        let refusal = refused(admission.admit(Some(hasty), &lane).await);
        assert_eq!(refusal, Refusal::TooFast(TooFast::Tokens));
        assert!(admission.admit(None, &lane).await.is_ok());
    }
}

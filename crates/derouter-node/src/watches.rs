//! Watches in process: the full state first, then events, and the full state again for whoever fell
//! too far behind.

use std::sync::Arc;

use derouter_market::OfferChange;
use derouter_sdk::{JobEvent, JobFilter, OfferEvent, OfferFilter, ProviderEvent, Watch};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use crate::shared::{NodeEvent, Shared};

/// Events that wait in one watch before its feeder waits too.
const WATCH_QUEUE: usize = 64;

/// What a kind of watch makes of the state and of events.
trait Feed: Send + 'static {
    type Event: Send;
    fn reset(&self, shared: &Shared) -> Self::Event;
    fn translate(&self, event: NodeEvent) -> Option<Self::Event>;
}

struct Offers(OfferFilter);
struct Providers;
struct Jobs(JobFilter);

pub(crate) fn offers(shared: &Arc<Shared>, filter: OfferFilter) -> Watch<OfferEvent> {
    start(shared, Offers(filter))
}

pub(crate) fn providers(shared: &Arc<Shared>) -> Watch<ProviderEvent> {
    start(shared, Providers)
}

pub(crate) fn jobs(shared: &Arc<Shared>, filter: JobFilter) -> Watch<JobEvent> {
    start(shared, Jobs(filter))
}

fn start<F: Feed>(shared: &Arc<Shared>, feed: F) -> Watch<F::Event> {
    let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
    // Subscribed before the state is read, so that no event falls between the two.
    let events = shared.events.subscribe();
    let first = feed.reset(shared);
    let _ = sender.try_send(first);
    shared
        .tasks
        .spawn(run(Arc::clone(shared), feed, events, sender));
    Watch::new(receiver)
}

async fn run<F: Feed>(
    shared: Arc<Shared>,
    feed: F,
    mut events: broadcast::Receiver<NodeEvent>,
    sender: mpsc::Sender<F::Event>,
) {
    loop {
        let received = tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sender.closed() => return,
            received = events.recv() => received,
        };
        let event = match received {
            Ok(event) => feed.translate(event),
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(
                    missed,
                    "a watcher is slow; it starts anew from the full state"
                );
                events = events.resubscribe();
                Some(feed.reset(&shared))
            }
            Err(RecvError::Closed) => return,
        };
        let Some(event) = event else { continue };
        let sent = tokio::select! {
            () = shared.stop.cancelled() => return,
            sent = sender.send(event) => sent,
        };
        if sent.is_err() {
            return;
        }
    }
}

impl Feed for Offers {
    type Event = OfferEvent;

    fn reset(&self, shared: &Shared) -> OfferEvent {
        let market = shared.market();
        let matching = market
            .index
            .active_offers()
            .filter(|offer| self.0.matches(offer));
        OfferEvent::Reset(matching.cloned().collect())
    }

    fn translate(&self, event: NodeEvent) -> Option<OfferEvent> {
        let NodeEvent::Market(change) = event else {
            return None;
        };
        match &*change {
            OfferChange::OfferUpdated(offer) if self.0.matches(offer) => {
                Some(OfferEvent::Updated(offer.clone()))
            }
            OfferChange::OfferRemoved(gone)
                if self.0.allows(&gone.protocol_id, &gone.provider_peer_id) =>
            {
                Some(OfferEvent::Removed(gone.clone()))
            }
            _ => None,
        }
    }
}

impl Feed for Providers {
    type Event = ProviderEvent;

    fn reset(&self, shared: &Shared) -> ProviderEvent {
        let now = shared.clock.now();
        let market = shared.market();
        ProviderEvent::Reset(market.index.active_providers(now).cloned().collect())
    }

    fn translate(&self, event: NodeEvent) -> Option<ProviderEvent> {
        let NodeEvent::Market(change) = event else {
            return None;
        };
        match &*change {
            OfferChange::ProviderUpdated(record) => Some(ProviderEvent::Updated(record.clone())),
            OfferChange::ProviderHeartbeat(beat) => Some(ProviderEvent::Heartbeat(beat.clone())),
            OfferChange::OfferUpdated(_) | OfferChange::OfferRemoved(_) => None,
        }
    }
}

impl Feed for Jobs {
    type Event = JobEvent;

    fn reset(&self, _shared: &Shared) -> JobEvent {
        JobEvent::Reset
    }

    fn translate(&self, event: NodeEvent) -> Option<JobEvent> {
        let NodeEvent::Job(record) = event else {
            return None;
        };
        self.0
            .matches(&record)
            .then(|| JobEvent::Updated(Box::new((*record).clone())))
    }
}

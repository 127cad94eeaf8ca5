//! Watches in process: the full state first, then events, and the full state again for whoever fell
//! too far behind. A watch can go on from the place of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use derouter_market::OfferChange;
use derouter_sdk::{
    Cursor, JobEvent, JobFilter, NodeError, OfferEvent, OfferFilter, Placed, ProviderEvent, Watch,
};
use derouter_store::JobHistory;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::event_log::EventLog;
use crate::jobs::internal;
use crate::shared::Shared;

/// Events that wait in one watch before its feeder waits too.
const WATCH_QUEUE: usize = 64;

/// Events taken from the log at once.
const BATCH: usize = 64;

/// Jobs read at once. Each may have megabytes of private payload.
const JOBS: usize = 16;

/// How long a watch of jobs rests when the database can't be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// A place in a history: of the events of this run, or of the jobs of this database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// `o` for offers, `v` for providers, `j` for jobs.
    kind: char,
    history: u64,
    number: u64,
}

impl Place {
    fn cursor(self) -> Option<Cursor> {
        let Self {
            kind,
            history,
            number,
        } = self;
        Cursor::new(format!("{kind}.{history:016x}.{number}")).ok()
    }

    /// The number in a cursor of this history.
    fn number_in(self, cursor: &Cursor) -> Option<u64> {
        let rest = cursor.as_str().strip_prefix(self.kind)?;
        let (history, number) = rest.strip_prefix('.')?.split_once('.')?;
        let history = u64::from_str_radix(history, 16).ok()?;
        (history == self.history).then(|| number.parse().ok())?
    }

    fn at(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

/// What a kind of watch makes of the state and of events.
trait Feed: Send + Sync + 'static {
    const KIND: char;
    type Event: Send;
    fn log(shared: &Shared) -> &EventLog<OfferChange>;
    fn reset(&self, shared: &Shared) -> Self::Event;
    fn translate(&self, change: &OfferChange) -> Option<Self::Event>;
}

struct Offers(OfferFilter);
struct Providers;

pub(crate) fn offers(
    shared: &Arc<Shared>,
    filter: OfferFilter,
    since: Option<&Cursor>,
) -> Watch<OfferEvent> {
    start(shared, Offers(filter), since)
}

pub(crate) fn providers(shared: &Arc<Shared>, since: Option<&Cursor>) -> Watch<ProviderEvent> {
    start(shared, Providers, since)
}

fn start<F: Feed>(shared: &Arc<Shared>, feed: F, since: Option<&Cursor>) -> Watch<F::Event> {
    let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
    let log = F::log(shared);
    let now = Place {
        kind: F::KIND,
        history: shared.run,
        // Taken before the state is read, so that no event falls between the two.
        number: log.end(),
    };
    let known = |number: &u64| log.behind(*number, 1).is_ok();
    let resumed = since.and_then(|since| now.number_in(since)).filter(known);
    if resumed.is_none() {
        let _ = sender.try_send((feed.reset(shared), now.cursor()));
    }
    let place = now.at(resumed.unwrap_or(now.number));
    let watch = Watch::placed(receiver, since.filter(|_| resumed.is_some()).cloned());
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let feeding = run(&shared, &feed, place, &sender);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = sender.closed() => {}
            () = feeding => {}
        }
    });
    watch
}

async fn run<F: Feed>(
    shared: &Shared,
    feed: &F,
    mut place: Place,
    sender: &mpsc::Sender<Placed<F::Event>>,
) {
    let log = F::log(shared);
    loop {
        log.wait_behind(place.number).await;
        let Ok(events) = log.behind(place.number, BATCH) else {
            tracing::debug!("a watcher is slow; it starts anew from the full state");
            place = place.at(log.end());
            let state = feed.reset(shared);
            if sender.send((state, place.cursor())).await.is_err() {
                return;
            }
            continue;
        };
        for (number, change) in events {
            place = place.at(number);
            let Some(event) = feed.translate(&change) else {
                continue;
            };
            if sender.send((event, place.cursor())).await.is_err() {
                return;
            }
        }
    }
}

impl Feed for Offers {
    const KIND: char = 'o';
    type Event = OfferEvent;

    fn log(shared: &Shared) -> &EventLog<OfferChange> {
        &shared.offer_events
    }

    fn reset(&self, shared: &Shared) -> OfferEvent {
        let market = shared.market();
        let matching = market
            .index
            .active_offers()
            .filter(|offer| self.0.matches(offer));
        OfferEvent::Reset(matching.cloned().collect())
    }

    fn translate(&self, change: &OfferChange) -> Option<OfferEvent> {
        match change {
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
    const KIND: char = 'v';
    type Event = ProviderEvent;

    fn log(shared: &Shared) -> &EventLog<OfferChange> {
        &shared.provider_events
    }

    fn reset(&self, shared: &Shared) -> ProviderEvent {
        let now = shared.clock.now();
        let market = shared.market();
        ProviderEvent::Reset(market.index.active_providers(now).cloned().collect())
    }

    fn translate(&self, change: &OfferChange) -> Option<ProviderEvent> {
        match change {
            OfferChange::ProviderUpdated(record) => Some(ProviderEvent::Updated(record.clone())),
            OfferChange::ProviderHeartbeat(beat) => Some(ProviderEvent::Heartbeat(beat.clone())),
            OfferChange::OfferUpdated(_) | OfferChange::OfferRemoved(_) => None,
        }
    }
}

/// Jobs come from the database, in the order of their latest changes: nothing is missed, whoever is
/// behind, and across restarts.
pub(crate) async fn jobs(
    shared: &Arc<Shared>,
    filter: JobFilter,
    since: Option<&Cursor>,
) -> Result<Watch<JobEvent>, NodeError> {
    let JobHistory { id, last } = shared.store.job_history().await.map_err(internal)?;
    let now = Place {
        kind: 'j',
        history: u64::from_be_bytes(id),
        number: last,
    };
    let number_of = |since: &Cursor| match since.is_start() {
        true => Some(0),
        false => now.number_in(since).filter(|number| *number <= last),
    };
    let resumed = since.and_then(number_of);
    let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
    if resumed.is_none() {
        let _ = sender.try_send((JobEvent::Reset, now.cursor()));
    }
    let place = now.at(resumed.unwrap_or(last));
    let watch = Watch::placed(receiver, since.filter(|_| resumed.is_some()).cloned());
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let feeding = feed_jobs(&shared, &filter, place, &sender);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = sender.closed() => {}
            () = feeding => {}
        }
    });
    Ok(watch)
}

async fn feed_jobs(
    shared: &Shared,
    filter: &JobFilter,
    mut place: Place,
    sender: &mpsc::Sender<Placed<JobEvent>>,
) {
    let mut changed = shared.jobs_changed.subscribe();
    loop {
        // Before the read, so that a change behind it wakes this again.
        changed.mark_unchanged();
        let changes = match shared.store.job_changes(place.number, JOBS).await {
            Ok(changes) => changes.jobs,
            Err(error) => {
                tracing::warn!(%error, "a watch of jobs can't read the database");
                sleep(READ_AGAIN).await;
                continue;
            }
        };
        if changes.is_empty() && changed.changed().await.is_err() {
            return;
        }
        for (number, job) in changes {
            place = place.at(number);
            let record = shared.record(&job);
            if !filter.matches(&record) {
                continue;
            }
            let event = JobEvent::Updated(Box::new(record));
            if sender.send((event, place.cursor())).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_only_by_the_history_that_wrote_it() {
        let place = Place {
            kind: 'j',
            history: 7,
            number: 12,
        };
        let cursor = place.cursor().unwrap();
        assert_eq!(place.at(0).number_in(&cursor), Some(12));
        let other = Place {
            history: 8,
            ..place
        };
        assert_eq!(other.number_in(&cursor), None, "another database or run");
        let kind = Place { kind: 'o', ..place };
        assert_eq!(kind.number_in(&cursor), None, "another kind of watch");
        for text in ["j", "j.7", "j.7.x", "j.x.1", "j..", "start"] {
            assert_eq!(place.number_in(&Cursor::new(text).unwrap()), None, "{text}");
        }
    }
}

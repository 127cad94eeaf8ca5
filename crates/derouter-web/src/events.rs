//! Streams of events: they say that a topic changed, and pages ask for what is new. Changes that come
//! close together are told once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Extension, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::board::{Topic, Versions};
use crate::sessions::Session;
use crate::state::App;

/// Streams at a time, of all sessions. Further ones are answered 503: the pages work without.
pub(crate) const MAX_STREAMS: usize = 64;

/// The shortest time between two events of a stream.
const COALESCE: Duration = Duration::from_secs(1);

/// How often a stream says that it lives. A connection that is gone shows by that.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a stream lives; browsers come again by themselves.
const LIFE: Duration = Duration::from_secs(3600);

/// The streams that are open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Arc<AtomicUsize>);

/// A place among them, given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Streams {
    fn take(&self) -> Option<Place> {
        let more = |open: usize| (open < MAX_STREAMS).then_some(open + 1);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Place(Arc::clone(&self.0)))
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Of which topic.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    topic: String,
    /// What the page shows; without it, what is now.
    since: Option<u64>,
}

struct Telling {
    app: App,
    session: u64,
    topic: Topic,
    told: u64,
    changes: watch::Receiver<Versions>,
    until: Instant,
    _place: Place,
}

/// `GET /events?topic=NAME`.
pub(crate) async fn serve(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(topic) = Topic::of(&asked.topic) else {
        return (StatusCode::NOT_FOUND, "there is no such topic\n").into_response();
    };
    let Some(place) = app.streams.take() else {
        let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("30"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let changes = app.board.subscribe();
    let told = asked.since.unwrap_or_else(|| changes.borrow().of(topic));
    let telling = Telling {
        session: session.number,
        topic,
        told,
        changes,
        until: Instant::now() + LIFE,
        _place: place,
        app,
    };
    let events = stream::unfold(telling, |mut telling| async move {
        let version = telling.next().await?;
        let event = Event::default().event("changed").data(version.to_string());
        Some((Ok::<_, Infallible>(event), telling))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

impl Telling {
    /// The next version of the topic; `None` when the stream ends: with its session, the
    /// dashboard, or after a while.
    async fn next(&mut self) -> Option<u64> {
        let stop = self.app.stop.clone();
        loop {
            let now = self.changes.borrow_and_update().of(self.topic);
            if now == self.told {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep_until(self.until) => return None,
                    changed = self.changes.changed() => changed.ok()?,
                }
                continue;
            }
            // What comes meanwhile is told with it.
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(COALESCE) => {}
            }
            if !self.app.sessions().is_open(self.session, Instant::now()) {
                return None;
            }
            self.told = self.changes.borrow_and_update().of(self.topic);
            return Some(self.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let streams = Streams::default();
        let places: Vec<Place> = std::iter::from_fn(|| streams.take()).collect();
        assert_eq!(places.len(), MAX_STREAMS);
        drop(places);
        assert_eq!(streams.open(), 0);
        assert!(streams.take().is_some());
    }
}

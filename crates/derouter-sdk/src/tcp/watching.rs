//! Watches over the RPC: a subscription and a query, again after each reconnect.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::rpc::cursor::Cursor;
use derouter_wire::rpc::record::ProviderRecord;
use derouter_wire::rpc::request::*;
use derouter_wire::{PeerId, SubscriptionId};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::connection::{Connection, ROUTE_EVENTS, Route, Told};
use super::{Inner, translate};
use crate::error::NodeError;
use crate::filter::{JobFilter, OfferFilter};
use crate::watch::{JobEvent, NodeState, OfferEvent, Placed, ProviderEvent, Watch};

/// Events that wait for the watcher, besides those of the route.
const WATCH_EVENTS: usize = 64;

/// How long a full state may take: that of the largest market takes some 10 s.
const STATE_WAIT: Duration = Duration::from_secs(60);

/// Providers that a watch remembers as introduced; beyond it some are introduced twice.
const MAX_KNOWN: usize = 50_000;

/// What a watch looks at.
#[async_trait]
pub(super) trait Subject: Send + Sync + 'static {
    type Event: Send + 'static;

    async fn subscribe(
        &self,
        node: &Inner,
        connection: &Connection,
        since: Option<Cursor>,
        route: Route,
    ) -> Result<Subscribed, NodeError>;

    /// The full state, as the node told it.
    fn told_state(&mut self, state: Vec<Told>) -> Self::Event;

    /// The full state, asked of a node of 0.1.
    async fn state(&mut self, node: &Inner) -> Result<Self::Event, NodeError>;

    /// What an event of the node means to the watcher.
    async fn events(
        &mut self,
        node: &Inner,
        connection: &Connection,
        told: Told,
    ) -> Vec<Self::Event>;
}

/// A subscription on a live connection.
struct Live {
    connection: Arc<Connection>,
    id: SubscriptionId,
    events: mpsc::Receiver<(Told, Option<Cursor>)>,
    lagged: Arc<AtomicBool>,
}

/// What a watch begins with: the full state, unless it goes on from where another ended.
type Begun<T> = (Live, Option<Placed<T>>);

/// Starts a watch, at `since` where the node still knows that. Fails when the node can't be reached
/// now; later it comes back by itself.
pub(super) async fn watch<S: Subject>(
    node: &Arc<Inner>,
    mut subject: S,
    since: Option<&Cursor>,
) -> Result<Watch<S::Event>, NodeError> {
    let (live, state) = begin(node, &mut subject, since.cloned()).await?;
    let (sender, events) = mpsc::channel(WATCH_EVENTS);
    let since = since.filter(|_| state.is_none()).cloned();
    let follower = Follower {
        node: Arc::clone(node),
        subject,
        watcher: sender,
        cursor: since.clone(),
    };
    tokio::spawn(follower.run(live, state));
    Ok(Watch::placed(events, since))
}

async fn begin<S: Subject>(
    node: &Inner,
    subject: &mut S,
    since: Option<Cursor>,
) -> Result<Begun<S::Event>, NodeError> {
    let connection = node.connection().await?;
    let is_0_2 = connection.caller.is_0_2();
    let (sender, events) = mpsc::channel(ROUTE_EVENTS);
    let lagged = Arc::new(AtomicBool::new(false));
    let route = Route {
        events: sender,
        lagged: Arc::clone(&lagged),
        state: None,
    };
    let since = since.filter(|_| is_0_2);
    let subscribed = subject.subscribe(node, &connection, since, route).await?;
    let mut live = Live {
        connection,
        id: subscribed.id(),
        events,
        lagged,
    };
    if subscribed.resumed() {
        return Ok((live, None));
    }
    let state = if is_0_2 {
        first_state(subject, &mut live).await
    } else {
        // Subscribed first and asked second, so that nothing is missed in between.
        subject.state(node).await.map(|state| (state, None))
    };
    match state {
        Ok(state) => Ok((live, Some(state))),
        Err(error) => {
            live.connection
                .unsubscribe(live.id, node.options.query_wait)
                .await;
            Err(error)
        }
    }
}

/// The state that a node of 0.2 tells by itself.
async fn first_state<S: Subject>(
    subject: &mut S,
    live: &mut Live,
) -> Result<Placed<S::Event>, NodeError> {
    let wait = STATE_WAIT;
    let told = tokio::select! {
        told = timeout(wait, live.events.recv()) => told,
        () = live.connection.caller.closed() => Ok(None),
    };
    match told {
        Ok(Some((Told::State(state), cursor))) => Ok((subject.told_state(state), cursor)),
        Ok(Some(_)) => Err(NodeError::Protocol(
            "a watch began without its state".into(),
        )),
        Ok(None) => Err(NodeError::Unreachable("the connection broke".into())),
        Err(_) => Err(NodeError::Timeout(wait.as_secs())),
    }
}

/// The watcher has dropped its watch.
struct Unwatched;

struct Follower<S: Subject> {
    node: Arc<Inner>,
    subject: S,
    watcher: mpsc::Sender<Placed<S::Event>>,
    /// The place behind what was told.
    cursor: Option<Cursor>,
}

impl<S: Subject> Follower<S> {
    async fn run(mut self, mut live: Live, mut state: Option<Placed<S::Event>>) {
        loop {
            let told = match state {
                Some((state, cursor)) => self.tell(state, cursor).await,
                None => Ok(()),
            };
            let goes_on = told.is_ok() && self.follow(&mut live).await.is_ok();
            if !goes_on || !live.connection.is_closed() {
                live.connection
                    .unsubscribe(live.id, self.node.options.query_wait)
                    .await;
            }
            if !goes_on {
                return;
            }
            (live, state) = match self.begin_again().await {
                Ok(begun) => begun,
                Err(Unwatched) => return,
            };
        }
    }

    async fn tell(&mut self, event: S::Event, cursor: Option<Cursor>) -> Result<(), Unwatched> {
        if cursor.is_some() {
            self.cursor.clone_from(&cursor);
        }
        let sent = self.watcher.send((event, cursor)).await;
        sent.map_err(|_| Unwatched)
    }

    /// Tells events until the connection ends or events are lost.
    async fn follow(&mut self, live: &mut Live) -> Result<(), Unwatched> {
        loop {
            let told = tokio::select! {
                told = live.events.recv() => told,
                () = live.connection.caller.closed() => return Ok(()),
                () = self.watcher.closed() => return Err(Unwatched),
            };
            let Some((told, cursor)) = told else {
                return Ok(());
            };
            if live.lagged.swap(false, Ordering::AcqRel) {
                if live.connection.caller.is_0_2() {
                    tracing::debug!("a watch reads too slowly and goes on from where it was");
                    return Ok(());
                }
                self.start_over(live).await?;
                continue;
            }
            self.tell_all(&live.connection, told, cursor).await?;
        }
    }

    async fn tell_all(
        &mut self,
        connection: &Connection,
        told: Told,
        cursor: Option<Cursor>,
    ) -> Result<(), Unwatched> {
        let mut events = match told {
            Told::State(state) => vec![self.subject.told_state(state)],
            told => self.subject.events(&self.node, connection, told).await,
        };
        let last = events.pop();
        for event in events {
            // Not all of what the node told: its place comes with the last.
            self.tell(event, None).await?;
        }
        match last {
            Some(event) => self.tell(event, cursor).await,
            None => {
                self.cursor = cursor.or(self.cursor.take());
                Ok(())
            }
        }
    }

    /// Asks a node of 0.1 for the full state in place of events that were lost.
    async fn start_over(&mut self, live: &mut Live) -> Result<(), Unwatched> {
        tracing::warn!("a watch reads too slowly and starts over with a full state");
        while live.events.try_recv().is_ok() {}
        match self.subject.state(&self.node).await {
            Ok(state) => self.tell(state, None).await,
            Err(error) => {
                tracing::debug!(%error, "a watch begins again");
                live.connection.close();
                Ok(())
            }
        }
    }

    async fn begin_again(&mut self) -> Result<Begun<S::Event>, Unwatched> {
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = self.watcher.closed() => return Err(Unwatched),
            }
            match begin(&self.node, &mut self.subject, self.cursor.clone()).await {
                Ok(begun) => return Ok(begun),
                Err(error) => tracing::debug!(%error, "a watch can't go on yet"),
            }
        }
    }
}

/// All offers that fit.
pub(super) struct Offers(pub(super) OfferFilter);

#[async_trait]
impl Subject for Offers {
    type Event = OfferEvent;

    async fn subscribe(
        &self,
        node: &Inner,
        connection: &Connection,
        since: Option<Cursor>,
        route: Route,
    ) -> Result<Subscribed, NodeError> {
        let request = SubscribeToActiveOffers {
            protocol_ids: translate::texts(self.0.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(self.0.provider_peer_ids.as_ref()),
            since,
        };
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
    }

    fn told_state(&mut self, state: Vec<Told>) -> OfferEvent {
        let offer = |told| match told {
            Told::OfferUpdated(offer) => Some(offer),
            _ => None,
        };
        OfferEvent::Reset(state.into_iter().filter_map(offer).collect())
    }

    async fn state(&mut self, node: &Inner) -> Result<OfferEvent, NodeError> {
        let query = QueryActiveOffers {
            protocol_ids: translate::texts(self.0.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(self.0.provider_peer_ids.as_ref()),
        };
        let offers = translate::filtered(node.query(&query).await?)?;
        Ok(OfferEvent::Reset(offers))
    }

    async fn events(&mut self, _: &Inner, _: &Connection, told: Told) -> Vec<OfferEvent> {
        match told {
            Told::OfferUpdated(offer) => vec![OfferEvent::Updated(offer)],
            Told::OfferRemoved(offer) => vec![OfferEvent::Removed(offer)],
            _ => Vec::new(),
        }
    }
}

/// All providers.
#[derive(Default)]
pub(super) struct Providers {
    /// Those that the watcher has a record of. 0.1 nodes do not introduce new ones.
    known: HashSet<PeerId>,
}

impl Providers {
    fn remember(&mut self, peer: PeerId) {
        if self.known.len() < MAX_KNOWN {
            self.known.insert(peer);
        }
    }

    fn reset(&mut self, records: Vec<ProviderRecord>) -> ProviderEvent {
        self.known.clear();
        for record in &records {
            self.remember(record.peer_id);
        }
        ProviderEvent::Reset(records)
    }

    async fn record(node: &Inner, peer: PeerId) -> Option<ProviderRecord> {
        let query = QueryProviders {
            provider_peer_ids: vec![peer.into()],
        };
        translate::list(node.query(&query).await.ok()?).ok()?.pop()
    }
}

#[async_trait]
impl Subject for Providers {
    type Event = ProviderEvent;

    async fn subscribe(
        &self,
        node: &Inner,
        connection: &Connection,
        since: Option<Cursor>,
        route: Route,
    ) -> Result<Subscribed, NodeError> {
        let request = SubscribeToActiveProviders { since };
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
    }

    fn told_state(&mut self, state: Vec<Told>) -> ProviderEvent {
        let record = |told| match told {
            Told::ProviderUpdated(record) => Some(record),
            _ => None,
        };
        self.reset(state.into_iter().filter_map(record).collect())
    }

    async fn state(&mut self, node: &Inner) -> Result<ProviderEvent, NodeError> {
        Ok(self.reset(node.active_provider_records().await?))
    }

    async fn events(&mut self, node: &Inner, _: &Connection, told: Told) -> Vec<ProviderEvent> {
        match told {
            Told::ProviderUpdated(record) => {
                self.remember(record.peer_id);
                vec![ProviderEvent::Updated(record)]
            }
            Told::ProviderHeartbeat(heartbeat) if self.known.contains(&heartbeat.peer_id) => {
                vec![ProviderEvent::Heartbeat(heartbeat)]
            }
            Told::ProviderHeartbeat(heartbeat) => {
                let record = Self::record(node, heartbeat.peer_id).await;
                if let Some(record) = &record {
                    self.remember(record.peer_id);
                }
                let introduced = record.map(ProviderEvent::Updated);
                introduced
                    .into_iter()
                    .chain([ProviderEvent::Heartbeat(heartbeat)])
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// All jobs that fit.
pub(super) struct Jobs(pub(super) JobFilter);

#[async_trait]
impl Subject for Jobs {
    type Event = JobEvent;

    async fn subscribe(
        &self,
        node: &Inner,
        connection: &Connection,
        since: Option<Cursor>,
        route: Route,
    ) -> Result<Subscribed, NodeError> {
        let request = SubscribeToJobs {
            protocol_ids: translate::texts(self.0.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(self.0.provider_peer_ids.as_ref()),
            consumer_peer_ids: translate::peers(self.0.consumer_peer_ids.as_ref()),
            since,
        };
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
    }

    fn told_state(&mut self, _: Vec<Told>) -> JobEvent {
        JobEvent::Reset
    }

    async fn state(&mut self, _: &Inner) -> Result<JobEvent, NodeError> {
        Ok(JobEvent::Reset)
    }

    async fn events(&mut self, _: &Inner, connection: &Connection, told: Told) -> Vec<JobEvent> {
        match told {
            Told::JobUpdated(job) => vec![JobEvent::Updated(Box::new(connection.mend(*job)))],
            _ => Vec::new(),
        }
    }
}

/// Whether the node takes new work. The node tells how it is right behind the subscription.
pub(super) struct State;

#[async_trait]
impl Subject for State {
    type Event = NodeState;

    async fn subscribe(
        &self,
        node: &Inner,
        connection: &Connection,
        _since: Option<Cursor>,
        route: Route,
    ) -> Result<Subscribed, NodeError> {
        if connection.is_0_1() {
            return Err(NodeError::Unsupported("this subscription"));
        }
        connection
            .subscribe(&SubscribeToNodeState {}, node.options.query_wait, route)
            .await
    }

    fn told_state(&mut self, _: Vec<Told>) -> NodeState {
        NodeState::Serving
    }

    async fn state(&mut self, _: &Inner) -> Result<NodeState, NodeError> {
        Ok(NodeState::Serving)
    }

    async fn events(&mut self, _: &Inner, _: &Connection, told: Told) -> Vec<NodeState> {
        match told {
            Told::NodeState(state) => vec![state.draining_ms.map_or(NodeState::Serving, |left| {
                let left = Duration::from_millis(left);
                NodeState::Draining { left }
            })],
            _ => Vec::new(),
        }
    }
}

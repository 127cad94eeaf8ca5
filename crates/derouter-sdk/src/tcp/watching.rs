//! Watches over the RPC: a subscription and a query, again after each reconnect.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::rpc::record::ProviderRecord;
use derouter_wire::rpc::request::*;
use derouter_wire::{PeerId, SubscriptionId};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::connection::{Connection, ROUTE_EVENTS, Route, Told};
use super::{Inner, translate};
use crate::error::NodeError;
use crate::filter::{JobFilter, OfferFilter};
use crate::watch::{JobEvent, NodeState, OfferEvent, ProviderEvent, Watch};

/// Events that wait for the watcher, besides those of the route.
const WATCH_EVENTS: usize = 64;

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
        route: Route,
    ) -> Result<SubscriptionId, NodeError>;

    /// The full state.
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
    events: mpsc::Receiver<Told>,
    lagged: Arc<AtomicBool>,
}

/// Starts a watch. Fails when the node can't be reached now; later it comes back by itself.
pub(super) async fn watch<S: Subject>(
    node: &Arc<Inner>,
    mut subject: S,
) -> Result<Watch<S::Event>, NodeError> {
    let (live, state) = begin(node, &mut subject).await?;
    let (sender, watch) = mpsc::channel(WATCH_EVENTS);
    let follower = Follower {
        node: Arc::clone(node),
        subject,
        watcher: sender,
    };
    tokio::spawn(follower.run(live, state));
    Ok(Watch::new(watch))
}

/// Subscribes first and asks second, so that nothing is missed in between.
async fn begin<S: Subject>(node: &Inner, subject: &mut S) -> Result<(Live, S::Event), NodeError> {
    let connection = node.connection().await?;
    let (sender, events) = mpsc::channel(ROUTE_EVENTS);
    let lagged = Arc::new(AtomicBool::new(false));
    let route = Route {
        events: sender,
        lagged: Arc::clone(&lagged),
    };
    let id = subject.subscribe(node, &connection, route).await?;
    let live = Live {
        connection,
        id,
        events,
        lagged,
    };
    match subject.state(node).await {
        Ok(state) => Ok((live, state)),
        Err(error) => {
            live.connection
                .unsubscribe(id, node.options.query_wait)
                .await;
            Err(error)
        }
    }
}

/// The watcher has dropped its watch.
struct Unwatched;

struct Follower<S: Subject> {
    node: Arc<Inner>,
    subject: S,
    watcher: mpsc::Sender<S::Event>,
}

impl<S: Subject> Follower<S> {
    async fn run(mut self, mut live: Live, mut state: S::Event) {
        loop {
            if self.tell(state).await.is_err() || self.follow(&mut live).await.is_err() {
                live.connection
                    .unsubscribe(live.id, self.node.options.query_wait)
                    .await;
                return;
            }
            (live, state) = match self.begin_again().await {
                Ok(begun) => begun,
                Err(Unwatched) => return,
            };
        }
    }

    async fn tell(&self, event: S::Event) -> Result<(), Unwatched> {
        self.watcher.send(event).await.map_err(|_| Unwatched)
    }

    /// Tells events until the connection ends.
    async fn follow(&mut self, live: &mut Live) -> Result<(), Unwatched> {
        loop {
            let told = tokio::select! {
                told = live.events.recv() => told,
                () = live.connection.caller.closed() => return Ok(()),
                () = self.watcher.closed() => return Err(Unwatched),
            };
            let Some(told) = told else {
                return Ok(());
            };
            if live.lagged.swap(false, Ordering::AcqRel) {
                tracing::warn!("a watch reads too slowly and starts over with a full state");
                while live.events.try_recv().is_ok() {}
                let Ok(state) = self.subject.state(&self.node).await else {
                    return Ok(());
                };
                self.tell(state).await?;
                continue;
            }
            for event in self
                .subject
                .events(&self.node, &live.connection, told)
                .await
            {
                self.tell(event).await?;
            }
        }
    }

    async fn begin_again(&mut self) -> Result<(Live, S::Event), Unwatched> {
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = self.watcher.closed() => return Err(Unwatched),
            }
            match begin(&self.node, &mut self.subject).await {
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
        route: Route,
    ) -> Result<SubscriptionId, NodeError> {
        let request = SubscribeToActiveOffers {
            protocol_ids: translate::texts(self.0.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(self.0.provider_peer_ids.as_ref()),
        };
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
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
        route: Route,
    ) -> Result<SubscriptionId, NodeError> {
        let request = SubscribeToActiveProviders {};
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
    }

    async fn state(&mut self, node: &Inner) -> Result<ProviderEvent, NodeError> {
        let records = node.active_provider_records().await?;
        self.known.clear();
        for record in &records {
            self.remember(record.peer_id);
        }
        Ok(ProviderEvent::Reset(records))
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
        route: Route,
    ) -> Result<SubscriptionId, NodeError> {
        let request = SubscribeToJobs {
            protocol_ids: translate::texts(self.0.protocol_ids.as_ref()),
            provider_peer_ids: translate::peers(self.0.provider_peer_ids.as_ref()),
            consumer_peer_ids: translate::peers(self.0.consumer_peer_ids.as_ref()),
        };
        connection
            .subscribe(&request, node.options.query_wait, route)
            .await
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
        route: Route,
    ) -> Result<SubscriptionId, NodeError> {
        if connection.is_0_1() {
            return Err(NodeError::Unsupported("this subscription"));
        }
        connection
            .subscribe(&SubscribeToNodeState {}, node.options.query_wait, route)
            .await
    }

    async fn state(&mut self, _: &Inner) -> Result<NodeState, NodeError> {
        Ok(NodeState::Serving)
    }

    async fn events(&mut self, _: &Inner, _: &Connection, told: Told) -> Vec<NodeState> {
        match told {
            Told::State(state) => vec![state.draining_ms.map_or(NodeState::Serving, |left| {
                let left = Duration::from_millis(left);
                NodeState::Draining { left }
            })],
            _ => Vec::new(),
        }
    }
}

//! The events of one connection: all its watches, merged by one task into one order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::tcp::link::{CallError, Caller};
use derouter_sdk::{
    Cursor, JobEvent, Node, NodeState, OfferEvent, PeerId, ProviderEvent, ProviderRecord, Watch,
};
use derouter_wire::SubscriptionId;
use derouter_wire::limits::RPC_SUBSCRIPTIONS;
use derouter_wire::rpc::event::{
    Event, EventJobUpdated, EventNodeState, EventOfferRemoved, EventOfferUpdated,
    EventProviderHeartbeat, EventProviderUpdated, EventReady, EventReset, NodeStateChanged,
};
use futures::stream::{self, BoxStream, SelectAll, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::told::{OfferNews, ToldOffers, ToldProviders};

/// How long the events wait for a provider's record.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// A watch to follow.
pub(super) enum Source {
    Offers(Watch<OfferEvent>),
    Providers(Watch<ProviderEvent>),
    Jobs(Watch<JobEvent>),
    State(Watch<NodeState>),
}

enum Happened {
    Offer(OfferEvent),
    Provider(ProviderEvent),
    Job(JobEvent),
    State(NodeState),
    Ended,
}

struct Added {
    id: SubscriptionId,
    source: Source,
    cancelled: CancellationToken,
}

/// The subscriptions of one connection.
pub(super) struct Subscriptions {
    added: mpsc::Sender<Added>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next_id: u32,
    cancels: HashMap<SubscriptionId, CancellationToken>,
}

impl Subscriptions {
    /// Starts the task that sends the events of a connection until `closed`.
    pub(super) fn start(node: Arc<dyn Node>, caller: Caller, closed: CancellationToken) -> Self {
        let (added, additions) = mpsc::channel(RPC_SUBSCRIPTIONS);
        let teller = Teller {
            node,
            caller,
            offers: HashMap::new(),
            providers: HashMap::new(),
            begun_jobs: HashSet::new(),
            gaps: 0,
        };
        tokio::spawn(async move { closed.run_until_cancelled(teller.run(additions)).await });
        Self {
            added,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a new subscription, or `None` when there are too many. Its events begin with
    /// [`Subscriptions::begin`], behind the answer that tells the id.
    pub(super) fn reserve(&self) -> Option<SubscriptionId> {
        let mut open = self.open();
        if open.cancels.len() >= RPC_SUBSCRIPTIONS {
            return None;
        }
        let id = SubscriptionId(open.next_id);
        open.next_id = open.next_id.wrapping_add(1);
        open.cancels.insert(id, CancellationToken::new());
        Some(id)
    }

    pub(super) async fn begin(&self, id: SubscriptionId, source: Source) {
        let cancelled = self.open().cancels.get(&id).cloned();
        if let Some(cancelled) = cancelled {
            let added = Added {
                id,
                source,
                cancelled,
            };
            // Fails when the connection has closed, and then nothing matters any more.
            let _ = self.added.send(added).await;
        }
    }

    /// Ends a subscription; false when there is none with this id.
    pub(super) fn cancel(&self, id: SubscriptionId) -> bool {
        let cancelled = self.open().cancels.remove(&id);
        if let Some(token) = &cancelled {
            token.cancel();
        }
        cancelled.is_some()
    }
}

type Events = BoxStream<'static, (SubscriptionId, Happened, Option<Cursor>)>;

fn events(added: Added) -> Events {
    fn follow<T: Send + 'static>(
        watch: Watch<T>,
        happened: fn(T) -> Happened,
    ) -> BoxStream<'static, (Happened, Option<Cursor>)> {
        let next = move |mut watch: Watch<T>| async move {
            let event = happened(watch.next().await?);
            Some(((event, watch.cursor().cloned()), watch))
        };
        stream::unfold(watch, next).boxed()
    }
    let happened = match added.source {
        Source::Offers(watch) => follow(watch, Happened::Offer),
        Source::Providers(watch) => follow(watch, Happened::Provider),
        Source::Jobs(watch) => follow(watch, Happened::Job),
        Source::State(watch) => follow(watch, Happened::State),
    };
    let id = added.id;
    happened
        .take_until(added.cancelled.cancelled_owned())
        .chain(stream::once(async { (Happened::Ended, None) }))
        .map(move |(happened, cursor)| (id, happened, cursor))
        .boxed()
}

/// Turns what happens into frames. It waits for room in the module's queue: a module that stops
/// reading fills its watches, whose feeders then skip to a new full state.
struct Teller {
    node: Arc<dyn Node>,
    caller: Caller,
    offers: HashMap<SubscriptionId, ToldOffers>,
    providers: HashMap<SubscriptionId, ToldProviders>,
    /// The watches of jobs that have begun.
    begun_jobs: HashSet<SubscriptionId>,
    /// How often events were lost.
    gaps: u64,
}

impl Teller {
    async fn run(mut self, mut additions: mpsc::Receiver<Added>) {
        let mut all: SelectAll<Events> = SelectAll::new();
        loop {
            tokio::select! {
                biased;
                added = additions.recv() => match added {
                    Some(added) => {
                        self.begin(&added);
                        all.push(events(added));
                    }
                    None => return,
                },
                Some((id, happened, cursor)) = all.next(), if !all.is_empty() => {
                    let told = if self.caller.is_0_2() {
                        self.tell_modern(id, happened, cursor).await
                    } else {
                        self.tell(id, happened).await
                    };
                    match told {
                        Ok(()) => {}
                        Err(CallError::Refused(reason)) => {
                            tracing::warn!(subscription = %id, reason, "an event is not sent");
                        }
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn begin(&mut self, added: &Added) {
        match added.source {
            Source::Offers(_) => drop(self.offers.insert(added.id, ToldOffers::default())),
            Source::Providers(_) => {
                self.providers.insert(added.id, ToldProviders::default());
            }
            Source::Jobs(_) | Source::State(_) => {}
        }
    }

    /// Tells a module of 0.2: each event with its place, and a full state as one.
    async fn tell_modern(
        &mut self,
        subscription_id: SubscriptionId,
        happened: Happened,
        cursor: Option<Cursor>,
    ) -> Result<(), CallError> {
        let caller = &self.caller;
        let id = subscription_id;
        match happened {
            Happened::Offer(OfferEvent::Reset(all)) => {
                caller.notify(&EventReset { subscription_id }).await?;
                for offer in all {
                    caller.notify(&EventOfferUpdated(of(id, offer))).await?;
                }
            }
            Happened::Provider(ProviderEvent::Reset(all)) => {
                caller.notify(&EventReset { subscription_id }).await?;
                for record in all {
                    caller.notify(&EventProviderUpdated(of(id, record))).await?;
                }
            }
            Happened::Job(JobEvent::Reset) => {
                caller.notify(&EventReset { subscription_id }).await?;
            }
            Happened::Offer(OfferEvent::Updated(offer)) => {
                let event = EventOfferUpdated(at(id, offer, cursor));
                return caller.notify(&event).await;
            }
            Happened::Offer(OfferEvent::Removed(offer)) => {
                let event = EventOfferRemoved(at(id, offer, cursor));
                return caller.notify(&event).await;
            }
            Happened::Provider(ProviderEvent::Updated(record)) => {
                let event = EventProviderUpdated(at(id, record, cursor));
                return caller.notify(&event).await;
            }
            Happened::Provider(ProviderEvent::Heartbeat(beat)) => {
                let event = EventProviderHeartbeat(at(id, beat, cursor));
                return caller.notify(&event).await;
            }
            Happened::Job(JobEvent::Updated(job)) => {
                let event = EventJobUpdated(at(id, *job, cursor));
                return caller.notify(&event).await;
            }
            Happened::State(state) => {
                let event = EventNodeState(at(id, told(state), cursor));
                return caller.notify(&event).await;
            }
            Happened::Ended => return Ok(()),
        }
        let ready = EventReady {
            subscription_id,
            cursor,
        };
        caller.notify(&ready).await
    }

    async fn tell(&mut self, id: SubscriptionId, happened: Happened) -> Result<(), CallError> {
        match happened {
            Happened::Offer(event) => self.offer(id, event).await,
            Happened::Provider(event) => self.provider(id, event).await,
            Happened::Job(event) => self.job(id, event).await,
            Happened::State(state) => {
                self.caller
                    .notify(&EventNodeState(of(id, told(state))))
                    .await
            }
            Happened::Ended => {
                self.offers.remove(&id);
                self.providers.remove(&id);
                self.begun_jobs.remove(&id);
                Ok(())
            }
        }
    }

    async fn offer(&mut self, id: SubscriptionId, event: OfferEvent) -> Result<(), CallError> {
        let told = self.offers.entry(id).or_default();
        let news = match event {
            OfferEvent::Reset(all) => {
                let news = told.reset(all);
                self.note_gap(id, news.len());
                news
            }
            OfferEvent::Updated(offer) => {
                told.updated(&offer);
                vec![OfferNews::Updated(offer)]
            }
            OfferEvent::Removed(offer) => {
                told.removed(&offer);
                vec![OfferNews::Removed(offer)]
            }
        };
        for offer in news {
            self.offer_news(id, offer).await?;
        }
        Ok(())
    }

    async fn offer_news(&mut self, id: SubscriptionId, news: OfferNews) -> Result<(), CallError> {
        match news {
            OfferNews::Updated(offer) => {
                self.introduce(&offer.provider_peer_id).await?;
                self.caller.notify(&EventOfferUpdated(of(id, offer))).await
            }
            OfferNews::Removed(offer) => {
                self.caller.notify(&EventOfferRemoved(of(id, offer))).await
            }
        }
    }

    async fn provider(
        &mut self,
        id: SubscriptionId,
        event: ProviderEvent,
    ) -> Result<(), CallError> {
        let told = self.providers.entry(id).or_default();
        match event {
            ProviderEvent::Reset(all) => {
                let news = told.reset(&all);
                self.note_gap(id, news.len());
                for record in news {
                    self.caller
                        .notify(&EventProviderUpdated(of(id, record)))
                        .await?;
                }
                Ok(())
            }
            ProviderEvent::Updated(record) => {
                if told.updated(&record) {
                    self.caller
                        .notify(&EventProviderUpdated(of(id, record)))
                        .await?;
                }
                Ok(())
            }
            ProviderEvent::Heartbeat(heartbeat) => {
                self.introduce(&heartbeat.peer_id).await?;
                self.caller
                    .notify(&EventProviderHeartbeat(of(id, heartbeat)))
                    .await
            }
        }
    }

    async fn job(&mut self, id: SubscriptionId, event: JobEvent) -> Result<(), CallError> {
        match event {
            JobEvent::Reset => {
                if !self.begun_jobs.insert(id) {
                    self.note_gap(id, 1);
                }
                Ok(())
            }
            JobEvent::Updated(job) => self.caller.notify(&EventJobUpdated(of(id, *job))).await,
        }
    }

    /// Tells of a provider before anything that needs it: modules drop offers of providers that
    /// they have not heard of.
    async fn introduce(&mut self, peer: &PeerId) -> Result<(), CallError> {
        if self.providers.values().all(|told| told.knows(peer)) {
            return Ok(());
        }
        let Some(record) = self.record(peer).await else {
            return Ok(());
        };
        for (id, told) in &mut self.providers {
            if !told.knows(peer) {
                told.told_ahead(&record);
                let event = EventProviderUpdated(of(*id, record.clone()));
                self.caller.notify(&event).await?;
            }
        }
        Ok(())
    }

    async fn record(&self, peer: &PeerId) -> Option<ProviderRecord> {
        let query = self.node.providers(std::slice::from_ref(peer));
        timeout(RECORD_WAIT, query).await.ok()?.ok()?.pop()
    }

    fn note_gap(&mut self, id: SubscriptionId, missed: usize) {
        if missed > 0 {
            self.gaps += 1;
            tracing::warn!(
                subscription = %id,
                missed,
                gaps = self.gaps,
                "a module reads too slowly and lost events"
            );
        }
    }
}

fn told(state: NodeState) -> NodeStateChanged {
    let draining_ms = match state {
        NodeState::Draining { left } => Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        _ => None,
    };
    NodeStateChanged { draining_ms }
}

fn of<T>(subscription_id: SubscriptionId, payload: T) -> Event<T> {
    at(subscription_id, payload, None)
}

fn at<T>(subscription_id: SubscriptionId, payload: T, cursor: Option<Cursor>) -> Event<T> {
    Event {
        subscription_id,
        payload,
        cursor,
    }
}

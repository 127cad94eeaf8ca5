//! One connection to a node: calls, events and job pipes.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use derouter_wire::cbor;
use derouter_wire::rpc::cursor::Cursor;
use derouter_wire::rpc::event::{
    EventJobUpdated, EventNodeState, EventOfferRemoved, EventOfferUpdated, EventProviderHeartbeat,
    EventProviderUpdated, EventReady, EventReset, NodeStateChanged, OfferRemoved,
    ProviderHeartbeat,
};
use derouter_wire::rpc::hello::{Hello, HelloReply, ModuleInfo, Name, SPOKEN, Welcome};
use derouter_wire::rpc::record::{
    FailureReason, JobRecord, OfferSnapshot, ProviderRecord, parse_hex_balance,
};
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::ticket::Ticket;
use derouter_wire::rpc::{Call, Frame, FrameKind};
use derouter_wire::{JobKey, PeerId, SubscriptionId, UnixSeconds};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::{
    CallError, Caller, FrameError, Mux, MuxStream, OpenRequests, ReadBudget, Side, drive,
    read_frame,
};
use super::place::{Greeting, Place};
use super::service::Service;
use super::{TcpOptions, lock, translate};
use crate::error::{FailJobError, NodeError, ProviderCompleteError};
use crate::node::JobStream;
use crate::provider::ProviderCompletion;

/// Events of one subscription that wait for its watch. At the limit the watch starts over with a
/// full state.
pub(super) const ROUTE_EVENTS: usize = 1024;

/// Items of a subscription's state: more than any node's market holds.
const STATE_ITEMS: usize = 500_000;

/// How a 0.1 node begins a frame: a map of unstated length. Ours state it.
const MAP_OF_UNSTATED_LENGTH: u8 = 0xbf;

/// What a connection is for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Calls and watches.
    Calls,
    /// Offers: the node asks here.
    Provider(Arc<Service>),
}

/// An event of a subscription.
#[derive(Debug)]
pub(super) enum Told {
    OfferUpdated(OfferSnapshot),
    OfferRemoved(OfferRemoved),
    ProviderUpdated(ProviderRecord),
    ProviderHeartbeat(ProviderHeartbeat),
    JobUpdated(Box<JobRecord>),
    NodeState(NodeStateChanged),
    /// The whole state, at once.
    State(Vec<Told>),
    /// Only the place behind what was told: nothing was missed until there.
    Place,
}

/// Where the events of a subscription go.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) events: mpsc::Sender<(Told, Option<Cursor>)>,
    /// Set when events were lost.
    pub(super) lagged: Arc<AtomicBool>,
    /// What has come of the state.
    pub(super) state: Option<Vec<Told>>,
}

impl Route {
    /// Takes an event, or a piece of the state; false when nobody listens any more.
    fn take(&mut self, told: Told, cursor: Option<Cursor>) -> Result<bool, ReadError> {
        if let Some(state) = &mut self.state {
            if state.len() >= STATE_ITEMS {
                return Err(ReadError::State);
            }
            state.push(told);
            return Ok(true);
        }
        match self.events.try_send((told, cursor)) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                Ok(true)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(false),
        }
    }

    fn ready(&mut self, cursor: Option<Cursor>) -> Result<bool, ReadError> {
        let told = self.state.take().map_or(Told::Place, Told::State);
        self.take(told, cursor)
    }
}

/// A connection; dropping the last handle closes it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) caller: Caller,
    pub(super) peer_id: PeerId,
    mux: Mux,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    routes: Mutex<HashMap<SubscriptionId, Route>>,
    /// The node is of version 0.1.
    is_0_1: AtomicBool,
    closed: CancellationToken,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl OpenError {
    fn into_node_error(self, place: &Place) -> NodeError {
        match self {
            Self::Failed(error) => error,
            Self::Old => NodeError::Protocol(format!("the node at {place} knows no Hello")),
        }
    }
}

/// Starts to write and read frames.
fn exchange(stream: MuxStream, shared: &Arc<Shared>, mux: &Mux, role: Role) -> Caller {
    let closed = &shared.closed;
    let (caller, outgoing) = Caller::new(closed.clone());
    let (reader, writer) = split(stream);
    let writing = cancel_after(outgoing.write_to(writer), closed.clone());
    tokio::spawn(async move {
        if let Some(Err(reason)) = writing.await {
            tracing::warn!(reason, "the connection to the node broke");
        }
    });
    let reading = Reading {
        shared: Arc::clone(shared),
        caller: caller.clone(),
        mux: mux.clone(),
        role,
    };
    let closed = closed.clone();
    tokio::spawn(async move {
        if let Some(Err(error)) = cancel_after(reading.run(reader), closed).await {
            tracing::warn!(%error, "the connection to the node broke");
        }
    });
    caller
}

/// Says Hello. A node of 0.1 answers with an error of its own, closes the connection, or says
/// nothing.
async fn hello(
    caller: &Caller,
    token: Option<Name>,
    options: &TcpOptions,
    place: &Place,
) -> Result<Box<Welcome>, OpenError> {
    let hello = Hello {
        versions: SPOKEN,
        module: ModuleInfo {
            name: Name::cut(options.module_name.as_str()),
            version: None,
        },
        token,
        features: None,
        capabilities: None,
    };
    match caller.call(&hello, options.hello_wait).await {
        Ok(HelloReply::Ok(welcome)) if (SPOKEN.min..=SPOKEN.max).contains(&welcome.version) => {
            caller.speak_0_2();
            Ok(welcome)
        }
        Ok(HelloReply::Ok(welcome)) => {
            let text = format!(
                "it chose RPC version {}, which was not offered",
                welcome.version
            );
            Err(NodeError::Protocol(text).into())
        }
        Err(CallError::Error { tag, .. }) if tag == "UnknownRequest" => Err(OpenError::Old),
        Err(CallError::Closed | CallError::Timeout | CallError::Answer(_)) => Err(OpenError::Old),
        Err(error) => Err(refusal(error, options.hello_wait, place).into()),
    }
}

/// Asks who the node is, as a module of 0.1.
async fn who_is(caller: &Caller, options: &TcpOptions, place: &Place) -> Result<PeerId, NodeError> {
    let asked = caller.call(&QuerySystem {}, options.query_wait).await;
    match asked {
        Ok(QuerySystemReply::Ok { peer_id }) => Ok(peer_id),
        Err(error) => Err(refusal(error, options.query_wait, place)),
    }
}

/// An error of a greeting, with what to do.
fn refusal(error: CallError, wait: Duration, place: &Place) -> NodeError {
    match translate::call_error(error, wait) {
        NodeError::Refused(reason) => NodeError::Refused(format!("{reason} ({})", place.advice())),
        error => error,
    }
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn unreachable(error: io::Error) -> NodeError {
    NodeError::Unreachable(error.to_string())
}

/// Why there is no connection.
enum OpenError {
    /// The node knows no Hello: it is of version 0.1.
    Old,
    Failed(NodeError),
}

impl From<NodeError> for OpenError {
    fn from(error: NodeError) -> Self {
        Self::Failed(error)
    }
}

impl Connection {
    /// Connects, and asks the node who it is: as a module of 0.2 where that can be, else as one of
    /// 0.1. `old`: what the node was found to be.
    pub(super) async fn open(
        place: &Place,
        options: &TcpOptions,
        role: Role,
        old: &AtomicBool,
    ) -> Result<Arc<Self>, NodeError> {
        let greeting = place.greeting()?;
        if matches!(greeting, Greeting::Hello(_)) && !old.load(Ordering::Relaxed) {
            match Self::begin(place, options, role.clone(), greeting.clone()).await {
                Ok(connection) => return Ok(connection),
                Err(OpenError::Failed(error)) => return Err(error),
                Err(OpenError::Old) => old.store(true, Ordering::Relaxed),
            }
        }
        let opened = Self::begin(place, options, role.clone(), Greeting::None).await;
        let was_updated = match &opened {
            Ok(connection) => !connection.is_0_1(),
            Err(_) => true,
        };
        if was_updated && old.swap(false, Ordering::Relaxed) && opened.is_ok() {
            return match Self::begin(place, options, role, greeting).await {
                Ok(connection) => Ok(connection),
                // A node of ours that knows no Hello.
                Err(OpenError::Old) => opened.map_err(|error| error.into_node_error(place)),
                Err(error) => Err(error.into_node_error(place)),
            };
        }
        opened.map_err(|error| error.into_node_error(place))
    }

    async fn begin(
        place: &Place,
        options: &TcpOptions,
        role: Role,
        greeting: Greeting,
    ) -> Result<Arc<Self>, OpenError> {
        let wait = options.connect_wait;
        let late = |_| NodeError::Timeout(wait.as_secs());
        let socket = timeout(wait, place.connect()).await.map_err(late)?;
        let socket = socket.map_err(|error| {
            NodeError::Unreachable(format!("can't connect to {place}: {error}"))
        })?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let shared = Arc::new(Shared {
            routes: Mutex::default(),
            is_0_1: AtomicBool::new(false),
            closed: closed.clone(),
        });
        let (mux, opens) = Mux::new();
        tokio::spawn(drive_until(socket, opens, closed.clone()));
        let stream = timeout(wait, mux.open()).await.map_err(late)?;
        let caller = exchange(stream.map_err(unreachable)?, &shared, &mux, role);
        let peer_id = match greeting {
            Greeting::Hello(token) => hello(&caller, token, options, place).await?.peer_id,
            Greeting::None => who_is(&caller, options, place).await?,
        };
        guard.disarm();
        Ok(Arc::new(Self {
            caller,
            peer_id,
            mux,
            shared,
        }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Whether the node is of version 0.1, as its answers show.
    pub(super) fn is_0_1(&self) -> bool {
        self.shared.is_0_1.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Subscribes; no event is lost between the node's answer and the route.
    pub(super) async fn subscribe<C>(
        &self,
        request: &C,
        wait: Duration,
        route: Route,
    ) -> Result<Subscribed, NodeError>
    where
        C: Call<Reply = FilteredReply<Subscribed>>,
    {
        let shared = Arc::clone(&self.shared);
        let on_answer = move |reply: &C::Reply| {
            if let FilteredReply::Ok(subscribed) = reply {
                lock(&shared.routes).insert(subscribed.id(), route);
            }
        };
        let reply = self.caller.call_and(request, wait, on_answer).await;
        translate::filtered(reply.map_err(|error| translate::call_error(error, wait))?)
    }

    /// Forgets a subscription, and tells the node.
    pub(super) async fn unsubscribe(&self, subscription_id: SubscriptionId, wait: Duration) {
        let request = CancelSubscription { subscription_id };
        // If the node is gone, so is the subscription.
        let _ = self.caller.call(&request, wait).await;
        lock(&self.shared.routes).remove(&subscription_id);
    }

    /// Corrects a record of a 0.1 node: it has the balances of jobs that it pays for as the hex
    /// of their text.
    pub(super) fn mend(&self, mut job: JobRecord) -> JobRecord {
        if self.is_0_1() && job.consumer_peer_id == self.peer_id {
            let mended = job.balance_delta.as_deref().and_then(parse_hex_balance);
            job.balance_delta = mended.map(|wei| wei.to_string()).or(job.balance_delta);
        }
        job
    }

    /// Gives a job up. The node takes it as the provider's word on a connection that provides.
    pub(super) async fn fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
        wait: Duration,
    ) -> Result<(), FailJobError> {
        let request = FailJob {
            provider_peer_id: job.provider.into(),
            provider_job_id: job.job_id.to_string(),
            reason: failure.reason,
            reason_class: failure.reason_class,
            private_payload: None,
        };
        let reply = self.caller.call(&request, wait).await;
        translate::failed(reply.map_err(|error| translate::call_error(error, wait))?)
    }

    /// Completes a job as its provider.
    pub(super) async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
        wait: Duration,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        let request = ProviderCompleteJob {
            provider_peer_id: job.provider.into(),
            provider_job_id: job.job_id.to_string(),
            balance_delta: completion.balance_delta.map(|balance| balance.to_string()),
            public_payload: completion.public_payload,
            private_payload: completion.private_payload,
        };
        let reply = self.caller.call(&request, wait).await;
        translate::provider_completed(reply.map_err(|error| translate::call_error(error, wait))?)
    }
}

async fn drive_until(socket: JobStream, opens: OpenRequests, closed: CancellationToken) {
    // A node opens no streams; one that does is reset.
    let driven = drive(socket, Side::Module, opens, drop);
    if let Some(Err(error)) = cancel_after(driven, closed).await {
        tracing::debug!(%error, "the connection to the node broke");
    }
}

/// Runs until done or `closed`, and closes.
async fn cancel_after<T>(work: impl Future<Output = T>, closed: CancellationToken) -> Option<T> {
    let result = closed.run_until_cancelled(work).await;
    closed.cancel();
    result
}

/// Reads the frames of a connection.
struct Reading {
    shared: Arc<Shared>,
    caller: Caller,
    mux: Mux,
    role: Role,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    #[error("the node tells of over {STATE_ITEMS} items at once")]
    State,
}

impl Reading {
    async fn run(self, mut reader: impl AsyncRead + Unpin) -> Result<(), ReadError> {
        let budget = ReadBudget::default();
        while let Some(received) = read_frame(&mut reader, &budget).await? {
            if received.body.first() == Some(&MAP_OF_UNSTATED_LENGTH) {
                self.shared.is_0_1.store(true, Ordering::Relaxed);
            }
            let frame = Frame::decode(&received.body)?;
            match frame.kind {
                FrameKind::Response => self.caller.answer(&frame),
                FrameKind::Request => self.request(&frame).await?,
                // What a node asks of a module is short: it is answered all the same.
                FrameKind::Cancel => {}
            }
        }
        Ok(())
    }

    async fn request(&self, frame: &Frame<'_>) -> Result<(), ReadError> {
        match self.event(frame) {
            Ok(true) => {}
            Ok(false) => {
                if let Role::Provider(service) = &self.role {
                    service.request(frame, &self.caller, &self.mux).await;
                    return Ok(());
                }
                tracing::debug!(request = frame.type_name.as_ref(), "an unexpected request");
            }
            Err(ReadError::Decode(error)) => {
                let event = frame.type_name.as_ref();
                tracing::warn!(event, %error, "an event of the node can't be read");
            }
            Err(error) => return Err(error),
        }
        if !self.caller.is_0_2() {
            // Fails only when the connection has closed.
            let _ = self.caller.acknowledge(frame.id).await;
        }
        Ok(())
    }

    /// Routes an event; false for other requests.
    fn event(&self, frame: &Frame<'_>) -> Result<bool, ReadError> {
        match frame.type_name.as_ref() {
            EventOfferUpdated::TYPE => {
                let EventOfferUpdated(event) = cbor::from_slice(frame.data)?;
                let told = Told::OfferUpdated(event.payload);
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            EventOfferRemoved::TYPE => {
                let EventOfferRemoved(event) = cbor::from_slice(frame.data)?;
                let told = Told::OfferRemoved(event.payload);
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            EventProviderUpdated::TYPE => {
                let EventProviderUpdated(event) = cbor::from_slice(frame.data)?;
                let told = Told::ProviderUpdated(event.payload);
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            EventProviderHeartbeat::TYPE => {
                let EventProviderHeartbeat(event) = cbor::from_slice(frame.data)?;
                let told = Told::ProviderHeartbeat(event.payload);
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            EventJobUpdated::TYPE => {
                let EventJobUpdated(event) = cbor::from_slice(frame.data)?;
                let told = Told::JobUpdated(Box::new(event.payload));
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            EventReset::TYPE => {
                let EventReset { subscription_id } = cbor::from_slice(frame.data)?;
                self.route(subscription_id, |route| {
                    route.state = Some(Vec::new());
                    Ok(true)
                })?;
            }
            EventReady::TYPE => {
                let ready: EventReady = cbor::from_slice(frame.data)?;
                self.route(ready.subscription_id, |route| route.ready(ready.cursor))?;
            }
            EventNodeState::TYPE => {
                let EventNodeState(event) = cbor::from_slice(frame.data)?;
                let told = Told::NodeState(event.payload);
                self.route(event.subscription_id, |route| {
                    route.take(told, event.cursor)
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Hands something to a subscription's route, and forgets a route that nobody listens to.
    fn route(
        &self,
        id: SubscriptionId,
        hand: impl FnOnce(&mut Route) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        let mut routes = lock(&self.shared.routes);
        let Some(route) = routes.get_mut(&id) else {
            return Ok(());
        };
        if !hand(route)? {
            routes.remove(&id);
        }
        Ok(())
    }
}

/// A job's byte pipe: a stream of the connection, which lives as long as its pipes.
#[derive(Debug)]
pub(super) struct JobPipe {
    stream: MuxStream,
    _connection: Option<Arc<Connection>>,
}

impl JobPipe {
    /// Claims a job connection of the node.
    pub(super) async fn open(
        connection: &Arc<Connection>,
        ticket: Ticket,
        wait: Duration,
    ) -> Result<Self, NodeError> {
        let pipe = Self::claim(&connection.mux, ticket, wait).await?;
        Ok(Self {
            _connection: Some(Arc::clone(connection)),
            ..pipe
        })
    }

    /// Like [`JobPipe::open`], without keeping the connection open.
    pub(super) async fn claim(
        mux: &Mux,
        ticket: Ticket,
        wait: Duration,
    ) -> Result<Self, NodeError> {
        let claimed = timeout(wait, async {
            let mut stream = mux.open().await?;
            stream.write_all(&ticket.to_bytes()).await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream)
        });
        let stream = claimed
            .await
            .map_err(|_| NodeError::Timeout(wait.as_secs()))?;
        Ok(Self {
            stream: stream.map_err(unreachable)?,
            _connection: None,
        })
    }
}

impl AsyncRead for JobPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for JobPipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

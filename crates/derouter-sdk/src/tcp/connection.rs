//! One connection to a node: calls, events and job pipes.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use derouter_wire::cbor;
use derouter_wire::rpc::event::{
    EventJobUpdated, EventNodeState, EventOfferRemoved, EventOfferUpdated, EventProviderHeartbeat,
    EventProviderUpdated, NodeStateChanged, OfferRemoved, ProviderHeartbeat,
};
use derouter_wire::rpc::record::{
    FailureReason, JobRecord, OfferSnapshot, ProviderRecord, parse_hex_balance,
};
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::{Call, Frame, FrameKind};
use derouter_wire::{ConnectionId, JobKey, PeerId, SubscriptionId, UnixSeconds};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::{Caller, FrameError, Mux, MuxStream, ReadBudget, Side, drive, read_frame};
use super::service::Service;
use super::{TcpOptions, lock, translate};
use crate::error::{FailJobError, NodeError, ProviderCompleteError};
use crate::provider::ProviderCompletion;

/// Events of one subscription that wait for its watch. At the limit the watch starts over with a
/// full state.
pub(super) const ROUTE_EVENTS: usize = 1024;

/// How a 0.1 node begins a frame: a map of unstated length. Ours state it.
const MAP_OF_UNSTATED_LENGTH: u8 = 0xbf;

/// What a connection is for.
#[derive(Debug)]
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
    State(NodeStateChanged),
}

/// Where the events of a subscription go.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) events: mpsc::Sender<Told>,
    /// Set when events were lost.
    pub(super) lagged: Arc<AtomicBool>,
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

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn unreachable(error: io::Error) -> NodeError {
    NodeError::Unreachable(error.to_string())
}

impl Connection {
    /// Connects, and asks the node who it is.
    pub(super) async fn open(
        address: &str,
        options: &TcpOptions,
        role: Role,
    ) -> Result<Arc<Self>, NodeError> {
        let wait = options.connect_wait;
        let socket = timeout(wait, TcpStream::connect(address)).await;
        let socket = socket.map_err(|_| NodeError::Timeout(wait.as_secs()))?;
        let socket = socket.map_err(|error| {
            NodeError::Unreachable(format!("can't connect to {address}: {error}"))
        })?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let shared = Arc::new(Shared {
            routes: Mutex::default(),
            is_0_1: AtomicBool::new(false),
            closed: closed.clone(),
        });
        let (mux, opens) = Mux::new();
        tokio::spawn(drive_until(socket, opens, closed.clone()));
        let stream = timeout(wait, mux.open()).await;
        let stream = stream
            .map_err(|_| NodeError::Timeout(wait.as_secs()))?
            .map_err(unreachable)?;
        let (caller, outgoing) = Caller::new(closed.clone());
        let (reader, writer) = split(stream);
        let writing = cancel_after(outgoing.write_to(writer), closed.clone());
        tokio::spawn(async move {
            if let Some(Err(reason)) = writing.await {
                tracing::warn!(reason, "the connection to the node broke");
            }
        });
        let reading = Reading {
            shared: Arc::clone(&shared),
            caller: caller.clone(),
            mux: mux.clone(),
            role,
        };
        tokio::spawn(async move {
            if let Some(Err(error)) = cancel_after(reading.run(reader), closed).await {
                tracing::warn!(%error, "the connection to the node broke");
            }
        });
        let asked = caller.call(&QuerySystem {}, options.query_wait).await;
        let QuerySystemReply::Ok { peer_id } =
            asked.map_err(|error| translate::call_error(error, options.query_wait))?;
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
    pub(super) async fn subscribe<C, T>(
        &self,
        request: &C,
        wait: Duration,
        route: Route,
    ) -> Result<SubscriptionId, NodeError>
    where
        C: Call<Reply = T>,
        T: Send + 'static + Subscribed,
    {
        let shared = Arc::clone(&self.shared);
        let on_answer = move |reply: &T| {
            if let Some(id) = reply.id() {
                lock(&shared.routes).insert(id, route);
            }
        };
        let reply = self.caller.call_and(request, wait, on_answer).await;
        let unknown = "this subscription";
        let reply = reply.map_err(|error| translate::new_call_error(error, wait, unknown))?;
        let refused = || NodeError::Invalid("the node does not know a peer id".into());
        reply.id().ok_or_else(refused)
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

/// The answer to a subscription.
pub(super) trait Subscribed {
    /// The subscription, unless it was refused.
    fn id(&self) -> Option<SubscriptionId>;
}

impl Subscribed for FilteredReply<SubscriptionId> {
    fn id(&self) -> Option<SubscriptionId> {
        match self {
            Self::Ok(id) => Some(*id),
            Self::InvalidPeerId(_) => None,
        }
    }
}

impl Subscribed for SubscribedReply {
    fn id(&self) -> Option<SubscriptionId> {
        let Self::Ok(id) = self;
        Some(*id)
    }
}

async fn drive_until(
    socket: TcpStream,
    opens: super::link::OpenRequests,
    closed: CancellationToken,
) {
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
                FrameKind::Request => self.request(&frame).await,
            }
        }
        Ok(())
    }

    async fn request(&self, frame: &Frame<'_>) {
        match self.event(frame) {
            Ok(true) => {}
            Ok(false) => {
                if let Role::Provider(service) = &self.role {
                    return service.request(frame, &self.caller, &self.mux).await;
                }
                tracing::debug!(request = frame.type_name.as_ref(), "an unexpected request");
            }
            Err(error) => {
                let event = frame.type_name.as_ref();
                tracing::warn!(event, %error, "an event of the node can't be read");
            }
        }
        // Fails only when the connection has closed.
        let _ = self.caller.acknowledge(frame.id).await;
    }

    /// Routes an event; false for other requests.
    fn event(&self, frame: &Frame<'_>) -> Result<bool, cbor::DecodeError> {
        let (id, told) = match frame.type_name.as_ref() {
            EventOfferUpdated::TYPE => {
                let EventOfferUpdated(event) = cbor::from_slice(frame.data)?;
                (event.subscription_id, Told::OfferUpdated(event.payload))
            }
            EventOfferRemoved::TYPE => {
                let EventOfferRemoved(event) = cbor::from_slice(frame.data)?;
                (event.subscription_id, Told::OfferRemoved(event.payload))
            }
            EventProviderUpdated::TYPE => {
                let EventProviderUpdated(event) = cbor::from_slice(frame.data)?;
                (event.subscription_id, Told::ProviderUpdated(event.payload))
            }
            EventProviderHeartbeat::TYPE => {
                let EventProviderHeartbeat(event) = cbor::from_slice(frame.data)?;
                (
                    event.subscription_id,
                    Told::ProviderHeartbeat(event.payload),
                )
            }
            EventJobUpdated::TYPE => {
                let EventJobUpdated(event) = cbor::from_slice(frame.data)?;
                (
                    event.subscription_id,
                    Told::JobUpdated(Box::new(event.payload)),
                )
            }
            EventNodeState::TYPE => {
                let EventNodeState(event) = cbor::from_slice(frame.data)?;
                (event.subscription_id, Told::State(event.payload))
            }
            _ => return Ok(false),
        };
        let mut routes = lock(&self.shared.routes);
        let Some(route) = routes.get(&id) else {
            return Ok(true);
        };
        match route.events.try_send(told) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => route.lagged.store(true, Ordering::Release),
            Err(mpsc::error::TrySendError::Closed(_)) => drop(routes.remove(&id)),
        }
        Ok(true)
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
        id: ConnectionId,
        wait: Duration,
    ) -> Result<Self, NodeError> {
        let pipe = Self::claim(&connection.mux, id, wait).await?;
        Ok(Self {
            _connection: Some(Arc::clone(connection)),
            ..pipe
        })
    }

    /// Like [`JobPipe::open`], without keeping the connection open.
    pub(super) async fn claim(
        mux: &Mux,
        id: ConnectionId,
        wait: Duration,
    ) -> Result<Self, NodeError> {
        let claimed = timeout(wait, async {
            let mut stream = mux.open().await?;
            stream.write_all(&id.0.to_be_bytes()).await?;
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

//! One module's connection: its streams, its frames, and how it ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use derouter_sdk::tcp::link::{
    Caller, FrameError, Mux, MuxStream, Outgoing, ReadBudget, ReceivedFrame, Side, WRITING_FAILED,
    drive, read_frame, read_frame_up_to,
};
use derouter_sdk::{ModuleRegistration, Node, Provision};
use derouter_wire::cbor::DecodeError;
use derouter_wire::limits::{RPC_FRAME_BYTES, RPC_HELLO_BYTES, RPC_IN_FLIGHT};
use derouter_wire::rpc::error::ErrorCode;
use derouter_wire::rpc::hello::Hello;
use derouter_wire::rpc::{Call, Frame, FrameKind};
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::asked::{Asked, Ending};
use super::failure::Failure;
use super::greeting::{Dialect, Door};
use super::job_connections::JobConnections;
use super::provider::ModuleService;
use super::subscriptions::Subscriptions;

/// How long whoever must say Hello may take to. Modules say it at once. Those of 0.1 may take any
/// time, as they always could.
const HELLO_WAIT: Duration = Duration::from_secs(30);

/// How long a connection stays open behind a refusal, for the module to read it.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// What one module's requests work with.
pub(super) struct Session {
    pub(super) node: Arc<dyn Node>,
    pub(super) caller: Caller,
    pub(super) service: Arc<ModuleService>,
    pub(super) job_connections: Arc<JobConnections>,
    pub(super) subscriptions: Subscriptions,
    pub(super) door: Arc<Door>,
    /// From where the module connects, for logs.
    pub(super) from: String,
    dialect: Arc<OnceLock<Dialect>>,
    provisions: Mutex<Vec<Provision>>,
    registration: OnceLock<ModuleRegistration>,
    /// Requests of 0.2 in work, by id, to cancel them.
    running: Mutex<HashMap<u32, CancellationToken>>,
    closed: CancellationToken,
}

/// Why a connection is closed from here.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it closed its stream of frames")]
    Finished,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it sent a frame that can't be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Write(&'static str),
    #[error("it was refused: {0}")]
    Refused(String),
}

impl End {
    /// Whether the module did wrong. One that ends without a word resets its connection, maybe
    /// inside of a frame or while the node writes: that is how modules leave.
    fn is_fault(&self) -> bool {
        match self {
            Self::Finished | Self::Frame(FrameError::Io(_) | FrameError::Truncated) => false,
            Self::Write(reason) => *reason != WRITING_FAILED,
            Self::Frame(_) | Self::Decode(_) | Self::Refused(_) => true,
        }
    }
}

/// Serves a module until it goes, breaks the framing, or `closed` is cancelled.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    from: String,
    node: Arc<dyn Node>,
    door: Arc<Door>,
    closed: CancellationToken,
) {
    tracing::debug!(from, "a module connects");
    let (caller, outgoing) = Caller::new(closed.clone());
    let session = Arc::new(Session::new(node, caller, door, from, closed.clone()));
    let mut outgoing = Some(outgoing);
    let on_inbound = |stream: MuxStream| {
        let (session, closed) = (Arc::clone(&session), closed.clone());
        match outgoing.take() {
            Some(outgoing) => tokio::spawn(session.frames(stream, outgoing)),
            None => tokio::spawn(async move {
                let join = session.job_connections.join(stream);
                closed.run_until_cancelled(join).await;
            }),
        };
    };
    // The node opens no streams.
    let (_, no_opens) = Mux::new();
    let driven = drive(socket, Side::Node, no_opens, on_inbound);
    let driven = async {
        tokio::select! {
            driven = driven => driven,
            () = session.silent() => {
                tracing::warn!(from = %session.from, "dropped a module that says no Hello");
                Ok(())
            }
        }
    };
    match closed.run_until_cancelled(driven).await {
        Some(Ok(())) => tracing::debug!(from = %session.from, "a module has disconnected"),
        // Whoever said nothing looked whether anybody is here.
        Some(Err(error)) if session.dialect().is_none() => {
            tracing::debug!(from = %session.from, %error, "a connection broke before it began");
        }
        Some(Err(error)) => {
            tracing::info!(from = %session.from, %error, "a module's connection broke");
        }
        None => {}
    }
    closed.cancel();
    session.take_back_offers();
}

impl Session {
    fn new(
        node: Arc<dyn Node>,
        caller: Caller,
        door: Arc<Door>,
        from: String,
        closed: CancellationToken,
    ) -> Self {
        let dialect = Arc::new(OnceLock::new());
        let job_connections = JobConnections::new(Arc::clone(&dialect), closed.clone());
        let job_connections = Arc::new(job_connections);
        let service = ModuleService::new(caller.clone(), Arc::clone(&job_connections));
        let subscriptions = Subscriptions::start(Arc::clone(&node), caller.clone(), closed.clone());
        Self {
            node,
            caller,
            service: Arc::new(service),
            job_connections,
            subscriptions,
            door,
            from,
            dialect,
            provisions: Mutex::default(),
            registration: OnceLock::new(),
            running: Mutex::default(),
            closed,
        }
    }

    async fn frames(self: Arc<Self>, stream: MuxStream, outgoing: Outgoing) {
        let (reader, writer) = split(stream);
        let end = tokio::select! {
            end = self.read(reader) => end,
            reason = outgoing.write_to(writer) => reason.err().map_or(End::Finished, End::Write),
            () = self.closed.cancelled() => return,
        };
        if end.is_fault() {
            tracing::warn!(from = %self.from, reason = %end, "closed a module's connection");
        } else {
            tracing::debug!(from = %self.from, reason = %end, "a module's connection ends");
        }
        self.closed.cancel();
    }

    /// Keeps the module among those that the node tells of, for as long as the connection lives.
    pub(super) fn keep_registration(&self, registration: ModuleRegistration) {
        // Hello comes once.
        let _ = self.registration.set(registration);
    }

    /// What the connection speaks, once its first request has told.
    pub(super) fn dialect(&self) -> Option<&Dialect> {
        self.dialect.get()
    }

    /// Reads frames until there are no more or they can't be read.
    async fn read(self: &Arc<Self>, mut reader: impl AsyncRead + Unpin) -> End {
        let budget = ReadBudget::default();
        let in_flight = Arc::new(Semaphore::new(RPC_IN_FLIGHT));
        let first = match self.first_request(&mut reader, &budget).await {
            Ok(first) => first,
            Err(end) => return end,
        };
        match self.begin(first, &in_flight).await {
            Ok(dialect) => {
                tracing::trace!(from = %self.from, ?dialect, "a module's connection begins");
            }
            Err(failure) => {
                linger(&mut reader).await;
                return End::Refused(failure.text);
            }
        }
        loop {
            let received = match read_frame(&mut reader, &budget).await {
                Ok(Some(received)) => received,
                Ok(None) => return End::Finished,
                Err(error) => return error.into(),
            };
            if let Err(error) = self.take(received, &in_flight).await {
                return error.into();
            }
        }
    }

    /// Resolves when who must say Hello has not done so in time, on whatever stream.
    async fn silent(&self) {
        sleep(HELLO_WAIT).await;
        if self.door.allow_legacy || self.dialect().is_some() {
            std::future::pending::<()>().await;
        }
    }

    /// The first request. Who must prove itself first does not get much room.
    async fn first_request(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        budget: &ReadBudget,
    ) -> Result<ReceivedFrame, End> {
        let most = match self.door.allow_legacy {
            true => RPC_FRAME_BYTES,
            false => RPC_HELLO_BYTES,
        };
        loop {
            let received = read_frame_up_to(most, reader, budget).await?;
            let received = received.ok_or(End::Finished)?;
            // Answers that nobody waits for are ignored, here as later.
            if Frame::decode(&received.body)?.kind != FrameKind::Response {
                return Ok(received);
            }
        }
    }

    /// Settles what the connection speaks.
    async fn begin(
        self: &Arc<Self>,
        first: ReceivedFrame,
        in_flight: &Arc<Semaphore>,
    ) -> Result<Dialect, Failure> {
        let frame = Frame::decode(&first.body)?;
        if frame.kind == FrameKind::Request && frame.type_name == Hello::TYPE {
            self.caller.speak_0_2();
            let dialect = self.hello(&frame).await;
            if let Err(failure) = &dialect {
                // Fails only when the connection has closed.
                let _ = self.caller.respond(frame.id, Hello::TYPE, failure).await;
            }
            let dialect = dialect?;
            return Ok(self.dialect.get_or_init(|| dialect).clone());
        }
        if !self.door.allow_legacy {
            let failure = Failure::of(ErrorCode::HelloRequired);
            let name = frame.type_name.as_ref();
            let _ = self.caller.respond(frame.id, name, &failure).await;
            return Err(failure);
        }
        let dialect = self.dialect.get_or_init(|| Dialect::Legacy).clone();
        self.take(first, in_flight).await?;
        Ok(dialect)
    }

    async fn take(
        self: &Arc<Self>,
        received: ReceivedFrame,
        in_flight: &Arc<Semaphore>,
    ) -> Result<(), DecodeError> {
        let frame = Frame::decode(&received.body)?;
        let is_0_2 = self.dialect().is_some_and(Dialect::is_0_2);
        match frame.kind {
            FrameKind::Response => self.caller.answer(&frame),
            FrameKind::Cancel if is_0_2 => self.cancel(frame.id),
            FrameKind::Cancel => return Err(DecodeError::unexpected("a 0.1 module cancels")),
            FrameKind::Request if is_0_2 => {
                let id = frame.id;
                self.start(id, received, in_flight).await;
            }
            FrameKind::Request => self.start_legacy(received, in_flight).await,
        }
        Ok(())
    }

    async fn start_legacy(self: &Arc<Self>, received: ReceivedFrame, in_flight: &Arc<Semaphore>) {
        let permit = Arc::clone(in_flight).acquire_owned().await;
        let session = Arc::clone(self);
        tokio::spawn(async move {
            // It was decoded before.
            if let Ok(frame) = Frame::decode(&received.body) {
                let asked = Asked::new(frame);
                let work = session.handle(&asked);
                session.closed.run_until_cancelled(work).await;
            }
            drop(permit);
        });
    }

    async fn start(self: &Arc<Self>, id: u32, received: ReceivedFrame, in_flight: &Arc<Semaphore>) {
        let permit = Arc::clone(in_flight).acquire_owned().await;
        // Before the next frame is read, which may cancel it.
        let cancelled = self.register(id);
        let session = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(frame) = Frame::decode(&received.body) {
                let asked = Asked::new(frame);
                let work = session.work(&asked, cancelled);
                session.closed.run_until_cancelled(work).await;
            }
            drop(permit);
        });
    }

    /// Notes that a request is in work; `None` when one of its id is already.
    fn register(&self, id: u32) -> Option<CancellationToken> {
        match self.running().entry(id) {
            Entry::Vacant(free) => Some(free.insert(CancellationToken::new()).clone()),
            Entry::Occupied(_) => None,
        }
    }

    /// Answers a request of 0.2.
    async fn work(&self, asked: &Asked<'_>, cancelled: Option<CancellationToken>) {
        let id = asked.frame.id;
        let Some(cancelled) = cancelled else {
            let failure = Failure::bad(format_args!("a request of the id {id} is in work"));
            return self.refuse(asked, failure).await;
        };
        self.work_until(asked, &cancelled).await;
        self.running().remove(&id);
    }

    /// Answers once: when it is done, cancelled, or its deadline has passed.
    async fn work_until(&self, asked: &Asked<'_>, cancelled: &CancellationToken) {
        let (ending, deadline) = (Ending::of(asked.name()), asked.deadline());
        let mut work = std::pin::pin!(self.handle(asked));
        if ending == Ending::Immediate {
            return work.await;
        }
        let failure = tokio::select! {
            biased;
            () = &mut work => return,
            () = cancelled.cancelled(), if ending == Ending::Dropped => {
                Failure::of(ErrorCode::Cancelled)
            }
            () = sleep(deadline) => Failure::of(ErrorCode::DeadlineExceeded),
        };
        self.refuse(asked, failure).await;
        if ending == Ending::Finished {
            // Its answer was given above: its own is not sent.
            work.await;
        }
    }

    /// Cancels a request, if it is in work. Its answer may be under way already.
    fn cancel(&self, id: u32) {
        let running = self.running().get(&id).cloned();
        if let Some(cancelled) = running {
            cancelled.cancel();
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u32, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a provision for as long as the connection lives.
    pub(super) fn keep(&self, provision: Provision) {
        let mut provisions = self.provisions();
        // A provision that comes after the end must not stay.
        if !self.closed.is_cancelled() {
            provisions.push(provision);
        }
    }

    /// How many offers this connection provides.
    pub(super) fn provided(&self) -> usize {
        self.provisions().len()
    }

    /// Takes all offers of this connection off the market.
    pub(super) fn take_back_offers(&self) {
        let provisions = std::mem::take(&mut *self.provisions());
        // Dropped here, without the lock: a drop runs the node's code.
        drop(provisions);
    }

    fn provisions(&self) -> MutexGuard<'_, Vec<Provision>> {
        self.provisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads on for a while, so that a refusal is not lost with the connection.
async fn linger(reader: &mut (impl AsyncRead + Unpin)) {
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(reader, &mut nowhere);
    let _ = timeout(REFUSAL_WAIT, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_leaves_without_a_word_is_no_fault() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!End::Finished.is_fault());
        assert!(!End::Frame(FrameError::Io(reset)).is_fault());
        assert!(!End::Frame(FrameError::Truncated).is_fault());
        assert!(!End::Write(WRITING_FAILED).is_fault());
        assert!(End::Write("it took nothing").is_fault());
    }
}

//! One module's connection: its streams, its frames, and how it ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use derouter_sdk::tcp::link::{
    Caller, FrameError, Mux, MuxStream, Outgoing, ReadBudget, ReceivedFrame, Side, WRITING_FAILED,
    drive, read_frame,
};
use derouter_sdk::{Node, Provision};
use derouter_wire::cbor::DecodeError;
use derouter_wire::rpc::{Frame, FrameKind};
use tokio::io::{AsyncRead, split};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::job_connections::JobConnections;
use super::provider::ModuleService;
use super::subscriptions::Subscriptions;

/// Requests of one connection in work. Further ones wait unread, so a module that floods slows
/// itself.
const IN_FLIGHT: usize = 256;

/// What one module's requests work with.
pub(super) struct Session {
    pub(super) node: Arc<dyn Node>,
    pub(super) caller: Caller,
    pub(super) service: Arc<ModuleService>,
    pub(super) job_connections: Arc<JobConnections>,
    pub(super) subscriptions: Subscriptions,
    provisions: Mutex<Vec<Provision>>,
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
}

impl End {
    /// Whether the module did wrong. One that ends without a word resets its connection, maybe
    /// inside of a frame or while the node writes: that is how modules leave.
    fn is_fault(&self) -> bool {
        match self {
            Self::Finished | Self::Frame(FrameError::Io(_) | FrameError::Truncated) => false,
            Self::Write(reason) => *reason != WRITING_FAILED,
            Self::Frame(_) | Self::Decode(_) => true,
        }
    }
}

/// Serves a module until it goes, breaks the framing, or `closed` is cancelled.
pub(super) async fn serve(
    socket: TcpStream,
    address: SocketAddr,
    node: Arc<dyn Node>,
    closed: CancellationToken,
) {
    tracing::debug!(%address, "a module connects");
    let (caller, outgoing) = Caller::new(closed.clone());
    let session = Arc::new(Session::new(node, caller, closed.clone()));
    let mut outgoing = Some(outgoing);
    let on_inbound = |stream: MuxStream| {
        let (session, closed) = (Arc::clone(&session), closed.clone());
        match outgoing.take() {
            Some(outgoing) => tokio::spawn(session.frames(stream, outgoing, address)),
            None => tokio::spawn(async move {
                let join = session.job_connections.join(stream);
                closed.run_until_cancelled(join).await;
            }),
        };
    };
    // The node opens no streams.
    let (_, no_opens) = Mux::new();
    let driven = drive(socket, Side::Node, no_opens, on_inbound);
    match closed.run_until_cancelled(driven).await {
        Some(Ok(())) => tracing::debug!(%address, "a module has disconnected"),
        Some(Err(error)) => tracing::info!(%address, %error, "a module's connection broke"),
        None => {}
    }
    closed.cancel();
    session.take_back_offers();
}

impl Session {
    fn new(node: Arc<dyn Node>, caller: Caller, closed: CancellationToken) -> Self {
        let job_connections = Arc::new(JobConnections::new(closed.clone()));
        let service = ModuleService::new(caller.clone(), Arc::clone(&job_connections));
        let subscriptions = Subscriptions::start(Arc::clone(&node), caller.clone(), closed.clone());
        Self {
            node,
            caller,
            service: Arc::new(service),
            job_connections,
            subscriptions,
            provisions: Mutex::default(),
            closed,
        }
    }

    async fn frames(self: Arc<Self>, stream: MuxStream, outgoing: Outgoing, address: SocketAddr) {
        let (reader, writer) = split(stream);
        let end = tokio::select! {
            end = self.read(reader) => end,
            reason = outgoing.write_to(writer) => reason.err().map_or(End::Finished, End::Write),
            () = self.closed.cancelled() => return,
        };
        if end.is_fault() {
            tracing::warn!(%address, reason = %end, "closed a module's connection");
        } else {
            tracing::debug!(%address, reason = %end, "a module's connection ends");
        }
        self.closed.cancel();
    }

    /// Reads frames until there are no more or they can't be read.
    async fn read(self: &Arc<Self>, mut reader: impl AsyncRead + Unpin) -> End {
        let (budget, in_flight) = (ReadBudget::default(), Arc::new(Semaphore::new(IN_FLIGHT)));
        loop {
            let received = match read_frame(&mut reader, &budget).await {
                Ok(Some(received)) => received,
                Ok(None) => return End::Finished,
                Err(error) => return error.into(),
            };
            match Frame::decode(&received.body) {
                Ok(frame) if frame.kind == FrameKind::Response => self.caller.answer(&frame),
                Ok(_) => self.start(received, &in_flight).await,
                Err(error) => return error.into(),
            }
        }
    }

    async fn start(self: &Arc<Self>, received: ReceivedFrame, in_flight: &Arc<Semaphore>) {
        let permit = Arc::clone(in_flight).acquire_owned().await;
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let work = session.handle(&received.body);
            session.closed.run_until_cancelled(work).await;
            drop(permit);
        });
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

    fn provisions(&self) -> std::sync::MutexGuard<'_, Vec<Provision>> {
        self.provisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
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

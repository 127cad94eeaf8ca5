//! A connection that carries many streams (yamux).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use derouter_wire::limits;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode};

use super::paced::{HEADER_BYTES, MAX_BODY_BYTES, Paced};

/// The largest yamux data frame that we send: what Node.js reads at once. A value that is split
/// over frames makes 0.1.0 modules spin, so not smaller; see [`paced`](super::paced) why not larger.
pub(super) const SPLIT_SEND_BYTES: usize = MAX_BODY_BYTES;

/// Receive windows over all streams: yamux guarantees 256 KiB to each; the rest is for the few
/// that are fast.
const STREAM_WINDOW_BYTES: usize = 256 * 1024;
const SPARE_WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// Streams that may wait to be opened; the callers behind them wait.
const OPEN_REQUESTS: usize = 64;

/// Which end this is. The module is yamux's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A module.
    Module,
    /// A node.
    Node,
}

type Opened = oneshot::Sender<io::Result<MuxStream>>;

/// Opens streams on a driven connection.
#[derive(Clone, Debug)]
pub struct Mux {
    opens: mpsc::Sender<Opened>,
}

/// What [`Mux::open`] asks of the driver.
#[derive(Debug)]
pub struct OpenRequests(mpsc::Receiver<Opened>);

/// A stream of a multiplexed connection. Dropping it resets it, unless it was shut down.
#[derive(Debug)]
pub struct MuxStream {
    inner: Compat<yamux::Stream>,
    write_closed: bool,
}

impl Mux {
    /// A handle, and what [`drive`] needs to serve it.
    pub fn new() -> (Self, OpenRequests) {
        let (opens, requests) = mpsc::channel(OPEN_REQUESTS);
        (Self { opens }, OpenRequests(requests))
    }

    /// Opens a stream. Waits while the other end has too many unacknowledged ones.
    pub async fn open(&self) -> io::Result<MuxStream> {
        let (opened, answer) = oneshot::channel();
        let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
        self.opens.send(opened).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

fn config() -> Config {
    // One more than the limit, for the stream that carries the frames.
    let streams = limits::RPC_STREAMS + 1;
    let mut config = Config::default();
    config.set_max_connection_receive_window(Some(
        streams * STREAM_WINDOW_BYTES + SPARE_WINDOW_BYTES,
    ));
    config.set_max_num_streams(streams);
    config.set_split_send_size(SPLIT_SEND_BYTES);
    config
}

/// Moves bytes for all streams of a connection until it ends; nothing moves while this is not
/// polled. `on_inbound` gets the streams that the other end opens.
pub async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    side: Side,
    requests: OpenRequests,
    on_inbound: impl FnMut(MuxStream),
) -> Result<(), ConnectionError> {
    match side {
        Side::Node => {
            let connection = Connection::new(Paced::new(socket).compat(), config(), Mode::Server);
            poll_all(connection, requests, on_inbound).await
        }
        Side::Module => {
            // yamux writes header and body apart, and flushes behind each frame.
            let socket = BufWriter::with_capacity(SPLIT_SEND_BYTES + HEADER_BYTES, socket);
            let connection = Connection::new(socket.compat(), config(), Mode::Client);
            poll_all(connection, requests, on_inbound).await
        }
    }
}

async fn poll_all<T: futures::AsyncRead + futures::AsyncWrite + Unpin>(
    mut connection: Connection<T>,
    mut requests: OpenRequests,
    mut on_inbound: impl FnMut(MuxStream),
) -> Result<(), ConnectionError> {
    let mut waiting: Option<Opened> = None;
    poll_fn(|cx| {
        loop {
            poll_opens(&mut connection, &mut requests.0, &mut waiting, cx);
            match ready!(connection.poll_next_inbound(cx)) {
                Some(Ok(stream)) => on_inbound(MuxStream::new(stream)),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await
}

fn poll_opens<T: futures::AsyncRead + futures::AsyncWrite + Unpin>(
    connection: &mut Connection<T>,
    requests: &mut mpsc::Receiver<Opened>,
    waiting: &mut Option<Opened>,
    cx: &mut Context<'_>,
) {
    loop {
        if waiting.is_none() {
            match requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => *waiting = Some(request),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
        let Poll::Ready(opened) = connection.poll_new_outbound(cx) else {
            return;
        };
        if let Some(request) = waiting.take() {
            // A caller that has gone drops the stream, which resets it.
            let _ = request.send(opened.map(MuxStream::new).map_err(io::Error::other));
        }
    }
}

impl MuxStream {
    fn new(stream: yamux::Stream) -> Self {
        Self {
            inner: stream.compat(),
            write_closed: false,
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let ended = buffer.filled().len() == before && buffer.remaining() > 0;
        // yamux shows a reset as end-of-file; users must know an abort from a half-close.
        if ended && !self.write_closed && self.inner.get_ref().is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        self.write_closed = true;
        Poll::Ready(Ok(()))
    }
}

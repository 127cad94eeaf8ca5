//! Yamux as a libp2p muxer. Like `libp2p-yamux`, whose settings leave out windows and frame sizes;
//! same bytes on the wire.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io::{self, IoSlice};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode};

use super::coalesced::Coalesced;
use crate::limits;

const PROTOCOL: &str = "/yamux/1.0.0";

/// The yamux upgrade with this node's windows.
#[derive(Clone, Debug)]
pub(super) struct Yamux(yamux::Config);

impl Yamux {
    pub(super) fn new() -> Self {
        let mut config = yamux::Config::default();
        // In this order: each setter checks the pair.
        config.set_max_num_streams(limits::YAMUX_STREAMS);
        config.set_max_connection_receive_window(Some(limits::YAMUX_WINDOWS));
        config.set_split_send_size(limits::YAMUX_FRAME_BYTES);
        Self(config)
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, self.0, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, self.0, Mode::Client)))
    }
}

/// A yamux connection. It only moves when it is asked for inbound streams, so that those which come
/// while something else is wanted are kept for a moment.
#[derive(Debug)]
pub(super) struct Muxer<C> {
    connection: Connection<Coalesced<C>>,
    inbound: VecDeque<Substream>,
    inbound_waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, config: yamux::Config, mode: Mode) -> Self {
        Self {
            connection: Connection::new(Coalesced::new(io), config, mode),
            inbound: VecDeque::new(),
            inbound_waker: None,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Substream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        let stream = next.unwrap_or(Err(ConnectionError::Closed));
        Poll::Ready(stream.map(Substream::new))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Substream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let this = self.get_mut();
        if let Some(stream) = this.inbound.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        if let Poll::Ready(stream) = this.poll_next(cx) {
            return Poll::Ready(stream);
        }
        this.inbound_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let stream = ready!(self.get_mut().connection.poll_new_outbound(cx));
        Poll::Ready(stream.map(Substream::new))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.get_mut().connection.poll_close(cx)
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let this = self.get_mut();
        let stream = ready!(this.poll_next(cx))?;
        if this.inbound.len() < limits::YAMUX_WAITING_STREAMS {
            this.inbound.push_back(stream);
            if let Some(waker) = this.inbound_waker.take() {
                waker.wake();
            }
        } else {
            tracing::debug!("a substream was dropped: too many wait for negotiation");
        }
        // Others get their turn between two streams.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A substream that tells a reset, and a connection that broke, from an end. Yamux gives both as the
/// end of what there is to read, so that half an answer would look like a whole one.
///
/// It can't be told once this side has ended its own direction: yamux then knows the stream as
/// closed either way.
#[derive(Debug)]
pub(super) struct Substream {
    stream: yamux::Stream,
    ended: bool,
}

impl Substream {
    fn new(stream: yamux::Stream) -> Self {
        Self {
            stream,
            ended: false,
        }
    }
}

impl AsyncRead for Substream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer)?);
        // An end that the peer sent leaves this side's direction open.
        if bytes == 0 && !buffer.is_empty() && !this.ended && this.stream.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // One that is closed already was reset: that is still to be told.
        this.ended |= !this.stream.is_closed();
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

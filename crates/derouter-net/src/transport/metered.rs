//! A muxer whose substreams are counted, and limited where there is a limit.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

use super::limiter::Turn;
use super::meter::ConnectionMeter;

/// See the module.
#[derive(Debug)]
pub(super) struct Metered<M> {
    muxer: M,
    meter: Arc<ConnectionMeter>,
}

impl<M> Metered<M> {
    pub(super) fn new(muxer: M, meter: Arc<ConnectionMeter>) -> Self {
        Self { muxer, meter }
    }
}

impl<M: Unpin> Metered<M> {
    fn inner(self: Pin<&mut Self>) -> (Pin<&mut M>, &Arc<ConnectionMeter>) {
        let this = self.get_mut();
        (Pin::new(&mut this.muxer), &this.meter)
    }
}

impl<M> StreamMuxer for Metered<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let (muxer, meter) = self.inner();
        let stream = ready!(muxer.poll_inbound(cx)?);
        Poll::Ready(Ok(MeteredStream::new(stream, meter.clone())))
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let (muxer, meter) = self.inner();
        let stream = ready!(muxer.poll_outbound(cx)?);
        Poll::Ready(Ok(MeteredStream::new(stream, meter.clone())))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner().0.poll_close(cx)
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        self.inner().0.poll(cx)
    }
}

/// A substream of [`Metered`].
#[derive(Debug)]
pub(super) struct MeteredStream<S> {
    stream: S,
    meter: Arc<ConnectionMeter>,
    turn: Turn,
}

impl<S> MeteredStream<S> {
    fn new(stream: S, meter: Arc<ConnectionMeter>) -> Self {
        Self {
            stream,
            meter,
            turn: Turn::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let meter = &this.meter;
        let room = match &meter.share {
            None => buffer.len(),
            Some(share) => ready!(this.turn.poll(share, cx)).min(buffer.len()),
        };
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let bytes = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer)?);
        if let Some(share) = &meter.share {
            share.take(bytes);
        }
        meter.received(bytes);
        Poll::Ready(Ok(bytes))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = ready!(Pin::new(&mut this.stream).poll_write(cx, buffer)?);
        this.meter.sent(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, buffers)?);
        this.meter.sent(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

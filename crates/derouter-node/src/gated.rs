//! A pipe that gives its bytes once something else is done.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use derouter_sdk::NodeError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Lets a [`Gated`] pipe's bytes through, or says why none will come. Reading fails with that, and
/// when this is dropped.
pub(crate) type Gate = oneshot::Sender<Result<(), NodeError>>;

/// Reads wait for the gate; writes pass.
pub(crate) struct Gated<S> {
    stream: S,
    state: State,
}

enum State {
    Closed(oneshot::Receiver<Result<(), NodeError>>),
    Open,
    /// It will never open; the node's fault, if it is one.
    Barred(Option<NodeError>),
}

impl<S> Gated<S> {
    /// Behind a gate that is closed.
    pub(crate) fn new(stream: S) -> (Self, Gate) {
        let (gate, opened) = oneshot::channel();
        let state = State::Closed(opened);
        (Self { stream, state }, gate)
    }
}

impl State {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Closed(opened) = self {
            *self = match ready!(Pin::new(opened).poll(cx)) {
                Ok(Ok(())) => Self::Open,
                Ok(Err(fault)) => Self::Barred(Some(fault)),
                Err(_) => Self::Barred(None),
            };
        }
        Poll::Ready(match self {
            Self::Barred(Some(fault)) => Err(io::Error::other(fault.clone())),
            Self::Barred(None) => Err(io::ErrorKind::ConnectionAborted.into()),
            Self::Open | Self::Closed(_) => Ok(()),
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.state.poll_open(cx))?;
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_come_once_the_gate_is_open() {
        let (near, mut far) = duplex(16);
        let (mut gated, gate) = Gated::new(near);
        far.write_all(b"early").await.unwrap();
        gated.write_all(b"out").await.unwrap();
        let mut out = [0; 3];
        far.read_exact(&mut out).await.unwrap();
        let mut read = [0; 5];
        {
            let mut reading = std::pin::pin!(gated.read_exact(&mut read));
            let polled = std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            gate.send(Ok(())).unwrap();
            reading.await.unwrap();
        }
        assert_eq!((&read, &out), (b"early", b"out"));
    }

    #[tokio::test]
    async fn the_reader_hears_of_a_fault_of_the_node() {
        let (near, _far) = duplex(16);
        let (mut gated, gate) = Gated::new(near);
        gate.send(Err(NodeError::ShuttingDown)).unwrap();
        let error = gated.read_u8().await.unwrap_err();
        let fault = error.get_ref().unwrap().downcast_ref::<NodeError>();
        assert!(matches!(fault, Some(NodeError::ShuttingDown)));
    }

    #[tokio::test]
    async fn a_gate_that_never_opens_fails_the_reader_again_and_again() {
        let (near, mut far) = duplex(16);
        let (mut gated, gate) = Gated::new(near);
        far.write_all(b"never").await.unwrap();
        drop(gate);
        for _ in 0..2 {
            let error = gated.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}

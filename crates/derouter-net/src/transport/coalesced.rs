//! What lies between yamux and noise: small frames go out together, and yamux takes no round trip for
//! shorter than a task needs to wake.
//!
//! Yamux flushes after each frame. Under noise a flush is a message, with a cipher set up and a system
//! call, also for twelve bytes. Here it is put off until yamux has no more frames to write, which is
//! when it reads: within the same turn.
//!
//! Yamux doubles the receive window of a stream where half of it was used within two round trips, by
//! the time that its own ping took. Within a machine or a LAN that is less than a wake-up, so that
//! streams stay at 256 KiB and stand still most of the time. Its pings are held back for
//! [`limits::YAMUX_LEAST_ROUND_TRIP`] so that it never takes a round trip for shorter.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::limits;

/// Of each frame of yamux.
const HEADER: usize = 12;

/// See the module.
#[derive(Debug)]
pub(super) struct Coalesced<C> {
    io: C,
    unflushed: bool,
    place: Place,
    held: Option<Held>,
}

/// Where in its frames yamux is with what it writes.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    header: [u8; HEADER],
    header_bytes: usize,
    body_left: u64,
}

impl Place {
    fn between_frames(self) -> bool {
        self.header_bytes == 0 && self.body_left == 0
    }

    /// Takes note of bytes that were written. A frame's header and body come in calls of their own.
    fn wrote(&mut self, bytes: &[u8]) {
        if self.body_left > 0 {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.body_left = self.body_left.saturating_sub(count);
            return;
        }
        let room = self.header.iter_mut().skip(self.header_bytes);
        for (to, from) in room.zip(bytes) {
            *to = *from;
            self.header_bytes += 1;
        }
        if self.header_bytes == HEADER {
            self.body_left = body_bytes(self.header);
            self.header_bytes = 0;
        }
    }
}

/// Only frames of data have a body.
fn body_bytes([_, kind, _, _, _, _, _, _, length @ ..]: [u8; HEADER]) -> u64 {
    match kind {
        0 => u64::from(u32::from_be_bytes(length)),
        _ => 0,
    }
}

/// Whether this is the header of a ping that asks.
fn is_ping(frame: &[u8]) -> Option<[u8; HEADER]> {
    let header: [u8; HEADER] = frame.try_into().ok()?;
    let [_, kind, flags @ .., _, _, _, _, _, _, _, _] = header;
    (kind == 2 && u16::from_be_bytes(flags) == 1).then_some(header)
}

/// A ping that waits for its time.
#[derive(Debug)]
struct Held {
    ping: [u8; HEADER],
    written: usize,
    time: Pin<Box<Sleep>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Coalesced<C> {
    pub(super) fn new(io: C) -> Self {
        Self {
            io,
            unflushed: false,
            place: Place::default(),
            held: None,
        }
    }

    /// Writes a ping whose time has come. Ready when no part of one is on its way.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(held) = &mut self.held else {
            return Poll::Ready(Ok(()));
        };
        if held.written == 0
            && (!self.place.between_frames() || held.time.as_mut().poll(cx).is_pending())
        {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest @ [_, ..]) = held.ping.get(held.written..) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest)?);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            held.written = held.written.saturating_add(written);
            self.unflushed = true;
        }
        self.held = None;
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx)?);
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx)?);
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalesced<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A socket that is full wakes the task, which then gets here again.
        let _ = this.poll_out(cx)?;
        Pin::new(&mut this.io).poll_read(cx, buffer)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Coalesced<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_held(cx)?);
        if this.place.between_frames()
            && this.held.is_none()
            && let Some(ping) = is_ping(buffer)
        {
            this.held = Some(Held {
                ping,
                written: 0,
                time: Box::pin(tokio::time::sleep(limits::YAMUX_LEAST_ROUND_TRIP)),
            });
            return Poll::Ready(Ok(HEADER));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buffer)?);
        this.place.wrote(buffer.get(..written).unwrap_or(buffer));
        this.unflushed = true;
        Poll::Ready(Ok(written))
    }

    /// See the module: before the next read.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Instant;

    use futures::AsyncWriteExt;
    use futures::task::noop_waker;

    use super::*;

    const PING: [u8; HEADER] = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    const PONG: [u8; HEADER] = [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9];
    /// Twelve bytes on the first stream.
    const DATA: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12];

    /// Takes at most seven bytes at a time, so that headers come in parts.
    #[derive(Default)]
    struct Io {
        written: Vec<u8>,
        flushes: usize,
    }

    impl AsyncRead for Io {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Io {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = buffer.len().min(7);
            self.written.extend_from_slice(&buffer[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn read(out: &mut Coalesced<Io>, cx: &mut Context<'_>) {
        assert!(Pin::new(out).poll_read(cx, &mut [0]).is_pending());
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_goes_out_once_when_yamux_reads() {
        let mut out = Coalesced::new(Io::default());
        for _ in 0..3 {
            out.write_all(&DATA).await.unwrap();
            out.write_all(&[7; 12]).await.unwrap();
            out.flush().await.unwrap();
        }
        assert_eq!((out.io.written.len(), out.io.flushes), (72, 0));
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        read(&mut out, &mut cx);
        assert_eq!(out.io.flushes, 1);
        // Nothing new, so nothing to flush.
        read(&mut out, &mut cx);
        assert_eq!(out.io.flushes, 1);
    }

    #[tokio::test]
    async fn a_ping_waits_for_its_time_and_nothing_else_does() {
        let start = Instant::now();
        let mut out = Coalesced::new(Io::default());
        out.write_all(&PING).await.unwrap();
        assert!(out.io.written.is_empty());
        // A pong, and data that looks like a ping, are no pings.
        let others = [PONG, DATA, PING].concat();
        for part in others.chunks(HEADER) {
            out.write_all(part).await.unwrap();
        }
        let unhurried = start.elapsed() >= limits::YAMUX_LEAST_ROUND_TRIP;
        assert!(
            unhurried || out.io.written == others,
            "{:?}",
            out.io.written
        );
        poll_fn(|cx| {
            read(&mut out, cx);
            match out.io.written.len() == 4 * HEADER {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        assert!(start.elapsed() >= limits::YAMUX_LEAST_ROUND_TRIP);
        assert!(out.held.is_none() && out.io.flushes >= 1);
    }
}

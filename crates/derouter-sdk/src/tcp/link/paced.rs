//! A node's socket to a module, which never holds more than one read of it.
//!
//! yamux-js 0.2.0, which 0.1.0 modules use, takes each chunk that Node.js reads from the socket
//! (at most 64 KiB) for whole yamux frames: what a chunk cuts off is lost, and the session with it.
//! A busy module that finds 70 KiB in its socket is dead. So frames are sent whole, and only as
//! much as one chunk takes until the module has proved that it read them: a ping behind them, which
//! any yamux answers in order. yamux itself sees neither those pings nor their answers.

mod incoming;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use self::incoming::Incoming;

/// What Node.js reads at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Frames that are written together, unless one alone is larger. The kernel hands a write of this
/// size to the reader as one; of a larger one it may show a part first, and a frame of which
/// yamux-js sees a part is lost to it. Nothing can be done for larger frames.
const WRITE_BYTES: usize = 32 * 1024;

/// Fixed by the yamux specification.
pub(super) const HEADER_BYTES: usize = 12;

/// The largest data frame body that fits a chunk with its header and a ping.
pub(super) const MAX_BODY_BYTES: usize = CHUNK_BYTES - 2 * HEADER_BYTES;

/// Unproved bytes from which a ping is sent along: tokens rarely need one.
const PING_FROM_BYTES: usize = 16 * 1024;

/// Frames that wait to be sent; yamux waits beyond it. What waits here has used up its stream's
/// window, and yamux-js opens that only when half of its 256 KiB are used: with more here, a
/// window would run out inside of a value, and cut it.
const QUEUE_BYTES: usize = 16 * 1024;

/// A module that answers no ping for so long does not know pings: it gets all that the socket
/// takes. 0.1.0 modules themselves wait 10 s for an answer.
const PONG_WAIT: Duration = Duration::from_secs(30);

/// yamux counts its own pings from 0, one each 10 s.
const FIRST_PING: u32 = 0xf000_0000;

const TYPE_DATA: u8 = 0;
const TYPE_PING: u8 = 2;
const FLAG_SYN: u8 = 1;
const FLAG_ACK: u8 = 2;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Paced<S> {
    socket: S,
    incoming: Incoming,
    queue: Queue,
    /// Allowed to go out now.
    sending: BytesMut,
    proof: Proof,
    pong_deadline: Pin<Box<Sleep>>,
}

/// Whole frames that wait, and the one that is being written.
#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    /// Sizes of the whole frames at the front of `bytes`.
    frames: VecDeque<usize>,
    /// What is there of the frame that is being written.
    partial: usize,
    header: Vec<u8>,
    /// What is missing of the body of the frame that is being written.
    body_left: usize,
}

impl Queue {
    fn push(&mut self, mut bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while !bytes.is_empty() {
            let wanted = match self.body_left {
                0 => HEADER_BYTES - self.header.len(),
                body => body,
            };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            self.partial += taken.len();
            if self.body_left > 0 {
                self.body_left -= taken.len();
            } else {
                self.header.extend_from_slice(taken);
                if self.header.len() < HEADER_BYTES {
                    continue;
                }
                self.body_left = body_length(&self.header);
                self.header.clear();
            }
            if self.body_left == 0 {
                self.frames.push_back(std::mem::take(&mut self.partial));
            }
        }
    }

    /// Takes whole frames of at most `room` bytes, for one write; none if the first is larger.
    fn take(&mut self, room: usize) -> BytesMut {
        let mut total = 0;
        let fits = |total: usize, size: usize| {
            total + size <= room && (total == 0 || total + size <= WRITE_BYTES)
        };
        while let Some(size) = self.frames.front().filter(|size| fits(total, **size)) {
            total += size;
            self.frames.pop_front();
        }
        self.bytes.split_to(total)
    }
}

/// The body that a header announces; only data frames have one.
fn body_length(header: &[u8]) -> usize {
    match *header {
        [_, TYPE_DATA, .., a, b, c, d] => {
            usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)
        }
        _ => 0,
    }
}

fn ping(id: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, TYPE_PING, 0, FLAG_SYN, 0, 0, 0, 0, a, b, c, d]
}

/// What the module is known to have read.
#[derive(Debug)]
struct Proof {
    /// Sent and not proved to be read.
    unproved: usize,
    /// The ping without an answer, and what was sent behind it.
    ping: Option<(u32, usize)>,
    next_ping: u32,
    /// False when the module answers no pings.
    paced: bool,
}

impl Proof {
    fn new() -> Self {
        Self {
            unproved: 0,
            ping: None,
            next_ping: FIRST_PING,
            paced: true,
        }
    }

    /// What may be sent now, a ping besides.
    fn room(&self) -> usize {
        match self.paced {
            true => (CHUNK_BYTES - HEADER_BYTES).saturating_sub(self.unproved),
            false => usize::MAX,
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.unproved += bytes;
        if let Some((_, behind)) = &mut self.ping {
            *behind += bytes;
        }
    }

    /// A ping to send now, if one is wanted.
    fn ping(&mut self, from_bytes: usize) -> Option<[u8; HEADER_BYTES]> {
        if !self.paced || self.ping.is_some() || self.unproved < from_bytes {
            return None;
        }
        let id = self.next_ping;
        self.next_ping = id.checked_add(1).unwrap_or(FIRST_PING);
        self.unproved += HEADER_BYTES;
        self.ping = Some((id, 0));
        Some(ping(id))
    }

    fn answered(&mut self, id: u32) {
        if let Some((_, behind)) = self.ping.take_if(|(asked, _)| *asked == id) {
            self.unproved = behind;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Paced<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            incoming: Incoming::default(),
            queue: Queue::default(),
            sending: BytesMut::new(),
            proof: Proof::new(),
            pong_deadline: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Sends what may be sent. Ready when nothing waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.sending.is_empty() {
                match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.sending))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.sending.advance(count),
                }
            }
            if self.queue.frames.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.sending = self.queue.take(self.proof.room());
            if !self.sending.is_empty() {
                self.proof.sent(self.sending.len());
                self.send_ping(PING_FROM_BYTES);
            } else if !self.send_ping(0) {
                ready!(self.poll_pong(cx));
            }
        }
    }

    fn send_ping(&mut self, from_bytes: usize) -> bool {
        let Some(ping) = self.proof.ping(from_bytes) else {
            return false;
        };
        self.sending.extend_from_slice(&ping);
        self.pong_deadline
            .as_mut()
            .reset(Instant::now() + PONG_WAIT);
        true
    }

    /// Waits until there may be room. Reads on meanwhile: yamux may be waiting for room to write
    /// and not read at all.
    fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let asked = self.proof.ping;
        while self.proof.ping == asked {
            if self.pong_deadline.as_mut().poll(cx).is_ready() || self.incoming.has_ended() {
                tracing::debug!("a module answers no yamux pings; its socket is not paced");
                self.proof.paced = false;
                return Poll::Ready(());
            }
            ready!(self.poll_fill(cx));
        }
        Poll::Ready(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.incoming.poll_fill(&mut self.socket, cx));
        while let Some(pong) = self.incoming.next_pong() {
            self.proof.answered(pong);
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.incoming.has_some() && !self.incoming.has_ended() {
            ready!(self.poll_fill(cx));
        }
        Poll::Ready(self.incoming.read(buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A frame that was begun must be taken whole, or it could never be sent.
        while self.queue.bytes.len() >= QUEUE_BYTES && self.queue.partial == 0 {
            ready!(self.poll_send(cx))?;
        }
        self.queue.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn data(length: usize) -> Vec<u8> {
        let mut frame = vec![0, TYPE_DATA, 0, 0, 0, 0, 0, 1];
        frame.extend(u32::try_from(length).unwrap().to_be_bytes());
        frame.resize(HEADER_BYTES + length, 7);
        frame
    }

    fn pong(id: u32) -> [u8; HEADER_BYTES] {
        let mut frame = ping(id);
        frame[3] = FLAG_ACK;
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_chunk_is_sent_before_the_module_has_read() {
        let (ours, mut module) = duplex(1 << 20);
        let mut paced = Paced::new(ours);
        let write = async {
            for _ in 0..3 {
                paced.write_all(&data(30_000)).await.unwrap();
            }
            paced.flush().await.unwrap();
        };
        let read = async {
            let mut chunk = vec![0; 1 << 20];
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = module.read(&mut chunk).await.unwrap();
            // Both frames that fit, and a ping behind the first.
            assert_eq!(first, 2 * 30_012 + HEADER_BYTES);
            assert_eq!(chunk[30_012..30_024], ping(FIRST_PING));
            // Something else first, as a busy module would send.
            module.write_all(&data(5)).await.unwrap();
            module.write_all(&pong(FIRST_PING)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let second = module.read(&mut chunk).await.unwrap();
            assert!(
                chunk[..second]
                    .windows(30_012)
                    .any(|window| window == data(30_000))
            );
        };
        tokio::join!(write, read);
        let mut heard = [0; HEADER_BYTES + 5];
        paced.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard.as_slice(), data(5));
    }

    #[tokio::test(start_paused = true)]
    async fn small_frames_are_sent_at_once_and_without_pings() {
        let (ours, mut module) = duplex(1 << 20);
        let mut paced = Paced::new(ours);
        for part in data(100).chunks(5) {
            paced.write_all(part).await.unwrap();
        }
        paced.flush().await.unwrap();
        let mut chunk = vec![0; 4096];
        let count = module.read(&mut chunk).await.unwrap();
        assert_eq!(chunk[..count], data(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_module_that_knows_no_pings_gets_all_after_a_while() {
        let (ours, mut module) = duplex(1 << 20);
        let mut paced = Paced::new(ours);
        let start = Instant::now();
        for _ in 0..10 {
            paced.write_all(&data(MAX_BODY_BYTES)).await.unwrap();
        }
        paced.flush().await.unwrap();
        assert_eq!(start.elapsed(), PONG_WAIT);
        let mut all = vec![0; 10 * (MAX_BODY_BYTES + HEADER_BYTES)];
        module.read_exact(&mut all).await.unwrap();
    }

    #[tokio::test]
    async fn answers_to_pings_of_yamux_itself_pass() {
        let (ours, mut module) = duplex(1 << 20);
        let mut paced = Paced::new(ours);
        module.write_all(&pong(0)).await.unwrap();
        module.write_all(&pong(FIRST_PING + 9)).await.unwrap();
        module.write_all(&data(1)).await.unwrap();
        drop(module);
        let mut heard = Vec::new();
        paced.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [pong(0).as_slice(), &data(1)].concat());
    }
}

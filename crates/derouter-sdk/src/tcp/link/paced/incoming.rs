//! What a module sends, without the answers to our pings.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::{FIRST_PING, FLAG_ACK, HEADER_BYTES, TYPE_PING, body_length};

/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// Held for yamux while it does not read. Beyond it the module waits.
const HELD_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// For yamux.
    bytes: VecDeque<u8>,
    header: Vec<u8>,
    body_left: usize,
    pongs: VecDeque<u32>,
    end: Option<io::Result<()>>,
}

impl Incoming {
    pub(super) fn has_some(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn next_pong(&mut self) -> Option<u32> {
        self.pongs.pop_front()
    }

    /// Reads what is there. Pending also when too much is held; yamux reads that first.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.end.is_some() {
            return Poll::Ready(());
        }
        if self.bytes.len() >= HELD_BYTES {
            return Poll::Pending;
        }
        let mut space = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut space);
        match ready!(Pin::new(socket).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => {
                // A header that was cut is yamux's to complain about.
                self.bytes.extend(self.header.drain(..));
                self.end = Some(Ok(()));
            }
            Ok(()) => self.push(buffer.filled()),
            Err(error) => self.end = Some(Err(error)),
        }
        Poll::Ready(())
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let (body, rest) = bytes.split_at(self.body_left.min(bytes.len()));
                self.bytes.extend(body);
                self.body_left -= body.len();
                bytes = rest;
                continue;
            }
            let missing = HEADER_BYTES - self.header.len();
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(part);
            bytes = rest;
            if self.header.len() == HEADER_BYTES {
                self.header_is_complete();
            }
        }
    }

    fn header_is_complete(&mut self) {
        match our_pong(&self.header) {
            Some(id) => self.pongs.push_back(id),
            None => {
                self.body_left = body_length(&self.header);
                self.bytes.extend(&self.header);
            }
        }
        self.header.clear();
    }

    /// Hands over what was read, and then how reading ended.
    pub(super) fn read(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.bytes.is_empty() {
            return match &mut self.end {
                Some(end) => std::mem::replace(end, Ok(())),
                None => Ok(()),
            };
        }
        let (front, _) = self.bytes.as_slices();
        let count = front.len().min(buffer.remaining());
        buffer.put_slice(front.get(..count).unwrap_or_default());
        self.bytes.drain(..count);
        Ok(())
    }
}

/// The number of the ping that a frame answers, if it is one of ours.
fn our_pong(header: &[u8]) -> Option<u32> {
    match *header {
        [_, TYPE_PING, _, FLAG_ACK, _, _, _, _, a, b, c, d] => {
            let id = u32::from_be_bytes([a, b, c, d]);
            (id >= FIRST_PING).then_some(id)
        }
        _ => None,
    }
}

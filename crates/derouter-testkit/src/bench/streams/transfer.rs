//! Moving bytes for a while, and counting those of a window in the middle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::cipher::{Cipher, MESSAGE, PAYLOAD};

/// Read and written at once, on every route.
const BUFFER: usize = 64 * 1024;

/// When bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not counted: windows and congestion control find their size.
    pub warm_up: Duration,
    /// Counted.
    pub measured: Duration,
}

impl Window {
    /// As text, for the name of a job.
    pub fn encode(self) -> String {
        format!("{}:{}", self.warm_up.as_millis(), self.measured.as_millis())
    }

    /// From text.
    pub fn decode(text: &str) -> Option<Self> {
        let (warm_up, measured) = text.split_once(':')?;
        Some(Self {
            warm_up: Duration::from_millis(warm_up.parse().ok()?),
            measured: Duration::from_millis(measured.parse().ok()?),
        })
    }
}

/// Whether bytes go as they are, or in sealed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// As they are.
    Plain,
    /// See [`Cipher`].
    Sealed,
}

/// Writes until the other side has enough.
pub async fn pour(writer: &mut (impl AsyncWrite + Unpin), wrapping: Wrapping) -> io::Result<()> {
    let bytes = vec![0x5a; BUFFER];
    let mut message = Box::new([0x5a; MESSAGE]);
    let mut cipher = Cipher::default();
    loop {
        match wrapping {
            Wrapping::Plain => writer.write_all(&bytes).await?,
            Wrapping::Sealed => {
                // What was sealed before is as good as anything else.
                cipher.seal(&mut message)?;
                writer.write_all(&*message).await?;
            }
        }
    }
}

/// Reads until the window is over; the bytes that came within it.
pub async fn drain(
    reader: &mut (impl AsyncRead + Unpin),
    wrapping: Wrapping,
    window: Window,
) -> io::Result<u64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let read = async move {
        match wrapping {
            Wrapping::Plain => read_plain(reader, &counted).await,
            Wrapping::Sealed => read_sealed(reader, &counted).await,
        }
    };
    let start = Instant::now() + window.warm_up;
    let watch = async {
        sleep_until(start).await;
        let before = count.load(Ordering::Relaxed);
        sleep_until(start + window.measured).await;
        count.load(Ordering::Relaxed) - before
    };
    tokio::select! {
        ended = read => ended,
        bytes = watch => Ok(bytes),
    }
}

async fn read_plain(reader: &mut (impl AsyncRead + Unpin), count: &AtomicU64) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = reader.read(&mut buffer).await?;
        if bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        add(count, bytes);
    }
}

async fn read_sealed(reader: &mut (impl AsyncRead + Unpin), count: &AtomicU64) -> io::Result<u64> {
    let mut message = Box::new([0; MESSAGE]);
    let mut cipher = Cipher::default();
    loop {
        reader.read_exact(&mut *message).await?;
        cipher.open(&mut message)?;
        add(count, PAYLOAD);
    }
}

fn add(count: &AtomicU64, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    count.fetch_add(bytes, Ordering::Relaxed);
}

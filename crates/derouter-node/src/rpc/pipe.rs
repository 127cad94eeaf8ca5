//! A module's stream joined to a job stream, both ways, with half-close.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use derouter_sdk::JobStream;
use derouter_sdk::tcp::link::MuxStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep, timeout};

/// The most that is forwarded as one write: the largest value that a 0.1 module may send.
const MAX_BUFFER_BYTES: usize = 256 * 1024;

/// What a buffer starts with; it grows for those who need it, so that a thousand streams that
/// carry tokens stay small.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;

/// A read of at least so much is probably a part of a larger value (peers split at 16 KiB), and
/// 0.1 modules spin for ever on half a value: wait a moment for the rest. Tokens never wait.
const PART_BYTES: usize = 8 * 1024;
const PART_WAIT: Duration = Duration::from_millis(2);

/// JavaScript modules never close a stream: once its job is over, a pipe that carries nothing
/// for so long is reset.
const OVER_IDLE: Duration = Duration::from_secs(60);

/// One side has closed and the other says nothing: longer than any answer takes to begin.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(15 * 60);

/// How often idle pipes are looked at.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// How a pipe ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both directions were closed.
    Closed,
    /// An end was reset or broke.
    Broken,
    /// Nothing more is to be expected.
    Idle,
}

#[derive(Default)]
struct Activity {
    moves: AtomicU64,
    half_closed: AtomicBool,
}

/// Moves bytes until both directions have closed, one breaks, or the pipe is idle and `is_over`.
pub(super) async fn join(module: MuxStream, peer: JobStream, is_over: impl Fn() -> bool) -> End {
    let (mut module_reader, mut module_writer) = split(module);
    let (mut peer_reader, mut peer_writer) = split(peer);
    let activity = Activity::default();
    let to_peer = forward(&mut module_reader, &mut peer_writer, &activity, None);
    let to_module = forward(
        &mut peer_reader,
        &mut module_writer,
        &activity,
        Some(PART_WAIT),
    );
    tokio::select! {
        result = async { tokio::try_join!(to_peer, to_module) } => match result {
            Ok(_) => End::Closed,
            Err(_) => End::Broken,
        },
        () = idle(&activity, is_over) => End::Idle,
    }
}

async fn forward<R, W>(
    reader: &mut R,
    writer: &mut W,
    activity: &Activity,
    part_wait: Option<Duration>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = Vec::with_capacity(FIRST_BUFFER_BYTES);
    loop {
        let more = read_batch(reader, &mut buffer, part_wait).await?;
        activity.moves.fetch_add(1, Ordering::Relaxed);
        writer.write_all(&buffer).await?;
        if !more {
            writer.shutdown().await?;
            activity.half_closed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        writer.flush().await?;
    }
}

/// Fills `buffer` with what is there, and the rest of a value that seems cut. False at the end.
async fn read_batch<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut Vec<u8>,
    part_wait: Option<Duration>,
) -> io::Result<bool> {
    buffer.clear();
    if reader.read_buf(buffer).await? == 0 {
        return Ok(false);
    }
    let Some(part_wait) = part_wait else {
        grow(buffer);
        return Ok(true);
    };
    while buffer.len() >= PART_BYTES && buffer.len() < MAX_BUFFER_BYTES {
        grow(buffer);
        match timeout(part_wait, reader.read_buf(buffer)).await {
            Ok(Ok(0)) => return Ok(false),
            Ok(Ok(_)) => {}
            // What was read is forwarded first; the error comes back at the next read.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(true)
}

/// Doubles a buffer that was filled, up to the limit.
fn grow(buffer: &mut Vec<u8>) {
    let capacity = buffer.capacity();
    if buffer.len() == capacity && capacity < MAX_BUFFER_BYTES {
        buffer.reserve_exact(capacity.min(MAX_BUFFER_BYTES - capacity));
    }
}

async fn idle(activity: &Activity, is_over: impl Fn() -> bool) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        sleep(IDLE_CHECK).await;
        let moves = activity.moves.load(Ordering::Relaxed);
        if moves != seen {
            (seen, since) = (moves, Instant::now());
        }
        let half_closed = activity.half_closed.load(Ordering::Relaxed);
        if is_dead(since.elapsed(), half_closed, &is_over) {
            return;
        }
    }
}

fn is_dead(idle: Duration, half_closed: bool, is_over: impl Fn() -> bool) -> bool {
    half_closed && idle >= HALF_CLOSED_IDLE || idle >= OVER_IDLE && is_over()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_of_ended_jobs_or_half_closed_ones_die_of_idleness() {
        let day = Duration::from_secs(86_400);
        assert!(!is_dead(day, false, || false));
        assert!(is_dead(day, true, || false));
        assert!(!is_dead(OVER_IDLE, true, || false));
        assert!(is_dead(OVER_IDLE, false, || true));
        assert!(!is_dead(OVER_IDLE / 2, true, || true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_in_two_parts_is_forwarded_as_one() {
        let (mut writer, mut reader) = tokio::io::duplex(1 << 20);
        let mut buffer = Vec::with_capacity(FIRST_BUFFER_BYTES);
        writer.write_all(&[1; 16 * 1024]).await.unwrap();
        let read = async {
            let more = read_batch(&mut reader, &mut buffer, Some(PART_WAIT)).await;
            (more.unwrap(), buffer.len())
        };
        let rest = async {
            sleep(PART_WAIT / 2).await;
            writer.write_all(&[2; 9000]).await.unwrap();
        };
        let (read, ()) = tokio::join!(read, rest);
        assert_eq!(read, (true, 16 * 1024 + 9000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_forwarded_at_once() {
        let (mut writer, mut reader) = tokio::io::duplex(1 << 20);
        let mut buffer = Vec::with_capacity(FIRST_BUFFER_BYTES);
        writer.write_all(&[1; 300]).await.unwrap();
        let start = Instant::now();
        assert!(
            read_batch(&mut reader, &mut buffer, Some(PART_WAIT))
                .await
                .unwrap()
        );
        assert_eq!((buffer.len(), start.elapsed()), (300, Duration::ZERO));
    }

    #[tokio::test]
    async fn the_end_behind_the_last_bytes_is_told() {
        let (mut writer, mut reader) = tokio::io::duplex(1 << 20);
        let mut buffer = Vec::with_capacity(FIRST_BUFFER_BYTES);
        writer.write_all(&[1; 10_000]).await.unwrap();
        drop(writer);
        assert!(
            !read_batch(&mut reader, &mut buffer, Some(PART_WAIT))
                .await
                .unwrap()
        );
        assert_eq!(buffer.len(), 10_000);
    }
}

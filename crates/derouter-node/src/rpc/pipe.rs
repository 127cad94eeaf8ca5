//! A module's stream joined to a job stream, both ways, with half-close.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use derouter_sdk::JobStream;
use derouter_sdk::tcp::link::MuxStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep, timeout};

use super::values::Values;

/// Read at once from a module.
const READ_BYTES: usize = 64 * 1024;

/// What a buffer starts with; it grows for those who need it, so that a thousand streams that
/// carry tokens stay small.
const FIRST_BUFFER_BYTES: usize = 8 * 1024;

/// How long the rest of a stream's first value may stay away. Behind it the stream is taken for
/// something else than values, once and for good.
const VALUE_WAIT: Duration = Duration::from_millis(500);

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
    let to_peer = forward(&mut module_reader, &mut peer_writer, &activity);
    let to_module = forward_values(&mut peer_reader, &mut module_writer, &activity);
    tokio::select! {
        result = async { tokio::try_join!(to_peer, to_module) } => match result {
            Ok(_) => End::Closed,
            Err(_) => End::Broken,
        },
        () = idle(&activity, is_over) => End::Idle,
    }
}

async fn forward<R, W>(reader: &mut R, writer: &mut W, activity: &Activity) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = Vec::with_capacity(FIRST_BUFFER_BYTES);
    loop {
        buffer.clear();
        if reader.read_buf(&mut buffer).await? == 0 {
            return close(writer, activity).await;
        }
        send(writer, &buffer, activity).await?;
        if buffer.len() == buffer.capacity() && buffer.len() < READ_BYTES {
            buffer.reserve_exact(2 * buffer.len());
        }
    }
}

/// Forwards to a module: each value whole, as long as the stream looks like values.
async fn forward_values<R, W>(reader: &mut R, writer: &mut W, activity: &Activity) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut buffer, mut values) = (Vec::with_capacity(FIRST_BUFFER_BYTES), Values::default());
    loop {
        let read = match buffer.is_empty() || values.is_proved() {
            true => Ok(reader.read_buf(&mut buffer).await),
            false => timeout(VALUE_WAIT, reader.read_buf(&mut buffer)).await,
        };
        match read {
            Ok(Ok(0)) => {
                send(writer, &buffer, activity).await?;
                return close(writer, activity).await;
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                send(writer, &buffer, activity).await?;
                return Err(error);
            }
            Err(_) => values.give_up(),
        }
        while let Some(count) = values.whole(&buffer) {
            send(writer, buffer.get(..count).unwrap_or_default(), activity).await?;
            buffer.drain(..count);
        }
    }
}

async fn send<W>(writer: &mut W, bytes: &[u8], activity: &Activity) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    activity.moves.fetch_add(1, Ordering::Relaxed);
    writer.write_all(bytes).await?;
    writer.flush().await
}

async fn close<W>(writer: &mut W, activity: &Activity) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    writer.shutdown().await?;
    activity.half_closed.store(true, Ordering::Relaxed);
    Ok(())
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

    /// What a module gets of parts that come 10 ms apart, or 1 s where there is a `None`.
    async fn forwarded(parts: Vec<Option<Vec<u8>>>) -> Vec<(usize, Duration)> {
        let (mut peer, mut reader) = tokio::io::duplex(1 << 20);
        let (mut writer, mut module) = tokio::io::duplex(1 << 20);
        let (activity, start) = (Activity::default(), Instant::now());
        let forward = async {
            forward_values(&mut reader, &mut writer, &activity)
                .await
                .unwrap();
        };
        let feed = async move {
            for part in parts {
                match part {
                    Some(bytes) => {
                        peer.write_all(&bytes).await.unwrap();
                        sleep(Duration::from_millis(10)).await;
                    }
                    None => sleep(Duration::from_secs(1)).await,
                }
            }
        };
        let read = async move {
            let (mut seen, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
            loop {
                match module.read(&mut buffer).await.unwrap() {
                    0 => return seen,
                    count => seen.push((count, start.elapsed())),
                }
            }
        };
        tokio::join!(forward, feed, read).2
    }

    fn value(length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.resize(4 + length as usize, 7);
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_in_parts_is_forwarded_as_one() {
        let whole = value(40_000);
        let (first, rest) = whole.split_at(16_384);
        let (second, third) = rest.split_at(16_384);
        let parts = [first, second, third].map(|part| Some(part.to_vec()));
        let seen = forwarded(parts.to_vec()).await;
        assert_eq!(seen, [(40_004, Duration::from_millis(20))]);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_forwarded_at_once() {
        let seen = forwarded(vec![Some(value(300)), Some(value(200))]).await;
        let expected = [(304, Duration::ZERO), (204, Duration::from_millis(10))];
        assert_eq!(seen, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn text_is_forwarded_at_once() {
        let seen = forwarded(vec![Some(b"hello".to_vec()), Some(b"h".to_vec())]).await;
        assert_eq!(seen, [(5, Duration::ZERO), (1, Duration::from_millis(10))]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_looks_like_a_value_waits_once() {
        let odd = vec![0, 0, 1, 0, 9];
        let seen = forwarded(vec![Some(odd.clone()), None, Some(odd)]).await;
        assert_eq!(seen, [(5, VALUE_WAIT), (5, Duration::from_millis(1010))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_shown_a_value_is_not_cut_though_it_stalls() {
        let second = value(300);
        let (first_half, second_half) = second.split_at(100);
        let parts = [value(10), first_half.to_vec()].concat();
        let seen = forwarded(vec![
            Some(parts),
            None,
            Some(second_half.to_vec()),
            None,
            Some(value(20)),
        ])
        .await;
        let expected = [
            (14, Duration::ZERO),
            (304, Duration::from_millis(1010)),
            (24, Duration::from_millis(2020)),
        ];
        assert_eq!(seen, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_said_last_is_forwarded_though_it_is_cut() {
        let mut cut = value(300);
        cut.truncate(100);
        let seen = forwarded(vec![Some(cut)]).await;
        assert_eq!(seen, [(100, Duration::from_millis(10))]);
    }
}

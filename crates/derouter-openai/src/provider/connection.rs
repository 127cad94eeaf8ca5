//! One connection of a job's consumer: reads the job's log from its beginning, as fast as the
//! consumer takes it.

use std::io;
use std::time::Duration;

use derouter_sdk::JobStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::log::{AnswerLog, Next};

/// What a consumer may send on a job stream: the protocol has nothing for it to send, so that more
/// is someone else's, or an attack.
const MAX_READ_BYTES: usize = 64 * 1024;

/// How long closing our direction may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All was written.
    Served,
    /// The consumer closed it.
    ConsumerLeft,
    /// It broke, or the consumer took nothing for too long, or fell too far behind.
    Broke(io::Error),
}

/// Serves a connection until the log ends or the consumer goes away.
pub(super) async fn serve(log: &AnswerLog, stream: JobStream, write_limit: Duration) -> Ended {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let written = tokio::select! {
        biased;
        written = write(log, &mut writer, write_limit) => written,
        () = consumer_left(&mut reader) => return Ended::ConsumerLeft,
    };
    if let Err(error) = written {
        return Ended::Broke(error);
    }
    // All is said: whether the end arrives too is of no more importance.
    let _ = timeout(SHUTDOWN_LIMIT, writer.shutdown()).await;
    Ended::Served
}

async fn write(
    log: &AnswerLog,
    writer: &mut (impl AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<()> {
    let mut changes = log.changes();
    let (mut position, mut bytes) = (0_usize, 0_usize);
    loop {
        changes.borrow_and_update();
        match log.next(position) {
            Next::Values(values) => {
                let batch = async {
                    for value in &values {
                        // One write for each value: 0.1 readers can't take one that is split.
                        writer.write_all(value).await?;
                    }
                    writer.flush().await
                };
                timeout(limit, batch).await??;
                position = position.saturating_add(values.len());
                bytes = values
                    .iter()
                    .fold(bytes, |sum, value| sum.saturating_add(value.len()));
                log.consumed(bytes);
            }
            // Fails only when the log is gone, and that is borrowed.
            Next::Nothing => drop(changes.changed().await),
            Next::Ended => return Ok(()),
            Next::Lost => return Err(io::Error::other("the consumer fell too far behind")),
        }
    }
}

/// Reads until the consumer ends its direction, or misuses it.
async fn consumer_left(reader: &mut (impl AsyncRead + Unpin)) {
    let mut total = 0_usize;
    let mut buffer = [0_u8; 256];
    while let Ok(read) = reader.read(&mut buffer).await {
        total = total.saturating_add(read);
        if read == 0 || total > MAX_READ_BYTES {
            return;
        }
    }
}

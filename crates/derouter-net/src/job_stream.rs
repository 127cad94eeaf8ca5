//! Job streams on `/derouter/stream/0.1.0`: one head each way, then a raw byte pipe.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use derouter_wire::JobId;
use derouter_wire::cbor::truncate_to_char;
use derouter_wire::limits::{REASON_BYTES, STREAM_HEAD_BYTES};
use derouter_wire::stream::{
    HeadRequest, HeadResponse, JobConnectionResult, STREAM_PROTOCOL, frame_length,
};
use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::counters::{NetCounters, count};
use crate::error::OpenStreamError;
use crate::limits;
use crate::streams::{InboundStream, Permit, Substream, is_unsupported};

/// How long a refused peer may take to read why, before the substream is reset.
const LINGER: Duration = Duration::from_secs(2);

/// The byte pipe of a job: tokio's `AsyncRead` and `AsyncWrite`, straight on the libp2p
/// substream. `shutdown` closes one direction; dropping it resets what is still open.
///
/// Back-pressure goes from end to end: what the other side does not read stays in its window (at
/// least 256 KiB), and then `write` waits. While it is held, its connection counts as used.
#[derive(Debug)]
pub struct JobStream(Compat<Substream>);

impl JobStream {
    pub(crate) fn new(stream: Substream) -> Self {
        Self(stream.compat())
    }
}

impl AsyncRead for JobStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for JobStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// Asks to be connected to a job, on a fresh substream.
pub(crate) async fn connect(stream: Substream, job: JobId) -> Result<JobStream, OpenStreamError> {
    let mut stream = JobStream::new(stream);
    let request = HeadRequest::JobConnection {
        provider_job_id: job,
    };
    let exchange = async {
        stream.write_all(&request.encode()).await?;
        stream.flush().await?;
        read_head(&mut stream).await
    };
    let answer = timeout(limits::HEAD_DEADLINE, exchange)
        .await
        .map_err(|_| OpenStreamError::Timeout)?;
    let invalid = |reason: String| OpenStreamError::InvalidResponse(reason);
    let body = answer.map_err(|error| match is_unsupported(&error) {
        true => OpenStreamError::Unsupported(STREAM_PROTOCOL),
        false => invalid(error.to_string()),
    })?;
    let HeadResponse::JobConnection(result) =
        HeadResponse::decode(&body).map_err(|error| invalid(error.to_string()))?;
    match result {
        JobConnectionResult::Ok => Ok(stream),
        JobConnectionResult::JobNotFound => Err(OpenStreamError::JobNotFound),
        JobConnectionResult::JobExpired => Err(OpenStreamError::JobExpired),
        JobConnectionResult::Busy => Err(OpenStreamError::Busy),
        JobConnectionResult::AnotherError(mut reason) => {
            truncate_to_char(&mut reason, REASON_BYTES);
            Err(OpenStreamError::Other(reason))
        }
    }
}

async fn read_head<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Vec<u8>> {
    read_frame(stream, STREAM_HEAD_BYTES).await
}

/// Reads one frame of at most `limit` bytes. Memory is taken as they come.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    limit: usize,
) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = frame_length(prefix, limit);
    let length = length.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    read_exactly(stream, length).await
}

/// Reads so many bytes. Memory is taken as they come.
pub(crate) async fn read_exactly<R: AsyncRead + Unpin>(
    stream: &mut R,
    length: usize,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let cap = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(cap).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// A peer wants to be connected to a job. Dropped, its substream is reset.
#[derive(Debug)]
pub struct InboundJobStream {
    /// Who asks.
    pub peer: PeerId,
    /// The job it asks for.
    pub job_id: JobId,
    stream: JobStream,
    permit: Permit,
}

impl InboundJobStream {
    /// Says yes, and gives the byte pipe. Fails when the peer is gone, or does not take the
    /// answer within 10 s.
    pub async fn accept(self) -> io::Result<JobStream> {
        let mut stream = self.stream;
        write_head(&mut stream, JobConnectionResult::Ok).await?;
        drop(self.permit);
        Ok(stream)
    }

    /// Says no. ([`JobConnectionResult::Ok`] is no refusal and is sent as `Busy`.) Returns when
    /// the peer has taken the answer, within 12 s.
    pub async fn refuse(self, reason: JobConnectionResult) -> io::Result<()> {
        let reason = match reason {
            JobConnectionResult::Ok => JobConnectionResult::Busy,
            JobConnectionResult::AnotherError(mut text) => {
                truncate_to_char(&mut text, REASON_BYTES);
                JobConnectionResult::AnotherError(text)
            }
            other => other,
        };
        refuse(self.stream, reason).await
    }
}

async fn refuse(mut stream: JobStream, reason: JobConnectionResult) -> io::Result<()> {
    write_head(&mut stream, reason).await?;
    finish(stream).await
}

/// Ends a substream behind its last answer.
pub(crate) async fn finish(mut stream: JobStream) -> io::Result<()> {
    timeout(limits::HEAD_DEADLINE, stream.shutdown()).await??;
    // A reset must not overtake the answer: wait for the peer to end its side.
    let mut byte = [0; 1];
    let _ = timeout(LINGER, stream.read(&mut byte)).await;
    Ok(())
}

async fn write_head(stream: &mut JobStream, result: JobConnectionResult) -> io::Result<()> {
    write_frame(stream, &HeadResponse::JobConnection(result).encode()).await
}

/// Writes one frame, within 10 s.
pub(crate) async fn write_frame(stream: &mut JobStream, frame: &[u8]) -> io::Result<()> {
    let write = async {
        stream.write_all(frame).await?;
        stream.flush().await
    };
    timeout(limits::HEAD_DEADLINE, write).await?
}

/// Serves inbound job streams up to their head.
#[derive(Debug, Clone)]
pub(crate) struct JobStreamServer {
    pub(crate) queue: mpsc::Sender<InboundJobStream>,
    pub(crate) counters: Arc<NetCounters>,
}

impl JobStreamServer {
    /// Reads the head and passes the stream on to the node.
    pub(crate) async fn serve(self, inbound: InboundStream) {
        let mut stream = JobStream::new(inbound.stream);
        let head = timeout(limits::HEAD_DEADLINE, read_head(&mut stream)).await;
        let request = match head {
            Ok(Ok(body)) => HeadRequest::decode(&body).ok(),
            _ => None,
        };
        let Some(HeadRequest::JobConnection { provider_job_id }) = request else {
            return count(&self.counters.streams_invalid);
        };
        let job_stream = InboundJobStream {
            peer: inbound.peer,
            job_id: provider_job_id,
            stream,
            permit: inbound.permit,
        };
        match self.queue.try_send(job_stream) {
            Ok(()) => count(&self.counters.streams_received),
            Err(TrySendError::Full(refused)) => {
                count(&self.counters.streams_refused);
                let _ = refused.refuse(JobConnectionResult::Busy).await;
            }
            Err(TrySendError::Closed(refused)) => {
                let _ = refused.refuse(JobConnectionResult::Busy).await;
            }
        }
    }
}

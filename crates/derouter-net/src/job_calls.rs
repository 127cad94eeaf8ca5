//! Calls of the jobs protocol (`/derouter/jobs/0.2.0`): one call, one answer, and behind
//! [`JobAnswer::Joined`] the byte pipe of a job.

use std::io;
use std::sync::Arc;

use derouter_wire::cbor::truncate_to_char;
use derouter_wire::jobs::{JOBS_PROTOCOL, JobAnswer, JobCall, Joined, Refusal, RefusalCode};
use derouter_wire::limits::{JOB_ANSWER_BYTES, JOB_CALL_BYTES, REASON_BYTES};
use libp2p::PeerId;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use crate::counters::{NetCounters, count};
use crate::error::RequestError;
use crate::job_stream::{JobStream, finish, read_exactly, read_frame, write_frame};
use crate::limits;
use crate::reqres::LargePlaces;
use crate::streams::{InboundStream, Permit, Substream, is_unsupported};

/// When a caller whom the node has no room for should come again, in milliseconds.
const BUSY_RETRY_MS: u32 = 1000;

/// What came of a call.
#[derive(Debug)]
pub enum JobReply {
    /// The pipe begins.
    Joined(Joined, JobStream),
    /// Any other answer.
    Answered(JobAnswer),
}

/// A substream on which one call can be made. Dropped unused, the peer hears nothing of it.
#[derive(Debug)]
pub struct JobLine {
    pub(crate) peer: PeerId,
    pub(crate) stream: Substream,
}

/// Makes a call on a fresh substream.
pub(crate) async fn call(
    stream: Substream,
    call: &JobCall,
    args: Option<&str>,
) -> Result<JobReply, RequestError> {
    let mut stream = JobStream::new(stream);
    let frame = call.encode();
    let sent = timeout(limits::JOB_ARGS_DEADLINE, send(&mut stream, &frame, args));
    let failed = |error: io::Error| match is_unsupported(&error) {
        true => RequestError::Unsupported(JOBS_PROTOCOL),
        false => RequestError::Closed(error.to_string()),
    };
    let sent = sent.await.map_err(|_| RequestError::Timeout)?;
    // Also when sending failed: a peer that does not want all of it, or does not speak this protocol,
    // says so and resets the substream.
    let answer = timeout(
        limits::REQUEST_DEADLINE,
        read_frame(&mut stream, JOB_ANSWER_BYTES),
    );
    let body = answer
        .await
        .map_err(|_| RequestError::Timeout)?
        .map_err(|error| match (sent, is_unsupported(&error)) {
            (Err(sent), false) => failed(sent),
            _ => failed(error),
        })?;
    let mut answer = JobAnswer::decode(&body)
        .map_err(|error| RequestError::InvalidResponse(error.to_string()))?;
    if let JobAnswer::Refused(refusal) = &mut answer {
        truncate_to_char(&mut refusal.message, REASON_BYTES);
    }
    match (call, answer) {
        (JobCall::Create(_) | JobCall::Join { .. }, JobAnswer::Joined(joined)) => {
            Ok(JobReply::Joined(joined, stream))
        }
        (_, answer @ JobAnswer::Refused(_))
        | (JobCall::Confirm(_), answer @ JobAnswer::Confirmed(_))
        | (JobCall::GiveUp(_), answer @ JobAnswer::GivenUp(_))
        | (JobCall::Ask { .. }, answer @ JobAnswer::State(_)) => Ok(JobReply::Answered(answer)),
        _ => Err(RequestError::InvalidResponse(
            "it answers another kind of call".to_owned(),
        )),
    }
}

async fn send(stream: &mut JobStream, frame: &[u8], args: Option<&str>) -> io::Result<()> {
    stream.write_all(frame).await?;
    if let Some(args) = args {
        stream.write_all(args.as_bytes()).await?;
    }
    stream.flush().await
}

/// A call of a peer, for the node to answer. Dropped, its substream is reset.
#[derive(Debug)]
pub struct InboundJobCall {
    /// Who calls.
    pub peer: PeerId,
    /// What it asks.
    pub call: JobCall,
    /// The arguments of a new job.
    pub args: Option<String>,
    /// Where the answer goes.
    pub answering: Answering,
}

/// Takes the answer to one call.
#[derive(Debug)]
pub struct Answering {
    stream: JobStream,
    permit: Permit,
}

impl Answering {
    /// Says that the pipe begins, and gives it. Fails when the peer is gone, or does not take the
    /// answer within 10 s.
    pub async fn join(self, joined: Joined) -> io::Result<JobStream> {
        let mut stream = self.stream;
        write_frame(&mut stream, &JobAnswer::Joined(joined).encode()).await?;
        drop(self.permit);
        Ok(stream)
    }

    /// Says anything else. Returns when the peer has taken the answer, within 22 s.
    pub async fn answer(self, answer: JobAnswer) -> io::Result<()> {
        let mut stream = self.stream;
        write_frame(&mut stream, &answer.encode()).await?;
        finish(stream).await
    }

    /// Says no.
    pub async fn refuse(self, refusal: Refusal) -> io::Result<()> {
        self.answer(JobAnswer::Refused(refusal)).await
    }
}

/// Serves inbound calls up to where the node answers them.
#[derive(Debug, Clone)]
pub(crate) struct JobCallServer {
    pub(crate) queue: mpsc::Sender<InboundJobCall>,
    pub(crate) large: LargePlaces,
    pub(crate) counters: Arc<NetCounters>,
}

impl JobCallServer {
    /// Reads the call and passes it on to the node.
    pub(crate) async fn serve(self, inbound: InboundStream) {
        let peer = inbound.peer;
        let mut stream = JobStream::new(inbound.stream);
        let read = self.read(peer, &mut stream).await;
        let answering = Answering {
            stream,
            permit: inbound.permit,
        };
        let (call, args) = match read {
            Ok(read) => read,
            Err(reason) => {
                count(&self.counters.requests_invalid);
                let refusal = Refusal::new(RefusalCode::InvalidCall, reason.to_string());
                // Whoever can't make a call may not wait for the answer either.
                let _ = answering.refuse(refusal).await;
                return;
            }
        };
        let inbound = InboundJobCall {
            peer,
            call,
            args,
            answering,
        };
        match self.queue.try_send(inbound) {
            Ok(()) => count(&self.counters.requests_received),
            Err(TrySendError::Full(refused)) => {
                count(&self.counters.requests_refused);
                let refusal = Refusal::new(RefusalCode::Busy, "too many calls at once")
                    .retry_after_ms(BUSY_RETRY_MS);
                let _ = refused.answering.refuse(refusal).await;
            }
            Err(TrySendError::Closed(refused)) => {
                let refusal = Refusal::new(RefusalCode::ShuttingDown, "the node stops");
                let _ = refused.answering.refuse(refusal).await;
            }
        }
    }

    async fn read(
        &self,
        peer: PeerId,
        stream: &mut JobStream,
    ) -> io::Result<(JobCall, Option<String>)> {
        let body = timeout(limits::HEAD_DEADLINE, read_frame(stream, JOB_CALL_BYTES)).await??;
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let call = JobCall::decode(&body).map_err(|error| invalid(error.to_string()))?;
        let JobCall::Create(new) = &call else {
            return Ok((call, None));
        };
        let Some(length) = new.args_bytes else {
            return Ok((call, None));
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let read = self.read_args(peer, stream, length);
        let args = timeout(limits::JOB_ARGS_DEADLINE, read).await??;
        let args = String::from_utf8(args);
        let args = args.map_err(|_| invalid("the arguments are no UTF-8".to_owned()))?;
        Ok((call, Some(args)))
    }

    async fn read_args(
        &self,
        peer: PeerId,
        stream: &mut JobStream,
        length: usize,
    ) -> io::Result<Vec<u8>> {
        // Held while they are read: a peer that sends slowly holds places of its own.
        let _place = match length > limits::SMALL_REQUEST_BYTES {
            true => self.large.take(peer).await,
            false => None,
        };
        read_exactly(stream, length).await
    }
}

//! Numbered requests and their answers over the frame stream, and the bounded queue of frames to
//! write.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_wire::cbor;
use derouter_wire::limits;
use derouter_wire::rpc::error::{self, ErrorBody, ErrorCode};
use derouter_wire::rpc::{
    Call, Frame, FrameKind, encode_cancel, encode_frame, encode_request, encode_response,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::mux::SPLIT_SEND_BYTES;

/// Frames that wait to be written. Enough for a burst of events; memory is bounded by bytes.
const QUEUE_FRAMES: usize = 1024;

/// Bytes that wait to be written: four of the largest frames.
const QUEUE_BYTES: usize = 4 * limits::RPC_FRAME_BYTES;

/// The byte budget is counted in pages, so that permits fit a `u32`.
const PAGE_BYTES: usize = 1024;

/// With less room than this the queue counts as full: 256 KiB, more than most frames.
const FEW_PAGES: usize = 256;

/// Calls without an answer. The other end works on at most 256 at a time; the rest waits there.
const PENDING_CALLS: usize = 4096;

/// A module that takes nothing for so long while its queue is full has died without closing.
const STALLED: Duration = Duration::from_secs(30);

/// How [`Outgoing::write_to`] ends when the other end is gone.
pub const WRITING_FAILED: &str = "writing failed";

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection ended.
    #[error("the connection ended")]
    Closed,
    /// No answer within the deadline.
    #[error("no answer in time")]
    Timeout,
    /// Too many calls wait for an answer, or the request is too large.
    #[error("{0}")]
    Refused(&'static str),
    /// The answer can't be read.
    #[error("{0}")]
    Answer(String),
    /// The other end answers with an error that fits any request.
    #[error("{tag}: {text}")]
    Error {
        /// An [`ErrorCode`], or one of a later version.
        tag: String,
        /// In words.
        text: String,
    },
}

/// An error that may answer any request of 0.1.
#[derive(Serialize)]
struct InternalError {
    tag: &'static str,
    content: &'static str,
}

/// Encodes an answer in the form of a version.
fn encode_answer<T: Serialize>(is_0_2: bool, id: u32, type_name: &str, data: &T) -> Vec<u8> {
    if is_0_2 {
        encode_response(id, type_name, &error::from_tagged(cbor::to_vec(data)))
    } else {
        encode_frame(FrameKind::Response, id, type_name, data)
    }
}

type OnAnswer = Box<dyn FnOnce(&[u8]) + Send>;

struct Queued {
    frame: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Sends requests and responses over one connection. A cheap handle.
#[derive(Clone)]
pub struct Caller {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    written: AtomicU64,
    next_id: AtomicU32,
    pending: Mutex<HashMap<u32, OnAnswer>>,
    /// Both sides have said Hello: requests carry deadlines, errors have the form of 0.2.
    is_0_2: AtomicBool,
    closed: CancellationToken,
}

/// The frames to write, for [`Outgoing::write_to`].
pub struct Outgoing {
    queue: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller")
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing")
    }
}

/// Takes a call's entry out when its future is dropped.
struct Entry<'a> {
    caller: &'a Caller,
    id: u32,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let unanswered = self.caller.pending().remove(&self.id).is_some();
        if unanswered && self.caller.is_0_2() {
            self.caller.try_cancel(self.id);
        }
    }
}

impl Caller {
    /// A caller whose calls end when `closed` is cancelled, and the queue to write.
    pub fn new(closed: CancellationToken) -> (Self, Outgoing) {
        let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
        let shared = Arc::new(Shared {
            queue: sender,
            room: Arc::new(Semaphore::new(QUEUE_BYTES / PAGE_BYTES)),
            written: AtomicU64::new(0),
            next_id: AtomicU32::new(0),
            pending: Mutex::new(HashMap::new()),
            is_0_2: AtomicBool::new(false),
            closed,
        });
        let outgoing = Outgoing {
            queue,
            shared: Arc::clone(&shared),
        };
        (Self { shared }, outgoing)
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u32, OnAnswer>> {
        // Nothing panics while it is held.
        self.shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Speaks 0.2 from now on.
    pub fn speak_0_2(&self) {
        self.shared.is_0_2.store(true, Ordering::Release);
    }

    /// Whether 0.2 is spoken.
    pub fn is_0_2(&self) -> bool {
        self.shared.is_0_2.load(Ordering::Acquire)
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Sends a request and waits for its answer.
    pub async fn call<C: Call>(&self, request: &C, wait: Duration) -> Result<C::Reply, CallError>
    where
        C::Reply: Send + 'static,
    {
        self.call_and(request, wait, |_| ()).await
    }

    /// Like [`Caller::call`]; `on_answer` sees the answer before the next frame is read.
    pub async fn call_and<C: Call>(
        &self,
        request: &C,
        wait: Duration,
        on_answer: impl FnOnce(&C::Reply) + Send + 'static,
    ) -> Result<C::Reply, CallError>
    where
        C::Reply: Send + 'static,
    {
        let deadline = Instant::now() + wait;
        let (answered, answer) = oneshot::channel();
        let id = self.register(Box::new(move |data| {
            let reply = decode_reply::<C>(data);
            if let Ok(reply) = &reply {
                on_answer(reply);
            }
            let _ = answered.send(reply);
        }))?;
        let entry = Entry { caller: self, id };
        let frame = if self.is_0_2() {
            let deadline = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            encode_request(id, C::TYPE, request, deadline)
        } else {
            encode_frame(FrameKind::Request, id, C::TYPE, request)
        };
        let exchange = async {
            self.enqueue(frame).await?;
            answer.await.map_err(|_| CallError::Closed)?
        };
        let result = tokio::select! {
            result = timeout_at(deadline, exchange) => result.unwrap_or(Err(CallError::Timeout)),
            () = self.closed() => Err(CallError::Closed),
        };
        drop(entry);
        result
    }

    /// Sends a request of any name and waits for the data of its answer, as it is encoded. 0.2 only.
    pub async fn call_raw<T: Serialize + Sync>(
        &self,
        type_name: &str,
        data: &T,
        wait: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let deadline = Instant::now() + wait;
        let (answered, answer) = oneshot::channel();
        let id = self.register(Box::new(move |data| {
            let _ = answered.send(data.to_vec());
        }))?;
        let entry = Entry { caller: self, id };
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let frame = encode_request(id, type_name, data, millis);
        let exchange = async {
            self.enqueue(frame).await?;
            answer.await.map_err(|_| CallError::Closed)
        };
        let result = tokio::select! {
            result = timeout_at(deadline, exchange) => result.unwrap_or(Err(CallError::Timeout)),
            () = self.closed() => Err(CallError::Closed),
        };
        drop(entry);
        result
    }

    fn register(&self, on_answer: OnAnswer) -> Result<u32, CallError> {
        let mut pending = self.pending();
        if pending.len() >= PENDING_CALLS {
            return Err(CallError::Refused("too many calls wait for an answer"));
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        pending.insert(id, on_answer);
        Ok(id)
    }

    /// Sends a request whose answer is not waited for. Waits for room in the queue.
    pub async fn notify<C: Call>(&self, request: &C) -> Result<(), CallError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode_frame(FrameKind::Request, id, C::TYPE, request);
        self.enqueue_or_closed(frame).await
    }

    /// Answers a request. Waits for room in the queue. In place of an answer that is too large,
    /// the error `InternalError` is sent, so that nobody waits for it, and
    /// [`CallError::Refused`] returned.
    pub async fn respond<T: Serialize + Sync>(
        &self,
        id: u32,
        type_name: &str,
        data: &T,
    ) -> Result<(), CallError> {
        let is_0_2 = self.is_0_2();
        let sent = self
            .enqueue_or_closed(encode_answer(is_0_2, id, type_name, data))
            .await;
        if let Err(CallError::Refused(reason)) = &sent {
            let failure = InternalError {
                tag: ErrorCode::InternalError.as_str(),
                content: reason,
            };
            let frame = encode_answer(is_0_2, id, type_name, &failure);
            self.enqueue_or_closed(frame).await?;
        }
        sent
    }

    /// Asks to give a request up, if there is room to say so at once.
    fn try_cancel(&self, id: u32) {
        let Ok(room) = Arc::clone(&self.shared.room).try_acquire_owned() else {
            return;
        };
        let queued = Queued {
            frame: encode_cancel(id),
            _room: room,
        };
        let _ = self.shared.queue.try_send(queued);
    }

    /// Acknowledges an event, as 0.1 modules do. Waits for room in the queue.
    pub async fn acknowledge(&self, id: u32) -> Result<(), CallError> {
        self.enqueue_or_closed(acknowledgement(id)).await
    }

    async fn enqueue_or_closed(&self, frame: Vec<u8>) -> Result<(), CallError> {
        tokio::select! {
            result = self.enqueue(frame) => result,
            () = self.closed() => Err(CallError::Closed),
        }
    }

    async fn enqueue(&self, frame: Vec<u8>) -> Result<(), CallError> {
        let too_large = CallError::Refused("a frame would be over 8 MiB");
        if frame.len() > limits::RPC_FRAME_BYTES + 4 {
            return Err(too_large);
        }
        let pages = u32::try_from(frame.len().div_ceil(PAGE_BYTES)).map_err(|_| too_large)?;
        let room = Arc::clone(&self.shared.room).acquire_many_owned(pages);
        let queued = Queued {
            frame,
            _room: room.await.map_err(|_| CallError::Closed)?,
        };
        let sent = self.shared.queue.send(queued).await;
        sent.map_err(|_| CallError::Closed)
    }

    /// Hands a response to the call that waits for it. One that none waits for is ignored.
    pub fn answer(&self, response: &Frame<'_>) {
        let waiting = self.pending().remove(&response.id);
        if let Some(on_answer) = waiting {
            on_answer(response.data);
        }
    }

    fn has_room(&self) -> bool {
        self.shared.queue.capacity() > 0 && self.shared.room.available_permits() >= FEW_PAGES
    }
}

/// The frame `{type: "Ack", data: undefined, kind: "Response", id}`, byte for byte what 0.1 modules
/// send: a 0.1 node may be strict about a value that it never sees.
fn acknowledgement(id: u32) -> Vec<u8> {
    /// Behind the length, the map's head, `type`, `Ack` and `data`.
    const DATA_AT: usize = 4 + 1 + 5 + 4 + 5;
    const UNDEFINED: u8 = 0xf7;
    let mut frame = encode_frame(FrameKind::Response, id, "Ack", &());
    if let Some(null) = frame.get_mut(DATA_AT) {
        *null = UNDEFINED;
    }
    frame
}

/// Reads an answer, or an error that fits any request, of either version.
fn decode_reply<C: Call>(data: &[u8]) -> Result<C::Reply, CallError> {
    #[derive(Deserialize)]
    struct General {
        tag: String,
        #[serde(default)]
        content: Option<String>,
    }
    let error = match error::decode_answer::<C>(data) {
        Ok(Ok(reply)) => return Ok(reply),
        Ok(Err(ErrorBody { code, message, .. })) => {
            return Err(CallError::Error {
                tag: code,
                text: message,
            });
        }
        Err(error) => error,
    };
    match cbor::from_slice::<General>(data) {
        Ok(General { tag, content }) => Err(CallError::Error {
            tag,
            text: content.unwrap_or_default(),
        }),
        Err(_) => Err(CallError::Answer(format!("{}: {error}", C::TYPE))),
    }
}

impl Outgoing {
    /// Writes the queue until it ends, writing fails, or the other end takes nothing for 30 s
    /// while the queue is full.
    pub async fn write_to<W: AsyncWrite + Unpin>(
        mut self,
        mut writer: W,
    ) -> Result<(), &'static str> {
        let caller = Caller {
            shared: Arc::clone(&self.shared),
        };
        tokio::select! {
            result = self.write_all(&mut writer) => result,
            () = stalled(&caller) => Err("it took nothing for 30 s while its queue was full"),
        }
    }

    async fn write_all<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
    ) -> Result<(), &'static str> {
        let failed = |_| WRITING_FAILED;
        while let Some(queued) = self.queue.recv().await {
            for part in queued.frame.chunks(SPLIT_SEND_BYTES) {
                writer.write_all(part).await.map_err(failed)?;
                self.shared.written.fetch_add(1, Ordering::Relaxed);
            }
            drop(queued);
            if self.queue.is_empty() {
                writer.flush().await.map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Resolves when the queue was full and nothing was written for [`STALLED`].
async fn stalled(caller: &Caller) {
    let written = || caller.shared.written.load(Ordering::Relaxed);
    let mut seen = written();
    let mut since = Instant::now();
    loop {
        sleep_until(Instant::now() + STALLED / 10).await;
        let now = written();
        if now != seen || caller.has_room() {
            seen = now;
            since = Instant::now();
        } else if since.elapsed() >= STALLED {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_what_a_0_1_module_sends() {
        let mut expected = vec![0, 0, 0, 34, 0xa4, 0x64];
        expected.extend(b"type\x63Ack\x64data\xf7\x64kind\x68Response\x62id\x03");
        assert_eq!(acknowledgement(3), expected);
    }

    #[tokio::test]
    async fn in_place_of_an_answer_that_is_too_large_an_error_is_sent() {
        let (caller, mut outgoing) = Caller::new(CancellationToken::new());
        let large = "x".repeat(limits::RPC_FRAME_BYTES);
        let sent = caller.respond(7, "QuerySystem", &large).await;
        assert!(matches!(sent, Err(CallError::Refused(_))));
        let queued = outgoing.queue.try_recv().unwrap();
        let frame = Frame::decode(&queued.frame[4..]).unwrap();
        assert_eq!((frame.id, frame.type_name.as_ref()), (7, "QuerySystem"));
        let reply = decode_reply::<derouter_wire::rpc::request::QuerySystem>(frame.data);
        match reply {
            Err(CallError::Error { tag, text }) => {
                assert_eq!(tag, "InternalError");
                assert!(text.contains("8 MiB"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Answers with 64 KiB each until the queue takes no more.
    async fn fill(caller: &Caller) -> usize {
        let text = "x".repeat(64 * 1024);
        let mut sent = 0;
        while timeout_at(
            Instant::now() + Duration::from_secs(1),
            caller.respond(0, "T", &text),
        )
        .await
        .is_ok_and(|sent| sent.is_ok())
        {
            sent += 1;
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn a_module_that_takes_nothing_fills_a_bounded_queue_and_is_given_up() {
        let (caller, outgoing) = Caller::new(CancellationToken::new());
        let (writer, _reader) = tokio::io::duplex(1024);
        let writing = tokio::spawn(outgoing.write_to(writer));
        let frames = fill(&caller).await;
        assert!(
            (1..=QUEUE_BYTES / (64 * 1024)).contains(&frames),
            "{frames}"
        );
        let full = Instant::now();
        let given_up = tokio::time::timeout(2 * STALLED, writing).await;
        assert!(given_up.expect("given up").unwrap().is_err());
        assert!(
            (25..40).contains(&full.elapsed().as_secs()),
            "{:?}",
            full.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_module_that_takes_nothing_is_kept_while_its_queue_has_room() {
        let (caller, outgoing) = Caller::new(CancellationToken::new());
        let (writer, _reader) = tokio::io::duplex(1024);
        let writing = outgoing.write_to(writer);
        caller
            .respond(0, "T", &"x".repeat(64 * 1024))
            .await
            .unwrap();
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, writing).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline_and_leaves_nothing() {
        let (caller, _outgoing) = Caller::new(CancellationToken::new());
        let query = derouter_wire::rpc::request::QuerySystem {};
        let wait = Duration::from_secs(8);
        let silent = caller.call(&query, wait).await;
        assert!(matches!(silent, Err(CallError::Timeout)));
        assert!(caller.pending().is_empty());
    }
}

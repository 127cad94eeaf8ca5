//! One request and its response on a substream of `/derouter/reqres/0.1.0`: the asker writes and
//! closes its side, the answerer writes and closes, each CBOR without a length.

use std::io;
use std::sync::Arc;

use derouter_wire::limits::{REQRES_REQUEST_BYTES, REQRES_RESPONSE_BYTES};
use derouter_wire::reqres::{CreateJobResult, REQRES_PROTOCOL, Request, Response};
use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::counters::{NetCounters, count};
use crate::error::RequestError;
use crate::limits;
use crate::peer_places::PeerPlaces;
use crate::streams::{InboundStream, Substream, is_unsupported};

/// A request of a peer, for the node to answer.
#[derive(Debug)]
pub struct InboundRequest {
    /// Who asks.
    pub peer: PeerId,
    /// What it asks.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Takes the answer to one request. Dropped unused, the peer is told at once that there is none.
/// After 9 s a `CreateJob` is answered `Busy` without the node, others are dropped.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Response>);

impl Reply {
    /// Sends the answer. False when nobody waits for it any more: what the answer promised should
    /// then be undone.
    #[must_use = "an answer that nobody waits for promised nothing"]
    pub fn send(self, response: Response) -> bool {
        self.0.send(response).is_ok()
    }

    /// Resolves when nobody waits for the answer any more.
    pub async fn closed(&mut self) {
        self.0.closed().await;
    }
}

/// Asks on a fresh substream.
pub(crate) async fn ask(stream: Substream, request: &Request) -> Result<Response, RequestError> {
    let bytes = encode(request)?;
    let exchange = exchange(stream.compat(), &bytes);
    let answer = timeout(limits::REQUEST_DEADLINE, exchange)
        .await
        .map_err(|_| RequestError::Timeout)?;
    let body = answer.map_err(|error| match is_unsupported(&error) {
        true => UNSUPPORTED,
        false => RequestError::Closed(error.to_string()),
    })?;
    read_response(request, &body)
}

fn encode(request: &Request) -> Result<Vec<u8>, RequestError> {
    let encoded = request.encode();
    let bytes = encoded.len();
    if bytes > REQRES_REQUEST_BYTES {
        let limit = REQRES_REQUEST_BYTES;
        return Err(RequestError::TooLarge { bytes, limit });
    }
    Ok(encoded)
}

async fn exchange(mut stream: Compat<Substream>, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    stream.shutdown().await?;
    let mut body = Vec::new();
    let cap = u64::try_from(REQRES_RESPONSE_BYTES).unwrap_or(u64::MAX);
    (&mut stream).take(cap + 1).read_to_end(&mut body).await?;
    Ok(body)
}

fn read_response(request: &Request, body: &[u8]) -> Result<Response, RequestError> {
    let invalid = |reason: &str| Err(RequestError::InvalidResponse(reason.to_owned()));
    if body.is_empty() {
        return Err(RequestError::Closed("the peer gave no answer".to_owned()));
    }
    if body.len() > REQRES_RESPONSE_BYTES {
        return invalid("it is over 10 MiB");
    }
    let response = match Response::decode(body) {
        Ok(response) => response,
        Err(error) => return Err(RequestError::InvalidResponse(error.to_string())),
    };
    match (request, &response) {
        (Request::CreateJob { .. }, Response::CreateJob(_))
        | (Request::GetJob { .. }, Response::GetJob(_))
        | (Request::ConfirmJob { .. }, Response::ConfirmJob(_)) => Ok(response),
        _ => invalid("it answers another kind of request"),
    }
}

/// A place among the large requests of a peer and of the node.
#[derive(Debug)]
pub(crate) struct LargePlace {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Room for the large requests that are held in memory at once.
#[derive(Debug, Clone)]
pub(crate) struct LargePlaces {
    shared: Arc<Semaphore>,
    of_peer: Arc<PeerPlaces>,
}

impl Default for LargePlaces {
    fn default() -> Self {
        Self {
            shared: Arc::new(Semaphore::new(limits::LARGE_REQUESTS)),
            of_peer: Arc::new(PeerPlaces::new(limits::LARGE_REQUESTS_PER_PEER)),
        }
    }
}

impl LargePlaces {
    /// Waits for a place. The peer's own first: one that waits for those holds none of the others.
    pub(crate) async fn take(&self, peer: PeerId) -> Option<LargePlace> {
        let own = self.of_peer.of(peer).acquire_owned().await.ok()?;
        let shared = self.shared.clone().acquire_owned().await.ok()?;
        Some(LargePlace {
            _own: own,
            _shared: shared,
        })
    }
}

/// Serves inbound requests.
#[derive(Debug, Clone)]
pub(crate) struct RequestServer {
    pub(crate) queue: mpsc::Sender<InboundRequest>,
    pub(crate) large: LargePlaces,
    pub(crate) counters: Arc<NetCounters>,
}

impl RequestServer {
    /// Reads one request, has it answered, writes the answer. Every step has a deadline.
    pub(crate) async fn serve(self, inbound: InboundStream) {
        let _permit = inbound.permit;
        let mut stream = inbound.stream.compat();
        let mut place = None;
        let read = self.read(inbound.peer, &mut stream, &mut place);
        let Ok(Some(request)) = timeout(limits::READ_REQUEST_DEADLINE, read).await else {
            return count(&self.counters.requests_invalid);
        };
        let Some(response) = self.answer(inbound.peer, request).await else {
            // A closed side without a byte says "no answer" at once, as 0.1 does.
            let _ = timeout(limits::WRITE_RESPONSE_DEADLINE, stream.shutdown()).await;
            return;
        };
        let write = write_response(&mut stream, response);
        if !matches!(
            timeout(limits::WRITE_RESPONSE_DEADLINE, write).await,
            Ok(Ok(()))
        ) {
            tracing::debug!(peer = %inbound.peer, "a response could not be delivered");
        }
    }

    /// `place` keeps room among the large requests until the request is dealt with.
    async fn read<R: AsyncRead + Unpin>(
        &self,
        peer: PeerId,
        stream: &mut R,
        place: &mut Option<LargePlace>,
    ) -> Option<Request> {
        let mut body = Vec::new();
        let small = u64::try_from(limits::SMALL_REQUEST_BYTES).ok()?;
        let cap = u64::try_from(REQRES_REQUEST_BYTES).ok()?;
        let first = (&mut *stream).take(small).read_to_end(&mut body).await;
        first.ok()?;
        if body.len() >= limits::SMALL_REQUEST_BYTES {
            *place = Some(self.large.take(peer).await?);
            let rest = stream.take(cap + 1 - small).read_to_end(&mut body).await;
            rest.ok()?;
        }
        if body.len() > REQRES_REQUEST_BYTES {
            return None;
        }
        Request::decode(&body).ok()
    }

    async fn answer(&self, peer: PeerId, request: Request) -> Option<Response> {
        let busy = busy(&request);
        let (sender, receiver) = oneshot::channel();
        let inbound = InboundRequest {
            peer,
            request,
            reply: Reply(sender),
        };
        match self.queue.try_send(inbound) {
            Ok(()) => count(&self.counters.requests_received),
            Err(TrySendError::Full(_)) => {
                count(&self.counters.requests_refused);
                return busy;
            }
            Err(TrySendError::Closed(_)) => return busy,
        }
        match timeout(limits::ANSWER_DEADLINE, receiver).await {
            Ok(Ok(response)) => Some(response),
            Ok(Err(_dropped)) => {
                count(&self.counters.requests_unanswered);
                None
            }
            Err(_late) => {
                count(&self.counters.requests_unanswered);
                busy
            }
        }
    }
}

/// What a request is answered when the node can't take it. Only one kind has such an answer.
fn busy(request: &Request) -> Option<Response> {
    matches!(request, Request::CreateJob { .. })
        .then_some(Response::CreateJob(CreateJobResult::Busy))
}

async fn write_response(stream: &mut Compat<Substream>, response: Response) -> io::Result<()> {
    let bytes = response.encode();
    drop(response);
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}

/// How an open failure looks to the asker.
pub(crate) const UNSUPPORTED: RequestError = RequestError::Unsupported(REQRES_PROTOCOL);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use derouter_wire::{Currency, OfferId, ProtocolId};

    use super::*;

    fn large_request() -> Request {
        Request::CreateJob {
            protocol_id: ProtocolId::new("test").unwrap(),
            offer_id: OfferId::new("offer").unwrap(),
            offer_payload: "payload".to_owned(),
            currency: Currency::Pol,
            job_args: Some("x".repeat(2 * limits::SMALL_REQUEST_BYTES)),
        }
    }

    #[tokio::test]
    async fn a_peer_that_stalls_many_large_requests_leaves_places_to_others() {
        let (queue, _requests) = mpsc::channel(1);
        let server = RequestServer {
            queue,
            large: LargePlaces::default(),
            counters: Arc::default(),
        };
        let staller = PeerId::random();
        let mut held = Vec::new();
        for _ in 0..limits::LARGE_REQUESTS {
            let (mut near, mut far) = tokio::io::duplex(limits::SMALL_REQUEST_BYTES);
            near.write_all(&vec![0; limits::SMALL_REQUEST_BYTES])
                .await
                .unwrap();
            let server = server.clone();
            held.push(near);
            tokio::spawn(async move {
                let mut place = None;
                server.read(staller, &mut far, &mut place).await
            });
        }
        let taken = async {
            while server.large.shared.available_permits() > 112 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), taken).await.unwrap();

        let request = large_request();
        let bytes = request.encode();
        let mut bytes = bytes.as_slice();
        let mut place = None;
        let read = server.read(PeerId::random(), &mut bytes, &mut place);
        let read = timeout(Duration::from_secs(5), read).await;
        assert_eq!(read.unwrap(), Some(request));
        assert_eq!(
            server.large.shared.available_permits(),
            111,
            "16 stalled, 1 read"
        );
        drop(place);
        assert_eq!(server.large.shared.available_permits(), 112);
    }
}

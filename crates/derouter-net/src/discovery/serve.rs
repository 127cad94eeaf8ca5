//! Answers other peers' requests of the discovery protocol, one for each substream.

use std::sync::Arc;
use std::time::Duration;

use derouter_wire::cbor::{self, Bytes};
use derouter_wire::discovery::{DiscoveryRequest, Fetched, PulledList, Reconciled, Want};
use derouter_wire::limits::{DISCOVERY_REQUEST_BYTES, PULL_RESPONSE_BYTES};
use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::exchange::ExchangeError;
use super::reconcile::{compute, put};
use super::{Ask, Inputs};
use crate::actor::{Command, Offence};
use crate::counters::{NetCounters, count};
use crate::limits;
use crate::peer_places::PeerPlaces;
use crate::streams::InboundStream;

/// A request over this needs a place among the large ones.
const SMALL_REQUEST: usize = 16 * 1024;
/// How long a small part of a request or answer may take.
const STEP: Duration = Duration::from_secs(10);

/// Serves the discovery protocol.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryServer {
    inputs: Inputs,
    commands: mpsc::WeakSender<Command>,
    of_peer: Arc<PeerPlaces>,
    large: Arc<Semaphore>,
    counters: Arc<NetCounters>,
}

impl DiscoveryServer {
    pub(crate) fn new(
        inputs: Inputs,
        commands: mpsc::WeakSender<Command>,
        counters: Arc<NetCounters>,
    ) -> Self {
        Self {
            inputs,
            commands,
            of_peer: Arc::new(PeerPlaces::new(limits::DISCOVERY_PER_PEER)),
            large: Arc::new(Semaphore::new(limits::LARGE_DISCOVERY)),
            counters,
        }
    }

    /// Reads one request and answers it. A peer that asks for more than it may at once gets no
    /// answer, and asks somebody else.
    pub(crate) async fn serve(self, inbound: InboundStream) {
        let _permit = inbound.permit;
        let peer = inbound.peer;
        let Ok(_place) = self.of_peer.of(peer).try_acquire_owned() else {
            return count(&self.counters.discovery_refused);
        };
        let mut stream = inbound.stream.compat();
        let served = self.exchange(peer, &mut stream);
        let ended = timeout(limits::DISCOVERY_DEADLINE, served).await;
        match ended {
            Ok(Ok(())) => count(&self.counters.discovery_served),
            Ok(Err(ExchangeError::Invalid(reason))) => {
                tracing::debug!(%peer, reason, "not a discovery request");
                count(&self.counters.discovery_refused);
                self.blame(peer, Offence::InvalidMessage);
            }
            Ok(Err(_)) | Err(_) => count(&self.counters.discovery_refused),
        }
    }

    fn blame(&self, peer: PeerId, offence: Offence) {
        if let Some(commands) = self.commands.upgrade() {
            // Full: there is worse to do.
            let _ = commands.try_send(Command::Blame(peer, offence));
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: PeerId,
        stream: &mut S,
    ) -> Result<(), ExchangeError> {
        let (request, _place) = timeout(STEP, self.read(stream))
            .await
            .map_err(|_| ExchangeError::Timeout)??;
        match request {
            DiscoveryRequest::Pull(wants) => self.give_lists(peer, stream, wants).await,
            DiscoveryRequest::Reconcile { shards, message } => {
                let ask = |reply| Ask::Snapshot(shards, reply);
                let snapshot = put(&self.inputs, peer, ask).await?;
                let answer = compute(move || snapshot.answer(&message)).await?;
                let message = Bytes(answer);
                write(stream, &cbor::to_framed_vec(&Reconciled { message })).await
            }
            DiscoveryRequest::Fetch(ids) => {
                let ask = |reply| Ask::Carried(ids, reply);
                let announcements = put(&self.inputs, peer, ask).await?;
                write(stream, &cbor::to_framed_vec(&Fetched { announcements })).await
            }
            DiscoveryRequest::Offer(announcements) => {
                let ask = |done| Ask::Take(announcements, done);
                put(&self.inputs, peer, ask).await?;
                write(stream, &cbor::to_framed_vec(&Fetched::default())).await
            }
        }?;
        stream.shutdown().await?;
        Ok(())
    }

    async fn read<S: AsyncRead + Unpin>(
        &self,
        stream: &mut S,
    ) -> Result<(DiscoveryRequest, Option<OwnedSemaphorePermit>), ExchangeError> {
        let length = stream.read_u32().await?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > DISCOVERY_REQUEST_BYTES {
            return Err(ExchangeError::Invalid("a request is too large".into()));
        }
        let place = if length > SMALL_REQUEST {
            let place = self.large.clone().acquire_owned().await;
            Some(place.map_err(|_| ExchangeError::Timeout)?)
        } else {
            None
        };
        let mut body = Vec::new();
        let cap = u64::try_from(length).unwrap_or(u64::MAX);
        stream.take(cap).read_to_end(&mut body).await?;
        Ok((DiscoveryRequest::decode(&body)?, place))
    }

    async fn give_lists<S: AsyncWrite + Unpin>(
        &self,
        peer: PeerId,
        stream: &mut S,
        wants: Vec<Want>,
    ) -> Result<(), ExchangeError> {
        let lists = put(&self.inputs, peer, |reply| Ask::Lists(wants, reply)).await?;
        let mut sent = 0_usize;
        for (index, list) in (0_u32..).zip(lists) {
            let bytes = list.as_ref().map_or(0, |list| list.len());
            sent = sent.saturating_add(bytes);
            if sent > PULL_RESPONSE_BYTES {
                break;
            }
            let list = list.map(|list| Bytes(list.to_vec()));
            write(stream, &cbor::to_framed_vec(&PulledList { index, list })).await?;
        }
        Ok(())
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, frame: &[u8]) -> Result<(), ExchangeError> {
    let written = timeout(STEP, stream.write_all(frame)).await;
    Ok(written.map_err(|_| ExchangeError::Timeout)??)
}

//! One exchange of the discovery protocol, as the one who asks.

use std::io;

use derouter_wire::cbor::DecodeError;
use derouter_wire::discovery::DiscoveryRequest;
use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::DISCOVERY;
use crate::actor::Command;
use crate::streams::{OpenRequest, Substream};

/// Why an exchange gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// No substream.
    #[error("the peer can't be asked: {0}")]
    Unreachable(String),
    /// It broke.
    #[error("the exchange broke: {0}")]
    Io(#[from] io::Error),
    /// The peer sent what is no answer: it misbehaves.
    #[error("no answer of the protocol: {0}")]
    Invalid(String),
    /// It took too long.
    #[error("the peer took too long")]
    Timeout,
}

impl From<DecodeError> for ExchangeError {
    fn from(error: DecodeError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The swarm task's commands. Weak: the network ends with its handles, not with this.
pub(super) type Commands = mpsc::WeakSender<Command>;

/// Asks, and gives the substream to read the answer from.
pub(super) async fn ask(
    commands: &Commands,
    peer: PeerId,
    request: &DiscoveryRequest,
) -> Result<Compat<Substream>, ExchangeError> {
    let mut stream = open(commands, peer).await?.compat();
    stream.write_all(&request.to_frame()).await?;
    stream.shutdown().await?;
    Ok(stream)
}

async fn open(commands: &Commands, peer: PeerId) -> Result<Substream, ExchangeError> {
    let stopped = || ExchangeError::Unreachable("the network has stopped".to_owned());
    let (reply, outcome) = oneshot::channel();
    let request = OpenRequest {
        protocol: DISCOVERY,
        avoid: None,
        reply,
    };
    let sender = commands.upgrade().ok_or_else(stopped)?;
    let sent = sender.send(Command::Open(peer, request)).await;
    sent.map_err(|_| stopped())?;
    drop(sender);
    let opened = outcome.await.map_err(|_| stopped())?;
    opened.map_err(|error| ExchangeError::Unreachable(format!("{error:?}")))
}

/// Reads one frame; `None` at the end of the answer.
pub(super) async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    most: usize,
) -> Result<Option<Vec<u8>>, ExchangeError> {
    match read_length(stream, most).await? {
        Some(length) => read_body(stream, length).await.map(Some),
        None => Ok(None),
    }
}

/// Reads the length of a frame, at most `most`; `None` at the end of the answer.
pub(super) async fn read_length<R: AsyncRead + Unpin>(
    stream: &mut R,
    most: usize,
) -> Result<Option<usize>, ExchangeError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(ExchangeError::Invalid(format!(
            "a frame of {length} bytes where {most} are the most"
        )));
    }
    Ok(Some(length))
}

/// Reads the rest of a frame of this length.
pub(super) async fn read_body<R: AsyncRead + Unpin>(
    stream: &mut R,
    length: usize,
) -> Result<Vec<u8>, ExchangeError> {
    let mut frame = Vec::new();
    let cap = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(cap).read_to_end(&mut frame).await?;
    if frame.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(frame)
}

//! Values on a job stream: `u32` big-endian length + CBOR, each an object that JSON could hold.

use derouter_sdk::wire::{cbor, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest value that is read. A plain answer travels as one value; 0.1 provider modules send
/// well under 1 MiB.
pub const MAX_VALUE_BYTES: usize = 8 * 1024 * 1024;

/// Why no value could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadValueError {
    /// The stream ended between two values.
    #[error("the stream ended")]
    Ended,
    /// The stream broke, or ended within a value.
    #[error("the stream broke: {0}")]
    Broken(#[from] std::io::Error),
    /// Over [`MAX_VALUE_BYTES`].
    #[error(transparent)]
    TooLarge(#[from] stream::FrameTooLarge),
    /// Not the expected CBOR.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
}

/// Reads one value. Not cancel safe: after a dropped call the stream is of no more use.
pub async fn read_value<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<T, ReadValueError> {
    let mut prefix = [0; 4];
    if stream.read(prefix.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Err(ReadValueError::Ended);
    }
    stream
        .read_exact(prefix.get_mut(1..).unwrap_or_default())
        .await?;
    let length = stream::frame_length(prefix, MAX_VALUE_BYTES)?;
    let mut body = Vec::new();
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    if stream.take(wanted).read_to_end(&mut body).await? < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(cbor::from_slice(&body)?)
}

/// Writes one value, length and body at once (a 0.1 reader needs that), and flushes it.
pub async fn write_value<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> std::io::Result<()> {
    stream.write_all(&cbor::to_framed_vec(value)).await?;
    stream.flush().await
}

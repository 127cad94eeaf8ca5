//! Values on a job stream: `u32` big-endian length + CBOR, each an object that JSON could hold.

use derouter_sdk::wire::{cbor, stream};
use serde::de::DeserializeOwned;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;
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

/// A JSON value as CBOR. Needed because a bare [`Value`] writes its null as a unit, which the CBOR
/// serializer turns into an empty array.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(pub &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Array(items) => {
                let mut array = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    array.serialize_element(&Json(item))?;
                }
                array.end()
            }
            Value::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &Json(value))?;
                }
                map.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_null_stays_null_in_cbor() {
        let value = serde_json::json!({"a": null, "b": [null, 1, -2, 0.5, true, "x", {}]});
        let bytes = cbor::to_vec(&Json(&value));
        assert_eq!(bytes.get(..4), Some(&[0xa2, 0x61, b'a', 0xf6][..]));
        assert_eq!(cbor::from_slice::<Value>(&bytes).unwrap(), value);
    }
}

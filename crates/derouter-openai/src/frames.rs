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

/// The most items (texts, numbers, arrays, map keys and so on) in a value that is read. One of a
/// single byte takes near a hundred once decoded, so that bytes alone bound no memory; the token
/// probabilities of a long answer stay well below.
pub const MAX_VALUE_ITEMS: usize = 200_000;

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
    /// Over [`MAX_VALUE_ITEMS`].
    #[error("a value has more than {MAX_VALUE_ITEMS} items")]
    TooManyItems,
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
    decode_value(&body)
}

/// Decodes the body of a value, after a look at how much it would become.
pub(crate) fn decode_value<T: DeserializeOwned>(body: &[u8]) -> Result<T, ReadValueError> {
    if has_more_items(body, MAX_VALUE_ITEMS) {
        return Err(ReadValueError::TooManyItems);
    }
    Ok(cbor::from_slice(body)?)
}

/// Whether CBOR has more items than `most`. Each starts with a head, and what nests has its items
/// right behind its own head, so one walk over the heads counts them all. Where the bytes are not
/// CBOR, or end early, the walk ends: the decoder refuses them as soon as it gets there.
fn has_more_items(mut bytes: &[u8], most: usize) -> bool {
    let mut items = 0_usize;
    while let Some((initial, rest)) = bytes.split_first() {
        items = items.saturating_add(1);
        if items > most {
            return true;
        }
        let width = match initial & 0x1f {
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => 0,
        };
        let Some((argument, rest)) = rest.split_at_checked(width) else {
            return false;
        };
        let is_string = matches!(initial >> 5, 2 | 3) && initial & 0x1f < 28;
        let length = if is_string {
            string_length(initial & 0x1f, argument)
        } else {
            0
        };
        let Some(rest) = rest.get(length..) else {
            return false;
        };
        bytes = rest;
    }
    false
}

/// The length in a string's head: in the initial byte, or in the argument behind it.
fn string_length(initial: u8, argument: &[u8]) -> usize {
    if argument.is_empty() {
        return usize::from(initial);
    }
    let big_endian = |sum: usize, byte: &u8| sum.saturating_mul(256).saturating_add((*byte).into());
    argument.iter().fold(0, big_endian)
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

    fn items(bytes: &[u8]) -> usize {
        (0..).find(|most| !has_more_items(bytes, *most)).unwrap()
    }

    #[test]
    fn every_item_of_a_value_counts_and_the_bytes_of_texts_do_not() {
        let count = |value: Value| items(&cbor::to_vec(&Json(&value)));
        assert_eq!(count(serde_json::json!(null)), 1);
        assert_eq!(count(serde_json::json!({"a": [1, 300, -70_000, 0.5]})), 7);
        for length in [3, 200, 70_000] {
            assert_eq!(count(serde_json::json!(["x".repeat(length), true])), 3);
        }
        assert_eq!(items(&[0x9f, 0x7f, 0x61, b'a', 0xff, 0xff]), 5, "open ends");
        assert_eq!(
            items(&[0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            1
        );
    }

    #[tokio::test]
    async fn a_value_of_very_many_small_items_is_refused() {
        let zeros = vec![0_u8; MAX_VALUE_ITEMS];
        let most = cbor::to_framed_vec(zeros.get(1..).unwrap());
        assert!(read_value::<Value>(&mut most.as_slice()).await.is_ok());
        let over = cbor::to_framed_vec(&zeros);
        assert!(matches!(
            read_value::<Value>(&mut over.as_slice()).await,
            Err(ReadValueError::TooManyItems)
        ));
    }
}

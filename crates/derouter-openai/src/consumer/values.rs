//! Reads the values of a job stream out of a buffer of its own, so that a wait can be given up
//! and taken up again, and several values that came together cost one read.

use bytes::{Buf, BytesMut};
use derouter_sdk::wire::stream;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::frames::{MAX_VALUE_BYTES, ReadValueError, decode_value};

/// The largest value of a streamed answer: a chunk is a few hundred bytes, and 0.1 readers break
/// over 256 KiB.
const MAX_CHUNK_BYTES: usize = 1024 * 1024;

/// What is asked of the stream at once: many small values, or a good part of a large one.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of a value's length.
const PREFIX_BYTES: usize = 4;

/// Reads values, each a `u32` big-endian length and CBOR.
pub(crate) struct ValueReader<R> {
    stream: R,
    buffer: BytesMut,
    /// The largest value that is taken.
    most: usize,
}

impl<R: AsyncRead + Unpin> ValueReader<R> {
    /// A reader of a streamed answer's values, or of those around a plain one.
    pub(crate) fn new(stream: R, streamed: bool) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            most: if streamed {
                MAX_CHUNK_BYTES
            } else {
                MAX_VALUE_BYTES
            },
        }
    }

    /// The next value. Cancel safe: what was read so far stays in the buffer.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, ReadValueError> {
        loop {
            if let Some(value) = self.decode()? {
                return Ok(value);
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? > 0 {
                continue;
            }
            if self.buffer.is_empty() {
                return Err(ReadValueError::Ended);
            }
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }

    fn decode<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadValueError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = stream::frame_length(*prefix, self.most)?;
        let end = PREFIX_BYTES.saturating_add(length);
        let Some(body) = self.buffer.get(PREFIX_BYTES..end) else {
            return Ok(None);
        };
        let value = decode_value(body)?;
        self.buffer.advance(end);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::wire::cbor;
    use serde_json::{Value, json};
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn values_are_read_however_they_are_split_and_joined() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let mut reader = ValueReader::new(ours, true);
        let first = cbor::to_framed_vec(&json!({"n": 1}));
        let second = cbor::to_framed_vec(&json!({"n": 2}));
        let bytes = [first, second].concat();
        for byte in bytes {
            {
                let next = reader.next::<Value>();
                tokio::pin!(next);
                // Given up in the middle each time.
                let given_up = futures::poll!(next);
                assert!(given_up.is_pending() || matches!(given_up, std::task::Poll::Ready(Ok(_))));
            }
            theirs.write_all(&[byte]).await.unwrap();
        }
        let last: Value = reader.next().await.unwrap();
        assert_eq!(last, json!({"n": 2}));
        drop(theirs);
        assert!(matches!(
            reader.next::<Value>().await,
            Err(ReadValueError::Ended)
        ));
    }

    #[tokio::test]
    async fn a_huge_length_is_refused_before_memory_is_taken() {
        let mut reader = ValueReader::new([0xff, 0xff, 0xff, 0xf0, 1].as_slice(), false);
        assert!(matches!(
            reader.next::<Value>().await,
            Err(ReadValueError::TooLarge(_))
        ));
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
    }

    #[tokio::test]
    async fn a_chunk_may_be_smaller_than_a_plain_answer_and_neither_has_too_many_items() {
        let large = cbor::to_framed_vec(&json!("x".repeat(MAX_CHUNK_BYTES)));
        let mut streamed = ValueReader::new(large.as_slice(), true);
        let refused = streamed.next::<Value>().await;
        assert!(matches!(refused, Err(ReadValueError::TooLarge(_))));
        let mut plain = ValueReader::new(large.as_slice(), false);
        assert!(plain.next::<Value>().await.is_ok());
        let many = cbor::to_framed_vec(&vec![0_u8; 1 << 19]);
        let mut reader = ValueReader::new(many.as_slice(), true);
        let refused = reader.next::<Value>().await;
        assert!(matches!(refused, Err(ReadValueError::TooManyItems)));
    }

    #[tokio::test]
    async fn an_end_within_a_value_is_a_broken_stream() {
        let mut bytes = cbor::to_framed_vec(&json!({"n": 1}));
        bytes.pop();
        let mut reader = ValueReader::new(bytes.as_slice(), true);
        assert!(matches!(
            reader.next::<Value>().await,
            Err(ReadValueError::Broken(_))
        ));
    }
}

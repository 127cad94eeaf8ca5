//! Frames of an answer: a kind (`u8`), a length (`u32` big-endian), and so many bytes.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{AnswerHead, Epilogue, Failed};

/// The most bytes of an answer's body in one frame. An event that is longer takes several.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// The longest frame of another kind: the epilogue's public payload is the largest of them.
const MAX_JSON_BYTES: usize = 64 * 1024;

/// The kind and the length.
const HEADER_BYTES: usize = 5;

/// What is asked of the stream at once.
const READ_BYTES: usize = 64 * 1024;

const HEAD: u8 = 1;
const DATA: u8 = 2;
const EPILOGUE: u8 = 3;
const FAILED: u8 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The answer begins.
    Head(AnswerHead),
    /// Bytes of its body.
    Data(Bytes),
    /// It is complete, and billed.
    Epilogue(Epilogue),
    /// There is no answer, or no more of it.
    Failed(Failed),
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFrameError {
    /// The stream ended between two frames.
    #[error("the stream ended")]
    Ended,
    /// The stream broke, or ended within a frame.
    #[error("the stream broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The frame is too long for its kind, or not what its kind says.
    #[error("a frame makes no sense: {0}")]
    Invalid(String),
}

impl Frame {
    /// The frame of a head.
    pub fn head(head: &AnswerHead) -> Bytes {
        json(HEAD, head)
    }

    /// The frame of an epilogue.
    pub fn epilogue(epilogue: &Epilogue) -> Bytes {
        json(EPILOGUE, epilogue)
    }

    /// The frame of a failure.
    pub fn failed(failed: &Failed) -> Bytes {
        json(FAILED, failed)
    }

    /// Appends the frames of some bytes of the body.
    pub fn put_data(data: &[u8], to: &mut BytesMut) {
        for piece in data.chunks(MAX_DATA_BYTES) {
            put(DATA, piece, to);
        }
    }
}

fn json(kind: u8, value: &impl Serialize) -> Bytes {
    // Plain data, which JSON can always hold.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + text.len());
    put(kind, &text, &mut frame);
    frame.freeze()
}

fn put(kind: u8, body: &[u8], to: &mut BytesMut) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&[kind]);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(body);
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R> FrameReader<R> {
    /// Of a job's pipe.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The pipe, to write to.
    pub fn stream(&mut self) -> &mut R {
        &mut self.stream
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// The next frame. Cancel safe: what was read so far stays in the buffer.
    pub async fn next(&mut self) -> Result<Frame, ReadFrameError> {
        loop {
            if let Some(frame) = self.decode()? {
                return Ok(frame);
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? > 0 {
                continue;
            }
            if self.buffer.is_empty() {
                return Err(ReadFrameError::Ended);
            }
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let most = match kind {
            DATA => MAX_DATA_BYTES,
            _ => MAX_JSON_BYTES,
        };
        if length > most {
            return Err(ReadFrameError::Invalid(format!("it has {length} bytes")));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(length).freeze();
        match kind {
            HEAD => parse(&body).map(Frame::Head),
            DATA => Ok(Frame::Data(body)),
            EPILOGUE => parse(&body).map(Frame::Epilogue),
            FAILED => parse(&body).map(Frame::Failed),
            other => Err(ReadFrameError::Invalid(format!("its kind is {other}"))),
        }
        .map(Some)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ReadFrameError> {
    serde_json::from_slice(body).map_err(|error| ReadFrameError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use derouter_sdk::{UnixSeconds, Wei};

    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Head(AnswerHead {
                status: 200,
                content_type: "text/event-stream".into(),
                body_bytes: Some(10),
                headers: BTreeMap::new(),
            }),
            Frame::Data(Bytes::from_static(b"data: {}\n\n")),
            Frame::Failed(Failed {
                message: "no".into(),
                status: Some(400),
            }),
            Frame::Epilogue(Epilogue {
                public_payload: "{}".into(),
                balance_delta: Some(Wei::from_wei(7)),
                completed_at: UnixSeconds(9),
            }),
        ]
    }

    fn encode(frames: &[Frame]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for frame in frames {
            match frame {
                Frame::Head(head) => bytes.extend_from_slice(&Frame::head(head)),
                Frame::Data(data) => Frame::put_data(data, &mut bytes),
                Frame::Epilogue(epilogue) => bytes.extend_from_slice(&Frame::epilogue(epilogue)),
                Frame::Failed(failed) => bytes.extend_from_slice(&Frame::failed(failed)),
            }
        }
        bytes
    }

    #[tokio::test]
    async fn frames_read_back_however_their_bytes_are_split() {
        let bytes = encode(&frames());
        for size in [1, 3, 7, 1000] {
            let (near, mut far) = tokio::io::duplex(size);
            let bytes = bytes.clone();
            tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut far, &bytes)
                    .await
                    .unwrap();
            });
            let mut reader = FrameReader::new(near);
            for frame in frames() {
                assert_eq!(reader.next().await.unwrap(), frame);
            }
            assert!(matches!(reader.next().await, Err(ReadFrameError::Ended)));
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_it_is_read() {
        for bytes in [
            &[9, 0, 0, 0, 0][..],
            &[HEAD, 0, 0, 0, 1, b'x'],
            &[DATA, 255, 255, 255, 255],
            &[FAILED, 0, 1, 0, 1],
        ] {
            let error = FrameReader::new(bytes).next().await.unwrap_err();
            assert!(matches!(error, ReadFrameError::Invalid(_)), "{error}");
        }
        let error = FrameReader::new(&[DATA, 0, 0, 0, 3, 1][..]).next().await;
        assert!(matches!(error, Err(ReadFrameError::Broken(_))));
    }

    #[test]
    fn a_long_body_takes_several_frames() {
        let mut bytes = BytesMut::new();
        Frame::put_data(&vec![1; MAX_DATA_BYTES + 1], &mut bytes);
        assert_eq!(bytes.len(), MAX_DATA_BYTES + 1 + 2 * HEADER_BYTES);
    }
}

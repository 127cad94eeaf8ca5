//! Frames of `u32` big-endian length and body.

use std::io;
use std::sync::Arc;

use derouter_wire::limits;
use derouter_wire::stream::{FrameTooLarge, frame_length};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of frames that one connection may have in work: four of the largest. A sender beyond it
/// waits, it is not refused.
const READ_BUDGET_BYTES: usize = 4 * limits::RPC_FRAME_BYTES;

/// The budget is counted in pages, so that the permits of the largest frame fit a `u32` easily.
const PAGE_BYTES: usize = 1024;

/// What a buffer starts with. It grows as bytes arrive, so that a length alone costs nothing.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;

/// Why no frame can be read. The connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is over the limit.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    /// The connection ended inside of a frame.
    #[error("the connection ended inside of a frame")]
    Truncated,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// The bytes that frames of one connection may take while they are worked on.
#[derive(Clone, Debug)]
pub struct ReadBudget(Arc<Semaphore>);

/// A frame's body. Dropping it makes room for others.
#[derive(Debug)]
pub struct ReceivedFrame {
    /// The CBOR.
    pub body: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Default for ReadBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READ_BUDGET_BYTES / PAGE_BYTES)))
    }
}

impl ReadBudget {
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).acquire_many_owned(pages).await.ok()
    }
}

/// Reads one frame, or `None` when the stream ended before one began.
pub async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    budget: &ReadBudget,
) -> Result<Option<ReceivedFrame>, FrameError> {
    read_frame_up_to(limits::RPC_FRAME_BYTES, reader, budget).await
}

/// Like [`read_frame`], for frames of at most `most` bytes.
pub async fn read_frame_up_to<R: AsyncRead + Unpin>(
    most: usize,
    reader: &mut R,
    budget: &ReadBudget,
) -> Result<Option<ReceivedFrame>, FrameError> {
    let Some(prefix) = read_prefix(reader).await? else {
        return Ok(None);
    };
    let length = frame_length(prefix, most)?;
    let room = budget.take(length).await;
    let mut body = Vec::with_capacity(length.min(FIRST_BUFFER_BYTES));
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    reader.take(wanted).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(FrameError::Truncated);
    }
    Ok(Some(ReceivedFrame { body, _room: room }))
}

async fn read_prefix<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<[u8; 4]>, FrameError> {
    let mut prefix = [0; 4];
    let mut filled = 0;
    while let Some(rest) = prefix.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            count => filled += count,
        }
    }
    Ok(Some(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        let mut reader = bytes;
        let frame = read_frame(&mut reader, &ReadBudget::default()).await?;
        Ok(frame.map(|frame| frame.body))
    }

    #[tokio::test]
    async fn a_frame_is_its_length_and_its_body() {
        assert_eq!(
            read(&[0, 0, 0, 2, 7, 8, 9]).await.unwrap(),
            Some(vec![7, 8])
        );
        assert_eq!(read(&[]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn frames_that_lie_or_end_early_are_refused() {
        assert!(matches!(read(&[0, 0]).await, Err(FrameError::Truncated)));
        let short = read(&[0, 0, 0, 3, 1]).await;
        assert!(matches!(short, Err(FrameError::Truncated)));
        let huge = read(&[0xff, 0xff, 0xff, 0xf0, 1]).await;
        assert!(matches!(huge, Err(FrameError::TooLarge(_))));
    }
}

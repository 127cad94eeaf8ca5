//! The frames of a job's pipe, and the word that no more are wanted.

use derouter_sdk::JobStream;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::protocol::v0_2::frames::{Frame, FrameReader, ReadFrameError};

/// Reads frames until they end. When the answer is lost to another, the own direction is closed, which tells the
/// provider to stop; what it had sent and its bill come all the same.
pub(super) struct Incoming {
    frames: FrameReader<JobStream>,
    lost: CancellationToken,
    told: bool,
}

impl Incoming {
    pub(super) fn new(stream: JobStream, lost: CancellationToken) -> Self {
        Self {
            frames: FrameReader::new(stream),
            lost,
            told: false,
        }
    }

    /// The pipe, to write to.
    pub(super) fn stream(&mut self) -> &mut JobStream {
        self.frames.stream()
    }

    /// Whether the provider was told that no more is wanted.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Frame, ReadFrameError> {
        if !self.told {
            tokio::select! {
                biased;
                frame = self.frames.next() => return frame,
                () = self.lost.cancelled() => {}
            }
            // A pipe that is broken says as much.
            let _ = self.frames.stream().shutdown().await;
            self.told = true;
        }
        self.frames.next().await
    }
}

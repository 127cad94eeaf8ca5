//! A backend's answer, from which what has come already can be taken without waiting.

use bytes::Bytes;
use futures::FutureExt;
use reqwest::{Response, Result};

/// See the module.
pub(super) struct ReadAhead {
    response: Response,
    /// The end, or why there is none, when it was found by looking ahead.
    end: Option<Result<Option<Bytes>>>,
}

impl ReadAhead {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            end: None,
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.end.take() {
            Some(end) => end,
            None => self.response.chunk().await,
        }
    }

    /// Bytes that are there without waiting.
    pub(super) fn at_hand(&mut self) -> Option<Bytes> {
        match self.next().now_or_never()? {
            Ok(Some(bytes)) => Some(bytes),
            end => {
                self.end = Some(end);
                None
            }
        }
    }
}

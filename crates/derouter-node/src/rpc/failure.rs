//! Errors that may answer any request. Wire 0.1 names none: its modules see a tag that is not `Ok`.

use std::fmt;

use derouter_sdk::NodeError;
use derouter_wire::cbor::{DecodeError, truncate_to_char};
use derouter_wire::limits::REASON_BYTES;
use derouter_wire::rpc::error::ErrorCode;
use serde::{Serialize, Serializer};

/// Sent as `{tag, content: text}` under the request's id and type, or in the form of 0.2.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, reason: impl fmt::Display) -> Self {
        let mut text = reason.to_string();
        truncate_to_char(&mut text, REASON_BYTES);
        Self { code, text }
    }

    /// A failure that its code says all of.
    pub(super) fn of(code: ErrorCode) -> Self {
        Self::new(code, code.meaning())
    }

    pub(super) fn bad(reason: impl fmt::Display) -> Self {
        Self::new(ErrorCode::BadRequest, reason)
    }

    pub(super) fn internal(reason: impl fmt::Display) -> Self {
        Self::new(ErrorCode::InternalError, reason)
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tagged<'a> {
            tag: &'static str,
            content: &'a str,
        }
        let tagged = Tagged {
            tag: self.code.tag(),
            content: &self.text,
        };
        tagged.serialize(serializer)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Invalid(reason) => Self::bad(reason),
            NodeError::ShuttingDown => Self::new(ErrorCode::ShuttingDown, error),
            other => Self::internal(other),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::bad(error)
    }
}

//! Errors that may answer any request. Wire 0.1 names none: modules see a tag that is not `Ok`.

use std::fmt;

use derouter_sdk::NodeError;
use derouter_wire::cbor::{DecodeError, truncate_to_char};
use derouter_wire::limits::REASON_BYTES;
use serde::Serialize;

/// Sent as `{tag, content: text}` under the request's id and type.
#[derive(Debug, Serialize)]
#[serde(tag = "tag", content = "content")]
pub(super) enum Failure {
    /// The node knows no request of this type.
    UnknownRequest(String),
    /// The request's data is not what its type needs, or over a limit.
    BadRequest(String),
    /// The node failed; nothing is wrong with the request.
    InternalError(String),
    /// The node is on its way down.
    ShuttingDown(String),
}

impl Failure {
    pub(super) fn bad(reason: impl fmt::Display) -> Self {
        Self::BadRequest(shortened(reason.to_string()))
    }

    pub(super) fn internal(reason: impl fmt::Display) -> Self {
        Self::InternalError(shortened(reason.to_string()))
    }
}

fn shortened(mut text: String) -> String {
    truncate_to_char(&mut text, REASON_BYTES);
    text
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Invalid(reason) => Self::bad(reason),
            NodeError::ShuttingDown => Self::ShuttingDown(error.to_string()),
            other => Self::internal(other),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::bad(error)
    }
}

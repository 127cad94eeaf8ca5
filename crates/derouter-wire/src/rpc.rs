//! The RPC between a module and its node (wire 0.1): frames of `u32` big-endian length + CBOR map
//! `{kind, id, type, data}` on the first yamux stream that the module opens.
//!
//! The node leaves absent optional values out (0.1 modules reject null). From modules, missing
//! keys, null and `undefined` are alike, and so are integers of any width and whole floats.

pub mod event;
pub mod network;
pub mod record;
pub mod request;

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError, RawMap};

/// Whether a frame asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameKind {
    /// Numbered by its sender from 0.
    Request,
    /// Repeats the request's id and type.
    Response,
}

/// A frame whose data is still encoded.
#[derive(Clone, Debug)]
pub struct Frame<'de> {
    /// Asks or answers.
    pub kind: FrameKind,
    /// The request's number.
    pub id: u32,
    /// The name of the request.
    pub type_name: Cow<'de, str>,
    /// The encoded `data`; an empty map when it is absent, null or `undefined`.
    pub data: &'de [u8],
}

/// An empty CBOR map, which stands for absent data.
const EMPTY_MAP: &[u8] = &[0xa0];

impl<'de> Frame<'de> {
    /// Reads a frame's body.
    pub fn decode(body: &'de [u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct FrameId(#[serde(deserialize_with = "cbor::lenient_unsigned")] u64);
        let map = RawMap::parse(body)?;
        let FrameId(id) = map.require("id")?;
        Ok(Self {
            kind: map.require("kind")?,
            id: u32::try_from(id).map_err(DecodeError::new)?,
            type_name: map.require("type")?,
            data: map.raw("data").unwrap_or(EMPTY_MAP),
        })
    }
}

/// Encodes a frame, length prefix included, in one buffer.
pub fn encode_frame<T: Serialize>(kind: FrameKind, id: u32, type_name: &str, data: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Outgoing<'a, T> {
        r#type: &'a str,
        data: &'a T,
        kind: FrameKind,
        id: u32,
    }
    cbor::to_framed_vec(&Outgoing {
        r#type: type_name,
        data,
        kind,
        id,
    })
}

/// A request with its answer's type, in either direction.
pub trait Call: Serialize + DeserializeOwned {
    /// The frame's `type`.
    const TYPE: &'static str;
    /// The response's data.
    type Reply: Serialize + DeserializeOwned;
}

/// The data of a response that says nothing: `{}`. Anything is accepted in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ack {}

impl<'de> Deserialize<'de> for Ack {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer)?;
        Ok(Ack {})
    }
}

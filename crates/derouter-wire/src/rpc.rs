//! The RPC between a module and its node: frames of `u32` big-endian length + CBOR map
//! `{kind, id, type, data, deadline_ms?}` on the first yamux stream that the module opens.
//!
//! A module of version 0.2 begins with [`hello::Hello`]; one that begins with anything else is of
//! version 0.1. docs/rpc.md describes both for authors of modules, docs/rpc.cddl every frame.
//!
//! The node leaves absent optional values out (0.1 modules reject null). From modules, missing
//! keys, null and `undefined` are alike, and so are integers of any width and whole floats.

pub mod cursor;
pub mod error;
pub mod event;
pub mod hello;
pub mod list;
pub mod module;
pub mod network;
pub mod record;
pub mod request;
pub mod ticket;

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
    /// Asks to give up the sender's request of this id. Has no answer of its own. Not in 0.1.
    Cancel,
}

/// A frame whose data is still encoded.
#[derive(Clone, Debug)]
pub struct Frame<'de> {
    /// Asks or answers.
    pub kind: FrameKind,
    /// The request's number.
    pub id: u32,
    /// The name of the request; empty in a [`FrameKind::Cancel`].
    pub type_name: Cow<'de, str>,
    /// The encoded `data`; an empty map when it is absent, null or `undefined`.
    pub data: &'de [u8],
    /// How long the sender of a request waits for the answer, in milliseconds. Not in 0.1.
    pub deadline_ms: Option<u64>,
}

/// An empty CBOR map, which stands for absent data.
const EMPTY_MAP: &[u8] = &[0xa0];

impl<'de> Frame<'de> {
    /// Reads a frame's body.
    pub fn decode(body: &'de [u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Number(#[serde(deserialize_with = "cbor::lenient_unsigned")] u64);
        let map = RawMap::parse(body)?;
        let (kind, Number(id)) = (map.require("kind")?, map.require("id")?);
        let type_name = match kind {
            FrameKind::Cancel => Cow::default(),
            FrameKind::Request | FrameKind::Response => map.require("type")?,
        };
        let deadline: Option<Number> = map.get("deadline_ms")?;
        Ok(Self {
            kind,
            id: u32::try_from(id).map_err(DecodeError::new)?,
            type_name,
            data: map.raw("data").unwrap_or(EMPTY_MAP),
            deadline_ms: deadline.map(|Number(ms)| ms),
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

/// Encodes a request that is to be answered within `deadline_ms`. Not for 0.1 nodes.
pub fn encode_request<T: Serialize>(
    id: u32,
    type_name: &str,
    data: &T,
    deadline_ms: u64,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Outgoing<'a, T> {
        r#type: &'a str,
        data: &'a T,
        kind: FrameKind,
        id: u32,
        deadline_ms: u64,
    }
    cbor::to_framed_vec(&Outgoing {
        r#type: type_name,
        data,
        kind: FrameKind::Request,
        id,
        deadline_ms,
    })
}

/// Encodes a response whose data is encoded already.
pub fn encode_response(id: u32, type_name: &str, data: &[u8]) -> Vec<u8> {
    /// A map of four entries.
    const MAP: u8 = 0xa4;
    let mut frame = vec![0, 0, 0, 0, MAP];
    frame = cbor::append(cbor::append(frame, "type"), type_name);
    frame = cbor::append(frame, "data");
    frame.extend_from_slice(data);
    frame = cbor::append(cbor::append(frame, "kind"), &FrameKind::Response);
    frame = cbor::append(cbor::append(frame, "id"), &id);
    cbor::set_frame_length(frame)
}

/// Encodes that the request of this id is given up. Not for 0.1 nodes.
pub fn encode_cancel(id: u32) -> Vec<u8> {
    #[derive(Serialize)]
    struct Outgoing {
        kind: FrameKind,
        id: u32,
    }
    let kind = FrameKind::Cancel;
    cbor::to_framed_vec(&Outgoing { kind, id })
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

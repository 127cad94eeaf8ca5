//! CBOR (RFC 8949) for every channel, and the leniency that 0.1 peers and modules need.
//!
//! The decoder nests at most 256 deep and reserves memory only for what it has seen, so a
//! hostile length costs nothing. Callers cap the input's size first.

use std::borrow::Cow;
use std::fmt;

use cbor4ii::core::RawValue;
use cbor4ii::core::dec::{Decode, Read};
use cbor4ii::core::types::Map;
use cbor4ii::core::utils::SliceReader;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::{PeerId, limits};

/// The bytes are not the expected CBOR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad CBOR: {0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        let mut reason = reason.to_string();
        truncate_to_char(&mut reason, 200);
        Self(reason)
    }

    /// Well-formed, but not what may come here.
    pub fn unexpected(reason: &str) -> Self {
        Self::new(reason)
    }
}

/// Cuts a text to at most `max` bytes, at a character's edge.
pub fn truncate_to_char(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

/// Encodes a value; absent optional values appear as its `Serialize` says.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    append(Vec::new(), value)
}

/// Encodes a value behind what `buffer` already holds.
pub fn append<T: Serialize + ?Sized>(buffer: Vec<u8>, value: &T) -> Vec<u8> {
    // The writer only fails when memory does, and our `Serialize` impls never return errors.
    cbor4ii::serde::to_vec(buffer, &value).unwrap_or_default()
}

/// Encodes a value behind a `u32` big-endian length, in one buffer, so that one write sends both.
pub fn to_framed_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    set_frame_length(append(vec![0; 4], value))
}

/// Fills in the length of a frame whose first four bytes are kept for it.
pub(crate) fn set_frame_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(frame.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(prefix) = frame.first_chunk_mut::<4>() {
        *prefix = length.to_be_bytes();
    }
    frame
}

/// Decodes one value and refuses bytes behind it.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut deserializer = cbor4ii::serde::Deserializer::new(SliceReader::new(bytes));
    let value = T::deserialize(&mut deserializer).map_err(DecodeError::new)?;
    end_of_input(deserializer.into_inner())?;
    Ok(value)
}

fn end_of_input<'de>(mut reader: SliceReader<'de>) -> Result<(), DecodeError> {
    let rest = match reader.fill(1) {
        Ok(rest) => rest,
        Err(never) => match never {},
    };
    if rest.as_ref().is_empty() {
        Ok(())
    } else {
        Err(DecodeError::new("bytes behind the value"))
    }
}

/// A map with text keys whose values are still encoded, so that they can be decoded by what other
/// keys say, whatever their order.
#[derive(Debug, Clone)]
pub struct RawMap<'de>(Vec<(Cow<'de, str>, &'de [u8])>);

impl<'de> RawMap<'de> {
    /// Splits a map of at most [`limits::CBOR_MAP_ENTRIES`] entries.
    pub fn parse(bytes: &'de [u8]) -> Result<Self, DecodeError> {
        let mut reader = SliceReader::new(bytes);
        let entries = <Map<Vec<(Cow<'de, str>, RawValue<'de>)>>>::decode(&mut reader)
            .map_err(|error| DecodeError::new(format_args!("{error:?}")))?;
        end_of_input(reader)?;
        if entries.0.len() > limits::CBOR_MAP_ENTRIES {
            return Err(DecodeError::new("a map has too many entries"));
        }
        let raw = |(key, value): (Cow<'de, str>, RawValue<'de>)| (key, value.as_bytes());
        Ok(Self(entries.0.into_iter().map(raw).collect()))
    }

    /// The encoded value of a key. Null and `undefined` count as absent.
    pub fn raw(&self, key: &str) -> Option<&'de [u8]> {
        let (_, value) = self.0.iter().find(|(name, _)| name == key)?;
        (!matches!(value, [0xf6 | 0xf7])).then_some(*value)
    }

    /// The decoded value of a key, if it is there.
    pub fn get<T: Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, DecodeError> {
        self.raw(key).map(from_slice).transpose()
    }

    /// The decoded value of a key that must be there.
    pub fn require<T: Deserialize<'de>>(&self, key: &str) -> Result<T, DecodeError> {
        self.get(key)?
            .ok_or_else(|| DecodeError::new(format_args!("{key} is missing")))
    }
}

/// Reads a non-negative integer of any CBOR width, or a float that is a whole number, up to
/// 2^63-1 (the largest that the database holds).
pub fn lenient_unsigned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = deserializer.deserialize_any(NumberVisitor)?;
    u64::try_from(number).map_err(|_| de::Error::custom("a number is negative"))
}

/// Reads a signed integer like [`lenient_unsigned`].
pub fn lenient_signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(NumberVisitor)
}

/// Reads an optional signed integer like [`lenient_unsigned`].
pub fn lenient_optional_signed<'de, D>(deserializer: D) -> Result<Option<i64>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Signed(#[serde(deserialize_with = "lenient_signed")] i64);
    Ok(Option::<Signed>::deserialize(deserializer)?.map(|signed| signed.0))
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(|_| E::custom("a number is over 2^63-1"))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
        // Up to 2^53 every whole float is exact, and JavaScript sends nothing larger.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() != 0.0 || number.abs() > EXACT {
            return Err(E::custom("a number is not whole"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within 2^53, checked above"
        )]
        Ok(number as i64)
    }
}

/// A peer id as a CBOR byte string holding its multihash; base58 text is accepted too.
pub mod peer_id {
    use super::*;

    /// Writes the multihash bytes, or base58 text into what people read (JSON).
    pub fn serialize<S: Serializer>(peer: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(peer);
        }
        serializer.serialize_bytes(&peer.to_bytes())
    }

    /// Reads a byte string or base58 text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        PeerIdArg::deserialize(deserializer)?
            .get()
            .map_err(de::Error::custom)
    }
}

/// As [`peer_id`], for one that may be absent.
pub mod optional_peer_id {
    use super::*;

    /// Writes as [`peer_id::serialize`] does. Absent ones are left out by their field's attribute.
    pub fn serialize<S: Serializer>(
        peer: &Option<PeerId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match peer {
            Some(peer) => peer_id::serialize(peer, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads what [`peer_id::deserialize`] does, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PeerId>, D::Error> {
        let sent = Option::<PeerIdArg>::deserialize(deserializer)?;
        let peer = sent.map(|sent| sent.get()).transpose();
        peer.map_err(de::Error::custom)
    }
}

/// A peer id as a module sent it, good or not: filters answer a bad one with a typed error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdArg(Result<PeerId, String>);

/// A text or byte string is no peer id. Holds what was sent, shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a peer id: {0}")]
pub struct InvalidPeerId(pub String);

impl PeerIdArg {
    /// The peer id.
    pub fn get(&self) -> Result<PeerId, InvalidPeerId> {
        self.0.clone().map_err(InvalidPeerId)
    }
}

impl From<PeerId> for PeerIdArg {
    fn from(peer: PeerId) -> Self {
        Self(Ok(peer))
    }
}

impl Serialize for PeerIdArg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(peer) => peer_id::serialize(peer, serializer),
            Err(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for PeerIdArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeerIdVisitor)
    }
}

struct PeerIdVisitor;

impl<'de> Visitor<'de> for PeerIdVisitor {
    type Value = PeerIdArg;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a peer id: a byte string or base58 text")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<PeerIdArg, E> {
        let shown = || hex::encode(bytes.get(..64).unwrap_or(bytes));
        Ok(PeerIdArg(PeerId::from_bytes(bytes).map_err(|_| shown())))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PeerIdArg, E> {
        let shown = || text.chars().take(100).collect();
        Ok(PeerIdArg(text.parse().map_err(|_| shown())))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<PeerIdArg, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element::<u8>()? {
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}

/// Bytes that wire 0.2 writes as a byte string.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

/// Bytes that wire 0.1 writes as an array of integers. A byte string is accepted too.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct IntArray(pub Vec<u8>);

impl<'de> Deserialize<'de> for IntArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = IntArray;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<IntArray, E> {
                Ok(IntArray(bytes.to_vec()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<IntArray, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(IntArray(bytes))
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

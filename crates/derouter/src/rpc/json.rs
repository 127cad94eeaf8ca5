//! CBOR of the RPC as JSON, and back. Byte strings that are peer ids are their text; others are
//! `{"$hex": "..."}`.

use std::fmt;

use derouter_sdk::PeerId;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number, Value};

/// The key of a byte string.
const HEX: &str = "$hex";

/// JSON, to be written as CBOR.
pub(super) struct AsCbor<'a>(pub(super) &'a Value);

impl Serialize for AsCbor<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&AsCbor(item))?;
                }
                list.end()
            }
            Value::Object(entries) => {
                if let Some(bytes) = bytes_of(entries) {
                    return to.serialize_bytes(&bytes);
                }
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &AsCbor(value))?;
                }
                map.end()
            }
            // A unit would be an empty list.
            Value::Null => to.serialize_none(),
            plain => plain.serialize(to),
        }
    }
}

fn bytes_of(entries: &Map<String, Value>) -> Option<Vec<u8>> {
    let text = entries.get(HEX)?.as_str()?;
    (entries.len() == 1).then(|| hex::decode(text).ok())?
}

/// CBOR, read as JSON.
pub(super) struct AsJson(pub(super) Value);

impl<'de> Deserialize<'de> for AsJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyVisitor).map(AsJson)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        if let Ok(peer) = PeerId::from_bytes(value) {
            return Ok(peer.to_string().into());
        }
        Ok(serde_json::json!({HEX: hex::encode(value)}))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(AsJson(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((AsJson(key), AsJson(value))) = entries.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                other => other.to_string(),
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::wire::cbor;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let peer = PeerId::random().to_string();
        let value = json!({"a": [1, -2, 1.5, null, true], "b": {"$hex": "00ff"}, "peer": peer});
        let written = cbor::to_vec(&AsCbor(&value));
        let AsJson(read) = cbor::from_slice(&written).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn a_peer_id_in_bytes_is_shown_as_text() {
        let peer = PeerId::random();
        let hex = json!({HEX: hex::encode(peer.to_bytes())});
        let written = cbor::to_vec(&AsCbor(&hex));
        let AsJson(read) = cbor::from_slice(&written).unwrap();
        assert_eq!(read, json!(peer.to_string()));
    }
}

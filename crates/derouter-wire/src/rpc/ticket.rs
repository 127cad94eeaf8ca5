//! Tickets: what ties a yamux stream of a module to a job stream.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ConnectionId;

/// The bytes of a ticket of version 0.2.
pub const TICKET_BYTES: usize = 16;

/// What a module writes first on the yamux stream that it opens for a job connection
/// (`connection_id` in the frames). Good once, for 30 s, on the connection that it was given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ticket {
    /// Of 0.1: a number, written as 8 bytes big-endian.
    Number(ConnectionId),
    /// Of 0.2: random bytes, written as they are.
    Random([u8; TICKET_BYTES]),
}

impl Ticket {
    /// What the module writes.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Number(id) => id.0.to_be_bytes().to_vec(),
            Self::Random(bytes) => bytes.to_vec(),
        }
    }
}

impl From<ConnectionId> for Ticket {
    fn from(id: ConnectionId) -> Self {
        Self::Number(id)
    }
}

impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(id) => id.serialize(serializer),
            Self::Random(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TicketVisitor)
    }
}

struct TicketVisitor;

impl Visitor<'_> for TicketVisitor {
    type Value = Ticket;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, or a byte string of 16 bytes")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ticket, E> {
        Ok(Ticket::Number(ConnectionId(number)))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Ticket, E> {
        let length = |_| E::invalid_length(bytes.len(), &self);
        bytes.try_into().map(Ticket::Random).map_err(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn a_ticket_is_a_number_or_sixteen_bytes() {
        for ticket in [Ticket::Number(ConnectionId(7)), Ticket::Random([9; 16])] {
            let read: Ticket = cbor::from_slice(&cbor::to_vec(&ticket)).unwrap();
            assert_eq!(read, ticket);
        }
        assert_eq!(Ticket::Number(ConnectionId(1)).to_bytes().len(), 8);
        assert_eq!(Ticket::Random([1; 16]).to_bytes(), [1; 16]);
        for wrong in [vec![0x41, 1], vec![0x61, b'x'], vec![0x20]] {
            assert!(cbor::from_slice::<Ticket>(&wrong).is_err());
        }
    }
}

//! Cursors: a place in a list or among the events of a subscription. Opaque to modules.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::RPC_CURSOR_BYTES;
use crate::{OfferKey, PeerId, RowId, cbor};

/// A place, as the node wrote it. Only the node that wrote it reads it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Cursor(String);

/// A text is no cursor: empty, or longer than any that a node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is 1 to {RPC_CURSOR_BYTES} bytes long, this has {0}")]
pub struct CursorLengthError(usize);

impl Cursor {
    /// Takes a text of 1 byte up to [`RPC_CURSOR_BYTES`].
    pub fn new(text: impl Into<String>) -> Result<Self, CursorLengthError> {
        let text = text.into();
        if text.is_empty() || text.len() > RPC_CURSOR_BYTES {
            return Err(CursorLengthError(text.len()));
        }
        Ok(Self(text))
    }

    /// The place before every job: a subscription to jobs from here tells of all of them.
    pub fn start() -> Self {
        Self("start".into())
    }

    /// Whether it is [`Cursor::start`].
    pub fn is_start(&self) -> bool {
        self.0 == "start"
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Places in lists. The letter keeps one list's cursors out of another's.
impl Cursor {
    /// Behind a row.
    pub fn behind_row(row: RowId) -> Self {
        Self(format!("r{row}"))
    }

    /// The row, if it is a place behind one.
    pub fn row(&self) -> Option<RowId> {
        self.0.strip_prefix('r')?.parse().ok().map(RowId)
    }

    /// Behind a peer.
    pub fn behind_peer(peer: &PeerId) -> Self {
        Self(format!("p{peer}"))
    }

    /// The peer, if it is a place behind one.
    pub fn peer(&self) -> Option<PeerId> {
        self.0.strip_prefix('p')?.parse().ok()
    }

    /// Behind an offer.
    pub fn behind_offer(offer: &OfferKey) -> Self {
        Self(format!("o{}", hex::encode(cbor::to_vec(offer))))
    }

    /// The offer, if it is a place behind one.
    pub fn offer(&self) -> Option<OfferKey> {
        let bytes = hex::decode(self.0.strip_prefix('o')?).ok()?;
        cbor::from_slice(&bytes).ok()
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OfferId, ProtocolId};

    #[test]
    fn places_are_read_as_they_were_written_and_in_no_other_list() {
        let row = Cursor::behind_row(RowId(7));
        assert_eq!((row.row(), row.peer()), (Some(RowId(7)), None));
        let somebody = PeerId::random();
        let peer = Cursor::behind_peer(&somebody);
        assert_eq!((peer.peer(), peer.row()), (Some(somebody), None));
        let longest = OfferKey {
            provider: somebody,
            protocol_id: ProtocolId::new("p".repeat(128)).unwrap(),
            offer_id: OfferId::new("o".repeat(256)).unwrap(),
        };
        let offer = Cursor::behind_offer(&longest);
        assert_eq!(Cursor::new(offer.as_str()), Ok(offer.clone()));
        assert_eq!((offer.offer(), offer.peer()), (Some(longest), None));
    }

    #[test]
    fn what_no_node_wrote_is_no_place() {
        for text in ["r", "r-1", "rx", "p", "o", "o00", "oa", "", "x"] {
            let read = Cursor(text.into());
            assert_eq!(
                (read.row(), read.peer(), read.offer()),
                (None, None, None),
                "{text}"
            );
        }
        assert!(Cursor::new("").is_err());
        assert!(Cursor::new("x".repeat(RPC_CURSOR_BYTES + 1)).is_err());
    }
}

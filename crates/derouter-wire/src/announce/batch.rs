//! Announcements on their way from one node to the next.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, Bytes, DecodeError};
use crate::limits::{BATCH_ANNOUNCEMENTS, BATCH_BYTES};

/// The payload on [`super::ANNOUNCE_TOPIC`] and the topics of shards: the announcements that a node hands
/// to its neighbours together, at most [`BATCH_ANNOUNCEMENTS`]. A batch goes one hop: whoever gets it
/// judges what is in it, and what was new to it goes into a batch of its own.
///
/// The CBOR array `[salt, [announcement, ...]]`, with each announcement as a byte string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementBatch {
    /// By chance. Gossipsub tells messages apart by their bytes, and two nodes may hand on the same
    /// announcements.
    pub salt: u64,
    /// What [`super::SignedAnnouncement::encode`] gives, not looked into.
    pub announcements: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Wire(u64, Vec<Bytes>);

impl AnnouncementBatch {
    /// The CBOR of the message.
    pub fn encode(self) -> Vec<u8> {
        let announcements = self.announcements.into_iter().map(Bytes);
        cbor::to_vec(&Wire(self.salt, announcements.collect()))
    }

    /// Reads a batch of at most [`BATCH_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > BATCH_BYTES {
            return Err(DecodeError::new("a batch of announcements is too large"));
        }
        let Wire(salt, announcements) = cbor::from_slice(bytes)?;
        if announcements.len() > BATCH_ANNOUNCEMENTS {
            return Err(DecodeError::new("a batch has too many announcements"));
        }
        let announcements = announcements.into_iter().map(|Bytes(bytes)| bytes);
        Ok(Self {
            salt,
            announcements: announcements.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ANNOUNCEMENT_BYTES;

    fn batch(count: usize) -> AnnouncementBatch {
        AnnouncementBatch {
            salt: u64::MAX,
            announcements: vec![vec![7; ANNOUNCEMENT_BYTES]; count],
        }
    }

    #[test]
    fn a_full_batch_fits_and_one_more_does_not() {
        let full = batch(BATCH_ANNOUNCEMENTS);
        let bytes = full.clone().encode();
        assert!(bytes.len() <= BATCH_BYTES, "{}", bytes.len());
        assert_eq!(AnnouncementBatch::decode(&bytes), Ok(full));
        let more = batch(BATCH_ANNOUNCEMENTS + 1).encode();
        assert!(AnnouncementBatch::decode(&more).is_err());
        let small = AnnouncementBatch {
            salt: 0,
            announcements: vec![Vec::new(); BATCH_ANNOUNCEMENTS + 1],
        };
        assert!(AnnouncementBatch::decode(&small.encode()).is_err());
    }

    #[test]
    fn its_bytes_are_an_array_of_salt_and_byte_strings() {
        let batch = AnnouncementBatch {
            salt: 5,
            announcements: vec![vec![1, 2], vec![3]],
        };
        let bytes = [0x82, 5, 0x82, 0x42, 1, 2, 0x41, 3];
        assert_eq!(batch.clone().encode(), bytes);
        assert_eq!(AnnouncementBatch::decode(&bytes), Ok(batch));
        assert!(AnnouncementBatch::decode(&bytes[..7]).is_err());
    }
}

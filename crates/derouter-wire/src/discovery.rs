//! The discovery protocol (wire 0.2): offer lists by hash, announcements by id, and the messages of
//! a set reconciliation. One request for each substream; a frame is a `u32` big-endian length and
//! CBOR.

use serde::{Deserialize, Serialize};

use crate::PeerId;
use crate::announce::OfferListHash;
use crate::cbor::{self, Bytes, DecodeError};
use crate::limits::{
    ANNOUNCEMENT_BYTES, DISCOVERY_REQUEST_BYTES, FETCH_IDS, OFFER_LIST_BYTES, PULL_LISTS,
    RECONCILE_BYTES,
};

/// The libp2p protocol.
pub const DISCOVERY_PROTOCOL: &str = "/derouter/discovery/0.2.0";

/// An announcement on its way, with what is left of its time by the sender's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The signed announcement.
    pub announcement: Bytes,
    /// For how many seconds it still holds.
    pub remaining: u32,
}

/// A list that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Whose.
    pub peer: PeerId,
    /// Which.
    pub hash: OfferListHash,
}

/// What one peer asks of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryRequest {
    /// Offer lists, at most [`PULL_LISTS`]. Answered by one [`PulledList`] for each that there is,
    /// while they fit [`crate::limits::PULL_RESPONSE_BYTES`].
    Pull(Vec<Want>),
    /// One round of a reconciliation of the announcements in these shards (bit 0 is shard 0).
    /// Answered by one [`Reconciled`].
    Reconcile {
        /// Which shards.
        shards: u16,
        /// The negentropy message, at most [`RECONCILE_BYTES`].
        message: Vec<u8>,
    },
    /// Announcements by id, at most [`FETCH_IDS`]. Answered by one [`Fetched`].
    Fetch(Vec<[u8; 32]>),
    /// Announcements that the other lacks, at most [`FETCH_IDS`]. Answered by an empty [`Fetched`].
    Offer(Vec<Carried>),
}

#[derive(Serialize, Deserialize)]
enum WireRequest {
    Pull(Vec<(Bytes, Bytes)>),
    Reconcile(u16, Bytes),
    Fetch(Vec<Bytes>),
    Offer(Vec<Carried>),
}

/// One list, or that it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledList {
    /// Which of the wants this answers, counted from 0.
    pub index: u32,
    /// Its bytes; `None` when it is not there.
    pub list: Option<Bytes>,
}

/// The answer to a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The negentropy message.
    pub message: Bytes,
}

/// Announcements, those of the asked that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// In any order.
    pub announcements: Vec<Carried>,
}

impl DiscoveryRequest {
    /// The CBOR with its length.
    pub fn to_frame(&self) -> Vec<u8> {
        let wire = match self {
            Self::Pull(wants) => WireRequest::Pull(
                wants
                    .iter()
                    .map(|want| (Bytes(want.peer.to_bytes()), Bytes(want.hash.0.to_vec())))
                    .collect(),
            ),
            Self::Reconcile { shards, message } => {
                WireRequest::Reconcile(*shards, Bytes(message.clone()))
            }
            Self::Fetch(ids) => {
                WireRequest::Fetch(ids.iter().map(|id| Bytes(id.to_vec())).collect())
            }
            Self::Offer(announcements) => WireRequest::Offer(announcements.clone()),
        };
        cbor::to_framed_vec(&wire)
    }

    /// Reads a request of at most [`DISCOVERY_REQUEST_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > DISCOVERY_REQUEST_BYTES {
            return Err(DecodeError::new("a discovery request is too large"));
        }
        match cbor::from_slice(bytes)? {
            WireRequest::Pull(wants) => read_wants(wants).map(Self::Pull),
            WireRequest::Reconcile(shards, Bytes(message)) => {
                within("a reconciliation", message.len(), RECONCILE_BYTES)?;
                Ok(Self::Reconcile { shards, message })
            }
            WireRequest::Fetch(ids) => {
                within("ids", ids.len(), FETCH_IDS)?;
                ids.into_iter()
                    .map(hash)
                    .collect::<Result<_, _>>()
                    .map(Self::Fetch)
            }
            WireRequest::Offer(announcements) => {
                check_carried(&announcements)?;
                Ok(Self::Offer(announcements))
            }
        }
    }
}

fn read_wants(wants: Vec<(Bytes, Bytes)>) -> Result<Vec<Want>, DecodeError> {
    within("wanted lists", wants.len(), PULL_LISTS)?;
    let want = |(peer, digest): (Bytes, Bytes)| {
        Ok(Want {
            peer: PeerId::from_bytes(&peer.0).map_err(DecodeError::new)?,
            hash: OfferListHash(hash(digest)?),
        })
    };
    wants.into_iter().map(want).collect()
}

fn hash(Bytes(bytes): Bytes) -> Result<[u8; 32], DecodeError> {
    let hash = bytes.try_into();
    hash.map_err(|_| DecodeError::new("an id has 32 bytes"))
}

fn within(what: &str, length: usize, most: usize) -> Result<(), DecodeError> {
    if length > most {
        return Err(DecodeError::new(format_args!(
            "{what}: {length} is over {most}"
        )));
    }
    Ok(())
}

fn check_carried(announcements: &[Carried]) -> Result<(), DecodeError> {
    within("announcements", announcements.len(), FETCH_IDS)?;
    for carried in announcements {
        within(
            "an announcement",
            carried.announcement.0.len(),
            ANNOUNCEMENT_BYTES,
        )?;
    }
    Ok(())
}

impl PulledList {
    /// The most that a frame may be long.
    pub const FRAME_BYTES: usize = OFFER_LIST_BYTES + 64;

    /// Reads a frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pulled: Self = cbor::from_slice(bytes)?;
        let length = pulled.list.as_ref().map_or(0, |list| list.0.len());
        within("an offer list", length, OFFER_LIST_BYTES)?;
        Ok(pulled)
    }
}

impl Reconciled {
    /// The most that a frame may be long.
    pub const FRAME_BYTES: usize = RECONCILE_BYTES + 64;

    /// Reads a frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::from_slice(bytes)
    }
}

impl Fetched {
    /// The most that a frame may be long.
    pub const FRAME_BYTES: usize = FETCH_IDS * (ANNOUNCEMENT_BYTES + 48) + 64;

    /// Reads a frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let fetched: Self = cbor::from_slice(bytes)?;
        check_carried(&fetched.announcements)?;
        Ok(fetched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_back(request: &DiscoveryRequest) {
        let frame = request.to_frame();
        let (length, body) = frame.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
        assert_eq!(DiscoveryRequest::decode(body).unwrap(), *request);
    }

    fn carried() -> Carried {
        Carried {
            announcement: Bytes(vec![3; 400]),
            remaining: 600,
        }
    }

    #[test]
    fn every_request_reads_back_at_its_largest() {
        let want = Want {
            peer: PeerId::random(),
            hash: OfferListHash([1; 32]),
        };
        reads_back(&DiscoveryRequest::Pull(vec![want; PULL_LISTS]));
        reads_back(&DiscoveryRequest::Reconcile {
            shards: u16::MAX,
            message: vec![5; RECONCILE_BYTES],
        });
        reads_back(&DiscoveryRequest::Fetch(vec![[2; 32]; FETCH_IDS]));
        let largest = Carried {
            announcement: Bytes(vec![3; ANNOUNCEMENT_BYTES]),
            remaining: 900,
        };
        reads_back(&DiscoveryRequest::Offer(vec![largest.clone(); FETCH_IDS]));
        let fetched = Fetched {
            announcements: vec![largest; FETCH_IDS],
        };
        let bytes = cbor::to_vec(&fetched);
        assert!(bytes.len() <= Fetched::FRAME_BYTES, "{}", bytes.len());
        assert_eq!(Fetched::decode(&bytes).unwrap(), fetched);
    }

    #[test]
    fn more_than_the_most_is_refused() {
        let want = Want {
            peer: PeerId::random(),
            hash: OfferListHash([1; 32]),
        };
        let too_many = [
            DiscoveryRequest::Pull(vec![want; PULL_LISTS + 1]),
            DiscoveryRequest::Fetch(vec![[2; 32]; FETCH_IDS + 1]),
            DiscoveryRequest::Offer(vec![carried(); FETCH_IDS + 1]),
            DiscoveryRequest::Reconcile {
                shards: 1,
                message: vec![5; RECONCILE_BYTES + 1],
            },
        ];
        for request in too_many {
            let frame = request.to_frame();
            assert!(DiscoveryRequest::decode(&frame[4..]).is_err());
        }
    }
}

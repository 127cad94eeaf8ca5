//! Announcements (wire 0.2): who offers something now, signed, in at most 512 bytes, and the hash
//! of the list of what is offered. The list itself is pulled ([`crate::discovery`]) and checked.
//!
//! An announcement is the CBOR array `[body, signature]` of two byte strings. The signature covers
//! [`SIGNATURE_DOMAIN`] and the body, whose CBOR is an array too ([`AnnouncementBody`]).

mod batch;
mod list;

use libp2p_identity::Keypair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cbor::{self, Bytes, DecodeError};
use crate::id::ed25519_key;
use crate::limits::{ANNOUNCEMENT_ADDRESSES, ANNOUNCEMENT_BYTES, ANNOUNCEMENT_TAGS, LASTING_SECS};
use crate::{PeerId, ProtocolId, UnixSeconds};

pub use batch::AnnouncementBatch;
pub use list::{FittedList, OfferList, OfferListHash, fit_offer_list};

/// The gossipsub topic while announcements are not sharded. Its payload is an [`AnnouncementBatch`].
pub const ANNOUNCE_TOPIC: &str = "derouter/announce/0.2";

/// The gossipsub topic on which nodes that see a peer of version 0.1 say so, each minute: the
/// payload is that minute ([`beacon_minute`]).
pub const LEGACY_TOPIC: &str = "derouter/legacy/0.2";

/// How many topics the announcements are spread over when they are sharded.
pub const SHARDS: u8 = 16;

/// What a signature over an announcement begins with, so that it is one over nothing else.
pub const SIGNATURE_DOMAIN: &[u8] = b"derouter/announcement/0.2\0";

/// The version of the body.
const VERSION: u8 = 2;

/// The topic of a shard.
pub fn shard_topic(shard: u8) -> String {
    format!("{ANNOUNCE_TOPIC}/{shard}")
}

/// The shard of a provider: the upper four bits of its id's SHA-256.
pub fn shard_of(peer: &PeerId) -> u8 {
    let digest: [u8; 32] = Sha256::digest(peer.to_bytes()).into();
    let [first, ..] = digest;
    first >> 4
}

/// The payload on [`LEGACY_TOPIC`]: the Unix minute, 8 bytes big-endian, so that all who say so
/// within a minute publish one and the same message.
pub fn beacon_minute(clock: UnixSeconds) -> [u8; 8] {
    (clock.0 / 60).to_be_bytes()
}

/// Stands for a protocol in an announcement: the first 8 bytes of the SHA-256 of its id.
pub fn protocol_tag(protocol: &ProtocolId) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(protocol.as_str()).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// The list that an announcement stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListSummary {
    /// Of its bytes.
    pub hash: OfferListHash,
    /// Its bytes, at most [`crate::limits::OFFER_LIST_BYTES`].
    pub bytes: u32,
    /// Its offers.
    pub offers: u32,
}

/// What an announcement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementBody {
    /// Who announces. Its id holds its Ed25519 key.
    pub peer: PeerId,
    /// Rises with each announcement of a peer, over restarts too: the Unix time in milliseconds, or
    /// one more than the last.
    pub sequence: u64,
    /// When it was made, by the provider's clock.
    pub issued_at: UnixSeconds,
    /// For how many seconds it holds, at most [`LASTING_SECS`].
    pub lasts: u32,
    /// What is offered; `None` takes everything back.
    pub list: Option<ListSummary>,
    /// [`protocol_tag`]s of what is offered, at most [`ANNOUNCEMENT_TAGS`].
    pub tags: Vec<[u8; 8]>,
    /// Where the provider is reached (multiaddr bytes), best first, at most
    /// [`ANNOUNCEMENT_ADDRESSES`].
    pub addresses: Vec<Vec<u8>>,
}

/// An announcement with its signature, which [`SignedAnnouncement::verify`] checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnnouncement {
    /// What it says.
    pub body: AnnouncementBody,
    signed: Vec<u8>,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
struct WireBody(
    u8,
    Bytes,
    u64,
    UnixSeconds,
    u32,
    Option<(Bytes, u32, u32)>,
    Vec<Bytes>,
    Vec<Bytes>,
);

#[derive(Serialize, Deserialize)]
struct Envelope(Bytes, Bytes);

impl SignedAnnouncement {
    /// Signs an announcement. Addresses that do not fit its 512 bytes are left out, from the last.
    /// `None` when the key is no Ed25519 key or not that of `body.peer`.
    pub fn sign(mut body: AnnouncementBody, keypair: &Keypair) -> Option<Self> {
        body.lasts = body.lasts.min(LASTING_SECS);
        body.tags.truncate(ANNOUNCEMENT_TAGS);
        body.addresses.truncate(ANNOUNCEMENT_ADDRESSES);
        if keypair.public().to_peer_id() != body.peer {
            return None;
        }
        loop {
            let signed = cbor::to_vec(&wire_body(&body));
            if envelope_bytes(signed.len()) > ANNOUNCEMENT_BYTES {
                body.addresses.pop()?;
                continue;
            }
            let signature = keypair.sign(&to_sign(&signed)).ok()?.try_into().ok()?;
            return Some(Self {
                body,
                signed,
                signature,
            });
        }
    }

    /// Reads an announcement; its signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > ANNOUNCEMENT_BYTES {
            return Err(DecodeError::new("an announcement is over 512 bytes"));
        }
        let Envelope(Bytes(signed), Bytes(signature)) = cbor::from_slice(bytes)?;
        let signature = signature.try_into();
        let signature = signature.map_err(|_| DecodeError::new("a signature has 64 bytes"))?;
        let body = read_body(cbor::from_slice(&signed)?)?;
        Ok(Self {
            body,
            signed,
            signature,
        })
    }

    /// The CBOR of the message.
    pub fn encode(&self) -> Vec<u8> {
        let signature = Bytes(self.signature.to_vec());
        cbor::to_vec(&Envelope(Bytes(self.signed.clone()), signature))
    }

    /// Whether the peer that it names signed it. This is what costs.
    pub fn verify(&self) -> bool {
        ed25519_key(&self.body.peer)
            .is_some_and(|key| key.verify(&to_sign(&self.signed), &self.signature))
    }

    /// Names this announcement in a set reconciliation: the SHA-256 of peer and sequence, so that
    /// two spellings of one announcement count as one.
    pub fn id(&self) -> [u8; 32] {
        announcement_id(&self.body.peer, self.body.sequence)
    }
}

/// See [`SignedAnnouncement::id`].
pub fn announcement_id(peer: &PeerId, sequence: u64) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(peer.to_bytes());
    hasher.update(sequence.to_be_bytes());
    hasher.finalize().into()
}

fn to_sign(body: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, body].concat()
}

/// The array's head, the body with its head, the signature with its head.
fn envelope_bytes(body: usize) -> usize {
    let head = if body < 256 { 2 } else { 3 };
    1 + head + body + 2 + 64
}

fn wire_body(body: &AnnouncementBody) -> WireBody {
    let list = body
        .list
        .map(|list| (Bytes(list.hash.0.to_vec()), list.bytes, list.offers));
    WireBody(
        VERSION,
        Bytes(body.peer.to_bytes()),
        body.sequence,
        body.issued_at,
        body.lasts,
        list,
        body.tags.iter().map(|tag| Bytes(tag.to_vec())).collect(),
        body.addresses.iter().cloned().map(Bytes).collect(),
    )
}

fn read_body(wire: WireBody) -> Result<AnnouncementBody, DecodeError> {
    let WireBody(version, peer, sequence, issued_at, lasts, list, tags, addresses) = wire;
    if version != VERSION {
        return Err(DecodeError::new("an announcement of another version"));
    }
    if lasts == 0 || lasts > LASTING_SECS {
        return Err(DecodeError::new("an announcement lasts 1 to 900 seconds"));
    }
    if tags.len() > ANNOUNCEMENT_TAGS || addresses.len() > ANNOUNCEMENT_ADDRESSES {
        return Err(DecodeError::new("an announcement has too many parts"));
    }
    let tag = |Bytes(tag): Bytes| {
        let tag = tag.try_into();
        tag.map_err(|_| DecodeError::new("a protocol tag has 8 bytes"))
    };
    Ok(AnnouncementBody {
        peer: PeerId::from_bytes(&peer.0).map_err(DecodeError::new)?,
        sequence,
        issued_at,
        lasts,
        list: list.map(read_summary).transpose()?,
        tags: tags.into_iter().map(tag).collect::<Result<_, _>>()?,
        addresses: addresses.into_iter().map(|bytes| bytes.0).collect(),
    })
}

fn read_summary((hash, bytes, offers): (Bytes, u32, u32)) -> Result<ListSummary, DecodeError> {
    let hash = hash.0.try_into();
    let hash = OfferListHash(hash.map_err(|_| DecodeError::new("a hash has 32 bytes"))?);
    let summary = ListSummary {
        hash,
        bytes,
        offers,
    };
    if list::is_sound(&summary) {
        Ok(summary)
    } else {
        Err(DecodeError::new("an offer list is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(keypair: &Keypair) -> AnnouncementBody {
        AnnouncementBody {
            peer: keypair.public().to_peer_id(),
            sequence: 1_700_000_000_123,
            issued_at: UnixSeconds(1_700_000_000),
            lasts: 660,
            list: Some(ListSummary {
                hash: OfferListHash([7; 32]),
                bytes: 1234,
                offers: 3,
            }),
            tags: vec![[1; 8]],
            addresses: vec![vec![4; 8]],
        }
    }

    #[test]
    fn what_is_signed_reads_back_and_a_changed_bit_does_not_verify() {
        let keypair = Keypair::generate_ed25519();
        let sealed = SignedAnnouncement::sign(body(&keypair), &keypair).unwrap();
        let bytes = sealed.encode();
        let read = SignedAnnouncement::decode(&bytes).unwrap();
        assert_eq!(read, sealed);
        assert!(read.verify());
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            if let Ok(other) = SignedAnnouncement::decode(&changed) {
                assert!(!other.verify(), "byte {position}");
            }
        }
    }

    #[test]
    fn an_announcement_is_small_and_addresses_that_do_not_fit_are_left_out() {
        let keypair = Keypair::generate_ed25519();
        let small = SignedAnnouncement::sign(body(&keypair), &keypair).unwrap();
        assert!(small.encode().len() < 200, "{}", small.encode().len());
        let mut large = body(&keypair);
        large.tags = vec![[9; 8]; 40];
        large.addresses = vec![vec![4; 60]; 9];
        let large = SignedAnnouncement::sign(large, &keypair).unwrap();
        assert!(large.encode().len() <= ANNOUNCEMENT_BYTES);
        assert_eq!(large.body.tags.len(), ANNOUNCEMENT_TAGS);
        assert!((1..4).contains(&large.body.addresses.len()));
        let read = SignedAnnouncement::decode(&large.encode()).unwrap();
        assert!(read.verify());
    }

    #[test]
    fn nobody_signs_in_the_name_of_another() {
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        assert_eq!(SignedAnnouncement::sign(body(&one), &other), None);
        let mut forged = SignedAnnouncement::sign(body(&other), &other).unwrap();
        forged.body.peer = one.public().to_peer_id();
        forged.signed = cbor::to_vec(&wire_body(&forged.body));
        assert!(
            !SignedAnnouncement::decode(&forged.encode())
                .unwrap()
                .verify()
        );
    }

    #[test]
    fn every_provider_has_one_of_sixteen_shards() {
        for _ in 0..100 {
            assert!(shard_of(&PeerId::random()) < SHARDS);
        }
    }
}

//! The list of what a provider offers: the CBOR of an [`Announcement`] of wire 0.1, larger.

use std::fmt;

use sha2::{Digest, Sha256};

use super::ListSummary;
use crate::cbor::{self, DecodeError};
use crate::gossip::{self, Announcement, FittedAnnouncement};
use crate::limits::{OFFER_LIST_BYTES, OFFER_LIST_OFFERS, OFFER_PAYLOAD_BYTES};
use crate::{OfferId, ProtocolId};

/// The SHA-256 of an offer list's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferListHash(pub [u8; 32]);

impl OfferListHash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for OfferListHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// An offer list on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferList {
    /// What an announcement says of it.
    pub summary: ListSummary,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl OfferList {
    /// Encodes a list that fits ([`fit_offer_list`]).
    pub fn encode(announcement: &Announcement) -> Result<Self, DecodeError> {
        let bytes = cbor::to_vec(announcement);
        let too_large = || DecodeError::new("an offer list is too large");
        let summary = ListSummary {
            hash: OfferListHash::of(&bytes),
            bytes: u32::try_from(bytes.len()).map_err(|_| too_large())?,
            offers: u32::try_from(count(announcement)).map_err(|_| too_large())?,
        };
        if is_sound(&summary) {
            Ok(Self { summary, bytes })
        } else {
            Err(too_large())
        }
    }

    /// Reads the list of an announcement: checks its size, then its hash, then what it holds.
    pub fn decode(bytes: &[u8], summary: &ListSummary) -> Result<Announcement, DecodeError> {
        if bytes.len() > OFFER_LIST_BYTES || u32::try_from(bytes.len()) != Ok(summary.bytes) {
            return Err(DecodeError::new("an offer list of another size"));
        }
        if OfferListHash::of(bytes) != summary.hash {
            return Err(DecodeError::new("an offer list of another hash"));
        }
        let list: Announcement = cbor::from_slice(bytes)?;
        if u32::try_from(count(&list)) != Ok(summary.offers) {
            return Err(DecodeError::new("an offer list with more or fewer offers"));
        }
        let offers = list.offers.values().flat_map(|offers| offers.values());
        for offer in offers {
            if offer.protocol_payload.len() > OFFER_PAYLOAD_BYTES {
                return Err(DecodeError::new("an offer is too large"));
            }
        }
        Ok(list)
    }
}

/// Whether a list of this size may be pulled.
pub(super) fn is_sound(summary: &ListSummary) -> bool {
    let within = |number: u32, most: usize| usize::try_from(number).is_ok_and(|n| n <= most);
    within(summary.bytes, OFFER_LIST_BYTES) && within(summary.offers, OFFER_LIST_OFFERS)
}

fn count(list: &Announcement) -> usize {
    list.offers.values().map(|offers| offers.len()).sum()
}

/// A list cut to what one may hold.
pub type FittedList = FittedAnnouncement;

/// Keeps the offers that fit [`OFFER_LIST_BYTES`] and [`OFFER_LIST_OFFERS`]: first come, first kept,
/// as [`gossip::fit_announcement`] does for heartbeats.
pub fn fit_offer_list<'a>(
    details: Announcement,
    offers: impl IntoIterator<Item = (&'a ProtocolId, &'a OfferId, &'a str)>,
) -> FittedList {
    gossip::fit(details, offers, OFFER_LIST_BYTES, OFFER_LIST_OFFERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(offers: usize, payload: usize) -> FittedList {
        let protocol = ProtocolId::new("p").unwrap();
        let payload = "x".repeat(payload);
        let ids: Vec<OfferId> = (0..offers)
            .map(|index| OfferId::new(format!("o{index}")).unwrap())
            .collect();
        let offers = ids.iter().map(|id| (&protocol, id, payload.as_str()));
        fit_offer_list(Announcement::default(), offers)
    }

    #[test]
    fn a_list_holds_1024_offers_or_256_kib_and_the_rest_is_named() {
        let many = fitted(2000, 10);
        assert_eq!(many.left_out.len(), 2000 - OFFER_LIST_OFFERS);
        let large = fitted(100, 10_000);
        let list = OfferList::encode(&large.announcement).unwrap();
        assert!(list.bytes.len() > OFFER_LIST_BYTES - 20_000);
        assert_eq!(
            large.left_out.len() + usize::try_from(list.summary.offers).unwrap(),
            100
        );
        let read = OfferList::decode(&list.bytes, &list.summary).unwrap();
        assert_eq!(read, large.announcement);
    }

    #[test]
    fn a_list_that_is_not_the_one_that_was_announced_is_refused() {
        let list = OfferList::encode(&fitted(3, 10).announcement).unwrap();
        let mut changed = list.bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(OfferList::decode(&changed, &list.summary).is_err());
        assert!(OfferList::decode(&list.bytes[1..], &list.summary).is_err());
        let lie = ListSummary {
            offers: 2,
            ..list.summary
        };
        assert!(OfferList::decode(&list.bytes, &lie).is_err());
    }
}

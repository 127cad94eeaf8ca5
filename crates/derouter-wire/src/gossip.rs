//! Heartbeats: what a provider announces on the gossipsub topic `heartbeat` (wire 0.1).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{OfferId, ProtocolId, UnixSeconds, limits};

/// The gossipsub topic (an ident topic: its hash is its name).
pub const HEARTBEAT_TOPIC: &str = "heartbeat";

/// One heartbeat. Its sender is the signed source of the gossipsub message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What is on offer, or `None` from a node that provides nothing.
    pub provider: Option<Announcement>,
    /// When it was sent, by the sender's clock. Must rise from one heartbeat to the next.
    pub timestamp: UnixSeconds,
}

/// Who provides, and all of their offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The provider's name.
    pub name: Option<String>,
    /// One line about the provider.
    pub teaser: Option<String>,
    /// More about the provider.
    pub description: Option<String>,
    /// Every offer; one that is absent is withdrawn.
    pub offers: BTreeMap<ProtocolId, BTreeMap<OfferId, AnnouncedOffer>>,
    /// Rises when details or offers change; equal means that nothing changed.
    pub updated_at: UnixSeconds,
}

/// One offer in an announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedOffer {
    /// What the offer's protocol says of it; opaque here.
    pub protocol_payload: String,
}

impl Heartbeat {
    /// The CBOR of the message.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Reads a message of at most [`limits::HEARTBEAT_BYTES`] plus the slack that 0.1 allows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > 64 * 1024 {
            return Err(DecodeError::new("a heartbeat is over 64 KiB"));
        }
        cbor::from_slice(bytes)
    }
}

/// The gossipsub message id on the heartbeat topic: the decimal text of the standard library's
/// `DefaultHasher` over the data as a byte vector (its length is hashed first).
pub fn heartbeat_message_id(data: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish().to_string()
}

/// An announcement cut to what one heartbeat can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FittedAnnouncement {
    /// What is sent.
    pub announcement: Announcement,
    /// What did not fit, in the order in which it was provided.
    pub left_out: Vec<(ProtocolId, OfferId)>,
}

/// Keeps the offers that fit a heartbeat of [`limits::HEARTBEAT_BYTES`]: first come, first kept, so
/// that the set is stable and a new offer never pushes out one that was announced before.
pub fn fit_announcement<'a>(
    details: Announcement,
    offers: impl IntoIterator<Item = (&'a ProtocolId, &'a OfferId, &'a str)>,
) -> FittedAnnouncement {
    fit(details, offers, limits::HEARTBEAT_BYTES, usize::MAX)
}

/// Keeps the offers that fit so many bytes and are no more than so many.
pub(crate) fn fit<'a>(
    details: Announcement,
    offers: impl IntoIterator<Item = (&'a ProtocolId, &'a OfferId, &'a str)>,
    most_bytes: usize,
    most_offers: usize,
) -> FittedAnnouncement {
    let mut announcement = Announcement {
        offers: BTreeMap::new(),
        ..details
    };
    let mut left_out = Vec::new();
    let frame = Heartbeat {
        provider: Some(announcement.clone()),
        timestamp: UnixSeconds(u64::MAX),
    };
    // Map headers grow by up to 8 bytes each as they fill; counted once for `offers` itself.
    let mut used = frame.encode().len() + 8;
    let mut kept = 0;
    for (protocol_id, offer_id, payload) in offers {
        let new_protocol = !announcement.offers.contains_key(protocol_id);
        let cost = offer_cost(protocol_id, offer_id, payload, new_protocol);
        if used + cost > most_bytes || kept >= most_offers {
            left_out.push((protocol_id.clone(), offer_id.clone()));
            continue;
        }
        used += cost;
        kept += 1;
        let offer = AnnouncedOffer {
            protocol_payload: payload.to_owned(),
        };
        announcement
            .offers
            .entry(protocol_id.clone())
            .or_default()
            .insert(offer_id.clone(), offer);
    }
    FittedAnnouncement {
        announcement,
        left_out,
    }
}

/// An upper bound of the bytes that an offer adds.
fn offer_cost(protocol: &ProtocolId, offer: &OfferId, payload: &str, new_protocol: bool) -> usize {
    const TEXT_HEADER: usize = 5;
    const PAYLOAD_KEY: usize = "protocol_payload".len() + TEXT_HEADER + 1;
    let own = TEXT_HEADER + offer.as_str().len() + PAYLOAD_KEY + TEXT_HEADER + payload.len();
    if new_protocol {
        own + TEXT_HEADER + protocol.as_str().len() + 9
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(count: usize, payload: &str) -> Vec<(ProtocolId, OfferId, String)> {
        let offer = |index: usize| {
            let protocol = ProtocolId::new("openai:0.1").unwrap();
            (
                protocol,
                OfferId::new(format!("offer-{index}")).unwrap(),
                payload.to_owned(),
            )
        };
        (0..count).map(offer).collect()
    }

    fn fit(offers: &[(ProtocolId, OfferId, String)]) -> FittedAnnouncement {
        let borrowed = offers
            .iter()
            .map(|(protocol, offer, payload)| (protocol, offer, payload.as_str()));
        fit_announcement(Announcement::default(), borrowed)
    }

    #[test]
    fn five_thousand_offers_fit_one_heartbeat_and_the_rest_is_named() {
        let all = offers(5_000, &"x".repeat(140));
        let fitted = fit(&all);
        let kept: usize = fitted.announcement.offers.values().map(BTreeMap::len).sum();
        assert_eq!(kept + fitted.left_out.len(), 5_000);
        let heartbeat = Heartbeat {
            provider: Some(fitted.announcement),
            timestamp: UnixSeconds(1 << 62),
        };
        let size = heartbeat.encode().len();
        assert!(size <= limits::HEARTBEAT_BYTES, "{size}");
        assert!(size > limits::HEARTBEAT_BYTES - 8_000, "{size} wastes room");
    }

    #[test]
    fn a_new_offer_never_pushes_out_an_older_one() {
        let mut all = offers(1_000, &"x".repeat(140));
        let before = fit(&all).announcement.offers;
        let protocol = ProtocolId::new("aaa").unwrap();
        all.push((protocol, OfferId::new("aaa").unwrap(), "y".repeat(1_000)));
        assert_eq!(fit(&all).announcement.offers, before);
    }

    #[test]
    fn one_offer_too_large_for_any_heartbeat_leaves_the_others() {
        let mut all = offers(1, &"x".repeat(70_000));
        all.extend(offers(3, "small").into_iter().skip(1));
        let fitted = fit(&all);
        assert_eq!(fitted.left_out.len(), 1);
        assert_eq!(
            fitted
                .announcement
                .offers
                .values()
                .map(BTreeMap::len)
                .sum::<usize>(),
            2
        );
    }
}

//! What attackers send, made before they begin: they stand for machines that have time of their own.

use std::time::{SystemTime, UNIX_EPOCH};

use derouter_net::Keypair;
use derouter_wire::UnixSeconds;
use derouter_wire::announce::{
    ANNOUNCE_TOPIC, AnnouncementBody, ListSummary, OfferListHash, SignedAnnouncement,
};
use derouter_wire::gossip::{HEARTBEAT_TOPIC, Heartbeat};
use derouter_wire::limits::BATCH_ANNOUNCEMENTS;

use crate::sim::frames;
use crate::sim::providers::{Providers, offer_list};

/// Heartbeats in one frame: as many as a node takes.
pub(super) const FRAME_HEARTBEATS: usize = 4;
/// Different messages of a flood: gossipsub knows those of the last minute, and a copy of one costs
/// a node less.
const DIFFERENT: u64 = 60_000;
/// Different announcements: batches of them are known for 20 s.
const DIFFERENT_ANNOUNCEMENTS: u64 = 240_000;
/// Different authors of forged messages.
const AUTHORS: u64 = 200;
/// Different new providers.
const NEWCOMERS: u64 = 6_400;
/// Different new providers that have nothing to give, and are handed on at once.
const NEWCOMERS_WITHOUT_OFFERS: usize = 20_000;
/// Different large heartbeats.
const LARGE: u64 = 100;
/// Offers in a heartbeat of almost 64 KiB.
const LARGE_OFFERS: usize = 180;

pub(super) fn unix_seconds() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("the clock is after 1970").as_secs()
}

fn signed(keypair: &Keypair, sequence: u64, offers: u32) -> SignedAnnouncement {
    let body = AnnouncementBody {
        peer: keypair.public().to_peer_id(),
        sequence,
        issued_at: UnixSeconds(unix_seconds()),
        lasts: 660,
        list: Some(ListSummary {
            hash: OfferListHash::of(&sequence.to_be_bytes()),
            bytes: 200 * 1024,
            offers,
        }),
        tags: Vec::new(),
        addresses: Vec::new(),
    };
    SignedAnnouncement::sign(body, keypair).expect("it fits")
}

/// A new provider's announcement of so many offers.
pub(super) fn announcement(number: u64, offers: u32) -> Vec<u8> {
    let keypair = Keypair::generate_ed25519();
    let sequence = unix_seconds() * 1000 + number;
    signed(&keypair, sequence, offers).encode()
}

/// Puts a number into the end of a signature.
fn spoil(message: &mut [u8], number: u64) {
    let number = number.wrapping_add(1).to_be_bytes();
    let at = message.len() - number.len();
    for (byte, with) in message[at..].iter_mut().zip(number) {
        *byte ^= with;
    }
}

/// Frames of announcements whose signatures are wrong, in the name of many.
pub(super) fn forged() -> Vec<Vec<u8>> {
    let author = |number: u64| {
        let keypair = Keypair::generate_ed25519();
        let sequence = unix_seconds() * 1000 + number;
        signed(&keypair, sequence, 5).encode()
    };
    let authors: Vec<_> = (0..AUTHORS).map(author).collect();
    let forge = |number: u64| {
        let place = usize::try_from(number % AUTHORS).expect("small");
        let mut bytes = authors[place].clone();
        spoil(&mut bytes, number);
        bytes
    };
    in_batches((0..DIFFERENT_ANNOUNCEMENTS).map(forge), BATCH_ANNOUNCEMENTS)
}

/// Frames of one provider's announcements, the newest first.
pub(super) fn replayed() -> Vec<Vec<u8>> {
    let keypair = Keypair::generate_ed25519();
    let newest = unix_seconds() * 1000;
    let old = |number: u64| signed(&keypair, newest - number, 5).encode();
    in_batches((0..DIFFERENT_ANNOUNCEMENTS).map(old), BATCH_ANNOUNCEMENTS)
}

/// Frames of new providers' announcements, so many in each.
pub(super) fn newcomers(each: usize) -> Vec<Vec<u8>> {
    in_batches((0..NEWCOMERS).map(|number| announcement(number, 5)), each)
}

/// Frames of the announcements of new providers without offers.
pub(super) fn newcomers_without_offers() -> Vec<Vec<u8>> {
    let providers = Providers::new(NEWCOMERS_WITHOUT_OFFERS, 0);
    let announcement = |place| providers.without_offers(place).encode();
    let announcements = (0..NEWCOMERS_WITHOUT_OFFERS).map(announcement);
    in_batches(announcements, BATCH_ANNOUNCEMENTS)
}

/// Frames of heartbeats whose signatures are wrong.
pub(super) fn forged_heartbeats() -> Vec<Vec<u8>> {
    let heartbeat = Heartbeat {
        provider: None,
        timestamp: UnixSeconds(unix_seconds()),
    };
    let data = heartbeat.encode();
    let authors = (0..AUTHORS).map(|number| {
        let keypair = Keypair::generate_ed25519();
        frames::signed_message(&keypair, number, HEARTBEAT_TOPIC, &data)
    });
    let authors: Vec<_> = authors.collect();
    let forge = |number: u64| {
        let place = usize::try_from(number % AUTHORS).expect("small");
        let mut message = authors[place].clone();
        // The signature is the last field.
        spoil(&mut message, number);
        message
    };
    in_frames((0..DIFFERENT).map(forge))
}

/// Heartbeats of many providers, each almost as large as one may be; one frame each.
pub(super) fn large_heartbeats() -> Vec<Vec<u8>> {
    let heartbeat = Heartbeat {
        provider: Some(offer_list("large".to_owned(), LARGE_OFFERS, unix_seconds())),
        timestamp: UnixSeconds(unix_seconds()),
    };
    let data = heartbeat.encode();
    let message = |number: u64| {
        let keypair = Keypair::generate_ed25519();
        frames::signed_message(&keypair, number, HEARTBEAT_TOPIC, &data)
    };
    let messages = (0..LARGE).map(message);
    messages.map(|message| frames::frame(&[message])).collect()
}

/// A heartbeat with 100,000 offers, which is larger than any may be.
pub(super) fn endless_heartbeat() -> Vec<u8> {
    let heartbeat = Heartbeat {
        provider: Some(offer_list("endless".to_owned(), 100_000, unix_seconds())),
        timestamp: UnixSeconds(unix_seconds()),
    };
    let data = heartbeat.encode();
    let keypair = Keypair::generate_ed25519();
    let message = frames::signed_message(&keypair, 1, HEARTBEAT_TOPIC, &data);
    frames::frame(&[message])
}

/// Frames with so many announcements each.
fn in_batches(announcements: impl Iterator<Item = Vec<u8>>, each: usize) -> Vec<Vec<u8>> {
    let announcements: Vec<_> = announcements.collect();
    let batch = |some: &[Vec<u8>]| {
        let message = frames::announcements_message(ANNOUNCE_TOPIC, some.to_vec());
        frames::frame(&[message])
    };
    announcements.chunks(each).map(batch).collect()
}

fn in_frames(messages: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let messages: Vec<_> = messages.collect();
    messages
        .chunks(FRAME_HEARTBEATS)
        .map(frames::frame)
        .collect()
}

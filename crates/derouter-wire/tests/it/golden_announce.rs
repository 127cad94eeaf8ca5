//! Announcements and the discovery protocol of wire 0.2, held to recorded bytes.

use std::collections::BTreeMap;

use derouter_wire::announce::{
    AnnouncementBody, OfferList, SignedAnnouncement, beacon_minute, protocol_tag, shard_of,
    shard_topic,
};
use derouter_wire::cbor::{self, Bytes};
use derouter_wire::discovery::{Carried, DiscoveryRequest, Fetched, PulledList, Reconciled, Want};
use derouter_wire::gossip::{AnnouncedOffer, Announcement};
use derouter_wire::{OfferId, ProtocolId, UnixSeconds};
use libp2p_identity::Keypair;

fn key() -> Keypair {
    Keypair::ed25519_from_bytes(&mut [7; 32]).unwrap()
}

fn list() -> OfferList {
    let offer = AnnouncedOffer {
        protocol_payload: "{}".into(),
    };
    let offers = BTreeMap::from([(OfferId::new("offer-a").unwrap(), offer)]);
    let announcement = Announcement {
        name: Some("ACME".into()),
        offers: BTreeMap::from([(ProtocolId::new("openai:0.1").unwrap(), offers)]),
        updated_at: UnixSeconds(1_750_000_000),
        ..Announcement::default()
    };
    OfferList::encode(&announcement).unwrap()
}

fn announcement(list: Option<&OfferList>) -> SignedAnnouncement {
    let body = AnnouncementBody {
        peer: key().public().to_peer_id(),
        sequence: 1_750_000_000_123,
        issued_at: UnixSeconds(1_750_000_000),
        lasts: 660,
        list: list.map(|list| list.summary),
        tags: list
            .map(|_| protocol_tag(&ProtocolId::new("openai:0.1").unwrap()))
            .into_iter()
            .collect(),
        // /ip4/192.0.2.1/tcp/4001
        addresses: vec![vec![4, 192, 0, 2, 1, 6, 0x0f, 0xa1]],
    };
    SignedAnnouncement::sign(body, &key()).unwrap()
}

fn is(name: &str, bytes: &[u8], golden: &str) {
    assert_eq!(hex::encode(bytes), golden, "{name}");
}

#[test]
fn announcements_are_byte_exact_both_ways() {
    let list = list();
    is("list", &list.bytes, LIST);
    for (name, announcement, golden) in [
        ("offers", announcement(Some(&list)), ANNOUNCEMENT),
        ("nothing", announcement(None), TOMBSTONE),
    ] {
        is(name, &announcement.encode(), golden);
        let read = SignedAnnouncement::decode(&hex::decode(golden).unwrap()).unwrap();
        assert_eq!(read, announcement, "{name}");
        assert!(read.verify(), "{name}");
    }
    is("id", &announcement(None).id(), ID);
}

#[test]
fn requests_and_answers_of_discovery_are_byte_exact() {
    let want = Want {
        peer: key().public().to_peer_id(),
        hash: list().summary.hash,
    };
    let carried = || Carried {
        announcement: Bytes(vec![1, 2, 3]),
        remaining: 600,
    };
    let reconcile = DiscoveryRequest::Reconcile {
        shards: 0xffff,
        message: vec![0x61],
    };
    is("pull", &DiscoveryRequest::Pull(vec![want]).to_frame(), PULL);
    is("reconcile", &reconcile.to_frame(), RECONCILE);
    is(
        "fetch",
        &DiscoveryRequest::Fetch(vec![[9; 32]]).to_frame(),
        FETCH,
    );
    is(
        "offer",
        &DiscoveryRequest::Offer(vec![carried()]).to_frame(),
        OFFER,
    );
    let pulled = PulledList {
        index: 1,
        list: Some(Bytes(vec![5])),
    };
    is("pulled", &cbor::to_vec(&pulled), PULLED);
    assert_eq!(
        PulledList::decode(&hex::decode(PULLED).unwrap()),
        Ok(pulled)
    );
    let missing = PulledList {
        index: 0,
        list: None,
    };
    is("missing", &cbor::to_vec(&missing), MISSING);
    let reconciled = Reconciled {
        message: Bytes(vec![0x61]),
    };
    is("reconciled", &cbor::to_vec(&reconciled), RECONCILED);
    let fetched = Fetched {
        announcements: vec![carried()],
    };
    is("fetched", &cbor::to_vec(&fetched), FETCHED);
    assert_eq!(Fetched::decode(&hex::decode(FETCHED).unwrap()), Ok(fetched));
}

#[test]
fn names_are_those_of_wire_0_2() {
    let peer = key().public().to_peer_id();
    assert_eq!(shard_of(&peer), SHARD);
    assert_eq!(shard_topic(11), "derouter/announce/0.2/11");
    is(
        "tag",
        &protocol_tag(&ProtocolId::new("openai:0.1").unwrap()),
        TAG,
    );
    assert_eq!(beacon_minute(UnixSeconds(119)), [0, 0, 0, 0, 0, 0, 0, 1]);
}

const LIST: &str = "a5646e616d656441434d4566746561736572f66b6465736372697074696f6ef6666f6666657273a16a6f70656e61693a302e31a1676f666665722d61a17070726f746f636f6c5f7061796c6f6164627b7d6a757064617465645f61741a684ee180";
const ANNOUNCEMENT: &str = "82587588025826002408011220ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c1b000001977420dc7b1a684ee1801902948358205dd1135f773de1a2e96ea08a18243572ca11a75ddeed8be34c74ed4edd1fe632186101814864fb5da9ac2d5d40814804c0000201060fa15840d94ba877c80fa9f4c1513c2060e6d4b9ac3c48d71a758ca5d15314ea978be3e49926cb4e66d1bb7dcae0283a0fe72b2accf5a1ca28ee5818b63632db0c3d8507";
const TOMBSTONE: &str = "82584788025826002408011220ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c1b000001977420dc7b1a684ee180190294f680814804c0000201060fa158406fa48568bc8e30a7d0ee69d3de549f799af055a94d3de6fac55d215ffb371253cc9eca6266ab6b7c1875416d5d2ec5899d753805f9e4c07b5c3182494d637b0a";
const ID: &str = "6f1b2e770c632f1bc99f090acbe5d2bc7a116f65e0082d14fa0f9fb83a95667f";
const PULL: &str = "00000052a16450756c6c81825826002408011220ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c58205dd1135f773de1a2e96ea08a18243572ca11a75ddeed8be34c74ed4edd1fe632";
const RECONCILE: &str = "00000011a1695265636f6e63696c658219ffff4161";
const FETCH: &str =
    "0000002aa16546657463688158200909090909090909090909090909090909090909090909090909090909090909";
const OFFER: &str =
    "00000027a1654f6666657281a26c616e6e6f756e63656d656e74430102036972656d61696e696e67190258";
const PULLED: &str = "a265696e64657801646c6973744105";
const MISSING: &str = "a265696e64657800646c697374f6";
const RECONCILED: &str = "a1676d6573736167654161";
const FETCHED: &str = "a16d616e6e6f756e63656d656e747381a26c616e6e6f756e63656d656e74430102036972656d61696e696e67190258";
const TAG: &str = "64fb5da9ac2d5d40";
const SHARD: u8 = 15;

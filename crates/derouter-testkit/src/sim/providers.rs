//! Providers that are simulated: keys, offers, and what they send.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use derouter_net::{Keypair, PeerId};
use derouter_wire::announce::{
    ANNOUNCE_TOPIC, AnnouncementBody, ListSummary, OfferList, OfferListHash, SignedAnnouncement,
    protocol_tag, shard_of, shard_topic,
};
use derouter_wire::gossip::{AnnouncedOffer, Announcement, HEARTBEAT_TOPIC, Heartbeat};
use derouter_wire::{OfferId, ProtocolId, UnixSeconds};

use super::frames;

/// Every how many refreshes a provider's offers change: once an hour.
const REFRESHES_PER_CHANGE: u32 = 12;
/// For how long an announcement holds.
const LASTS: u32 = 660;

/// Simulated providers, all with as many offers.
#[derive(Debug)]
pub struct Providers {
    keys: Vec<Keypair>,
    places: HashMap<PeerId, usize>,
    offers: usize,
    refreshes: Vec<AtomicU32>,
    sequence: AtomicU64,
    started: u64,
    /// Lists pulled from here.
    pub pulled: AtomicU64,
    current: Mutex<()>,
}

fn unix_seconds() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("the clock is after 1970").as_secs()
}

/// What an OpenAI offer says of itself, about 250 bytes.
fn payload(model: &str) -> String {
    format!(
        r#"{{"model_id":"{model}","context_size":131072,"max_concurrency":64,"input_token_price":{{"$pol":"0.35"}},"output_token_price":{{"$pol":"1.20"}},"cached_input_token_price":{{"$pol":"0.07"}},"capabilities":["chat","tools","vision"],"quantization":"fp8"}}"#
    )
}

/// A list of so many offers.
pub fn offer_list(name: String, offers: usize, updated_at: u64) -> Announcement {
    let protocol = ProtocolId::new("openai:0.1").expect("an id");
    let offer = |number: usize| {
        let id = OfferId::new(format!("offer-{number}")).expect("an id");
        let protocol_payload = payload(&format!("meta/model-{number}-instruct"));
        (id, AnnouncedOffer { protocol_payload })
    };
    let offers: BTreeMap<_, _> = (0..offers).map(offer).collect();
    Announcement {
        name: Some(name),
        offers: BTreeMap::from([(protocol, offers)]),
        updated_at: UnixSeconds(updated_at),
        ..Announcement::default()
    }
}

impl Providers {
    /// So many.
    pub fn new(count: usize, offers: usize) -> Self {
        let key = |number: usize| {
            let mut seed = [7; 32];
            seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
            Keypair::ed25519_from_bytes(seed).expect("any 32 bytes are a key")
        };
        let keys: Vec<_> = (0..count).map(key).collect();
        let peers = keys.iter().map(|key| key.public().to_peer_id());
        Self {
            places: peers
                .enumerate()
                .map(|(place, peer)| (peer, place))
                .collect(),
            offers,
            refreshes: (0..count).map(|_| AtomicU32::new(0)).collect(),
            sequence: AtomicU64::new(unix_seconds() * 1000),
            started: unix_seconds(),
            pulled: AtomicU64::new(0),
            current: Mutex::new(()),
            keys,
        }
    }

    /// The id of one.
    pub fn peer(&self, place: usize) -> PeerId {
        self.keys[place].public().to_peer_id()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Providers change at different times: an eleventh of them each refresh.
    fn version(&self, place: usize) -> u32 {
        let refreshes = self.refreshes[place].load(Ordering::Relaxed);
        let offset = u32::try_from(place % 12).expect("small");
        (refreshes + offset) / REFRESHES_PER_CHANGE
    }

    fn list(&self, place: usize) -> Announcement {
        let version = self.version(place);
        let updated_at = self.started + u64::from(version);
        offer_list(
            format!("provider {place}.{version}"),
            self.offers,
            updated_at,
        )
    }

    /// The heartbeat of a provider now, as a gossipsub message.
    pub fn heartbeat(&self, place: usize) -> Vec<u8> {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let heartbeat = Heartbeat {
            provider: Some(self.list(place)),
            timestamp: UnixSeconds(unix_seconds()),
        };
        let data = heartbeat.encode();
        frames::signed_message(&self.keys[place], number, HEARTBEAT_TOPIC, &data)
    }

    /// The next announcement of a provider.
    pub fn announcement(&self, place: usize) -> SignedAnnouncement {
        self.refreshes[place].fetch_add(1, Ordering::Relaxed);
        let list = OfferList::encode(&self.list(place)).expect("a list fits");
        self.sign(place, Some(list.summary))
    }

    /// An announcement of what a provider offers now, with a sequence number of one's choice.
    pub fn announcement_numbered(&self, place: usize, sequence: u64) -> SignedAnnouncement {
        let list = OfferList::encode(&self.list(place)).expect("a list fits");
        self.sign_numbered(place, Some(list.summary), sequence)
    }

    /// The next announcement of a provider that offers nothing: there is no list to pull.
    pub fn without_offers(&self, place: usize) -> SignedAnnouncement {
        self.sign(place, None)
    }

    fn sign(&self, place: usize, list: Option<ListSummary>) -> SignedAnnouncement {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.sign_numbered(place, list, sequence)
    }

    fn sign_numbered(
        &self,
        place: usize,
        list: Option<ListSummary>,
        sequence: u64,
    ) -> SignedAnnouncement {
        let address: derouter_net::Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        let body = AnnouncementBody {
            peer: self.keys[place].public().to_peer_id(),
            sequence,
            issued_at: UnixSeconds(unix_seconds()),
            lasts: LASTS,
            list,
            tags: vec![protocol_tag(&ProtocolId::new("openai:0.1").expect("an id"))],
            addresses: vec![address.to_vec(); 2],
        };
        SignedAnnouncement::sign(body, &self.keys[place]).expect("it fits")
    }

    /// The announcement of a provider as a gossipsub message of its own.
    pub fn announcement_message(&self, place: usize, sharded: bool) -> Vec<u8> {
        let announcement = self.announcement(place);
        let topic = if sharded {
            shard_topic(shard_of(&announcement.body.peer))
        } else {
            ANNOUNCE_TOPIC.to_owned()
        };
        frames::announcements_message(&topic, vec![announcement.encode()])
    }

    /// The list of that hash, if it is the provider's newest.
    pub fn pull(&self, peer: &PeerId, hash: &OfferListHash) -> Option<Vec<u8>> {
        let _one_at_a_time = self.current.lock();
        let place = *self.places.get(peer)?;
        let list = OfferList::encode(&self.list(place)).ok()?;
        self.pulled.fetch_add(1, Ordering::Relaxed);
        (list.summary.hash == *hash).then_some(list.bytes)
    }
}

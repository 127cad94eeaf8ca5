//! Gossipsub frames made by hand, in the name of any provider.

use derouter_net::Keypair;
use derouter_wire::announce::AnnouncementBatch;

/// A gossipsub protocol of wire 0.1.
pub const HEARTBEAT_GOSSIP: &str = "/meshsub/1.1.0";
/// The gossipsub of announcements.
pub const ANNOUNCEMENT_GOSSIP: &str = "/derouter/gossip/0.2.0";

/// What libp2p signs a message as.
const SIGNING_PREFIX: &[u8] = b"libp2p-pubsub:";

fn varint(mut number: u64, into: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            into.push(low);
            return;
        }
        into.push(low | 0x80);
    }
}

/// A protobuf field of bytes.
fn field(tag: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(tag << 3 | 2);
    varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

/// A message that its author signs, as heartbeats are.
pub fn signed_message(author: &Keypair, number: u64, topic: &str, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 256);
    field(1, &author.public().to_peer_id().to_bytes(), &mut message);
    field(2, data, &mut message);
    field(3, &number.to_be_bytes(), &mut message);
    field(4, topic.as_bytes(), &mut message);
    let to_sign = [SIGNING_PREFIX, &message].concat();
    let signature = author.sign(&to_sign).expect("Ed25519 keys sign");
    field(5, &signature, &mut message);
    message
}

/// A message with a batch of announcements, as a node hands them on.
pub fn announcements_message(topic: &str, announcements: Vec<Vec<u8>>) -> Vec<u8> {
    let salt = rand::random();
    let batch = AnnouncementBatch {
        salt,
        announcements,
    };
    anonymous_message(topic, &batch.encode())
}

/// A message without an author.
pub fn anonymous_message(topic: &str, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 64);
    field(2, data, &mut message);
    field(4, topic.as_bytes(), &mut message);
    message
}

/// One frame that subscribes to a topic and joins the mesh of the node that it is sent to.
pub fn joining(topic: &str) -> Vec<u8> {
    let topic = topic.as_bytes();
    let mut subscription = vec![1 << 3, 1];
    field(2, topic, &mut subscription);
    let mut graft = Vec::new();
    field(1, topic, &mut graft);
    let mut control = Vec::new();
    field(3, &graft, &mut control);
    let mut rpc = Vec::new();
    field(1, &subscription, &mut rpc);
    field(3, &control, &mut rpc);
    framed(&rpc)
}

/// One frame with these messages.
pub fn frame(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut rpc = Vec::new();
    for message in messages {
        field(2, message, &mut rpc);
    }
    framed(&rpc)
}

fn framed(rpc: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(rpc.len() + 4);
    varint(rpc.len() as u64, &mut framed);
    framed.extend_from_slice(rpc);
    framed
}

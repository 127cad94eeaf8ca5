//! Keys of provider records in Kademlia (0.2): SHA-256 over a domain and what is looked for.

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

use crate::ProtocolId;

/// Of every key.
pub const KEY_BYTES: usize = 32;

const PROTOCOL_DOMAIN: &[u8] = b"derouter/protocol/0.2\0";
const PEER_DOMAIN: &[u8] = b"derouter/peer/0.2\0";

/// Where nodes that provide offers of a protocol are found.
pub fn protocol_key(protocol: &ProtocolId) -> [u8; KEY_BYTES] {
    key(PROTOCOL_DOMAIN, protocol.as_str().as_bytes())
}

/// Where the addresses of a node are found that answers no Kademlia queries itself.
pub fn peer_key(peer: &PeerId) -> [u8; KEY_BYTES] {
    key(PEER_DOMAIN, &peer.to_bytes())
}

fn key(domain: &[u8], what: &[u8]) -> [u8; KEY_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(domain);
    hasher.update(what);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_always_were() {
        let protocol = ProtocolId::new("openai:0.1").unwrap();
        assert_eq!(
            hex::encode(protocol_key(&protocol)),
            "a08668865cfb29b5f70c201e2fd1d3ba65b9bb91caf42afbd87beeeb3e64c38a"
        );
        let peer: PeerId = "12D3KooWCskXgnqaFnvrUoEmbgiHbWMntzcncHTZEquvHaHpaEFi"
            .parse()
            .unwrap();
        assert_eq!(
            hex::encode(peer_key(&peer)),
            "46dbfe337998c02d2f4cebff0c90f44307984ec4a545da6334b6e1946c47cc84"
        );
    }
}

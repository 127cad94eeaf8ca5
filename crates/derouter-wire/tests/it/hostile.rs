use derouter_wire::announce::{ListSummary, OfferList, OfferListHash, SignedAnnouncement};
use derouter_wire::discovery::{DiscoveryRequest, Fetched, PulledList, Reconciled};
use derouter_wire::gossip::Heartbeat;
use derouter_wire::jobs::{JobAnswer, JobCall};
use derouter_wire::reqres::{Request, Response};
use derouter_wire::rpc::Frame;
use derouter_wire::stream::{HeadRequest, HeadResponse, frame_length, head_length};
use derouter_wire::{cbor, limits};
use proptest::prelude::*;

/// Feeds bytes to every decoder; none may panic, whatever it says.
fn decode_everything(bytes: &[u8]) {
    let _ = Heartbeat::decode(bytes);
    let _ = Request::decode(bytes);
    let _ = Response::decode(bytes);
    let _ = JobCall::decode(bytes);
    let _ = JobAnswer::decode(bytes);
    let _ = HeadRequest::decode(bytes);
    let _ = HeadResponse::decode(bytes);
    let _ = Frame::decode(bytes);
    let _ = SignedAnnouncement::decode(bytes).map(|announcement| announcement.verify());
    let _ = DiscoveryRequest::decode(bytes);
    let _ = PulledList::decode(bytes);
    let _ = Reconciled::decode(bytes);
    let _ = Fetched::decode(bytes);
    let summary = ListSummary {
        hash: OfferListHash::of(bytes),
        bytes: u32::try_from(bytes.len()).unwrap(),
        offers: 1,
    };
    let _ = OfferList::decode(bytes, &summary);
}

#[test]
fn lengths_over_the_cap_are_refused_before_memory_is_taken() {
    assert!(head_length(0xFFFF_FFF0_u32.to_be_bytes()).is_err());
    assert!(frame_length(0xFFFF_FFF0_u32.to_be_bytes(), limits::RPC_FRAME_BYTES).is_err());
    assert_eq!(frame_length(8_u32.to_be_bytes(), 8), Ok(8));
}

#[test]
fn deep_nesting_is_an_error_not_a_stack_overflow() {
    for opening in [0x81, 0x9f, 0xa1, 0xbf, 0xc6, 0xd8] {
        decode_everything(&vec![opening; 1_000_000]);
    }
    let mut keyed = Vec::new();
    for _ in 0..100_000 {
        keyed.extend([0xa1, 0x61, b'a']);
    }
    decode_everything(&keyed);
}

#[test]
fn claimed_lengths_cost_nothing() {
    for head in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
        let mut bytes = vec![head];
        bytes.extend(u64::MAX.to_be_bytes());
        decode_everything(&bytes);
        bytes.splice(1..9, (u64::MAX / 2).to_be_bytes());
        decode_everything(&bytes);
    }
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut bytes = Heartbeat {
        provider: None,
        timestamp: derouter_wire::UnixSeconds(1),
    }
    .encode();
    assert!(Heartbeat::decode(&bytes).is_ok());
    bytes.push(0);
    assert!(Heartbeat::decode(&bytes).is_err());
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        decode_everything(&bytes);
    }

    #[test]
    fn damaged_frames_never_panic(position in 0_usize..400, value in any::<u8>(), cut in 0_usize..400) {
        for section in ["rpc_frames", "reqres_requests", "reqres_responses", "stream_heads", "gossip"] {
            for entry in crate::vectors(crate::WIRE, section) {
                let mut bytes = crate::hex_of(&entry, "cbor_hex");
                if let Some(byte) = bytes.get_mut(position) {
                    *byte = value;
                }
                decode_everything(&bytes);
                bytes.truncate(cut);
                decode_everything(&bytes);
            }
        }
    }

    #[test]
    fn texts_and_bytes_survive_a_round_trip(text in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let int_array = cbor::IntArray(bytes);
        prop_assert_eq!(&cbor::from_slice::<cbor::IntArray>(&cbor::to_vec(&int_array)).unwrap(), &int_array);
        prop_assert_eq!(cbor::from_slice::<String>(&cbor::to_vec(&text)).unwrap(), text);
    }
}

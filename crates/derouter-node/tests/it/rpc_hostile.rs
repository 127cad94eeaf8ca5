//! Modules that are odd, broken, slow or hostile, as bytes.

use std::time::Duration;

use derouter_sdk::wire::rpc::request::*;
use derouter_sdk::wire::rpc::{Call, Frame, FrameKind, encode_frame};
use derouter_sdk::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rpc_raw::*;
use crate::rpc_support::*;

#[derive(serde::Deserialize)]
struct Refusal {
    tag: String,
    content: String,
}

#[tokio::test]
async fn frames_are_read_byte_by_byte_and_joined() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    let frame = encode_frame(FrameKind::Request, 3, QuerySystem::TYPE, &NULL);
    for byte in &frame {
        raw.write(std::slice::from_ref(byte)).await;
    }
    let QuerySystemReply::Ok { peer_id } = raw.response(3, QuerySystem::TYPE).await;
    assert_eq!(peer_id, peer());
    let mut joined = Vec::new();
    for id in 0..100 {
        joined.extend(encode_frame(
            FrameKind::Request,
            id,
            QuerySystem::TYPE,
            &NULL,
        ));
    }
    raw.write(&joined).await;
    let mut answered = Vec::new();
    for _ in 0..100 {
        let body = raw.read().await;
        answered.push(Frame::decode(&body).unwrap().id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..100).collect::<Vec<u32>>());
}

#[tokio::test]
async fn an_unknown_request_gets_an_error_and_harms_nothing() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    raw.request(9, "MakeCoffee", &NULL).await;
    let refusal: Refusal = raw.response(9, "MakeCoffee").await;
    assert_eq!(refusal.tag, "UnknownRequest");
    assert!(refusal.content.contains("MakeCoffee"));
    raw.is_alive().await;
}

#[tokio::test]
async fn bad_data_gets_an_error_and_harms_nothing() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    for name in [
        QueryJobs::TYPE,
        CancelSubscription::TYPE,
        ProviderProvide::TYPE,
        ProviderCompleteJob::TYPE,
        ConsumerCreateJob::TYPE,
        ConsumerOpenJobConnection::TYPE,
        ConsumerGetJob::TYPE,
        ConsumerCompleteJob::TYPE,
        FailJob::TYPE,
    ] {
        raw.request(4, name, &"nonsense").await;
        let refusal: Refusal = raw.response(4, name).await;
        assert_eq!(refusal.tag, "BadRequest", "{name}");
    }
    raw.is_alive().await;
}

#[tokio::test]
async fn wrong_values_get_the_errors_that_0_1_has_for_them() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    let nobody = serde_map(&[("provider_peer_ids", vec!["nobody"])]);
    for name in [
        QueryActiveOffers::TYPE,
        SubscribeToActiveOffers::TYPE,
        SubscribeToJobs::TYPE,
    ] {
        raw.request(5, name, &nobody).await;
        let refusal: Refusal = raw.response(5, name).await;
        assert_eq!(
            (refusal.tag.as_str(), refusal.content.as_str()),
            ("InvalidPeerId", "nobody")
        );
    }
    let cancel = CancelSubscription {
        subscription_id: wire::SubscriptionId(9),
    };
    raw.request(6, CancelSubscription::TYPE, &cancel).await;
    let reply: CancelSubscriptionReply = raw.response(6, CancelSubscription::TYPE).await;
    assert_eq!(reply, CancelSubscriptionReply::InvalidSubscriptionId);
    let mut complete = ProviderCompleteJob {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
        balance_delta: Some("-1".into()),
        public_payload: String::new(),
        private_payload: None,
    };
    raw.request(7, ProviderCompleteJob::TYPE, &complete).await;
    let reply: ProviderCompleteJobReply = raw.response(7, ProviderCompleteJob::TYPE).await;
    assert_eq!(reply, ProviderCompleteJobReply::InvalidBalanceDelta);
    complete.provider_job_id = String::new();
    raw.request(8, ProviderCompleteJob::TYPE, &complete).await;
    let reply: ProviderCompleteJobReply = raw.response(8, ProviderCompleteJob::TYPE).await;
    assert_eq!(reply, ProviderCompleteJobReply::InvalidJobId);
    raw.is_alive().await;
}

fn serde_map<T: Clone>(
    entries: &[(&'static str, T)],
) -> std::collections::BTreeMap<&'static str, T> {
    entries.iter().cloned().collect()
}

#[tokio::test]
async fn responses_that_nobody_waits_for_are_ignored() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    for id in [0, 1, u32::MAX] {
        let frame = encode_frame(FrameKind::Response, id, "Ack", &NULL);
        raw.write(&frame).await;
    }
    raw.is_alive().await;
}

#[tokio::test]
async fn a_broken_frame_closes_its_connection_and_no_other() {
    let served = serve().await;
    let mut other = Raw::connect(&served).await;
    let mut nested = vec![0, 0, 0x10, 0];
    nested.extend([0x81; 4096]);
    for garbage in [
        b"\xff\xff\xff\xf0\xa0".to_vec(),
        b"\0\0\0\x04\xde\xad\xbe\xef".to_vec(),
        b"\0\0\0\x01\xa0".to_vec(),
        nested,
    ] {
        let mut raw = Raw::connect(&served).await;
        raw.write(&garbage).await;
        soon(raw.closed.cancelled()).await;
        other.is_alive().await;
    }
    // Not even yamux.
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = soon(socket.read_to_end(&mut rest)).await;
    other.is_alive().await;
}

#[tokio::test]
async fn streams_that_claim_nothing_are_reset_alone() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    // yamux tells of a stream with its first bytes, and the first one carries the frames.
    raw.is_alive().await;
    let mut stranger = raw.mux.open().await.unwrap();
    stranger.write_all(&12_345_u64.to_be_bytes()).await.unwrap();
    let reset = soon(stranger.read_u8()).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    raw.is_alive().await;
}

#[tokio::test]
async fn thousands_of_streams_of_one_connection_may_stay_open() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    raw.is_alive().await;
    let mut open = Vec::new();
    // More than yamux allows unacknowledged.
    for _ in 0..4000 {
        let mut stream = soon(raw.mux.open()).await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        open.push(stream);
    }
    raw.is_alive().await;
}

#[tokio::test]
async fn a_thousand_idle_connections_disturb_nobody() {
    let served = serve().await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(soon(TcpStream::connect(served.address)).await.unwrap());
    }
    let module = served.module();
    soon(module.peer_id()).await.unwrap();
    let mut raw = Raw::connect(&served).await;
    raw.is_alive().await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let served = serve().await;
    let mut idle = Vec::new();
    for _ in 0..derouter_node::rpc::MAX_CONNECTIONS {
        idle.push(soon(TcpStream::connect(served.address)).await.unwrap());
    }
    let mut refused = soon(TcpStream::connect(served.address)).await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(refused.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    drop(idle);
    let module = served.module();
    let admitted = async {
        while module.peer_id().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(admitted).await;
}

#[tokio::test]
async fn a_module_that_stops_reading_slows_no_other() {
    let served = serve().await;
    let mut stuck = Raw::connect(&served).await;
    stuck.request(0, SubscribeToActiveOffers::TYPE, &NULL).await;
    let _: FilteredReply<Subscribed> = stuck.response(0, SubscribeToActiveOffers::TYPE).await;
    // It floods with requests too, and reads no answer.
    for id in 1..2000 {
        stuck.request(id, QuerySystem::TYPE, &NULL).await;
    }
    // Its events fill every queue on the way; the node's own feeder skips then.
    let mut large = offer(other_peer(), "b", 1);
    large.protocol_payload = "x".repeat(32 * 1024);
    let event = OfferEvent::Updated(large);
    let filled = async {
        let mut refused = 0;
        while refused < 50 {
            if served.node.try_tell_offer(&event) {
                refused = 0;
                tokio::task::yield_now().await;
            } else {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    soon(filled).await;
    let module = served.module();
    for _ in 0..100 {
        soon(module.peer_id()).await.unwrap();
        soon(module.active_providers()).await.unwrap();
    }
    // It reads again, and everything that was queued arrives.
    let mut events = 0;
    while events < 100 {
        let body = stuck.read().await;
        let frame = Frame::decode(&body).unwrap();
        events += u32::from(frame.kind == FrameKind::Request);
    }
}

#[tokio::test]
async fn a_provider_comes_before_its_offer_in_the_events_of_a_connection() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    raw.request(0, SubscribeToActiveOffers::TYPE, &NULL).await;
    let _: FilteredReply<Subscribed> = raw.response(0, SubscribeToActiveOffers::TYPE).await;
    raw.request(1, SubscribeToActiveProviders::TYPE, &NULL)
        .await;
    let subscribed: FilteredReply<Subscribed> =
        raw.response(1, SubscribeToActiveProviders::TYPE).await;
    let expected = Subscribed::Legacy(wire::SubscriptionId(1));
    assert_eq!(subscribed, FilteredReply::Ok(expected));
    served.node.set_providers(vec![record(other_peer(), 5)]);
    served
        .node
        .tell_offer(OfferEvent::Updated(offer(other_peer(), "a", 1)))
        .await;
    served
        .node
        .tell_provider(ProviderEvent::Updated(record(other_peer(), 5)))
        .await;
    served
        .node
        .tell_offer(OfferEvent::Updated(offer(other_peer(), "b", 2)))
        .await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let body = raw.read().await;
        let frame = Frame::decode(&body).unwrap();
        assert!(!body.contains(&0xf6), "null in a frame for a module");
        names.push(frame.type_name.to_string());
    }
    assert_eq!(
        names,
        [
            "EventProviderUpdated",
            "EventOfferUpdated",
            "EventOfferUpdated"
        ]
    );
}

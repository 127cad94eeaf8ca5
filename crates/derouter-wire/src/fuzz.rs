//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.
//! A decoder may refuse anything and must not panic. What it takes means the same when it is
//! written and read again.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::announce::{
    AnnouncementBatch, ListSummary, OfferList, OfferListHash, SignedAnnouncement,
};
use crate::cbor;
use crate::discovery::{DiscoveryRequest, Fetched, PulledList, Reconciled};
use crate::gossip::{Heartbeat, heartbeat_message_id};
use crate::jobs::{JobAnswer, JobCall};
use crate::limits::{
    ANNOUNCEMENT_BYTES, BATCH_ANNOUNCEMENTS, DISCOVERY_REQUEST_BYTES, OFFER_LIST_BYTES,
};
use crate::reqres::{Request, Response};
use crate::rpc::event::*;
use crate::rpc::hello::Hello;
use crate::rpc::list::{ListJobs, ListOffers, ListPeers, ListProviders};
use crate::rpc::module::QueryModules;
use crate::rpc::request::*;
use crate::rpc::{Call, Frame, FrameKind, encode_frame};
use crate::stream::{HeadRequest, HeadResponse, head_length};

/// A fuzz target: its name, and what it runs on an input.
pub type Target = (&'static str, fn(&[u8]));

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[
    ("wire_heartbeat", heartbeat),
    ("wire_announcement", announcement),
    ("wire_offer_list", offer_list),
    ("wire_reqres", reqres),
    ("wire_stream_head", stream_head),
    ("wire_jobs", jobs),
    ("wire_discovery", discovery),
    ("wire_rpc_frame", rpc_frame),
];

/// What was read is written and read again, and is the same then.
fn stays<T: Serialize + DeserializeOwned>(value: &T) {
    let written = cbor::to_vec(value);
    let again = cbor::from_slice::<T>(&written);
    assert!(again.is_ok(), "{:?}", again.err());
    if let Ok(again) = again {
        assert_eq!(cbor::to_vec(&again), written);
    }
}

/// Gossip of 0.1.
pub fn heartbeat(data: &[u8]) {
    let Ok(read) = Heartbeat::decode(data) else {
        return;
    };
    stays(&read);
    assert!(!heartbeat_message_id(data).is_empty());
}

/// Gossip of 0.2: an announcement, and a batch of them.
pub fn announcement(data: &[u8]) {
    if let Ok(batch) = AnnouncementBatch::decode(data) {
        assert!(batch.announcements.len() <= BATCH_ANNOUNCEMENTS);
        let again = AnnouncementBatch::decode(&batch.clone().encode());
        assert_eq!(again, Ok(batch));
    }
    let Ok(read) = SignedAnnouncement::decode(data) else {
        return;
    };
    assert!(data.len() <= ANNOUNCEMENT_BYTES);
    let _ = (read.verify(), read.id());
    let again = SignedAnnouncement::decode(&read.encode());
    // A wasteful spelling may come out shorter, never longer.
    assert_eq!(again.as_ref(), Ok(&read));
}

/// An offer list of 0.2, as if it had been announced as it is. The first two bytes say how many
/// offers that would be.
pub fn offer_list(data: &[u8]) {
    let Some((offers, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let summary = ListSummary {
        hash: OfferListHash::of(bytes),
        bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        offers: u16::from_be_bytes(*offers).into(),
    };
    let Ok(list) = OfferList::decode(bytes, &summary) else {
        return;
    };
    assert!(bytes.len() <= OFFER_LIST_BYTES);
    stays(&list);
    if let Ok(encoded) = OfferList::encode(&list) {
        let again = OfferList::decode(&encoded.bytes, &encoded.summary);
        assert_eq!(again.as_ref(), Ok(&list));
    }
}

/// Request-response of 0.1.
pub fn reqres(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
    }
    if let Ok(response) = Response::decode(data) {
        assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(&response));
    }
}

/// The heads of a job stream, with their lengths.
pub fn stream_head(data: &[u8]) {
    let Some((prefix, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let length = head_length(*prefix).unwrap_or(rest.len());
    let body = rest.get(..length).unwrap_or(rest);
    if let Ok(request) = HeadRequest::decode(body) {
        let frame = request.encode();
        let again = frame.get(4..).map(HeadRequest::decode);
        assert_eq!(again, Some(Ok(request)));
    }
    if let Ok(response) = HeadResponse::decode(body) {
        let frame = response.encode();
        let again = frame.get(4..).map(HeadResponse::decode);
        assert_eq!(again, Some(Ok(response)));
    }
}

/// The calls and answers of the jobs protocol (0.2).
pub fn jobs(data: &[u8]) {
    if let Ok(call) = JobCall::decode(data) {
        let frame = call.encode();
        let again = frame.get(4..).map(JobCall::decode);
        assert_eq!(again, Some(Ok(call)));
    }
    if let Ok(answer) = JobAnswer::decode(data) {
        let frame = answer.encode();
        let again = frame.get(4..).map(JobAnswer::decode);
        assert_eq!(again, Some(Ok(answer)));
    }
}

/// The messages of the discovery protocol.
pub fn discovery(data: &[u8]) {
    if let Ok(request) = DiscoveryRequest::decode(data) {
        assert!(data.len() <= DISCOVERY_REQUEST_BYTES);
        let frame = request.to_frame();
        let again = frame.get(4..).map(DiscoveryRequest::decode);
        assert_eq!(again, Some(Ok(request)));
    }
    if let Ok(pulled) = PulledList::decode(data) {
        stays(&pulled);
    }
    if let Ok(reconciled) = Reconciled::decode(data) {
        stays(&reconciled);
    }
    if let Ok(fetched) = Fetched::decode(data) {
        stays(&fetched);
    }
}

/// A frame of the RPC, in either direction, and what its type says that it holds.
pub fn rpc_frame(data: &[u8]) {
    let Ok(frame) = Frame::decode(data) else {
        return;
    };
    macro_rules! calls {
        ($($call:ty),* $(,)?) => { $(call::<$call>(&frame);)* };
    }
    calls!(
        QuerySystem,
        QueryActiveOffers,
        QueryActiveProviders,
        QueryOfferSnapshots,
        QueryProviders,
        QueryJobs,
        SubscribeToActiveOffers,
        SubscribeToActiveProviders,
        SubscribeToJobs,
        SubscribeToNodeState,
        CancelSubscription,
        ProviderProvide,
        ProviderWithdraw,
        ProviderCompleteJob,
        ConsumerCreateJob,
        ConsumerOpenJobConnection,
        ConsumerGetJob,
        ConsumerCompleteJob,
        FailJob,
        QueryNetwork,
        QueryPeers,
        PingPeer,
        QueryModules,
        Hello,
        ListOffers,
        ListProviders,
        ListJobs,
        ListPeers,
        EventReset,
        EventReady,
        EventOfferUpdated,
        EventOfferRemoved,
        EventProviderUpdated,
        EventProviderHeartbeat,
        EventJobUpdated,
        EventNodeState,
        ProviderCreateJob,
        ProviderPrepareJobConnection,
        ProviderOpenJobConnection,
    );
}

fn call<C: Call>(frame: &Frame<'_>) {
    if frame.type_name != C::TYPE {
        return;
    }
    match frame.kind {
        FrameKind::Request => carries::<C>(frame),
        FrameKind::Response => carries::<C::Reply>(frame),
        // It carries nothing.
        FrameKind::Cancel => {}
    }
}

fn carries<T: Serialize + DeserializeOwned>(frame: &Frame<'_>) {
    let Ok(content) = cbor::from_slice::<T>(frame.data) else {
        return;
    };
    stays(&content);
    let written = encode_frame(frame.kind, frame.id, &frame.type_name, &content);
    let body = written.get(4..).unwrap_or_default();
    let again = Frame::decode(body);
    assert!(again.is_ok(), "{:?}", again.err());
    if let Ok(again) = again {
        assert_eq!(again.kind, frame.kind);
        assert_eq!(again.id, frame.id);
        assert_eq!(again.type_name, frame.type_name);
    }
}

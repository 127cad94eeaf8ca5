use derouter_wire::cbor::{self, PeerIdArg};
use derouter_wire::rpc::event::{
    PrepareJobConnectionReply, ProviderCreateJob, ProviderCreateJobReply,
    ProviderPrepareJobConnection,
};
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::{Ack, Call, Frame, FrameKind};
use derouter_wire::{
    Currency, OfferId, ProtocolId, RowId, SnapshotId, SubscriptionId, UnixSeconds,
};
use serde_json::Value;

use crate::{MODULES, hex_of, name_of, vectors};

fn bytes_of(name: &str) -> (Value, Vec<u8>) {
    let all = vectors(MODULES, "rpc_frames");
    let entry = all
        .into_iter()
        .find(|entry| name_of(entry) == name)
        .unwrap();
    let bytes = hex_of(&entry, "cbor_hex");
    (entry, bytes)
}

/// Decodes a module's request, and checks that our encoding of it decodes to the same.
fn request<T: Call + PartialEq + std::fmt::Debug>(name: &str) -> T {
    let (entry, bytes) = bytes_of(name);
    let frame = Frame::decode(&bytes).unwrap();
    assert_eq!(frame.kind, FrameKind::Request);
    assert_eq!(frame.type_name, T::TYPE, "{name}");
    assert_eq!(u64::from(frame.id), entry["json"]["id"].as_u64().unwrap());
    let decoded: T = cbor::from_slice(frame.data).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(
        cbor::from_slice::<T>(&cbor::to_vec(&decoded)).unwrap(),
        decoded
    );
    decoded
}

fn reply<T: serde::de::DeserializeOwned>(name: &str, type_name: &str) -> T {
    let (_, bytes) = bytes_of(name);
    let frame = Frame::decode(&bytes).unwrap();
    assert_eq!(
        (frame.kind, frame.type_name.as_ref()),
        (FrameKind::Response, type_name)
    );
    cbor::from_slice(frame.data).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn provider() -> PeerIdArg {
    let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
    text.parse::<derouter_wire::PeerId>().unwrap().into()
}

fn consumer() -> PeerIdArg {
    let text = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    text.parse::<derouter_wire::PeerId>().unwrap().into()
}

#[test]
fn queries_of_modules_decode() {
    request::<QuerySystem>("query_system");
    request::<QueryActiveProviders>("query_active_providers");
    let protocols = Some(vec!["openai:0.1".to_owned()]);
    let filtered: QueryActiveOffers = request("query_active_offers.filtered");
    assert_eq!(
        (filtered.protocol_ids, filtered.provider_peer_ids),
        (protocols, None)
    );
    let providers: QueryActiveOffers = request("query_active_offers.providers");
    assert_eq!(providers.provider_peer_ids, Some(vec![provider()]));
    let snapshots: QueryOfferSnapshots = request("query_offer_snapshots");
    assert_eq!(
        snapshots.snapshot_ids,
        [SnapshotId(1), SnapshotId(2), SnapshotId(300)]
    );
    let providers: QueryProviders = request("query_providers");
    assert_eq!(providers.provider_peer_ids, [provider()]);
    let jobs: QueryJobs = request("query_jobs");
    assert_eq!(
        (jobs.database_row_id_cursor, jobs.limit),
        (Some(RowId(70_000)), 100)
    );
    assert_eq!(jobs.consumer_peer_ids, Some(vec![consumer()]));
    let jobs: QueryJobs = request("query_jobs.undefined_cursor");
    assert_eq!((jobs.database_row_id_cursor, jobs.limit), (None, 1));
}

#[test]
fn subscriptions_of_modules_decode() {
    let offers: SubscribeToActiveOffers = request("subscribe_active_offers");
    assert_eq!(offers.provider_peer_ids, Some(vec![provider()]));
    assert_eq!(offers.protocol_ids, Some(vec!["openai:0.1".to_owned()]));
    request::<SubscribeToActiveProviders>("subscribe_active_providers");
    let jobs: SubscribeToJobs = request("subscribe_jobs");
    assert_eq!(jobs.consumer_peer_ids, Some(vec![consumer()]));
    let cancel: CancelSubscription = request("cancel_subscription");
    assert_eq!(cancel.subscription_id, SubscriptionId(0));
}

#[test]
fn job_requests_of_modules_decode() {
    let provide: ProviderProvide = request("provider_provide");
    assert_eq!(provide.protocol_id, ProtocolId::new("openai:0.1").unwrap());
    assert_eq!(provide.offer_id, OfferId::new("offer-a").unwrap());
    assert_eq!(
        (provide.protocol_payload.as_str(), provide.max_unsigned),
        ("{}", None)
    );
    let complete: ProviderCompleteJob = request("provider_complete_job");
    assert_eq!(complete.balance_delta.as_deref(), Some("600000000000000"));
    assert_eq!(complete.private_payload.as_deref(), Some("{}"));
    let free: ProviderCompleteJob = request("provider_complete_job.free");
    assert_eq!((free.balance_delta, free.private_payload), (None, None));
    let create: ConsumerCreateJob = request("consumer_create_job");
    assert_eq!(
        (create.offer_snapshot_id, create.currency),
        (SnapshotId(1), Currency::Pol)
    );
    let open: ConsumerOpenJobConnection = request("consumer_open_job_connection");
    assert_eq!(open.provider_job_id, "j-1");
    let get: ConsumerGetJob = request("consumer_get_job");
    assert_eq!(get.provider_peer_id, provider());
    let complete: ConsumerCompleteJob = request("consumer_complete_job");
    assert_eq!(complete.completed_at_sync, UnixSeconds(1_750_000_005));
    let fail: FailJob = request("fail_job");
    assert_eq!((fail.reason.as_str(), fail.reason_class), ("r", Some(1)));
}

#[test]
fn answers_of_modules_decode() {
    reply::<Ack>("ack", "Ack");
    let create = |name| reply::<ProviderCreateJobReply>(name, ProviderCreateJob::TYPE);
    assert_eq!(create("provider_create_job.ok"), ProviderCreateJobReply::Ok);
    assert_eq!(
        create("provider_create_job.busy"),
        ProviderCreateJobReply::Busy
    );
    let invalid = ProviderCreateJobReply::InvalidJobArgs("Expected args".into());
    assert_eq!(create("provider_create_job.invalid"), invalid);
    let prepare =
        |name| reply::<PrepareJobConnectionReply>(name, ProviderPrepareJobConnection::TYPE);
    let ok = PrepareJobConnectionReply::Ok("0".into());
    assert_eq!(prepare("provider_prepare_job_connection.ok"), ok);
    let not_found = PrepareJobConnectionReply::JobNotFound;
    assert_eq!(
        prepare("provider_prepare_job_connection.not_found"),
        not_found
    );
}

#[test]
fn every_recorded_module_frame_is_tested_above() {
    let source = include_str!("golden_modules.rs");
    for entry in vectors(MODULES, "rpc_frames") {
        let quoted = format!("\"{}\"", name_of(&entry));
        assert!(source.contains(&quoted), "{quoted} has no test");
    }
}

#[test]
fn undefined_null_wide_and_float_values_are_read_alike() {
    // {"limit": 1.0, "database_row_id_cursor": null | undefined | 64-bit 7}
    for (cursor, expected) in [
        (vec![0xf6], None),
        (vec![0xf7], None),
        (vec![0x1b, 0, 0, 0, 0, 0, 0, 0, 7], Some(RowId(7))),
        (vec![0xf9, 0x47, 0x00], Some(RowId(7))),
    ] {
        let mut bytes = vec![0xa2, 0x65];
        bytes.extend(b"limit");
        bytes.extend([0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0x76]);
        bytes.extend(b"database_row_id_cursor");
        bytes.extend(cursor);
        let jobs: QueryJobs = cbor::from_slice(&bytes).unwrap();
        assert_eq!((jobs.limit, jobs.database_row_id_cursor), (1, expected));
    }
}

#[test]
fn peer_ids_are_read_as_bytes_and_as_text() {
    let as_text = cbor::to_vec(&provider().get().unwrap().to_string());
    assert_eq!(cbor::from_slice::<PeerIdArg>(&as_text).unwrap(), provider());
    let as_bytes = cbor::to_vec(&provider());
    assert_eq!(as_bytes[..2], [0x58, 38]);
    assert_eq!(
        cbor::from_slice::<PeerIdArg>(&as_bytes).unwrap(),
        provider()
    );
    let nonsense: PeerIdArg = cbor::from_slice(&cbor::to_vec("nobody")).unwrap();
    assert_eq!(nonsense.get().unwrap_err().0, "nobody");
}

#[test]
fn replies_with_undefined_content_are_read() {
    let mut bytes = vec![0xa2, 0x63];
    bytes.extend(b"tag");
    bytes.push(0x64);
    bytes.extend(b"Busy");
    bytes.push(0x67);
    bytes.extend(b"content");
    bytes.push(0xf7);
    let reply: ProviderCreateJobReply = cbor::from_slice(&bytes).unwrap();
    assert_eq!(reply, ProviderCreateJobReply::Busy);
}

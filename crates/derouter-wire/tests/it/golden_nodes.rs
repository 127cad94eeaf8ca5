use std::collections::BTreeMap;

use derouter_wire::cbor::IntArray;
use derouter_wire::gossip::{AnnouncedOffer, Announcement, Heartbeat, heartbeat_message_id};
use derouter_wire::job::{JobHash, JobOutcome, JobWire, SignatureError};
use derouter_wire::reqres::{ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::rpc::event::{
    Event, EventJobUpdated, EventOfferRemoved, EventOfferUpdated, EventProviderHeartbeat,
    EventProviderUpdated, ProviderCreateJob, ProviderOpenJobConnection,
    ProviderPrepareJobConnection,
};
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::{Frame, FrameKind};
use derouter_wire::stream::{HeadRequest, HeadResponse, JobConnectionResult};
use derouter_wire::{
    ConnectionId, Currency, JobId, JobKey, OfferId, PeerId, ProtocolId, SnapshotId, SubscriptionId,
    UnixSeconds, Wei, cbor,
};
use libp2p_identity::Keypair;
use serde_json::Value;

use crate::{WIRE, hex_of, name_of, vectors};

const PAYLOAD: &str = r#"{"model_id":"mock","context_size":8192,"input_token_price":{"$pol":"10000000000000000000"},"output_token_price":{"$pol":"5000000000000000000"}}"#;
const T0: UnixSeconds = UnixSeconds(1_750_000_000);

fn protocol() -> ProtocolId {
    ProtocolId::new("openai:0.1").unwrap()
}

fn offer() -> OfferId {
    OfferId::new("offer-a").unwrap()
}

fn job() -> JobId {
    JobId::new("j-1").unwrap()
}

fn provider() -> PeerId {
    "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb"
        .parse()
        .unwrap()
}

fn find(section: &str, name: &str) -> Value {
    vectors(WIRE, section)
        .into_iter()
        .find(|entry| name_of(entry) == name)
        .unwrap()
}

#[test]
fn heartbeats_are_byte_exact_both_ways() {
    let announcement = Announcement {
        name: Some("ACME".into()),
        teaser: None,
        description: Some("d".into()),
        offers: BTreeMap::from([(
            protocol(),
            BTreeMap::from([(
                offer(),
                AnnouncedOffer {
                    protocol_payload: PAYLOAD.into(),
                },
            )]),
        )]),
        updated_at: T0,
    };
    let full = Heartbeat {
        provider: Some(announcement),
        timestamp: T0,
    };
    let none = Heartbeat {
        provider: None,
        timestamp: T0,
    };
    for (name, heartbeat) in [("heartbeat.full", full), ("heartbeat.no_provider", none)] {
        let bytes = hex_of(&find("gossip", name), "cbor_hex");
        assert_eq!(
            hex::encode(heartbeat.encode()),
            hex::encode(&bytes),
            "{name}"
        );
        assert_eq!(Heartbeat::decode(&bytes).unwrap(), heartbeat, "{name}");
    }
    assert_eq!(vectors(WIRE, "gossip").len(), 2, "every vector is tested");
}

#[test]
fn gossip_message_ids_are_those_of_0_1() {
    for entry in vectors(WIRE, "gossip_message_ids") {
        let id = heartbeat_message_id(&hex_of(&entry, "data_hex"));
        assert_eq!(id, entry["id"].as_str().unwrap());
    }
}

#[test]
fn requests_between_nodes_are_byte_exact_both_ways() {
    let create = |offer_payload: &str, job_args| Request::CreateJob {
        protocol_id: protocol(),
        offer_id: offer(),
        offer_payload: offer_payload.into(),
        currency: Currency::Pol,
        job_args,
    };
    let expected = [
        ("create_job.args", create(PAYLOAD, Some("{}".into()))),
        ("create_job.no_args", create("p", None)),
        (
            "get_job",
            Request::GetJob {
                provider_job_id: job(),
            },
        ),
        (
            "confirm_job",
            Request::ConfirmJob {
                provider_job_id: job(),
                job_hash: IntArray(vec![1, 2, 255]),
                consumer_public_key: IntArray(vec![8, 1]),
                consumer_signature: IntArray(vec![0, 24]),
            },
        ),
    ];
    assert_eq!(vectors(WIRE, "reqres_requests").len(), expected.len());
    for (name, request) in expected {
        let bytes = hex_of(&find("reqres_requests", name), "cbor_hex");
        assert_eq!(hex::encode(request.encode()), hex::encode(&bytes), "{name}");
        assert_eq!(Request::decode(&bytes).unwrap(), request, "{name}");
    }
}

#[test]
fn responses_between_nodes_are_byte_exact_both_ways() {
    use ConfirmJobResult as Confirm;
    use CreateJobResult as Create;
    let expected = [
        (
            "create_job.ok",
            Response::CreateJob(Create::Ok {
                provider_job_id: job(),
                created_at_sync: T0,
            }),
        ),
        (
            "create_job.offer_not_found",
            Response::CreateJob(Create::OfferNotFound),
        ),
        (
            "create_job.offer_payload_mismatch",
            Response::CreateJob(Create::OfferPayloadMismatch),
        ),
        (
            "create_job.invalid_job_args",
            Response::CreateJob(Create::InvalidJobArgs("bad".into())),
        ),
        ("create_job.busy", Response::CreateJob(Create::Busy)),
        (
            "get_job.ok",
            Response::GetJob(GetJobResult::Ok {
                public_payload: Some("{}".into()),
                balance_delta: Some("600".into()),
                created_at_sync: T0,
                completed_at_sync: Some(UnixSeconds(T0.0 + 1)),
            }),
        ),
        (
            "get_job.not_found",
            Response::GetJob(GetJobResult::JobNotFound),
        ),
        ("confirm_job.ok", Response::ConfirmJob(Confirm::Ok)),
        (
            "confirm_job.job_not_found",
            Response::ConfirmJob(Confirm::JobNotFound),
        ),
        (
            "confirm_job.not_completed_yet",
            Response::ConfirmJob(Confirm::NotCompletedYet),
        ),
        (
            "confirm_job.already_failed",
            Response::ConfirmJob(Confirm::AlreadyFailed),
        ),
        (
            "confirm_job.hash_mismatch",
            Response::ConfirmJob(Confirm::HashMismatch(IntArray(vec![1, 2, 3]))),
        ),
        (
            "confirm_job.invalid_public_key",
            Response::ConfirmJob(Confirm::InvalidPublicKey),
        ),
        (
            "confirm_job.invalid_signature",
            Response::ConfirmJob(Confirm::InvalidSignature),
        ),
        (
            "confirm_job.already_confirmed",
            Response::ConfirmJob(Confirm::AlreadyConfirmed),
        ),
        (
            "confirm_job.unexpected_response",
            Response::ConfirmJob(Confirm::UnexpectedResponse),
        ),
    ];
    assert_eq!(vectors(WIRE, "reqres_responses").len(), expected.len());
    for (name, response) in expected {
        let bytes = hex_of(&find("reqres_responses", name), "cbor_hex");
        assert_eq!(
            hex::encode(response.encode()),
            hex::encode(&bytes),
            "{name}"
        );
        assert_eq!(Response::decode(&bytes).unwrap(), response, "{name}");
    }
}

#[test]
fn stream_heads_are_byte_exact_both_ways() {
    use JobConnectionResult as Answer;
    let request = HeadRequest::JobConnection {
        provider_job_id: job(),
    };
    let bytes = hex_of(
        &find("stream_heads", "head_request.job_connection"),
        "cbor_hex",
    );
    assert_eq!(&request.encode()[4..], &bytes);
    assert_eq!(
        request.encode()[..4],
        u32::try_from(bytes.len()).unwrap().to_be_bytes()
    );
    assert_eq!(HeadRequest::decode(&bytes).unwrap(), request);

    let expected = [
        ("head_response.ok", Answer::Ok),
        ("head_response.job_not_found", Answer::JobNotFound),
        ("head_response.job_expired", Answer::JobExpired),
        ("head_response.busy", Answer::Busy),
        (
            "head_response.another_error",
            Answer::AnotherError("e".into()),
        ),
    ];
    assert_eq!(vectors(WIRE, "stream_heads").len(), expected.len() + 1);
    for (name, answer) in expected {
        let bytes = hex_of(&find("stream_heads", name), "cbor_hex");
        let response = HeadResponse::JobConnection(answer);
        assert_eq!(
            hex::encode(&response.encode()[4..]),
            hex::encode(&bytes),
            "{name}"
        );
        assert_eq!(HeadResponse::decode(&bytes).unwrap(), response, "{name}");
    }
}

fn outcome_of(entry: &Value) -> JobOutcome {
    let text = |key: &str| entry[key].as_str().unwrap();
    JobOutcome {
        wire: JobWire::V0_1,
        key: JobKey {
            provider: text("provider_peer_id").parse().unwrap(),
            job_id: JobId::new(text("provider_job_id")).unwrap(),
        },
        consumer: text("consumer_peer_id").parse().unwrap(),
        protocol_id: ProtocolId::new(text("protocol_id")).unwrap(),
        offer_id: OfferId::new("not covered").unwrap(),
        offer_payload: text("offer_payload").into(),
        currency: Currency::Pol,
        created_at_sync: UnixSeconds(entry["created_at_sync"].as_u64().unwrap()),
        public_payload: text("public_payload").into(),
        completed_at_sync: UnixSeconds(entry["completed_at_sync"].as_u64().unwrap()),
        balance_delta: entry["balance_delta"]
            .as_str()
            .map(|wei| wei.parse::<Wei>().unwrap()),
    }
}

#[test]
fn job_hashes_and_signatures_are_those_of_0_1() {
    let entries = vectors(WIRE, "job_hashes");
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let outcome = outcome_of(&entry);
        let hash = outcome.hash();
        assert_eq!(hex::encode(hash.0), entry["hash_hex"].as_str().unwrap());

        let keypair = Keypair::ed25519_from_bytes(hex_of(&entry, "consumer_secret_hex")).unwrap();
        let public_key = hex_of(&entry, "consumer_public_key_protobuf_hex");
        assert_eq!(keypair.public().encode_protobuf(), public_key);
        let signature = hash.sign(&keypair).unwrap();
        assert_eq!(
            hex::encode(&signature),
            entry["signature_hex"].as_str().unwrap()
        );
        hash.verify(&outcome.consumer, &public_key, &signature)
            .unwrap();
    }
}

#[test]
fn a_key_of_another_peer_or_a_signature_of_another_hash_is_refused() {
    let entry = vectors(WIRE, "job_hashes").remove(0);
    let outcome = outcome_of(&entry);
    let hash = outcome.hash();
    let other = Keypair::generate_ed25519();
    let signature = hash.sign(&other).unwrap();
    let refused = |key: &[u8], signature: &[u8], hash: JobHash| {
        hash.verify(&outcome.consumer, key, signature).unwrap_err()
    };
    let others_key = other.public().encode_protobuf();
    assert_eq!(
        refused(&others_key, &signature, hash),
        SignatureError::InvalidPublicKey
    );
    assert_eq!(
        refused(b"no key", &signature, hash),
        SignatureError::InvalidPublicKey
    );
    let own_key = hex_of(&entry, "consumer_public_key_protobuf_hex");
    let own_signature = hex_of(&entry, "signature_hex");
    assert_eq!(
        refused(&own_key, &signature, hash),
        SignatureError::InvalidSignature
    );
    let mut other_hash = hash;
    other_hash.0[0] ^= 1;
    assert_eq!(
        refused(&own_key, &own_signature, other_hash),
        SignatureError::InvalidSignature
    );
}

#[test]
fn the_keypair_file_is_the_one_of_0_1() {
    let all: Value = serde_json::from_str(WIRE).unwrap();
    let entry = &all["keypair"];
    let keypair = Keypair::from_protobuf_encoding(&hex_of(entry, "keypair_bin_hex")).unwrap();
    let peer = keypair.public().to_peer_id();
    assert_eq!(peer.to_string(), entry["peer_id"].as_str().unwrap());
    assert_eq!(peer.to_bytes(), hex_of(entry, "peer_id_bytes_hex"));
    assert_eq!(
        keypair.to_protobuf_encoding().unwrap(),
        hex_of(entry, "keypair_bin_hex")
    );
}

/// Decodes a node-to-module vector: its frame, and its data as `T`.
fn frame<T: serde::de::DeserializeOwned>(name: &str, kind: FrameKind, type_name: &str) -> T {
    let entry = find("rpc_frames", name);
    let bytes = hex_of(&entry, "cbor_hex");
    let frame = Frame::decode(&bytes).unwrap();
    assert_eq!(
        (frame.kind, frame.type_name.as_ref()),
        (kind, type_name),
        "{name}"
    );
    cbor::from_slice(frame.data).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn request<T: derouter_wire::rpc::Call>(name: &str) -> T {
    frame(name, FrameKind::Request, T::TYPE)
}

fn reply<T: derouter_wire::rpc::Call>(name: &str) -> T::Reply {
    frame(name, FrameKind::Response, T::TYPE)
}

#[test]
fn events_of_a_0_1_node_decode() {
    let EventOfferUpdated(Event {
        subscription_id,
        payload,
        cursor: None,
    }) = request("event_offer_updated")
    else {
        panic!("a cursor of a 0.1 node");
    };
    assert_eq!(subscription_id, SubscriptionId(0));
    assert_eq!(payload.snapshot_id, SnapshotId(2));
    assert!(payload.active);
    assert_eq!(
        (payload.provider_peer_id, payload.offer_id),
        (provider(), offer())
    );
    assert_eq!(payload.protocol_payload, PAYLOAD);

    let EventOfferRemoved(event) = request("event_offer_removed");
    assert_eq!(
        (event.payload.snapshot_id, event.payload.protocol_id),
        (SnapshotId(2), protocol())
    );

    let EventProviderHeartbeat(event) = request("event_provider_heartbeat");
    assert_eq!(
        (event.payload.peer_id, event.payload.latest_heartbeat_at),
        (provider(), T0)
    );

    let EventProviderUpdated(event) = request("event_provider_updated");
    assert_eq!(event.payload.name.as_deref(), Some("ACME"));
    assert_eq!(event.payload.teaser.as_deref(), Some("t"));

    let EventJobUpdated(event) = request("event_job_updated");
    assert_eq!(event.payload.provider_job_id, job());
    assert_eq!(event.payload.balance_delta.as_deref(), Some("600"));
    assert_eq!(event.payload.reason, None);
    assert_eq!(event.payload.completed_at_sync, None);
}

#[test]
fn jobs_for_modules_of_a_0_1_node_decode() {
    let create: ProviderCreateJob = request("provider_create_job");
    assert_eq!(
        (create.provider_job_id, create.job_args),
        (job(), Some("{}".into()))
    );
    let prepare: ProviderPrepareJobConnection = request("provider_prepare_job_connection");
    assert_eq!(prepare.provider_job_id, job());
    let open: ProviderOpenJobConnection = request("provider_open_job_connection");
    assert_eq!(
        (open.connection_id, open.nonce.as_str()),
        (ConnectionId(3).into(), "0")
    );
}

#[test]
fn answers_of_a_0_1_node_decode() {
    let QuerySystemReply::Ok { peer_id } = reply::<QuerySystem>("query_system.ok");
    assert_eq!(peer_id, provider());
    let offers = reply::<QueryActiveOffers>("query_active_offers.ok");
    assert!(matches!(offers, FilteredReply::Ok(list) if list.len() == 1));
    let PeersReply::Ok(peers) = reply::<QueryActiveProviders>("query_active_providers.ok");
    assert_eq!(peers[0].get().unwrap(), provider());
    let created = reply::<ConsumerCreateJob>("consumer_create_job.ok");
    let expected = CreateJobReply::Ok {
        provider_peer_id: provider(),
        provider_job_id: job(),
    };
    assert_eq!(created, expected);
    let busy = reply::<ConsumerCreateJob>("consumer_create_job.provider_busy");
    assert_eq!(busy, CreateJobReply::ProviderBusy);
    let invalid = reply::<ConsumerCreateJob>("consumer_create_job.invalid_job_args");
    assert_eq!(invalid, CreateJobReply::InvalidJobArgs("bad".into()));
    let opened = reply::<ConsumerOpenJobConnection>("consumer_open_job_connection.ok");
    assert_eq!(
        opened,
        OpenJobConnectionReply::Ok {
            connection_id: ConnectionId(1).into()
        }
    );
    let failed = reply::<ConsumerCompleteJob>("consumer_complete_job.already_failed");
    let reason = FailureReason {
        reason: "r".into(),
        reason_class: Some(1),
    };
    assert_eq!(failed, ConsumerCompleteJobReply::AlreadyFailed(reason));
    let duplicate = reply::<ProviderProvide>("provider_provide.duplicate");
    let expected = ProvideReply::DuplicateOffer {
        protocol_id: protocol(),
        offer_id: offer(),
    };
    assert_eq!(duplicate, expected);
    let completed = reply::<ProviderCompleteJob>("provider_complete_job.ok");
    let at = UnixSeconds(T0.0 + 5);
    assert_eq!(
        completed,
        ProviderCompleteJobReply::Ok {
            completed_at_sync: at
        }
    );
    assert_eq!(
        reply::<FailJob>("fail_job.job_not_found"),
        FailJobReply::InvalidJobId
    );
    let subscribed = reply::<SubscribeToJobs>("subscribe_to_jobs.ok");
    assert_eq!(
        subscribed,
        FilteredReply::Ok(Subscribed::Legacy(SubscriptionId(2)))
    );
    let cancelled = reply::<CancelSubscription>("cancel_subscription.invalid");
    assert_eq!(cancelled, CancelSubscriptionReply::InvalidSubscriptionId);
}

#[test]
fn what_a_0_1_node_got_wrong_is_read_too() {
    // Without the text that modules expect.
    let limit = reply::<QueryJobs>("query_jobs.invalid_limit");
    assert_eq!(limit, QueryJobsReply::InvalidLimit(None));
    // Externally tagged, with nulls.
    let job = reply::<ConsumerGetJob>("consumer_get_job.ok_as_0_1_sends_it");
    let expected = GetJobReply::Ok {
        public_payload: None,
        balance_delta: None,
        created_at_sync: T0,
        completed_at_sync: None,
    };
    assert_eq!(job, expected);
}

#[test]
fn every_recorded_rpc_frame_is_tested_above() {
    let source = include_str!("golden_nodes.rs");
    for entry in vectors(WIRE, "rpc_frames") {
        let quoted = format!("\"{}\"", name_of(&entry));
        assert!(source.contains(&quoted), "{quoted} has no test");
    }
}

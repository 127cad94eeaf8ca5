//! docs/rpc.cddl against real frames: recorded ones of 0.1.0, and ours of every type.

use cddl_cat::context::BasicContext;
use cddl_cat::flatten::flatten_from_str;
use cddl_cat::validate_cbor_bytes;
use derouter_wire::cbor;
use derouter_wire::rpc::cursor::Cursor;
use derouter_wire::rpc::error::{ErrorCode, encode_error, from_tagged};
use derouter_wire::rpc::event::*;
use derouter_wire::rpc::hello::*;
use derouter_wire::rpc::list::*;
use derouter_wire::rpc::module::*;
use derouter_wire::rpc::record::*;
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::ticket::Ticket;
use derouter_wire::rpc::{
    Ack, Call, FrameKind, encode_cancel, encode_frame, encode_request, encode_response,
};
use derouter_wire::*;

use crate::{MODULES, WIRE, hex_of, name_of, vectors};

const CDDL: &str = include_str!("../../../../docs/rpc.cddl");

/// Whether a frame's body is what a rule says.
fn holds(rule: &str, body: &[u8]) -> Result<(), String> {
    validate_cbor_bytes(rule, CDDL, body).map_err(|error| format!("{rule}: {error:?}"))
}

fn check(rule: &str, frame: &[u8], what: &str) {
    let (length, body) = frame.split_at(4);
    assert_eq!(
        u32::from_be_bytes(length.try_into().unwrap()) as usize,
        body.len()
    );
    holds(rule, body).unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn peer() -> PeerId {
    let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
    text.parse().unwrap()
}

fn protocol() -> ProtocolId {
    ProtocolId::new("openai:0.1").unwrap()
}

fn offer() -> OfferSnapshot {
    OfferSnapshot {
        snapshot_id: SnapshotId(1),
        active: true,
        provider_peer_id: peer(),
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
        protocol_payload: "{}".into(),
    }
}

fn provider() -> ProviderRecord {
    ProviderRecord {
        peer_id: peer(),
        name: Some("ACME".into()),
        teaser: None,
        description: None,
        updated_at: UnixSeconds(1),
        latest_heartbeat_at: UnixSeconds(2),
    }
}

fn job() -> JobRecord {
    JobRecord {
        job_rowid: RowId(3),
        provider_job_id: JobId::new("j").unwrap(),
        provider_peer_id: peer(),
        consumer_peer_id: peer(),
        offer_id: OfferId::new("a").unwrap(),
        offer_snapshot_rowid: SnapshotId(1),
        offer_protocol_id: protocol(),
        offer_payload: "{}".into(),
        offer_active: true,
        currency: Currency::Pol,
        balance_delta: Some(Wei::MAX.to_string()),
        public_payload: None,
        private_payload: None,
        reason: Some("r".into()),
        reason_class: Some(-1),
        created_at_local: UnixSeconds(1),
        created_at_sync: UnixSeconds(2),
        completed_at_local: None,
        completed_at_sync: None,
        signature_confirmed_at_local: None,
        confirmation_error: None,
    }
}

fn ping_report() -> network::PingReport {
    network::PingReport {
        rtt_us: 1,
        path: network::PathReport {
            kind: network::PathKind::Lan,
            relay: None,
            address: "/ip4/127.0.0.1/tcp/1".into(),
            outbound: true,
            since: UnixSeconds(1),
            rtt_us: None,
            bytes_in: 0,
            bytes_out: 0,
            streams: 0,
        },
    }
}

use derouter_wire::rpc::network;

/// Requests that are the same in both versions.
fn in_both<C: Call>(request: &C) {
    let frame = encode_frame(FrameKind::Request, 7, C::TYPE, request);
    check("module-frame-0-1", &frame, C::TYPE);
    modern(request);
}

fn modern<C: Call>(request: &C) {
    let frame = encode_request(u32::MAX, C::TYPE, request, 120_000);
    check("module-frame-0-2", &frame, C::TYPE);
}

fn legacy<C: Call>(request: &C) {
    let frame = encode_frame(FrameKind::Request, 7, C::TYPE, request);
    check("module-frame-0-1", &frame, C::TYPE);
}

/// Answers in the forms of both versions.
fn answers<C: Call>(replies: &[C::Reply]) {
    for reply in replies {
        legacy_answer::<C>(reply);
        modern_answer::<C>(reply);
    }
}

fn legacy_answer<C: Call>(reply: &C::Reply) {
    let frame = encode_frame(FrameKind::Response, 7, C::TYPE, reply);
    check("node-frame-0-1", &frame, C::TYPE);
}

fn modern_answer<C: Call>(reply: &C::Reply) {
    let frame = encode_response(7, C::TYPE, &from_tagged(cbor::to_vec(reply)));
    check("node-frame-0-2", &frame, C::TYPE);
}

fn asked<C: Call>(request: &C) {
    let frame = encode_frame(FrameKind::Request, 7, C::TYPE, request);
    check("node-frame-0-1", &frame, C::TYPE);
    asked_modern(request);
}

fn asked_modern<C: Call>(request: &C) {
    let frame = encode_request(7, C::TYPE, request, 8000);
    check("node-frame-0-2", &frame, C::TYPE);
}

#[test]
fn the_rules_can_be_read_and_all_are_used() {
    let rules = flatten_from_str(CDDL).unwrap();
    assert!(rules.len() > 50);
    BasicContext::new(rules);
    let lines = CDDL.lines().filter(|line| !line.starts_with(';'));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    for line in text.lines() {
        let Some((head, _)) = line.split_once(" =") else {
            continue;
        };
        let name = head.split('<').next().unwrap();
        if name.is_empty() || name.starts_with(' ') || name.contains("frame-0-") {
            continue;
        }
        assert!(text.matches(name).count() > 1, "nothing uses {name}");
    }
}

#[test]
fn frames_of_0_1_0_modules_are_what_is_written() {
    for entry in vectors(MODULES, "rpc_frames") {
        let body = hex_of(&entry, "cbor_hex");
        holds("module-frame-0-1", &body)
            .unwrap_or_else(|error| panic!("{}: {error}", name_of(&entry)));
    }
}

/// What 0.1.0 nodes send and ours do not: null for what is absent, a lost text, another tag.
const WRONG_IN_0_1_0: &[&str] = &[
    "query_jobs.invalid_limit",
    "consumer_get_job.ok_as_0_1_sends_it",
    "fail_job.job_not_found",
];

#[test]
fn frames_of_0_1_0_nodes_are_what_is_written_but_for_their_mistakes() {
    for entry in vectors(WIRE, "rpc_frames") {
        let (name, body) = (name_of(&entry), hex_of(&entry, "cbor_hex"));
        let has_null = body.contains(&0xf6);
        let result = holds("node-frame-0-1", &body);
        if WRONG_IN_0_1_0.contains(&name) {
            assert!(result.is_err(), "{name}");
        } else if !has_null {
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn every_request_is_what_is_written() {
    legacy(&QuerySystem {});
    legacy(&QueryActiveOffers::default());
    legacy(&QueryActiveProviders {});
    in_both(&QueryOfferSnapshots {
        snapshot_ids: vec![SnapshotId(1)],
    });
    in_both(&QueryProviders {
        provider_peer_ids: vec![peer().into()],
    });
    legacy(&QueryJobs {
        limit: 100,
        ..QueryJobs::default()
    });
    legacy(&QueryPeers {
        limit: 1,
        ..QueryPeers::default()
    });
    in_both(&SubscribeToActiveOffers::default());
    in_both(&SubscribeToActiveProviders::default());
    in_both(&SubscribeToJobs::default());
    modern(&SubscribeToJobs {
        consumer_peer_ids: Some(vec![peer().into()]),
        since: Some(Cursor::start()),
        ..SubscribeToJobs::default()
    });
    in_both(&SubscribeToNodeState {});
    in_both(&ProviderWithdraw {});
    in_both(&CancelSubscription {
        subscription_id: SubscriptionId(0),
    });
    in_both(&ProviderProvide {
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
        protocol_payload: "{}".into(),
        max_unsigned: Some(Wei::MAX),
    });
    in_both(&ProviderCompleteJob {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
        balance_delta: None,
        public_payload: "{}".into(),
        private_payload: Some("p".into()),
    });
    in_both(&ConsumerCreateJob {
        offer_snapshot_id: SnapshotId(1),
        currency: Currency::Pol,
        job_args: Some("{}".into()),
    });
    in_both(&ConsumerOpenJobConnection {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
    });
    in_both(&ConsumerGetJob {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
    });
    in_both(&ConsumerCompleteJob {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
        public_payload: "{}".into(),
        private_payload: None,
        balance_delta: Some("1".into()),
        completed_at_sync: UnixSeconds(5),
    });
    in_both(&FailJob {
        provider_peer_id: peer().into(),
        provider_job_id: "j".into(),
        reason: "r".into(),
        reason_class: Some(-1),
        private_payload: None,
    });
    in_both(&QueryNetwork {});
    in_both(&PingPeer {
        peer_id: peer().into(),
        address: None,
        timeout_ms: 60_000,
    });
    modern(&QueryModules { state: true });
    modern(&Hello {
        versions: SPOKEN,
        module: ModuleInfo {
            name: Name::cut("m"),
            version: Some(Name::cut("1")),
        },
        token: Some(Name::cut("t")),
        features: None,
        capabilities: Some(vec![Name::cut("consume")]),
    });
    let after = Some(Cursor::behind_row(RowId(3)));
    modern(&ListOffers {
        protocol_ids: Some(vec!["p".into()]),
        provider_peer_ids: None,
        after: Some(Cursor::behind_offer(&offer().key())),
        limit: 100,
    });
    modern(&ListProviders {
        after: None,
        limit: 1,
    });
    modern(&ListJobs {
        protocol_ids: None,
        provider_peer_ids: None,
        consumer_peer_ids: None,
        after,
        newest_first: true,
        limit: 1,
    });
    modern(&ListPeers {
        connected_only: true,
        peer_id: Some(peer().into()),
        after: None,
        limit: 1,
    });
    check("module-frame-0-2", &encode_cancel(7), "cancel");
    check("node-frame-0-2", &encode_cancel(7), "cancel");
}

#[test]
fn every_answer_about_the_market_is_what_is_written() {
    legacy_answer::<QuerySystem>(&QuerySystemReply::Ok { peer_id: peer() });
    legacy_answer::<QueryActiveOffers>(&FilteredReply::Ok(vec![offer()]));
    legacy_answer::<QueryActiveOffers>(&FilteredReply::InvalidPeerId("x".into()));
    legacy_answer::<QueryActiveProviders>(&PeersReply::Ok(vec![peer().into()]));
    legacy_answer::<QueryJobs>(&QueryJobsReply::Ok(vec![job()]));
    legacy_answer::<QueryJobs>(&QueryJobsReply::InvalidLimit(Some("l".into())));
    answers::<QueryOfferSnapshots>(&[ListReply::Ok(vec![offer()]), ListReply::Length]);
    answers::<QueryProviders>(&[ListReply::Ok(vec![provider()]), ListReply::Length]);
    let id = SubscriptionId(4);
    legacy_answer::<SubscribeToJobs>(&FilteredReply::Ok(Subscribed::Legacy(id)));
    let subscribed = Subscribed::Since {
        subscription_id: id,
        resumed: true,
    };
    legacy_answer::<SubscribeToNodeState>(&FilteredReply::Ok(Subscribed::Legacy(id)));
    modern_answer::<SubscribeToNodeState>(&FilteredReply::Ok(subscribed));
    answers::<ProviderWithdraw>(&[WithdrawReply::Ok]);
    modern_answer::<SubscribeToActiveOffers>(&FilteredReply::Ok(subscribed));
    modern_answer::<SubscribeToActiveProviders>(&FilteredReply::Ok(subscribed));
    modern_answer::<SubscribeToJobs>(&FilteredReply::Ok(subscribed));
    answers::<SubscribeToJobs>(&[FilteredReply::InvalidPeerId("x".into())]);
    answers::<CancelSubscription>(&[
        CancelSubscriptionReply::Ok,
        CancelSubscriptionReply::InvalidSubscriptionId,
    ]);
    let next = Some(Cursor::behind_peer(&peer()));
    modern_answer::<ListOffers>(&FilteredReply::Ok(Page {
        items: vec![offer()],
        next,
    }));
    let page = Page {
        items: vec![provider()],
        next: None,
    };
    modern_answer::<ListProviders>(&FilteredReply::Ok(page));
    modern_answer::<ListJobs>(&FilteredReply::Ok(Page {
        items: vec![job()],
        next: None,
    }));
    modern_answer::<ListPeers>(&FilteredReply::Ok(Page {
        items: vec![],
        next: None,
    }));
    modern_answer::<QueryModules>(&QueryModulesReply::Ok(vec![
        ModuleReport {
            name: "m".into(),
            version: Some("1".into()),
            place: ModulePlace::Connection,
            from: Some("unix".into()),
            capabilities: vec!["provide".into()],
            since: UnixSeconds(1),
            state: None,
        },
        ModuleReport {
            name: "m".into(),
            version: None,
            place: ModulePlace::Node,
            from: None,
            capabilities: vec![],
            since: UnixSeconds(1),
            state: Some("{}".into()),
        },
    ]));
    let report = Box::new(ping_report());
    answers::<PingPeer>(&[
        PingPeerReply::Ok(report),
        PingPeerReply::Timeout,
        PingPeerReply::Unreachable("why".into()),
        PingPeerReply::InvalidAddress("x".into()),
        PingPeerReply::InvalidTimeout,
    ]);
}

#[test]
fn every_answer_about_jobs_is_what_is_written() {
    let at = UnixSeconds(5);
    let why = FailureReason {
        reason: "r".into(),
        reason_class: None,
    };
    answers::<ProviderProvide>(&[
        ProvideReply::Ok,
        ProvideReply::DuplicateOffer {
            protocol_id: protocol(),
            offer_id: OfferId::new("a").unwrap(),
        },
    ]);
    answers::<ProviderCompleteJob>(&[
        ProviderCompleteJobReply::Ok {
            completed_at_sync: at,
        },
        ProviderCompleteJobReply::InvalidJobId,
        ProviderCompleteJobReply::AlreadyCompleted {
            completed_at_sync: at,
        },
        ProviderCompleteJobReply::AlreadyFailed(why.clone()),
        ProviderCompleteJobReply::InvalidBalanceDelta,
    ]);
    answers::<ConsumerCreateJob>(&[
        CreateJobReply::Ok {
            provider_peer_id: peer(),
            provider_job_id: JobId::new("j").unwrap(),
        },
        CreateJobReply::LocalOfferNotFound,
        CreateJobReply::ProviderUnreachable,
        CreateJobReply::ProviderInvalidResponse,
        CreateJobReply::ProviderOfferNotFound,
        CreateJobReply::ProviderOfferPayloadMismatch,
        CreateJobReply::InvalidJobArgs("no".into()),
        CreateJobReply::ProviderBusy,
    ]);
    let opened = |connection_id| OpenJobConnectionReply::Ok { connection_id };
    legacy_answer::<ConsumerOpenJobConnection>(&opened(ConnectionId((1 << 53) - 1).into()));
    modern_answer::<ConsumerOpenJobConnection>(&opened(Ticket::Random([7; 16])));
    answers::<ConsumerOpenJobConnection>(&[
        OpenJobConnectionReply::LocalJobNotFound,
        OpenJobConnectionReply::ProviderUnreachable,
        OpenJobConnectionReply::ProviderJobNotFound,
        OpenJobConnectionReply::ProviderJobExpired,
        OpenJobConnectionReply::ProviderBusy,
        OpenJobConnectionReply::OtherRemoteError("x".into()),
        OpenJobConnectionReply::OtherLocalError("x".into()),
    ]);
    answers::<ConsumerGetJob>(&[
        GetJobReply::Ok {
            public_payload: Some("{}".into()),
            balance_delta: Some("1".into()),
            created_at_sync: at,
            completed_at_sync: None,
        },
        GetJobReply::ProviderUnreachable,
        GetJobReply::JobNotFound,
    ]);
    answers::<ConsumerCompleteJob>(&[
        ConsumerCompleteJobReply::Ok,
        ConsumerCompleteJobReply::InvalidJobId,
        ConsumerCompleteJobReply::InvalidConsumerPeerId,
        ConsumerCompleteJobReply::AlreadyFailed(why.clone()),
        ConsumerCompleteJobReply::AlreadyCompleted,
        ConsumerCompleteJobReply::InvalidBalanceDelta,
    ]);
    answers::<FailJob>(&[
        FailJobReply::Ok,
        FailJobReply::InvalidJobId,
        FailJobReply::AlreadyCompleted,
        FailJobReply::AlreadyFailed(why),
    ]);
}

#[test]
fn greetings_and_errors_are_what_is_written() {
    let welcome = Welcome {
        version: RPC_0_2,
        peer_id: peer(),
        node_version: "0.2.0".into(),
        instance: "0123456789abcdef0123456789abcdef".into(),
        features: FEATURES.iter().map(|name| (*name).to_owned()).collect(),
        capabilities: Capability::ALL.to_vec(),
        limits: RpcLimits::default(),
    };
    modern_answer::<Hello>(&HelloReply::Ok(Box::new(welcome)));
    for code in ErrorCode::ALL {
        let data = encode_error(code.as_str(), code.meaning(), code.retry_after_ms(), None);
        let frame = encode_response(7, "ListOffers", &data);
        check("node-frame-0-2", &frame, code.as_str());
    }
}

#[test]
fn every_event_and_request_of_a_node_is_what_is_written() {
    let subscription_id = SubscriptionId(4);
    fn plain<T>(payload: T) -> Event<T> {
        Event {
            subscription_id: SubscriptionId(4),
            payload,
            cursor: None,
        }
    }
    fn placed<T>(payload: T) -> Event<T> {
        Event {
            cursor: Some(Cursor::behind_row(RowId(1))),
            ..plain(payload)
        }
    }
    let removed = OfferRemoved {
        snapshot_id: SnapshotId(1),
        provider_peer_id: peer(),
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
    };
    let beat = ProviderHeartbeat {
        peer_id: peer(),
        latest_heartbeat_at: UnixSeconds(1),
    };
    asked(&EventOfferUpdated(plain(offer())));
    asked(&EventOfferRemoved(plain(removed.clone())));
    asked(&EventProviderUpdated(plain(provider())));
    asked(&EventProviderHeartbeat(plain(beat.clone())));
    asked(&EventJobUpdated(plain(job())));
    for draining_ms in [None, Some(30_000)] {
        asked(&EventNodeState(plain(NodeStateChanged { draining_ms })));
        asked_modern(&EventNodeState(placed(NodeStateChanged { draining_ms })));
    }
    asked_modern(&EventOfferUpdated(placed(offer())));
    asked_modern(&EventOfferRemoved(placed(removed)));
    asked_modern(&EventProviderUpdated(placed(provider())));
    asked_modern(&EventProviderHeartbeat(placed(beat)));
    asked_modern(&EventJobUpdated(placed(job())));
    asked_modern(&EventReset { subscription_id });
    asked_modern(&EventReady {
        subscription_id,
        cursor: Some(Cursor::start()),
    });
    asked(&ProviderCreateJob {
        provider_peer_id: peer(),
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
        provider_job_id: JobId::new("j").unwrap(),
        created_at_sync: UnixSeconds(1),
        job_args: None,
        consumer_peer_id: None,
    });
    asked_modern(&ProviderCreateJob {
        provider_peer_id: peer(),
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
        provider_job_id: JobId::new("j").unwrap(),
        created_at_sync: UnixSeconds(1),
        job_args: Some("{}".into()),
        consumer_peer_id: Some(peer()),
    });
    asked(&ProviderPrepareJobConnection {
        provider_peer_id: peer(),
        provider_job_id: JobId::new("j").unwrap(),
    });
    let open = |connection_id| ProviderOpenJobConnection {
        connection_id,
        nonce: "0".into(),
    };
    let number = open(ConnectionId(3).into());
    let frame = encode_frame(
        FrameKind::Request,
        7,
        ProviderOpenJobConnection::TYPE,
        &number,
    );
    check("node-frame-0-1", &frame, "open");
    asked_modern(&open(Ticket::Random([1; 16])));
}

#[test]
fn every_answer_of_a_module_is_what_is_written() {
    fn answered<C: Call>(reply: &C::Reply) {
        let frame = encode_frame(FrameKind::Response, 7, C::TYPE, reply);
        check("module-frame-0-1", &frame, C::TYPE);
        let frame = encode_response(7, C::TYPE, &from_tagged(cbor::to_vec(reply)));
        check("module-frame-0-2", &frame, C::TYPE);
    }
    answered::<ProviderCreateJob>(&ProviderCreateJobReply::Ok);
    answered::<ProviderCreateJob>(&ProviderCreateJobReply::Busy);
    answered::<ProviderCreateJob>(&ProviderCreateJobReply::InvalidJobArgs("no".into()));
    answered::<ProviderPrepareJobConnection>(&PrepareJobConnectionReply::Ok("0".into()));
    answered::<ProviderPrepareJobConnection>(&PrepareJobConnectionReply::JobNotFound);
    let frame = encode_frame(FrameKind::Response, 7, "Ack", &Ack {});
    check("module-frame-0-1", &frame, "Ack");
    check("module-frame-0-2", &frame, "Ack");
}

#[test]
fn what_is_not_written_is_refused() {
    let refused = |rule: &str, frame: Vec<u8>, what: &str| {
        assert!(holds(rule, &frame[4..]).is_err(), "{rule} allows {what}");
    };
    let hello = |id: u32| encode_frame(FrameKind::Request, id, "Hello", &Ack {});
    refused("module-frame-0-2", hello(1), "an empty Hello");
    refused("module-frame-0-1", encode_cancel(1), "a cancel in 0.1");
    let old = encode_frame(FrameKind::Request, 1, "QuerySystem", &QuerySystem {});
    refused("module-frame-0-2", old, "what 0.2 replaced");
    let jobs = QueryJobs {
        limit: 101,
        ..QueryJobs::default()
    };
    let frame = encode_frame(FrameKind::Request, 1, QueryJobs::TYPE, &jobs);
    refused("module-frame-0-1", frame, "a limit over 100");
    let unknown = encode_frame(FrameKind::Request, 1, "MakeCoffee", &Ack {});
    refused("module-frame-0-1", unknown, "an unknown request");
    let busy = encode_frame(
        FrameKind::Response,
        1,
        "FailJob",
        &CreateJobReply::ProviderBusy,
    );
    refused(
        "node-frame-0-1",
        busy.clone(),
        "an error of another request",
    );
    refused("node-frame-0-2", busy, "an error in the form of 0.1");
    let ticket = OpenJobConnectionReply::Ok {
        connection_id: Ticket::Random([1; 16]),
    };
    let name = ConsumerOpenJobConnection::TYPE;
    let frame = encode_frame(FrameKind::Response, 1, name, &ticket);
    refused("node-frame-0-1", frame, "a ticket of 0.2 in 0.1");
    let number = OpenJobConnectionReply::Ok {
        connection_id: ConnectionId(1).into(),
    };
    let frame = encode_frame(FrameKind::Response, 1, name, &number);
    refused("node-frame-0-2", frame, "a guessable ticket in 0.2");
    let mut nameless = provider();
    nameless.name = None;
    let mut with_null = encode_frame(
        FrameKind::Request,
        1,
        EventProviderUpdated::TYPE,
        &Event {
            subscription_id: SubscriptionId(1),
            payload: nameless,
            cursor: None,
        },
    );
    // The last byte of the record, `latest_heartbeat_at: 2`, becomes null.
    let place = with_null
        .windows(20)
        .position(|part| part == b"latest_heartbeat_at\x02");
    with_null[place.unwrap() + 19] = 0xf6;
    refused("node-frame-0-1", with_null, "null to a module");
}

//! Jobs of wire 0.2: hashes computed elsewhere, encodings that must not change, proofs.

use derouter_wire::cbor::Bytes;
use derouter_wire::job::{JobOutcome, JobProof, JobWire, ProofError};
use derouter_wire::jobs::*;
use derouter_wire::{
    Currency, JobId, JobKey, OfferId, PeerId, ProtocolId, UnixSeconds, Wei, limits,
};
use libp2p_identity::Keypair;
use proptest::prelude::*;

const JOB: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// An identity multihash as that of an Ed25519 key.
fn peer(byte: u8) -> PeerId {
    let bytes = [&[0, 0x24, 8, 1, 0x12, 0x20][..], &[byte; 32]].concat();
    PeerId::from_bytes(&bytes).unwrap()
}

fn outcome(consumer: PeerId, provider: PeerId) -> JobOutcome {
    JobOutcome {
        wire: JobWire::V0_2,
        key: JobKey {
            provider,
            job_id: JobId::new(JOB).unwrap(),
        },
        consumer,
        protocol_id: ProtocolId::new("openai:0.1").unwrap(),
        offer_id: OfferId::new("m").unwrap(),
        offer_payload: r#"{"model_id":"m"}"#.into(),
        currency: Currency::Pol,
        created_at_sync: UnixSeconds(1_750_000_000),
        public_payload: r#"{"usage":{}}"#.into(),
        completed_at_sync: UnixSeconds(1_750_000_007),
        balance_delta: Some(Wei::from_wei(1_234_567_890_123_456_789)),
    }
}

/// The hashes were computed from the text of `JobOutcome`'s documentation by another program.
#[test]
fn the_hash_is_that_of_its_description() {
    let mut outcome = outcome(peer(1), peer(2));
    for (balance, hash) in [
        (
            outcome.balance_delta,
            "79ed1134f3a207afd9e1b25c23e5a55eecef2259872ddf6f4ce88b3696a8aa11",
        ),
        (
            Some(Wei::ZERO),
            "70bd9be8771d92318d6a96958da8074ed37c3a49b08c3eaaed65f5cb73b08cba",
        ),
        (
            None,
            "6e3cfd2c24c169b2002efa024ecb71062bde024cafb0150489d7100e3765e4ed",
        ),
    ] {
        outcome.balance_delta = balance;
        assert_eq!(hex::encode(outcome.hash().0), hash);
    }
}

/// What wire 0.1 gets wrong: two jobs whose joined fields read alike.
#[test]
fn moving_bytes_between_fields_changes_the_hash() {
    let one = outcome(peer(1), peer(2));
    let moved = JobOutcome {
        protocol_id: ProtocolId::new("openai:0.1{").unwrap(),
        offer_payload: one.offer_payload.strip_prefix('{').unwrap().into(),
        ..one.clone()
    };
    let as_0_1 = |outcome: &JobOutcome| {
        let wire = JobWire::V0_1;
        JobOutcome {
            wire,
            ..outcome.clone()
        }
        .hash()
    };
    assert_eq!(as_0_1(&one), as_0_1(&moved));
    assert_ne!(one.hash(), moved.hash());
}

#[test]
fn calls_and_answers_are_written_as_before() {
    let create = JobCall::Create(CreateJob {
        job_id: JobId::new("j").unwrap(),
        protocol_id: ProtocolId::new("p").unwrap(),
        offer_id: OfferId::new("o").unwrap(),
        offer_payload_sha256: Bytes(vec![7; 32]),
        currency: Currency::Pol,
        args_bytes: Some(3),
    });
    let expected = "00000078a166437265617465a6666a6f625f6964616a6b70726f746f636f6c5f69646170\
        686f666665725f6964616f746f666665725f7061796c6f61645f7368613235365820\
        0707070707070707070707070707070707070707070707070707070707070707\
        6863757272656e6379006a617267735f627974657303";
    assert_eq!(hex::encode(create.encode()), expected);
    let refused = JobAnswer::Refused(Refusal::new(RefusalCode::OwesTooMuch, "x").retry_after_ms(5));
    let expected = "00000037a16752656675736564a364636f64656d6f7765732d746f6f2d6d756368\
        676d6573736167656178\
        6e72657472795f61667465725f6d7305";
    assert_eq!(hex::encode(refused.encode()), expected);
}

#[test]
fn codes_of_later_versions_are_read_as_unknown() {
    for (later, code) in [
        ("brand-new", RefusalCode::Unknown),
        ("busy", RefusalCode::Busy),
    ] {
        let text = Refusal::new(RefusalCode::Busy, "m");
        let mut value = serde_json::to_value(&text).unwrap();
        value["code"] = later.into();
        let refusal: Refusal = serde_json::from_value(value).unwrap();
        assert_eq!(refusal.code, code);
    }
    assert_eq!(FailureCause::from_name("brand-new"), FailureCause::Unknown);
    for cause in FailureCause::ALL {
        assert_eq!(FailureCause::from_name(cause.name()), cause);
        let written = serde_json::to_value(cause).unwrap();
        assert_eq!(written, cause.name());
    }
}

#[test]
fn what_is_over_a_limit_is_refused() {
    let job = GivenUp {
        job_id: JobId::new(JOB).unwrap(),
        cause: FailureCause::ConsumerGaveUp,
        reason: "x".repeat(limits::NOTICE_REASON_BYTES),
    };
    let most = JobCall::GiveUp(vec![job.clone(); limits::SETTLE_JOBS]);
    let frame = most.encode();
    assert!(
        frame.len() <= limits::JOB_CALL_BYTES,
        "{} bytes",
        frame.len()
    );
    assert_eq!(JobCall::decode(&frame[4..]).unwrap(), most);
    let more = JobCall::GiveUp(vec![job; limits::SETTLE_JOBS + 1]);
    assert!(JobCall::decode(&more.encode()[4..]).is_err());
    let too_long = u32::try_from(limits::JOB_ARGS_BYTES + 1).unwrap();
    for (hash, args) in [(32, Some(too_long)), (31, None)] {
        let create = JobCall::Create(CreateJob {
            job_id: JobId::new("j").unwrap(),
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new("o").unwrap(),
            offer_payload_sha256: Bytes(vec![0; hash]),
            currency: Currency::Pol,
            args_bytes: args,
        });
        assert!(JobCall::decode(&create.encode()[4..]).is_err());
    }
}

fn signed() -> (JobProof, Keypair, Keypair) {
    let (consumer, provider) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let outcome = outcome(
        consumer.public().to_peer_id(),
        provider.public().to_peer_id(),
    );
    let hash = outcome.hash();
    let (by_consumer, by_provider) = (hash.sign(&consumer), hash.sign(&provider));
    let proof = JobProof::new(&outcome, by_consumer.as_deref(), by_provider.as_deref());
    (proof, consumer, provider)
}

#[test]
fn a_proof_survives_a_file_and_proves_both_sides() {
    let (proof, ..) = signed();
    let text = serde_json::to_string_pretty(&proof).unwrap();
    let read: JobProof = serde_json::from_str(&text).unwrap();
    let proven = read.verify().unwrap();
    assert!(proven.by_consumer && proven.by_provider);
    assert_eq!(proven.outcome.public_payload, r#"{"usage":{}}"#);
}

#[test]
fn a_proof_with_anything_changed_proves_nothing() {
    let (proof, ..) = signed();
    let value = serde_json::to_value(&proof).unwrap();
    let change = |key: &str, to: serde_json::Value| {
        let mut value = value.clone();
        value[key] = to;
        let changed = serde_json::from_value::<JobProof>(value);
        changed.map_or(Err(ProofError::BadField("json")), |proof| proof.verify())
    };
    for (key, to) in [
        ("job_id", "other".into()),
        ("offer_id", "n".into()),
        ("offer_payload", "{}".into()),
        ("public_payload", "{}".into()),
        ("balance_delta", "1".into()),
        ("balance_delta", serde_json::Value::Null),
        ("created_at", 1.into()),
        ("completed_at", 1.into()),
        ("wire", "0.1".into()),
        ("consumer", peer(1).to_string().into()),
    ] {
        assert_eq!(change(key, to), Err(ProofError::HashMismatch), "{key}");
    }
    let other = hex::encode([1; 64]);
    let misfit = change("provider_signature", other.into());
    assert_eq!(misfit, Err(ProofError::BadSignature("provider")));
    assert_eq!(
        change("currency", "EUR".into()),
        Err(ProofError::BadField("currency"))
    );
    assert!(matches!(
        change("format", "x".into()),
        Err(ProofError::UnknownFormat(_))
    ));
    assert_eq!(
        change("balance", "1".into()),
        Err(ProofError::BadField("json"))
    );
    let unsigned = JobProof::new(&proof.verify().unwrap().outcome, None, None);
    assert_eq!(unsigned.verify(), Err(ProofError::Unsigned));
}

proptest! {
    /// Any two outcomes that differ have different hashes.
    #[test]
    fn every_field_counts(
        left in (".{0,6}", ".{0,6}", ".{0,6}", 0_u64..3, 0_u64..3, prop::option::of(0_u128..3)),
        right in (".{0,6}", ".{0,6}", ".{0,6}", 0_u64..3, 0_u64..3, prop::option::of(0_u128..3)),
    ) {
        let make = |(payload, public, id, created, completed, balance): &(String, String, String, u64, u64, Option<u128>)| JobOutcome {
            offer_payload: payload.clone(),
            public_payload: public.clone(),
            offer_id: OfferId::new(format!("o{id}")).unwrap(),
            created_at_sync: UnixSeconds(*created),
            completed_at_sync: UnixSeconds(*completed),
            balance_delta: balance.map(Wei::from_wei),
            ..outcome(peer(1), peer(2))
        };
        prop_assert_eq!(left == right, make(&left).hash() == make(&right).hash());
    }
}

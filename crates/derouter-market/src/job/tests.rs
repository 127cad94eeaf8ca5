use derouter_wire::JobId;
use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_750_000_100);

fn job(role: Role, consumer: &Keypair, provider: PeerId) -> Job {
    Job {
        row_id: RowId(1),
        role,
        key: JobKey {
            provider,
            job_id: JobId::new("j").unwrap(),
        },
        consumer: consumer.public().to_peer_id(),
        offer: JobOffer {
            snapshot_id: SnapshotId(1),
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new("o").unwrap(),
            payload: "{}".into(),
        },
        currency: Currency::Pol,
        created_at_sync: UnixSeconds(1_750_000_000),
        created_at_local: UnixSeconds(1_750_000_000),
        private_payload: None,
        state: JobState::Open,
    }
}

fn outcome(price: u128) -> Outcome {
    Outcome {
        public_payload: "{}".into(),
        balance_delta: Some(Wei::from_wei(price)),
        completed_at_sync: UnixSeconds(1_750_000_050),
        completed_at_local: NOW,
    }
}

fn failure(reason: &str) -> FailureReason {
    FailureReason {
        reason: reason.into(),
        reason_class: None,
    }
}

/// Both ends of a job and what is on the wire between them.
struct Model {
    key: Keypair,
    provider: Job,
    consumer: Job,
}

/// A confirmation on the wire.
struct Confirmation {
    hash: Vec<u8>,
    signature: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        let key = Keypair::generate_ed25519();
        let peer = PeerId::random();
        let provider = job(Role::Provider, &key, peer);
        let consumer = job(Role::Consumer, &key, peer);
        Self {
            key,
            provider,
            consumer,
        }
    }

    fn complete(&mut self, price: u128) -> Result<(), AlreadyEnded> {
        let change = self.provider.complete_as_provider(outcome(price), None)?;
        self.provider.state = change.state;
        Ok(())
    }

    fn sign(&mut self, price: u128) -> Result<(), AlreadyEnded> {
        let outcome = outcome(price);
        let signature = self
            .consumer
            .outcome_to_hash(&outcome)
            .hash()
            .sign(&self.key)
            .unwrap();
        self.consumer.state = self
            .consumer
            .sign_as_consumer(outcome, signature, None)?
            .state;
        Ok(())
    }

    fn confirmation(&self) -> Option<Confirmation> {
        let JobState::Completed {
            signature: SignatureState::Undelivered { signature, .. },
            ..
        } = &self.consumer.state
        else {
            return None;
        };
        let hash = self.consumer.hash().unwrap().0.to_vec();
        Some(Confirmation {
            hash,
            signature: signature.clone(),
        })
    }

    fn receive(&mut self, sent: &Confirmation) -> ConfirmJobResult {
        let key = self.key.public().encode_protobuf();
        let asker = self.consumer.consumer;
        match self
            .provider
            .confirm(&asker, &sent.hash, &key, &sent.signature, NOW)
        {
            Ok(change) => {
                self.provider.state = change.state;
                ConfirmJobResult::Ok
            }
            Err(refusal) => refusal,
        }
    }

    fn learn(&mut self, delivery: Delivery) {
        if let Some(change) = self.consumer.delivered(delivery, NOW) {
            self.consumer.state = change.state;
        }
    }
}

fn is_confirmed(job: &Job) -> bool {
    matches!(
        job.state,
        JobState::Completed {
            signature: SignatureState::Confirmed { .. },
            ..
        }
    )
}

#[test]
fn a_job_goes_from_creation_to_a_signature_that_both_know() {
    let mut model = Model::new();
    model.complete(600).unwrap();
    assert_eq!(model.provider.unsigned_debt(), Some(Wei::from_wei(600)));
    model.sign(600).unwrap();
    assert_eq!(
        model.consumer.unsigned_debt(),
        None,
        "only a provider has debtors"
    );
    let sent = model.confirmation().unwrap();
    let answer = model.receive(&sent);
    assert_eq!(answer, ConfirmJobResult::Ok);
    assert_eq!(model.provider.unsigned_debt(), None);
    assert_eq!(model.receive(&sent), ConfirmJobResult::AlreadyConfirmed);
    model.learn(Delivery::Answered(answer));
    assert!(is_confirmed(&model.consumer));
    assert!(is_confirmed(&model.provider));
}

#[test]
fn a_confirmation_is_checked_in_the_order_of_the_wire() {
    let mut model = Model::new();
    model.sign(600).unwrap();
    let good = model.confirmation().unwrap();
    assert_eq!(model.receive(&good), ConfirmJobResult::NotCompletedYet);
    let bad_hash = Confirmation {
        hash: vec![1],
        signature: good.signature.clone(),
    };
    assert_eq!(model.receive(&bad_hash), ConfirmJobResult::NotCompletedYet);

    let stranger = PeerId::random();
    let key = model.key.public().encode_protobuf();
    let asked = model
        .provider
        .confirm(&stranger, &good.hash, &key, &good.signature, NOW);
    assert_eq!(asked.unwrap_err(), ConfirmJobResult::JobNotFound);

    model.complete(600).unwrap();
    let expected = model.provider.hash().unwrap().0.to_vec();
    let mismatch = ConfirmJobResult::HashMismatch(derouter_wire::cbor::IntArray(expected));
    assert_eq!(model.receive(&bad_hash), mismatch);
    let others = Keypair::generate_ed25519();
    let asker = model.consumer.consumer;
    let others_key = others.public().encode_protobuf();
    let asked = model
        .provider
        .confirm(&asker, &good.hash, &others_key, &good.signature, NOW);
    assert_eq!(asked.unwrap_err(), ConfirmJobResult::InvalidPublicKey);
    let unsigned = Confirmation {
        hash: good.hash.clone(),
        signature: vec![0; 64],
    };
    assert_eq!(model.receive(&unsigned), ConfirmJobResult::InvalidSignature);
    assert_eq!(model.receive(&good), ConfirmJobResult::Ok);

    let mut failed = Model::new();
    failed.provider.state = failed.provider.fail(failure("f"), None, NOW).unwrap().state;
    assert_eq!(failed.receive(&good), ConfirmJobResult::AlreadyFailed);
}

#[test]
fn an_unreachable_provider_is_tried_again_and_a_refusal_is_final() {
    let mut model = Model::new();
    model.sign(600).unwrap();
    model.learn(Delivery::Unreached("no route".into()));
    model.learn(Delivery::Answered(ConfirmJobResult::NotCompletedYet));
    let JobState::Completed {
        signature:
            SignatureState::Undelivered {
                attempts,
                last_error,
                ..
            },
        ..
    } = &model.consumer.state
    else {
        panic!("it is still to be delivered");
    };
    assert_eq!(
        (*attempts, last_error.as_deref()),
        (2, Some("NotCompletedYet"))
    );
    model.learn(Delivery::Answered(ConfirmJobResult::JobNotFound));
    let refused = model.consumer.state.clone();
    assert!(matches!(
        &refused,
        JobState::Completed { signature: SignatureState::Refused { error, .. }, .. } if error == "JobNotFound"
    ));
    model.learn(Delivery::Answered(ConfirmJobResult::Ok));
    assert_eq!(model.consumer.state, refused);
}

#[test]
fn waits_between_deliveries_double_up_to_an_hour() {
    let waits: Vec<u64> = (0..16).map(delivery_backoff_secs).collect();
    assert_eq!(waits[..5], [2, 2, 4, 8, 16]);
    assert_eq!(*waits.last().unwrap(), 3600);
    assert!((12..=200).all(|attempts| delivery_backoff_secs(attempts) == 3600));
    assert_eq!(delivery_backoff_secs(u32::MAX), 3600);
}

#[derive(Clone, Debug)]
enum Step {
    ProviderCompletes(u128),
    ProviderFails,
    ConsumerSigns(u128),
    ConsumerFails,
    /// The consumer sends what it has; the answer may be lost.
    Deliver {
        answer_lost: bool,
    },
    /// An earlier confirmation arrives once more.
    Repeat(usize),
    Unreached,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u128..4).prop_map(Step::ProviderCompletes),
        Just(Step::ProviderFails),
        (1_u128..4).prop_map(Step::ConsumerSigns),
        Just(Step::ConsumerFails),
        any::<bool>().prop_map(|answer_lost| Step::Deliver { answer_lost }),
        (0_usize..8).prop_map(Step::Repeat),
        Just(Step::Unreached),
    ]
}

fn has_ended(state: &JobState) -> bool {
    !matches!(state, JobState::Open)
}

/// What may never change once a job has ended: failed or completed, and the signed outcome.
fn ending(state: &JobState) -> Option<(&str, Option<&Outcome>)> {
    match state {
        JobState::Open => None,
        JobState::Failed { .. } => Some(("failed", None)),
        JobState::Completed { outcome, .. } => Some(("completed", Some(outcome))),
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_or_repeated_no_ended_job_changes_its_ending(
        steps in proptest::collection::vec(step(), 0..40)
    ) {
        let mut model = Model::new();
        let mut sent: Vec<Confirmation> = Vec::new();
        for step in steps {
            let before = (model.provider.state.clone(), model.consumer.state.clone());
            match step {
                Step::ProviderCompletes(price) => {
                    let open = !has_ended(&before.0);
                    prop_assert_eq!(model.complete(price).is_ok(), open);
                }
                Step::ProviderFails => {
                    if let Ok(change) = model.provider.fail(failure("p"), None, NOW) {
                        model.provider.state = change.state;
                    }
                }
                Step::ConsumerSigns(price) => {
                    let open = !has_ended(&before.1);
                    prop_assert_eq!(model.sign(price).is_ok(), open);
                }
                Step::ConsumerFails => {
                    if let Ok(change) = model.consumer.fail(failure("c"), None, NOW) {
                        model.consumer.state = change.state;
                    }
                }
                Step::Deliver { answer_lost } => {
                    if let Some(confirmation) = model.confirmation() {
                        let answer = model.receive(&confirmation);
                        sent.push(confirmation);
                        if !answer_lost {
                            model.learn(Delivery::Answered(answer));
                        }
                    }
                }
                Step::Repeat(index) => {
                    if let Some(confirmation) = sent.get(index) {
                        model.receive(confirmation);
                    }
                }
                Step::Unreached => model.learn(Delivery::Unreached("x".into())),
            }
            for (old, new) in [(&before.0, &model.provider.state), (&before.1, &model.consumer.state)] {
                if let Some(old) = ending(old) {
                    prop_assert_eq!(Some(old), ending(new));
                }
            }
            if is_confirmed(&model.provider) {
                // Whoever is paid can prove it, for exactly what was signed.
                prop_assert_eq!(model.provider.hash(), model.consumer.hash());
            }
            if is_confirmed(&model.consumer) {
                prop_assert!(is_confirmed(&model.provider));
            }
        }
    }
}

use derouter_wire::JobId;
use derouter_wire::cbor::Bytes;
use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_750_000_100);

fn job(wire: JobWire, role: Role, consumer: &Keypair, provider: &Keypair) -> Job {
    let state = match role {
        Role::Consumer => JobState::Open(Stage::Created),
        Role::Provider => JobState::Open(Stage::Accepted),
    };
    Job {
        row_id: RowId(1),
        wire,
        role,
        key: JobKey {
            provider: provider.public().to_peer_id(),
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
        state,
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

/// What is on its way between the two.
#[derive(Clone, Debug)]
enum Message {
    Confirmation { hash: Vec<u8>, signature: Vec<u8> },
    GivenUp(FailureCause),
    Answer(Delivery),
    Failed(FailureCause),
}

/// Both ends of a job. A crash needs no step of its own: all that either has is its row, and what was
/// on its way is lost like any other message.
struct Model {
    wire: JobWire,
    consumer_key: Keypair,
    provider_key: Keypair,
    provider: Job,
    consumer: Job,
}

impl Model {
    fn new(wire: JobWire) -> Self {
        let consumer_key = Keypair::generate_ed25519();
        let provider_key = Keypair::generate_ed25519();
        let provider = job(wire, Role::Provider, &consumer_key, &provider_key);
        let consumer = job(wire, Role::Consumer, &consumer_key, &provider_key);
        Self {
            wire,
            consumer_key,
            provider_key,
            provider,
            consumer,
        }
    }

    /// A pair that has been joined.
    fn running(wire: JobWire) -> Self {
        let mut model = Self::new(wire);
        model.join();
        model
    }

    fn join(&mut self) {
        if let Some(change) = self.provider.joined() {
            self.provider.state = change.state;
        }
        let created = self.provider.created_at_sync;
        if let Some(change) = self.consumer.accepted(created, true) {
            self.consumer.state = change.state;
        }
    }

    fn complete(&mut self, price: u128) -> Result<(), AlreadyEnded> {
        let outcome = outcome(price);
        let hash = self.provider.outcome_to_hash(&outcome).hash();
        let signature =
            (self.wire == JobWire::V0_2).then(|| hash.sign(&self.provider_key).unwrap());
        let change = self
            .provider
            .complete_as_provider(outcome, signature, None)?;
        self.provider.state = change.state;
        Ok(())
    }

    fn sign(&mut self, price: u128) -> Result<(), NotSigned> {
        let outcome = outcome(price);
        let hash = self.consumer.outcome_to_hash(&outcome).hash();
        let signature = hash.sign(&self.consumer_key).unwrap();
        let change = self.consumer.sign_as_consumer(outcome, signature, None)?;
        self.consumer.state = change.state;
        Ok(())
    }

    /// What the consumer has to tell, if anything.
    fn news(&self) -> Option<Message> {
        match &self.consumer.state {
            JobState::Completed {
                signature: SignatureState::Undelivered { signature, .. },
                ..
            } => Some(Message::Confirmation {
                hash: self.consumer.hash().unwrap().0.to_vec(),
                signature: signature.clone(),
            }),
            JobState::Failed(Failure {
                cause,
                notice: Notice::Undelivered { .. },
                ..
            }) => Some(Message::GivenUp(*cause)),
            _ => None,
        }
    }

    /// A message arrives, and what comes of it.
    fn arrive(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Confirmation { hash, signature } => {
                Some(Message::Answer(self.take_signature(&hash, &signature)))
            }
            Message::GivenUp(cause) => {
                let asker = self.consumer.consumer;
                let (settled, change) = self.provider.given_up(&asker, cause, "c", NOW);
                if let Some(change) = change {
                    self.provider.state = change.state;
                }
                Some(Message::Answer(Delivery::Settled(settled)))
            }
            Message::Answer(delivery) => {
                self.learn(delivery);
                None
            }
            Message::Failed(cause) => {
                if let Some(change) = self.consumer.learn_failure(cause, NOW) {
                    self.consumer.state = change.state;
                }
                None
            }
        }
    }

    fn take_signature(&mut self, hash: &[u8], signature: &[u8]) -> Delivery {
        let asker = self.consumer.consumer;
        let presented = Presented {
            asker: &asker,
            hash,
            signature,
        };
        if self.wire == JobWire::V0_2 {
            let (settled, change) = self.provider.settle(presented, NOW);
            if let Some(change) = change {
                self.provider.state = change.state;
            }
            return Delivery::Settled(settled);
        }
        let key = self.consumer_key.public().encode_protobuf();
        Delivery::Answered(match self.provider.confirm(presented, &key, NOW) {
            Ok(change) => {
                self.provider.state = change.state;
                ConfirmJobResult::Ok
            }
            Err(refusal) => refusal,
        })
    }

    fn learn(&mut self, delivery: Delivery) {
        if let Some(change) = self.consumer.delivered(delivery, NOW) {
            self.consumer.state = change.state;
        }
    }

    /// Lets everything arrive that is left to say, as often as it takes.
    fn settle(&mut self) {
        for _ in 0..4 {
            if let Some(answer) = self.news().and_then(|news| self.arrive(news)) {
                self.arrive(answer);
            }
        }
    }
}

fn signature_state(job: &Job) -> Option<&SignatureState> {
    match &job.state {
        JobState::Completed { signature, .. } => Some(signature),
        _ => None,
    }
}

fn is_confirmed(job: &Job) -> bool {
    matches!(signature_state(job), Some(SignatureState::Confirmed { .. }))
}

fn confirmation(model: &Model) -> (Vec<u8>, Vec<u8>) {
    match model.news() {
        Some(Message::Confirmation { hash, signature }) => (hash, signature),
        other => panic!("{other:?} is no signature"),
    }
}

#[test]
fn a_job_goes_from_creation_to_a_signature_that_both_know() {
    for wire in [JobWire::V0_1, JobWire::V0_2] {
        let mut model = Model::new(wire);
        model.join();
        model.join();
        assert_eq!(model.consumer.state, JobState::Open(Stage::Running));
        assert_eq!(model.provider.state, JobState::Open(Stage::Running));
        model.complete(600).unwrap();
        assert_eq!(model.provider.unsigned_debt(), Some(Wei::from_wei(600)));
        model.sign(600).unwrap();
        assert_eq!(
            model.consumer.unsigned_debt(),
            None,
            "only a provider has debtors"
        );
        let (hash, signature) = confirmation(&model);
        let answer = model.take_signature(&hash, &signature);
        assert_eq!(model.provider.unsigned_debt(), None);
        let confirmed = model.provider.state.clone();
        let again = model.take_signature(&hash, &signature);
        assert_eq!(model.provider.state, confirmed);
        model.learn(answer);
        model.learn(again);
        assert!(is_confirmed(&model.consumer) && is_confirmed(&model.provider));
    }
}

#[test]
fn nothing_is_signed_before_it_is_known_when_the_provider_took_the_job() {
    let mut model = Model::new(JobWire::V0_2);
    model.complete(600).unwrap();
    assert_eq!(model.sign(600), Err(NotSigned::NotAccepted));
    model.join();
    model.sign(600).unwrap();
    assert_eq!(
        model.sign(600).unwrap_err(),
        NotSigned::Ended(AlreadyEnded::Completed {
            completed_at_sync: UnixSeconds(1_750_000_050),
        })
    );
}

#[test]
fn on_wire_0_2_both_sides_hold_both_signatures() {
    let mut model = Model::running(JobWire::V0_2);
    model.complete(600).unwrap();
    model.sign(600).unwrap();
    model.settle();
    for job in [&model.consumer, &model.provider] {
        let JobState::Completed {
            signature: SignatureState::Confirmed { signature, .. },
            provider_signature: Some(receipt),
            ..
        } = &job.state
        else {
            panic!("{:?}", job.state);
        };
        let hash = job.hash().unwrap();
        assert!(hash.is_signed_by(&job.consumer, signature));
        assert!(hash.is_signed_by(&job.key.provider, receipt));
    }
}

#[test]
fn a_receipt_that_does_not_fit_is_not_kept() {
    let mut model = Model::running(JobWire::V0_2);
    model.sign(600).unwrap();
    model.learn(Delivery::Settled(Settled::Signed(Bytes(vec![1; 64]))));
    assert!(
        is_confirmed(&model.consumer),
        "the provider has what it needs"
    );
    assert!(matches!(
        &model.consumer.state,
        JobState::Completed {
            provider_signature: None,
            ..
        }
    ));
}

#[test]
fn a_confirmation_is_checked_in_the_order_of_the_wire() {
    let mut model = Model::running(JobWire::V0_1);
    model.sign(600).unwrap();
    let (hash, signature) = confirmation(&model);
    let asks = |model: &Model, asker: &PeerId, hash: &[u8], key: &Keypair, signature: &[u8]| {
        let presented = Presented {
            asker,
            hash,
            signature,
        };
        let key = key.public().encode_protobuf();
        model.provider.confirm(presented, &key, NOW).map(drop)
    };
    let (own, asker) = (model.consumer_key.clone(), model.consumer.consumer);
    let early = asks(&model, &asker, &hash, &own, &signature);
    assert_eq!(early, Err(ConfirmJobResult::NotCompletedYet));
    let early = asks(&model, &asker, &[1], &own, &signature);
    assert_eq!(early, Err(ConfirmJobResult::NotCompletedYet));
    let stranger = asks(&model, &PeerId::random(), &hash, &own, &signature);
    assert_eq!(stranger, Err(ConfirmJobResult::JobNotFound));

    model.complete(600).unwrap();
    let ours = model.provider.hash().unwrap().0.to_vec();
    let mismatch = ConfirmJobResult::HashMismatch(derouter_wire::cbor::IntArray(ours));
    let bad_hash = asks(&model, &asker, &[1], &own, &signature);
    assert_eq!(bad_hash, Err(mismatch));
    let bad_key = asks(
        &model,
        &asker,
        &hash,
        &Keypair::generate_ed25519(),
        &signature,
    );
    assert_eq!(bad_key, Err(ConfirmJobResult::InvalidPublicKey));
    let unsigned = asks(&model, &asker, &hash, &own, &[0; 64]);
    assert_eq!(unsigned, Err(ConfirmJobResult::InvalidSignature));
    assert_eq!(asks(&model, &asker, &hash, &own, &signature), Ok(()));

    let mut failed = Model::running(JobWire::V0_1);
    let change = failed
        .provider
        .fail(FailureCause::ProviderGaveUp, failure("f"), NOW);
    failed.provider.state = change.unwrap().state;
    let asker = failed.consumer.consumer;
    let late = asks(&failed, &asker, &hash, &own, &signature);
    assert_eq!(late, Err(ConfirmJobResult::AlreadyFailed));
}

#[test]
fn on_wire_0_2_a_bad_signature_changes_nothing_and_is_named() {
    let mut model = Model::running(JobWire::V0_2);
    model.sign(600).unwrap();
    let (hash, signature) = confirmation(&model);
    let early = model.take_signature(&hash, &signature);
    assert_eq!(early, Delivery::Settled(Settled::NotCompleted));
    model.complete(600).unwrap();
    let waiting = model.provider.state.clone();
    let ours = Bytes(model.provider.hash().unwrap().0.to_vec());
    for (hash, signature, expected) in [
        (vec![1], signature.clone(), Settled::OtherHash(ours)),
        (hash.clone(), vec![0; 64], Settled::BadSignature),
    ] {
        let answer = model.take_signature(&hash, &signature);
        assert_eq!(answer, Delivery::Settled(expected));
        assert_eq!(model.provider.state, waiting);
    }
    let stranger = PeerId::random();
    let presented = Presented {
        asker: &stranger,
        hash: &hash,
        signature: &signature,
    };
    assert_eq!(
        model.provider.settle(presented, NOW),
        (Settled::JobNotFound, None)
    );
    let (settled, change) = model
        .provider
        .given_up(&stranger, FailureCause::Idle, "x", NOW);
    assert_eq!((settled, change), (Settled::JobNotFound, None));
}

#[test]
fn an_unreachable_provider_is_tried_again_and_a_refusal_is_final() {
    for wire in [JobWire::V0_1, JobWire::V0_2] {
        let mut model = Model::running(wire);
        model.sign(600).unwrap();
        model.learn(Delivery::Unreached("no route".into()));
        let (early, unknown, signed) = match wire {
            JobWire::V0_1 => (
                Delivery::Answered(ConfirmJobResult::NotCompletedYet),
                Delivery::Answered(ConfirmJobResult::JobNotFound),
                Delivery::Answered(ConfirmJobResult::Ok),
            ),
            JobWire::V0_2 => (
                Delivery::Settled(Settled::NotCompleted),
                Delivery::Settled(Settled::JobNotFound),
                Delivery::Settled(Settled::Signed(Bytes::default())),
            ),
        };
        model.learn(early);
        assert_eq!(model.consumer.delivery_attempts(), 2);
        assert!(matches!(
            signature_state(&model.consumer),
            Some(SignatureState::Undelivered { last_error: Some(error), .. }) if error == "NotCompletedYet"
        ));
        model.learn(unknown);
        let refused = model.consumer.state.clone();
        assert!(matches!(
            signature_state(&model.consumer),
            Some(SignatureState::Refused { error, .. }) if error == "JobNotFound"
        ));
        model.learn(signed);
        assert_eq!(model.consumer.state, refused);
    }
}

#[test]
fn a_consumer_that_gives_up_has_its_provider_told_until_it_hears() {
    let mut model = Model::running(JobWire::V0_2);
    let change = model
        .consumer
        .fail(FailureCause::ConsumerGaveUp, failure("bad answer"), NOW);
    model.consumer.state = change.unwrap().state;
    model.learn(Delivery::Unreached("no route".into()));
    assert!(model.consumer.has_news());
    assert_eq!(model.consumer.delivery_attempts(), 1);
    model.settle();
    assert!(!model.consumer.has_news());
    let JobState::Failed(told) = &model.provider.state else {
        panic!("{:?}", model.provider.state);
    };
    assert_eq!(told.cause, FailureCause::ConsumerGaveUp);

    let mut legacy = Model::running(JobWire::V0_1);
    let change = legacy
        .consumer
        .fail(FailureCause::ConsumerGaveUp, failure("x"), NOW);
    legacy.consumer.state = change.unwrap().state;
    assert!(!legacy.consumer.has_news(), "wire 0.1 has no word for it");
}

#[test]
fn a_provider_that_never_comes_back_is_not_told_for_ever() {
    let mut model = Model::running(JobWire::V0_2);
    let change = model
        .consumer
        .fail(FailureCause::Idle, failure("nobody"), NOW)
        .unwrap();
    model.consumer.state = change.state;
    let mut attempts = 0;
    while model.consumer.has_news() {
        attempts += 1;
        assert!(attempts < 1000);
        model.learn(Delivery::Unreached("no route".into()));
    }
    assert_eq!(attempts, 80);
}

#[test]
fn a_disputed_outcome_is_still_owed_and_may_still_be_signed() {
    let mut model = Model::running(JobWire::V0_2);
    model.complete(600).unwrap();
    model.sign(600).unwrap();
    let (hash, signature) = confirmation(&model);
    let asker = model.consumer.consumer;
    let (settled, change) =
        model
            .provider
            .given_up(&asker, FailureCause::ConsumerGaveUp, "too dear", NOW);
    assert_eq!(settled, Settled::Noted);
    model.provider.state = change.unwrap().state;
    assert!(matches!(
        signature_state(&model.provider),
        Some(SignatureState::Disputed { reason, .. }) if reason == "consumer-gave-up: too dear"
    ));
    assert_eq!(model.provider.unsigned_debt(), Some(Wei::from_wei(600)));
    model.take_signature(&hash, &signature);
    assert!(is_confirmed(&model.provider));
    let (settled, change) = model
        .provider
        .given_up(&asker, FailureCause::Idle, "late", NOW);
    assert_eq!((settled, change), (Settled::AlreadySigned, None));
}

#[test]
fn waits_between_deliveries_double_up_to_an_hour() {
    let waits: Vec<u64> = (0..16).map(delivery_backoff_secs).collect();
    assert_eq!(waits[..5], [2, 2, 4, 8, 16]);
    assert_eq!(*waits.last().unwrap(), 3600);
    assert!((12..=200).all(|attempts| delivery_backoff_secs(attempts) == 3600));
    assert_eq!(delivery_backoff_secs(u32::MAX), 3600);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join,
    ProviderCompletes(u128),
    ProviderFails,
    ConsumerSigns(u128),
    ConsumerFails,
    ProviderLosesPatience,
    /// The consumer sends what it has to tell.
    Send,
    /// The provider tells of its failure.
    TellFailure,
    /// A message arrives; it may arrive once more later.
    Arrive {
        which: usize,
        again: bool,
    },
    Lose(usize),
    Unreached,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Join),
        (1_u128..4).prop_map(Step::ProviderCompletes),
        Just(Step::ProviderFails),
        (1_u128..4).prop_map(Step::ConsumerSigns),
        Just(Step::ConsumerFails),
        Just(Step::ProviderLosesPatience),
        Just(Step::Send),
        Just(Step::TellFailure),
        (0_usize..8, any::<bool>()).prop_map(|(which, again)| Step::Arrive { which, again }),
        (0_usize..8).prop_map(Step::Lose),
        Just(Step::Unreached),
    ]
}

impl Model {
    fn take(&mut self, step: Step, on_the_way: &mut Vec<Message>) {
        match step {
            Step::Join => self.join(),
            Step::ProviderCompletes(price) => drop(self.complete(price)),
            Step::ConsumerSigns(price) => drop(self.sign(price)),
            Step::ProviderFails => {
                let failed = self
                    .provider
                    .fail(FailureCause::ProviderGaveUp, failure("p"), NOW);
                if let Ok(change) = failed {
                    self.provider.state = change.state;
                }
            }
            Step::ConsumerFails => {
                let failed = self
                    .consumer
                    .fail(FailureCause::ConsumerGaveUp, failure("c"), NOW);
                if let Ok(change) = failed {
                    self.consumer.state = change.state;
                }
            }
            Step::ProviderLosesPatience => {
                if let Some(change) = self.provider.disputed("not signed in time".into(), NOW) {
                    self.provider.state = change.state;
                }
            }
            Step::Send => on_the_way.extend(self.news()),
            Step::TellFailure => {
                if let JobState::Failed(failure) = &self.provider.state {
                    on_the_way.push(Message::Failed(failure.cause));
                }
            }
            Step::Arrive { which, again } if which < on_the_way.len() => {
                let message = match again {
                    true => on_the_way[which].clone(),
                    false => on_the_way.remove(which),
                };
                on_the_way.extend(self.arrive(message));
            }
            Step::Lose(which) if which < on_the_way.len() => drop(on_the_way.remove(which)),
            Step::Arrive { .. } | Step::Lose(_) => {}
            Step::Unreached => self.learn(Delivery::Unreached("x".into())),
        }
    }
}

/// What may never change once a job has ended: failed or completed, by what, and for what.
fn ending(state: &JobState) -> Option<(Option<FailureCause>, Option<&Outcome>)> {
    match state {
        JobState::Open(_) => None,
        JobState::Failed(failure) => Some((Some(failure.cause), None)),
        JobState::Completed { outcome, .. } => Some((None, Some(outcome))),
    }
}

fn signature(job: &Job) -> Option<&[u8]> {
    match signature_state(job)? {
        SignatureState::Undelivered { signature, .. }
        | SignatureState::Refused { signature, .. }
        | SignatureState::Confirmed { signature, .. } => Some(signature),
        SignatureState::Awaited | SignatureState::Disputed { .. } => None,
    }
}

proptest! {
    /// Messages are lost, repeated and overtake each other; both sides act on their own.
    #[test]
    fn whatever_arrives_when_no_ended_job_changes_its_ending_and_both_sides_agree(
        new_wire in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let wire = if new_wire { JobWire::V0_2 } else { JobWire::V0_1 };
        let mut model = Model::new(wire);
        let mut on_the_way = Vec::new();
        for step in steps {
            let before = (model.provider.clone(), model.consumer.clone());
            model.take(step, &mut on_the_way);
            for (old, new) in [(&before.0, &model.provider), (&before.1, &model.consumer)] {
                if let Some(old) = ending(&old.state) {
                    prop_assert_eq!(Some(old), ending(&new.state));
                }
                if let Some(old) = signature(old) {
                    prop_assert_eq!(Some(old), signature(new), "no signature is lost");
                }
                if is_confirmed(old) {
                    prop_assert_eq!(old, new, "nothing comes after that");
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
        model.settle();
        agree(&model)?;
    }
}

/// Once all that there was to say has arrived, the two differ only in ways that both can explain.
fn agree(model: &Model) -> Result<(), TestCaseError> {
    let (consumer, provider) = (&model.consumer, &model.provider);
    if consumer.is_open() || provider.is_open() {
        // A deadline will end what is open.
        return Ok(());
    }
    let explained = match (&consumer.state, &provider.state) {
        (JobState::Failed(_), JobState::Failed(_)) => true,
        (JobState::Failed(_), JobState::Completed { signature, .. }) => {
            let told = matches!(signature, SignatureState::Disputed { .. });
            // A provider of 0.1 is not told; one that said that it failed can't have completed.
            told || model.wire == JobWire::V0_1
        }
        (JobState::Completed { signature, .. }, JobState::Failed(_)) => {
            matches!(signature, SignatureState::Refused { .. })
        }
        (JobState::Completed { .. }, JobState::Completed { .. }) => {
            let same = consumer.hash() == provider.hash();
            let both = is_confirmed(consumer) && is_confirmed(provider);
            let refused = matches!(
                signature_state(consumer),
                Some(SignatureState::Refused { .. })
            );
            if same { both } else { refused }
        }
        _ => false,
    };
    prop_assert!(explained, "{:?} / {:?}", consumer.state, provider.state);
    Ok(())
}

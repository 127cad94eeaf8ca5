use derouter_sdk::{
    Currency, FailureReason, JobId, JobKey, OfferId, ProtocolId, RowId, SnapshotId, UnixSeconds,
    Wei,
};
use derouter_store::market::Role;
use derouter_store::market::job::{JobChange, JobOffer, Outcome, Presented, Stage};
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use libp2p::identity::Keypair;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_750_000_100);

struct Sides {
    key: Keypair,
    consumer: Job,
    provider: Job,
}

fn sides() -> Sides {
    let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let consumer = Job {
        row_id: RowId(1),
        wire: JobWire::V0_2,
        role: Role::Consumer,
        key: JobKey {
            provider: other.public().to_peer_id(),
            job_id: JobId::new("j").unwrap(),
        },
        consumer: key.public().to_peer_id(),
        offer: JobOffer {
            snapshot_id: SnapshotId(1),
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new("o").unwrap(),
            payload: "{}".into(),
        },
        currency: Currency::Pol,
        created_at_sync: NOW,
        created_at_local: NOW,
        private_payload: None,
        state: JobState::Open(Stage::Running),
    };
    let provider = Job {
        role: Role::Provider,
        ..consumer.clone()
    };
    Sides {
        key,
        consumer,
        provider,
    }
}

fn reason() -> FailureReason {
    FailureReason::default()
}

fn take(job: &mut Job, change: JobChange) {
    job.state = change.state;
}

impl Sides {
    fn verdict(&self) -> Verdict {
        explain(Some(&self.consumer), Some(&self.provider))
    }

    fn outcome() -> Outcome {
        Outcome {
            public_payload: "{}".into(),
            balance_delta: Some(Wei::from_wei(7)),
            completed_at_sync: NOW,
            completed_at_local: NOW,
        }
    }

    fn complete(&mut self) {
        let change = self
            .provider
            .complete_as_provider(Self::outcome(), None, None);
        take(&mut self.provider, change.unwrap());
    }

    fn sign(&mut self) {
        let hash = self.consumer.outcome_to_hash(&Self::outcome()).hash();
        let signature = hash.sign(&self.key).unwrap();
        let change = self
            .consumer
            .sign_as_consumer(Self::outcome(), signature, None);
        take(&mut self.consumer, change.unwrap());
    }

    fn deliver(&mut self) {
        let hash = self.consumer.hash().unwrap();
        let presented = Presented {
            asker: &self.consumer.consumer,
            hash: &hash.0,
            signature: signature_of(&self.consumer).unwrap(),
        };
        let (_, change) = self.provider.settle(presented, NOW);
        take(&mut self.provider, change.unwrap());
    }

    fn know(&mut self) {
        let JobState::Completed { signature, .. } = &mut self.consumer.state else {
            panic!("it is signed");
        };
        let SignatureState::Undelivered { signature: own, .. } = signature.clone() else {
            panic!("it is not delivered");
        };
        *signature = SignatureState::Confirmed {
            signature: own,
            at_local: NOW,
        };
    }

    fn fail(&mut self, role: Role) {
        let (job, cause) = match role {
            Role::Consumer => (&mut self.consumer, FailureCause::ConsumerGaveUp),
            Role::Provider => (&mut self.provider, FailureCause::ProviderGaveUp),
        };
        let change = job.fail(cause, reason(), NOW).unwrap();
        take(job, change);
    }

    fn hear(&mut self) {
        let asker = self.consumer.consumer;
        let cause = FailureCause::ConsumerGaveUp;
        let (_, change) = self.provider.given_up(&asker, cause, "", NOW);
        if let Some(change) = change {
            take(&mut self.provider, change);
        }
        self.note();
    }

    /// The consumer takes the provider for told.
    fn note(&mut self) {
        if let JobState::Failed(failure) = &mut self.consumer.state {
            failure.notice = Notice::Delivered;
        }
    }
}

#[test]
fn a_job_that_goes_well_is_explained_at_every_step() {
    let mut job = sides();
    assert_eq!(job.verdict(), Explanation::OpenUntilDeadline.into());
    job.complete();
    assert_eq!(job.verdict(), Explanation::OpenUntilDeadline.into());
    job.sign();
    assert_eq!(job.verdict(), Explanation::SignatureUnderWay.into());
    job.deliver();
    assert_eq!(job.verdict(), Explanation::SignatureUnderWay.into());
    job.know();
    assert_eq!(job.verdict(), Agreement::Confirmed.into());
}

#[test]
fn a_job_that_is_given_up_is_explained_at_every_step() {
    let mut job = sides();
    job.fail(Role::Consumer);
    assert_eq!(job.verdict(), Explanation::NoticeUnderWay.into());
    job.hear();
    assert_eq!(job.verdict(), Agreement::Failed.into());
    let mut late = sides();
    late.complete();
    late.fail(Role::Consumer);
    assert_eq!(late.verdict(), Explanation::NoticeUnderWay.into());
    late.hear();
    assert_eq!(late.verdict(), Explanation::Disputed.into());
}

#[test]
fn a_row_alone_is_one_that_owes_nothing() {
    let mut job = sides();
    let open = Explanation::OpenUntilDeadline;
    assert_eq!(explain(Some(&job.consumer), None), open.into());
    assert_eq!(explain(None, Some(&job.provider)), open.into());
    job.fail(Role::Consumer);
    job.fail(Role::Provider);
    let arrived = explain(Some(&job.consumer), None);
    assert_eq!(arrived, Explanation::NeverArrived.into());
    assert_eq!(
        explain(None, Some(&job.provider)),
        Explanation::Refused.into()
    );
    let mut job = sides();
    job.complete();
    assert_eq!(
        explain(None, Some(&job.provider)),
        Violation::UnknownDebt.into()
    );
    job.sign();
    assert_eq!(
        explain(Some(&job.consumer), None),
        Violation::OutcomeLost.into()
    );
    assert_eq!(explain(None, None), Violation::NoRow.into());
}

#[test]
fn what_is_lost_is_a_violation() {
    let mut job = sides();
    job.complete();
    job.sign();
    job.know();
    assert_eq!(job.verdict(), Violation::SignatureLost.into());
    let mut job = sides();
    job.sign();
    assert_eq!(job.verdict(), Violation::OutcomeLost.into());
    job.fail(Role::Provider);
    assert_eq!(job.verdict(), Violation::FailedAndSigned.into());
    let mut job = sides();
    job.fail(Role::Consumer);
    job.note();
    assert_eq!(job.verdict(), Violation::NoticeLost.into());
    job.complete();
    assert_eq!(job.verdict(), Violation::NoticeLost.into());
}

#[test]
fn a_signature_that_one_side_should_not_have_is_a_violation() {
    let mut job = sides();
    job.complete();
    let open = job.consumer.clone();
    job.sign();
    job.deliver();
    let signed = std::mem::replace(&mut job.consumer, open);
    assert_eq!(job.verdict(), Violation::SignatureFromNowhere.into());
    job.fail(Role::Consumer);
    assert_eq!(job.verdict(), Violation::FailedAndSigned.into());
    job.consumer = signed;
    if let JobState::Completed { outcome, .. } = &mut job.consumer.state {
        outcome.balance_delta = None;
    }
    assert_eq!(job.verdict(), Violation::BadSignature.into());
}

#[test]
fn a_typed_refusal_of_a_signature_is_explained() {
    let mut job = sides();
    job.sign();
    job.fail(Role::Provider);
    let JobState::Completed { signature, .. } = &mut job.consumer.state else {
        panic!("it is signed");
    };
    let SignatureState::Undelivered { signature: own, .. } = signature.clone() else {
        panic!("it is not delivered");
    };
    *signature = SignatureState::Refused {
        signature: own,
        error: "AlreadyFailed".into(),
    };
    assert_eq!(job.verdict(), Explanation::SignatureRefused.into());
}

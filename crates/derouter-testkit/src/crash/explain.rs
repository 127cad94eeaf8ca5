//! Whether the two sides of a job fit together once nothing is under way any more. Pure.
//!
//! What may differ is named ([`Explanation`]), and so is what may never be ([`Violation`]).

use derouter_store::market::job::{Failure, Job, JobState, Notice, SignatureState};

/// What the two rows of a job say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides have the same.
    Agreed(Agreement),
    /// They differ, and each knows or will learn why.
    Explained(Explanation),
    /// They contradict each other, or something was lost.
    Violation(Violation),
}

/// What both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Agreement {
    /// The same outcome with the same signature of the consumer.
    Confirmed,
    /// Given up; nothing is owed.
    Failed,
}

/// Why the two sides differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Explanation {
    /// The consumer gave it up, and the provider never heard of it.
    NeverArrived,
    /// The provider took it, and the consumer was told that it is refused; it ended by itself.
    Refused,
    /// The provider completed it, and the consumer says that it will not sign.
    Disputed,
    /// The consumer gave it up, and is about to tell the provider so.
    NoticeUnderWay,
    /// The consumer signed, and is about to deliver that (or its answer was lost).
    SignatureUnderWay,
    /// The consumer signed, and the provider had given the job up for good: a typed refusal.
    SignatureRefused,
    /// A side has it open, until its module or its deadline ends it.
    OpenUntilDeadline,
}

/// What may never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Neither side has a row.
    NoRow,
    /// The rows are of different jobs, or of the wrong sides.
    NotOneJob,
    /// The consumer has the provider's word for its signature, and the provider has no signature.
    SignatureLost,
    /// The provider has a signature that the consumer does not know of.
    SignatureFromNowhere,
    /// One side failed the job and the other has a signature for it.
    FailedAndSigned,
    /// Both have outcomes, of different content.
    OtherOutcome,
    /// Both have signatures, different ones.
    OtherSignature,
    /// A signature is not the consumer's over this outcome.
    BadSignature,
    /// The provider completed a job that the consumer has no row of.
    UnknownDebt,
    /// The consumer signed a job that the provider has no outcome of, and it was not refused.
    OutcomeLost,
    /// The provider answered that it noted the end of a job, and has not.
    NoticeLost,
}

impl From<Agreement> for Verdict {
    fn from(agreement: Agreement) -> Self {
        Self::Agreed(agreement)
    }
}

impl From<Explanation> for Verdict {
    fn from(explanation: Explanation) -> Self {
        Self::Explained(explanation)
    }
}

impl From<Violation> for Verdict {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Verdict {
    /// Its name, for counting.
    pub fn name(&self) -> String {
        match self {
            Self::Agreed(what) => format!("agreed: {what:?}"),
            Self::Explained(what) => format!("explained: {what:?}"),
            Self::Violation(what) => format!("VIOLATION: {what:?}"),
        }
    }
}

/// Compares a consumer's row with its provider's.
pub fn explain(consumer: Option<&Job>, provider: Option<&Job>) -> Verdict {
    match (consumer, provider) {
        (None, None) => Violation::NoRow.into(),
        (None, Some(provider)) => provider_alone(provider),
        (Some(consumer), None) => consumer_alone(consumer),
        (Some(consumer), Some(provider)) => both(consumer, provider),
    }
}

fn provider_alone(provider: &Job) -> Verdict {
    match &provider.state {
        JobState::Open(_) => Explanation::OpenUntilDeadline.into(),
        JobState::Failed(_) => Explanation::Refused.into(),
        JobState::Completed {
            signature: SignatureState::Confirmed { .. },
            ..
        } => Violation::SignatureFromNowhere.into(),
        JobState::Completed { .. } => Violation::UnknownDebt.into(),
    }
}

fn consumer_alone(consumer: &Job) -> Verdict {
    match &consumer.state {
        JobState::Open(_) => Explanation::OpenUntilDeadline.into(),
        JobState::Failed(_) => Explanation::NeverArrived.into(),
        JobState::Completed { .. } => Violation::OutcomeLost.into(),
    }
}

fn both(consumer: &Job, provider: &Job) -> Verdict {
    let same = consumer.key == provider.key
        && consumer.consumer == provider.consumer
        && consumer.offer.payload == provider.offer.payload;
    if !same || consumer.role == provider.role {
        return Violation::NotOneJob.into();
    }
    if !signature_is_good(consumer) || !signature_is_good(provider) {
        return Violation::BadSignature.into();
    }
    match (&consumer.state, &provider.state) {
        (JobState::Open(_), _) if is_signed(provider) => Violation::SignatureFromNowhere.into(),
        (JobState::Open(_), _) => Explanation::OpenUntilDeadline.into(),
        (JobState::Failed(failure), _) => failed(failure, provider),
        (JobState::Completed { signature, .. }, _) => signed(consumer, signature, provider),
    }
}

/// The consumer failed the job.
fn failed(failure: &Failure, provider: &Job) -> Verdict {
    let told = match failure.notice {
        Notice::Undelivered { .. } => Explanation::NoticeUnderWay.into(),
        Notice::Unneeded | Notice::Delivered => Violation::NoticeLost.into(),
    };
    match &provider.state {
        JobState::Failed(_) => Agreement::Failed.into(),
        JobState::Open(_) => told,
        JobState::Completed { signature, .. } => match signature {
            SignatureState::Awaited => told,
            SignatureState::Disputed { .. } => Explanation::Disputed.into(),
            _ => Violation::FailedAndSigned.into(),
        },
    }
}

/// The consumer signed the job.
fn signed(consumer: &Job, signature: &SignatureState, provider: &Job) -> Verdict {
    let theirs = match &provider.state {
        JobState::Completed { signature, .. } => signature,
        JobState::Failed(_) => return signed_and_failed(signature),
        JobState::Open(_) => return Violation::OutcomeLost.into(),
    };
    if consumer.hash() != provider.hash() {
        return Violation::OtherOutcome.into();
    }
    let theirs = match theirs {
        SignatureState::Confirmed { signature, .. } => Some(signature),
        _ => None,
    };
    match (signature, theirs) {
        (_, Some(theirs)) if signature_of(consumer) != Some(theirs) => {
            Violation::OtherSignature.into()
        }
        (SignatureState::Confirmed { .. }, Some(_)) => Agreement::Confirmed.into(),
        (SignatureState::Undelivered { .. }, _) => Explanation::SignatureUnderWay.into(),
        // Refused, though the provider has the outcome, or confirmed, though it has no signature.
        _ => Violation::SignatureLost.into(),
    }
}

fn signed_and_failed(signature: &SignatureState) -> Verdict {
    match signature {
        SignatureState::Refused { error, .. } if error == "AlreadyFailed" => {
            Explanation::SignatureRefused.into()
        }
        _ => Violation::FailedAndSigned.into(),
    }
}

fn is_signed(job: &Job) -> bool {
    signature_of(job).is_some()
}

/// The consumer's signature, where a row has it.
pub fn signature_of(job: &Job) -> Option<&Vec<u8>> {
    let JobState::Completed { signature, .. } = &job.state else {
        return None;
    };
    match signature {
        SignatureState::Awaited | SignatureState::Disputed { .. } => None,
        SignatureState::Undelivered { signature, .. }
        | SignatureState::Refused { signature, .. }
        | SignatureState::Confirmed { signature, .. } => Some(signature),
    }
}

fn signature_is_good(job: &Job) -> bool {
    let Some(signature) = signature_of(job) else {
        return true;
    };
    job.hash()
        .is_some_and(|hash| hash.is_signed_by(&job.consumer, signature))
}

#[cfg(test)]
mod tests;

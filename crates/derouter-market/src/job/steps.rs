//! The steps. Each takes the job as it is and gives the change to make, or says why there is none.

use super::*;

/// How often a provider is told of a failure: for about three days, while a signature is delivered for
/// ever. A provider that comes back later has ended the job by itself.
const NOTICE_ATTEMPTS: u32 = 80;

/// What a refused signature is called in the database and in records.
fn refusal_name(settled: &Settled) -> &'static str {
    match settled {
        Settled::JobNotFound => "JobNotFound",
        Settled::Failed(_) => "AlreadyFailed",
        Settled::OtherHash(_) => "HashMismatch",
        _ => "InvalidSignature",
    }
}

impl Job {
    /// Everything that the job hash covers, once there is an outcome.
    pub fn outcome_to_hash(&self, outcome: &Outcome) -> JobOutcome {
        JobOutcome {
            wire: self.wire,
            key: self.key.clone(),
            consumer: self.consumer,
            protocol_id: self.offer.protocol_id.clone(),
            offer_id: self.offer.offer_id.clone(),
            offer_payload: self.offer.payload.clone(),
            currency: self.currency,
            created_at_sync: self.created_at_sync,
            public_payload: outcome.public_payload.clone(),
            completed_at_sync: outcome.completed_at_sync,
            balance_delta: outcome.balance_delta,
        }
    }

    /// The job hash, once there is an outcome.
    pub fn hash(&self) -> Option<JobHash> {
        match &self.state {
            JobState::Completed { outcome, .. } => Some(self.outcome_to_hash(outcome).hash()),
            JobState::Open(_) | JobState::Failed(_) => None,
        }
    }

    /// Whether it is neither completed nor failed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, JobState::Open(_))
    }

    /// Consumer: the provider has taken the job, and the two sides are joined or not. `None` when that
    /// is known.
    pub fn accepted(&self, created_at_sync: UnixSeconds, joined: bool) -> Option<JobChange> {
        if self.state != JobState::Open(Stage::Created) {
            return None;
        }
        let stage = match joined {
            true => Stage::Running,
            false => Stage::Accepted,
        };
        Some(JobChange {
            created_at_sync: Some(created_at_sync),
            ..JobChange::to(JobState::Open(stage))
        })
    }

    /// The two sides are joined. `None` when they were before, or the job has ended.
    pub fn joined(&self) -> Option<JobChange> {
        (self.state == JobState::Open(Stage::Accepted))
            .then(|| JobChange::to(JobState::Open(Stage::Running)))
    }

    /// Provider: the job is done and this is owed for it. `provider_signature` is over the hash of
    /// [`Job::outcome_to_hash`], on wire 0.2.
    pub fn complete_as_provider(
        &self,
        outcome: Outcome,
        provider_signature: Option<Vec<u8>>,
        private_payload: Option<String>,
    ) -> Result<JobChange, AlreadyEnded> {
        self.check_open()?;
        let state = JobState::Completed {
            outcome,
            signature: SignatureState::Awaited,
            provider_signature,
        };
        Ok(JobChange {
            private_payload,
            ..JobChange::to(state)
        })
    }

    /// Consumer: agrees with the provider's outcome. `signature` is over the hash of
    /// [`Job::outcome_to_hash`].
    pub fn sign_as_consumer(
        &self,
        outcome: Outcome,
        signature: Vec<u8>,
        private_payload: Option<String>,
    ) -> Result<JobChange, NotSigned> {
        self.check_open()?;
        // The hash covers when the provider created it.
        if self.state == JobState::Open(Stage::Created) {
            return Err(NotSigned::NotAccepted);
        }
        let signature = SignatureState::Undelivered {
            signature,
            attempts: 0,
            last_error: None,
        };
        let state = JobState::Completed {
            outcome,
            signature,
            provider_signature: None,
        };
        Ok(JobChange {
            private_payload,
            ..JobChange::to(state)
        })
    }

    /// Gives the job up on this side. A consumer on wire 0.2 has its provider told.
    pub fn fail(
        &self,
        cause: FailureCause,
        reason: FailureReason,
        now: UnixSeconds,
    ) -> Result<JobChange, AlreadyEnded> {
        self.check_open()?;
        let notice = match (self.role, self.wire) {
            (Role::Consumer, JobWire::V0_2) => Notice::Undelivered { attempts: 0 },
            _ => Notice::Unneeded,
        };
        Ok(self.failed(cause, reason, notice, now))
    }

    /// Consumer: the provider says that the job failed there. `None` when it has ended here.
    pub fn learn_failure(&self, cause: FailureCause, now: UnixSeconds) -> Option<JobChange> {
        if self.role != Role::Consumer || !self.is_open() {
            return None;
        }
        let reason = FailureReason {
            reason: format!("the provider says that the job ended: {}", cause.name()),
            reason_class: None,
        };
        Some(self.failed(cause, reason, Notice::Unneeded, now))
    }

    /// Provider: the consumer says that it gave the job up. The answer comes with the change, if
    /// there is one.
    pub fn given_up(
        &self,
        asker: &PeerId,
        cause: FailureCause,
        reason: &str,
        now: UnixSeconds,
    ) -> (Settled, Option<JobChange>) {
        if self.role != Role::Provider || self.consumer != *asker {
            return (Settled::JobNotFound, None);
        }
        let change = match &self.state {
            JobState::Open(_) => {
                let reason = FailureReason {
                    reason: format!("the consumer gave the job up: {reason}"),
                    reason_class: None,
                };
                Some(self.failed(cause, reason, Notice::Unneeded, now))
            }
            JobState::Completed {
                signature: SignatureState::Awaited,
                ..
            } => self.disputed(format!("{}: {reason}", cause.name()), now),
            JobState::Completed {
                signature: SignatureState::Disputed { .. },
                ..
            }
            | JobState::Failed(_) => None,
            JobState::Completed { .. } => return (Settled::AlreadySigned, None),
        };
        (Settled::Noted, change)
    }

    /// Provider: the consumer will not sign. `None` unless its signature is awaited.
    pub fn disputed(&self, reason: String, now: UnixSeconds) -> Option<JobChange> {
        let JobState::Completed {
            signature: SignatureState::Awaited,
            ..
        } = &self.state
        else {
            return None;
        };
        self.resigned(SignatureState::Disputed {
            reason,
            at_local: now,
        })
    }

    /// Provider: a consumer delivers its signature on wire 0.1. The answer for any failure comes
    /// back as `Err`; the checks and their order are that wire's.
    pub fn confirm(
        &self,
        presented: Presented<'_>,
        public_key: &[u8],
        now: UnixSeconds,
    ) -> Result<JobChange, ConfirmJobResult> {
        if self.role != Role::Provider || self.consumer != *presented.asker {
            return Err(ConfirmJobResult::JobNotFound);
        }
        let ours = match &self.state {
            JobState::Completed {
                signature: SignatureState::Confirmed { .. },
                ..
            } => return Err(ConfirmJobResult::AlreadyConfirmed),
            JobState::Completed { outcome, .. } => self.outcome_to_hash(outcome).hash(),
            JobState::Open(_) => return Err(ConfirmJobResult::NotCompletedYet),
            JobState::Failed(_) => return Err(ConfirmJobResult::AlreadyFailed),
        };
        if presented.hash != ours.0 {
            let ours = derouter_wire::cbor::IntArray(ours.0.to_vec());
            return Err(ConfirmJobResult::HashMismatch(ours));
        }
        ours.verify(&self.consumer, public_key, presented.signature)
            .map_err(|error| match error {
                SignatureError::InvalidPublicKey => ConfirmJobResult::InvalidPublicKey,
                _ => ConfirmJobResult::InvalidSignature,
            })?;
        self.confirmed(presented.signature, None, now)
            .ok_or(ConfirmJobResult::UnexpectedResponse)
    }

    /// Provider: a consumer delivers its signature on wire 0.2. The answer comes with the change, if
    /// there is one.
    pub fn settle(
        &self,
        presented: Presented<'_>,
        now: UnixSeconds,
    ) -> (Settled, Option<JobChange>) {
        if self.role != Role::Provider || self.consumer != *presented.asker {
            return (Settled::JobNotFound, None);
        }
        let (outcome, signature, receipt) = match &self.state {
            JobState::Completed {
                outcome,
                signature,
                provider_signature,
            } => (outcome, signature, provider_signature),
            JobState::Open(_) => return (Settled::NotCompleted, None),
            JobState::Failed(failure) => return (Settled::Failed(failure.cause), None),
        };
        let hash = self.outcome_to_hash(outcome).hash();
        if presented.hash != hash.0 {
            return (Settled::OtherHash(bytes(&hash.0)), None);
        }
        let settled = Settled::Signed(bytes(receipt.as_deref().unwrap_or_default()));
        if matches!(signature, SignatureState::Confirmed { .. }) {
            return (settled, None);
        }
        if !hash.is_signed_by(&self.consumer, presented.signature) {
            return (Settled::BadSignature, None);
        }
        (settled, self.confirmed(presented.signature, None, now))
    }

    /// Consumer: what an attempt to tell the provider changes, if anything.
    pub fn delivered(&self, delivery: Delivery, now: UnixSeconds) -> Option<JobChange> {
        match &self.state {
            JobState::Completed {
                signature: SignatureState::Undelivered { .. },
                ..
            } => self.signature_delivered(delivery, now),
            JobState::Failed(failure) => notice_delivered(failure, &delivery),
            _ => None,
        }
    }

    fn signature_delivered(&self, delivery: Delivery, now: UnixSeconds) -> Option<JobChange> {
        let JobState::Completed {
            outcome,
            signature:
                SignatureState::Undelivered {
                    signature,
                    attempts,
                    ..
                },
            ..
        } = &self.state
        else {
            return None;
        };
        let retry = |error: &str| {
            self.resigned(SignatureState::Undelivered {
                signature: signature.clone(),
                attempts: attempts.saturating_add(1),
                last_error: Some(error.into()),
            })
        };
        let refused = |error: &str| {
            self.resigned(SignatureState::Refused {
                signature: signature.clone(),
                error: error.into(),
            })
        };
        match delivery {
            Delivery::Answered(ConfirmJobResult::Ok | ConfirmJobResult::AlreadyConfirmed) => {
                self.confirmed(signature, None, now)
            }
            Delivery::Answered(ConfirmJobResult::NotCompletedYet) => retry("NotCompletedYet"),
            Delivery::Answered(ConfirmJobResult::UnexpectedResponse) => retry("UnexpectedResponse"),
            Delivery::Answered(ConfirmJobResult::JobNotFound) => refused("JobNotFound"),
            Delivery::Answered(ConfirmJobResult::AlreadyFailed) => refused("AlreadyFailed"),
            Delivery::Answered(ConfirmJobResult::HashMismatch(_)) => refused("HashMismatch"),
            Delivery::Answered(ConfirmJobResult::InvalidPublicKey) => refused("InvalidPublicKey"),
            Delivery::Answered(ConfirmJobResult::InvalidSignature) => refused("InvalidSignature"),
            Delivery::Settled(Settled::Signed(receipt)) => {
                let hash = self.outcome_to_hash(outcome).hash();
                // The provider has our signature either way; a bad receipt only proves nothing.
                let fits = hash.is_signed_by(&self.key.provider, &receipt.0);
                self.confirmed(signature, fits.then_some(receipt.0), now)
            }
            Delivery::Settled(Settled::NotCompleted) => retry("NotCompletedYet"),
            Delivery::Settled(
                Settled::NotStored | Settled::Noted | Settled::AlreadySigned | Settled::Unknown,
            ) => retry("UnexpectedResponse"),
            Delivery::Settled(settled) => refused(refusal_name(&settled)),
            Delivery::Unreached(error) => retry(&error),
        }
    }

    /// What the consumer owes and has not signed: a provider's completed, unconfirmed job.
    pub fn unsigned_debt(&self) -> Option<Wei> {
        match &self.state {
            JobState::Completed {
                outcome,
                signature: SignatureState::Awaited | SignatureState::Disputed { .. },
                ..
            } if self.role == Role::Provider => outcome.balance_delta,
            _ => None,
        }
    }

    /// Whether the other side has to be told something that it does not know.
    pub fn has_news(&self) -> bool {
        matches!(
            &self.state,
            JobState::Completed {
                signature: SignatureState::Undelivered { .. },
                ..
            } | JobState::Failed(Failure {
                notice: Notice::Undelivered { .. },
                ..
            })
        )
    }

    /// How often the other side was tried to be told.
    pub fn delivery_attempts(&self) -> u32 {
        match &self.state {
            JobState::Completed {
                signature: SignatureState::Undelivered { attempts, .. },
                ..
            }
            | JobState::Failed(Failure {
                notice: Notice::Undelivered { attempts },
                ..
            }) => *attempts,
            _ => 0,
        }
    }

    fn check_open(&self) -> Result<(), AlreadyEnded> {
        match &self.state {
            JobState::Open(_) => Ok(()),
            JobState::Failed(failure) => Err(AlreadyEnded::Failed(failure.reason.clone())),
            JobState::Completed { outcome, .. } => Err(AlreadyEnded::Completed {
                completed_at_sync: outcome.completed_at_sync,
            }),
        }
    }

    fn failed(
        &self,
        cause: FailureCause,
        reason: FailureReason,
        notice: Notice,
        at_local: UnixSeconds,
    ) -> JobChange {
        JobChange::to(JobState::Failed(Failure {
            cause,
            reason,
            at_local,
            notice,
        }))
    }

    fn confirmed(
        &self,
        signature: &[u8],
        receipt: Option<Vec<u8>>,
        now: UnixSeconds,
    ) -> Option<JobChange> {
        let mut change = self.resigned(SignatureState::Confirmed {
            signature: signature.to_vec(),
            at_local: now,
        })?;
        if let JobState::Completed {
            provider_signature, ..
        } = &mut change.state
            && receipt.is_some()
        {
            *provider_signature = receipt;
        }
        Some(change)
    }

    /// The same outcome with its signature elsewhere.
    fn resigned(&self, signature: SignatureState) -> Option<JobChange> {
        let JobState::Completed {
            outcome,
            provider_signature,
            ..
        } = &self.state
        else {
            return None;
        };
        Some(JobChange::to(JobState::Completed {
            outcome: outcome.clone(),
            signature,
            provider_signature: provider_signature.clone(),
        }))
    }
}

fn bytes(bytes: &[u8]) -> derouter_wire::cbor::Bytes {
    derouter_wire::cbor::Bytes(bytes.to_vec())
}

/// Consumer: what an attempt to tell the provider of a failure changes.
fn notice_delivered(failure: &Failure, delivery: &Delivery) -> Option<JobChange> {
    let Notice::Undelivered { attempts } = failure.notice else {
        return None;
    };
    let attempts = attempts.saturating_add(1);
    let notice = match delivery {
        // By then its own deadlines have ended the job there.
        Delivery::Settled(Settled::NotStored | Settled::Unknown) | Delivery::Unreached(_)
            if attempts >= NOTICE_ATTEMPTS =>
        {
            Notice::Unneeded
        }
        // Whatever it has instead, it has heard: a job that it does not know needs no end.
        Delivery::Settled(Settled::NotStored | Settled::Unknown) | Delivery::Unreached(_) => {
            Notice::Undelivered { attempts }
        }
        Delivery::Settled(_) | Delivery::Answered(_) => Notice::Delivered,
    };
    Some(JobChange::to(JobState::Failed(Failure {
        notice,
        ..failure.clone()
    })))
}

impl JobChange {
    /// A new state and nothing else.
    pub fn to(state: JobState) -> Self {
        Self {
            state,
            private_payload: None,
            created_at_sync: None,
        }
    }
}

/// How long to wait before delivering a signature again, in seconds: doubling from 2 s to one
/// hour. The caller adds jitter.
pub fn delivery_backoff_secs(attempts: u32) -> u64 {
    const FIRST: u64 = 2;
    const LONGEST: u64 = 3600;
    // Twelve doublings are over the longest wait; more would shift the bit out.
    let doublings = attempts.saturating_sub(1).min(12);
    (FIRST << doublings).min(LONGEST)
}

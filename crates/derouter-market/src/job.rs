//! A job as one of its sides has it, and every step it can take.
//!
//! ```text
//! provider: Open -> Completed (awaits the signature) -> Confirmed
//! consumer: Open -> Signed (undelivered) -> Confirmed | Refused
//! both:     Open -> Failed
//! ```
//! Invariants: an ended job never opens again; a job that is signed never fails, and one that
//! failed is never signed; the outcome that the hash covers never changes once it is set; a step
//! that is taken twice has the effect of once.

use derouter_wire::job::{JobHash, JobOutcome, SignatureError};
use derouter_wire::reqres::ConfirmJobResult;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{
    Currency, JobKey, OfferId, PeerId, ProtocolId, RowId, SnapshotId, UnixSeconds, Wei,
};

/// On which side of a job this node is. On its own offers it has a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It pays.
    Consumer,
    /// It serves.
    Provider,
}

/// The offer of a job, as it was when the job was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOffer {
    /// The snapshot on this node.
    pub snapshot_id: SnapshotId,
    /// Its protocol.
    pub protocol_id: ProtocolId,
    /// Its name with its provider.
    pub offer_id: OfferId,
    /// Its payload, byte for byte.
    pub payload: String,
}

/// A job as this side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its row on this node.
    pub row_id: RowId,
    /// This node's side.
    pub role: Role,
    /// Provider and job id.
    pub key: JobKey,
    /// Who pays.
    pub consumer: PeerId,
    /// What was bought.
    pub offer: JobOffer,
    /// What it is paid in.
    pub currency: Currency,
    /// When the provider created it.
    pub created_at_sync: UnixSeconds,
    /// When this side made its row, by our clock.
    pub created_at_local: UnixSeconds,
    /// What this side keeps for itself.
    pub private_payload: Option<String>,
    /// Where it stands.
    pub state: JobState,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Neither completed nor failed.
    Open,
    /// Given up; nothing is owed.
    Failed {
        /// Why.
        failure: FailureReason,
        /// When, by our clock.
        at_local: UnixSeconds,
    },
    /// It has an outcome.
    Completed {
        /// What both sides agree on.
        outcome: Outcome,
        /// Where the consumer's signature is.
        signature: SignatureState,
    },
}

/// The part of a job's outcome that its creation does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is public.
    pub public_payload: String,
    /// What is owed; `None` for a free job.
    pub balance_delta: Option<Wei>,
    /// When the provider completed it.
    pub completed_at_sync: UnixSeconds,
    /// When this side did, by our clock.
    pub completed_at_local: UnixSeconds,
}

/// Where the consumer's signature over the job hash is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureState {
    /// Provider: not here yet.
    Awaited,
    /// Consumer: signed, and not yet known to be with the provider.
    Undelivered {
        /// Over the job hash.
        signature: Vec<u8>,
        /// How often delivery was tried.
        attempts: u32,
        /// What went wrong the latest time.
        last_error: Option<String>,
    },
    /// Consumer: the provider said that it will never take it.
    Refused {
        /// Over the job hash.
        signature: Vec<u8>,
        /// What it said.
        error: String,
    },
    /// With the provider, known to both.
    Confirmed {
        /// Over the job hash.
        signature: Vec<u8>,
        /// When this side learnt of it, by our clock.
        at_local: UnixSeconds,
    },
}

/// What a step makes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobChange {
    /// The new state.
    pub state: JobState,
    /// A new private payload; `None` leaves the old one.
    pub private_payload: Option<String>,
}

/// Why a job can't be ended this way: it has ended already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlreadyEnded {
    /// It has an outcome.
    #[error("the job is completed already")]
    Completed {
        /// When the provider completed it.
        completed_at_sync: UnixSeconds,
    },
    /// It was given up.
    #[error("the job has failed before: {}", .0.reason)]
    Failed(FailureReason),
}

/// What became of an attempt to deliver a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The provider answered.
    Answered(ConfirmJobResult),
    /// It can't be reached, or its answer makes no sense.
    Unreached(String),
}

impl Job {
    /// Everything that the job hash covers, once there is an outcome.
    pub fn outcome_to_hash(&self, outcome: &Outcome) -> JobOutcome {
        JobOutcome {
            key: self.key.clone(),
            consumer: self.consumer,
            protocol_id: self.offer.protocol_id.clone(),
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
            JobState::Open | JobState::Failed { .. } => None,
        }
    }

    /// Provider: the job is done and this is owed for it.
    pub fn complete_as_provider(
        &self,
        outcome: Outcome,
        private_payload: Option<String>,
    ) -> Result<JobChange, AlreadyEnded> {
        self.check_open()?;
        let state = JobState::Completed {
            outcome,
            signature: SignatureState::Awaited,
        };
        Ok(JobChange {
            state,
            private_payload,
        })
    }

    /// Consumer: agrees with the provider's outcome. `signature` is over the hash of
    /// [`Job::outcome_to_hash`].
    pub fn sign_as_consumer(
        &self,
        outcome: Outcome,
        signature: Vec<u8>,
        private_payload: Option<String>,
    ) -> Result<JobChange, AlreadyEnded> {
        self.check_open()?;
        let signature = SignatureState::Undelivered {
            signature,
            attempts: 0,
            last_error: None,
        };
        Ok(JobChange {
            state: JobState::Completed { outcome, signature },
            private_payload,
        })
    }

    /// Gives the job up.
    pub fn fail(
        &self,
        failure: FailureReason,
        private_payload: Option<String>,
        now: UnixSeconds,
    ) -> Result<JobChange, AlreadyEnded> {
        self.check_open()?;
        Ok(JobChange {
            state: JobState::Failed {
                failure,
                at_local: now,
            },
            private_payload,
        })
    }

    /// Provider: a consumer delivers its signature. The answer for any failure comes back as
    /// `Err`; the checks and their order are wire 0.1's.
    pub fn confirm(
        &self,
        asker: &PeerId,
        hash: &[u8],
        public_key: &[u8],
        signature: &[u8],
        now: UnixSeconds,
    ) -> Result<JobChange, ConfirmJobResult> {
        if self.role != Role::Provider || self.consumer != *asker {
            return Err(ConfirmJobResult::JobNotFound);
        }
        let outcome = match &self.state {
            JobState::Completed {
                signature: SignatureState::Confirmed { .. },
                ..
            } => {
                return Err(ConfirmJobResult::AlreadyConfirmed);
            }
            JobState::Completed { outcome, .. } => outcome,
            JobState::Open => return Err(ConfirmJobResult::NotCompletedYet),
            JobState::Failed { .. } => return Err(ConfirmJobResult::AlreadyFailed),
        };
        let ours = self.outcome_to_hash(outcome).hash();
        if hash != ours.0 {
            let ours = derouter_wire::cbor::IntArray(ours.0.to_vec());
            return Err(ConfirmJobResult::HashMismatch(ours));
        }
        ours.verify(&self.consumer, public_key, signature)
            .map_err(|error| match error {
                SignatureError::InvalidPublicKey => ConfirmJobResult::InvalidPublicKey,
                _ => ConfirmJobResult::InvalidSignature,
            })?;
        Ok(self.confirmed(outcome, signature, now))
    }

    /// Consumer: what an attempt to deliver the signature changes, if anything.
    pub fn delivered(&self, delivery: Delivery, now: UnixSeconds) -> Option<JobChange> {
        let JobState::Completed {
            outcome,
            signature:
                SignatureState::Undelivered {
                    signature,
                    attempts,
                    ..
                },
        } = &self.state
        else {
            return None;
        };
        let retry = |error: String| SignatureState::Undelivered {
            signature: signature.clone(),
            attempts: attempts.saturating_add(1),
            last_error: Some(error),
        };
        let refused = |error: &str| SignatureState::Refused {
            signature: signature.clone(),
            error: error.into(),
        };
        let next = match delivery {
            Delivery::Answered(ConfirmJobResult::Ok | ConfirmJobResult::AlreadyConfirmed) => {
                return Some(self.confirmed(outcome, signature, now));
            }
            Delivery::Answered(ConfirmJobResult::NotCompletedYet) => {
                retry("NotCompletedYet".into())
            }
            Delivery::Answered(ConfirmJobResult::UnexpectedResponse) => {
                retry("UnexpectedResponse".into())
            }
            Delivery::Answered(ConfirmJobResult::JobNotFound) => refused("JobNotFound"),
            Delivery::Answered(ConfirmJobResult::AlreadyFailed) => refused("AlreadyFailed"),
            Delivery::Answered(ConfirmJobResult::HashMismatch(_)) => refused("HashMismatch"),
            Delivery::Answered(ConfirmJobResult::InvalidPublicKey) => refused("InvalidPublicKey"),
            Delivery::Answered(ConfirmJobResult::InvalidSignature) => refused("InvalidSignature"),
            Delivery::Unreached(error) => retry(error),
        };
        let state = JobState::Completed {
            outcome: outcome.clone(),
            signature: next,
        };
        Some(JobChange {
            state,
            private_payload: None,
        })
    }

    /// What the consumer owes and has not signed: a provider's completed, unconfirmed job.
    pub fn unsigned_debt(&self) -> Option<Wei> {
        match &self.state {
            JobState::Completed {
                outcome,
                signature: SignatureState::Awaited,
            } if self.role == Role::Provider => outcome.balance_delta,
            _ => None,
        }
    }

    fn check_open(&self) -> Result<(), AlreadyEnded> {
        match &self.state {
            JobState::Open => Ok(()),
            JobState::Failed { failure, .. } => Err(AlreadyEnded::Failed(failure.clone())),
            JobState::Completed { outcome, .. } => Err(AlreadyEnded::Completed {
                completed_at_sync: outcome.completed_at_sync,
            }),
        }
    }

    fn confirmed(&self, outcome: &Outcome, signature: &[u8], now: UnixSeconds) -> JobChange {
        let signature = SignatureState::Confirmed {
            signature: signature.to_vec(),
            at_local: now,
        };
        let state = JobState::Completed {
            outcome: outcome.clone(),
            signature,
        };
        JobChange {
            state,
            private_payload: None,
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

#[cfg(test)]
mod tests;

//! What either side shows a third party: the whole outcome and both signatures over its hash.

use serde::{Deserialize, Serialize};

use super::{JobOutcome, JobWire};
use crate::cbor::peer_id;
use crate::{Currency, JobId, JobKey, OfferId, PeerId, ProtocolId, UnixSeconds, Wei};

/// The one layout of proofs so far.
const FORMAT: &str = "derouter/job-proof/1";

/// A proof as it stands in a file: JSON, hashes and signatures in hex, amounts in decimal wei.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobProof {
    format: String,
    wire: String,
    #[serde(with = "peer_id")]
    consumer: PeerId,
    #[serde(with = "peer_id")]
    provider: PeerId,
    job_id: JobId,
    protocol_id: ProtocolId,
    offer_id: OfferId,
    offer_payload: String,
    currency: String,
    created_at: UnixSeconds,
    completed_at: UnixSeconds,
    public_payload: String,
    balance_delta: Option<String>,
    hash: String,
    consumer_signature: Option<String>,
    provider_signature: Option<String>,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The outcome that was signed.
    pub outcome: JobOutcome,
    /// The consumer signed it: it owes what the outcome says.
    pub by_consumer: bool,
    /// The provider signed it: it serves, and takes, no other outcome.
    pub by_provider: bool,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is of another program or a later version.
    #[error("it is no proof that this version reads: {0:?}")]
    UnknownFormat(String),
    /// A field can't be read.
    #[error("its {0} can't be read")]
    BadField(&'static str),
    /// The hash in it is another than that of its fields: one of them was changed.
    #[error("its fields do not give its hash: something in it was changed")]
    HashMismatch,
    /// A signature in it does not fit.
    #[error("the signature of the {0} does not fit")]
    BadSignature(&'static str),
    /// It holds no signature.
    #[error("nobody has signed it")]
    Unsigned,
}

impl JobProof {
    /// A proof of an outcome with the signatures that are there.
    pub fn new(
        outcome: &JobOutcome,
        consumer_signature: Option<&[u8]>,
        provider_signature: Option<&[u8]>,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            wire: wire_text(outcome.wire).into(),
            consumer: outcome.consumer,
            provider: outcome.key.provider,
            job_id: outcome.key.job_id.clone(),
            protocol_id: outcome.protocol_id.clone(),
            offer_id: outcome.offer_id.clone(),
            offer_payload: outcome.offer_payload.clone(),
            currency: outcome.currency.code().into(),
            created_at: outcome.created_at_sync,
            completed_at: outcome.completed_at_sync,
            public_payload: outcome.public_payload.clone(),
            balance_delta: outcome.balance_delta.map(|wei| wei.to_string()),
            hash: hex::encode(outcome.hash().0),
            consumer_signature: consumer_signature.map(hex::encode),
            provider_signature: provider_signature.map(hex::encode),
        }
    }

    /// Checks everything that can be checked without asking anybody. A signature that is there and
    /// does not fit makes the whole proof worthless.
    pub fn verify(&self) -> Result<Proven, ProofError> {
        let outcome = self.outcome()?;
        let hash = outcome.hash();
        if self.hash != hex::encode(hash.0) {
            return Err(ProofError::HashMismatch);
        }
        let check = |signature: &Option<String>, peer: &PeerId, who: &'static str| {
            let Some(text) = signature else {
                return Ok(false);
            };
            let bytes = hex::decode(text).map_err(|_| ProofError::BadSignature(who))?;
            match hash.is_signed_by(peer, &bytes) {
                true => Ok(true),
                false => Err(ProofError::BadSignature(who)),
            }
        };
        let by_consumer = check(&self.consumer_signature, &self.consumer, "consumer")?;
        let by_provider = check(&self.provider_signature, &self.provider, "provider")?;
        if !by_consumer && !by_provider {
            return Err(ProofError::Unsigned);
        }
        Ok(Proven {
            outcome,
            by_consumer,
            by_provider,
        })
    }

    fn outcome(&self) -> Result<JobOutcome, ProofError> {
        if self.format != FORMAT {
            return Err(ProofError::UnknownFormat(self.format.clone()));
        }
        let balance = self.balance_delta.as_deref();
        let balance = balance.map(str::parse::<Wei>).transpose();
        Ok(JobOutcome {
            wire: wire_of(&self.wire).ok_or(ProofError::BadField("wire"))?,
            key: JobKey {
                provider: self.provider,
                job_id: self.job_id.clone(),
            },
            consumer: self.consumer,
            protocol_id: self.protocol_id.clone(),
            offer_id: self.offer_id.clone(),
            offer_payload: self.offer_payload.clone(),
            currency: Currency::from_code(&self.currency)
                .ok_or(ProofError::BadField("currency"))?,
            created_at_sync: self.created_at,
            public_payload: self.public_payload.clone(),
            completed_at_sync: self.completed_at,
            balance_delta: balance.map_err(|_| ProofError::BadField("balance_delta"))?,
        })
    }
}

fn wire_text(wire: JobWire) -> &'static str {
    match wire {
        JobWire::V0_1 => "0.1",
        JobWire::V0_2 => "0.2",
    }
}

fn wire_of(text: &str) -> Option<JobWire> {
    match text {
        "0.1" => Some(JobWire::V0_1),
        "0.2" => Some(JobWire::V0_2),
        _ => None,
    }
}

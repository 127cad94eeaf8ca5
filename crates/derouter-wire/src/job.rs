//! The job hash, in the layouts of both wires, the signatures over it, and proofs of an outcome.

mod proof;

use libp2p_identity::{Keypair, PublicKey};
use sha2::{Digest, Sha256};

use crate::id::ed25519_key;
use crate::{Currency, JobKey, OfferId, PeerId, ProtocolId, UnixSeconds, Wei};

pub use proof::{JobProof, ProofError, Proven};

/// What a job hash of wire 0.2 begins with, so that a signature over it is one over nothing else.
pub const OUTCOME_DOMAIN: &[u8] = b"derouter/job-outcome/0.2\0";

/// The wire on which a job was created. It decides the layout of its hash, for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JobWire {
    /// The provider chose the job's id, and the hash joins fields without their lengths.
    #[default]
    V0_1,
    /// The consumer chose the id, both sides sign, and the hash is unambiguous.
    V0_2,
}

/// What both sides agree on of a completed job; the hash covers all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutcome {
    /// The layout of the hash.
    pub wire: JobWire,
    /// Provider and job id.
    pub key: JobKey,
    /// Who owes.
    pub consumer: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name with its provider. Only the hash of wire 0.2 covers it.
    pub offer_id: OfferId,
    /// The offer's payload, byte for byte.
    pub offer_payload: String,
    /// What is owed in.
    pub currency: Currency,
    /// When the provider created the job.
    pub created_at_sync: UnixSeconds,
    /// What is public of the outcome.
    pub public_payload: String,
    /// When the provider completed the job.
    pub completed_at_sync: UnixSeconds,
    /// What the consumer owes; `None` for a free job.
    pub balance_delta: Option<Wei>,
}

/// SHA-256 over a [`JobOutcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobHash(pub [u8; 32]);

/// Why a confirmation's key or signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The key can't be read, or its peer id is not the consumer's.
    #[error("the public key can't be read or is not the consumer's")]
    InvalidPublicKey,
    /// The signature does not fit hash and key.
    #[error("the signature does not fit the job hash")]
    InvalidSignature,
}

impl JobOutcome {
    /// The hash that both sides sign.
    pub fn hash(&self) -> JobHash {
        match self.wire {
            JobWire::V0_1 => self.hash_0_1(),
            JobWire::V0_2 => self.hash_0_2(),
        }
    }

    /// A plain concatenation of the fields, the balance as the hex of its decimal text.
    fn hash_0_1(&self) -> JobHash {
        let mut hasher = Sha256::new();
        hasher.update(self.consumer.to_bytes());
        hasher.update(self.key.provider.to_bytes());
        hasher.update(self.protocol_id.as_str());
        hasher.update(&self.offer_payload);
        hasher.update(self.currency.code());
        hasher.update(self.key.job_id.as_str());
        hasher.update(self.created_at_sync.to_string());
        hasher.update(&self.public_payload);
        hasher.update(self.completed_at_sync.to_string());
        if let Some(balance) = self.balance_delta {
            hasher.update(hex::encode(balance.to_string()));
        }
        JobHash(hasher.finalize().into())
    }

    /// [`OUTCOME_DOMAIN`], then each field behind its length in bytes (`u64` big-endian): consumer,
    /// provider (multihash bytes), job id, protocol id, offer id, offer payload, currency code,
    /// created at (`u64` big-endian), public payload, completed at, and the balance in decimal
    /// text, which is empty for a free job (that of an owed zero is `0`).
    fn hash_0_2(&self) -> JobHash {
        let balance = self.balance_delta.map(|wei| wei.to_string());
        let fields: [&[u8]; 11] = [
            &self.consumer.to_bytes(),
            &self.key.provider.to_bytes(),
            self.key.job_id.as_str().as_bytes(),
            self.protocol_id.as_str().as_bytes(),
            self.offer_id.as_str().as_bytes(),
            self.offer_payload.as_bytes(),
            self.currency.code().as_bytes(),
            &self.created_at_sync.0.to_be_bytes(),
            self.public_payload.as_bytes(),
            &self.completed_at_sync.0.to_be_bytes(),
            balance.as_deref().unwrap_or_default().as_bytes(),
        ];
        let mut hasher = Sha256::new();
        hasher.update(OUTCOME_DOMAIN);
        for field in fields {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            hasher.update(length.to_be_bytes());
            hasher.update(field);
        }
        JobHash(hasher.finalize().into())
    }
}

impl JobHash {
    /// Signs with the peer key of one side. `None` only for key types that can't sign here; ours
    /// are Ed25519.
    pub fn sign(&self, keypair: &Keypair) -> Option<Vec<u8>> {
        keypair.sign(&self.0).ok()
    }

    /// Checks a confirmation: the key (libp2p protobuf) belongs to `consumer`, and the signature
    /// is that key's over this hash.
    pub fn verify(
        &self,
        consumer: &PeerId,
        public_key: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let key = PublicKey::try_decode_protobuf(public_key)
            .map_err(|_| SignatureError::InvalidPublicKey)?;
        if key.to_peer_id() != *consumer {
            return Err(SignatureError::InvalidPublicKey);
        }
        if key.verify(&self.0, signature) {
            Ok(())
        } else {
            Err(SignatureError::InvalidSignature)
        }
    }

    /// Whether a peer signed this hash; its id must hold its Ed25519 key, as those of 0.2 do.
    pub fn is_signed_by(&self, peer: &PeerId, signature: &[u8]) -> bool {
        ed25519_key(peer).is_some_and(|key| key.verify(&self.0, signature))
    }
}

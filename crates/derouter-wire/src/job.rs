//! The job hash, and the consumer's signature over it (wire 0.1).

use libp2p_identity::{Keypair, PublicKey};
use sha2::{Digest, Sha256};

use crate::{Currency, JobKey, PeerId, ProtocolId, UnixSeconds, Wei};

/// What both sides agree on of a completed job; the hash covers all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutcome {
    /// Provider and job id.
    pub key: JobKey,
    /// Who owes.
    pub consumer: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
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
    /// The hash of wire 0.1: a plain concatenation of the fields, the balance as the hex of its
    /// decimal text.
    pub fn hash(&self) -> JobHash {
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
}

impl JobHash {
    /// Signs with the consumer's peer key. `None` only for key types that can't sign here; ours
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
}

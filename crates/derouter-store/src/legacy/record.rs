//! Rows of a 0.1.0 database as ours. Pure but for reading the row.

use derouter_market::job::{Failure, Notice, Outcome, SignatureState, Stage};
use derouter_market::{JobState, Role};
use derouter_wire::job::{JobOutcome, JobWire};
use derouter_wire::jobs::FailureCause;
use derouter_wire::rpc::record::{FailureReason, parse_hex_balance};
use derouter_wire::{Currency, JobId, JobKey, OfferId, PeerId, ProtocolId, UnixSeconds, Wei};
use rusqlite::Row;
use rusqlite::types::Value;

use super::time;
use crate::announcements::ProviderRow;

/// What a row lacks.
pub(super) type Nonsense = String;

fn nonsense(error: impl std::fmt::Display) -> Nonsense {
    error.to_string()
}

/// A time as 0.1.0 wrote it.
fn timestamp(value: &Value) -> Option<UnixSeconds> {
    match value {
        Value::Text(text) => time::parse(text),
        Value::Integer(seconds) => u64::try_from(*seconds).ok().map(UnixSeconds),
        Value::Null | Value::Real(_) | Value::Blob(_) => None,
    }
}

pub(super) const PEERS: &str = "SELECT peer_id, provider_name, provider_teaser,
    provider_description, their_provider_updated_at, their_latest_heartbeat_timestamp,
    our_latest_heartbeat_timestamp FROM peers";

/// A provider. `None` for a peer of which nothing was ever heard.
pub(super) fn provider(row: &Row<'_>) -> Result<Option<ProviderRow>, Nonsense> {
    let column = |index| row.get::<_, Value>(index).map_err(nonsense);
    let Some(updated_at) = timestamp(&column(4)?) else {
        return Ok(None);
    };
    let id: String = row.get(0).map_err(nonsense)?;
    Ok(Some(ProviderRow {
        peer: id.parse().map_err(nonsense)?,
        name: row.get(1).map_err(nonsense)?,
        teaser: row.get(2).map_err(nonsense)?,
        description: row.get(3).map_err(nonsense)?,
        updated_at,
        heartbeat_timestamp: timestamp(&column(5)?).unwrap_or(updated_at),
        heard_at: timestamp(&column(6)?).unwrap_or_default(),
    }))
}

/// An offer as it was at some time.
pub(super) struct Offer {
    pub(super) provider: PeerId,
    pub(super) protocol_id: ProtocolId,
    pub(super) offer_id: OfferId,
    pub(super) payload: String,
}

pub(super) const OFFERS: &str =
    "SELECT provider_peer_id, protocol_id, offer_id, protocol_payload FROM offer_snapshots";

/// An offer in the columns from `first` on.
pub(super) fn offer(row: &Row<'_>, first: usize) -> Result<Offer, Nonsense> {
    let text = |offset: usize| {
        row.get::<_, String>(first.saturating_add(offset))
            .map_err(nonsense)
    };
    Ok(Offer {
        provider: text(0)?.parse().map_err(nonsense)?,
        protocol_id: ProtocolId::new(text(1)?).map_err(nonsense)?,
        offer_id: OfferId::new(text(2)?).map_err(nonsense)?,
        payload: text(3)?,
    })
}

pub(super) const JOBS: &str = "SELECT j.rowid, j.consumer_peer_id, j.currency, j.job_args,
    j.provider_job_id, j.private_payload, j.reason, j.reason_class, j.created_at_local,
    j.created_at_sync, j.completed_at_local, j.completed_at_sync, j.public_payload,
    j.balance_delta, j.hash IS NOT NULL, j.consumer_signature, j.signature_confirmed_at_local,
    j.confirmation_error,
    s.provider_peer_id, s.protocol_id, s.offer_id, s.protocol_payload
    FROM service_jobs j LEFT JOIN offer_snapshots s ON s.rowid = j.offer_snapshot_rowid
    ORDER BY j.rowid";

/// A job as 0.1.0 had it: six options where we have a state.
pub(super) struct LegacyJob {
    pub(super) key: JobKey,
    pub(super) consumer: PeerId,
    pub(super) offer: Offer,
    pub(super) currency: Currency,
    pub(super) job_args: Option<String>,
    pub(super) private_payload: Option<String>,
    pub(super) created_at_sync: UnixSeconds,
    pub(super) created_at_local: UnixSeconds,
    reason: Option<String>,
    reason_class: Option<i64>,
    completed_at_local: Option<UnixSeconds>,
    completed_at_sync: Option<UnixSeconds>,
    public_payload: Option<String>,
    balance_delta: Option<String>,
    /// Only a consumer kept the hash, and only a consumer wrote the balance as hex.
    has_hash: bool,
    signature: Option<Vec<u8>>,
    /// When, if that can be read.
    confirmed: Option<Option<UnixSeconds>>,
    confirmation_error: Option<String>,
}

impl LegacyJob {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Nonsense> {
        let text = |index: usize| row.get::<_, Option<String>>(index).map_err(nonsense);
        let at = |index: usize| row.get::<_, Value>(index).map_err(nonsense);
        let offer = offer(row, 18)?;
        let currency = row.get::<_, i64>(2).map_err(nonsense)?;
        let currency = u64::try_from(currency).ok().and_then(Currency::from_number);
        let job_id = JobId::new(text(4)?.unwrap_or_default()).map_err(nonsense)?;
        let created_at_sync = timestamp(&at(9)?).ok_or("created_at_sync is no time")?;
        let confirmed = at(16)?;
        Ok(Self {
            key: JobKey {
                provider: offer.provider,
                job_id,
            },
            consumer: text(1)?.unwrap_or_default().parse().map_err(nonsense)?,
            offer,
            currency: currency.ok_or("unknown currency")?,
            job_args: text(3)?,
            private_payload: text(5)?,
            created_at_sync,
            created_at_local: timestamp(&at(8)?).unwrap_or(created_at_sync),
            reason: text(6)?,
            reason_class: row.get(7).map_err(nonsense)?,
            completed_at_local: timestamp(&at(10)?),
            completed_at_sync: timestamp(&at(11)?),
            public_payload: text(12)?,
            balance_delta: text(13)?,
            has_hash: row.get(14).map_err(nonsense)?,
            signature: row.get(15).map_err(nonsense)?,
            confirmed: (confirmed != Value::Null).then(|| timestamp(&confirmed)),
            confirmation_error: text(17)?,
        })
    }

    /// On which sides of this job a peer is.
    pub(super) fn roles(&self, local_peer: &PeerId) -> Vec<Role> {
        let consumer = (self.consumer == *local_peer).then_some(Role::Consumer);
        let provider = (self.key.provider == *local_peer).then_some(Role::Provider);
        consumer.into_iter().chain(provider).collect()
    }

    /// The job's state, and whether a signature fits what it signs (`None` without one).
    pub(super) fn state(&self, role: Role) -> Result<(JobState, Option<bool>), Nonsense> {
        let ended_local = self.completed_at_local.or(self.completed_at_sync);
        if let Some(reason) = &self.reason {
            let cause = match role {
                Role::Consumer => FailureCause::ConsumerGaveUp,
                Role::Provider => FailureCause::ProviderGaveUp,
            };
            let reason = FailureReason {
                reason: reason.clone(),
                reason_class: self.reason_class,
            };
            let at_local = ended_local.unwrap_or(self.created_at_local);
            let failure = Failure {
                cause,
                reason,
                at_local,
                notice: Notice::Unneeded,
            };
            return Ok((JobState::Failed(failure), None));
        }
        let Some(completed_at_sync) = self.completed_at_sync else {
            return Ok((JobState::Open(Stage::Accepted), None));
        };
        let mut outcome = Outcome {
            public_payload: self
                .public_payload
                .clone()
                .ok_or("public_payload is missing")?,
            balance_delta: None,
            completed_at_sync,
            completed_at_local: ended_local.unwrap_or(completed_at_sync),
        };
        let fits = self.choose_balance(role, &mut outcome)?;
        let signature = self.signature_state(role, fits, completed_at_sync)?;
        let state = JobState::Completed {
            outcome,
            signature,
            provider_signature: None,
        };
        Ok((state, fits))
    }

    /// Reads the balance the way this side wrote it, unless only the other way fits the signature.
    fn choose_balance(&self, role: Role, outcome: &mut Outcome) -> Result<Option<bool>, Nonsense> {
        let Some(text) = &self.balance_delta else {
            return Ok(self.signature_fits(outcome));
        };
        let own_offer = self.consumer == self.key.provider;
        let as_hex = if own_offer {
            self.has_hash
        } else {
            role == Role::Consumer
        };
        let (hex, decimal) = (parse_hex_balance(text), text.parse::<Wei>().ok());
        let readings = if as_hex {
            [hex, decimal]
        } else {
            [decimal, hex]
        };
        let mut readings = readings.into_iter().flatten();
        let first = readings.next().ok_or("balance_delta is no amount")?;
        outcome.balance_delta = Some(first);
        let fits = self.signature_fits(outcome);
        if fits == Some(false)
            && let Some(other) = readings.next()
        {
            let second = Outcome {
                balance_delta: Some(other),
                ..outcome.clone()
            };
            if self.signature_fits(&second) == Some(true) {
                *outcome = second;
                return Ok(Some(true));
            }
        }
        Ok(fits)
    }

    fn signature_fits(&self, outcome: &Outcome) -> Option<bool> {
        let signature = self.signature.as_deref()?;
        let hash = JobOutcome {
            wire: JobWire::V0_1,
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
        .hash();
        let key = embedded_key(&self.consumer);
        Some(key.is_some_and(|key| hash.verify(&self.consumer, &key, signature).is_ok()))
    }

    fn signature_state(
        &self,
        role: Role,
        fits: Option<bool>,
        completed_at_sync: UnixSeconds,
    ) -> Result<SignatureState, Nonsense> {
        let confirmed_at = self.confirmed.map(|at| at.unwrap_or(completed_at_sync));
        match (&self.signature, confirmed_at, role) {
            (Some(signature), Some(at_local), _) => Ok(SignatureState::Confirmed {
                signature: signature.clone(),
                at_local,
            }),
            (Some(signature), None, Role::Consumer) => {
                let misfit = "the signature does not fit the job hash";
                let last_error = self.confirmation_error.clone();
                let last_error = last_error.or((fits == Some(false)).then(|| misfit.into()));
                let signature = signature.clone();
                Ok(SignatureState::Undelivered {
                    signature,
                    attempts: 0,
                    last_error,
                })
            }
            (None, _, Role::Consumer) => Err("a completed job without our signature".into()),
            (_, _, Role::Provider) => Ok(SignatureState::Awaited),
        }
    }
}

/// The public key (libp2p protobuf) that the peer id of an Ed25519 key embeds: an identity
/// multihash (code 0, length, key).
pub(crate) fn embedded_key(peer: &PeerId) -> Option<Vec<u8>> {
    match peer.to_bytes().as_slice() {
        [0, _len, key @ ..] => Some(key.to_vec()),
        _ => None,
    }
}

//! What a new consumer may have for nothing.
//!
//! An offer's `trial` is an amount. As long as what a consumer had for nothing at the offer and the price of its
//! next answer are within that together, the answer is free; else it is paid in full, and what is left
//! stays for a smaller one. So each bill is either all or nothing: a part would be a price that no consumer
//! of 0.1 can check. A peer id costs nothing, so whoever takes many of them tries many times: a trial
//! is a gift, not a limit.
//!
//! What was free is read from the node's own job records when a consumer comes for the first time in a run.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use derouter_sdk::{JobFilter, JobQuery, JobRecord, Node, NodeError, OfferId, PeerId, Wei};
use serde_json::Value;

use crate::protocol::{OfferPayload, Usage};

/// Consumers that are remembered, for each offer. Others are read from the records again.
const MAX_REMEMBERED: usize = 4_096;

/// Jobs of one consumer that are looked through. One that has more is not new.
const MAX_JOBS: usize = 1000;

/// Jobs of one page.
const PAGE: u32 = 100;

/// Who tries what.
type Taster = (PeerId, OfferId);

/// What each consumer had for nothing.
#[derive(Debug, Default)]
pub(super) struct Trials {
    had: Mutex<HashMap<Taster, Wei>>,
}

/// An answer at an offer with a trial.
pub(super) struct Tasting<'a> {
    /// The provider: this node.
    pub(super) provider: PeerId,
    pub(super) consumer: PeerId,
    pub(super) offer_id: &'a OfferId,
    pub(super) trial: Wei,
    pub(super) cost: Wei,
}

impl Trials {
    /// What an answer costs its consumer. In doubt the whole price.
    pub(super) async fn price(&self, node: &dyn Node, tasting: &Tasting<'_>) -> Wei {
        let taster = (tasting.consumer, tasting.offer_id.clone());
        if !self.lock().contains_key(&taster) {
            match recorded(node, tasting).await {
                Ok(had) => self.remember(taster.clone(), had),
                Err(error) => {
                    tracing::warn!(%error, "the job records can't be read: no trial for this job");
                    return tasting.cost;
                }
            }
        }
        let mut known = self.lock();
        let Some(had) = known.get_mut(&taster) else {
            // Forgotten in this moment, among thousands.
            return tasting.cost;
        };
        match fits(*had, tasting.cost, tasting.trial) {
            Some(now) => {
                *had = now;
                Wei::ZERO
            }
            None => tasting.cost,
        }
    }

    fn remember(&self, taster: Taster, had: Wei) {
        let mut known = self.lock();
        if known.len() >= MAX_REMEMBERED {
            let any = known.keys().next().cloned();
            any.and_then(|any| known.remove(&any));
        }
        // Whoever was faster may have had something since.
        known.entry(taster).or_insert(had);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Taster, Wei>> {
        self.had.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a consumer has had for nothing after a free answer, when that is within the trial.
fn fits(had: Wei, cost: Wei, trial: Wei) -> Option<Wei> {
    had.checked_add(cost).filter(|now| *now <= trial)
}

/// What a consumer had for nothing, by the node's records; everything for one with very many jobs.
async fn recorded(node: &dyn Node, tasting: &Tasting<'_>) -> Result<Wei, NodeError> {
    let mut query = JobQuery {
        after: None,
        newest_first: false,
        filter: JobFilter {
            consumer_peer_ids: Some(vec![tasting.consumer]),
            provider_peer_ids: Some(vec![tasting.provider]),
            ..JobFilter::default()
        },
        limit: PAGE,
    };
    let (mut had, mut looked_at) = (Wei::ZERO, 0_usize);
    while looked_at < MAX_JOBS {
        let page = node.jobs(&query).await?;
        // One that is not full may have ended early, as its payloads are large.
        let Some(last) = page.last() else {
            return Ok(had);
        };
        query.after = Some(last.job_rowid);
        looked_at = looked_at.saturating_add(page.len());
        let free = page.iter().filter(|job| job.offer_id == *tasting.offer_id);
        had = free.filter_map(worth).fold(had, Wei::saturating_add);
    }
    Ok(Wei::MAX)
}

/// What a job would have cost that cost nothing.
fn worth(job: &JobRecord) -> Option<Wei> {
    if job.balance_delta.is_some() {
        return None;
    }
    let signed: Value = serde_json::from_str(job.public_payload.as_deref()?).ok()?;
    let usage = Usage::from_json(signed.get("response")?.get("usage")?)?;
    OfferPayload::parse(&job.offer_payload)?.cost(&usage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_free_when_all_of_it_fits() {
        let wei = Wei::from_wei;
        assert_eq!(fits(wei(0), wei(10), wei(10)), Some(wei(10)));
        assert_eq!(fits(wei(1), wei(10), wei(10)), None);
        assert_eq!(fits(wei(1), wei(9), wei(10)), Some(wei(10)));
        assert_eq!(fits(wei(1), Wei::MAX, Wei::MAX), None);
    }

    proptest! {
        #[test]
        fn nobody_has_more_than_the_trial(costs in prop::collection::vec(0_u128..100, 0..100), trial in 0_u128..500) {
            let mut had = Wei::ZERO;
            for cost in costs {
                had = fits(had, Wei::from_wei(cost), Wei::from_wei(trial)).unwrap_or(had);
                prop_assert!(had <= Wei::from_wei(trial));
            }
        }
    }
}

//! Sums over the jobs of this node: by day, model and peer, what runs, and how jobs ended. Pure.

use std::collections::{BTreeMap, HashMap};

use derouter_sdk::{JobRecord, PeerId, RowId, UnixSeconds, Wei};

use crate::modules::JobFacts;
use crate::text::plain;

/// Days that are kept; older ones are only in the totals.
pub(crate) const MAX_DAYS: usize = 400;

/// Models and peers that have sums of their own; all others share [`OTHERS`].
const MAX_NAMES: usize = 1000;

/// What those share that are too many.
pub(crate) const OTHERS: &str = "others";

/// Rows whose end is remembered, a bit for each: a ledger of 64 million jobs takes 8 MB. Jobs
/// behind that are not summed.
const MAX_ROWS: u64 = 64 * 1024 * 1024;

/// Jobs that run at a time, as shown.
const MAX_OPEN: usize = 10_000;

const DAY_SECONDS: u64 = 86_400;

/// What was spent and earned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) spent: Wei,
    pub(crate) earned: Wei,
    pub(crate) bought: u64,
    pub(crate) sold: u64,
    pub(crate) tokens: u64,
}

impl Sum {
    fn add(&mut self, part: &Part) {
        if part.bought {
            self.spent = self.spent.saturating_add(part.amount);
            self.bought = self.bought.saturating_add(1);
        }
        if part.sold {
            self.earned = self.earned.saturating_add(part.amount);
            self.sold = self.sold.saturating_add(1);
        }
        self.tokens = self.tokens.saturating_add(part.tokens);
    }
}

struct Part {
    bought: bool,
    sold: bool,
    amount: Wei,
    tokens: u64,
}

/// Counts of jobs by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) bought: u64,
    pub(crate) sold: u64,
    pub(crate) bought_failed: u64,
    pub(crate) sold_failed: u64,
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenJob {
    pub(crate) since: UnixSeconds,
    pub(crate) bought: bool,
}

/// The sums.
#[derive(Debug)]
pub(crate) struct Tally {
    own: PeerId,
    ended: Vec<u64>,
    open: HashMap<RowId, OpenJob>,
    pub(crate) total: Sum,
    pub(crate) counts: Counts,
    pub(crate) days: BTreeMap<u64, Sum>,
    pub(crate) models: HashMap<String, Sum>,
    pub(crate) peers: HashMap<PeerId, Sum>,
    pub(crate) other_peers: Sum,
    /// The newest row.
    pub(crate) last_row: Option<RowId>,
}

impl Tally {
    /// Of this node's jobs.
    pub(crate) fn new(own: PeerId) -> Self {
        Self {
            own,
            ended: Vec::new(),
            open: HashMap::new(),
            total: Sum::default(),
            counts: Counts::default(),
            days: BTreeMap::new(),
            models: HashMap::new(),
            peers: HashMap::new(),
            other_peers: Sum::default(),
            last_row: None,
        }
    }

    /// Takes over how a job is now. A job may come as often as it likes, and counts once.
    pub(crate) fn apply(&mut self, job: &JobRecord, facts: &JobFacts) {
        let row = job.job_rowid;
        self.last_row = self.last_row.max(Some(row));
        let sold = job.provider_peer_id == self.own;
        let bought = job.consumer_peer_id == self.own;
        if sold && bought {
            // On an own offer nothing is owed to anybody.
            return;
        }
        let Some(ended_at) = job.completed_at_local else {
            if self.open.len() < MAX_OPEN && !self.has_ended(row) {
                let since = job.created_at_local;
                self.open.insert(row, OpenJob { since, bought });
            }
            return;
        };
        self.open.remove(&row);
        if !self.note_ended(row) {
            return;
        }
        if job.reason.is_some() {
            self.counts.bought_failed += u64::from(bought);
            self.counts.sold_failed += u64::from(sold);
            return;
        }
        self.counts.bought += u64::from(bought);
        self.counts.sold += u64::from(sold);
        self.add(job, facts, ended_at, bought);
    }

    fn add(&mut self, job: &JobRecord, facts: &JobFacts, at: UnixSeconds, bought: bool) {
        let amount = job
            .balance_delta
            .as_deref()
            .and_then(|text| text.parse().ok());
        let input = facts.input.unwrap_or(0);
        let part = Part {
            bought,
            sold: !bought,
            amount: amount.unwrap_or(Wei::ZERO),
            tokens: input.saturating_add(facts.output.unwrap_or(0)),
        };
        self.total.add(&part);
        self.days.entry(at.0 / DAY_SECONDS).or_default().add(&part);
        if self.days.len() > MAX_DAYS {
            self.days.pop_first();
        }
        let model = facts.model.as_deref().unwrap_or("unknown");
        let mut model = plain(model, crate::text::SHORT);
        if self.models.len() >= MAX_NAMES && !self.models.contains_key(&model) {
            model = OTHERS.to_owned();
        }
        self.models.entry(model).or_default().add(&part);
        let peer = if bought {
            job.provider_peer_id
        } else {
            job.consumer_peer_id
        };
        match self.peers.len() < MAX_NAMES || self.peers.contains_key(&peer) {
            true => self.peers.entry(peer).or_default().add(&part),
            false => self.other_peers.add(&part),
        }
    }

    fn place(row: RowId) -> Option<(usize, u64)> {
        let row = Some(row.0).filter(|row| *row < MAX_ROWS)?;
        Some((usize::try_from(row / 64).ok()?, 1 << (row % 64)))
    }

    fn has_ended(&self, row: RowId) -> bool {
        Self::place(row)
            .is_some_and(|(word, bit)| self.ended.get(word).is_some_and(|bits| bits & bit != 0))
    }

    /// Notes that a job has ended; whether that is new.
    fn note_ended(&mut self, row: RowId) -> bool {
        let Some((word, bit)) = Self::place(row) else {
            return false;
        };
        if self.ended.len() <= word {
            self.ended.resize(word + 1, 0);
        }
        let Some(bits) = self.ended.get_mut(word) else {
            return false;
        };
        let new = *bits & bit == 0;
        *bits |= bit;
        new
    }

    /// The sum of a day.
    pub(crate) fn day(&self, at: UnixSeconds) -> Sum {
        self.days
            .get(&(at.0 / DAY_SECONDS))
            .copied()
            .unwrap_or_default()
    }

    /// The last `most` days, oldest first, those without a job included.
    pub(crate) fn last_days(&self, now: UnixSeconds, most: u64) -> Vec<(u64, Sum)> {
        let today = now.0 / DAY_SECONDS;
        let first = today.saturating_sub(most.saturating_sub(1));
        (first..=today)
            .map(|day| (day, self.days.get(&day).copied().unwrap_or_default()))
            .collect()
    }

    /// Jobs that run: as a consumer, as a provider.
    pub(crate) fn running(&self) -> (usize, usize) {
        let bought = self.open.values().filter(|job| job.bought).count();
        (bought, self.open.len() - bought)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::{Currency, JobId, OfferId, ProtocolId, SnapshotId};

    fn peer() -> PeerId {
        PeerId::random()
    }

    fn job(row: u64, consumer: PeerId, provider: PeerId, wei: Option<&str>) -> JobRecord {
        JobRecord {
            job_rowid: RowId(row),
            provider_job_id: JobId::new("j").unwrap(),
            provider_peer_id: provider,
            consumer_peer_id: consumer,
            offer_id: OfferId::new("o").unwrap(),
            offer_snapshot_rowid: SnapshotId(1),
            offer_protocol_id: ProtocolId::new("p").unwrap(),
            offer_payload: String::new(),
            offer_active: true,
            currency: Currency::Pol,
            balance_delta: wei.map(str::to_owned),
            public_payload: None,
            private_payload: None,
            reason: None,
            reason_class: None,
            created_at_local: UnixSeconds(10),
            created_at_sync: UnixSeconds(10),
            completed_at_local: wei.map(|_| UnixSeconds(DAY_SECONDS + 1)),
            completed_at_sync: None,
            signature_confirmed_at_local: None,
            confirmation_error: None,
        }
    }

    #[test]
    fn a_job_counts_once_and_on_its_side() {
        let (own, other) = (peer(), peer());
        let mut tally = Tally::new(own);
        let facts = JobFacts {
            model: Some("m".into()),
            input: Some(2),
            output: Some(3),
        };
        tally.apply(&job(1, own, other, None), &facts);
        assert_eq!(tally.running(), (1, 0));
        for _ in 0..3 {
            tally.apply(&job(1, own, other, Some("7")), &facts);
        }
        tally.apply(&job(1, own, other, None), &facts);
        tally.apply(&job(200, other, own, Some("5")), &facts);
        tally.apply(&job(201, own, own, Some("9")), &facts);
        assert_eq!(tally.running(), (0, 0));
        assert_eq!(tally.total.spent, Wei::from_wei(7));
        assert_eq!(tally.total.earned, Wei::from_wei(5));
        assert_eq!(tally.day(UnixSeconds(DAY_SECONDS)).tokens, 10);
        assert_eq!((tally.counts.bought, tally.counts.sold), (1, 1));
        let mut failed = job(300, own, other, Some("1"));
        failed.reason = Some("no".into());
        tally.apply(&failed, &facts);
        assert_eq!(tally.counts.bought_failed, 1);
        assert_eq!(tally.total.spent, Wei::from_wei(7));
        assert_eq!(tally.last_row, Some(RowId(300)));
        assert_eq!(tally.last_days(UnixSeconds(3 * DAY_SECONDS), 3).len(), 3);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let own = peer();
        let mut tally = Tally::new(own);
        let other = peer();
        for number in 0..MAX_NAMES + 10 {
            let facts = JobFacts {
                model: Some(format!("m{number}")),
                ..JobFacts::default()
            };
            let mut job = job(u64::try_from(number).unwrap(), own, other, Some("1"));
            let day = u64::try_from(number).unwrap() * DAY_SECONDS;
            job.completed_at_local = Some(UnixSeconds(day));
            tally.apply(&job, &facts);
        }
        tally.apply(&job(MAX_ROWS, own, other, Some("1")), &JobFacts::default());
        assert_eq!(tally.models.len(), MAX_NAMES + 1);
        assert_eq!(tally.models[OTHERS].bought, 10);
        assert_eq!(tally.days.len(), MAX_DAYS);
        assert_eq!(tally.total.bought, u64::try_from(MAX_NAMES + 10).unwrap());
    }
}

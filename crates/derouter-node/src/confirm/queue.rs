//! Which jobs to tell providers of next. Pure: takes the time, returns batches of job keys.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use derouter_market::job::delivery_backoff_secs;
use derouter_wire::limits::SETTLE_JOBS;
use derouter_wire::{JobId, JobKey, PeerId};

/// Jobs kept in memory. More wait in the database and are loaded as these get done.
pub(crate) const MAX_QUEUED: usize = 10_000;

/// Of these of one provider. One that is away for long, or for ever, leaves places to others.
const MAX_OF_PROVIDER: usize = MAX_QUEUED / 4;

/// Jobs told in one delivery: what one call of wire 0.2 holds.
pub(crate) const BATCH: usize = SETTLE_JOBS;

/// Deliveries under way with one provider: one waits for the provider's disk while another travels. One
/// that stalls holds up no other provider.
const MAX_PER_PEER: usize = 2;

/// The least between the beginnings of two deliveries to one provider. A single job is told at once; of
/// many short ones, those that end meanwhile share a call, and a sync of each side's disk.
const GATHER: Duration = Duration::from_millis(25);

/// Jobs of one provider that are told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) provider: PeerId,
    /// At most [`BATCH`].
    pub(crate) jobs: Vec<JobKey>,
}

#[derive(Debug)]
struct Entry {
    due: Duration,
    attempts: u32,
    under_way: bool,
}

#[derive(Debug, Default)]
struct Provider {
    entries: HashMap<JobId, Entry>,
    /// Those of the entries that are not under way, by when they are due.
    waiting: BTreeSet<(Duration, JobId)>,
    /// Deliveries under way.
    batches: usize,
    /// Before this time no other delivery begins.
    gathers_until: Duration,
}

/// The queue. Times are since the node's start.
#[derive(Debug, Default)]
pub(crate) struct DeliveryQueue {
    providers: HashMap<PeerId, Provider>,
    len: usize,
}

impl Provider {
    /// When the next delivery begins, if there is a place for it.
    fn next_start(&self) -> Option<Duration> {
        if self.batches >= MAX_PER_PEER {
            return None;
        }
        let (due, _) = self.waiting.first()?;
        if self.waiting.len() >= BATCH {
            return Some(*due);
        }
        Some(self.gathers_until.max(*due))
    }

    fn is_over(&self, now: Duration) -> bool {
        self.batches == 0 && self.entries.is_empty() && self.gathers_until <= now
    }

    fn take(&mut self, now: Duration) -> Vec<JobId> {
        let mut taken = Vec::new();
        while taken.len() < BATCH {
            match self.waiting.first() {
                Some((due, _)) if *due <= now => {}
                _ => break,
            }
            let Some((_, job)) = self.waiting.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.get_mut(&job) {
                entry.under_way = true;
            }
            taken.push(job);
        }
        taken
    }

    fn wait(&mut self, job: &JobId, due: Duration) {
        let Some(entry) = self.entries.get_mut(job) else {
            return;
        };
        if !entry.under_way {
            self.waiting.remove(&(entry.due, job.clone()));
        }
        entry.under_way = false;
        entry.due = due;
        self.waiting.insert((due, job.clone()));
    }
}

impl DeliveryQueue {
    /// Adds a job, due at once. False: there is no place for it, or another one lost its place to it;
    /// that stays in the database.
    pub(crate) fn add(&mut self, job: JobKey, attempts: u32, now: Duration) -> bool {
        let known = self.providers.get(&job.provider);
        if known.is_some_and(|known| known.entries.contains_key(&job.job_id)) {
            return true;
        }
        if known.is_some_and(|known| known.entries.len() >= MAX_OF_PROVIDER) {
            return false;
        }
        let full = self.len >= MAX_QUEUED;
        if full && !self.push_out(now) {
            return false;
        }
        let provider = self.providers.entry(job.provider).or_default();
        let entry = Entry {
            due: now,
            attempts,
            under_way: false,
        };
        provider.waiting.insert((now, job.job_id.clone()));
        provider.entries.insert(job.job_id, entry);
        self.len += 1;
        !full
    }

    /// Takes out the job that is due last, if it is not due yet: its provider was away before.
    fn push_out(&mut self, now: Duration) -> bool {
        let last_due = |(peer, provider): (&PeerId, &Provider)| {
            let (due, job) = provider.waiting.last()?;
            Some((*due, *peer, job.clone()))
        };
        let last = self.providers.iter().filter_map(last_due).max();
        let Some((_, provider, job_id)) = last.filter(|(due, ..)| *due > now) else {
            return false;
        };
        self.done(&JobKey { provider, job_id });
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Up to `most` batches of jobs that are due, those that waited longest first; they are under way
    /// from now on.
    pub(crate) fn take_due(&mut self, now: Duration, most: usize) -> Vec<Batch> {
        self.providers.retain(|_, provider| !provider.is_over(now));
        let mut due: Vec<(Duration, PeerId)> = self
            .providers
            .iter()
            .filter_map(|(peer, provider)| Some((provider.next_start()?, *peer)))
            .filter(|(due, _)| *due <= now)
            .collect();
        due.sort_unstable();
        let mut batches = Vec::new();
        for (_, peer) in due.into_iter().take(most) {
            let Some(provider) = self.providers.get_mut(&peer) else {
                continue;
            };
            let key = |job_id| JobKey {
                provider: peer,
                job_id,
            };
            provider.batches += 1;
            provider.gathers_until = now + GATHER;
            batches.push(Batch {
                provider: peer,
                jobs: provider.take(now).into_iter().map(key).collect(),
            });
        }
        batches
    }

    /// The job needs no further delivery.
    pub(crate) fn done(&mut self, job: &JobKey) {
        let Some(provider) = self.providers.get_mut(&job.provider) else {
            return;
        };
        let Some(entry) = provider.entries.remove(&job.job_id) else {
            return;
        };
        provider.waiting.remove(&(entry.due, job.job_id.clone()));
        self.len -= 1;
    }

    /// Delivery failed: again later. `jitter` is 0 to 1; it spreads over half of the wait.
    pub(crate) fn retry(&mut self, job: &JobKey, now: Duration, jitter: f64) {
        let Some(provider) = self.providers.get_mut(&job.provider) else {
            return;
        };
        let Some(entry) = provider.entries.get_mut(&job.job_id) else {
            return;
        };
        entry.attempts = entry.attempts.saturating_add(1);
        let wait = Duration::from_secs(delivery_backoff_secs(entry.attempts));
        let due = now + wait.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        provider.wait(&job.job_id, due);
    }

    /// A delivery to the provider has ended; each of its jobs was [`DeliveryQueue::done`] or is to
    /// [`DeliveryQueue::retry`].
    pub(crate) fn returned(&mut self, peer: &PeerId) {
        let Some(provider) = self.providers.get_mut(peer) else {
            return;
        };
        provider.batches = provider.batches.saturating_sub(1);
    }

    /// The provider is here: its jobs are due now.
    pub(crate) fn peer_connected(&mut self, peer: &PeerId, now: Duration) {
        let Some(provider) = self.providers.get_mut(peer) else {
            return;
        };
        let late: Vec<JobId> = provider
            .waiting
            .iter()
            .filter(|(due, _)| *due > now)
            .map(|(_, job)| job.clone())
            .collect();
        for job in late {
            provider.wait(&job, now);
        }
    }

    /// When the next delivery begins. Jobs that wait for a place with their provider do not count:
    /// they are looked at when a delivery ends.
    pub(crate) fn next_start(&self) -> Option<Duration> {
        let starts = self.providers.values().filter_map(Provider::next_start);
        starts.min()
    }

    /// Whether a job is due whose delivery has not begun.
    pub(crate) fn has_due(&self, now: Duration) -> bool {
        let first = |provider: &Provider| provider.waiting.first().map(|(due, _)| *due);
        let dues = self.providers.values().filter_map(first);
        dues.min().is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(provider: PeerId, number: usize) -> JobKey {
        JobKey {
            provider,
            job_id: JobId::new(format!("j{number}")).unwrap(),
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn jobs(batches: Vec<Batch>) -> Vec<JobKey> {
        batches.into_iter().flat_map(|batch| batch.jobs).collect()
    }

    /// A delivery of one job that failed.
    fn fail(queue: &mut DeliveryQueue, job: &JobKey, now: Duration) {
        queue.retry(job, now, 0.5);
        queue.returned(&job.provider);
    }

    #[test]
    fn a_job_is_due_at_once_and_then_with_growing_waits() {
        let mut queue = DeliveryQueue::default();
        let job = job(PeerId::random(), 1);
        assert!(queue.add(job.clone(), 0, secs(0)));
        assert_eq!(
            jobs(queue.take_due(secs(0), 10)),
            std::slice::from_ref(&job)
        );
        assert!(queue.take_due(secs(9), 10).is_empty(), "it is under way");
        fail(&mut queue, &job, secs(10));
        assert_eq!(queue.next_start(), Some(secs(12)));
        assert!(queue.take_due(secs(11), 10).is_empty());
        assert_eq!(queue.take_due(secs(12), 10).len(), 1);
        fail(&mut queue, &job, secs(12));
        assert_eq!(queue.next_start(), Some(secs(16)));
        for _ in 0..100 {
            queue.retry(&job, secs(100), 0.5);
        }
        assert_eq!(queue.next_start(), Some(secs(100 + 3600)));
        queue.done(&job);
        queue.returned(&job.provider);
        assert_eq!((queue.next_start(), queue.len()), (None, 0));
        assert!(queue.take_due(secs(100), 10).is_empty());
        assert!(queue.providers.is_empty());
    }

    #[test]
    fn jobs_that_end_soon_after_one_another_go_together() {
        let mut queue = DeliveryQueue::default();
        let provider = PeerId::random();
        let told = |queue: &mut DeliveryQueue, at: Duration| jobs(queue.take_due(at, 10)).len();
        let ends = |queue: &mut DeliveryQueue, number: usize| {
            queue.done(&job(provider, number));
            queue.returned(&provider);
        };
        queue.add(job(provider, 0), 0, secs(1));
        assert_eq!(told(&mut queue, secs(1)), 1, "the first at once");
        ends(&mut queue, 0);
        for number in 1..4 {
            queue.add(job(provider, number), 0, secs(1));
        }
        assert_eq!(told(&mut queue, secs(1)), 0);
        assert!(queue.has_due(secs(1)), "a stop waits for them");
        assert_eq!(queue.next_start(), Some(secs(1) + GATHER));
        assert_eq!(told(&mut queue, secs(1) + GATHER), 3);
        for number in 4..4 + BATCH {
            queue.add(job(provider, number), 0, secs(1) + GATHER);
        }
        assert_eq!(
            told(&mut queue, secs(1) + GATHER),
            BATCH,
            "a full call waits for nothing"
        );
    }

    #[test]
    fn a_provider_that_comes_back_is_told_now() {
        let mut queue = DeliveryQueue::default();
        let (here, away) = (PeerId::random(), PeerId::random());
        for provider in [here, away] {
            queue.add(job(provider, 1), 0, secs(0));
        }
        for taken in jobs(queue.take_due(secs(0), 10)) {
            fail(&mut queue, &taken, secs(0));
        }
        queue.peer_connected(&here, secs(1));
        assert_eq!(jobs(queue.take_due(secs(1), 10)), [job(here, 1)]);
    }

    #[test]
    fn what_is_due_for_one_provider_goes_together_and_never_takes_all_places() {
        let mut queue = DeliveryQueue::default();
        let (slow, other) = (PeerId::random(), PeerId::random());
        for number in 0..5 * BATCH {
            queue.add(job(slow, number), 0, secs(0));
        }
        queue.add(job(other, 0), 0, secs(1));
        let first = queue.take_due(secs(1), 16);
        assert_eq!(first.len(), 2, "one for each provider at a time");
        let full = first.iter().find(|batch| batch.provider == slow).unwrap();
        assert_eq!(full.jobs.len(), BATCH);
        let second = queue.take_due(secs(2), 16);
        assert_eq!((second.len(), second[0].jobs.len()), (1, BATCH));
        assert!(queue.take_due(secs(2), 16).is_empty());
        assert_eq!(
            queue.next_start(),
            None,
            "the rest waits for a place, not for a time"
        );
        for job in &full.jobs {
            queue.done(job);
        }
        queue.returned(&slow);
        assert_eq!(jobs(queue.take_due(secs(2), 16)).len(), BATCH);
    }

    /// Fills the queue; gives its providers.
    fn fill(queue: &mut DeliveryQueue) -> Vec<PeerId> {
        let providers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for number in 0..MAX_QUEUED {
            let provider = providers[number % providers.len()];
            assert!(queue.add(job(provider, number), 0, secs(0)));
        }
        providers
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = DeliveryQueue::default();
        let providers = fill(&mut queue);
        assert!(!queue.add(job(PeerId::random(), 0), 0, secs(0)));
        assert_eq!(queue.len(), MAX_QUEUED);
        assert!(
            queue.add(job(providers[0], 0), 0, secs(0)),
            "what is in it stays in it"
        );
    }

    #[test]
    fn a_provider_that_takes_nothing_keeps_out_nobody() {
        let mut queue = DeliveryQueue::default();
        let absent = PeerId::random();
        for number in 0..MAX_OF_PROVIDER {
            assert!(queue.add(job(absent, number), 0, secs(0)));
        }
        assert!(!queue.add(job(absent, MAX_OF_PROVIDER), 0, secs(0)));
        assert!(queue.add(job(PeerId::random(), 0), 0, secs(0)));
    }

    #[test]
    fn what_is_new_takes_the_place_of_what_waits_longest_for_another_attempt() {
        let mut queue = DeliveryQueue::default();
        let providers = fill(&mut queue);
        let failed = queue.take_due(secs(0), 1).remove(0);
        for job in &failed.jobs {
            queue.retry(job, secs(0), 0.5);
        }
        queue.returned(&failed.provider);
        let new = job(PeerId::random(), 0);
        assert!(!queue.add(new.clone(), 0, secs(1)), "one lost its place");
        assert_eq!(queue.len(), MAX_QUEUED);
        let others = queue.take_due(secs(1), 16);
        assert!(others.iter().any(|batch| batch.jobs.contains(&new)));
        queue.peer_connected(&failed.provider, secs(1));
        assert!(providers.contains(&failed.provider));
    }
}

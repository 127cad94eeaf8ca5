//! Which signatures to deliver next. Pure: takes the time, returns job keys.

use std::collections::HashMap;
use std::time::Duration;

use derouter_market::job::delivery_backoff_secs;
use derouter_wire::{JobKey, PeerId};

/// Signatures kept in memory. More wait in the database and are loaded as these get done.
pub(crate) const MAX_QUEUED: usize = 10_000;

/// Deliveries under way with one provider, so that one that stalls holds up no other.
const MAX_PER_PEER: usize = 4;

#[derive(Debug)]
struct Entry {
    due: Duration,
    attempts: u32,
    under_way: bool,
}

/// The queue. Times are since the node's start.
#[derive(Debug, Default)]
pub(crate) struct DeliveryQueue {
    entries: HashMap<JobKey, Entry>,
    under_way: HashMap<PeerId, usize>,
}

impl DeliveryQueue {
    /// Adds a job, due at once. False: full; it stays in the database.
    pub(crate) fn add(&mut self, job: JobKey, attempts: u32, now: Duration) -> bool {
        if self.entries.len() >= MAX_QUEUED && !self.entries.contains_key(&job) {
            return false;
        }
        let entry = Entry {
            due: now,
            attempts,
            under_way: false,
        };
        self.entries.entry(job).or_insert(entry);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Up to `most` jobs that are due; they are under way from now on.
    pub(crate) fn take_due(&mut self, now: Duration, most: usize) -> Vec<JobKey> {
        let mut due: Vec<(Duration, JobKey)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.under_way && entry.due <= now)
            .map(|(job, entry)| (entry.due, job.clone()))
            .collect();
        due.sort();
        let mut taken = Vec::new();
        for (_, job) in due {
            if taken.len() >= most {
                break;
            }
            let with_peer = self.under_way.entry(job.provider).or_default();
            if *with_peer >= MAX_PER_PEER {
                continue;
            }
            *with_peer += 1;
            if let Some(entry) = self.entries.get_mut(&job) {
                entry.under_way = true;
            }
            taken.push(job);
        }
        taken
    }

    /// The job needs no further delivery.
    pub(crate) fn done(&mut self, job: &JobKey) {
        if self
            .entries
            .remove(job)
            .is_some_and(|entry| entry.under_way)
        {
            self.leave(&job.provider);
        }
    }

    /// Delivery failed: again later. `jitter` is 0 to 1; it spreads over half of the wait.
    pub(crate) fn retry(&mut self, job: &JobKey, now: Duration, jitter: f64) {
        let Some(entry) = self.entries.get_mut(job) else {
            return;
        };
        let was_under_way = std::mem::take(&mut entry.under_way);
        entry.attempts = entry.attempts.saturating_add(1);
        let wait = Duration::from_secs(delivery_backoff_secs(entry.attempts));
        entry.due = now + wait.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        if was_under_way {
            self.leave(&job.provider);
        }
    }

    /// The provider is here: its jobs are due now.
    pub(crate) fn peer_connected(&mut self, peer: &PeerId, now: Duration) {
        let of_peer = self
            .entries
            .iter_mut()
            .filter(|(job, _)| job.provider == *peer);
        for (_, entry) in of_peer {
            entry.due = entry.due.min(now);
        }
    }

    /// When the next job is due. Jobs that wait for a place with their provider do not count:
    /// they are looked at when one is done.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let waiting = self.entries.iter().filter(|(job, entry)| {
            let with_peer = self
                .under_way
                .get(&job.provider)
                .copied()
                .unwrap_or_default();
            !entry.under_way && with_peer < MAX_PER_PEER
        });
        waiting.map(|(_, entry)| entry.due).min()
    }

    fn leave(&mut self, peer: &PeerId) {
        if let Some(count) = self.under_way.get_mut(peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.under_way.remove(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::JobId;

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

    #[test]
    fn a_job_is_due_at_once_and_then_with_growing_waits() {
        let mut queue = DeliveryQueue::default();
        let job = job(PeerId::random(), 1);
        assert!(queue.add(job.clone(), 0, secs(0)));
        assert_eq!(queue.take_due(secs(0), 10), std::slice::from_ref(&job));
        assert!(queue.take_due(secs(9), 10).is_empty(), "it is under way");
        queue.retry(&job, secs(10), 0.5);
        assert_eq!(queue.next_due(), Some(secs(12)));
        assert!(queue.take_due(secs(11), 10).is_empty());
        assert_eq!(queue.take_due(secs(12), 10).len(), 1);
        queue.retry(&job, secs(12), 0.5);
        assert_eq!(queue.next_due(), Some(secs(16)));
        for _ in 0..100 {
            queue.retry(&job, secs(100), 0.5);
        }
        assert_eq!(queue.next_due(), Some(secs(100 + 3600)));
        queue.done(&job);
        assert_eq!((queue.next_due(), queue.len()), (None, 0));
    }

    #[test]
    fn a_provider_that_comes_back_gets_its_signatures_now() {
        let mut queue = DeliveryQueue::default();
        let (here, away) = (PeerId::random(), PeerId::random());
        for provider in [here, away] {
            queue.add(job(provider, 1), 0, secs(0));
        }
        for taken in queue.take_due(secs(0), 10) {
            queue.retry(&taken, secs(0), 0.0);
        }
        queue.peer_connected(&here, secs(1));
        assert_eq!(queue.take_due(secs(1), 10), [job(here, 1)]);
    }

    #[test]
    fn one_provider_never_takes_all_places() {
        let mut queue = DeliveryQueue::default();
        let (slow, other) = (PeerId::random(), PeerId::random());
        for number in 0..50 {
            queue.add(job(slow, number), 0, secs(0));
        }
        queue.add(job(other, 0), 0, secs(1));
        let taken = queue.take_due(secs(1), 16);
        assert_eq!(
            taken.iter().filter(|job| job.provider == slow).count(),
            MAX_PER_PEER
        );
        assert!(taken.contains(&job(other, 0)));
        assert!(queue.take_due(secs(2), 16).is_empty());
        assert_eq!(
            queue.next_due(),
            None,
            "the others wait for a place, not for a time"
        );
        queue.done(taken.iter().find(|job| job.provider == slow).unwrap());
        assert_eq!(queue.take_due(secs(2), 16).len(), 1);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = DeliveryQueue::default();
        let provider = PeerId::random();
        for number in 0..MAX_QUEUED {
            assert!(queue.add(job(provider, number), 0, secs(0)));
        }
        assert!(!queue.add(job(provider, MAX_QUEUED), 0, secs(0)));
        assert!(
            queue.add(job(provider, 0), 0, secs(0)),
            "what is in it stays in it"
        );
    }
}

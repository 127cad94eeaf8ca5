//! Which jobs run, so that a drain knows what it waits for. Pure bookkeeping: takes the time since
//! the node's start.
//!
//! A job runs while a stream of it is open and it is not over. JavaScript modules never close their
//! streams, so an open stream of a job that is over says nothing. Some jobs run although no stream
//! is open: a job that was just accepted is about to be connected to, one that was just completed as
//! provider is about to be signed, and one whose answer this node has just read is about to be signed
//! or given up here. They are waited for, not for long.

use std::collections::HashMap;
use std::time::Duration;

use derouter_market::Role;
use derouter_market::job::{Job, JobState, SignatureState};
use derouter_sdk::JobKey;

/// How long a consumer may take to connect to a job that was accepted, or to sign one whose answer
/// has ended: a few round trips. 0.1 consumers may never sign.
const EXPECTED_WITHIN: Duration = Duration::from_secs(5);

/// Jobs remembered. At the limit those that do not run are forgotten, and if that gives no room
/// the newest are not counted: a drain ends earlier for them. Twice the streams served at once.
const MAX_JOBS: usize = 8192;

type Running = (Role, JobKey);

#[derive(Debug, Default)]
struct Entry {
    streams: usize,
    over: bool,
    /// Given up: nothing comes behind the last stream.
    failed: bool,
    /// Until when its consumer is expected to connect or to sign.
    expected_until: Option<Duration>,
}

impl Entry {
    fn runs(&self, now: Duration) -> bool {
        let expected = self.expected_until.is_some_and(|until| now < until);
        expected || self.streams > 0 && !self.over
    }

    fn is_idle(&self) -> bool {
        self.streams == 0 && self.expected_until.is_none()
    }
}

/// The jobs that run.
#[derive(Debug, Default)]
pub(crate) struct RunningJobs {
    jobs: HashMap<Running, Entry>,
}

impl RunningJobs {
    /// A job is new or has changed.
    pub(crate) fn note(&mut self, job: &Job, now: Duration) {
        match (job.role, &job.state) {
            (Role::Provider, JobState::Open(_)) => self.accepted(&job.key, now),
            (Role::Provider, JobState::Failed(_)) => self.failed(&job.key, now),
            (
                Role::Provider,
                JobState::Completed {
                    signature: SignatureState::Awaited,
                    ..
                },
            ) => self.completed(&job.key, now),
            (Role::Consumer, JobState::Open(_)) => {}
            (role, JobState::Completed { .. } | JobState::Failed(_)) => {
                self.settled(role, &job.key);
            }
        }
    }

    /// This node accepted a job as its provider: the consumer connects soon.
    fn accepted(&mut self, key: &JobKey, now: Duration) {
        if let Some(entry) = self.entry(Role::Provider, key, now) {
            entry.expected_until = Some(now + EXPECTED_WITHIN);
        }
    }

    /// A stream of a job is open. False: it is not counted.
    pub(crate) fn opened(&mut self, role: Role, key: &JobKey, now: Duration) -> bool {
        let Some(entry) = self.entry(role, key, now) else {
            return false;
        };
        entry.streams += 1;
        if !entry.over {
            entry.expected_until = None;
        }
        true
    }

    /// A stream that was counted has closed. As consumer, the bill comes next.
    pub(crate) fn closed(&mut self, role: Role, key: &JobKey, now: Duration) {
        self.change(role, key, |entry| {
            entry.streams = entry.streams.saturating_sub(1);
            if entry.streams > 0 {
                return;
            }
            if entry.failed {
                entry.expected_until = None;
            }
            if role == Role::Consumer && !entry.over {
                entry.expected_until = Some(now + EXPECTED_WITHIN);
            }
        });
    }

    /// A job was completed as provider: the epilogue is on its way, and the signature comes back.
    fn completed(&mut self, key: &JobKey, now: Duration) {
        if let Some(entry) = self.entry(Role::Provider, key, now) {
            entry.over = true;
            entry.expected_until = Some(now + EXPECTED_WITHIN);
        }
    }

    /// A job was given up as provider: those who are connected are being told.
    fn failed(&mut self, key: &JobKey, now: Duration) {
        self.change(Role::Provider, key, |entry| {
            (entry.over, entry.failed) = (true, true);
            entry.expected_until = (entry.streams > 0).then_some(now + EXPECTED_WITHIN);
        });
    }

    /// Nothing more is expected of a job: it is signed, or was given up as consumer.
    fn settled(&mut self, role: Role, key: &JobKey) {
        self.change(role, key, |entry| {
            entry.over = true;
            entry.expected_until = None;
        });
    }

    /// How many jobs run.
    pub(crate) fn count(&self, now: Duration) -> usize {
        self.jobs.values().filter(|entry| entry.runs(now)).count()
    }

    fn entry(&mut self, role: Role, key: &JobKey, now: Duration) -> Option<&mut Entry> {
        let name = (role, key.clone());
        if self.jobs.len() >= MAX_JOBS && !self.jobs.contains_key(&name) {
            self.jobs
                .retain(|_, entry| entry.streams > 0 || entry.runs(now));
            if self.jobs.len() >= MAX_JOBS {
                return None;
            }
        }
        Some(self.jobs.entry(name).or_default())
    }

    fn change(&mut self, role: Role, key: &JobKey, change: impl FnOnce(&mut Entry)) {
        let name = (role, key.clone());
        let Some(entry) = self.jobs.get_mut(&name) else {
            return;
        };
        change(entry);
        if entry.is_idle() {
            self.jobs.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::JobId;

    use super::*;

    fn job(name: &str) -> JobKey {
        let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
        JobKey {
            provider: text.parse().unwrap(),
            job_id: JobId::new(name).unwrap(),
        }
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_job_runs_from_its_acceptance_to_its_signature() {
        let (mut running, key) = (RunningJobs::default(), job("a"));
        running.accepted(&key, NOW);
        assert_eq!(running.count(NOW), 1);
        assert!(running.opened(Role::Provider, &key, NOW));
        assert_eq!(running.count(NOW + 10 * EXPECTED_WITHIN), 1);
        running.completed(&key, NOW);
        running.closed(Role::Provider, &key, NOW);
        assert_eq!(running.count(NOW), 1, "the signature is not there yet");
        running.settled(Role::Provider, &key);
        assert_eq!(running.count(NOW), 0);
        assert!(running.jobs.is_empty());
    }

    #[test]
    fn a_consumer_that_never_comes_or_never_signs_is_not_waited_for() {
        let mut running = RunningJobs::default();
        running.accepted(&job("a"), NOW);
        running.completed(&job("b"), NOW);
        assert_eq!(running.count(NOW), 2);
        assert_eq!(running.count(NOW + EXPECTED_WITHIN), 0);
    }

    #[test]
    fn whoever_is_connected_to_a_job_that_failed_is_told_so() {
        let (mut running, key) = (RunningJobs::default(), job("a"));
        assert!(running.opened(Role::Provider, &key, NOW));
        running.failed(&key, NOW);
        assert_eq!(running.count(NOW), 1);
        running.closed(Role::Provider, &key, NOW);
        assert_eq!(running.count(NOW), 0);
        running.accepted(&key, NOW);
        running.failed(&key, NOW);
        assert_eq!(running.count(NOW), 0, "nobody is connected");
    }

    #[test]
    fn a_stream_that_a_module_never_closes_does_not_run_once_its_job_is_over() {
        let (mut running, key) = (RunningJobs::default(), job("a"));
        assert!(running.opened(Role::Consumer, &key, NOW));
        assert_eq!(running.count(NOW), 1);
        running.settled(Role::Consumer, &key);
        assert_eq!(running.count(NOW), 0);
        running.closed(Role::Consumer, &key, NOW);
        assert!(running.jobs.is_empty());
    }

    #[test]
    fn a_consumer_whose_answer_has_ended_signs_before_it_leaves() {
        let (mut running, key) = (RunningJobs::default(), job("a"));
        assert!(running.opened(Role::Consumer, &key, NOW));
        running.closed(Role::Consumer, &key, NOW);
        assert_eq!(running.count(NOW), 1);
        assert_eq!(running.count(NOW + EXPECTED_WITHIN), 0);
        running.settled(Role::Consumer, &key);
        assert_eq!(running.count(NOW), 0);
        assert!(running.jobs.is_empty());
    }

    #[test]
    fn the_two_sides_of_a_job_on_an_own_offer_count_apart() {
        let (mut running, key) = (RunningJobs::default(), job("a"));
        assert!(running.opened(Role::Consumer, &key, NOW));
        assert!(running.opened(Role::Provider, &key, NOW));
        assert_eq!(running.count(NOW), 2);
        running.closed(Role::Provider, &key, NOW);
        assert_eq!(running.count(NOW), 1);
    }

    #[test]
    fn what_is_long_over_makes_room() {
        let mut running = RunningJobs::default();
        for index in 0..MAX_JOBS {
            running.completed(&job(&index.to_string()), NOW);
        }
        assert!(!running.opened(Role::Consumer, &job("more"), NOW));
        let later = NOW + EXPECTED_WITHIN;
        assert!(running.opened(Role::Consumer, &job("more"), later));
        assert_eq!(running.jobs.len(), 1);
    }
}

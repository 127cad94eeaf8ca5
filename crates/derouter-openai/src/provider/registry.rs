//! The jobs that can be connected to: running ones, and finished ones for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::JobId;
use tokio::time::Instant;

use super::job::Job;

/// Jobs that run at a time, over all offers: a job costs some 10 KiB and its log.
const MAX_RUNNING: usize = 4_096;

/// Finished answers kept for a later connection.
const MAX_FINISHED: usize = 64;

/// What they may weigh together.
const MAX_FINISHED_BYTES: usize = 16 * 1024 * 1024;

/// How long they are kept: a consumer that lost its connection comes back within minutes.
const FINISHED_AGE: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, Arc<Job>>,
    /// In the order in which they finished.
    finished: VecDeque<Finished>,
    finished_bytes: usize,
}

struct Finished {
    job_id: JobId,
    at: Instant,
    bytes: usize,
}

/// What became of a job that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is there now.
    New,
    /// It was there already.
    Known,
    /// There is no room.
    Full,
}

impl Registry {
    /// Adds a running job.
    pub(super) fn add(&self, job: &Arc<Job>) -> Added {
        let mut state = self.lock();
        if state.jobs.contains_key(&job.key.job_id) {
            return Added::Known;
        }
        let running = state.jobs.len().saturating_sub(state.finished.len());
        if running >= MAX_RUNNING {
            return Added::Full;
        }
        state.jobs.insert(job.key.job_id.clone(), Arc::clone(job));
        Added::New
    }

    /// Finds a job, running or finished.
    pub(super) fn get(&self, job_id: &JobId) -> Option<Arc<Job>> {
        self.lock().jobs.get(job_id).cloned()
    }

    /// A job has finished: it is kept for replays, and the oldest ones may go for it.
    pub(super) fn finish(&self, job: &Job, now: Instant) {
        let bytes = job.log.kept_bytes();
        let mut state = self.lock();
        state.finished_bytes = state.finished_bytes.saturating_add(bytes);
        state.finished.push_back(Finished {
            job_id: job.key.job_id.clone(),
            at: now,
            bytes,
        });
        state.forget(now);
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().forget(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.finished.front() {
            let too_old = now.duration_since(oldest.at) >= FINISHED_AGE;
            let too_many = self.finished.len() > MAX_FINISHED;
            if !too_old && !too_many && self.finished_bytes <= MAX_FINISHED_BYTES {
                return;
            }
            if let Some(gone) = self.finished.pop_front() {
                self.finished_bytes = self.finished_bytes.saturating_sub(gone.bytes);
                self.jobs.remove(&gone.job_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use derouter_sdk::JobKey;
    use derouter_sdk::wire::PeerId;

    use super::*;

    fn job(name: &str, bytes: usize) -> Arc<Job> {
        let job = Job::new(JobKey {
            provider: PeerId::random(),
            job_id: JobId::new(name).unwrap(),
        });
        job.log.append(Bytes::from(vec![0; bytes]));
        Arc::new(job)
    }

    #[test]
    fn running_jobs_stay_and_finished_ones_go_by_number_weight_and_age() {
        let registry = Registry::default();
        let now = Instant::now();
        let running = job("running", 10);
        assert_eq!(registry.add(&running), Added::New);
        assert_eq!(registry.add(&running), Added::Known);
        let kept = |name: &str| registry.get(&JobId::new(name).unwrap()).is_some();

        for number in 0..=MAX_FINISHED {
            let job = job(&format!("job-{number}"), 10);
            registry.add(&job);
            registry.finish(&job, now);
        }
        assert!(!kept("job-0") && kept("job-1") && kept("job-64"));

        for name in ["large-1", "large-2", "large-3"] {
            let large = job(name, 6 * 1024 * 1024);
            registry.add(&large);
            registry.finish(&large, now);
        }
        assert!(!kept("job-64") && !kept("large-1") && kept("large-2") && kept("large-3"));

        registry.sweep(now + FINISHED_AGE);
        assert!(!kept("large-3") && kept("running"));
    }

    #[test]
    fn there_is_an_end_to_running_jobs() {
        let registry = Registry::default();
        for number in 0..MAX_RUNNING {
            assert_eq!(registry.add(&job(&format!("{number}"), 0)), Added::New);
        }
        assert_eq!(registry.add(&job("one more", 0)), Added::Full);
    }
}

//! When an open job is given up, so that none stays open for ever and what a dead party holds is
//! freed.
//!
//! Times are of a clock that only goes forward and knows nothing of the date, so that setting a
//! machine's clock ends no job. After a restart every open job has its whole patience again.

use std::collections::HashMap;
use std::time::Duration;

use derouter_wire::JobKey;
use derouter_wire::jobs::FailureCause;

use crate::job::{Role, Stage};

/// How long a provider waits for a consumer to join a job that it took. Consumers join within a
/// second or two, or have gone.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// How long a job may be open with nobody joined, after it was joined once: time for a node to
/// restart and a module to come back.
pub const IDLE_PATIENCE: Duration = Duration::from_secs(600);

/// How long a job may be open at all: a day.
pub const LONGEST: Duration = Duration::from_secs(86_400);

/// How long a consumer waits for the answer to a creation, over its repetitions: longer than the last of
/// them takes with large arguments over a slow line (20 s, then 48 s).
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(75);

/// By how much a consumer is more patient than its provider, so that the provider ends a job first
/// and the consumer hears of it.
pub const MARGIN: Duration = Duration::from_secs(60);

/// Which side of which job.
pub type JobSide = (Role, JobKey);

#[derive(Debug)]
struct Open {
    stage: Stage,
    since: Duration,
    /// Pipes of it that are open now.
    joined: usize,
    /// Since when there is none.
    alone_since: Duration,
}

/// The open jobs of a node, as far as their deadlines are concerned.
#[derive(Debug, Default)]
pub struct OpenJobs(HashMap<JobSide, Open>);

impl OpenJobs {
    /// A job was created, or found open at the start.
    pub fn opened(&mut self, side: JobSide, stage: Stage, now: Duration) {
        let open = Open {
            stage,
            since: now,
            joined: 0,
            alone_since: now,
        };
        self.0.entry(side).or_insert(open);
    }

    /// It got so far.
    pub fn reached(&mut self, side: &JobSide, stage: Stage, now: Duration) {
        if let Some(open) = self.0.get_mut(side) {
            open.stage = open.stage.max(stage);
            open.alone_since = now;
        }
    }

    /// A pipe of it was opened. True when it is the first ever.
    pub fn joined(&mut self, side: &JobSide) -> bool {
        let Some(open) = self.0.get_mut(side) else {
            return false;
        };
        open.joined += 1;
        let first = open.stage < Stage::Running;
        open.stage = Stage::Running;
        first
    }

    /// A pipe of it was closed.
    pub fn left(&mut self, side: &JobSide, now: Duration) {
        if let Some(open) = self.0.get_mut(side) {
            open.joined = open.joined.saturating_sub(1);
            open.alone_since = now;
        }
    }

    /// It has ended.
    pub fn ended(&mut self, side: &JobSide) {
        self.0.remove(side);
    }

    /// Whether it is open.
    pub fn has(&self, side: &JobSide) -> bool {
        self.0.contains_key(side)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those whose time is over, at most `most`. They stay until [`OpenJobs::ended`] says that they
    /// were given up.
    pub fn overdue(&self, now: Duration, most: usize) -> Vec<(JobSide, FailureCause)> {
        let overdue = self.0.iter().filter_map(|(side, open)| {
            let cause = open.overdue(side.0, now)?;
            Some((side.clone(), cause))
        });
        overdue.take(most).collect()
    }
}

impl Open {
    fn overdue(&self, role: Role, now: Duration) -> Option<FailureCause> {
        let margin = match role {
            Role::Consumer => MARGIN,
            Role::Provider => Duration::ZERO,
        };
        if now.saturating_sub(self.since) >= LONGEST + margin {
            return Some(FailureCause::TooLong);
        }
        if self.joined > 0 {
            return None;
        }
        let (patience, cause) = match self.stage {
            Stage::Created => (ANSWER_PATIENCE, FailureCause::NotAnswered),
            Stage::Accepted => (JOIN_PATIENCE + margin, FailureCause::NotJoined),
            Stage::Running => (IDLE_PATIENCE + margin, FailureCause::Idle),
        };
        (now.saturating_sub(self.alone_since) >= patience).then_some(cause)
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::{JobId, PeerId};
    use proptest::prelude::*;

    use super::*;

    fn side(role: Role) -> JobSide {
        let key = JobKey {
            provider: PeerId::random(),
            job_id: JobId::new("j").unwrap(),
        };
        (role, key)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn causes(jobs: &OpenJobs, at: u64) -> Vec<FailureCause> {
        let overdue = jobs.overdue(secs(at), 10);
        overdue.into_iter().map(|(_, cause)| cause).collect()
    }

    #[test]
    fn a_job_that_nobody_joins_is_given_up_by_the_provider_first() {
        for (role, at) in [(Role::Provider, 60), (Role::Consumer, 120)] {
            let mut jobs = OpenJobs::default();
            jobs.opened(side(role), Stage::Accepted, secs(0));
            assert_eq!(causes(&jobs, at - 1), []);
            assert_eq!(causes(&jobs, at), [FailureCause::NotJoined]);
        }
    }

    #[test]
    fn a_joined_job_is_given_up_when_it_is_left_for_long_or_after_a_day() {
        let mut jobs = OpenJobs::default();
        let job = side(Role::Provider);
        jobs.opened(job.clone(), Stage::Accepted, secs(0));
        assert!(jobs.joined(&job), "the first time");
        assert!(!jobs.joined(&job), "and once more");
        assert_eq!(causes(&jobs, 86_399), []);
        jobs.left(&job, secs(100));
        assert_eq!(causes(&jobs, 5000), [], "one pipe is still open");
        jobs.left(&job, secs(200));
        assert_eq!(causes(&jobs, 799), []);
        assert_eq!(causes(&jobs, 800), [FailureCause::Idle]);
        jobs.joined(&job);
        assert_eq!(causes(&jobs, 86_400), [FailureCause::TooLong]);
        jobs.ended(&job);
        assert_eq!(causes(&jobs, 86_400), []);
        jobs.left(&job, secs(1));
        assert!(jobs.is_empty());
    }

    #[test]
    fn a_creation_that_is_not_answered_ends() {
        let mut jobs = OpenJobs::default();
        let job = side(Role::Consumer);
        jobs.opened(job.clone(), Stage::Created, secs(5));
        assert_eq!(causes(&jobs, 79), []);
        assert_eq!(causes(&jobs, 80), [FailureCause::NotAnswered]);
        jobs.reached(&job, Stage::Accepted, secs(79));
        assert_eq!(causes(&jobs, 80), []);
    }

    proptest! {
        /// Whatever happens to it, a job that is not ended by somebody is overdue after a day.
        #[test]
        fn every_open_job_has_an_end(steps in prop::collection::vec((0_u8..4, 0_u64..86_400), 0..40)) {
            let mut jobs = OpenJobs::default();
            let job = side(Role::Consumer);
            jobs.opened(job.clone(), Stage::Created, secs(0));
            for (step, at) in steps {
                match step {
                    0 => jobs.reached(&job, Stage::Accepted, secs(at)),
                    1 => { jobs.joined(&job); }
                    2 => jobs.left(&job, secs(at)),
                    _ => jobs.opened(job.clone(), Stage::Created, secs(at)),
                }
            }
            prop_assert_eq!(jobs.overdue(secs(86_460), 10).len(), 1);
        }
    }
}

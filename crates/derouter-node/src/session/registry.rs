//! The provider's sessions, by their numbers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use derouter_sdk::{JobKey, JobStream, PeerId};

use super::{Pipe, ReplayBudget, Session};

/// How long a session waits for its consumer to join again, and how long a whole answer is kept for
/// one that may lack its end. A consumer tries within seconds; meanwhile a backend works on, maybe for
/// nobody. One that leaves for good says so by giving the job up, and is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sessions that are kept. Above it new ones can't be joined again, and end when their link breaks.
pub(super) const MOST: usize = 8192;

struct Kept {
    consumer: PeerId,
    job: JobKey,
    session: Arc<Session>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Sessions {
    kept: Mutex<HashMap<u64, Kept>>,
    budget: ReplayBudget,
}

impl Sessions {
    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the node's sessions, the consumer's too, may keep in memory.
    pub(crate) fn budget(&self) -> &ReplayBudget {
        &self.budget
    }

    /// Begins a session on a stream, under a number that the other side was told.
    pub(crate) fn begin(
        &self,
        number: u64,
        consumer: PeerId,
        job: JobKey,
        stream: JobStream,
    ) -> Pipe {
        let mut kept = self.kept();
        if kept.len() >= MOST {
            let broken = |session: Arc<Session>| session.end(io::ErrorKind::ConnectionReset);
            return Session::new(stream, &self.budget, Some(Box::new(broken))).pipe();
        }
        let session = Session::new(stream, &self.budget, None);
        let pipe = session.pipe();
        let new = Kept {
            consumer,
            job,
            session,
        };
        kept.insert(number, new);
        pipe
    }

    /// The session of that number, if it is of this consumer and job.
    pub(crate) fn find(
        &self,
        number: u64,
        consumer: &PeerId,
        job: &JobKey,
    ) -> Option<Arc<Session>> {
        let kept = self.kept();
        let found = kept.get(&number)?;
        let its_own = found.consumer == *consumer && found.job == *job;
        its_own.then(|| Arc::clone(&found.session))
    }

    /// Forgets the sessions that are over or that nobody came back for.
    pub(crate) fn sweep(&self, now: Duration) {
        self.kept()
            .retain(|_, kept| !kept.session.expire(now, PATIENCE));
    }

    /// The consumers signed for these jobs, so they lack nothing of what was sent before.
    pub(crate) fn signed(&self, jobs: &HashSet<JobKey>) {
        let is_over = |kept: &Kept| jobs.contains(&kept.job) && kept.session.is_kept_for_its_end();
        self.kept().retain(|_, kept| !is_over(kept));
    }

    /// Ends those of a job that failed.
    pub(crate) fn end_job(&self, job: &JobKey) {
        self.kept().retain(|_, kept| {
            let ends = kept.job == *job;
            if ends {
                kept.session.end(io::ErrorKind::ConnectionAborted);
            }
            !ends
        });
    }
}

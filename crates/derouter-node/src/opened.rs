//! Pipes of jobs that were created and joined in one call (wire 0.2) and that their module has not
//! asked for yet. It does so at once: a creation and an opening are two calls of one program.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use derouter_sdk::{JobKey, JobStream};

/// How long a pipe waits for its module. A module that comes later joins the job anew.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pipes that wait. Above it, the module joins its job anew.
const MOST: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Opened(Mutex<HashMap<JobKey, (JobStream, Duration)>>);

impl Opened {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<JobKey, (JobStream, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a pipe for its module.
    pub(crate) fn keep(&self, job: JobKey, pipe: JobStream, now: Duration) {
        let mut waiting = self.waiting();
        if waiting.len() < MOST {
            waiting.insert(job, (pipe, now));
        }
    }

    /// The pipe of a job, once.
    pub(crate) fn take(&self, job: &JobKey) -> Option<JobStream> {
        self.waiting().remove(job).map(|(pipe, _)| pipe)
    }

    /// Closes the pipes that nobody came for.
    pub(crate) fn sweep(&self, now: Duration) {
        let late: Vec<_> = {
            let mut waiting = self.waiting();
            let is_late = |_: &JobKey, (_, since): &mut (JobStream, Duration)| {
                now.saturating_sub(*since) >= PATIENCE
            };
            waiting.extract_if(is_late).collect()
        };
        // Dropped here, without the lock: a pipe's end runs the node's code.
        drop(late);
    }
}

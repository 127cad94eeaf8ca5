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
pub(crate) struct Opened(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    pipes: HashMap<JobKey, (JobStream, Duration)>,
    /// The node stops.
    closed: bool,
}

impl Opened {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a pipe for its module.
    pub(crate) fn keep(&self, job: JobKey, pipe: JobStream, now: Duration) {
        let mut waiting = self.waiting();
        if waiting.pipes.len() < MOST && !waiting.closed {
            waiting.pipes.insert(job, (pipe, now));
        }
    }

    /// The pipe of a job, once.
    pub(crate) fn take(&self, job: &JobKey) -> Option<JobStream> {
        self.waiting().pipes.remove(job).map(|(pipe, _)| pipe)
    }

    /// Closes the pipes that nobody came for.
    pub(crate) fn sweep(&self, now: Duration) {
        let late: Vec<_> = {
            let mut waiting = self.waiting();
            let is_late = |_: &JobKey, (_, since): &mut (JobStream, Duration)| {
                now.saturating_sub(*since) >= PATIENCE
            };
            waiting.pipes.extract_if(is_late).collect()
        };
        // Dropped here, without the lock: a pipe's end runs the node's code.
        drop(late);
    }

    /// Closes all pipes, and those that come later: each holds the node, which holds them.
    pub(crate) fn close(&self) {
        let pipes = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            std::mem::take(&mut waiting.pipes)
        };
        // As in a sweep.
        drop(pipes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use derouter_sdk::{JobId, PeerId};

    use super::*;
    use crate::open_jobs::Guarded;

    #[test]
    fn a_node_that_stops_lets_go_of_every_pipe() {
        let opened = Opened::default();
        let node = Arc::new(());
        let job = JobKey {
            provider: PeerId::random(),
            job_id: JobId::new("j").unwrap(),
        };
        let keep = || {
            let pipe = Guarded::new(tokio::io::empty(), Arc::clone(&node));
            opened.keep(job.clone(), Box::new(pipe), Duration::ZERO);
        };
        keep();
        assert_eq!(Arc::strong_count(&node), 2);
        opened.close();
        assert_eq!(Arc::strong_count(&node), 1);
        keep();
        assert_eq!(Arc::strong_count(&node), 1, "also of those that come late");
        assert!(opened.take(&job).is_none());
    }
}

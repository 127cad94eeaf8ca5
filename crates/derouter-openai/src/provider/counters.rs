//! What happened so far, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start. Each is read on its own: together they are no snapshot in time.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The numbers of [`Counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// The numbers now.
            pub fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Jobs taken.
    jobs_accepted,
    /// Jobs refused because there was no room.
    jobs_busy,
    /// Jobs refused because their arguments can't be served.
    jobs_invalid,
    /// Jobs completed: answered, and recorded by the node.
    jobs_completed,
    /// Jobs failed by the backend.
    jobs_failed,
    /// Jobs whose consumer went away, or never came.
    jobs_abandoned,
    /// Connections served.
    connections,
    /// Connections to a job that had been connected to before.
    replays,
    /// Answers whose usage we had to count ourselves.
    usage_estimated,
    /// Prompt tokens of completed jobs.
    prompt_tokens,
    /// Completion tokens of completed jobs.
    completion_tokens,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Adds some.
    pub(crate) fn add(&self, some: u64) {
        self.0.fetch_add(some, Ordering::Relaxed);
    }
}

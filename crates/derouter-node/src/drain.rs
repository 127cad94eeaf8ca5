//! The end of a node in two steps. First it drains: its offers leave the market at once, it takes no
//! new job, and what runs goes on. Then it stops ([`RunningNode::shutdown`]).
//!
//! [`RunningNode::shutdown`]: crate::RunningNode::shutdown

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use derouter_sdk::{NodeState, Watch};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::shared::Shared;

/// How long a drain waits until its offers are off the market here and the network was told. It
/// goes on without: peers learn of it at the stop, or by silence.
const WITHDRAW_WAIT: Duration = Duration::from_secs(2);

/// How often a drain looks whether all is done. Nothing is looked at before a drain begins.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// States that wait in a watch: there are two.
const STATES: usize = 4;

/// What is left to do before a node that drains can stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Jobs whose streams are open, or whose consumer is about to connect or to sign.
    pub jobs: usize,
    /// Signatures on their way to providers.
    pub signatures: usize,
}

impl Left {
    /// Whether nothing is left.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Shared {
    /// Whether the node takes no new work any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.borrow().is_some()
    }

    /// How the node is, as its modules see it.
    fn state(&self) -> NodeState {
        match *self.draining.borrow() {
            None => NodeState::Serving,
            Some(until) => NodeState::Draining {
                left: until.saturating_duration_since(Instant::now()),
            },
        }
    }

    /// Takes no new work from now on, and takes the offers back.
    pub(crate) async fn begin_drain(&self, limit: Duration) {
        let until = Instant::now() + limit;
        self.draining.send_replace(Some(until));
        let (done, withdrawn) = oneshot::channel();
        let withdraw = async {
            if self.refresh.send(Some(done)).await.is_ok() {
                let _ = withdrawn.await;
            }
        };
        if timeout(WITHDRAW_WAIT, withdraw).await.is_err() {
            tracing::warn!("the offers could not be taken back yet");
        }
    }

    /// What is left to do.
    pub(crate) fn left(&self) -> Left {
        let now = self.clock.now().uptime;
        let arriving = self.market().arriving.len();
        Left {
            jobs: self.with_running(|running| running.count(now)) + arriving,
            signatures: self.delivering.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Waits until no job runs and each signature was offered to its provider.
    pub(crate) async fn drained(&self) {
        loop {
            while self.left().jobs > 0 {
                sleep(LOOK_EVERY).await;
            }
            let (done, offered) = oneshot::channel();
            // Without its receiver nothing is delivered any more.
            if self.settle.send(done).await.is_err() || offered.await.is_err() {
                return;
            }
            if self.left().jobs == 0 {
                return;
            }
        }
    }

    /// Looks at the jobs that run, or changes them.
    pub(crate) fn with_running<T>(
        &self,
        work: impl FnOnce(&mut crate::running::RunningJobs) -> T,
    ) -> T {
        work(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Follows the node's state: what it is now, then each change.
pub(crate) fn watch(shared: &Arc<Shared>) -> Watch<NodeState> {
    let (sender, receiver) = mpsc::channel(STATES);
    let mut changes = shared.draining.subscribe();
    changes.mark_unchanged();
    let _ = sender.try_send(shared.state());
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = sender.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            if sender.send(shared.state()).await.is_err() {
                return;
            }
        }
    });
    Watch::new(receiver)
}

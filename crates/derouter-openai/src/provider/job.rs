//! A job: its answer's log and who is connected to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use derouter_sdk::{JobKey, ProviderDesk};
use tokio::sync::watch;

use super::log::AnswerLog;

/// Connections to one job at a time. One is needed; another comes when a consumer reconnects.
const MAX_CONNECTIONS: u32 = 8;

/// A job that was taken.
pub(super) struct Job {
    pub(super) key: JobKey,
    pub(super) log: AnswerLog,
    presence: watch::Sender<Presence>,
    /// The desk of the first connection.
    desk: Mutex<Option<Arc<dyn ProviderDesk>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    ever: bool,
    now: u32,
}

/// Why nobody wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Nobody ever connected.
    NeverCame,
    /// The last connection is gone.
    WentAway,
}

impl Job {
    pub(super) fn new(key: JobKey) -> Self {
        Self {
            key,
            log: AnswerLog::new(),
            presence: watch::Sender::new(Presence::default()),
            desk: Mutex::new(None),
        }
    }

    /// Whether another connection may be served.
    pub(super) fn has_room(&self) -> bool {
        self.presence.borrow().now < MAX_CONNECTIONS
    }

    /// Counts a connection for as long as the result lives. `None` when there are too many.
    pub(super) fn connect(self: &Arc<Self>, desk: Arc<dyn ProviderDesk>) -> Option<Connected> {
        let mut replay = false;
        let connected = self.presence.send_if_modified(|presence| {
            if presence.now >= MAX_CONNECTIONS {
                return false;
            }
            replay = presence.ever;
            presence.now = presence.now.saturating_add(1);
            // The desk first: the pump uses it as soon as it sees the connection.
            let mut kept = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert(desk);
            presence.ever = true;
            true
        });
        connected.then(|| Connected {
            job: Arc::clone(self),
            replay,
        })
    }

    /// The desk of the first connection.
    pub(super) fn desk(&self) -> Option<Arc<dyn ProviderDesk>> {
        let desk = self.desk.lock();
        desk.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first connection.
    pub(super) async fn connected(&self) {
        let mut presence = self.presence.subscribe();
        // Fails only when the sender is gone, and that is `self`.
        let _ = presence.wait_for(|presence| presence.ever).await;
    }

    /// Waits until nobody wants the answer: nobody connects within `limit`, or all have gone.
    pub(super) async fn abandoned(&self, limit: Duration) -> Absence {
        if tokio::time::timeout(limit, self.connected()).await.is_err() {
            return Absence::NeverCame;
        }
        let mut presence = self.presence.subscribe();
        let _ = presence.wait_for(|presence| presence.now == 0).await;
        Absence::WentAway
    }
}

/// A connection, counted.
pub(super) struct Connected {
    job: Arc<Job>,
    /// Whether the job had been connected to before.
    pub(super) replay: bool,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.job.presence.send_modify(|presence| {
            presence.now = presence.now.saturating_sub(1);
        });
    }
}

//! What all requests share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use derouter_sdk::{Node, PeerId};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::events::Streams;
use crate::hosts::Hosts;
use crate::metrics::Refusals;
use crate::modules::Modules;
use crate::sessions::Sessions;

/// What all requests share; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

/// See [`App`].
pub(crate) struct Inner {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) own: PeerId,
    pub(crate) modules: Modules,
    pub(crate) board: Arc<Board>,
    pub(crate) hosts: Hosts,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) streams: Streams,
    pub(crate) refusals: Refusals,
    pub(crate) stop: CancellationToken,
    /// What `derouter open` shows.
    pub(crate) launch_secret: String,
    /// What people from other machines show.
    pub(crate) token: Option<String>,
    /// The name of the session's cookie.
    pub(crate) cookie: String,
    /// Whether the dashboard listens for other machines.
    pub(crate) remote: bool,
    pub(crate) version: &'static str,
    pub(crate) started: std::time::Instant,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Who is let in.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

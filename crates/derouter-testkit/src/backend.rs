//! A real OpenAI-compatible server that reports what it saw and fails on demand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::serve::ListenerExt;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use other::{HEARD, IMAGE_CHARS, SPEECH_BYTES};

use crate::fault::{Behaviour, Fault};
use crate::wait::eventually;

pub mod answer;
mod other;
mod serve;

/// Requests kept for a test to look at; a bench makes more, and the oldest go first.
const SEEN_REQUESTS: usize = 4_096;

/// How a backend starts.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// Where to listen; port 0 for any free one.
    pub address: SocketAddr,
    /// What `/v1/models` names. Requests may name any model.
    pub models: Vec<String>,
    /// How requests are treated when they don't say.
    pub behaviour: Behaviour,
    /// Whether requests are kept to be looked at. A bench does not want it.
    pub record: bool,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            models: vec!["test-model".to_owned()],
            behaviour: Behaviour::default(),
            record: true,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not.
    Running,
    /// The backend sent all that it meant to send.
    Answered,
    /// The client went away before that.
    ClientLeft,
}

/// A request as the backend saw it.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Its path.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Value,
    /// How it ended.
    pub outcome: Outcome,
    /// When it did.
    pub ended_at: Option<Instant>,
}

impl SeenRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What the handlers share with the test.
#[derive(Debug)]
struct Shared {
    options: BackendOptions,
    behaviour: Mutex<Behaviour>,
    /// Requests by number; the first kept one is `first`.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    first: u64,
    requests: std::collections::VecDeque<SeenRequest>,
}

/// A backend; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    /// Starts a backend with the default options.
    pub async fn start() -> Self {
        Self::start_with(BackendOptions::default()).await
    }

    /// Starts a backend.
    pub async fn start_with(options: BackendOptions) -> Self {
        let listener = TcpListener::bind(options.address).await;
        let listener = listener.expect("the backend's address is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(options.behaviour),
            seen: Mutex::default(),
            options,
        });
        let listener = listener.tap_io(|stream| {
            // A delayed packet would be measured as ours.
            let _ = stream.set_nodelay(true);
        });
        let app = serve::router(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self {
            address,
            shared,
            server,
        }
    }

    /// The base URL that an OpenAI client takes, ending in `/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests that don't choose a fault themselves get this one, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        lock(&self.shared.behaviour).fault = fault;
    }

    /// From now on requests are treated like this when they don't say.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// The requests seen, oldest first; at most the latest 4,096.
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).requests.iter().cloned().collect()
    }

    /// Forgets the requests seen so far.
    pub fn forget(&self) {
        let mut seen = lock(&self.shared.seen);
        let dropped = u64::try_from(seen.requests.len()).unwrap_or(u64::MAX);
        seen.first = seen.first.saturating_add(dropped);
        seen.requests.clear();
    }

    /// Waits for a seen request that fits, and panics when there is none in time.
    pub async fn wait_seen(
        &self,
        what: &str,
        mut fits: impl FnMut(&SeenRequest) -> bool,
    ) -> SeenRequest {
        eventually(what, async || {
            self.seen().into_iter().find(|seen| fits(seen))
        })
        .await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, request: SeenRequest) -> Ticket {
        if !self.options.record {
            return Ticket {
                shared: None,
                number: 0,
            };
        }
        let mut seen = lock(&self.seen);
        if seen.requests.len() >= SEEN_REQUESTS {
            seen.requests.pop_front();
            seen.first = seen.first.saturating_add(1);
        }
        let kept = u64::try_from(seen.requests.len()).unwrap_or(u64::MAX);
        let number = seen.first.saturating_add(kept);
        seen.requests.push_back(request);
        Ticket {
            shared: Some(Arc::clone(self)),
            number,
        }
    }
}

/// Ends a seen request: dropped before [`Ticket::answered`] it says that the client left.
#[derive(Debug)]
struct Ticket {
    shared: Option<Arc<Shared>>,
    number: u64,
}

impl Ticket {
    fn answered(&mut self) {
        self.end(Outcome::Answered);
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let mut seen = lock(&shared.seen);
        let Some(index) = self.number.checked_sub(seen.first) else {
            return;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(request) = seen.requests.get_mut(index) {
            request.outcome = outcome;
            request.ended_at = Some(Instant::now());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Outcome::ClientLeft);
    }
}

//! The consumer module: an OpenAI-compatible endpoint on this machine that buys the answers.
//!
//! A request goes to the offer that fits best (`router`), then to the next, until an answer begins; its
//! values pass as they come; its bill is checked against what was asked and seen before it is
//! signed. It spends money: see [`Limits`] for how much, and `security` for who may call.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::Node;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

mod active;
mod answer;
mod anthropic;
mod api;
mod attempt;
mod choosing;
mod chunks;
mod config;
mod dispatch;
mod epilogue;
mod error;
mod feed;
mod form;
mod gateway;
mod hedge;
mod job;
mod journal;
mod keys;
mod ledger;
mod measure;
mod memory;
mod models;
mod offers;
mod operator;
mod paths;
mod price_history;
mod quality;
mod quote;
mod relay;
mod request;
mod route;
mod router;
mod security;
mod spending;
mod standing;
mod tally;
mod tokens;
mod v0_2;
mod values;
mod verdict;
pub mod view;
mod waiting;

pub(crate) use anthropic::{
    fuzz_answer as fuzz_messages_answer, fuzz_request as fuzz_messages_request,
};
pub use config::{ConsumerConfig, Deadlines, Limits, ModelRule, PriceCap, Routing};
pub use gateway::ConsumerCounters;
pub use hedge::is_percentile;
pub use journal::{JournalError, KeySpending, spent_by_key};
pub use keys::{KeyError, KeyRecord, KeyRules, KeyStore};
pub use memory::MEASURED_FILE;
pub use operator::{OPERATOR_FILE, operator_token};
pub use router::{Sort, Tuning, Weights};
pub use spending::KeyLimits;
pub use standing::{STANDING_FILE, Standing, StandingError, check_standings};
pub use tokens::{TokenizerError, check_tokenizer};

pub(crate) use measure::{SILENT_FIELDS, generated_bytes};
pub(crate) use tokens::Said;

use derouter_http::{Bounds, Stop};
use gateway::{Gateway, Tasks};
use journal::Journal;
use keys::Keys;
use operator::Operator;
use tokens::{Counting, Tokenizers};

/// What clients may take: they keep idle connections in pools, for 60 s in common ones, and are to be
/// the first to close them.
const BOUNDS: Bounds = Bounds {
    connections: 1024,
    head_time: Duration::from_secs(75),
    stall: Duration::from_secs(120),
    head: None,
};

/// How long running answers may take to finish on a shutdown: people wait for it.
const FINISH_GRACE: Duration = Duration::from_secs(10);

/// How long bills and given-up jobs may take to reach the node afterwards.
const SETTLE_GRACE: Duration = Duration::from_secs(5);

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can't be listened on.
    #[error("the OpenAI endpoint can't listen on {address}: {}", hint(.source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The address can be reached from other machines, and there is no key.
    #[error(
        "the OpenAI endpoint would listen on {0}, where other machines can spend your money, and there are no keys. \
         Make one with `derouter token create NAME`, or listen on 127.0.0.1"
    )]
    NoKeys(IpAddr),
    /// The keys can't be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A tokenizer that the configuration names can't be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// What was spent with the keys can't be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop the program that uses it, or choose another port".into()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports under 1024 need rights, choose a higher one".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; 127.0.0.1 is always there".into()
        }
        _ => error.to_string(),
    }
}

/// A gateway that runs. Dropping it ends it at once; [`RunningConsumer::shutdown`] lets running
/// answers finish.
pub struct RunningConsumer {
    local_addr: SocketAddr,
    counters: Arc<ConsumerCounters>,
    tasks: Tasks,
    viewer: view::Viewer,
    stop: Stop,
    server: Option<JoinHandle<()>>,
    _feeds: [AbortOnDropHandle<()>; 6],
}

/// Starts the gateway. It listens when this returns; until the node has told its offers and what
/// was spent before, requests are answered 503.
pub async fn start(
    node: Arc<dyn Node>,
    config: ConsumerConfig,
) -> Result<RunningConsumer, StartError> {
    let address = SocketAddr::new(config.host, config.port);
    let data_dir = config.data_dir.as_deref();
    let tokenizers = read_tokenizers(config.tokenizers.clone()).await?;
    let keys = Keys::load(data_dir, config.host.is_loopback())?;
    if !config.host.is_loopback() && !keys.any() {
        return Err(StartError::NoKeys(config.host));
    }
    let journal = match data_dir {
        Some(data_dir) => Some(Journal::open(data_dir).await?),
        None => None,
    };
    let bind_error = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind_error)?;
    let local_addr = listener.local_addr().map_err(bind_error)?;
    let allowed =
        security::Allowed::new(local_addr, &config.allowed_hosts, &config.allowed_origins);
    let client_stall = config.deadlines.client_stall;
    let stop = Stop::default();
    let counting = Counting::until(stop.now.clone());
    let gateway = Arc::new(Gateway::new(node, config, keys, tokenizers, counting));
    if let Some(journal) = journal {
        gateway.ledger.keep(journal);
    }
    if let Some(data_dir) = gateway.config.data_dir.clone() {
        match Operator::create(&data_dir) {
            Ok(operator) => gateway.know_operator(operator),
            Err(error) => tracing::warn!(
                %error, file = OPERATOR_FILE,
                "can't write the file by which commands of this user are known: they need a key"
            ),
        }
    }
    let routes = api::routes(Arc::clone(&gateway), allowed);
    let bounds = Bounds {
        // A client that stopped reading must not hold a job, its reservation and its place for ever.
        stall: client_stall,
        ..BOUNDS
    };
    let server = derouter_http::serve(listener, routes, bounds, stop.clone());
    tracing::info!(%local_addr, "the OpenAI endpoint listens");
    Ok(RunningConsumer {
        local_addr,
        counters: Arc::clone(&gateway.counters),
        viewer: view::Viewer::new(Arc::clone(&gateway)),
        tasks: gateway.tasks.clone(),
        stop,
        server: Some(tokio::spawn(server)),
        _feeds: [
            AbortOnDropHandle::new(tokio::spawn(feed::follow_offers(Arc::clone(&gateway)))),
            AbortOnDropHandle::new(tokio::spawn(feed::follow_state(Arc::clone(&gateway)))),
            AbortOnDropHandle::new(tokio::spawn(paths::follow(Arc::clone(&gateway)))),
            AbortOnDropHandle::new(tokio::spawn(standing::follow(Arc::clone(&gateway)))),
            AbortOnDropHandle::new(tokio::spawn(memory::follow(Arc::clone(&gateway)))),
            AbortOnDropHandle::new(tokio::spawn(feed::learn_past(gateway))),
        ],
    })
}

/// Large vocabularies take seconds to read.
async fn read_tokenizers(named: BTreeMap<String, PathBuf>) -> Result<Tokenizers, StartError> {
    let reading = tokio::task::spawn_blocking(move || Tokenizers::load(&named));
    match reading.await {
        Ok(read) => Ok(read?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl RunningConsumer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The base URL for clients.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.local_addr)
    }

    /// What happened since the start.
    pub fn counters(&self) -> &ConsumerCounters {
        &self.counters
    }

    /// What it knows, for whoever looks at it in this process.
    pub fn viewer(&self) -> view::Viewer {
        self.viewer.clone()
    }

    /// Stops with 10 s for running answers: see [`RunningConsumer::shutdown_within`].
    pub async fn shutdown(self) {
        self.shutdown_within(FINISH_GRACE).await;
    }

    /// Stops accepting, lets running answers finish for at most `grace`, then ends them, and waits
    /// until their bills are signed or their jobs given up: 10 s more at most.
    pub async fn shutdown_within(mut self, grace: Duration) {
        self.stop.gently.cancel();
        if let Some(mut server) = self.server.take() {
            let finished = timeout(grace, &mut server).await;
            self.stop.now.cancel();
            if finished.is_err() {
                tracing::warn!("answers that still run are ended");
                let _ = timeout(SETTLE_GRACE, server).await;
            }
        }
        self.tasks.tracker.close();
        if timeout(SETTLE_GRACE, self.tasks.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("some jobs are left to the node");
        }
        memory::save(&self.viewer.gateway).await;
    }
}

impl Drop for RunningConsumer {
    fn drop(&mut self) {
        self.stop.gently.cancel();
        self.stop.now.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// The router as simulations and property tests use it.
#[doc(hidden)]
pub mod sim {
    pub use super::quality::{Blame, Estimate, Observed, Quality, Sample};
    pub use super::router::{
        Candidate, Exclusion, MaxPrice, Needs, Parts, Path, Preferences, ProviderName, Ranked,
        Rules, Sort, Tuning, Wanted, Weights, Why, rank,
    };
}

/// See [`crate::fuzz::http_request`].
pub(crate) fn fuzz_request(data: &[u8]) {
    use crate::protocol::Endpoint;
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let endpoint = match first & 1 {
        0 => Endpoint::Chat,
        _ => Endpoint::Completions,
    };
    let Ok(asked) = request::Asked::parse(endpoint, body) else {
        return;
    };
    let Some(args) = asked.args_0_1() else { return };
    assert!(args.len() <= request::MAX_JOB_ARGS_BYTES);
    let size = asked.size;
    let most = size.most(1 << 20);
    assert!(most.prompt_tokens <= size.prompts.saturating_mul(1 << 20));
    assert!(size.least_prompt_tokens() <= size.body_bytes);
    // What is sent is what was checked.
    let again = request::Asked::parse(endpoint, args.as_bytes());
    assert_eq!(
        again.as_ref().map(|again| &again.fields).ok(),
        Some(&asked.fields)
    );
}

/// See [`crate::fuzz::job_values`].
pub(crate) fn fuzz_values(data: &[u8]) -> Vec<serde_json::Value> {
    use futures::FutureExt;
    let mut reader = values::ValueReader::new(data, false);
    let mut read = Vec::new();
    while let Some(Ok(value)) = reader.next().now_or_never() {
        read.push(value);
    }
    read
}

impl fmt::Debug for RunningConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningConsumer")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

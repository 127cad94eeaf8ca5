//! The nodes, and what happens to them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use derouter_testkit::crash::node::{CrashNode, own_port};
use derouter_testkit::crash::points::Side;
use derouter_testkit::home::{openai_consumer, openai_provider};
use derouter_testkit::pair::wait_model;
use derouter_testkit::{Backend, BackendOptions, Behaviour, Fault, NodeConfig};
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// The model that all of them offer.
pub(super) const MODEL: &str = "test-model";

/// Providers that get into trouble.
const RESTLESS: usize = 3;

/// Failed attempts that are shown when a request fails.
const SHOWN_ATTEMPTS: usize = 12;

/// What a backend gets into.
const FAULTS: [Fault; 9] = [
    Fault::ServerError,
    Fault::TooManyRequests,
    Fault::Garbage,
    Fault::Empty,
    Fault::StallFirst,
    Fault::StallMiddle,
    Fault::CloseEarly,
    Fault::MalformedSse,
    Fault::ErrorEvent,
];

/// How long a trouble lasts, in milliseconds.
const LASTS: std::ops::Range<u64> = 1_000..6_000;

/// How long a provider is left in peace after it, in milliseconds.
const PEACE: std::ops::Range<u64> = 2_000..8_000;

/// An answer that breaks so soon after a trouble is still of it: timers are 10 s.
const AFTERMATH: Duration = Duration::from_secs(15);

/// Since when, and until when.
type Time = (Instant, Option<Instant>);

/// When each provider was in trouble.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashMap<String, Vec<Time>>>);

impl Troubles {
    fn began(&self, peer: &str) {
        let mut all = self.0.lock().unwrap();
        all.entry(peer.to_owned())
            .or_default()
            .push((Instant::now(), None));
    }

    fn ended(&self, peer: &str) {
        let mut all = self.0.lock().unwrap();
        let last = all.get_mut(peer).and_then(|times| times.last_mut());
        if let Some((_, until)) = last {
            *until = Some(Instant::now());
        }
    }

    /// Whether a provider was in trouble at some time since then.
    pub(super) fn since(&self, peer: &str, since: Instant) -> bool {
        let all = self.0.lock().unwrap();
        let times = all.get(peer).map_or(&[][..], Vec::as_slice);
        let touches = |(_, until): &Time| until.is_none_or(|until| until + AFTERMATH > since);
        times.iter().any(touches)
    }
}

/// What happens to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    Killed,
    Stopped,
    BackendGone,
    BackendFails,
}

struct Restless {
    node: CrashNode,
    peer: String,
    backend: Option<Backend>,
    address: std::net::SocketAddr,
    now: Option<Trouble>,
    /// When the trouble ends, or the next one begins.
    next: Instant,
    most_memory: u64,
}

/// All nodes.
pub(super) struct World {
    pub(super) consumer: CrashNode,
    pub(super) steady: CrashNode,
    pub(super) steady_peer: String,
    pub(super) troubles: Arc<Troubles>,
    restless: Vec<Restless>,
    happened: HashMap<Trouble, u64>,
    _backend: Backend,
}

async fn backend_at(address: Option<std::net::SocketAddr>) -> Backend {
    let defaults = BackendOptions::default();
    Backend::start_with(BackendOptions {
        address: address.unwrap_or(defaults.address),
        behaviour: Behaviour {
            pace: Duration::from_millis(2),
            ..Behaviour::default()
        },
        record: false,
        ..defaults
    })
    .await
}

fn selling(backend: &str, price: &str, bootstrap: &str) -> NodeConfig {
    let mut provider = openai_provider(backend, &[MODEL]);
    let offer = &mut provider["offers"][MODEL];
    offer["max_concurrency"] = 256.into();
    offer["input_token_price"] = json!({"$pol": price});
    offer["output_token_price"] = json!({"$pol": price});
    offer["announce"] = json!({"endpoints": ["chat/completions", "embeddings"]});
    let listen = format!("/ip4/127.0.0.1/tcp/{}", own_port());
    NodeConfig::default()
        .with("listen", json!([listen]))
        .with("drain_seconds", 5)
        .with("openai", json!({"provider": provider}))
        .bootstrap(bootstrap)
}

impl World {
    /// Starts all of them, and waits until all offers can be bought.
    pub(super) async fn start(binary: &Path) -> Self {
        let mut buying: Value = openai_consumer();
        buying["timeouts"] =
            json!({"connect": 10, "first_token": 10, "plain_answer": 10, "between_chunks": 10});
        let listen = format!("/ip4/127.0.0.1/tcp/{}", own_port());
        let config = NodeConfig::default()
            .with("listen", json!([listen]))
            .with("openai", json!({"consumer": buying}));
        let mut consumer = CrashNode::new(Side::Consumer, binary, config);
        assert!(consumer.start().await, "{}", consumer.log());
        let address = consumer.bootstrap_address();
        let backend = backend_at(None).await;
        let config = selling(&backend.url(), "2", &address);
        let mut steady = CrashNode::new(Side::Provider, binary, config);
        assert!(steady.start().await, "{}", steady.log());
        let mut restless = Vec::new();
        for _ in 0..RESTLESS {
            let backend = backend_at(None).await;
            let config = selling(&backend.url(), "1", &address);
            let mut node = CrashNode::new(Side::Provider, binary, config);
            assert!(node.start().await, "{}", node.log());
            restless.push(Restless {
                peer: node.process().ready.peer_id.clone(),
                address: backend.address(),
                backend: Some(backend),
                node,
                now: None,
                next: Instant::now() + Duration::from_secs(2),
                most_memory: 0,
            });
        }
        wait_model(consumer.process().ready.openai_url(), MODEL).await;
        Self {
            steady_peer: steady.process().ready.peer_id.clone(),
            consumer,
            steady,
            troubles: Arc::default(),
            restless,
            happened: HashMap::new(),
            _backend: backend,
        }
    }

    pub(super) fn url(&self) -> String {
        self.consumer.process().ready.openai_url().to_owned()
    }

    /// The providers that get into trouble.
    pub(super) fn restless_peers(&self) -> Vec<String> {
        self.restless.iter().map(|one| one.peer.clone()).collect()
    }

    /// How many attempts failed of those that the gateway's log still has.
    pub(super) fn failed_attempts(&self) -> usize {
        let log = self.consumer.process().process().stderr();
        let failed = log.iter().filter(|line| line.contains("attempt failed"));
        failed.count()
    }

    /// Begins and ends what is due.
    pub(super) async fn trouble(&mut self) {
        for one in &mut self.restless {
            if one.node.lives() {
                let memory = one.node.process().process().memory_bytes();
                one.most_memory = one.most_memory.max(memory);
            }
            if Instant::now() < one.next {
                continue;
            }
            let lasts = match one.now.take() {
                Some(trouble) => {
                    one.end(trouble).await;
                    self.troubles.ended(&one.peer);
                    PEACE
                }
                None => {
                    let all = [
                        Trouble::Killed,
                        Trouble::Stopped,
                        Trouble::BackendGone,
                        Trouble::BackendFails,
                        Trouble::BackendFails,
                    ];
                    let trouble = *all.choose(&mut rand::rng()).unwrap();
                    *self.happened.entry(trouble).or_default() += 1;
                    self.troubles.began(&one.peer);
                    one.begin(trouble).await;
                    one.now = Some(trouble);
                    LASTS
                }
            };
            let lasts = rand::rng().random_range(lasts);
            one.next = Instant::now() + Duration::from_millis(lasts);
        }
    }

    /// Shows the gateway's latest failed attempts: a request has just failed.
    pub(super) fn tell_attempts(&self) {
        let log = self.consumer.process().process().stderr();
        let failed = log.iter().filter(|line| line.contains("attempt failed"));
        let failed: Vec<_> = failed.collect();
        for line in failed.iter().rev().take(SHOWN_ATTEMPTS).rev() {
            println!("{line}");
        }
        println!("the good provider is {}", self.steady_peer);
    }

    /// Ends all troubles.
    pub(super) async fn calm(&mut self) {
        for one in &mut self.restless {
            if let Some(trouble) = one.now.take() {
                one.end(trouble).await;
                self.troubles.ended(&one.peer);
            }
        }
    }

    /// What happened, in a line.
    pub(super) fn told(&self) -> String {
        let most = self.restless.iter().map(|one| one.most_memory).max();
        let mib = most.unwrap_or_default() >> 20;
        format!(
            "troubles: {:?}; a troubled provider had {mib} MiB at most",
            self.happened
        )
    }
}

impl Restless {
    async fn begin(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Killed => self.node.kill().await,
            Trouble::Stopped => self.node.process().process().terminate(),
            Trouble::BackendGone => self.backend = None,
            Trouble::BackendFails => {
                let fault = FAULTS.choose(&mut rand::rng()).copied();
                if let Some(backend) = &self.backend {
                    backend.set_fault(fault);
                }
            }
        }
    }

    async fn end(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Killed | Trouble::Stopped => {
                // One that was asked to stop has 5 s for its jobs.
                let ended = self.node.ends_within(Duration::from_secs(20)).await;
                assert!(ended, "a provider does not stop:\n{}", self.node.log());
                self.node.kill().await;
                assert!(self.node.start().await, "{}", self.node.log());
            }
            Trouble::BackendGone => self.backend = Some(backend_at(Some(self.address)).await),
            Trouble::BackendFails => {
                if let Some(backend) = &self.backend {
                    backend.set_fault(None);
                }
            }
        }
    }
}

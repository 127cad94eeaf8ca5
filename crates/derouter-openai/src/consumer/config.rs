//! What the gateway is told: where to listen, which models it may buy, and what it may spend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use derouter_sdk::{PeerId, Wei};

use super::router::{Rules, Sort, Tuning};

/// Wei in one POL.
const POL: u128 = 1_000_000_000_000_000_000;

/// The most that is paid for 1,000,000 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceCap {
    /// Wei for 1,000,000 prompt tokens.
    pub input: Wei,
    /// Wei for 1,000,000 completion tokens.
    pub output: Wei,
}

impl Default for PriceCap {
    /// 50 POL each way: well above what models are offered for, and low enough that a mistyped
    /// price of a provider is not paid.
    fn default() -> Self {
        Self {
            input: Wei::from_wei(50 * POL),
            output: Wei::from_wei(50 * POL),
        }
    }
}

/// Which offers of a model are good enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRule {
    /// The smallest context window, in tokens.
    pub min_context_size: Option<u64>,
    /// The most for 1,000,000 prompt tokens; `None`: the default cap.
    pub max_input_price: Option<Wei>,
    /// The most for 1,000,000 completion tokens; `None`: the default cap.
    pub max_output_price: Option<Wei>,
}

/// What the gateway may spend. Days are those of UTC; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one request, over all its attempts.
    pub request: Option<Wei>,
    /// For one job, which is one attempt.
    pub job: Option<Wei>,
    /// With one provider in one day.
    pub provider_daily: Option<Wei>,
    /// In one day.
    pub daily: Option<Wei>,
    /// In all, jobs of earlier runs included.
    pub total: Option<Wei>,
}

impl Limits {
    /// Without any limit.
    pub const NONE: Self = Self {
        request: None,
        job: None,
        provider_daily: None,
        daily: None,
        total: None,
    };
}

impl Default for Limits {
    /// 10 POL a day: whoever sets nothing loses no more than that to a program that runs wild.
    fn default() -> Self {
        Self {
            daily: Some(Wei::from_wei(10 * POL)),
            ..Self::NONE
        }
    }
}

/// How long the gateway waits for what. The defaults are what it runs with; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// A client sends its whole request body.
    pub request_body: Duration,
    /// A provider takes a job. Nodes ask for 10 s; the rest is for our node's own work.
    pub create: Duration,
    /// A job stream opens. As for `create`.
    pub open: Duration,
    /// The prologue: 0.1 consumers give 30 s, and providers count on it.
    pub prologue: Duration,
    /// The first value of a streamed answer: a backend may load its model first.
    pub first_value: Duration,
    /// The next value of a streamed answer: reasoning without output takes a while.
    pub next_value: Duration,
    /// A plain answer: 0.1 consumers give 300 s.
    pub plain_answer: Duration,
    /// A streamed answer, from its first value to its last: a long one at a few tokens a second.
    pub streamed_answer: Duration,
    /// All attempts to begin an answer together. The first of several gets at most half, which
    /// leaves a plain answer nearly its full time, and another one as much behind a provider that
    /// stalls; in all below the 600 s after which common client libraries give up.
    pub all_attempts: Duration,
    /// The epilogue after the answer is complete, in the background: the provider writes it to
    /// its disk first.
    pub epilogue: Duration,
    /// How long a complete stream's `[DONE]` waits for the epilogue.
    pub done: Duration,
    /// Silence towards the client before a comment keeps the connection alive: common proxies
    /// give up after 30 s or 60 s.
    pub keep_alive: Duration,
    /// An answer in events begins; then its response does so without it. An error has no status of its own
    /// from there on, so not at once.
    pub begin_stream: Duration,
    /// How long a request waits for running ones to release what they reserved of a limit.
    pub spending: Duration,
    /// A client takes none of the bytes sent to it.
    pub client_stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            request_body: Duration::from_secs(60),
            create: Duration::from_secs(10),
            open: Duration::from_secs(10),
            prologue: Duration::from_secs(30),
            first_value: Duration::from_secs(120),
            next_value: Duration::from_secs(120),
            plain_answer: Duration::from_secs(300),
            streamed_answer: Duration::from_secs(30 * 60),
            all_attempts: Duration::from_secs(570),
            epilogue: Duration::from_secs(30),
            done: Duration::from_millis(500),
            keep_alive: Duration::from_secs(15),
            begin_stream: Duration::from_secs(15),
            spending: Duration::from_secs(20),
            client_stall: Duration::from_secs(120),
        }
    }
}

/// How providers are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// What a score consists of, and how much is left to chance.
    pub tuning: Tuning,
    /// What offers are sorted by where a request does not say; `None`: the score.
    pub sort: Option<Sort>,
    /// After which percentile of a provider's own times to the first token a second one is asked beside it,
    /// for streamed answers; `None`: not before it failed.
    pub hedge: Option<f64>,
    /// The only providers that are asked; empty: all.
    pub allow_providers: BTreeSet<PeerId>,
    /// Providers that are never asked.
    pub deny_providers: BTreeSet<PeerId>,
}

/// The gateway's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerConfig {
    /// Where to listen. Other than loopback only with keys: it spends money for whoever connects.
    pub host: IpAddr,
    /// The port; 0 for any free one.
    pub port: u16,
    /// The models that may be bought, by id; `None`: every model on offer.
    pub models: Option<BTreeMap<String, ModelRule>>,
    /// The most that is paid where no rule says otherwise.
    pub default_max_price: PriceCap,
    /// The most for what is paid by the piece: a request itself, an image, a second of sound.
    pub max_request_price: Wei,
    /// How providers are chosen.
    pub routing: Routing,
    /// What may be spent.
    pub limits: Limits,
    /// `Host` headers that are accepted besides this machine's own names: `name` (with the
    /// gateway's port) or `name:port`.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may use the gateway, by their exact origins (`https://chat.example.org`).
    pub allowed_origins: Vec<String>,
    /// Where the keys are, and what was spent with each of them: the node's data directory. One
    /// gateway alone may use it. `None`: no keys.
    pub data_dir: Option<PathBuf>,
    /// Whether prompts and answers are kept in the node's database.
    pub store_payloads: bool,
    /// Tokenizers (`tokenizer.json`) by which bills are checked, by the model's name or a pattern of
    /// names, in which `*` stands for any characters.
    pub tokenizers: BTreeMap<String, PathBuf>,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            models: None,
            default_max_price: PriceCap::default(),
            max_request_price: Wei::from_wei(POL),
            routing: Routing::default(),
            limits: Limits::default(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            data_dir: None,
            store_payloads: false,
            tokenizers: BTreeMap::new(),
            deadlines: Deadlines::default(),
        }
    }
}

impl ConsumerConfig {
    /// The caps for a model.
    pub(crate) fn cap(&self, model: &str) -> PriceCap {
        let rule = self.rule(model);
        let default = self.default_max_price;
        PriceCap {
            input: rule
                .and_then(|rule| rule.max_input_price)
                .unwrap_or(default.input),
            output: rule
                .and_then(|rule| rule.max_output_price)
                .unwrap_or(default.output),
        }
    }

    /// What offers of a model must meet, and how they are compared.
    pub(crate) fn rules(&self, model: &str) -> Rules {
        let rule = self.rule(model);
        Rules {
            cap: self.cap(model),
            most_for_one: self.max_request_price,
            min_context_size: rule.and_then(|rule| rule.min_context_size),
            allow_providers: self.routing.allow_providers.clone(),
            deny_providers: self.routing.deny_providers.clone(),
            sort: self.routing.sort,
            tuning: self.routing.tuning,
        }
    }

    /// The rule for a model, if it has one.
    pub(crate) fn rule(&self, model: &str) -> Option<&ModelRule> {
        self.models.as_ref()?.get(model)
    }

    /// Whether a model may be bought at all.
    pub(crate) fn may_buy(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.contains_key(model))
    }
}

//! What the modules of this process know, as pages show it. The binary implements these traits; what
//! is absent here is not in this process.
//!
//! All text in these types may be from peers: pages escape it and cut it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use derouter_sdk::{JobRecord, PeerId, UnixSeconds, Wei, async_trait};

/// What is in this process besides the node.
#[derive(Clone, Default)]
pub struct Modules {
    /// The gateway, which buys.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// The provider, which sells.
    pub provider: Option<Arc<dyn Provider>>,
    /// What the configuration says.
    pub settings: Option<Arc<dyn Settings>>,
    /// Reads jobs of protocols.
    pub protocols: Option<Arc<dyn Protocols>>,
    /// Proves jobs.
    pub proofs: Option<Arc<dyn Proofs>>,
    /// What was logged last.
    pub logs: Option<Arc<crate::logs::LogRing>>,
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Modules")
            .field("gateway", &self.gateway.is_some())
            .field("provider", &self.provider.is_some())
            .finish_non_exhaustive()
    }
}

/// A middle and a high value of what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Half of the values are below.
    pub p50: f64,
    /// Nine of ten values are below.
    pub p90: f64,
}

/// How the owner stands to a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// As to all others.
    #[default]
    Usual,
    /// It is asked before all others.
    Pinned,
    /// It is never asked.
    Blocked,
}

/// An offer on the market, and what this node has seen of it.
#[derive(Clone, Debug, PartialEq)]
pub struct MarketOffer {
    /// Who offers.
    pub provider: PeerId,
    /// Its name with that provider.
    pub offer_id: String,
    /// The model.
    pub model: String,
    /// Context window in tokens.
    pub context: u64,
    /// Price of a million tokens of prompt.
    pub input_price: Wei,
    /// Price of a million tokens of answer.
    pub output_price: Wei,
    /// What the model can do; `None` when the offer does not say.
    pub features: Option<Vec<String>>,
    /// How the weights are stored.
    pub quantization: Option<String>,
    /// Where the provider says that it is.
    pub region: Option<String>,
    /// About the offer.
    pub description: Option<String>,
    /// Seconds to the first token.
    pub first_token: Option<Measured>,
    /// Tokens a second.
    pub speed: Option<Measured>,
    /// The share of jobs that went well, 0 to 1, once any was tried.
    pub success: Option<f64>,
    /// The share of time on the market, 0 to 1.
    pub uptime: Option<f64>,
    /// How the provider is reached.
    pub path: String,
    /// When the provider was last heard.
    pub last_seen: Option<UnixSeconds>,
    /// How busy it was when it announced this, in percent.
    pub load: Option<u8>,
    /// It failed lately, and comes last for a while.
    pub cooling: bool,
    /// It is this node's own.
    pub own: bool,
    /// Why it is not bought under the configuration, if so.
    pub excluded: Option<String>,
    /// How the owner stands to its provider.
    pub standing: Standing,
}

/// What a request would cost, and why offers come in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quote {
    /// Offers that fit, best first.
    pub offers: Vec<QuotedOffer>,
    /// Offers that do not.
    pub left_out: Vec<LeftOut>,
}

/// An offer that fits.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotedOffer {
    /// Who offers.
    pub provider: String,
    /// Its name there.
    pub offer: String,
    /// What the request would cost, in POL.
    pub cost: String,
    /// Its score: lower is better.
    pub score: f64,
    /// What the score is made of.
    pub parts: Vec<(String, f64)>,
}

/// An offer that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Who offers.
    pub provider: String,
    /// Its name there.
    pub offer: String,
    /// Which rule leaves it out.
    pub rule: String,
    /// More of that.
    pub detail: String,
}

/// A limit of spending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its key in the configuration, such as `limits.daily`.
    pub name: String,
    /// What it limits, in words.
    pub what: String,
    /// The limit; `None`: there is none.
    pub most: Option<Wei>,
    /// What is spent of it, where that can be said.
    pub spent: Option<Wei>,
    /// What running requests have set aside of it.
    pub reserved: Option<Wei>,
}

/// A key of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// The models that it is for; `None`: all.
    pub models: Option<Vec<String>>,
    /// The most for a request.
    pub per_request: Option<Wei>,
    /// The most a day.
    pub daily: Option<Wei>,
    /// The most in all.
    pub total: Option<Wei>,
    /// When it ends.
    pub expires: Option<UnixSeconds>,
    /// What was spent with it in all.
    pub spent: Wei,
}

/// What a new key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyWish {
    /// Its name.
    pub name: String,
    /// The models that it is for; `None`: all.
    pub models: Option<Vec<String>>,
    /// The most for a request.
    pub per_request: Option<Wei>,
    /// The most a day.
    pub daily: Option<Wei>,
    /// The most in all.
    pub total: Option<Wei>,
}

/// A price of an offer, of a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastPrice {
    /// Since when it had it.
    pub since: UnixSeconds,
    /// Of a prompt.
    pub input: Wei,
    /// Of an answer.
    pub output: Wei,
}

/// The gateway, which buys. Its errors are sentences for its user.
#[async_trait]
pub trait Gateway: Send + Sync {
    /// Where programs reach it.
    fn address(&self) -> SocketAddr;

    /// Whether it asks programs for a key.
    fn wants_key(&self) -> bool;

    /// What is wrong with the list of pinned and blocked providers.
    fn problem(&self) -> Option<String>;

    /// The offers on the market; at most 10,000.
    fn offers(&self) -> Vec<MarketOffer>;

    /// The prices that an offer had, oldest first.
    fn prices(&self, provider: PeerId, offer: &str) -> Vec<PastPrice>;

    /// What a request of so many tokens would cost, and who would be asked first.
    async fn quote(&self, model: &str, input: u64, output: u64) -> Result<Quote, String>;

    /// The limits of spending, and what is spent of them.
    fn limits(&self) -> Vec<Limit>;

    /// The keys of the endpoint. `None`: none was ever made, and programs need none. None left of those that
    /// were: no program is served.
    fn keys(&self) -> Result<Option<Vec<Key>>, String>;

    /// Makes a key and returns it: it is never shown again.
    fn create_key(&self, wish: &KeyWish) -> Result<String, String>;

    /// Revokes the keys of a name.
    fn revoke_key(&self, name: &str) -> Result<(), String>;

    /// Pins a provider, blocks it, or neither, from the next request on and over restarts.
    fn set_standing(&self, provider: PeerId, standing: Standing) -> Result<(), String>;

    /// A chat completion on account of the node's owner, as `POST /v1/chat/completions` answers it.
    async fn chat(&self, request: Bytes) -> Response<Body>;
}

/// A server behind offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its base URL, without a secret.
    pub url: String,
    /// Whether it answers.
    pub up: bool,
    /// How it is, in words.
    pub state: String,
}

/// An offer of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvidedOffer {
    /// Its id.
    pub id: String,
    /// The model.
    pub model: String,
    /// The server that answers.
    pub backend: String,
    /// Whether it is on the market now.
    pub on_market: bool,
    /// Its owner took it off the market.
    pub paused: bool,
    /// How it is, in words.
    pub state: String,
    /// Context window in tokens.
    pub context: u64,
    /// Price of a million tokens of prompt.
    pub input_price: Wei,
    /// Price of a million tokens of answer.
    pub output_price: Wei,
    /// Answers at a time, those that run, and those that wait.
    pub places: u32,
    /// Answers that run.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Its own prices, which a schedule may multiply.
    pub own_input_price: Wei,
    /// The same of the answer.
    pub own_output_price: Wei,
    /// What consumers asked for since the start.
    pub asked: u64,
    /// Of these, what found no place.
    pub turned_away: u64,
    /// Earned today.
    pub earned_today: Wei,
    /// It is in the configuration, or the server names its model: it can be hidden, not removed.
    pub of_config: bool,
    /// Something of it is not as the configuration has it.
    pub edited: bool,
    /// What else it has.
    pub terms: OfferTerms,
}

/// What most offers have no need of. Of an offer, as it is; of a draft, as it is to be, and what is
/// absent stays. An empty text or list, and 0, are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferTerms {
    /// The model as the server names it.
    pub backend_model: Option<String>,
    /// Other names of the model.
    pub aliases: Option<Vec<String>>,
    /// About the offer.
    pub description: Option<String>,
    /// Prices by the clock, a window each: `sat,sun 22:00-06:00 x0.5`.
    pub schedule: Option<Vec<String>>,
    /// Price of a request that is answered.
    pub request_price: Option<Wei>,
    /// What a new consumer may have for nothing.
    pub trial: Option<Wei>,
    /// The longest answer in tokens.
    pub max_output: Option<u64>,
    /// Answers at a time for one consumer.
    pub places_per_consumer: Option<u32>,
    /// Requests that wait for a place.
    pub queue: Option<u32>,
    /// What the model can.
    pub features: Option<Vec<String>>,
    /// How its weights are stored.
    pub quantization: Option<String>,
    /// Where the provider is, as two letters.
    pub region: Option<String>,
}

impl OfferTerms {
    /// Those of an offer that has none of it.
    pub fn none() -> Self {
        Self {
            backend_model: Some(String::new()),
            aliases: Some(Vec::new()),
            description: Some(String::new()),
            schedule: Some(Vec::new()),
            request_price: Some(Wei::ZERO),
            trial: Some(Wei::ZERO),
            max_output: Some(0),
            places_per_consumer: None,
            queue: Some(0),
            features: Some(Vec::new()),
            quantization: Some(String::new()),
            region: Some(String::new()),
        }
    }

    /// What of it is other than it was.
    #[must_use]
    pub fn other_than(self, was: &Self) -> Self {
        fn other<T: PartialEq>(said: Option<T>, was: &Option<T>) -> Option<T> {
            if said == *was { None } else { said }
        }
        fn other_text(said: Option<String>, was: Option<&String>) -> Option<String> {
            let is_same = said.as_deref().map(plain) == was.map(|was| plain(was));
            said.filter(|_| !is_same)
        }
        fn other_list(said: Option<Vec<String>>, was: Option<&Vec<String>>) -> Option<Vec<String>> {
            let plain = |list: &Vec<String>| list.iter().map(|it| plain(it)).collect::<Vec<_>>();
            let is_same = said.as_ref().map(plain) == was.map(plain);
            said.filter(|_| !is_same)
        }
        /// Forms change nothing else of a text: the space around it, and how its lines end.
        fn plain(text: &str) -> String {
            text.trim().replace("\r\n", "\n")
        }
        Self {
            backend_model: other_text(self.backend_model, was.backend_model.as_ref()),
            aliases: other_list(self.aliases, was.aliases.as_ref()),
            description: other_text(self.description, was.description.as_ref()),
            schedule: other_list(self.schedule, was.schedule.as_ref()),
            request_price: other(self.request_price, &was.request_price),
            trial: other(self.trial, &was.trial),
            max_output: other(self.max_output, &was.max_output),
            places_per_consumer: other(self.places_per_consumer, &was.places_per_consumer),
            queue: other(self.queue, &was.queue),
            features: other_list(self.features, was.features.as_ref()),
            quantization: other_text(self.quantization, was.quantization.as_ref()),
            region: other_text(self.region, was.region.as_ref()),
        }
    }
}

/// An offer as its owner writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferDraft {
    /// Its id.
    pub id: String,
    /// It is to be added; else there is one of that id, which is changed.
    pub is_new: bool,
    /// The model's name on the market.
    pub model: String,
    /// The server that answers, as [`Backend::url`] names it. That of an offer of the configuration stays.
    pub backend: String,
    /// Context window in tokens.
    pub context: u64,
    /// Price of a million tokens of prompt.
    pub input_price: Wei,
    /// Price of a million tokens of answer.
    pub output_price: Wei,
    /// Answers at a time.
    pub places: u32,
    /// What else it has.
    pub terms: OfferTerms,
}

/// The provider, which sells. Its errors are sentences for its user.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The servers behind its offers.
    fn backends(&self) -> Vec<Backend>;

    /// Its offers; at most 1,000.
    fn offers(&self) -> Vec<ProvidedOffer>;

    /// Takes an offer off the market, or puts it back.
    async fn set_paused(&self, id: &str, paused: bool) -> Result<(), String>;

    /// Adds an offer, or changes one.
    async fn save(&self, draft: OfferDraft) -> Result<(), String>;

    /// Removes an offer; one of the configuration is hidden until it is restored.
    async fn remove(&self, id: &str) -> Result<(), String>;

    /// Drops what was changed of an offer of the configuration.
    async fn restore(&self, id: &str) -> Result<(), String>;

    /// Asks an offer's server for a few tokens. Returns what came of it.
    async fn test(&self, id: &str) -> Result<String, String>;
}

/// A value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, such as `openai.consumer.limits.daily`.
    pub key: String,
    /// Its value as text, without secrets.
    pub value: String,
    /// Where it comes from: `default`, the file, a variable, a flag.
    pub origin: String,
}

/// What the configuration says.
pub trait Settings: Send + Sync {
    /// The file, if there is one.
    fn file(&self) -> Option<String>;

    /// All values, by key.
    fn all(&self) -> Vec<Setting>;
}

/// What a protocol knows of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// What was bought, such as a model.
    pub model: Option<String>,
    /// Tokens of the prompt.
    pub input: Option<u64>,
    /// Tokens of the answer.
    pub output: Option<u64>,
}

/// Reads jobs.
pub trait Protocols: Send + Sync {
    /// What can be said of a job. Hostile until checked: it is cut and escaped by who shows it.
    fn facts(&self, job: &JobRecord) -> JobFacts;
}

/// Proves jobs.
#[async_trait]
pub trait Proofs: Send + Sync {
    /// What both sides signed of a job, as JSON for others.
    async fn proof(&self, job: &JobRecord) -> Result<String, String>;
}

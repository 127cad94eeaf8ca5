//! What a provider offers, and from where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use derouter_sdk::{UnixSeconds, Wei};

use super::blocklist::ConsumerLists;
use super::outward::MediaLinks;
use super::prices::{self, PriceWindow, Prices};
use super::queue::Places;
use super::rates::RateLimits;
use crate::protocol::{OfferPayload, PolAmount};
use crate::terms::Endpoint;

/// How many answers one offer's backend gives at a time when the configuration does not say. Small
/// local servers batch about that many; more would make every answer slow.
pub const DEFAULT_MAX_CONCURRENCY: u32 = 8;

/// How long a request waits for a slot when the configuration does not say: about a short answer.
pub const DEFAULT_QUEUE_TIME: Duration = Duration::from_secs(4);

/// A text that is never printed, such as an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. For the wire only, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What the provider module needs to start.
#[derive(Clone, Debug, Default)]
pub struct ProviderConfig {
    /// The servers behind the offers. An offer's id is unique among all of them.
    pub backends: Vec<BackendConfig>,
    /// What one consumer may owe without having signed; `None` for no limit.
    pub max_unsigned: Option<Wei>,
    /// Whether requests and answers are kept in this node's own job records.
    pub store_payloads: bool,
    /// Deadlines.
    pub limits: Limits,
    /// Which consumers are served.
    pub consumers: ConsumerLists,
    /// What each of them may ask for.
    pub rates: RateLimits,
    /// Where offers that are added and changed while the provider runs are kept: the node's data
    /// directory. `None`: what is configured stays as it is.
    pub data_dir: Option<PathBuf>,
}

/// An OpenAI-compatible server and what is offered from it.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// Its base URL, such as `http://127.0.0.1:11434/v1`: `/chat/completions` goes behind it.
    pub base_url: String,
    /// What is sent as `Authorization: Bearer ...`; nothing is sent without.
    pub api_key: Option<Secret>,
    /// The offers by their ids.
    pub offers: BTreeMap<String, OfferConfig>,
    /// The rest.
    pub options: BackendOptions,
}

/// An offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferConfig {
    /// The model as the market names it.
    pub model_id: String,
    /// Context window in tokens.
    pub context_size: u64,
    /// About the offer.
    pub description: Option<String>,
    /// Price of 1,000,000 prompt tokens.
    pub input_token_price: Wei,
    /// Price of 1,000,000 completion tokens.
    pub output_token_price: Wei,
    /// How many jobs are served at a time, further ones are answered Busy; `None` for
    /// [`DEFAULT_MAX_CONCURRENCY`].
    pub max_concurrency: Option<u32>,
    /// The model as the backend names it; `None` when that is `model_id`.
    pub backend_model: Option<String>,
    /// What else is agreed.
    pub terms: OfferTerms,
}

/// Terms of an offer that most have no need of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferTerms {
    /// How many jobs of one consumer are served at a time; `None` for all of `max_concurrency`.
    pub max_concurrency_per_consumer: Option<u32>,
    /// How many requests wait for a slot; none when it is 0.
    pub max_queue: u32,
    /// How long they wait, at most [`super::MAX_QUEUE_TIME`]; `None` for [`DEFAULT_QUEUE_TIME`].
    pub queue_time: Option<Duration>,
    /// What `openai:0.2` says of the offer, and `openai:0.1` can't.
    pub announced: Announced,
    /// Prices that depend on the time; the first window that holds counts.
    pub schedule: Vec<PriceWindow>,
    /// What each new consumer may have for nothing.
    pub trial: Option<Wei>,
    /// Which links to media its backend is handed.
    pub media_links: MediaLinks,
}

/// What is known of a backend besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// What it is looked at for.
    pub check: BackendCheck,
    /// Offers of whatever models it names.
    pub discover: Option<Discover>,
    /// Whether it may be at a link-local or metadata address.
    pub allow_link_local: bool,
}

/// What a backend is looked at for, every 15 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendCheck {
    /// That it is there and names the offers' models, where it names any.
    #[default]
    Models,
    /// That it is there.
    Alive,
    /// Nothing: its offers are always on the market.
    Off,
}

/// How many models become offers when the configuration does not say.
pub const DEFAULT_DISCOVERED: u32 = 32;

/// Offers of whatever models a backend names, all on the same terms. Their ids are the models' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Price of 1,000,000 prompt tokens.
    pub input_token_price: Wei,
    /// Price of 1,000,000 completion tokens.
    pub output_token_price: Wei,
    /// The context window of models of which the backend does not tell one; `None` leaves those out.
    pub context_size: Option<u64>,
    /// Answers of one model at a time.
    pub max_concurrency: Option<u32>,
    /// How many models become offers, in the backend's order; `None` for [`DEFAULT_DISCOVERED`].
    pub max_offers: Option<u32>,
    /// What else is agreed.
    pub terms: OfferTerms,
}

impl Discover {
    /// The offer of a model.
    pub(super) fn offer(&self, model: &str, context_size: u64) -> OfferConfig {
        OfferConfig {
            model_id: model.to_owned(),
            context_size,
            description: None,
            input_token_price: self.input_token_price,
            output_token_price: self.output_token_price,
            max_concurrency: self.max_concurrency,
            backend_model: None,
            terms: self.terms.clone(),
        }
    }
}

/// What `openai:0.2` says of an offer, and `openai:0.1` can't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Other names of the model.
    pub aliases: Vec<String>,
    /// What is served; chat and text completions when it is empty.
    pub endpoints: Vec<Endpoint>,
    /// The longest answer in tokens.
    pub max_output: Option<u64>,
    /// What a prompt may hold, such as `text`, `image`; not said when it is empty.
    pub input_modalities: Vec<String>,
    /// What an answer may hold; text when it is empty.
    pub output_modalities: Vec<String>,
    /// Such as `tools`, `json_schema`, `reasoning`, `logprobs`; not said when it is empty.
    pub features: Vec<String>,
    /// Such as `q4_k_m`, `fp8`.
    pub quantization: Option<String>,
    /// Where the provider is: ISO 3166-1 alpha-2.
    pub region: Option<String>,
    /// The terms of service.
    pub terms_url: Option<String>,
    /// Price of 1,000,000 prompt tokens that the backend had cached; `None` for that of others.
    pub cached_input_token_price: Option<Wei>,
    /// Price of a request that is answered.
    pub request_price: Wei,
    /// Price of an image that is made.
    pub image_price: Wei,
    /// Price of a second of sound.
    pub second_price: Wei,
}

impl OfferConfig {
    /// What is announced while no window of the schedule holds.
    pub fn payload(&self) -> OfferPayload {
        self.payload_with(self.prices())
    }

    /// What is announced at a time.
    pub fn payload_at(&self, now: UnixSeconds) -> OfferPayload {
        self.payload_with(prices::at(&self.terms.schedule, self.prices(), now))
    }

    fn prices(&self) -> Prices {
        Prices {
            input: self.input_token_price,
            output: self.output_token_price,
        }
    }

    fn payload_with(&self, prices: Prices) -> OfferPayload {
        OfferPayload {
            model_id: self.model_id.clone(),
            context_size: self.context_size,
            input_token_price: PolAmount { wei: prices.input },
            output_token_price: PolAmount { wei: prices.output },
            trial: self.terms.trial.map(|wei| PolAmount { wei }),
            description: self.description.clone(),
        }
    }

    /// The slots of the offer.
    pub(super) fn places(&self) -> Places {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let slots = size(self.max_concurrency.unwrap_or(DEFAULT_MAX_CONCURRENCY));
        let per_consumer = self.terms.max_concurrency_per_consumer;
        Places {
            slots,
            per_consumer: per_consumer.map_or(slots, size),
            queue: size(self.terms.max_queue),
        }
    }

    /// The model's name at the backend.
    pub fn backend_model(&self) -> &str {
        self.backend_model.as_deref().unwrap_or(&self.model_id)
    }
}

/// Consumers connect at once, ours and those of 0.1: this is as long as a slow network may take, and as
/// long as one that never comes may keep a slot from others.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Deadlines of the provider. The defaults are right outside of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To connect to the backend: far more than any reachable server needs.
    pub connect: Duration,
    /// From the request to the answer's first bytes: a model may have to be loaded, a long prompt
    /// be read, and 0.1 consumers wait no longer than that for a whole answer.
    pub first_byte: Duration,
    /// Between two reads of an answer: a model that says nothing for so long is stuck.
    pub between_chunks: Duration,
    /// For a whole answer: the longest ones of large models take some minutes.
    pub total: Duration,
    /// Until the consumer connects: it does so right after the job's creation or not at all, and
    /// meanwhile its job holds a slot.
    pub connection: Duration,
    /// Until the prologue says Ok although nothing came from the backend yet: 0.1 consumers wait
    /// 30 s for the prologue, so that later would be in vain.
    pub prologue: Duration,
    /// For the consumer to take a value: one that reads nothing for so long is gone.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(300),
            between_chunks: Duration::from_secs(120),
            total: Duration::from_secs(30 * 60),
            connection: CONNECTION_LIMIT,
            prologue: Duration::from_secs(20),
            write: Duration::from_secs(120),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_never_connects_gives_its_slot_back_before_the_prologue_is_due() {
        let limits = Limits::default();
        assert!(limits.connection <= Duration::from_secs(10));
        assert!(limits.connection < limits.prologue);
    }
}

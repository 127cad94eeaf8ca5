//! The OpenAI sections. They take the keys of 0.1.0's own modules, so that such a module's file can
//! be used as it is, as a section of the node's file or with `derouter openai`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use derouter_openai::consumer::{
    ConsumerConfig, Deadlines, Limits, ModelRule, PriceCap, Routing, Sort, Tuning, Weights,
    is_percentile,
};
use derouter_openai::provider::{
    BackendCheck, BackendConfig, BackendOptions, ConsumerLists, Discover, MediaLinks, OfferConfig,
    OfferTerms, ProviderConfig, RateLimits, Secret,
};
use derouter_sdk::{OfferId, PeerId, Wei};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::offer_terms::{AnnounceSection, QueueLength, QueueSeconds, Schedule};
use super::schema::{PEER_PATTERN, shape};
use super::value::{
    BaseUrl, Drain, LiteralPath, Named, OneOrMany, Origin, Peer, Pol, Port, Positive, Seconds,
};
use super::{ConfigError, LogSection};

/// The port of the OpenAI endpoint when the configuration names none.
pub(crate) const DEFAULT_PORT: u16 = 9002;

/// What one consumer may owe unsigned when the configuration does not say: 1 POL. Enough for
/// several long answers at once, little to lose to a consumer that never signs.
const DEFAULT_MAX_UNSIGNED_WEI: u128 = 1_000_000_000_000_000_000;

/// Bytes of an offer's payload that can be announced at all (see the SDK's `OfferSpec`).
const PAYLOAD_BYTES: usize = 64_000;

fn amount(amount: Option<Pol>) -> Option<Wei> {
    amount.map(|amount| amount.0)
}

/// The `openai` section of the node's file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OpenAiSection {
    /// Sells what OpenAI-compatible servers answer: one section, or a list of them.
    provider: OneOrMany<ProviderSection>,
    /// Buys: an OpenAI-compatible endpoint on this machine.
    consumer: Option<ConsumerSection>,
}

/// The OpenAI modules to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenAiModules {
    /// One for each section.
    pub(crate) providers: Vec<ProviderConfig>,
    /// The endpoint.
    pub(crate) consumer: Option<ConsumerConfig>,
    /// Keys that were given and mean nothing inside the node.
    pub(crate) ignored: Vec<&'static str>,
}

impl OpenAiSection {
    /// Checks what only shows when all is read. `store_payloads` and `data_dir` are the node's.
    pub(super) fn check(
        self,
        path: &Path,
        store_payloads: bool,
        data_dir: &Path,
    ) -> Result<OpenAiModules, ConfigError> {
        let mut modules = OpenAiModules::default();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let single = self.provider.0.len() == 1;
        for (index, section) in self.provider.0.into_iter().enumerate() {
            let key = if single {
                "openai.provider".to_owned()
            } else {
                format!("openai.provider[{index}]")
            };
            for id in section.offers.0.keys() {
                if let Some(other) = seen.insert(id.clone(), key.clone()) {
                    let problem = format!("an offer named {id:?} is in `{other}` already");
                    return Err(ConfigError::at(path, &format!("{key}.offers"), problem));
                }
            }
            modules.ignored.extend(section.keys_of_a_process());
            modules
                .providers
                .push(section.check(path, &key, store_payloads, Some(data_dir))?);
        }
        if let Some(section) = self.consumer {
            modules.ignored.extend(section.keys_of_a_process());
            modules.consumer = Some(section.check(store_payloads, Some(data_dir)));
        }
        Ok(modules)
    }
}

/// `rpc: {host, port, data_dir}`: where the node is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RpcSection {
    /// The node's address; without it, 127.0.0.1.
    pub(super) host: Option<String>,
    /// Its `server.port`; without it, 4269.
    #[schemars(extend("minimum" = 1))]
    pub(super) port: Option<Port>,
    /// Its data directory, with its socket and cookie file.
    pub(super) data_dir: Option<LiteralPath>,
}

/// A provider module's keys, in the node's file or in its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SellerSection")]
pub(super) struct ProviderSection {
    /// The OpenAI-compatible server that answers.
    openai_base_url: BaseUrl,
    /// The key for that server. Consumers never see it.
    #[serde(default)]
    openai_api_key: Option<SecretText>,
    /// What is sold, by a name of your choice.
    #[serde(default)]
    offers: Named<OfferSection>,
    /// Sell every model that the server names.
    #[serde(default)]
    discover: Option<DiscoverSection>,
    /// What the server is looked at for.
    #[schemars(extend("default" = "models"))]
    #[serde(default)]
    check_backend: CheckText,
    /// Let the server be at a link-local address.
    #[schemars(extend("default" = false))]
    #[serde(default)]
    allow_link_local: bool,
    /// Which links to media in requests are handed on.
    #[schemars(extend("default" = "public"))]
    #[serde(default)]
    media_links: MediaText,
    /// Jobs that one consumer may have in a minute; without it, no limit.
    #[serde(default)]
    requests_per_minute: Option<Positive<u32>>,
    /// Tokens that one consumer may have in a minute; without it, no limit.
    #[serde(default)]
    tokens_per_minute: Option<Positive<u64>>,
    /// Peer ids: when not empty, only these are served.
    #[schemars(extend("default" = []))]
    #[serde(default)]
    allow_consumers: Vec<Peer>,
    /// Peer ids that are not served.
    #[schemars(extend("default" = []))]
    #[serde(default)]
    block_consumers: Vec<Peer>,
    /// What one consumer may owe without having signed for it.
    #[schemars(extend("default" = {"$pol": "1"}))]
    #[serde(default)]
    max_unsigned: Option<Pol>,
    /// Keep requests and answers; without it, as the node does.
    #[serde(default)]
    store_payloads: Option<bool>,
    // The keys of a process of its own.
    /// Where the node is; for a process of its own.
    #[serde(default)]
    pub(super) rpc: Option<RpcSection>,
    /// 0.1.0's name for `rpc.host`.
    #[serde(default)]
    pub(super) rpc_host: Option<String>,
    /// 0.1.0's name for `rpc.port`.
    #[schemars(extend("minimum" = 1))]
    #[serde(default)]
    pub(super) rpc_port: Option<Port>,
    /// How to log; for a process of its own.
    #[serde(default)]
    pub(super) log: Option<LogSection>,
    /// Seconds that answers that run may take to finish on a stop; for a process of its own.
    #[serde(default)]
    pub(super) drain_seconds: Option<Drain>,
    /// 0.1.0 wanted one; it is ignored.
    #[schemars(with = "serde_json::Value")]
    #[serde(default)]
    pub(super) database_url: Option<IgnoredAny>,
}

/// An offer's keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfferSection {
    /// The model's name on the market.
    model_id: String,
    /// The context window in tokens.
    context_size: Positive<u64>,
    /// About the offer.
    #[serde(default)]
    description: Option<String>,
    /// Price of 1,000,000 tokens of the prompt.
    input_token_price: Pol,
    /// Price of 1,000,000 tokens of the answer.
    output_token_price: Pol,
    /// Answers at the same time.
    #[schemars(extend("default" = 8))]
    #[serde(default)]
    max_concurrency: Option<Positive<u32>>,
    /// The same for one consumer; without it, no less than for all.
    #[serde(default)]
    max_concurrency_per_consumer: Option<Positive<u32>>,
    /// Requests that wait for a place.
    #[schemars(extend("default" = 0))]
    #[serde(default)]
    max_queue: QueueLength,
    /// Seconds that a request waits.
    #[schemars(extend("default" = 4))]
    #[serde(default)]
    queue_seconds: Option<QueueSeconds>,
    /// Prices by the clock.
    #[schemars(extend("default" = []))]
    #[serde(default)]
    schedule: Schedule,
    /// What each new consumer may have for nothing.
    #[serde(default)]
    trial: Option<Pol>,
    /// What else consumers are told.
    #[serde(default)]
    announce: AnnounceSection,
    /// The model's name at the server, when it is another.
    #[serde(default)]
    backend_model: Option<String>,
}

/// The keys of offers of whatever models a backend names.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DiscoverSection {
    /// Price of 1,000,000 tokens of the prompt.
    input_token_price: Pol,
    /// Price of 1,000,000 tokens of the answer.
    output_token_price: Pol,
    /// The context window of models of which the server tells none.
    #[serde(default)]
    context_size: Option<Positive<u64>>,
    /// How many models at most.
    #[schemars(extend("default" = 32))]
    #[serde(default)]
    max_offers: Option<Positive<u32>>,
    /// Answers at the same time.
    #[schemars(extend("default" = 8))]
    #[serde(default)]
    max_concurrency: Option<Positive<u32>>,
    /// The same for one consumer; without it, no less than for all.
    #[serde(default)]
    max_concurrency_per_consumer: Option<Positive<u32>>,
    /// Requests that wait for a place.
    #[schemars(extend("default" = 0))]
    #[serde(default)]
    max_queue: QueueLength,
    /// Seconds that a request waits.
    #[schemars(extend("default" = 4))]
    #[serde(default)]
    queue_seconds: Option<QueueSeconds>,
    /// Prices by the clock.
    #[schemars(extend("default" = []))]
    #[serde(default)]
    schedule: Schedule,
    /// What each new consumer may have for nothing.
    #[serde(default)]
    trial: Option<Pol>,
    /// What else consumers are told.
    #[serde(default)]
    announce: AnnounceSection,
}

/// `check_backend`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CheckText {
    #[default]
    Models,
    Alive,
    Off,
}

impl From<CheckText> for BackendCheck {
    fn from(text: CheckText) -> Self {
        match text {
            CheckText::Models => Self::Models,
            CheckText::Alive => Self::Alive,
            CheckText::Off => Self::Off,
        }
    }
}

/// `media_links`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum MediaText {
    None,
    #[default]
    Public,
    Any,
}

impl From<MediaText> for MediaLinks {
    fn from(text: MediaText) -> Self {
        match text {
            MediaText::None => Self::None,
            MediaText::Public => Self::Public,
            MediaText::Any => Self::Any,
        }
    }
}

/// A text that is never printed.
#[derive(Clone, Debug)]
struct SecretText(Secret);

shape!(SecretText, {"type": "string", "writeOnly": true});
shape!(Weight, {"type": "number", "minimum": 0, "maximum": Weights::MOST});
shape!(Share, {"type": "number", "minimum": 0, "maximum": 1});
shape!(Percentile, {"type": "number", "minimum": 50, "maximum": 99.9});
shape!(Provider, {"type": "string", "pattern": PEER_PATTERN});
shape!(Host, {"type": "string", "examples": ["127.0.0.1", "::1", "localhost"]});

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| SecretText(Secret::new(text)))
    }
}

impl ProviderSection {
    /// `prefix` is the section's path in the file, empty for a file of its own. `data_dir` is the node's,
    /// where that is known.
    pub(super) fn check(
        self,
        path: &Path,
        prefix: &str,
        store_payloads: bool,
        data_dir: Option<&Path>,
    ) -> Result<ProviderConfig, ConfigError> {
        let key = match prefix {
            "" => "offers".to_owned(),
            prefix => format!("{prefix}.offers"),
        };
        if self.offers.0.is_empty() && self.discover.is_none() {
            let problem =
                "there is no offer. Add at least one, or `discover`, as docs/config.md shows";
            return Err(ConfigError::at(path, &key, problem));
        }
        let media_links = self.media_links.into();
        let mut offers = BTreeMap::new();
        for (id, section) in self.offers.0 {
            let offer = section.check(media_links);
            check_offer(&id, &offer)
                .map_err(|problem| ConfigError::at(path, &format!("{key}.{id}"), problem))?;
            offers.insert(id, offer);
        }
        let api_key = self.openai_api_key.map(|key| key.0);
        let backend = BackendConfig {
            base_url: self.openai_base_url.0,
            // Local servers want none, and files have an empty one for them.
            api_key: api_key.filter(|key| !key.expose().is_empty()),
            offers,
            options: BackendOptions {
                check: self.check_backend.into(),
                discover: self.discover.map(|section| section.check(media_links)),
                allow_link_local: self.allow_link_local,
            },
        };
        let max_unsigned =
            amount(self.max_unsigned).unwrap_or(Wei::from_wei(DEFAULT_MAX_UNSIGNED_WEI));
        let peers = |peers: Vec<Peer>| peers.into_iter().map(|peer| peer.0).collect();
        Ok(ProviderConfig {
            backends: vec![backend],
            max_unsigned: Some(max_unsigned),
            store_payloads: self.store_payloads.unwrap_or(store_payloads),
            consumers: ConsumerLists {
                allow: peers(self.allow_consumers),
                block: peers(self.block_consumers),
            },
            rates: RateLimits {
                requests_per_minute: self.requests_per_minute.map(|most| most.0),
                tokens_per_minute: self.tokens_per_minute.map(|most| most.0),
            },
            data_dir: data_dir.map(Path::to_path_buf),
            ..ProviderConfig::default()
        })
    }

    fn keys_of_a_process(&self) -> impl Iterator<Item = &'static str> + use<> {
        let rpc = self.rpc.is_some() || self.rpc_host.is_some() || self.rpc_port.is_some();
        process_keys([
            (rpc, "rpc"),
            (self.log.is_some(), "log"),
            (self.drain_seconds.is_some(), "drain_seconds"),
            (self.database_url.is_some(), "database_url"),
        ])
    }
}

fn process_keys(given: [(bool, &'static str); 4]) -> impl Iterator<Item = &'static str> {
    given
        .into_iter()
        .filter_map(|(given, key)| given.then_some(key))
}

impl OfferSection {
    fn check(self, media_links: MediaLinks) -> OfferConfig {
        OfferConfig {
            model_id: self.model_id,
            context_size: self.context_size.0,
            description: self.description,
            input_token_price: self.input_token_price.0,
            output_token_price: self.output_token_price.0,
            max_concurrency: self.max_concurrency.map(|max| max.0),
            backend_model: self.backend_model,
            terms: OfferTerms {
                max_concurrency_per_consumer: self.max_concurrency_per_consumer.map(|max| max.0),
                max_queue: self.max_queue.0,
                queue_time: self.queue_seconds.map(|time| time.0),
                schedule: self.schedule.0,
                trial: amount(self.trial),
                media_links,
                announced: self.announce.check(),
            },
        }
    }
}

impl DiscoverSection {
    fn check(self, media_links: MediaLinks) -> Discover {
        Discover {
            input_token_price: self.input_token_price.0,
            output_token_price: self.output_token_price.0,
            context_size: self.context_size.map(|size| size.0),
            max_concurrency: self.max_concurrency.map(|max| max.0),
            max_offers: self.max_offers.map(|max| max.0),
            terms: OfferTerms {
                max_concurrency_per_consumer: self.max_concurrency_per_consumer.map(|max| max.0),
                max_queue: self.max_queue.0,
                queue_time: self.queue_seconds.map(|time| time.0),
                schedule: self.schedule.0,
                trial: amount(self.trial),
                media_links,
                announced: self.announce.check(),
            },
        }
    }
}

/// Checks that an offer can be announced and bought.
fn check_offer(id: &str, offer: &OfferConfig) -> Result<(), String> {
    OfferId::new(id).map_err(|error| error.to_string())?;
    if offer.model_id.trim().is_empty() {
        return Err("`model_id` is empty".into());
    }
    if offer.payload().to_json().len() > PAYLOAD_BYTES {
        return Err("the offer is over 64,000 bytes. Shorten its `description`".into());
    }
    Ok(())
}

/// A consumer module's keys, in the node's file or in its own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConsumerSection {
    /// The endpoint.
    server: ServerSection,
    /// What may be spent.
    limits: LimitsSection,
    /// How providers are chosen.
    routing: RoutingSection,
    /// How long providers are waited for.
    timeouts: TimeoutsSection,
    /// Keep prompts and answers; without it, as the node does.
    store_payloads: Option<bool>,
    /// Tokenizers (`tokenizer.json`) by which bills are checked, by model or pattern.
    #[schemars(extend("default" = {}))]
    tokenizers: BTreeMap<String, LiteralPath>,
    // The keys of a process of its own.
    /// Where the node is; for a process of its own.
    pub(super) rpc: Option<RpcSection>,
    /// 0.1.0's name for `rpc.host`.
    pub(super) rpc_host: Option<String>,
    /// 0.1.0's name for `rpc.port`.
    #[schemars(extend("minimum" = 1))]
    pub(super) rpc_port: Option<Port>,
    /// How to log; for a process of its own.
    pub(super) log: Option<LogSection>,
    /// Seconds that answers that run may take to finish on a stop; for a process of its own.
    pub(super) drain_seconds: Option<Drain>,
    /// 0.1.0 wanted one; it is ignored.
    #[schemars(with = "serde_json::Value")]
    pub(super) database_url: Option<IgnoredAny>,
}

/// The endpoint's keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "EndpointSection")]
struct ServerSection {
    /// The address of the endpoint.
    #[schemars(extend("default" = "127.0.0.1"))]
    host: Option<Host>,
    /// Its port; 0 takes a free one.
    #[schemars(extend("default" = 9002))]
    port: Option<Port>,
    /// Which models may be bought, by their names; without it, every one.
    models: Option<Named<RuleSection>>,
    /// The most for 1,000,000 tokens of the prompt where no model's rule says otherwise.
    #[schemars(extend("default" = {"$pol": "50"}))]
    #[serde(rename = "maxInputPrice")]
    max_input_price: Option<Pol>,
    /// The same for the answer.
    #[schemars(extend("default" = {"$pol": "50"}))]
    #[serde(rename = "maxOutputPrice")]
    max_output_price: Option<Pol>,
    /// The most for what is paid by the piece.
    #[schemars(extend("default" = {"$pol": "1"}))]
    #[serde(rename = "maxRequestPrice")]
    max_request_price: Option<Pol>,
    /// Names under which programs may address the endpoint besides those of this machine.
    #[schemars(extend("default" = []))]
    #[serde(rename = "allowedHosts")]
    allowed_hosts: Vec<String>,
    /// Web pages that may use the endpoint from a browser.
    #[schemars(extend("default" = []))]
    #[serde(rename = "allowedOrigins")]
    allowed_origins: Vec<Origin>,
}

/// What may be bought of one model.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RuleSection {
    /// The least context window.
    #[serde(rename = "minContextSize")]
    min_context_size: Option<u64>,
    /// The most for 1,000,000 tokens of the prompt.
    #[serde(rename = "maxInputPrice")]
    max_input_price: Option<Pol>,
    /// The same for the answer.
    #[serde(rename = "maxOutputPrice")]
    max_output_price: Option<Pol>,
}

/// What may be spent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct LimitsSection {
    /// The most that one request may cost; without it, no limit.
    request: Option<Pol>,
    /// The most that one job may cost; without it, no limit.
    job: Option<Pol>,
    /// The most that is spent with one provider a day (UTC); without it, no limit.
    provider_daily: Option<Pol>,
    /// The most that is spent a day (UTC).
    #[schemars(extend("default" = {"$pol": "10"}))]
    daily: Option<Pol>,
    /// The most that is spent in all; without it, no limit.
    total: Option<Pol>,
}

/// How long providers are waited for, each in seconds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct TimeoutsSection {
    /// Until a provider takes a job, and until its stream opens.
    connect: Option<Seconds>,
    /// Until a streamed answer begins.
    first_token: Option<Seconds>,
    /// Between two parts of a streamed answer.
    between_chunks: Option<Seconds>,
    /// Until a plain answer is there.
    plain_answer: Option<Seconds>,
    /// Until a streamed response begins without its answer, with comments.
    begin_stream: Option<Seconds>,
    /// All attempts to begin an answer together.
    all_attempts: Option<Seconds>,
    /// A streamed answer, from its first part to its last.
    streamed_answer: Option<Seconds>,
}

impl TimeoutsSection {
    fn check(self) -> Deadlines {
        let mut deadlines = Deadlines::default();
        let set = |place: &mut Duration, own: Option<Seconds>| {
            if let Some(own) = own {
                *place = own.0;
            }
        };
        set(&mut deadlines.create, self.connect);
        set(&mut deadlines.open, self.connect);
        set(&mut deadlines.first_value, self.first_token);
        set(&mut deadlines.next_value, self.between_chunks);
        set(&mut deadlines.plain_answer, self.plain_answer);
        set(&mut deadlines.begin_stream, self.begin_stream);
        set(&mut deadlines.all_attempts, self.all_attempts);
        set(&mut deadlines.streamed_answer, self.streamed_answer);
        // Providers of 0.1 say that they begin before they do, and no later than their answer.
        let first = deadlines.first_value.max(deadlines.plain_answer);
        deadlines.prologue = deadlines.prologue.min(first);
        deadlines
    }
}

/// How providers are chosen.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RoutingSection {
    /// How much each part of an offer's score counts.
    weights: WeightsSection,
    /// What offers are sorted by where a request does not say.
    #[schemars(extend("default" = "score"))]
    sort: Option<SortKey>,
    /// The share of requests that go to a provider nobody knows yet.
    #[schemars(extend("default" = 0.05))]
    explore: Option<Share>,
    /// The percentile of a provider's time to the first token behind which another one is asked, too.
    hedge: Option<Percentile>,
    /// Peer ids of the only providers that are asked. Empty: all.
    #[schemars(extend("default" = []))]
    allow_providers: Vec<Provider>,
    /// Peer ids of providers that are never asked.
    #[schemars(extend("default" = []))]
    deny_providers: Vec<Provider>,
}

/// How much each part of a score counts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct WeightsSection {
    /// How much the price counts.
    #[schemars(extend("default" = 1.0))]
    price: Option<Weight>,
    /// How much the latency counts.
    #[schemars(extend("default" = 0.25))]
    latency: Option<Weight>,
    /// How much the throughput counts.
    #[schemars(extend("default" = 0.25))]
    throughput: Option<Weight>,
    /// How much the success counts.
    #[schemars(extend("default" = 2.0))]
    success: Option<Weight>,
    /// How much the uptime counts.
    #[schemars(extend("default" = 0.5))]
    uptime: Option<Weight>,
    /// How much the load counts.
    #[schemars(extend("default" = 0.25))]
    load: Option<Weight>,
    /// How much the path counts.
    #[schemars(extend("default" = 0.1))]
    path: Option<Weight>,
}

/// What offers are sorted by.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SortKey {
    Score,
    Price,
    Latency,
    Throughput,
}

/// A number from 0 to 100.
#[derive(Clone, Copy, Debug)]
struct Weight(f64);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_up_to(Weights::MOST, deserializer).map(Weight)
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug)]
struct Share(f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_up_to(1.0, deserializer).map(Share)
    }
}

/// A percentile after which hedging makes sense.
#[derive(Clone, Copy, Debug)]
struct Percentile(f64);

impl<'de> Deserialize<'de> for Percentile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if !is_percentile(number) {
            return Err(serde::de::Error::custom(format_args!(
                "{number} is not a percentile from 50 to 99.9"
            )));
        }
        Ok(Self(number))
    }
}

fn number_up_to<'de, D: serde::Deserializer<'de>>(
    most: f64,
    deserializer: D,
) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if !(0.0..=most).contains(&number) {
        return Err(serde::de::Error::custom(format_args!(
            "{number} is not from 0 to {most}"
        )));
    }
    Ok(number)
}

/// A provider's peer id.
#[derive(Clone, Copy, Debug)]
struct Provider(PeerId);

impl<'de> Deserialize<'de> for Provider {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Provider).map_err(|_| {
            serde::de::Error::custom(format_args!(
                "{text:?} is not a peer id. It looks like 12D3KooW...; `derouter peers --full` shows whole ones"
            ))
        })
    }
}

impl RoutingSection {
    fn check(self) -> Routing {
        let defaults = Tuning::default();
        let own = self.weights;
        let set = |own: Option<Weight>, default: f64| own.map_or(default, |weight| weight.0);
        let weights = Weights {
            price: set(own.price, defaults.weights.price),
            latency: set(own.latency, defaults.weights.latency),
            throughput: set(own.throughput, defaults.weights.throughput),
            success: set(own.success, defaults.weights.success),
            uptime: set(own.uptime, defaults.weights.uptime),
            load: set(own.load, defaults.weights.load),
            path: set(own.path, defaults.weights.path),
        };
        let providers = |list: Vec<Provider>| -> BTreeSet<PeerId> {
            list.into_iter().map(|provider| provider.0).collect()
        };
        Routing {
            tuning: Tuning {
                weights,
                explore: self.explore.map_or(defaults.explore, |share| share.0),
                ..defaults
            },
            sort: self.sort.and_then(|sort| match sort {
                SortKey::Score => None,
                SortKey::Price => Some(Sort::Price),
                SortKey::Latency => Some(Sort::Latency),
                SortKey::Throughput => Some(Sort::Throughput),
            }),
            hedge: self.hedge.map(|percentile| percentile.0),
            allow_providers: providers(self.allow_providers),
            deny_providers: providers(self.deny_providers),
        }
    }
}

/// An IP address, or `localhost`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host(pub(super) IpAddr);

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "localhost" {
            return Ok(Host(Ipv4Addr::LOCALHOST.into()));
        }
        text.parse().map(Host).map_err(|_| {
            serde::de::Error::custom(format_args!(
                "{text:?} is not an IP address. Use \"127.0.0.1\" for programs on this machine"
            ))
        })
    }
}

impl ConsumerSection {
    /// `data_dir` is the node's, where that is known.
    pub(super) fn check(self, store_payloads: bool, data_dir: Option<&Path>) -> ConsumerConfig {
        let server = self.server;
        let defaults = ConsumerConfig::default();
        let cap = PriceCap {
            input: amount(server.max_input_price).unwrap_or(defaults.default_max_price.input),
            output: amount(server.max_output_price).unwrap_or(defaults.default_max_price.output),
        };
        let rule = |section: RuleSection| ModelRule {
            min_context_size: section.min_context_size,
            max_input_price: amount(section.max_input_price),
            max_output_price: amount(section.max_output_price),
        };
        let models = server.models.map(|models| {
            let models = models.0.into_iter();
            models.map(|(id, section)| (id, rule(section))).collect()
        });
        let limits = Limits {
            request: amount(self.limits.request),
            job: amount(self.limits.job),
            provider_daily: amount(self.limits.provider_daily),
            daily: amount(self.limits.daily).or(defaults.limits.daily),
            total: amount(self.limits.total),
        };
        ConsumerConfig {
            host: server.host.map_or(defaults.host, |host| host.0),
            port: server.port.map_or(DEFAULT_PORT, |port| port.0),
            models,
            default_max_price: cap,
            max_request_price: amount(server.max_request_price)
                .unwrap_or(defaults.max_request_price),
            routing: self.routing.check(),
            limits,
            allowed_hosts: server.allowed_hosts,
            allowed_origins: server
                .allowed_origins
                .into_iter()
                .map(|origin| origin.0)
                .collect(),
            data_dir: data_dir.map(Path::to_path_buf),
            store_payloads: self.store_payloads.unwrap_or(store_payloads),
            tokenizers: self
                .tokenizers
                .into_iter()
                .map(|(model, path)| (model, path.0))
                .collect(),
            deadlines: self.timeouts.check(),
        }
    }

    fn keys_of_a_process(&self) -> impl Iterator<Item = &'static str> + use<> {
        let rpc = self.rpc.is_some() || self.rpc_host.is_some() || self.rpc_port.is_some();
        process_keys([
            (rpc, "rpc"),
            (self.log.is_some(), "log"),
            (self.drain_seconds.is_some(), "drain_seconds"),
            (self.database_url.is_some(), "database_url"),
        ])
    }
}

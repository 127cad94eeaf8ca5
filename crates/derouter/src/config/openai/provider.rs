//! `openai.provider`: what is sold, and how.

use std::collections::BTreeMap;
use std::path::Path;

use derouter_openai::provider::{
    BackendCheck, BackendConfig, BackendOptions, ConsumerLists, Discover, MediaLinks, OfferConfig,
    OfferTerms, ProviderConfig, RateLimits, Secret,
};
use derouter_sdk::{OfferId, Wei};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::offer_terms::{AnnounceSection, QueueLength, QueueSeconds, Schedule};
use super::super::schema::shape;
use super::super::value::{BaseUrl, Drain, Named, Peer, Pol, Port, Positive};
use super::super::{ConfigError, LogSection};
use super::{RpcSection, amount, process_keys};

/// What one consumer may owe unsigned when the configuration does not say: 1 POL. Enough for
/// several long answers at once, little to lose to a consumer that never signs.
const DEFAULT_MAX_UNSIGNED_WEI: u128 = 1_000_000_000_000_000_000;

/// Bytes of an offer's payload that can be announced at all (see the SDK's `OfferSpec`).
const PAYLOAD_BYTES: usize = 64_000;

/// A provider module's keys, in the node's file or in its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SellerSection")]
pub(in crate::config) struct ProviderSection {
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
    pub(in crate::config) rpc: Option<RpcSection>,
    /// 0.1.0's name for `rpc.host`.
    #[serde(default)]
    pub(in crate::config) rpc_host: Option<String>,
    /// 0.1.0's name for `rpc.port`.
    #[schemars(extend("minimum" = 1))]
    #[serde(default)]
    pub(in crate::config) rpc_port: Option<Port>,
    /// How to log; for a process of its own.
    #[serde(default)]
    pub(in crate::config) log: Option<LogSection>,
    /// Seconds that answers that run may take to finish on a stop; for a process of its own.
    #[serde(default)]
    pub(in crate::config) drain_seconds: Option<Drain>,
    /// 0.1.0 wanted one; it is ignored.
    #[schemars(with = "serde_json::Value")]
    #[serde(default)]
    pub(in crate::config) database_url: Option<IgnoredAny>,
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

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| SecretText(Secret::new(text)))
    }
}

impl ProviderSection {
    /// The names of its offers.
    pub(super) fn offer_ids(&self) -> impl Iterator<Item = &String> {
        self.offers.0.keys()
    }

    /// `prefix` is the section's path in the file, empty for a file of its own. `data_dir` is the node's,
    /// where that is known.
    pub(in crate::config) fn check(
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

    pub(super) fn keys_of_a_process(&self) -> impl Iterator<Item = &'static str> + use<> {
        let rpc = self.rpc.is_some() || self.rpc_host.is_some() || self.rpc_port.is_some();
        process_keys([
            (rpc, "rpc"),
            (self.log.is_some(), "log"),
            (self.drain_seconds.is_some(), "drain_seconds"),
            (self.database_url.is_some(), "database_url"),
        ])
    }
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

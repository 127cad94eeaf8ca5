//! `openai.consumer`: the endpoint, what it may spend, and how long it waits.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use derouter_openai::consumer::{ConsumerConfig, Deadlines, Limits, ModelRule, PriceCap};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::LogSection;
use super::super::schema::shape;
use super::super::value::{Drain, LiteralPath, Named, Origin, Pol, Port, Seconds};
use super::routing::RoutingSection;
use super::{RpcSection, amount, process_keys};

/// The port of the OpenAI endpoint when the configuration names none.
pub(crate) const DEFAULT_PORT: u16 = 9002;

/// A consumer module's keys, in the node's file or in its own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ConsumerSection {
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
    pub(in crate::config) rpc: Option<RpcSection>,
    /// 0.1.0's name for `rpc.host`.
    pub(in crate::config) rpc_host: Option<String>,
    /// 0.1.0's name for `rpc.port`.
    #[schemars(extend("minimum" = 1))]
    pub(in crate::config) rpc_port: Option<Port>,
    /// How to log; for a process of its own.
    pub(in crate::config) log: Option<LogSection>,
    /// Seconds that answers that run may take to finish on a stop; for a process of its own.
    pub(in crate::config) drain_seconds: Option<Drain>,
    /// 0.1.0 wanted one; it is ignored.
    #[schemars(with = "serde_json::Value")]
    pub(in crate::config) database_url: Option<IgnoredAny>,
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

/// An IP address, or `localhost`.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Host(pub(in crate::config) IpAddr);

shape!(Host, {"type": "string", "examples": ["127.0.0.1", "::1", "localhost"]});

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
    pub(in crate::config) fn check(
        self,
        store_payloads: bool,
        data_dir: Option<&Path>,
    ) -> ConsumerConfig {
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

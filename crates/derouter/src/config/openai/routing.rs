//! `openai.consumer.routing`: how providers are chosen.

use std::collections::BTreeSet;

use derouter_openai::consumer::{Routing, Sort, Tuning, Weights, is_percentile};
use derouter_sdk::PeerId;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::schema::{PEER_PATTERN, shape};

/// How providers are chosen.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RoutingSection {
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

shape!(Weight, {"type": "number", "minimum": 0, "maximum": Weights::MOST});
shape!(Share, {"type": "number", "minimum": 0, "maximum": 1});
shape!(Percentile, {"type": "number", "minimum": 50, "maximum": 99.9});
shape!(Provider, {"type": "string", "pattern": PEER_PATTERN});

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
    pub(super) fn check(self) -> Routing {
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

//! The keys of an offer that most have no need of: its queue, and its prices by the clock.

use std::fmt;
use std::time::Duration;

use derouter_openai::provider::prices::{
    Days, Factor, MAX_WINDOWS, PriceWindow, TimeOfDay, WindowPrice,
};
use derouter_openai::provider::{Announced, MAX_QUEUE_TIME};
use derouter_openai::terms::Endpoint;
use derouter_sdk::Wei;
use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::schema::shape;
use super::value::{OneOrMany, Pol, Positive};

/// Requests that may wait: more would not get a slot in time anyhow.
const MOST_QUEUE: u64 = 1_000;

/// How many requests wait for a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueLength(pub(super) u32);

shape!(QueueLength, {"type": "integer", "minimum": 0, "maximum": MOST_QUEUE});
shape!(QueueSeconds, {"type": "integer", "minimum": 1, "maximum": MAX_QUEUE_TIME.as_secs()});
shape!(EndpointPath, {"enum": Endpoint::ALL.map(Endpoint::path)});
shape!(DayNames, {
    "type": "array",
    "minItems": 1,
    "items": {"enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]},
});
shape!(Time, {"type": "string", "examples": ["22:30"]});
shape!(PriceFactor, {"type": "number", "minimum": 0, "maximum": 1000});

impl JsonSchema for Schedule {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Schedule".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<OneOrMany<Keys>>()
    }
}

/// A window as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PriceWindow")]
struct Keys {
    /// On which days (UTC) it begins; without it, every day.
    #[serde(default)]
    days: DayNames,
    /// When it begins, in UTC.
    #[serde(default)]
    from: Time,
    /// When it ends, in UTC.
    #[serde(default)]
    to: Time,
    /// So many times the offer's prices.
    #[serde(default)]
    factor: Option<PriceFactor>,
    /// Price of 1,000,000 tokens of the prompt.
    #[serde(default)]
    input_token_price: Option<Pol>,
    /// Price of 1,000,000 tokens of the answer.
    #[serde(default)]
    output_token_price: Option<Pol>,
}

impl<'de> Deserialize<'de> for QueueLength {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let length = u32::try_from(number).ok().filter(|_| number <= MOST_QUEUE);
        length.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{number} is not from 0 to {MOST_QUEUE} requests"
            ))
        })
    }
}

/// How long they wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueSeconds(pub(super) Duration);

impl<'de> Deserialize<'de> for QueueSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let most = MAX_QUEUE_TIME.as_secs();
        if !(1..=most).contains(&number) {
            return Err(D::Error::custom(format_args!(
                "{number} is not from 1 to {most} seconds: a node has to answer a consumer within 8"
            )));
        }
        Ok(Self(Duration::from_secs(number)))
    }
}

/// `announce`: what consumers of `openai:0.2` are told besides.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AnnounceSection {
    /// Other names of the model.
    #[schemars(extend("default" = []))]
    aliases: Vec<String>,
    /// What is served; without it, chat/completions and completions.
    endpoints: Vec<EndpointPath>,
    /// The longest answer in tokens; without it, what the context leaves.
    max_output: Option<Positive<u64>>,
    /// What prompts may hold, such as text and image.
    #[schemars(extend("default" = []))]
    input: Vec<String>,
    /// What answers may hold; without it, text.
    output: Vec<String>,
    /// Such as tools, json_schema, reasoning, logprobs.
    #[schemars(extend("default" = []))]
    features: Vec<String>,
    /// Such as q4_k_m.
    quantization: Option<String>,
    /// Such as DE.
    region: Option<String>,
    /// The address of your terms.
    terms_url: Option<String>,
    /// Price of 1,000,000 tokens of the prompt that the server had cached; without it, `input_token_price`.
    cached_input_token_price: Option<Pol>,
    /// Price of a request that is answered.
    #[schemars(extend("default" = {"$pol": "0"}))]
    request_price: Option<Pol>,
    /// Price of an image that is made.
    #[schemars(extend("default" = {"$pol": "0"}))]
    image_price: Option<Pol>,
    /// Price of a second of sound.
    #[schemars(extend("default" = {"$pol": "0"}))]
    second_price: Option<Pol>,
}

impl AnnounceSection {
    pub(super) fn check(self) -> Announced {
        let price = |price: Option<Pol>| price.map_or(Wei::ZERO, |price| price.0);
        Announced {
            aliases: self.aliases,
            endpoints: self.endpoints.into_iter().map(|path| path.0).collect(),
            max_output: self.max_output.map(|most| most.0),
            input_modalities: self.input,
            output_modalities: self.output,
            features: self.features,
            quantization: self.quantization,
            region: self.region,
            terms_url: self.terms_url,
            cached_input_token_price: self.cached_input_token_price.map(|price| price.0),
            request_price: price(self.request_price),
            image_price: price(self.image_price),
            second_price: price(self.second_price),
        }
    }
}

/// A path behind the base URL, such as `chat/completions`.
#[derive(Clone, Copy, Debug)]
struct EndpointPath(Endpoint);

impl<'de> Deserialize<'de> for EndpointPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        Endpoint::of_path(&path).map(Self).ok_or_else(|| {
            let known = Endpoint::ALL.map(Endpoint::path).join(", ");
            D::Error::custom(format_args!(
                "{path:?} is not an endpoint. There are {known}"
            ))
        })
    }
}

/// Prices by the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule(pub(super) Vec<PriceWindow>);

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let windows = OneOrMany::<Window>::deserialize(deserializer)?.0;
        if windows.len() > MAX_WINDOWS {
            return Err(D::Error::custom(format_args!(
                "a schedule has at most {MAX_WINDOWS} windows"
            )));
        }
        Ok(Self(windows.into_iter().map(|window| window.0).collect()))
    }
}

#[derive(Clone, Debug)]
struct Window(PriceWindow);

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Keys::deserialize(deserializer)?;
        let (input, output) = (keys.input_token_price, keys.output_token_price);
        let price = match (keys.factor, input.is_some() || output.is_some()) {
            (Some(factor), false) => WindowPrice::Factor(factor.0),
            (None, true) => WindowPrice::Prices {
                input: input.map(|price| price.0),
                output: output.map(|price| price.0),
            },
            _ => {
                return Err(D::Error::custom(
                    "a window has either a `factor` or prices: `input_token_price`, `output_token_price`",
                ));
            }
        };
        Ok(Self(PriceWindow {
            days: keys.days.0,
            from: keys.from.0,
            to: keys.to.0,
            price,
        }))
    }
}

struct DayNames(Days);

impl Default for DayNames {
    fn default() -> Self {
        Self(Days::ALL)
    }
}

impl<'de> Deserialize<'de> for DayNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a list of days such as ["mon", "tue"]"#)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
            }
        }
        let names = deserializer.deserialize_seq(ListVisitor)?;
        Days::named(names.iter().map(String::as_str))
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom("days are mon, tue, wed, thu, fri, sat and sun, at least one")
            })
    }
}

struct Time(TimeOfDay);

impl Default for Time {
    fn default() -> Self {
        Self(TimeOfDay::MIDNIGHT)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        TimeOfDay::parse(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                r#"{text:?} is not a time of the day in UTC, such as "22:30""#
            ))
        })
    }
}

struct PriceFactor(Factor);

impl<'de> Deserialize<'de> for PriceFactor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Factor::new(number).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("{number} is not a factor from 0 to 1000"))
        })
    }
}

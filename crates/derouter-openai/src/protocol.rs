//! What provider and consumer modules of `openai:0.1` agree on: offer payloads, prices, usage,
//! prologue, epilogue, and the public payload that is signed.

pub mod v0_2;

use derouter_sdk::{ProtocolId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The protocol's id.
pub const PROTOCOL: &str = "openai:0.1";

/// [`PROTOCOL`] as its type.
///
/// # Panics
/// Never: the constant is within the limits of an id, which a test holds.
#[expect(clippy::expect_used, reason = "a constant, held by a test")]
pub fn protocol_id() -> ProtocolId {
    ProtocolId::new(PROTOCOL).expect("within the limits")
}

/// All versions of the protocol.
pub fn protocol_ids() -> Vec<ProtocolId> {
    vec![protocol_id(), v0_2::protocol_id()]
}

/// Failure classes of `FailJob`: the service failed.
pub const REASON_SERVICE_ERROR: i64 = 0;

/// Failure classes of `FailJob`: the other side broke the protocol.
pub const REASON_PROTOCOL_VIOLATION: i64 = 1;

/// `{"$pol": "<wei>"}`: an amount with its currency, as modules write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolAmount {
    /// Decimal wei text.
    #[serde(rename = "$pol")]
    pub wei: Wei,
}

/// An offer's payload. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferPayload {
    /// The model.
    pub model_id: String,
    /// Context window in tokens.
    pub context_size: u64,
    /// Wei for 1,000,000 prompt tokens.
    pub input_token_price: PolAmount,
    /// Wei for 1,000,000 completion tokens.
    pub output_token_price: PolAmount,
    /// What a consumer may try for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<PolAmount>,
    /// About the offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl OfferPayload {
    /// Reads an offer's payload; `None` when it is not one of this protocol.
    pub fn parse(payload: &str) -> Option<Self> {
        serde_json::from_str(payload).ok()
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        // Plain data: texts and numbers only, which JSON can always hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a request costs: each term rounded down. `None` when it is over 2^256-1 wei.
    pub fn cost(&self, usage: &Usage) -> Option<Wei> {
        let input = self
            .input_token_price
            .wei
            .checked_per_million(usage.prompt_tokens)?;
        let output = self
            .output_token_price
            .wei
            .checked_per_million(usage.completion_tokens)?;
        input.checked_add(output)
    }
}

/// The token counts that money depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

impl Usage {
    /// Reads an OpenAI usage object. `None` unless both counts are there as whole numbers.
    pub fn from_json(usage: &Value) -> Option<Self> {
        let count = |key: &str| {
            let value = usage.get(key)?;
            value.as_u64().or_else(|| whole_float(value))
        };
        Some(Self {
            prompt_tokens: count("prompt_tokens")?,
            completion_tokens: count("completion_tokens")?,
        })
    }

    /// The OpenAI usage object.
    pub fn to_json(self) -> Value {
        serde_json::json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens.saturating_add(self.completion_tokens),
        })
    }
}

/// A float that is a whole token count (JavaScript and CBOR may turn one into the other).
fn whole_float(value: &Value) -> Option<u64> {
    const MOST: f64 = 4_294_967_296.0;
    let float = value
        .as_f64()
        .filter(|float| float.fract() == 0.0 && (0.0..MOST).contains(float))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    Some(float as u64)
}

/// Which endpoint a request is for: one that has a `prompt` is a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/chat/completions`.
    Chat,
    /// `/completions`.
    Completions,
}

impl Endpoint {
    /// The endpoint of `job_args`.
    pub fn of(request: &Map<String, Value>) -> Self {
        if request.contains_key("prompt") {
            Self::Completions
        } else {
            Self::Chat
        }
    }

    /// The path behind the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
        }
    }

    /// The request fields that the public payload repeats, in their order.
    pub fn signed_fields(self) -> impl Iterator<Item = &'static str> {
        const BOTH: [&str; 8] = [
            "model",
            "frequency_penalty",
            "max_tokens",
            "n",
            "presence_penalty",
            "stream",
            "temperature",
            "top_p",
        ];
        const CHAT: [&str; 4] = [
            "store",
            "reasoning_effort",
            "max_completion_tokens",
            "response_format",
        ];
        let chat: &[&str] = if self == Self::Chat { &CHAT } else { &[] };
        BOTH.into_iter().chain(chat.iter().copied())
    }
}

/// The first value on a job stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status")]
pub enum Prologue {
    /// Values of the answer follow.
    Ok,
    /// The service failed; nothing follows and nothing is owed.
    ServiceError {
        /// Why, if the provider says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

/// The `object` of a streamed answer's epilogue.
pub const EPILOGUE_OBJECT: &str = "derouter.epilogue";

/// The last value on a job stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epilogue {
    /// [`EPILOGUE_OBJECT`] in a streamed answer, absent in a plain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// JSON text that both sides sign ([`public_payload`]).
    pub public_payload: String,
    /// What is owed: decimal wei text; null or absent for nothing.
    #[serde(default)]
    pub balance_delta: Option<Wei>,
    /// When the provider completed the job.
    pub completed_at_sync: UnixSeconds,
}

/// The JSON text that both sides sign: the request's [`Endpoint::signed_fields`] that are present,
/// and the usage object as the consumer saw it.
pub fn public_payload(request: &Map<String, Value>, usage: &Value) -> String {
    let mut signed = Map::new();
    for field in Endpoint::of(request).signed_fields() {
        if let Some(value) = request.get(field) {
            signed.insert(field.to_owned(), value.clone());
        }
    }
    serde_json::json!({ "request": signed, "response": { "usage": usage } }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(input: u128, output: u128) -> OfferPayload {
        OfferPayload {
            model_id: "mock".into(),
            context_size: 8192,
            input_token_price: PolAmount {
                wei: Wei::from_wei(input),
            },
            output_token_price: PolAmount {
                wei: Wei::from_wei(output),
            },
            trial: None,
            description: None,
        }
    }

    #[test]
    fn the_offer_payload_is_the_one_of_0_1() {
        let text = r#"{"model_id":"mock","context_size":8192,"input_token_price":{"$pol":"10000000000000000000"},"output_token_price":{"$pol":"5000000000000000000"}}"#;
        let parsed = OfferPayload::parse(text).unwrap();
        assert_eq!(parsed, offer(10_u128.pow(19), 5 * 10_u128.pow(18)));
        assert_eq!(parsed.to_json(), text);
        assert_eq!(OfferPayload::parse("{}"), None);
        assert_eq!(protocol_id().as_str(), PROTOCOL);
    }

    #[test]
    fn the_cost_is_the_one_of_the_recorded_jobs() {
        let usage = Usage {
            prompt_tokens: 10,
            completion_tokens: 100,
        };
        let cost = offer(10_u128.pow(19), 5 * 10_u128.pow(18))
            .cost(&usage)
            .unwrap();
        assert_eq!(cost.to_string(), "600000000000000");
        assert_eq!(
            offer(199_999, 0).cost(&usage),
            Some(Wei::from_wei(1)),
            "rounded down"
        );
    }

    #[test]
    fn the_public_payload_repeats_only_the_signed_fields() {
        let request = serde_json::json!({
            "messages": [{"role": "user", "content": "secret"}], "stream": true, "model": "mock", "seed": 1
        });
        let usage =
            serde_json::json!({"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110});
        assert_eq!(
            public_payload(request.as_object().unwrap(), &usage),
            r#"{"request":{"model":"mock","stream":true},"response":{"usage":{"prompt_tokens":10,"completion_tokens":100,"total_tokens":110}}}"#
        );
    }
}

//! `openai:0.2`: HTTP over a job.
//!
//! The job's arguments are a [`RequestHead`] in JSON, a line break, and the body when that is UTF-8 and
//! fits; a larger or binary body follows on the job's pipe, [`RequestHead::body_bytes`] bytes. The
//! provider answers on the pipe with frames ([`frames`]): one head, the body's raw bytes as they come,
//! and an [`Epilogue`]; or a failure in place of whatever is missing. A consumer that wants no more
//! closes its direction; it is billed for what it was sent.

pub mod frames;

use std::collections::BTreeMap;

use derouter_sdk::wire::cbor::truncate_to_char;
use derouter_sdk::wire::limits::JOB_ARGS_BYTES;
use derouter_sdk::{ProtocolId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use crate::terms::{self, Endpoint, Metered, Prices, Rate, Terms};

/// The protocol's id.
pub const PROTOCOL: &str = "openai:0.2";

/// The largest body of a request.
pub const MAX_BODY_BYTES: u64 = 32 * 1024 * 1024;

/// Names in one offer: its model and aliases, endpoints, modalities, features.
const MAX_NAMES: usize = 64;

/// The longest of them, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// The longest URL or description that is taken over from an offer, in bytes.
const MAX_TEXT_BYTES: usize = 2_000;

/// [`PROTOCOL`] as its type.
///
/// # Panics
/// Never: the constant is within the limits of an id, which a test holds.
#[expect(clippy::expect_used, reason = "a constant, held by a test")]
pub fn protocol_id() -> ProtocolId {
    ProtocolId::new(PROTOCOL).expect("within the limits")
}

/// An offer's payload. Unknown fields are ignored, unknown endpoints too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferPayload {
    /// The model's own name, then its aliases.
    pub models: Vec<String>,
    /// Paths behind the base URL, such as `chat/completions`.
    pub endpoints: Vec<String>,
    /// Context window in tokens.
    pub context: u64,
    /// The longest answer in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// What a prompt may hold: `text`, `image`, `audio`, `video`, `file`. Absent when the provider does not
    /// say: what it can't read it refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<String>>,
    /// What an answer may hold.
    #[serde(default = "text_only")]
    pub output: Vec<String>,
    /// Such as `tools`, `json_schema`, `reasoning`, `logprobs`. Absent when the provider does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Such as `q4_k_m`, `fp8`, `bf16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// What it costs.
    pub prices: PricePayload,
    /// Wei that a new consumer may have for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Wei>,
    /// Requests served at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// How many of these places were taken when this was announced, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u8>,
    /// ISO 3166-1 alpha-2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The provider's terms of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_url: Option<String>,
    /// About the offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn text_only() -> Vec<String> {
    vec!["text".to_owned()]
}

/// Whole wei for each unit, decimal texts. What is absent costs nothing, cached prompt tokens as much
/// as others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PricePayload {
    /// A prompt token.
    #[serde(default, skip_serializing_if = "is_free")]
    pub input: Wei,
    /// A prompt token that the backend had cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Wei>,
    /// A token of the answer.
    #[serde(default, skip_serializing_if = "is_free")]
    pub output: Wei,
    /// A request that is answered.
    #[serde(default, skip_serializing_if = "is_free")]
    pub request: Wei,
    /// An image that is made.
    #[serde(default, skip_serializing_if = "is_free")]
    pub image: Wei,
    /// A second of sound.
    #[serde(default, skip_serializing_if = "is_free")]
    pub second: Wei,
}

impl OfferPayload {
    /// Reads an offer's payload; `None` when it is not one of this protocol, or names nothing.
    pub fn parse(payload: &str) -> Option<Self> {
        let mut offer: Self = serde_json::from_str(payload).ok()?;
        if offer.has_bad_names() {
            return None;
        }
        let texts = [
            &mut offer.description,
            &mut offer.terms_url,
            &mut offer.quantization,
            &mut offer.region,
        ];
        for text in texts.into_iter().flatten() {
            truncate_to_char(text, MAX_TEXT_BYTES);
        }
        Some(offer).filter(|offer| !offer.models.is_empty() && !offer.endpoints().is_empty())
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        // Plain data: texts and numbers only, which JSON can always hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether a list has too many names, or one that is empty or too long.
    fn has_bad_names(&self) -> bool {
        let lists = [&self.models, &self.endpoints, &self.output];
        let said = [&self.input, &self.features].into_iter().flatten();
        let bad = |name: &String| name.is_empty() || name.len() > MAX_NAME_BYTES;
        let mut lists = lists.into_iter().chain(said);
        lists.any(|names| names.len() > MAX_NAMES || names.iter().any(bad))
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let paths = self.endpoints.iter();
        paths.filter_map(|path| Endpoint::of_path(path)).collect()
    }

    /// What it says.
    pub fn terms(&self) -> Terms {
        Terms {
            models: self.models.clone(),
            endpoints: self.endpoints(),
            context: self.context,
            max_output: self.max_output,
            input_modalities: self.input.clone().unwrap_or_else(terms::any_input),
            output_modalities: self.output.clone(),
            features: self.features.clone(),
            quantization: self.quantization.clone(),
            prices: self.prices.into(),
            trial: self.trial,
            max_concurrency: self.max_concurrency,
            load: self.load.map(|percent| percent.min(100)),
            region: self.region.clone(),
            terms_url: self.terms_url.clone(),
            description: self.description.clone(),
        }
    }
}

impl From<PricePayload> for Prices {
    fn from(prices: PricePayload) -> Self {
        Self {
            input: Rate::Each(prices.input),
            cached_input: prices.cached_input.map(Rate::Each),
            output: Rate::Each(prices.output),
            request: Rate::Each(prices.request),
            image: Rate::Each(prices.image),
            second: Rate::Each(prices.second),
        }
    }
}

/// What a request begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The endpoint's path behind the base URL.
    pub path: String,
    /// The model, as the offer names it.
    pub model: String,
    /// The body's media type.
    pub content_type: String,
    /// Bytes of the whole body.
    pub body_bytes: u64,
    /// Further request headers of [`REQUEST_HEADERS`], in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Headers that reach a backend besides those that the provider sets itself: what form of an answer is
/// wanted, and which features. None tells who asks.
pub const REQUEST_HEADERS: [&str; 3] = ["accept", "anthropic-beta", "openai-beta"];

/// Statuses of a backend that are about the request.
pub const REQUEST_STATUSES: [u16; 5] = [400, 404, 409, 413, 422];

/// Headers of a backend's answer that reach the client.
pub const ANSWER_HEADERS: [&str; 3] = ["content-disposition", "content-language", "retry-after"];

/// The longest value of such a header, in bytes.
pub const MAX_HEADER_BYTES: usize = 1024;

/// The longest [`RequestHead`] in JSON, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Where the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// In the arguments.
    Here(&'a str),
    /// On the job's pipe.
    OnPipe,
}

/// Why arguments are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// There is no head.
    #[error("the job's arguments are not a request of {PROTOCOL}")]
    NoHead,
    /// The body has not the length that the head says.
    #[error("the body has {found} bytes in place of {said}")]
    Length {
        /// In the head.
        said: u64,
        /// In the arguments.
        found: u64,
    },
    /// Over [`MAX_BODY_BYTES`].
    #[error("the body is over {MAX_BODY_BYTES} bytes")]
    TooLarge,
}

impl RequestHead {
    /// The arguments of a job. The body is left for the pipe when it does not fit or is no text.
    pub fn to_args(&self, body: &[u8]) -> String {
        let args = self.line();
        match self.fitting(&args, body) {
            Some(text) => args + text,
            None => args,
        }
    }

    /// Whether the arguments hold the body.
    pub fn holds(&self, body: &[u8]) -> bool {
        self.fitting(&self.line(), body).is_some()
    }

    fn line(&self) -> String {
        // Plain data, which JSON can always hold.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    fn fitting<'a>(&self, line: &str, body: &'a [u8]) -> Option<&'a str> {
        let fits = line.len().saturating_add(body.len()) <= JOB_ARGS_BYTES;
        std::str::from_utf8(body).ok().filter(|_| fits)
    }

    /// Reads arguments.
    pub fn parse(args: &str) -> Result<(Self, Body<'_>), BadRequest> {
        let (head, body) = args.split_once('\n').ok_or(BadRequest::NoHead)?;
        if head.len() > MAX_HEAD_BYTES {
            return Err(BadRequest::NoHead);
        }
        let head: Self = serde_json::from_str(head).map_err(|_| BadRequest::NoHead)?;
        if head.body_bytes > MAX_BODY_BYTES {
            return Err(BadRequest::TooLarge);
        }
        let found = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if found == head.body_bytes {
            return Ok((head, Body::Here(body)));
        }
        if found == 0 {
            return Ok((head, Body::OnPipe));
        }
        Err(BadRequest::Length {
            said: head.body_bytes,
            found,
        })
    }
}

/// What an answer begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerHead {
    /// The HTTP status: 2xx. Anything else is a [`Failed`].
    pub status: u16,
    /// The body's media type.
    pub content_type: String,
    /// Bytes of the whole body, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Further headers of [`ANSWER_HEADERS`], in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl AnswerHead {
    /// Whether the body is a stream of server-sent events.
    pub fn is_event_stream(&self) -> bool {
        media_type(&self.content_type) == "text/event-stream"
    }

    /// Whether the body is JSON.
    pub fn is_json(&self) -> bool {
        media_type(&self.content_type) == "application/json"
    }
}

/// A media type without its parameters, in lower case.
pub fn media_type(content_type: &str) -> String {
    let plain = content_type.split(';').next().unwrap_or_default();
    plain.trim().to_ascii_lowercase()
}

/// Why there is no answer, or no end of it. Nothing is owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// For the client: without anything about the backend that is the provider's own business.
    pub message: String,
    /// The backend's HTTP status, where it is about the request ([`REQUEST_STATUSES`]): another provider
    /// may say the same. 429: the backend is busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The bill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epilogue {
    /// A [`PublicPayload`] in JSON, that both sides sign.
    pub public_payload: String,
    /// What is owed; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_delta: Option<Wei>,
    /// When the provider completed the job.
    pub completed_at: UnixSeconds,
}

/// What both sides sign, besides the offer with its prices and the times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicPayload {
    /// The endpoint's path.
    pub path: String,
    /// The model, as the consumer named it.
    pub model: String,
    /// Of the request's body, lower-case hexadecimal.
    pub request_sha256: String,
    /// The consumer ended the answer before its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// What was used.
    pub usage: UsagePayload,
}

/// [`Metered`] as it travels; zeros are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsagePayload {
    #[serde(skip_serializing_if = "is_zero")]
    input: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cached_input: u64,
    #[serde(skip_serializing_if = "is_zero")]
    output: u64,
    #[serde(skip_serializing_if = "is_zero")]
    images: u64,
    #[serde(skip_serializing_if = "is_zero")]
    seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Metered> for UsagePayload {
    fn from(used: Metered) -> Self {
        Self {
            input: used.input,
            cached_input: used.cached_input,
            output: used.output,
            images: used.images,
            seconds: used.seconds,
        }
    }
}

fn is_free(price: &Wei) -> bool {
    price.is_zero()
}

impl From<UsagePayload> for Metered {
    fn from(used: UsagePayload) -> Self {
        Self {
            input: used.input,
            cached_input: used.cached_input,
            output: used.output,
            images: used.images,
            seconds: used.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(body_bytes: u64) -> RequestHead {
        RequestHead {
            path: "chat/completions".into(),
            model: "m".into(),
            content_type: "application/json".into(),
            body_bytes,
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_request_that_fits_is_in_the_arguments_and_others_follow() {
        let args = head(7).to_args(b"{\"\n\":1}");
        assert_eq!(
            RequestHead::parse(&args),
            Ok((head(7), Body::Here("{\"\n\":1}")))
        );
        for body in [vec![b'x'; JOB_ARGS_BYTES], vec![0xff; 10]] {
            let head = head(body.len() as u64);
            let args = head.to_args(&body);
            assert_eq!(RequestHead::parse(&args), Ok((head, Body::OnPipe)));
        }
        let args = head(0).to_args(b"");
        assert_eq!(RequestHead::parse(&args), Ok((head(0), Body::Here(""))));
    }

    #[test]
    fn arguments_that_are_no_request_are_refused() {
        assert_eq!(RequestHead::parse("{}"), Err(BadRequest::NoHead));
        assert_eq!(RequestHead::parse("{}\n"), Err(BadRequest::NoHead));
        let short = head(9).to_args(b"1234");
        assert!(matches!(
            RequestHead::parse(&short),
            Err(BadRequest::Length { said: 9, found: 4 })
        ));
        let large = head(MAX_BODY_BYTES + 1).to_args(b"");
        assert_eq!(RequestHead::parse(&large), Err(BadRequest::TooLarge));
        let long = RequestHead {
            model: "x".repeat(MAX_HEAD_BYTES),
            ..head(0)
        };
        assert_eq!(
            RequestHead::parse(&long.to_args(b"")),
            Err(BadRequest::NoHead)
        );
    }

    #[test]
    fn an_offer_says_what_it_costs_in_whole_wei_a_unit() {
        let text = r#"{"models":["big/model","alias"],"endpoints":["chat/completions","new/thing"],"context":8192,"input":["text"],"output":["text"],"features":["tools"],"prices":{"input":"10","output":"20"},"other":1}"#;
        let offer = OfferPayload::parse(text).unwrap();
        let terms = offer.terms();
        assert_eq!(terms.model(), "big/model");
        assert_eq!(terms.endpoints, [Endpoint::Chat]);
        let used = Metered {
            input: 3,
            cached_input: 1,
            output: 2,
            ..Metered::default()
        };
        assert_eq!(
            terms.prices.cost(&used),
            Some(Wei::from_wei(3 * 10 + 2 * 20))
        );
        assert_eq!(OfferPayload::parse(&offer.to_json()), Some(offer));
        assert_eq!(protocol_id().as_str(), PROTOCOL);
    }

    #[test]
    fn an_offer_that_names_nothing_or_too_much_is_none() {
        let with = |models: &str, endpoints: &str| {
            OfferPayload::parse(&format!(
                r#"{{"models":{models},"endpoints":{endpoints},"context":1,"prices":{{}}}}"#
            ))
        };
        assert!(with(r#"["m"]"#, r#"["embeddings"]"#).is_some());
        assert!(with("[]", r#"["embeddings"]"#).is_none());
        assert!(with(r#"["m"]"#, r#"["new/thing"]"#).is_none());
        assert!(with(r#"[""]"#, r#"["embeddings"]"#).is_none());
        let many = format!("[{}\"m\"]", "\"m\",".repeat(MAX_NAMES));
        assert!(with(&many, r#"["embeddings"]"#).is_none());
    }

    #[test]
    fn what_was_used_reads_back() {
        let used = Metered {
            input: 1,
            cached_input: 0,
            output: 7,
            images: 0,
            seconds: 0,
        };
        let json = serde_json::to_string(&UsagePayload::from(used)).unwrap();
        assert_eq!(json, r#"{"input":1,"output":7}"#);
        let back: UsagePayload = serde_json::from_str(&json).unwrap();
        assert_eq!(Metered::from(back), used);
    }
}

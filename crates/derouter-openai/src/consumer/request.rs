//! A client's request: what is checked of it, and what can be said of its size. Everything else
//! in it is the provider's business and passes through.

use derouter_sdk::Wei;
use derouter_sdk::wire::limits::REQRES_REQUEST_BYTES;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::measure::{Extent, prompt_extent};
use super::router::Preferences;
use super::router::preferences::merge_headers;
use crate::protocol::{Endpoint, OfferPayload, Usage};
use crate::terms::Metered;

/// What a `CreateJob` request holds besides `job_args`: the offer's payload (64,000 bytes at
/// most), ids and CBOR around them.
const CREATE_JOB_OVERHEAD: usize = 68 * 1024;

/// The largest `job_args` that fits a `CreateJob` of wire 0.1.
pub(crate) const MAX_JOB_ARGS_BYTES: usize = REQRES_REQUEST_BYTES - CREATE_JOB_OVERHEAD;

/// The largest body that is read: over [`MAX_JOB_ARGS_BYTES`] because white space and escapes may
/// go away when it is written anew.
pub(crate) const MAX_BODY_BYTES: usize = 4 * REQRES_REQUEST_BYTES;

/// Prompt tokens that the client did not write: the chat template, a default system prompt, the
/// preamble that models are given for tools.
const TEMPLATE_TOKENS: u64 = 1024;

/// Prompt tokens that an image, a sound or a file may be billed with besides its bytes: what large
/// ones come to with the costliest models, and what bounds the bill for those given as URLs.
const OPAQUE_PART_TOKENS: u64 = 20_000;

/// A token of text is about four bytes: good enough to compare prices.
const BYTES_PER_TOKEN: u64 = 4;

/// Hardly any text has more bytes in a token than this: what is too long even so does not fit.
const MOST_BYTES_PER_TOKEN: u64 = 6;

/// The answer's length that prices are compared for when the client sets no limit.
const TYPICAL_OUTPUT_TOKENS: u64 = 512;

/// A request that may be sent to a provider.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The request's fields.
    pub(crate) fields: Map<String, Value>,
    /// The request as it is sent.
    pub(crate) job_args: String,
    pub(crate) model: String,
    /// Whether the answer is streamed.
    pub(crate) stream: bool,
    /// Whether the client wants the chunk with the usage.
    pub(crate) include_usage: bool,
    pub(crate) size: Size,
    /// What it says about the choice of its provider, which providers are not told.
    pub(crate) preferences: Preferences,
}

/// How large a request and its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes of the whole request.
    pub(crate) body_bytes: u64,
    /// What the prompt consists of.
    pub(crate) prompt: Extent,
    /// Prompts in the request: a completion may have several.
    pub(crate) prompts: u64,
    /// Answers that are generated, over all prompts.
    pub(crate) answers: u64,
    /// The limit of one answer, as the client set it.
    pub(crate) max_output_tokens: Option<u64>,
    /// The answer may hold tokens that are never seen, with the client's consent.
    pub(crate) hidden_reasoning: bool,
}

impl Asked {
    /// Reads a body that was sent to an endpoint.
    pub(crate) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, ApiError> {
        Self::parse_with(endpoint, body, Map::new())
    }

    /// The same, with the preferences that the request's headers name.
    pub(crate) fn parse_with(
        endpoint: Endpoint,
        body: &[u8],
        of_headers: Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body)
            .map_err(|_| ApiError::invalid("The request body is not UTF-8."))?;
        let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            ApiError::invalid(format!("The body is not a JSON object: {error}."))
        })?;
        let as_written = !Preferences::are_in(&fields);
        merge_headers(&mut fields, of_headers)?;
        let preferences = Preferences::take(&mut fields)?;
        check_prompt(endpoint, &fields)?;
        let model = match fields.get("model") {
            Some(Value::String(model)) if !model.is_empty() => model.clone(),
            _ => {
                return Err(ApiError::invalid_param(
                    "model",
                    "You must provide a model.",
                ));
            }
        };
        let stream = flag(&fields, "stream")
            .ok_or_else(|| ApiError::invalid_param("stream", "stream must be true or false."))?;
        let include_usage = fields
            .get("stream_options")
            .and_then(|options| options.get("include_usage"))
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let size = Size::of(endpoint, &fields, body.len());
        Ok(Self {
            job_args: job_args(Some(text).filter(|_| as_written), &fields)?,
            model,
            stream,
            include_usage,
            size,
            preferences,
            fields,
        })
    }
}

fn check_prompt(endpoint: Endpoint, fields: &Map<String, Value>) -> Result<(), ApiError> {
    match endpoint {
        Endpoint::Chat if !fields.get("messages").is_some_and(Value::is_array) => Err(
            ApiError::invalid_param("messages", "You must provide messages, as an array."),
        ),
        // A request with a prompt is a completion to every provider.
        Endpoint::Chat if fields.contains_key("prompt") => Err(ApiError::invalid_param(
            "prompt",
            "A chat completion has no prompt; use POST /v1/completions.",
        )),
        Endpoint::Completions if fields.get("prompt").is_none_or(Value::is_null) => Err(
            ApiError::invalid_param("prompt", "You must provide a prompt."),
        ),
        _ => Ok(()),
    }
}

/// An optional boolean; `None` when it is something else.
fn flag(fields: &Map<String, Value>, name: &str) -> Option<bool> {
    match fields.get(name) {
        None | Some(Value::Null) => Some(false),
        Some(value) => value.as_bool(),
    }
}

/// The client's own text if that can be sent, or the same without white space and escapes.
fn job_args(text: Option<&str>, fields: &Map<String, Value>) -> Result<String, ApiError> {
    if let Some(text) = text.filter(|text| text.len() <= MAX_JOB_ARGS_BYTES) {
        return Ok(text.to_owned());
    }
    let compact = serde_json::to_string(fields).unwrap_or_default();
    if (1..=MAX_JOB_ARGS_BYTES).contains(&compact.len()) {
        return Ok(compact);
    }
    Err(too_large())
}

/// The answer to a body that no provider could be sent.
pub(crate) fn too_large() -> ApiError {
    ApiError::too_large(format!(
        "The request is too large: at most {MAX_JOB_ARGS_BYTES} bytes of JSON fit a job. Shorten the conversation, or make images smaller or give them as URLs."
    ))
}

impl Size {
    fn of(endpoint: Endpoint, fields: &Map<String, Value>, body_bytes: usize) -> Self {
        let count = |name: &str| fields.get(name).and_then(Value::as_u64);
        let prompts = match fields.get("prompt") {
            Some(Value::Array(prompts)) if !prompts.iter().any(Value::is_number) => {
                u64::try_from(prompts.len()).unwrap_or(u64::MAX).max(1)
            }
            _ => 1,
        };
        // Of `best_of` answers all are paid, and `n` are seen.
        let per_prompt = count("n").max(count("best_of")).unwrap_or(1).max(1);
        let chat_limit = (endpoint == Endpoint::Chat)
            .then(|| count("max_completion_tokens"))
            .flatten();
        Self {
            body_bytes: u64::try_from(body_bytes).unwrap_or(u64::MAX),
            prompt: prompt_extent(fields),
            prompts,
            answers: per_prompt.saturating_mul(prompts),
            max_output_tokens: count("max_tokens").max(chat_limit),
            hidden_reasoning: chat_limit.is_some()
                || count("best_of").is_some()
                || fields.get("reasoning_effort").is_some_and(|v| !v.is_null()),
        }
    }

    /// The most tokens that can be owed for on an offer. Prompt tokens have at least one byte
    /// each, except what stands for images and the like, which have a cap of their own: the
    /// context size is the provider's word, and must not be the only bound.
    pub(crate) fn most(&self, context_size: u64) -> Usage {
        let window = context_size.saturating_mul(self.prompts);
        let written = self
            .body_bytes
            .saturating_add(TEMPLATE_TOKENS.saturating_mul(self.prompts))
            .saturating_add(OPAQUE_PART_TOKENS.saturating_mul(self.prompt.opaque_parts));
        let longest = self.max_output_tokens.unwrap_or(context_size);
        Usage {
            prompt_tokens: window.min(written),
            completion_tokens: longest.min(context_size).saturating_mul(self.answers),
        }
    }

    /// The most that can be owed on an offer; more than there is when it has no number.
    pub(crate) fn most_cost(&self, offer: &OfferPayload) -> Wei {
        offer
            .cost(&self.most(offer.context_size))
            .unwrap_or(Wei::MAX)
    }

    /// What the request will probably use: for comparing offers only.
    pub(crate) fn typical(&self) -> Metered {
        let output = self.max_output_tokens.unwrap_or(u64::MAX);
        Metered {
            input: self.prompt.text_bytes / BYTES_PER_TOKEN,
            output: TYPICAL_OUTPUT_TOKENS
                .min(output)
                .saturating_mul(self.answers),
            ..Metered::default()
        }
    }

    /// The fewest tokens that the prompt can be.
    pub(crate) fn least_prompt_tokens(&self) -> u64 {
        self.prompt.text_bytes / MOST_BYTES_PER_TOKEN / self.prompts.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(body: &Value) -> Result<Asked, ApiError> {
        Asked::parse(Endpoint::Chat, body.to_string().as_bytes())
    }

    #[test]
    fn a_request_is_sent_as_the_client_wrote_it() {
        let body = r#"{ "model": "m", "messages": [], "temperature": 0.10000000000000001, "new_field": {"x": [1e3]} }"#;
        let asked = Asked::parse(Endpoint::Chat, body.as_bytes()).unwrap();
        assert_eq!(asked.job_args, body);
        assert!(!asked.stream && !asked.include_usage);
    }

    #[test]
    fn preferences_are_for_the_gateway_alone() {
        let body = r#"{ "model": "m", "derouter": {"sort": "price"}, "messages": [], "provider": {"only": []}}"#;
        let asked = Asked::parse(Endpoint::Chat, body.as_bytes()).unwrap();
        assert_eq!(asked.job_args, r#"{"model":"m","messages":[]}"#);
        assert!(asked.preferences.sort.is_some() && !Preferences::are_in(&asked.fields));
        let headers = json!({"sort": "latency"}).as_object().cloned().unwrap();
        let body = r#"{ "model": "m", "messages": [] }"#;
        let asked = Asked::parse_with(Endpoint::Chat, body.as_bytes(), headers).unwrap();
        assert!(asked.preferences.sort.is_some());
        assert_eq!(asked.job_args, body, "as the client wrote it");
    }

    #[test]
    fn what_is_missing_or_misplaced_is_named() {
        let param = |body: Value| chat(&body).unwrap_err().param;
        assert_eq!(param(json!({"messages": []})), Some("model"));
        assert_eq!(param(json!({"model": "", "messages": []})), Some("model"));
        assert_eq!(param(json!({"model": "m"})), Some("messages"));
        assert_eq!(
            param(json!({"model": "m", "messages": [], "prompt": "x"})),
            Some("prompt")
        );
        assert_eq!(
            param(json!({"model": "m", "messages": [], "stream": "yes"})),
            Some("stream")
        );
        for body in [&b"[]"[..], b"{", b"\xff", b""] {
            let error = Asked::parse(Endpoint::Chat, body).unwrap_err();
            assert_eq!(error.status, 400, "{body:?}");
        }
    }

    #[test]
    fn a_request_over_the_cap_is_written_compactly_or_refused() {
        let text = "é".repeat(MAX_JOB_ARGS_BYTES / 4);
        let escaped = text.replace('é', "\\u00e9");
        let body =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{escaped}"}}]}}"#);
        let asked = Asked::parse(Endpoint::Chat, body.as_bytes()).unwrap();
        assert!(asked.job_args.len() <= MAX_JOB_ARGS_BYTES);
        assert!(asked.job_args.contains(&text));
        let body = json!({"model": "m", "messages": ["x".repeat(MAX_JOB_ARGS_BYTES)]});
        assert_eq!(chat(&body).unwrap_err().status, 413);
    }

    #[test]
    fn the_most_that_can_be_owed_counts_every_answer_and_byte() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "n": 3});
        let asked = chat(&body).unwrap();
        let bytes = u64::try_from(body.to_string().len()).unwrap();
        let most = asked.size.most(8192);
        assert_eq!(most.completion_tokens, 30);
        assert_eq!(most.prompt_tokens, bytes + TEMPLATE_TOKENS);
        assert_eq!(asked.size.most(100).prompt_tokens, 100);
        let unlimited = chat(&json!({"model": "m", "messages": []})).unwrap();
        assert_eq!(unlimited.size.most(8192).completion_tokens, 8192);
        let picture = json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]}]});
        let size = chat(&picture).unwrap().size;
        assert_eq!(size.most(8192).prompt_tokens, 8192);
        let bytes = u64::try_from(picture.to_string().len()).unwrap();
        let written = bytes + TEMPLATE_TOKENS + OPAQUE_PART_TOKENS;
        assert_eq!(size.most(90_000_000_000).prompt_tokens, written);
    }

    #[test]
    fn several_prompts_are_paid_each() {
        let body =
            json!({"model": "m", "prompt": ["a", "b"], "max_tokens": 5, "best_of": 4, "n": 2});
        let asked = Asked::parse(Endpoint::Completions, body.to_string().as_bytes()).unwrap();
        assert_eq!(asked.size.most(8192).completion_tokens, 40);
        let tokens = json!({"model": "m", "prompt": [1, 2, 3], "max_tokens": 5});
        let asked = Asked::parse(Endpoint::Completions, tokens.to_string().as_bytes()).unwrap();
        assert_eq!(asked.size.most(8192).completion_tokens, 5);
    }

    #[test]
    fn a_price_beyond_all_numbers_is_the_highest() {
        let asked = chat(&json!({"model": "m", "messages": []})).unwrap();
        let offer = OfferPayload::parse(
            &json!({"model_id": "m", "context_size": 1_000_000,
            "input_token_price": {"$pol": Wei::MAX.to_string()},
            "output_token_price": {"$pol": Wei::MAX.to_string()}})
            .to_string(),
        )
        .unwrap();
        assert_eq!(asked.size.most_cost(&offer), Wei::MAX);
        let prices = crate::terms::Prices::of_0_1(&offer);
        assert_eq!(prices.cost(&asked.size.typical()), None);
    }
}

//! A client's request: what is checked of it, and what can be said of its size. Everything else
//! in it is the provider's business and passes through.

use std::collections::BTreeMap;

use bytes::Bytes;
use derouter_sdk::Wei;
use derouter_sdk::wire::limits::REQRES_REQUEST_BYTES;
use hyper::HeaderMap;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::measure::{Extent, prompt_extent};
use super::router::Preferences;
use super::router::preferences::merge_headers;
use crate::estimate;
use crate::protocol::v0_2::{MAX_HEADER_BYTES, REQUEST_HEADERS};
use crate::protocol::{Endpoint, Usage};
use crate::terms::{self, Metered, Terms};

/// The media type of most requests.
const JSON: &str = "application/json";

/// Fewer bytes hold no second of sound that is worth hearing: 6 kbit/s.
const LEAST_SOUND_BYTES: u64 = 750;

/// A second of sound as it is mostly sent: 64 kbit/s.
const TYPICAL_SOUND_BYTES: u64 = 8_000;

/// What a `CreateJob` request holds besides `job_args`: the offer's payload (64,000 bytes at
/// most), ids and CBOR around them.
const CREATE_JOB_OVERHEAD: usize = 68 * 1024;

/// The largest `job_args` that fits a `CreateJob` of wire 0.1.
pub(crate) const MAX_JOB_ARGS_BYTES: usize = REQRES_REQUEST_BYTES - CREATE_JOB_OVERHEAD;

/// The largest body that is read: what `openai:0.2` carries.
pub(crate) const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// Prompt tokens that the client did not write: the chat template, a default system prompt, the
/// preamble that models are given for tools.
pub(super) const TEMPLATE_TOKENS: u64 = 1024;

/// Prompt tokens that an image, a sound or a file may be billed with besides its bytes: what large
/// ones come to with the costliest models, and what bounds the bill for those given as URLs.
pub(super) const OPAQUE_PART_TOKENS: u64 = 20_000;

/// A token of text is about four bytes: good enough to compare prices.
const BYTES_PER_TOKEN: u64 = 4;

/// Hardly any text has more bytes in a token than this: what is too long even so does not fit.
const MOST_BYTES_PER_TOKEN: u64 = 6;

/// The answer's length that prices are compared for when the client sets no limit.
const TYPICAL_OUTPUT_TOKENS: u64 = 512;

/// Tokens of an answer that leave no text: its end, marks around calls and reasoning, a few words
/// of reasoning that a server keeps back. Worth little at any price under the caps.
pub(crate) const UNSEEN_TOKENS: u64 = 256;

/// Tokens of one answer that may be billed without being seen when the client set no limit: the
/// longest reasoning that servers do unasked. More is paid only under a limit of the client's.
pub(crate) const HIDDEN_TOKENS: u64 = 32_768;

/// A request that may be sent to a provider.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) endpoint: terms::Endpoint,
    /// The request's fields; none when it is not JSON.
    pub(crate) fields: Map<String, Value>,
    /// The request as the client wrote it.
    pub(crate) body: Bytes,
    pub(crate) content_type: String,
    /// Headers that pass to the backend.
    pub(crate) headers: BTreeMap<String, String>,
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
    /// Images that are to be made.
    pub(crate) images: u64,
    /// Bytes of sound that is to be heard.
    pub(crate) sound_bytes: u64,
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
        let (model, stream) = (model_of(&fields)?, is_streamed(&fields)?);
        let include_usage = fields
            .get("stream_options")
            .and_then(|options| options.get("include_usage"))
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let endpoint_0_1 = endpoint;
        let endpoint = match endpoint {
            Endpoint::Chat => terms::Endpoint::Chat,
            Endpoint::Completions => terms::Endpoint::Completions,
        };
        Ok(Self {
            size: Size::of(endpoint_0_1, &fields, body.len()),
            endpoint,
            body: written(body, as_written, &fields),
            content_type: JSON.to_owned(),
            headers: BTreeMap::new(),
            model,
            stream,
            include_usage,
            preferences,
            fields,
        })
    }

    /// Reads a body in JSON that was sent to an endpoint which only `openai:0.2` has.
    pub(crate) fn parse_other(
        endpoint: terms::Endpoint,
        body: &[u8],
        of_headers: Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            ApiError::invalid(format!("The body is not a JSON object: {error}."))
        })?;
        let as_written = !Preferences::are_in(&fields);
        merge_headers(&mut fields, of_headers)?;
        let preferences = Preferences::take(&mut fields)?;
        let (model, stream) = (model_of(&fields)?, is_streamed(&fields)?);
        Ok(Self {
            size: Size::of_other(endpoint, &fields, body.len()),
            endpoint,
            body: written(body, as_written, &fields),
            content_type: JSON.to_owned(),
            headers: BTreeMap::new(),
            model,
            stream,
            include_usage: true,
            preferences,
            fields,
        })
    }

    /// A request that is not JSON: a form with files.
    pub(crate) fn form(
        endpoint: terms::Endpoint,
        content_type: String,
        model: String,
        body: Bytes,
        preferences: Preferences,
    ) -> Self {
        Self {
            preferences,
            size: Size::of_other(endpoint, &Map::new(), body.len()),
            endpoint,
            fields: Map::new(),
            body,
            content_type,
            headers: BTreeMap::new(),
            model,
            stream: false,
            include_usage: true,
        }
    }

    /// The same with those of the client's headers that pass to the backend.
    pub(crate) fn with_headers(mut self, headers: &HeaderMap) -> Self {
        self.headers = passed_headers(headers);
        self
    }

    /// The arguments of a job of `openai:0.1`: the client's own text, or, if that is too large, the same
    /// without white space and escapes. `None` when that wire can't carry the request.
    pub(crate) fn args_0_1(&self) -> Option<String> {
        let has_0_1 = matches!(
            self.endpoint,
            terms::Endpoint::Chat | terms::Endpoint::Completions
        );
        if !has_0_1 {
            return None;
        }
        if self.body.len() <= MAX_JOB_ARGS_BYTES {
            return String::from_utf8(self.body.to_vec()).ok();
        }
        let compact = serde_json::to_string(&self.fields).ok()?;
        (compact.len() <= MAX_JOB_ARGS_BYTES).then_some(compact)
    }
}

/// Those of a client's headers that pass to a backend. One that says anything, is there twice or is too
/// long is left out.
fn passed_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let passed = REQUEST_HEADERS.iter().filter_map(|name| {
        let mut values = headers.get_all(*name).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        let value = only.to_str().ok().map(str::trim)?;
        let says_something = !value.is_empty() && value != "*/*";
        let passes = says_something && value.len() <= MAX_HEADER_BYTES;
        passes.then(|| ((*name).to_owned(), value.to_owned()))
    });
    passed.collect()
}

fn model_of(fields: &Map<String, Value>) -> Result<String, ApiError> {
    match fields.get("model") {
        Some(Value::String(model)) if !model.is_empty() => Ok(model.clone()),
        _ => Err(ApiError::invalid_param(
            "model",
            "You must provide a model.",
        )),
    }
}

fn is_streamed(fields: &Map<String, Value>) -> Result<bool, ApiError> {
    let wrong = || ApiError::invalid_param("stream", "stream must be true or false.");
    flag(fields, "stream").ok_or_else(wrong)
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

/// The client's own bytes where they can be sent as they are.
fn written(body: &[u8], as_written: bool, fields: &Map<String, Value>) -> Bytes {
    match as_written {
        true => Bytes::copy_from_slice(body),
        // Plain JSON, which can always be written.
        false => Bytes::from(serde_json::to_vec(fields).unwrap_or_default()),
    }
}

/// The answer to a body that no provider could be sent.
pub(crate) fn too_large() -> ApiError {
    ApiError::too_large(format!(
        "The request is too large: at most {MAX_BODY_BYTES} bytes are taken. Shorten the conversation, or make images smaller or give them as URLs."
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
            images: 0,
            sound_bytes: 0,
        }
    }

    /// The size of a request to an endpoint that only `openai:0.2` has.
    fn of_other(endpoint: terms::Endpoint, fields: &Map<String, Value>, body_bytes: usize) -> Self {
        let count = |name: &str| fields.get(name).and_then(Value::as_u64);
        let prompts = match fields.get("input").or_else(|| fields.get("documents")) {
            Some(Value::Array(prompts)) if prompts.iter().all(Value::is_string) => {
                u64::try_from(prompts.len()).unwrap_or(u64::MAX).max(1)
            }
            _ => 1,
        };
        let body_bytes = u64::try_from(body_bytes).unwrap_or(u64::MAX);
        let mut prompt = prompt_extent(fields);
        if fields.is_empty() {
            // A form with a file: of what it holds nothing is known.
            prompt.most_tokens = body_bytes;
        }
        Self {
            body_bytes,
            prompt,
            prompts,
            answers: count("n").unwrap_or(1).max(1),
            max_output_tokens: count("max_output_tokens"),
            hidden_reasoning: fields.get("reasoning").is_some_and(|v| !v.is_null()),
            images: match endpoint {
                terms::Endpoint::ImageGenerations | terms::Endpoint::ImageEdits => {
                    count("n").unwrap_or(1).max(1)
                }
                _ => 0,
            },
            sound_bytes: match endpoint {
                terms::Endpoint::Transcriptions | terms::Endpoint::Translations => body_bytes,
                _ => 0,
            },
        }
    }

    /// The most that can be owed for on an offer.
    pub(crate) fn most_metered(&self, terms: &Terms) -> Metered {
        let Usage {
            prompt_tokens,
            completion_tokens,
        } = self.most(terms.context);
        let longest = terms.max_output.unwrap_or(terms.context);
        Metered {
            input: prompt_tokens,
            cached_input: 0,
            output: completion_tokens.min(longest.saturating_mul(self.answers)),
            images: self.images,
            seconds: self.sound_bytes.div_ceil(LEAST_SOUND_BYTES),
        }
    }

    /// The most prompt and completion tokens that can be owed for. The context size is the provider's
    /// word, and must not be the only bound: text is counted by [`estimate`], and what stands for images
    /// and the like has a cap of its own.
    pub(crate) fn most(&self, context_size: u64) -> Usage {
        let window = context_size.saturating_mul(self.prompts);
        let text = estimate::with_tolerance(self.prompt.most_tokens);
        let written = self
            .body_bytes
            .min(text)
            .saturating_add(TEMPLATE_TOKENS.saturating_mul(self.prompts))
            .saturating_add(OPAQUE_PART_TOKENS.saturating_mul(self.prompt.opaque_parts));
        let longest = self.max_output_tokens.unwrap_or(context_size);
        Usage {
            prompt_tokens: window.min(written),
            completion_tokens: longest.min(context_size).saturating_mul(self.answers),
        }
    }

    /// The most that can be owed on an offer; more than there is when it has no number.
    pub(crate) fn most_cost(&self, terms: &Terms) -> Wei {
        terms
            .prices
            .cost(&self.most_metered(terms))
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
            images: self.images,
            seconds: self.sound_bytes.div_ceil(TYPICAL_SOUND_BYTES),
            ..Metered::default()
        }
    }

    /// The tokens that may be billed without being seen: any number that the client's own limit
    /// allows, if it agreed to them, else as many as the usage says were reasoning.
    pub(crate) fn most_hidden(&self, reasoning: u64) -> u64 {
        let most = match self.max_output_tokens {
            Some(_) => u64::MAX,
            None => HIDDEN_TOKENS.saturating_mul(self.answers),
        };
        match self.hidden_reasoning {
            true => most,
            false => most.min(reasoning),
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
        assert_eq!(asked.args_0_1().unwrap(), body);
        assert!(!asked.stream && !asked.include_usage);
    }

    #[test]
    fn fractions_are_the_same_in_a_request_that_is_written_anew() {
        let fractions: Vec<f64> = (2..2000).map(|square| f64::from(square).sqrt()).collect();
        let body = json!({"model": "m", "messages": [], "derouter": {"sort": "price"}, "logits": fractions});
        let asked = chat(&body).unwrap();
        let sent: Value = serde_json::from_slice(&asked.body).unwrap();
        let sent = sent["logits"].as_array().unwrap().iter();
        assert!(sent.map(|it| it.as_f64().unwrap()).eq(fractions));
    }

    #[test]
    fn headers_that_mean_something_to_a_backend_pass_and_no_others() {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: &str| headers.append(name, value.parse().unwrap());
        put("accept", "audio/mpeg");
        put("authorization", "Bearer secret");
        put("x-stainless-os", "Linux");
        put("user-agent", "me");
        put("openai-beta", "a=b");
        put("anthropic-beta", &"x".repeat(MAX_HEADER_BYTES + 1));
        let asked = chat(&json!({"model": "m", "messages": []})).unwrap();
        let asked = asked.with_headers(&headers);
        let passed: Vec<_> = asked.headers.iter().collect();
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let right = [text("accept", "audio/mpeg"), text("openai-beta", "a=b")];
        assert_eq!(
            passed,
            right
                .iter()
                .map(|(name, value)| (name, value))
                .collect::<Vec<_>>()
        );
        headers.append("accept", "text/html".parse().unwrap());
        headers.insert("openai-beta", "*/*".parse().unwrap());
        assert!(
            passed_headers(&headers).is_empty(),
            "which one would be meant?"
        );
    }

    #[test]
    fn preferences_are_for_the_gateway_alone() {
        let body = r#"{ "model": "m", "derouter": {"sort": "price"}, "messages": [], "provider": {"only": []}}"#;
        let asked = Asked::parse(Endpoint::Chat, body.as_bytes()).unwrap();
        assert_eq!(asked.body, r#"{"model":"m","messages":[]}"#);
        assert!(asked.preferences.sort.is_some() && !Preferences::are_in(&asked.fields));
        let headers = json!({"sort": "latency"}).as_object().cloned().unwrap();
        let body = r#"{ "model": "m", "messages": [] }"#;
        let asked = Asked::parse_with(Endpoint::Chat, body.as_bytes(), headers).unwrap();
        assert!(asked.preferences.sort.is_some());
        assert_eq!(asked.body, body, "as the client wrote it");
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
    fn a_request_over_the_cap_of_0_1_is_written_compactly_or_not_sent_to_it() {
        let text = "é".repeat(MAX_JOB_ARGS_BYTES / 4);
        let escaped = text.replace('é', "\\u00e9");
        let body =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{escaped}"}}]}}"#);
        let asked = Asked::parse(Endpoint::Chat, body.as_bytes()).unwrap();
        let args = asked.args_0_1().unwrap();
        assert!(args.len() <= MAX_JOB_ARGS_BYTES);
        assert!(args.contains(&text));
        assert_eq!(asked.body, body, "openai:0.2 takes it as it is");
        let body = json!({"model": "m", "messages": ["x".repeat(MAX_JOB_ARGS_BYTES)]});
        assert_eq!(chat(&body).unwrap().args_0_1(), None);
    }

    #[test]
    fn the_most_that_can_be_owed_counts_every_answer_and_token() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "n": 3});
        let asked = chat(&body).unwrap();
        let most = asked.size.most(8192);
        assert_eq!(most.completion_tokens, 30);
        let text = estimate::with_tolerance(asked.size.prompt.most_tokens);
        assert!(text < u64::try_from(body.to_string().len()).unwrap());
        assert_eq!(most.prompt_tokens, text + TEMPLATE_TOKENS);
        assert_eq!(asked.size.most(100).prompt_tokens, 100);
        let unlimited = chat(&json!({"model": "m", "messages": []})).unwrap();
        assert_eq!(unlimited.size.most(8192).completion_tokens, 8192);
        let picture = json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]}]});
        let size = chat(&picture).unwrap().size;
        assert_eq!(size.most(8192).prompt_tokens, 8192);
        let text = estimate::with_tolerance(size.prompt.most_tokens);
        let written = text + TEMPLATE_TOKENS + OPAQUE_PART_TOKENS;
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
        let offer = crate::protocol::OfferPayload::parse(
            &json!({"model_id": "m", "context_size": 1_000_000,
            "input_token_price": {"$pol": Wei::MAX.to_string()},
            "output_token_price": {"$pol": Wei::MAX.to_string()}})
            .to_string(),
        )
        .unwrap();
        let offer = Terms::of_0_1(&offer);
        assert_eq!(asked.size.most_cost(&offer), Wei::MAX);
        assert_eq!(offer.prices.cost(&asked.size.typical()), None);
    }
}

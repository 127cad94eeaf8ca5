//! A request, checked, and what the backend is asked for it.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Sold;
use crate::form;
use crate::meter::json_items;
use crate::protocol::Usage;
use crate::protocol::v0_2::{MAX_HEADER_BYTES, REQUEST_HEADERS, RequestHead, media_type};
use crate::provider::backend::{Backend, Failure};
use crate::provider::request::Request;
use crate::provider::usage::prompt_bytes;
use crate::provider::{MediaLinks, outward, window};
use crate::terms::{Endpoint, Metered};

/// Fields that a model reads, over all endpoints.
const PROMPT_FIELDS: [&str; 8] = [
    "messages",
    "prompt",
    "input",
    "instructions",
    "tools",
    "functions",
    "query",
    "documents",
];

/// Values in a request's JSON: each takes far more memory than its bytes.
const MAX_ITEMS: usize = 1_000_000;

/// A second of sound at 128 kbit/s.
const SOUND_BYTES: u64 = 16_000;

/// Images of one request at most: OpenAI's own limit.
const MAX_IMAGES: u64 = 10;

/// What the backend is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) endpoint: Endpoint,
    /// The model, as the consumer named it.
    pub(super) model: String,
    /// Whether the answer is to come in events.
    pub(super) stream: bool,
    /// Of the body as the consumer sent it.
    pub(super) sha256: String,
    /// Bytes of text in the prompt.
    pub(super) prompt_bytes: u64,
    /// Answers that are to come.
    pub(super) answers: u64,
    /// The most that is billed, whatever the backend counts.
    pub(super) most: Metered,
    /// Bytes of the request.
    bytes: u64,
    /// The body for the backend.
    body: Bytes,
    headers: HeaderMap,
}

/// Checks what can be checked before the body is there. The error is for the consumer.
pub(super) fn check_head(head: &RequestHead, sold: &Sold) -> Result<Endpoint, String> {
    let endpoint = Endpoint::of_path(&head.path);
    let endpoint = endpoint.filter(|endpoint| sold.terms.endpoints.contains(endpoint));
    let Some(endpoint) = endpoint else {
        let path: String = head.path.chars().take(64).collect();
        return Err(format!("this offer does not serve {path}"));
    };
    if !sold.terms.models.contains(&head.model) {
        return Err(format!("this offer's model is {}", sold.terms.model()));
    }
    Ok(endpoint)
}

impl Ask {
    /// Checks a whole request. The error is for the consumer.
    pub(super) async fn new(head: &RequestHead, body: Bytes, sold: &Sold) -> Result<Self, String> {
        let endpoint = check_head(head, sold)?;
        let sha256 = hex::encode(Sha256::digest(&body));
        let mut ask = Self {
            endpoint,
            model: head.model.clone(),
            stream: false,
            sha256,
            prompt_bytes: 0,
            answers: 1,
            bytes: head.body_bytes,
            most: Metered {
                input: sold.terms.context,
                cached_input: sold.terms.context,
                output: sold.terms.max_output.unwrap_or(sold.terms.context),
                images: MAX_IMAGES,
                // More than anybody records at once: a day.
                seconds: 86_400,
            },
            body,
            headers: headers(head)?,
        };
        match media_type(&head.content_type).as_str() {
            "application/json" => ask.read_json(sold)?,
            "multipart/form-data" => ask.read_form(head, sold).await?,
            _ => return Err("the request is neither JSON nor a form".to_owned()),
        }
        Ok(ask)
    }

    /// A form passes as it is, so the model in it must be the backend's own.
    async fn read_form(&mut self, head: &RequestHead, sold: &Sold) -> Result<(), String> {
        if !form::takes_forms(self.endpoint) {
            return Err("the request is not JSON".to_owned());
        }
        let model = form::model(self.body.clone(), &head.content_type).await?;
        if model.as_deref() != Some(&self.model) {
            return Err("the form names another model than the head".to_owned());
        }
        if self.model != sold.offer.config.backend_model() {
            return Err(format!(
                "forms are for the model {} here",
                sold.offer.config.backend_model()
            ));
        }
        Ok(())
    }

    /// The body for the backend.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The fewest seconds of sound that the request can hold, as far as anybody can tell: at 128 kbit/s.
    pub(super) fn least_seconds(&self) -> u64 {
        match self.endpoint {
            Endpoint::Transcriptions | Endpoint::Translations => self.bytes / SOUND_BYTES,
            _ => 0,
        }
    }

    fn read_json(&mut self, sold: &Sold) -> Result<(), String> {
        if json_items(&self.body) > MAX_ITEMS {
            return Err(format!("the request has over {MAX_ITEMS} values"));
        }
        let text = std::str::from_utf8(&self.body).map_err(|_| "the request is not UTF-8")?;
        let request = serde_json::from_str(text)
            .map_err(|error| format!("the request is not JSON: {error}"))?;
        let Value::Object(mut request) = request else {
            return Err("the request is not a JSON object".to_owned());
        };
        if request.get("model").and_then(Value::as_str) != Some(&self.model) {
            return Err("the body names another model than the head".to_owned());
        }
        self.stream = request.get("stream").and_then(Value::as_bool) == Some(true);
        let config = &sold.offer.config;
        self.answers = window::answers(&request);
        self.limit_output(&mut request, sold);
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => {
                // The offer's rules are written for its own name.
                request.insert("model".to_owned(), json!(config.model_id));
                let chat = self.endpoint == Endpoint::Chat;
                if chat == request.contains_key("prompt") {
                    return Err(format!("that is no request of {}", self.endpoint));
                }
                let request = Request::of(request, config)?;
                let Usage {
                    prompt_tokens,
                    completion_tokens,
                } = request.most_billed;
                self.most.input = prompt_tokens;
                let longest = sold.terms.max_output.unwrap_or(sold.terms.context);
                let longest = longest.saturating_mul(self.answers);
                self.most.output = completion_tokens.min(longest);
                self.prompt_bytes = request.prompt_bytes;
                self.body = request.body;
            }
            _ => {
                check_all_links(&request, config.terms.media_links)?;
                let read = PROMPT_FIELDS.iter().filter_map(|field| request.get(*field));
                self.prompt_bytes = read.map(prompt_bytes).fold(0, u64::saturating_add);
                let images = request.get("n").and_then(Value::as_u64).unwrap_or(1);
                if images > MAX_IMAGES {
                    return Err(format!("n is over {MAX_IMAGES}"));
                }
                self.most.images = images;
                request.insert("model".to_owned(), json!(config.backend_model()));
                self.body = Bytes::from(Value::Object(request).to_string());
            }
        }
        Ok(())
    }

    /// Lowers the answer's limit to the offer's.
    fn limit_output(&mut self, request: &mut Map<String, Value>, sold: &Sold) {
        let most = sold.terms.max_output.unwrap_or(sold.terms.context);
        let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        if sold.terms.max_output.is_some() && !limits.iter().any(|name| request.contains_key(*name))
        {
            let own = match self.endpoint {
                Endpoint::Chat | Endpoint::Completions => Some("max_tokens"),
                Endpoint::Responses => Some("max_output_tokens"),
                _ => None,
            };
            own.and_then(|own| request.insert(own.to_owned(), json!(most)));
        }
        for field in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
            let Some(limit) = request.get_mut(field) else {
                continue;
            };
            if limit.as_u64() > Some(most) {
                *limit = json!(most);
            }
            if let Some(limit) = limit.as_u64() {
                self.most.output = self.most.output.min(limit);
            }
        }
    }

    /// Whether a stream comes in chunks, whose usage is told in one of its own.
    pub(super) fn has_chunks(&self) -> bool {
        matches!(self.endpoint, Endpoint::Chat | Endpoint::Completions)
    }

    /// The media type of the answer, where the endpoint and the request say which it must be: servers are
    /// not always right about it.
    pub(super) fn answer_type(&self) -> Option<&'static str> {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Responses if self.stream => {
                Some("text/event-stream; charset=utf-8")
            }
            Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Responses
            | Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Moderations => Some("application/json"),
            _ => None,
        }
    }

    /// Asks the backend.
    pub(super) async fn send(self, backend: Arc<Backend>) -> Result<reqwest::Response, Failure> {
        let path = self.endpoint.path();
        backend.post(path, self.headers, self.body).await
    }
}

/// Servers of these endpoints fetch links from many places of a request.
fn check_all_links(request: &Map<String, Value>, links: MediaLinks) -> Result<(), String> {
    let mut values = request.values();
    match values.any(|value| outward::is_forbidden_link(value, links)) {
        true => Err("this provider does not fetch a link in the request: send what is behind it as a data: URL".to_owned()),
        false => Ok(()),
    }
}

/// The headers that pass to the backend.
fn headers(head: &RequestHead) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let given = head.headers.iter();
    let passed = given.filter(|(name, _)| REQUEST_HEADERS.contains(&name.as_str()));
    let content_type = ("content-type".to_owned(), head.content_type.clone());
    for (name, value) in passed.chain([(&content_type.0, &content_type.1)]) {
        let parsed = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        );
        let (Ok(name), Ok(value)) = parsed else {
            return Err("a header can't be sent".to_owned());
        };
        if value.len() > MAX_HEADER_BYTES {
            return Err(format!("a header is over {MAX_HEADER_BYTES} bytes"));
        }
        headers.insert(name, value);
    }
    Ok(headers)
}

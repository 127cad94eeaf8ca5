//! A job's arguments, checked, and the backend request that they become.

use bytes::Bytes;
use derouter_sdk::wire::limits;
use serde_json::{Map, Value, json};

use super::config::OfferConfig;
use super::{outward, usage, window};
use crate::protocol::{Endpoint, Usage, public_payload};

/// The largest arguments: what one request on the 0.1 wire can carry.
const MAX_JOB_ARGS_BYTES: usize = limits::REQRES_REQUEST_BYTES;

/// Room for the usage object in the public payload.
const USAGE_ROOM_BYTES: usize = 8 * 1024;

/// What a job asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// The backend's endpoint.
    pub(super) endpoint: Endpoint,
    /// Whether the answer comes in chunks.
    pub(super) stream: bool,
    /// The signed fields, as the consumer sent them.
    pub(super) signed: Map<String, Value>,
    /// Bytes of text in the prompt.
    pub(super) prompt_bytes: u64,
    /// The most that is billed, whatever the backend counts.
    pub(super) most_billed: Usage,
    /// The body for the backend.
    pub(super) body: Bytes,
}

impl Request {
    /// Checks a job's arguments. The error is for the consumer.
    pub(super) fn parse(job_args: Option<&str>, offer: &OfferConfig) -> Result<Self, String> {
        let text = job_args.ok_or("job_args is missing: it must be the request's JSON")?;
        if text.len() > MAX_JOB_ARGS_BYTES {
            return Err(format!("the request is over {MAX_JOB_ARGS_BYTES} bytes"));
        }
        let value = serde_json::from_str(text)
            .map_err(|error| format!("the request is not JSON: {error}"))?;
        let Value::Object(request) = value else {
            return Err("the request is not a JSON object".to_owned());
        };
        Self::of(request, offer)
    }

    /// Checks a request's fields.
    pub(super) fn of(request: Map<String, Value>, offer: &OfferConfig) -> Result<Self, String> {
        check_model(&request, offer)?;
        check_prompt(&request)?;
        check_links(&request, offer)?;
        window::check(&request, offer.context_size)?;
        let stream = read_stream(&request)?;
        let signed = signed_fields(&request);
        if public_payload(&signed, &Value::Null).len() + USAGE_ROOM_BYTES
            > limits::PUBLIC_PAYLOAD_BYTES
        {
            return Err("response_format is too large to be signed".to_owned());
        }
        Ok(Self {
            endpoint: Endpoint::of(&request),
            stream,
            signed,
            prompt_bytes: prompt_bytes(&request),
            most_billed: window::most_billed(&request, offer.context_size),
            body: backend_body(request, offer, stream),
        })
    }

    /// What both sides sign.
    pub(super) fn public_payload(&self, usage: &Value) -> String {
        public_payload(&self.signed, usage)
    }
}

fn check_model(request: &Map<String, Value>, offer: &OfferConfig) -> Result<(), String> {
    match request.get("model") {
        Some(Value::String(model)) if *model == offer.model_id => Ok(()),
        Some(Value::String(_)) => Err(format!("this offer's model is {}", offer.model_id)),
        _ => Err("model is missing".to_owned()),
    }
}

fn check_prompt(request: &Map<String, Value>) -> Result<(), String> {
    match (request.get("prompt"), request.get("messages")) {
        (Some(Value::String(_) | Value::Array(_)), _) => Ok(()),
        (Some(_), _) => Err("prompt must be a text or an array".to_owned()),
        (None, Some(Value::Array(messages))) if messages.is_empty() => {
            Err("messages is empty".to_owned())
        }
        (None, Some(Value::Array(_))) => Ok(()),
        (None, Some(_)) => Err("messages must be an array".to_owned()),
        (None, None) => Err("messages or prompt is missing".to_owned()),
    }
}

fn check_links(request: &Map<String, Value>, offer: &OfferConfig) -> Result<(), String> {
    let messages = request.get("messages").unwrap_or(&Value::Null);
    if outward::has_forbidden_link(messages, offer.terms.media_links) {
        let words = "this provider does not fetch that image or file: send it inside the request, as a data: URL";
        return Err(words.to_owned());
    }
    Ok(())
}

fn read_stream(request: &Map<String, Value>) -> Result<bool, String> {
    match request.get("stream") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(stream)) => Ok(*stream),
        Some(_) => Err("stream must be true or false".to_owned()),
    }
}

/// The signed fields, and what tells the endpoint.
fn signed_fields(request: &Map<String, Value>) -> Map<String, Value> {
    let endpoint = Endpoint::of(request);
    let mut signed: Map<String, Value> = endpoint
        .signed_fields()
        .filter_map(|field| Some((field.to_owned(), request.get(field)?.clone())))
        .collect();
    if endpoint == Endpoint::Completions {
        signed.insert("prompt".to_owned(), Value::Null);
    }
    signed
}

fn prompt_bytes(request: &Map<String, Value>) -> u64 {
    let read = ["messages", "prompt", "tools", "functions"];
    read.iter()
        .filter_map(|field| request.get(*field))
        .map(usage::prompt_bytes)
        .fold(0, u64::saturating_add)
}

/// All fields pass, known or not; limits of the answer are lowered to the offer's. Streams always report usage, since money depends on it.
fn backend_body(mut request: Map<String, Value>, offer: &OfferConfig, stream: bool) -> Bytes {
    if let Some(model) = &offer.backend_model {
        request.insert("model".to_owned(), json!(model));
    }
    window::clamp(&mut request, offer.context_size);
    if stream {
        let options = request.entry("stream_options").or_insert_with(|| json!({}));
        if !options.is_object() {
            *options = json!({});
        }
        if let Some(options) = options.as_object_mut() {
            options.insert("include_usage".to_owned(), json!(true));
        }
    }
    Bytes::from(Value::Object(request).to_string())
}

#[cfg(test)]
mod tests {
    use derouter_sdk::Wei;

    use super::*;

    fn offer() -> OfferConfig {
        OfferConfig {
            model_id: "market-name".to_owned(),
            context_size: 8_192,
            description: None,
            input_token_price: Wei::ZERO,
            output_token_price: Wei::ZERO,
            max_concurrency: None,
            backend_model: Some("backend-name".to_owned()),
            terms: crate::provider::OfferTerms::default(),
        }
    }

    fn parse(request: &Value) -> Result<Request, String> {
        Request::parse(Some(&request.to_string()), &offer())
    }

    #[test]
    fn all_fields_pass_and_streams_ask_for_usage() {
        let request = parse(&json!({
            "model": "market-name", "stream": true, "user": "me", "seed": 7, "temperature": null,
            "messages": [{"role": "user", "content": "four"}],
            "stream_options": {"include_usage": false, "other": 1},
        }))
        .unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "backend-name", "stream": true, "user": "me", "seed": 7, "temperature": null,
                "messages": [{"role": "user", "content": "four"}],
                "stream_options": {"include_usage": true, "other": 1},
            })
        );
        assert_eq!(request.prompt_bytes, 4);
        assert_eq!(
            request.public_payload(&json!({"x": 1})),
            r#"{"request":{"model":"market-name","stream":true,"temperature":null},"response":{"usage":{"x":1}}}"#
        );
    }

    #[test]
    fn the_backend_gets_the_offers_limit_and_the_consumer_signs_its_own() {
        let request = parse(&json!({"model": "market-name", "prompt": "x", "max_tokens": 9_999}));
        let request = request.unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body.get("max_tokens"), Some(&json!(8_192)));
        assert_eq!(request.signed.get("max_tokens"), Some(&json!(9_999)));
        assert_eq!(request.most_billed.completion_tokens, 8_192);
    }

    #[test]
    fn a_plain_completion_is_told_by_its_prompt() {
        let request = parse(&json!({
            "model": "market-name", "prompt": "12345", "max_tokens": 9, "store": true,
        }))
        .unwrap();
        assert_eq!(request.endpoint, Endpoint::Completions);
        assert!(!request.stream);
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body.get("stream_options"), None);
        assert_eq!(
            request.public_payload(&json!({})),
            r#"{"request":{"model":"market-name","max_tokens":9},"response":{"usage":{}}}"#
        );
    }

    #[test]
    fn arguments_that_cannot_be_served_are_refused_with_the_reason() {
        let messages = json!([{"role": "user", "content": "x"}]);
        for (request, reason) in [
            (json!([]), "not a JSON object"),
            (json!({"messages": messages}), "model is missing"),
            (
                json!({"model": "else", "messages": messages}),
                "market-name",
            ),
            (json!({"model": "market-name"}), "missing"),
            (json!({"model": "market-name", "messages": []}), "empty"),
            (json!({"model": "market-name", "messages": "x"}), "array"),
            (json!({"model": "market-name", "prompt": 5}), "prompt must"),
            (
                json!({"model": "market-name", "prompt": "x", "stream": "yes"}),
                "stream must",
            ),
            (
                json!({"model": "market-name", "prompt": "x", "n": 1000}),
                "n is over",
            ),
            (
                json!({"model": "market-name", "prompt": "x".repeat(70_000)}),
                "too long",
            ),
            (
                json!({"model": "market-name", "messages": messages, "response_format": "x".repeat(300_000)}),
                "response_format",
            ),
        ] {
            let error = parse(&request).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let deep = "[".repeat(100_000);
        for text in [None, Some("{"), Some(deep.as_str())] {
            assert!(Request::parse(text, &offer()).is_err());
        }
        let long = json!({"model": "market-name", "prompt": "x".repeat(MAX_JOB_ARGS_BYTES)});
        assert!(parse(&long).unwrap_err().contains("over"));
    }
}

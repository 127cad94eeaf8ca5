//! The HTTP client of one OpenAI-compatible server.
//!
//! Sends nothing of the consumer but the request's body: the headers are ours. Follows no redirect,
//! since a key must not travel on, and uses no system proxy for a server on this machine.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::config::{Limits, Secret};
use super::health::Verdict;
use super::models::{self, ModelInfo};
use super::normalize::error_message;
use super::outward::{self, Resolver};
use crate::frames::MAX_VALUE_BYTES;
use crate::protocol::Endpoint;
use crate::protocol::v0_2::REQUEST_STATUSES;

/// What is read of an error's body: more than any message needs.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How long the body of an error may take; its status is known already.
const ERROR_BODY_LIMIT: Duration = Duration::from_secs(5);

/// The largest `/models` that is read: OpenRouter's has about 500 KiB.
const MAX_MODELS_BYTES: usize = 4 * 1024 * 1024;

/// How long the check of a backend may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Idle connections kept for the next request, for each backend.
const IDLE_CONNECTIONS: usize = 64;

/// Under the 5 s after which uvicorn (vLLM), llama.cpp and Node close an idle connection: a request
/// that meets the close fails. On this machine a new connection costs next to nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// Under the 60 s or more of hosted services, whose TLS handshakes are slow.
const TLS_IDLE_LIMIT: Duration = Duration::from_secs(50);

/// A backend's address or key can't be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackendConfigError {
    /// The base URL can't be used.
    #[error("the backend's base URL {url:?} can't be used: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// Why.
        reason: String,
    },
    /// The key holds characters that no header may hold.
    #[error("the backend's API key holds characters that can't be sent, such as a line break")]
    ApiKey,
    /// The HTTP client can't be made, for example without any TLS root certificate.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

/// Why the backend gives no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the job's record: short, without the backend's address or key.
    pub(super) message: String,
    /// For our log: without the backend's own words, which may repeat parts of the prompt.
    pub(super) detail: String,
    /// For the consumer, where that is more than the message: the backend's words about the request
    /// itself. Nothing else may keep them.
    pub(super) told: Option<String>,
    /// The backend's status, where it is about the request, or says that it is busy (429).
    pub(super) status: Option<u16>,
    /// What it says of the backend's health.
    pub(super) verdict: Verdict,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            detail: detail.into(),
            told: None,
            status: None,
            verdict: Verdict::Nothing,
        }
    }

    /// One that says so much of the backend's health.
    pub(super) fn meaning(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    /// What the consumer is told.
    pub(super) fn told(&self) -> &str {
        self.told.as_ref().unwrap_or(&self.message)
    }

    /// One that has no more to say to the log.
    pub(super) fn plain(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(message.clone(), message)
    }
}

/// A backend.
#[derive(Debug)]
pub(super) struct Backend {
    client: reqwest::Client,
    base_url: String,
    /// The base URL without credentials.
    shown: String,
    /// What no consumer may see in a message.
    hidden: Vec<String>,
    limits: Limits,
}

impl Backend {
    pub(super) fn new(
        base_url: &str,
        api_key: Option<&Secret>,
        limits: Limits,
    ) -> Result<Self, BackendConfigError> {
        Self::new_at(base_url, api_key, limits, false)
    }

    /// As [`Backend::new`]; `allow_link_local` lets it be at link-local and metadata addresses.
    pub(super) fn new_at(
        base_url: &str,
        api_key: Option<&Secret>,
        limits: Limits,
        allow_link_local: bool,
    ) -> Result<Self, BackendConfigError> {
        let url = parse_url(base_url, allow_link_local)?;
        // Local servers need no key, and configurations often say so with an empty one.
        let api_key = api_key.filter(|key| !key.expose().is_empty());
        let client = client(&url, headers(api_key)?, limits, allow_link_local)
            .map_err(|error| BackendConfigError::Client(describe(error)))?;
        let mut hidden: Vec<String> = api_key.iter().map(|key| key.expose().to_owned()).collect();
        hidden.extend(url.host_str().map(str::to_owned));
        Ok(Self {
            client,
            base_url: url.as_str().trim_end_matches('/').to_owned(),
            shown: shown(&url),
            hidden,
            limits,
        })
    }

    /// The base URL for logs.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends a request in JSON; returns once the backend has answered 2xx.
    pub(super) async fn send(&self, endpoint: Endpoint, body: Bytes) -> Result<Response, Failure> {
        let path = endpoint.path().trim_start_matches('/');
        self.post(path, HeaderMap::new(), body).await
    }

    /// Sends a request to a path behind the base URL, with some more headers; returns once the backend has
    /// answered 2xx.
    pub(super) async fn post(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let url = format!("{}/{path}", self.base_url);
        let request = self.client.post(url).headers(headers).body(body);
        let response = match timeout(self.limits.first_byte, request.send()).await {
            Err(_) => {
                let late = Failure::plain("the backend did not answer in time");
                return Err(late.meaning(Verdict::Failing));
            }
            Ok(Err(error)) => {
                let detail = describe(error);
                let failure = Failure::new("the backend can't be reached", detail);
                return Err(failure.meaning(Verdict::Failing));
            }
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// The models that the backend names.
    pub(super) async fn models(&self) -> Result<Vec<String>, String> {
        match self.probe().await? {
            Some(models) => Ok(models.into_iter().map(|model| model.id).collect()),
            None => Err("it names no models at /models".to_owned()),
        }
    }

    /// Looks whether the backend is there, and which models it names; `None` when it has no list. The
    /// error is for the operator.
    pub(super) async fn probe(&self) -> Result<Option<Vec<ModelInfo>>, String> {
        let ask = async {
            let url = format!("{}/models", self.base_url);
            let response = self.client.get(url).send().await.map_err(describe)?;
            let status = response.status();
            if status.is_success() {
                let body = read_body(response, MAX_MODELS_BYTES).await?;
                let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                if let Some(models) = models::listed(&value) {
                    return Ok(Some(models));
                }
            } else if status == StatusCode::TOO_MANY_REQUESTS {
                return Ok(None);
            } else if status.is_server_error() || status == StatusCode::UNAUTHORIZED {
                return Err(probe_refusal(status));
            }
            self.probe_without_list().await.map(|()| None)
        };
        timeout(PROBE_LIMIT, ask)
            .await
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    /// A request that every server refuses without work, as it asks for nothing. Whatever is said of it,
    /// somebody is there; only a proxy says that nobody is.
    async fn probe_without_list(&self) -> Result<(), String> {
        let url = format!("{}{}", self.base_url, Endpoint::Chat.path());
        let request = self.client.post(url).body("{}");
        let status = request.send().await.map_err(describe)?.status();
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::UNAUTHORIZED => Err(probe_refusal(status)),
            _ => Ok(()),
        }
    }

    /// The context window with which a model is really served, where the server tells: Ollama and
    /// llama.cpp beside their OpenAI paths, the others in their list.
    pub(super) async fn context_of(&self, model: &ModelInfo) -> Option<u64> {
        let root = self.base_url.strip_suffix("/v1");
        let root = root.unwrap_or(&self.base_url);
        let shown = async {
            if model.is_llama_cpp {
                let props = self.client.get(format!("{root}/props"));
                let found = models::context_in_props(&self.read_json(props).await?);
                return found.or(model.context_size);
            }
            if model.context_size.is_some() {
                return model.context_size;
            }
            let body = serde_json::json!({ "model": model.id }).to_string();
            let show = self.client.post(format!("{root}/api/show")).body(body);
            models::context_in_show(&self.read_json(show).await?)
        };
        let found = timeout(PROBE_LIMIT, shown).await.ok().flatten();
        found.or(model.context_size)
    }

    async fn read_json(&self, request: reqwest::RequestBuilder) -> Option<Value> {
        let response = request.send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = read_body(response, MAX_MODELS_BYTES).await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let read = timeout(ERROR_BODY_LIMIT, read_body(response, MAX_ERROR_BYTES)).await;
        let said = read.ok().and_then(Result::ok).and_then(|body| {
            let value: Map<String, Value> = serde_json::from_slice(&body).ok()?;
            error_message(&value)
        });
        let said = said.filter(|message| !self.hides(message));
        refusal(status, said)
    }

    /// Whether a text has something in it that no consumer may see.
    pub(super) fn hides(&self, text: &str) -> bool {
        let found = |hidden: &&String| !hidden.is_empty() && text.contains(hidden.as_str());
        self.hidden.iter().find(found).is_some()
    }
}

/// A refusal by its status, and by what the backend said.
fn refusal(status: StatusCode, said: Option<String>) -> Failure {
    let number = status.as_u16();
    let message = match number {
        number if REQUEST_STATUSES.contains(&number) => {
            let message = format!("the backend refused the request ({number})");
            return Failure {
                told: said,
                status: Some(number),
                ..Failure::new(message, format!("status {status}"))
            };
        }
        401 | 403 => "the backend does not accept this provider's credentials".to_owned(),
        429 => "the backend has too many requests".to_owned(),
        other => format!("the backend failed ({other})"),
    };
    let verdict = match number {
        429 => Verdict::Full,
        401 | 500.. => Verdict::Failing,
        _ => Verdict::Nothing,
    };
    // Its words are about our account, or may repeat the request: nobody gets them.
    let failure = Failure::new(message, format!("status {status}")).meaning(verdict);
    Failure {
        // For the consumer that is no fault, and worth another try.
        status: (number == 429).then_some(number),
        ..failure
    }
}

/// Reads a whole body of at most `limit` bytes.
async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(describe)? {
        if body.len().saturating_add(bytes.len()) > limit {
            return Err(format!("its answer is over {limit} bytes"));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Reads the body of a plain answer. Each read has its deadline.
pub(super) async fn read_answer(
    mut response: Response,
    limits: Limits,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut limit = limits.first_byte;
    loop {
        let bytes = match timeout(limit, response.chunk()).await {
            Err(_) => {
                return Err(Failure::plain(
                    "the backend stopped in the middle of its answer",
                ));
            }
            Ok(Err(error)) => {
                let detail = describe(error);
                return Err(Failure::new("the backend broke off its answer", detail));
            }
            Ok(Ok(None)) => return Ok(body),
            Ok(Ok(Some(bytes))) => bytes,
        };
        if body.len().saturating_add(bytes.len()) > MAX_VALUE_BYTES {
            return Err(Failure::plain("the backend's answer is too large"));
        }
        body.extend_from_slice(&bytes);
        limit = limits.between_chunks;
    }
}

/// An HTTP error in words, its causes too, without the URL.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn probe_refusal(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED => "it does not accept openai_api_key (401)".to_owned(),
        status => format!("it answers {status}"),
    }
}

fn parse_url(text: &str, allow_link_local: bool) -> Result<Url, BackendConfigError> {
    let refuse = |reason: &str| BackendConfigError::Url {
        url: text.to_owned(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it must begin with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it must have no ? and no #"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let url = shown(&url);
        let reason = "it must have no user and no password: give the key as openai_api_key";
        return Err(BackendConfigError::Url {
            url,
            reason: reason.to_owned(),
        });
    }
    if !allow_link_local && outward::names_forbidden(&url) {
        return Err(refuse(
            "that is a link-local or metadata address, where clouds hand out credentials. If your server really is there, set allow_link_local: true",
        ));
    }
    Ok(url)
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs without a host, and those have no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

fn headers(api_key: Option<&Secret>) -> Result<HeaderMap, BackendConfigError> {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    if let Some(key) = api_key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| BackendConfigError::ApiKey)?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

fn client(
    url: &Url,
    headers: HeaderMap,
    limits: Limits,
    allow_link_local: bool,
) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .default_headers(headers)
        .user_agent(concat!("derouter/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(limits.connect)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(TLS_IDLE_LIMIT);
    if is_local(url) {
        builder = builder.no_proxy();
    }
    if !allow_link_local {
        builder = builder.dns_resolver(Resolver);
    }
    if url.scheme() == "http" {
        // No TLS: spares reading the system's root certificates, which a small machine may lack.
        builder = builder.tls_certs_only([]).pool_idle_timeout(IDLE_LIMIT);
    }
    builder.build()
}

/// Whether a URL names this machine.
fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Reads what must be JSON.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        // Only what kind of error and where: the text itself would hold what was answered.
        let place = format!("column {}: {:?}", error.column(), error.classify());
        Failure::new("the backend's answer is not JSON", place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(url: &str, key: &str) -> Result<Backend, BackendConfigError> {
        Backend::new(url, Some(&Secret::new(key)), Limits::default())
    }

    #[test]
    fn a_base_url_that_cannot_be_used_is_named_with_its_reason() {
        for url in [
            "",
            "127.0.0.1:1",
            "ftp://x/v1",
            "http://x/v1?key=1",
            "http://",
        ] {
            let error = backend(url, "k").unwrap_err().to_string();
            assert!(error.contains(&format!("{url:?}")), "{error}");
        }
        assert!(backend("http://x", "a\nb").is_err());
    }

    #[test]
    fn neither_key_nor_address_is_shown() {
        let backend = backend("http://host.example:8000/v1/", "sk-12345").unwrap();
        assert_eq!(backend.shown(), "http://host.example:8000/v1");
        assert!(backend.hides("bad key sk-12345"));
        assert!(backend.hides("no route to host.example"));
        assert!(!backend.hides("too many tokens"));
        assert!(!format!("{:?}", Secret::new("sk-12345")).contains("sk-"));
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        for url in ["http://user:hunter2@x/v1", "http://hunter2@x/v1"] {
            let error = backend(url, "").unwrap_err().to_string();
            assert!(error.contains("openai_api_key"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn link_local_addresses_need_the_operators_word() {
        let url = "http://169.254.169.254/v1";
        let error = backend(url, "").unwrap_err().to_string();
        assert!(error.contains("allow_link_local"), "{error}");
        assert!(Backend::new_at(url, None, Limits::default(), true).is_ok());
    }

    #[test]
    fn words_about_the_request_go_to_the_consumer_and_all_others_nowhere() {
        let said = || Some("the words".to_owned());
        let about_request = refusal(StatusCode::BAD_REQUEST, said());
        assert_eq!(about_request.told(), "the words");
        assert!(!format!("{}{}", about_request.message, about_request.detail).contains("words"));
        for status in [401, 403, 429, 500, 503] {
            let about_server = refusal(StatusCode::from_u16(status).unwrap(), said());
            assert!(!format!("{about_server:?}").contains("words"), "{status}");
        }
    }

    #[test]
    fn only_servers_on_this_machine_are_local() {
        for (url, local) in [
            ("http://127.0.0.1:1/v1", true),
            ("http://[::1]:1/v1", true),
            ("http://localhost/v1", true),
            ("http://localhost.example/v1", false),
            ("http://10.0.0.1/v1", false),
        ] {
            assert_eq!(is_local(&Url::parse(url).unwrap()), local, "{url}");
        }
    }
}

//! The OpenAI endpoint that runs, for commands that ask it. It knows more than the node: how providers
//! did, what was spent, what the configuration leaves out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use derouter_openai::consumer::operator_token;
use derouter_sdk::ModuleReport;
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::market::MarketArgs;
use crate::config::node::RunConfig;
use crate::config::openai::DEFAULT_PORT;
use crate::config::place;
use crate::failure::{Failure, Kind};
use crate::text::printable;

/// The gateway is on this machine and answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looking whether one is there.
const LOOK: Duration = Duration::from_secs(2);

/// Bytes of an answer about the market.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The key that programs send, for commands too.
const API_KEY: &str = "DEROUTER_API_KEY";

/// What modules in processes of their own call themselves.
const MODULE_PROCESS: &str = "derouter openai";

/// What the gateway tells of itself among the node's modules.
pub(crate) const GATEWAY_SCHEMA: &str = "derouter.gateway/1";

/// A gateway.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    base: Url,
    client: reqwest::Client,
    key: Option<String>,
}

/// What is read of a gateway's word of itself.
#[derive(Deserialize)]
struct Told {
    schema: String,
    base_url: String,
}

/// Where the gateway is by the word of the node's modules.
pub(crate) fn told_by(modules: &[ModuleReport]) -> Option<String> {
    let states = modules.iter().filter_map(|module| module.state.as_deref());
    let mut told = states.filter_map(|state| serde_json::from_str::<Told>(state).ok());
    let gateway = told.find(|told| told.schema == GATEWAY_SCHEMA)?;
    Some(gateway.base_url)
}

impl Gateway {
    /// Where one would be: as the flag says, the environment, the node that runs, the configuration, or at
    /// the usual port. It need not be there. `None` when the node that runs has none.
    pub(crate) fn find(
        args: &MarketArgs,
        modules: &[ModuleReport],
    ) -> Result<Option<Self>, Failure> {
        let own_key = place::variable(API_KEY).and_then(|key| key.into_string().ok());
        if let Some(url) = named(args)? {
            return Self::at(&url, own_key).map(Some);
        }
        let config = RunConfig::load(args.node.config.as_deref());
        let of_file = config.as_ref().ok().and_then(of_config);
        let Some(url) = told_by(modules).or(of_file).or_else(|| usual(modules)) else {
            return Ok(None);
        };
        let of_config = config.ok().map(|config| config.data_dir);
        let data_dir = args.node.data_dir.clone().or(of_config);
        let gateway = Self::at(&url, own_key)?;
        Ok(Some(gateway.for_operator(data_dir)))
    }

    fn at(url: &str, key: Option<String>) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1");
        let base = Url::parse(base).map_err(|_| Failure::usage(format_args!("{url} is no URL")))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(LOOK)
            .build();
        let client = client
            .map_err(|error| Failure::failed(format_args!("can't make an HTTP client: {error}")))?;
        Ok(Self { base, client, key })
    }

    /// Asks as the node's owner, where this user may read the file that proves it and the gateway is on
    /// this machine: nobody else is shown that.
    fn for_operator(mut self, data_dir: Option<PathBuf>) -> Self {
        let host = self.base.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_here = address.is_ok_and(|address| address.is_loopback());
        if self.key.is_none() && is_here {
            let token = data_dir.and_then(|directory| operator_token(&directory).ok());
            self.key = token.flatten();
        }
        self
    }

    /// Its base URL, without a path.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A request for a path.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let request = self
            .client
            .request(method, format!("{}{path}", self.base()));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Asks for a view.
    pub(crate) async fn view<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let mut url = Url::parse("http://gateway/").map_err(Failure::failed)?;
        url.query_pairs_mut().extend_pairs(query);
        let path = match url.query().filter(|query| !query.is_empty()) {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let request = self.request(reqwest::Method::GET, &path);
        let answer = request.timeout(PATIENCE).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = self.body(answer).await?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| self.no_gateway())
    }

    /// Asks for a view; `None` when no gateway is there.
    pub(crate) async fn view_if_there<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, Failure> {
        match self.view(path, query).await {
            Ok(view) => Ok(Some(view)),
            Err(failure) if failure.is(Kind::NotRunning) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn body(&self, mut answer: reqwest::Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let chunk = answer.chunk().await;
            let Some(chunk) = chunk.map_err(|error| self.unreachable(&error))? else {
                return Ok(body);
            };
            if body.len().saturating_add(chunk.len()) > ANSWER_BYTES {
                return Err(self.no_gateway());
            }
            body.extend_from_slice(&chunk);
        }
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = match error.is_timeout() {
            true => "it does not answer in time",
            false => "nobody answers",
        };
        Failure::not_running(format_args!(
            "no OpenAI endpoint at {}: {why}. Start a node with an `openai.consumer` section, or say where \
             it is with `-c FILE` or `--url URL`",
            self.base()
        ))
    }

    fn no_gateway(&self) -> Failure {
        Failure::not_running(format_args!(
            "what answers at {} is no OpenAI endpoint of this version: say where that is with `-c FILE` \
             or `--url URL`",
            self.base()
        ))
    }
}

/// What a refusal means to the user, by its status and its code.
pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = told.get("error");
    let text = |key| error?.get(key)?.as_str();
    let message = text("message").map_or_else(|| status.to_string(), printable);
    Failure::of(
        kind(status.as_u16(), text("code").unwrap_or_default()),
        message,
    )
}

/// What an error event means to the user, by its code: a stream that has begun has no status for it.
pub(crate) fn failed_in_stream(error: &Value) -> Failure {
    let text = |key| error.get(key).and_then(Value::as_str);
    let message = text("message").unwrap_or("the provider failed");
    let kind = kind(502, text("code").unwrap_or_default());
    Failure::of(kind, printable(message))
}

fn kind(status: u16, code: &str) -> Kind {
    match (status, code) {
        (_, "model_not_found" | "no_provider" | "not_offered" | "price_limit_exceeded") => {
            Kind::NoOffer
        }
        (_, "context_length_exceeded") => Kind::NoOffer,
        (401 | 403, _) => Kind::NotAuthorised,
        (_, code) if code.starts_with("spending_limit") => Kind::LimitReached,
        (402, _) => Kind::LimitReached,
        (_, "starting" | "shutting_down") => Kind::NotRunning,
        (_, "blocked_unknown") => Kind::Failed,
        (504, _) | (_, "timeout") => Kind::Timeout,
        (429 | 502 | 503, _) => Kind::RemoteFailure,
        (404, "unknown_url") => Kind::NotRunning,
        (500.., _) => Kind::Failed,
        _ => Kind::Failed,
    }
}

/// A request with a body.
pub(crate) fn with_json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string())
}

/// Where the flag or the environment says that it is.
fn named(args: &MarketArgs) -> Result<Option<String>, Failure> {
    if let Some(url) = &args.url {
        return Ok(Some(url.clone()));
    }
    let node = &args.node;
    let is_told = node.config.is_some() || node.data_dir.is_some() || node.rpc.is_some();
    let Some(url) = place::variable(place::URL).filter(|_| !is_told) else {
        return Ok(None);
    };
    let url = crate::config::base_url(&url.to_string_lossy())
        .map_err(|problem| Failure::environment(format_args!("{}: {problem}", place::URL)))?;
    Ok(Some(url))
}

fn of_config(config: &RunConfig) -> Option<String> {
    let consumer = config.openai.consumer.as_ref()?;
    // Port 0 is told by the node that runs; nobody listens there.
    let address = SocketAddr::new(dialled(consumer.host), consumer.port);
    Some(format!("http://{address}"))
}

/// The usual port, unless the node that runs is known to have no gateway. One in a process of its own does
/// not say where it is.
fn usual(modules: &[ModuleReport]) -> Option<String> {
    let may_be = modules.is_empty() || modules.iter().any(|module| module.name == MODULE_PROCESS);
    may_be.then(|| format!("http://127.0.0.1:{DEFAULT_PORT}"))
}

/// That there is none.
pub(crate) fn none() -> Failure {
    Failure::not_running(
        "this node has no OpenAI endpoint: add an `openai.consumer` section to its configuration, or say where \
         one is with `--url URL`",
    )
}

/// What listens everywhere is dialled on this machine.
pub(crate) fn dialled(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_by_its_code_what_kind_of_end_it_is() {
        for (status, code, expected) in [
            (404, "model_not_found", Kind::NoOffer),
            (503, "no_provider", Kind::NoOffer),
            (402, "price_limit_exceeded", Kind::NoOffer),
            (402, "spending_limit_day", Kind::LimitReached),
            (429, "spending_limit_reserved", Kind::LimitReached),
            (401, "missing_api_key", Kind::NotAuthorised),
            (403, "model_not_allowed", Kind::NotAuthorised),
            (502, "provider_failed", Kind::RemoteFailure),
            (429, "all_providers_busy", Kind::RemoteFailure),
            (504, "timeout", Kind::Timeout),
            (503, "starting", Kind::NotRunning),
            (503, "blocked_unknown", Kind::Failed),
            (400, "", Kind::Failed),
        ] {
            assert_eq!(kind(status, code), expected, "{status} {code}");
        }
        for (code, expected) in [
            ("timeout", Kind::Timeout),
            ("spending_limit_day", Kind::LimitReached),
            ("no_provider", Kind::NoOffer),
            ("provider_failed", Kind::RemoteFailure),
        ] {
            let error = serde_json::json!({"message": "no", "code": code});
            assert!(failed_in_stream(&error).is(expected), "{code}");
        }
        let body = br#"{"error":{"message":"no\u001b[2J","code":"spending_limit_day"}}"#;
        let failure = refused(StatusCode::PAYMENT_REQUIRED, body);
        assert!(failure.is(Kind::LimitReached));
        assert!(!format!("{failure:?}").contains('\u{1b}'));
    }
}

//! What the gateway in this process knows, as pages show it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use derouter_openai::consumer::view::{LimitView, OfferView, OffersQuery, SpreadView, Viewer};
use derouter_openai::consumer::{self, KeyRules, KeyStore, operator_token, spent_by_key};
use derouter_sdk::{OfferId, PeerId, Wei, async_trait};
use derouter_web::modules::{
    Gateway, Key, KeyWish, LeftOut, Limit, MarketOffer, Measured, PastPrice, Quote, QuotedOffer,
    Standing,
};
use serde_json::Value;

use crate::failure::Failure;
use crate::text;

/// Offers that pages look at; the filter of the page looks through these.
const MOST_OFFERS: usize = 5000;

/// How long a quote may take, and a chat until its answer begins.
const QUOTE_TIME: Duration = Duration::from_secs(10);
const CHAT_TIME: Duration = Duration::from_secs(180);

/// Bytes of a quote: two hundred offers of 2 kB.
const QUOTE_BYTES: usize = 4 * 1024 * 1024;

/// Headers of an answer that pages read.
const HEADERS: [&str; 6] = [
    "x-derouter-provider",
    "x-derouter-offer",
    "x-derouter-job",
    "x-derouter-path",
    "x-derouter-cost",
    "x-derouter-estimated-cost",
];

/// The gateway of this process.
pub(super) struct Bridge {
    viewer: Viewer,
    address: SocketAddr,
    data_dir: PathBuf,
    client: reqwest::Client,
}

impl Bridge {
    pub(super) fn new(
        viewer: Viewer,
        address: SocketAddr,
        data_dir: &Path,
    ) -> Result<Self, Failure> {
        // The machine's proxies are not for this machine.
        let client = reqwest::Client::builder().no_proxy().build();
        Ok(Self {
            viewer,
            address,
            data_dir: data_dir.to_owned(),
            client: client.map_err(Failure::failed)?,
        })
    }

    fn url(&self, path: &str) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}{path}")
    }

    /// The secret by which the gateway knows its owner.
    fn token(&self) -> Result<String, String> {
        let token = operator_token(&self.data_dir).map_err(|error| error.to_string())?;
        token.ok_or_else(|| {
            "The gateway has written no secret for its owner: its log says why.".to_owned()
        })
    }

    fn keys(&self) -> KeyStore {
        KeyStore::new(&self.data_dir)
    }

    async fn ask_quote(&self, model: &str, input: u64, output: u64) -> Result<Quote, String> {
        let query = [
            ("model", model.to_owned()),
            ("in", input.to_string()),
            ("out", output.to_string()),
        ];
        let mut url =
            reqwest::Url::parse(&self.url("/derouter/quote")).map_err(|error| error.to_string())?;
        url.query_pairs_mut().extend_pairs(query);
        let asked = self
            .client
            .get(url)
            .bearer_auth(self.token()?)
            .timeout(QUOTE_TIME)
            .send()
            .await;
        let answer = asked.map_err(|error| error.to_string())?;
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        if bytes.len() > QUOTE_BYTES {
            return Err("The quote is too long.".to_owned());
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        match value.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => Err(message.to_owned()),
            None => Ok(quote(&value)),
        }
    }
}

fn word(value: &Value, key: &str) -> String {
    let text = value.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn quote(value: &Value) -> Quote {
    let list = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let offer = |it: &Value| QuotedOffer {
        provider: word(it, "provider"),
        offer: word(it, "offer"),
        cost: word(it, "cost"),
        score: it.get("score").and_then(Value::as_f64).unwrap_or(0.0),
        parts: it
            .get("parts")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, part)| Some((name.clone(), part.as_f64()?)))
            .collect(),
    };
    let out = |it: &Value| LeftOut {
        provider: word(it, "provider"),
        offer: word(it, "offer"),
        rule: word(it, "rule"),
        detail: word(it, "detail"),
    };
    Quote {
        offers: list("offers").iter().map(offer).collect(),
        left_out: list("excluded").iter().map(out).collect(),
    }
}

fn wei(text: &str) -> Wei {
    // The view writes amounts itself, so each is one.
    Wei::from_pol_text(text).unwrap_or(Wei::MAX)
}

fn measured(spread: Option<SpreadView>) -> Option<Measured> {
    let SpreadView { p50, p90, .. } = spread?;
    Some(Measured { p50, p90 })
}

fn offer(viewer: &Viewer, view: OfferView) -> Option<MarketOffer> {
    let provider: PeerId = view.provider.parse().ok()?;
    let standing = match viewer.standing(&provider) {
        consumer::Standing::Usual => Standing::Usual,
        consumer::Standing::Pinned => Standing::Pinned,
        consumer::Standing::Blocked => Standing::Blocked,
    };
    let blocked = (standing == Standing::Blocked).then(|| "you blocked its provider".to_owned());
    let own = view.path.kind == "own";
    let known = view.observed.is_some();
    let observed = view.observed.unwrap_or_default();
    Some(MarketOffer {
        provider,
        own,
        offer_id: view.offer,
        model: view.models.into_iter().next().unwrap_or_default(),
        context: view.context,
        input_price: wei(&view.prices.input),
        output_price: wei(&view.prices.output),
        features: view.features,
        quantization: view.quantization,
        region: view.region,
        description: view.description,
        first_token: measured(observed.first_token_seconds),
        speed: measured(observed.tokens_per_second),
        success: (observed.tried > 0.0).then_some(observed.success),
        uptime: known.then_some(observed.uptime),
        path: view.path.kind.replace('_', "-"),
        last_seen: view.last_seen,
        load: view.load,
        cooling: observed.cooldown_seconds.is_some(),
        excluded: blocked.or(view.excluded.map(|why| why.text)),
        standing,
    })
}

fn limit(view: LimitView) -> Limit {
    Limit {
        what: view.about,
        most: Some(wei(&view.limit)),
        spent: Some(wei(&view.spent)),
        reserved: Some(wei(&view.reserved)),
        name: view.name,
    }
}

#[async_trait]
impl Gateway for Bridge {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn wants_key(&self) -> bool {
        // An unreadable list serves nobody without a key.
        self.keys().list().map_or(true, |keys| keys.is_some())
    }

    fn problem(&self) -> Option<String> {
        self.viewer.problem()
    }

    fn offers(&self) -> Vec<MarketOffer> {
        let query = OffersQuery {
            limit: Some(MOST_OFFERS),
            ..OffersQuery::default()
        };
        let view = self.viewer.offers(&query);
        view.offers
            .into_iter()
            .filter_map(|it| offer(&self.viewer, it))
            .collect()
    }

    fn prices(&self, provider: PeerId, offer: &str) -> Vec<PastPrice> {
        let Ok(offer) = OfferId::new(offer) else {
            return Vec::new();
        };
        let prices = self.viewer.prices(&provider, &offer).into_iter();
        let shown = prices.map(|price| PastPrice {
            since: price.since,
            input: price.input,
            output: price.output,
        });
        shown.collect()
    }

    async fn quote(&self, model: &str, input: u64, output: u64) -> Result<Quote, String> {
        self.ask_quote(model, input, output).await
    }

    fn limits(&self) -> Vec<Limit> {
        self.viewer
            .spending()
            .limits
            .into_iter()
            .map(limit)
            .collect()
    }

    fn keys(&self) -> Result<Option<Vec<Key>>, String> {
        let keys = Bridge::keys(self)
            .list()
            .map_err(|error| error.to_string())?;
        let spent = spent_by_key(&self.data_dir).map_err(|error| error.to_string())?;
        let key = |record: derouter_openai::consumer::KeyRecord| Key {
            spent: spent.get(&record.id).map_or(Wei::ZERO, |it| it.total()),
            name: record.name,
            models: record.rules.models,
            per_request: record.rules.per_request,
            daily: record.rules.daily,
            total: record.rules.total,
            expires: record.rules.expires,
        };
        Ok(keys.map(|keys| keys.into_iter().map(key).collect()))
    }

    fn create_key(&self, wish: &KeyWish) -> Result<String, String> {
        let rules = KeyRules {
            models: wish.models.clone(),
            per_request: wish.per_request,
            daily: wish.daily,
            total: wish.total,
            ..KeyRules::default()
        };
        let made = Bridge::keys(self).create(&wish.name, rules, text::now());
        made.map_err(|error| error.to_string())
    }

    fn revoke_key(&self, name: &str) -> Result<(), String> {
        let revoked = Bridge::keys(self).revoke(name);
        revoked.map(drop).map_err(|error| error.to_string())
    }

    fn set_standing(&self, provider: PeerId, standing: Standing) -> Result<(), String> {
        let standing = match standing {
            Standing::Usual => consumer::Standing::Usual,
            Standing::Pinned => consumer::Standing::Pinned,
            Standing::Blocked => consumer::Standing::Blocked,
        };
        let kept = self.viewer.set_standing(provider, standing);
        kept.map_err(|error| error.to_string())
    }

    async fn chat(&self, request: bytes::Bytes) -> Response<Body> {
        let token = match self.token() {
            Ok(token) => token,
            Err(why) => return (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        };
        let asked = self
            .client
            .post(self.url("/v1/chat/completions"))
            .bearer_auth(token);
        let asked = asked
            .header(CONTENT_TYPE, "application/json")
            .body(request)
            .send();
        match tokio::time::timeout(CHAT_TIME, asked).await {
            Ok(Ok(answer)) => passed_on(answer),
            Ok(Err(error)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
            Err(_) => {
                let text = "No answer began in time.";
                (StatusCode::GATEWAY_TIMEOUT, text).into_response()
            }
        }
    }
}

/// An answer as it comes.
fn passed_on(answer: reqwest::Response) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for name in HEADERS.into_iter().chain(["content-type"]) {
        if let Some(value) = answer.headers().get(name) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value.clone());
        }
    }
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

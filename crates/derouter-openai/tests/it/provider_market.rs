//! What is on the market, and for whom: backends that come and go, models, prices, queues and lists.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use derouter_openai::protocol::{OfferPayload, PROTOCOL};
use derouter_openai::provider::prices::{Days, Factor, PriceWindow, TimeOfDay, WindowPrice};
use derouter_openai::provider::{
    self, BackendCheck, ConsumerLists, Discover, OfferTerms, ProviderConfig, RateLimits,
};
use derouter_sdk::{JobRecord, JobRefusal, PeerId, Wei};
use derouter_testkit::{Backend, BackendOptions, eventually};
use serde_json::{Value, json};

use super::provider_support::{
    Handle, MODEL, Market, TestNode, chat, config, faulty, offer, read_all,
};

/// A server whose models and health the test chooses.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    /// The answer to `/v1/models`: none is 404.
    models: Option<Value>,
    /// The answers of other paths.
    others: BTreeMap<&'static str, Value>,
    down: bool,
    /// Method, path and headers of what was asked.
    seen: Vec<(String, String, Vec<String>)>,
}

impl Fake {
    /// Its base URL.
    async fn start(&self) -> String {
        let app = Router::new().fallback(answer).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    fn lists(&self, models: &[&str]) {
        let entries = models
            .iter()
            .map(|id| json!({"id": id, "max_model_len": 4096}));
        let list = json!({"object": "list", "data": entries.collect::<Vec<_>>()});
        self.0.lock().unwrap().models = Some(list);
    }

    fn set_down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    fn seen(&self) -> Vec<(String, String, Vec<String>)> {
        self.0.lock().unwrap().seen.clone()
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().keys().map(ToString::to_string);
    let mut state = fake.0.lock().unwrap();
    let seen = (
        request.method().to_string(),
        path.clone(),
        headers.collect(),
    );
    state.seen.push(seen);
    if state.down {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let answer = match path.as_str() {
        "/v1/models" => state.models.clone(),
        "/v1/chat/completions" => {
            let choice = json!({"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Well."}});
            let usage = json!({"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20});
            Some(
                json!({"id": "c", "object": "chat.completion", "created": 0, "model": MODEL,
                "choices": [choice], "usage": usage}),
            )
        }
        path => state.others.get(path).cloned(),
    };
    match answer {
        Some(answer) => axum::Json(answer).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn discover() -> Discover {
    Discover {
        input_token_price: Wei::from_wei(1_000_000),
        output_token_price: Wei::from_wei(2_000_000),
        context_size: None,
        max_concurrency: None,
        max_offers: Some(3),
        terms: OfferTerms::default(),
    }
}

fn discovering(url: String, discover: Discover) -> ProviderConfig {
    let mut config = config(url, offer());
    config.backends[0].offers.clear();
    config.backends[0].options.discover = Some(discover);
    config
}

async fn open(config: ProviderConfig) -> Market {
    Market::open_at(Backend::start().await, config).await
}

fn payload(market: &Market, offer_id: &str) -> OfferPayload {
    let (offers, _) = market.offers().unwrap();
    let found = offers
        .iter()
        .find(|offer| offer.offer_id.as_str() == offer_id);
    OfferPayload::parse(&found.unwrap().protocol_payload).unwrap()
}

#[tokio::test]
async fn offers_leave_the_market_with_their_backend_and_come_back_with_it() {
    let market = Market::open().await;
    let address = market.backend.address();
    let Market {
        node,
        backend,
        provider,
    } = market;
    drop(backend);
    let elsewhere = Backend::start().await;
    let market = Market {
        node,
        backend: elsewhere,
        provider,
    };
    assert_eq!(market.offer_ids(), ["offer"]);
    // The jobs that fail have it looked at long before a quarter of a minute is over.
    for _ in 0..3 {
        let (_, bought) = market.buy(&chat(true)).await;
        assert_eq!(bought.service_error(), "the backend can't be reached");
    }
    market.wait_offers(&[]).await;
    let options = BackendOptions {
        address,
        ..BackendOptions::default()
    };
    let _again = Backend::start_with(options).await;
    market.wait_offers(&["offer"]).await;
    assert_eq!(market.times_provided(), 2);
    let (_, bought) = market.buy(&chat(true)).await;
    assert!(bought.epilogue().is_some());
}

#[tokio::test]
async fn a_running_answer_outlives_its_offer() {
    let market = Market::open().await;
    let mut request = chat(true);
    request["derouter_test"] = json!({"chunks": 40, "pace_ms": 20});
    let key = market.create(&request).await.unwrap();
    let node = Arc::clone(&market.node);
    let shutdown = market.provider.shutdown(Duration::from_secs(10));
    let stream = {
        let market = Market {
            node,
            backend: Backend::start().await,
            provider: provider::start(
                Arc::new(Handle(Arc::new(TestNode::default()))),
                config(market.backend.url(), offer()),
            )
            .await
            .unwrap(),
        };
        let (_, stream) = tokio::join!(shutdown, async {
            let stream = market.connect(&key).await.unwrap();
            read_all(stream).await
        });
        assert!(market.offers().is_none());
        stream
    };
    assert!(stream.epilogue().is_some());
}

#[tokio::test]
async fn nothing_is_offered_of_a_backend_that_is_not_there_at_the_start() {
    let gone = Backend::start().await;
    let (url, address) = (gone.url(), gone.address());
    drop(gone);
    let market = open(config(url, offer())).await;
    assert_eq!(market.times_provided(), 0);
    let options = BackendOptions {
        address,
        ..BackendOptions::default()
    };
    let _backend = Backend::start_with(options).await;
    market.wait_offers(&["offer"]).await;
}

#[tokio::test]
async fn an_offer_whose_model_is_not_at_the_backend_is_not_sold_unless_nobody_looks() {
    let fake = Fake::default();
    fake.lists(&["another", "test-model:latest"]);
    let url = fake.start().await;
    let mut config = config(url, offer());
    let mut missing = offer();
    missing.backend_model = Some("missing".to_owned());
    let offers = &mut config.backends[0].offers;
    offers.insert("missing".to_owned(), missing);
    let market = open(config.clone()).await;
    assert_eq!(
        market.offer_ids(),
        ["offer"],
        "the latest is meant without a tag"
    );
    config.backends[0].options.check = BackendCheck::Alive;
    let market = open(config).await;
    assert_eq!(market.offer_ids(), ["missing", "offer"]);
}

#[tokio::test]
async fn a_backend_without_a_list_is_asked_for_nothing_and_is_there() {
    let fake = Fake::default();
    let url = fake.start().await;
    let market = open(config(url.clone(), offer())).await;
    assert_eq!(market.offer_ids(), ["offer"]);
    let asked: Vec<(String, String)> = fake
        .seen()
        .into_iter()
        .map(|(method, path, _)| (method, path))
        .collect();
    let pair = |method: &str, path: &str| (method.to_owned(), path.to_owned());
    let expected = [
        pair("GET", "/v1/models"),
        pair("POST", "/v1/chat/completions"),
    ];
    assert_eq!(asked, expected);
    fake.set_down(true);
    assert!(open(config(url, offer())).await.offers().is_none());
}

#[tokio::test]
async fn every_model_that_the_backend_names_becomes_an_offer_up_to_a_number() {
    let fake = Fake::default();
    fake.lists(&["a", "b"]);
    let market = open(discovering(fake.start().await, discover())).await;
    assert_eq!(market.offer_ids(), ["a", "b"]);
    let first = payload(&market, "a");
    assert_eq!((first.model_id.as_str(), first.context_size), ("a", 4096));
    assert_eq!(first.output_token_price.wei, Wei::from_wei(2_000_000));
    let mut request = chat(false);
    request["model"] = json!("b");
    let key = market
        .create_at("b", Some(request.to_string()))
        .await
        .unwrap();
    let bought = read_all(market.connect(&key).await.unwrap()).await;
    assert!(bought.epilogue().is_some());

    fake.lists(&["a", "b", "c", "d"]);
    let market = open(discovering(fake.start().await, discover())).await;
    assert_eq!(market.offer_ids(), ["a", "b", "c"]);
}

#[tokio::test]
async fn the_windows_of_ollama_and_llama_cpp_are_asked_for_beside_the_list() {
    let fake = Fake::default();
    {
        let mut state = fake.0.lock().unwrap();
        state.models = Some(json!({"data": [{"id": "llama3.2:latest"}]}));
        let shown = json!({"parameters": "num_ctx 16384",
            "model_info": {"llama.context_length": 131_072}});
        state.others.insert("/api/show", shown);
    }
    let market = open(discovering(fake.start().await, discover())).await;
    assert_eq!(payload(&market, "llama3.2:latest").context_size, 16_384);

    let fake = Fake::default();
    {
        let mut state = fake.0.lock().unwrap();
        state.models = Some(json!({"data": [{"id": "gguf", "meta": {"n_ctx_train": 131_072}}]}));
        let props = json!({"default_generation_settings": {"n_ctx": 2_048}});
        state.others.insert("/props", props);
    }
    let market = open(discovering(fake.start().await, discover())).await;
    assert_eq!(payload(&market, "gguf").context_size, 2_048);

    // Whoever tells nothing is sold with what the operator says, or not at all.
    let fake = Fake::default();
    fake.0.lock().unwrap().models = Some(json!({"data": [{"id": "quiet"}]}));
    let url = fake.start().await;
    assert!(
        open(discovering(url.clone(), discover()))
            .await
            .offers()
            .is_none()
    );
    let said = Discover {
        context_size: Some(1_024),
        ..discover()
    };
    let market = open(discovering(url, said)).await;
    assert_eq!(payload(&market, "quiet").context_size, 1_024);
}

#[tokio::test]
async fn a_price_of_the_hour_is_announced_and_billed() {
    let mut cheap = offer();
    cheap.terms.schedule = vec![PriceWindow {
        days: Days::ALL,
        from: TimeOfDay::MIDNIGHT,
        to: TimeOfDay::MIDNIGHT,
        price: WindowPrice::Factor(Factor::new(0.5).unwrap()),
    }];
    let market = Market::open_with(cheap, provider::Limits::default()).await;
    let announced = payload(&market, "offer");
    assert_eq!(
        announced.input_token_price.wei,
        Wei::from_pol_text("5").unwrap()
    );
    let (key, bought) = market.buy(&chat(false)).await;
    let usage = derouter_openai::protocol::Usage::from_json(&bought.answer()[0]["usage"]).unwrap();
    let billed = market.completion(&key).await.balance_delta;
    assert_eq!(billed, announced.cost(&usage));
    assert!(billed < offer().payload().cost(&usage));
}

#[tokio::test]
async fn a_request_waits_for_a_slot_when_there_is_a_queue() {
    let mut single = offer();
    single.max_concurrency = Some(1);
    single.terms.max_queue = 1;
    let market = Market::open_with(single, provider::Limits::default()).await;
    let key = market.create(&faulty("stall-middle", true)).await.unwrap();
    let connection = market.connect(&key).await.unwrap();
    let request = chat(true);
    let waiting = market.create(&request);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "it waits");
    assert_eq!(
        market.create(&chat(true)).await,
        Err(JobRefusal::Busy),
        "behind it"
    );
    drop(connection);
    let key = waiting.await.unwrap();
    let bought = read_all(market.connect(&key).await.unwrap()).await;
    assert!(bought.epilogue().is_some());
}

#[tokio::test]
async fn each_consumer_has_its_own_limits_and_some_have_no_entry() {
    let (friend, stranger) = (PeerId::random(), PeerId::random());
    let backend = Backend::start().await;
    let mut single = offer();
    single.terms.max_concurrency_per_consumer = Some(1);
    let config = ProviderConfig {
        consumers: ConsumerLists {
            block: [stranger].into(),
            ..ConsumerLists::default()
        },
        rates: RateLimits {
            requests_per_minute: Some(2),
            tokens_per_minute: None,
        },
        ..config(backend.url(), single)
    };
    let market = Market::open_at(backend, config).await;
    market.ask_as(Some(stranger));
    let refused = market.create(&chat(true)).await.unwrap_err();
    assert!(matches!(refused, JobRefusal::InvalidJobArgs(why) if why.contains("does not serve")));
    market.ask_as(Some(friend));
    let key = market.create(&faulty("stall-middle", true)).await.unwrap();
    assert_eq!(
        market.create(&chat(true)).await,
        Err(JobRefusal::Busy),
        "one at a time"
    );
    market.ask_as(Some(PeerId::random()));
    assert!(
        market.create(&chat(true)).await.is_ok(),
        "another one's slot"
    );
    market.ask_as(Some(friend));
    drop(market.connect(&key).await.unwrap());
    market.failure(&key).await;
    market.buy(&chat(true)).await;
    assert_eq!(
        market.create(&chat(true)).await,
        Err(JobRefusal::Busy),
        "two a minute"
    );
}

#[tokio::test]
async fn tokens_count_against_the_minute_when_they_were_answered() {
    let backend = Backend::start().await;
    let config = ProviderConfig {
        rates: RateLimits {
            requests_per_minute: None,
            tokens_per_minute: Some(1),
        },
        ..config(backend.url(), offer())
    };
    let market = Market::open_at(backend, config).await;
    market.ask_as(Some(PeerId::random()));
    market.buy(&chat(true)).await;
    let look = async || (market.create(&chat(true)).await == Err(JobRefusal::Busy)).then_some(());
    eventually("the tokens are counted", look).await;
}

/// The price of an answer of the testkit's backend.
async fn price() -> Wei {
    let market = Market::open().await;
    let (key, _) = market.buy(&chat(false)).await;
    market.completion(&key).await.balance_delta.unwrap()
}

fn on_trial(trial: Wei) -> derouter_openai::provider::OfferConfig {
    let mut config = offer();
    config.terms.trial = Some(trial);
    config
}

#[tokio::test]
async fn a_new_consumer_pays_nothing_within_the_trial_and_then_the_whole_price() {
    let price = price().await;
    let trial = price.saturating_add(price).saturating_add(Wei::from_wei(1));
    let market = Market::open_with(on_trial(trial), provider::Limits::default()).await;
    let announced = payload(&market, "offer").trial.unwrap();
    assert_eq!(announced.wei, trial);
    for consumer in [PeerId::random(), PeerId::random()] {
        market.ask_as(Some(consumer));
        for expected in [None, None, Some(price), Some(price)] {
            let (key, bought) = market.buy(&chat(false)).await;
            assert_eq!(bought.epilogue().unwrap().balance_delta, expected);
            assert_eq!(market.completion(&key).await.balance_delta, expected);
        }
    }
    // Whoever has no name has no trial.
    market.ask_as(None);
    let (key, _) = market.buy(&chat(false)).await;
    assert_eq!(market.completion(&key).await.balance_delta, Some(price));
}

#[tokio::test]
async fn a_trial_is_remembered_over_a_restart_by_the_nodes_records() {
    let price = price().await;
    let consumer = PeerId::random();
    let before = Market::open_with(on_trial(price), provider::Limits::default()).await;
    before.ask_as(Some(consumer));
    let (key, _) = before.buy(&chat(false)).await;
    let free = before.completion(&key).await;
    assert_eq!(free.balance_delta, None);
    let record: JobRecord = serde_json::from_value(json!({
        "job_rowid": 1, "provider_job_id": key.job_id, "provider_peer_id": key.provider.to_string(),
        "consumer_peer_id": consumer.to_string(), "offer_id": "offer", "offer_snapshot_rowid": 1,
        "offer_protocol_id": PROTOCOL, "offer_payload": on_trial(price).payload().to_json(),
        "offer_active": true, "currency": 0,
        "public_payload": free.public_payload, "created_at_local": 1, "created_at_sync": 1,
    }))
    .unwrap();
    let after = Market::open_with(on_trial(price), provider::Limits::default()).await;
    after.remember(record);
    after.ask_as(Some(consumer));
    let (key, _) = after.buy(&chat(false)).await;
    assert_eq!(after.completion(&key).await.balance_delta, Some(price));
    after.ask_as(Some(PeerId::random()));
    let (key, _) = after.buy(&chat(false)).await;
    assert_eq!(after.completion(&key).await.balance_delta, None);
}

#[tokio::test]
async fn nothing_of_a_request_but_its_body_reaches_the_backend() {
    let fake = Fake::default();
    fake.lists(&[MODEL]);
    let market = open(config(fake.start().await, offer())).await;
    let mut request = chat(false);
    request["base_url"] = json!("http://169.254.169.254/");
    request["extra_headers"] = json!({"x-evil": "1", "authorization": "Bearer theirs"});
    request["path"] = json!("/v1/admin");
    market.buy(&request).await;
    let seen = fake.seen();
    let (_, path, headers) = seen.last().unwrap();
    assert_eq!(path, "/v1/chat/completions");
    for header in headers {
        let ours = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
        ];
        assert!(ours.contains(&header.as_str()), "{header}");
    }
    let mut link = chat(false);
    link["messages"][0]["content"] =
        json!([{"type": "image_url", "image_url": {"url": "http://10.0.0.1/admin"}}]);
    let refused = market.create(&link).await.unwrap_err();
    assert!(matches!(refused, JobRefusal::InvalidJobArgs(why) if why.contains("data: URL")));
}

#[tokio::test]
async fn a_redirect_of_the_backend_is_not_followed() {
    let other = Fake::default();
    let elsewhere = other.start().await;
    let app = Router::new().fallback(move || {
        let to = format!("{elsewhere}/chat/completions");
        async move { axum::response::Redirect::temporary(&to) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let market = open(config(url, offer())).await;
    let (_, bought) = market.buy(&chat(true)).await;
    assert_eq!(bought.service_error(), "the backend failed (307)");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn many_offers_are_provided_together_and_one_can_still_go() {
    let fake = Fake::default();
    let names: Vec<String> = (0..100)
        .map(|number| format!("model-{number:03}"))
        .collect();
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    fake.lists(&listed[1..]);
    let mut config = config(fake.start().await, offer());
    let offers = names.iter().map(|name| {
        let mut config = offer();
        config.model_id.clone_from(name);
        (name.clone(), config)
    });
    config.backends[0].offers = offers.collect();
    let market = open(config).await;
    assert_eq!(market.offer_ids(), listed[1..]);
    assert_eq!(market.calls(), 1);
}

//! Which provider a request goes to, what it may say about that, and what it is told.

use derouter_openai::consumer::view::OffersQuery;
use derouter_openai::consumer::{ConsumerConfig, MEASURED_FILE};
use derouter_sdk::{CreateJobError, OfferId};
use serde_json::{Value, json};

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

async fn two() -> (Gateway, [String; 2]) {
    let node = FakeNode::new();
    let both = [
        node.provider(POL, Script::plain("cheap")),
        node.provider(2 * POL, Script::plain("dear")),
    ];
    let peers = both.map(|index| node.peer(index).to_string());
    (Gateway::start(node).await, peers)
}

async fn offer_of(gateway: &Gateway, more: &Value) -> String {
    let response = gateway.chat(more).await;
    assert_eq!(response.status(), 200, "{more}");
    let offer = &response.headers()["x-derouter-offer"];
    offer.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_says_who_may_answer_and_providers_are_not_told() {
    let (gateway, [cheap, dear]) = two().await;
    assert_eq!(offer_of(&gateway, &json!({})).await, "offer-0");
    let end = dear.get(dear.len() - 10..).unwrap();
    for preferences in [
        json!({"derouter": {"only": [dear]}}),
        json!({"derouter": {"only": [end]}}),
        json!({"derouter": {"ignore": [cheap]}}),
        json!({"provider": {"order": [dear], "allow_fallbacks": false}}),
    ] {
        assert_eq!(offer_of(&gateway, &preferences).await, "offer-1");
    }
    for (_, args) in gateway.node.asked.borrow().iter() {
        assert!(
            !args.contains("derouter") && !args.contains("provider"),
            "{args}"
        );
    }
    let limited = json!({"derouter": {"ignore": [cheap], "max_price": {"prompt": "1.5"}}});
    let (status, error) = error_of(gateway.chat(&limited).await).await;
    assert_eq!(
        (status, &error["code"]),
        (402, &json!("price_limit_exceeded"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("max_price") && message.contains("1 by ignore"));
    let wrong = json!({"derouter": {"sort": "best"}});
    let (status, error) = error_of(gateway.chat(&wrong).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("derouter")));
}

#[tokio::test]
async fn a_client_that_can_only_set_headers_is_heard() {
    let (gateway, [_, dear]) = two().await;
    let send = async |name: &str, value: &str| {
        let request = gateway.http.post(gateway.url("/chat/completions"));
        let request = request.header("content-type", "application/json");
        let body = chat_request(&json!({})).to_string();
        request.header(name, value).body(body).send().await.unwrap()
    };
    let response = send("x-derouter-only", &dear).await;
    assert_eq!(response.headers()["x-derouter-offer"], "offer-1");
    let (status, _) = error_of(send("x-derouter-max-price", "0.5").await).await;
    assert_eq!(status, 402);
    let (status, error) = error_of(send("x-derouter-sort", "best").await).await;
    assert_eq!((status, &error["param"]), (400, &json!("derouter")));
}

#[tokio::test]
async fn without_fallbacks_a_failure_is_the_end() {
    let node = FakeNode::new();
    node.provider(POL, Script::refusing(CreateJobError::ProviderUnreachable));
    node.provider(2 * POL, Script::plain("never"));
    let gateway = Gateway::start(node).await;
    let alone = json!({"derouter": {"allow_fallbacks": false}});
    assert_eq!(gateway.chat(&alone).await.status(), 503);
    assert_eq!(gateway.node.asked.borrow().len(), 1);
}

#[tokio::test]
async fn an_answer_says_how_it_came_and_what_it_costs() {
    let node = FakeNode::new();
    node.provider(POL, Script::refusing(CreateJobError::ProviderBusy));
    node.provider(2 * POL, Script::plain("hello"));
    let gateway = Gateway::start(node).await;
    let response = gateway.chat(&json!({})).await;
    let headers = response.headers();
    assert_eq!(headers["x-derouter-attempts"], "2");
    // 14 tokens at 2 POL for a million.
    assert_eq!(headers["x-derouter-cost"], "0.000028");
    assert!(
        !headers.contains_key("x-derouter-path"),
        "the node does not tell"
    );

    let node = FakeNode::new();
    node.provider(POL, Script::streamed(&["hello"]));
    let gateway = Gateway::start(node).await;
    let response = gateway
        .chat(&json!({"stream": true, "max_tokens": 100}))
        .await;
    let headers = response.headers();
    assert_eq!(headers["x-derouter-attempts"], "1");
    let expected: f64 = headers["x-derouter-estimated-cost"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((0.0001..0.0002).contains(&expected), "{expected}");
}

#[tokio::test]
async fn a_quote_tells_the_price_of_a_request_and_why_each_offer_is_where_it_is() {
    let (gateway, [cheap, dear]) = two().await;
    offer_of(&gateway, &json!({})).await;
    until(&gateway.node.ended, 1).await;
    let base = gateway.running.base_url().replace("/v1", "");
    let ask = async |query: &str| {
        let url = format!("{base}/derouter/quote?{query}");
        gateway.http.get(url).send().await.unwrap()
    };
    let quote: Value = json_of(ask("model=m&in=1000&out=500").await).await;
    let offers = quote["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 2);
    assert_eq!(offers[0]["provider"], cheap.as_str());
    assert_eq!(offers[0]["cost"], "0.0015");
    assert_eq!(offers[1]["cost"], "0.003");
    assert_eq!(offers[0]["parts"]["price"], 0.0);
    assert_eq!(offers[1]["parts"]["price"], 0.693);
    assert_eq!(offers[0]["in_flight"], 0);
    assert!(offers[0]["tried"].as_f64().unwrap() > 0.9);
    let limited: Value = json_of(ask("model=m&max_price=1.5").await).await;
    assert_eq!(limited["offers"].as_array().unwrap().len(), 1);
    assert_eq!(limited["excluded"][0]["provider"], dear.as_str());
    assert_eq!(limited["excluded"][0]["rule"], "max_price");
    let long: Value = json_of(ask("model=m&in=9000").await).await;
    assert_eq!(long["excluded"][1]["rule"], "context_length");
    assert_eq!(ask("model=other").await.status(), 404);
    assert_eq!(ask("").await.status(), 400);
    let asked = gateway.node.asked.borrow().len();
    assert_eq!(asked, 1, "nothing is bought");
}

#[tokio::test]
async fn a_model_that_is_nearly_named_is_proposed() {
    let node = FakeNode::new();
    node.provider_of("meta/llama-3.2", 8192, POL, vec![Script::plain("x")]);
    let gateway = Gateway::start(node).await;
    let request = json!({"model": "llama-3.2"});
    let (status, error) = error_of(gateway.chat(&request).await).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("Did you mean meta/llama-3.2?"),
        "{message}"
    );
}

#[tokio::test]
async fn the_list_of_models_says_what_they_cost_and_who_has_them() {
    let (gateway, _) = two().await;
    let model: Value = json_of(gateway.get("/models/m").await).await;
    assert_eq!(model["context_length"], 8192);
    assert_eq!(model["providers"], 2);
    assert_eq!(model["pricing"]["prompt"], "1");
    assert_eq!(model["pricing"]["request"], "0");
}

#[tokio::test]
async fn a_denied_provider_is_never_asked() {
    let node = FakeNode::new();
    let denied = node.provider(POL, Script::plain("never"));
    node.provider(2 * POL, Script::plain("hello"));
    let mut config = ConsumerConfig::default();
    config.routing.deny_providers.insert(node.peer(denied));
    let gateway = Gateway::start_with(node, config).await;
    assert_eq!(offer_of(&gateway, &json!({})).await, "offer-1");
    let model: Value = json_of(gateway.get("/models/m").await).await;
    assert_eq!(model["providers"], 1);
}

#[tokio::test]
async fn what_answers_show_of_a_provider_is_measured() {
    let node = FakeNode::new();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let usage = derouter_openai::protocol::Usage {
        prompt_tokens: 10,
        completion_tokens: 40,
    };
    let text = "x".repeat(100);
    let steps = [prologue(), chunk(&text), Step::Gate(gate.clone())];
    let end = [chunk(&text), finish(), usage_chunk(usage), honest()];
    let mut script = Script::of(steps.into_iter().chain(end).collect());
    script.usage = usage;
    let provider = node.provider(POL, script);
    let gateway = Gateway::start(node).await;
    let quote = async || -> Value {
        let base = gateway.running.base_url().replace("/v1", "");
        let url = format!("{base}/derouter/quote?model=m");
        json_of(gateway.http.get(url).send().await.unwrap()).await
    };
    let response = gateway.chat(&json!({"stream": true})).await;
    let running = quote().await;
    assert_eq!(running["offers"][0]["in_flight"], 1);
    let delay = std::time::Duration::from_millis(100);
    tokio::time::sleep(delay).await;
    gate.notify_one();
    let (_, done) = events_of(response).await;
    assert!(done);
    assert_eq!(until(&gateway.node.ended, 1).await[0].0, provider);
    let offer = quote().await["offers"][0].clone();
    let speed = offer["tokens_per_second"].as_f64().unwrap();
    assert!((1.0..=400.0).contains(&speed), "{offer}");
    assert!(offer["first_token_seconds"].is_number(), "{offer}");
    assert!(offer["success"].as_f64().unwrap() > 0.95, "{offer}");
}

#[tokio::test]
async fn what_was_measured_is_there_after_a_restart_and_who_failed_still_comes_last() {
    let directory = tempfile::tempdir().unwrap();
    let config = || ConsumerConfig {
        data_dir: Some(directory.path().to_owned()),
        ..ConsumerConfig::default()
    };
    let node = FakeNode::new();
    let failing = node.provider(POL, Script::of(vec![prologue(), Step::Close]));
    let good = node.provider(2 * POL, Script::streamed(&["hello"]));
    let gateway = Gateway::start_with(node.clone(), config()).await;
    let (_, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
    assert!(done);
    until(&node.ended, 2).await;
    let observed = |gateway: &Gateway, provider: usize| {
        let peer = node.peer(provider).to_string();
        let offers = gateway
            .running
            .viewer()
            .offers(&OffersQuery::default())
            .offers;
        let offer = offers.into_iter().find(|offer| offer.provider == peer);
        offer.and_then(|offer| offer.observed)
    };
    let seen = observed(&gateway, good).unwrap();
    assert!(seen.first_token_seconds.is_some());
    gateway.running.shutdown().await;

    let gateway = Gateway::start_with(node.clone(), config()).await;
    let viewer = gateway.running.viewer();
    let first = viewer.offers(&OffersQuery::default()).offers.remove(0);
    let (provider, offer) = (
        first.provider.parse().unwrap(),
        OfferId::new(first.offer).unwrap(),
    );
    assert_eq!(
        viewer.prices(&provider, &offer).len(),
        1,
        "noted at the stop"
    );
    drop(viewer);
    let again = observed(&gateway, good).unwrap();
    assert_eq!(again.first_token_seconds, seen.first_token_seconds);
    assert!(
        observed(&gateway, failing)
            .unwrap()
            .cooldown_seconds
            .is_some()
    );
    let (_, done) = events_of(gateway.chat(&json!({"stream": true})).await).await;
    assert!(done);
    let asked: Vec<usize> = node
        .asked
        .borrow()
        .iter()
        .map(|(provider, _)| *provider)
        .collect();
    assert_eq!(asked, [failing, good, good], "the cheaper one cools");
    gateway.running.shutdown().await;

    // What can't be read stops nothing.
    let file = directory.path().join(MEASURED_FILE);
    std::fs::write(&file, "{").unwrap();
    let gateway = Gateway::start_with(node.clone(), config()).await;
    let newcomer = observed(&gateway, good);
    assert!(newcomer.is_none_or(|it| it.first_token_seconds.is_none()));
}

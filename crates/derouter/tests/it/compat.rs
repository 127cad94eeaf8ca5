//! Everything that a client can have against the gateway, with real nodes: the libraries that people
//! use (`libraries`), the calls that well-known programs make (`programs`), and each line of what
//! docs/clients.md promises (`wire`, `access`).

mod access;
mod libraries;
mod old;
mod programs;
mod wire;

use derouter_testkit::home::{offer, openai_provider};
use derouter_testkit::pair::wait_model;
use derouter_testkit::{Backend, NodeConfig, Pair};
use serde_json::{Value, json};

use crate::DEROUTER;

/// Models have names like this one at most hosts.
const MODEL: &str = "some-org/some-model-7b";

/// It answers one request at a time.
const NARROW: &str = "narrow-model";

const ENDPOINTS: [&str; 4] = ["chat/completions", "completions", "embeddings", "responses"];

/// Two nodes that trade both models, with what the consumer is configured besides.
async fn pair(consumer: &Value) -> Pair {
    let backend = Backend::start().await;
    let mut provider = openai_provider(&backend.url(), &[]);
    for (id, model, at_once) in [("wide", MODEL, 64), ("narrow", NARROW, 1)] {
        let mut sold = offer(model);
        sold["max_concurrency"] = json!(at_once);
        sold["announce"] = json!({"endpoints": ENDPOINTS, "features": ["tools", "reasoning"]});
        provider["offers"][id] = sold;
    }
    let selling = NodeConfig::default().with("openai", json!({"provider": provider}));
    let mut buying = NodeConfig::default().consumes();
    for (key, value) in consumer.as_object().into_iter().flatten() {
        buying.0["openai"]["consumer"][key] = value.clone();
    }
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    for model in [MODEL, NARROW] {
        wait_model(pair.url(), model).await;
    }
    pair
}

/// Two nodes, of which one can sell and the other buys.
async fn bare_pair() -> Pair {
    let buying = NodeConfig::default().consumes();
    Pair::of_nodes(
        DEROUTER,
        Backend::start().await,
        &NodeConfig::default(),
        buying,
    )
    .await
}

fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
    }}])
}

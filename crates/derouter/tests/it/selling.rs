//! What a provider sells and to whom, seen by a consumer's gateway at another node.

use derouter_testkit::home::openai_provider;
use derouter_testkit::pair::{wait_model, wait_no_model};
use derouter_testkit::{Backend, BackendOptions, NodeConfig, NodeHome, Pair, Process, http};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::DEROUTER;

const MODEL: &str = "test-model";

fn request() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50})
}

async fn ask(pair: &Pair) -> http::Answer {
    let url = format!("{}/chat/completions", pair.url());
    http::post_json(&url, &request()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_leaves_the_market_with_its_backend_and_comes_back_with_it() {
    let backend = Backend::start().await;
    let address = backend.address();
    let mut provider = openai_provider(&backend.url(), &[MODEL]);
    provider["check_backend"] = json!("models");
    let selling = NodeConfig::default().with("openai", json!({"provider": provider}));
    let elsewhere = Backend::start().await;
    let buying = NodeConfig::default().consumes();
    let pair = Pair::of_nodes(DEROUTER, elsewhere, &selling, buying).await;
    wait_model(pair.url(), MODEL).await;
    assert_eq!(ask(&pair).await.status, 200);
    drop(backend);
    while ask(&pair).await.status != 503 {
        // Jobs fail until the third has the backend looked at.
    }
    wait_no_model(pair.url(), MODEL).await;
    let options = BackendOptions {
        address,
        ..BackendOptions::default()
    };
    let _again = Backend::start_with(options).await;
    wait_model(pair.url(), MODEL).await;
    assert_eq!(ask(&pair).await.status, 200);
}

/// A provider module in a process of its own.
async fn module(home: &NodeHome, config: &Value) -> Process {
    let path = home.write("provide.json", &config.to_string());
    let mut command = Command::new(DEROUTER);
    command
        .args(["openai", "provide", "--ready-json", "-c"])
        .arg(path);
    home.environment(&mut command);
    let mut process = Process::spawn("provide", command);
    let ready = |line: &str| line.contains(r#""event":"ready""#).then_some(());
    process.wait_line("readiness", ready).await;
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_of_its_own_knows_its_consumers() {
    let (backend, elsewhere) = (Backend::start().await, Backend::start().await);
    let buying = NodeConfig::default().consumes();
    let pair = Pair::of_nodes(DEROUTER, elsewhere, &NodeConfig::default(), buying).await;
    let mut config = openai_provider(&backend.url(), &[MODEL]);
    config["rpc"] = json!({"data_dir": pair.provider_home.data_dir()});
    config["requests_per_minute"] = json!(1);
    let limited = module(&pair.provider_home, &config).await;
    wait_model(pair.url(), MODEL).await;
    assert_eq!(ask(&pair).await.status, 200);
    let busy = ask(&pair).await;
    assert!(
        busy.status >= 500 || busy.status == 429,
        "{} {}",
        busy.status,
        busy.text()
    );
    drop(limited);
    wait_no_model(pair.url(), MODEL).await;

    config["requests_per_minute"] = Value::Null;
    config["block_consumers"] = json!([pair.consumer.ready.peer_id.to_string()]);
    let _blocking = module(&pair.provider_home, &config).await;
    wait_model(pair.url(), MODEL).await;
    let refused = ask(&pair).await;
    assert!(refused.status >= 400, "{}", refused.status);
    assert!(
        refused.text().contains("does not serve this consumer"),
        "{}",
        refused.text()
    );
    assert_eq!(backend.seen().len(), 1);
}

//! What the logs say, and what they must never say.

use std::path::Path;

use derouter_testkit::home::BACKEND_KEY;
use derouter_testkit::pair::wait_model;
use derouter_testkit::{Backend, Ledger, NodeConfig, NodeHome, NodeProcess, Process, http};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";
const FAULTY: &str = "fault-500";
const SECRET: &str = "xyzzy-plugh-4711";

fn chat(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "stream": stream, "user": SECRET,
        "messages": [{"role": "user", "content": SECRET}],
    })
}

/// A node at the most talkative level of our own code.
async fn talkative(home: &NodeHome) -> NodeProcess {
    let mut command = home.command(Path::new(DEROUTER));
    command.env("RUST_LOG", "derouter=trace");
    NodeProcess::of_process(Process::spawn("talkative", command)).await
}

#[tokio::test]
async fn no_log_holds_a_prompt_or_a_key() {
    let backend = Backend::start().await;
    let selling = NodeConfig::default().provides(&backend.url(), &[MODEL, FAULTY]);
    let selling = NodeHome::new("provider", &selling);
    let provider = talkative(&selling).await;
    let buying = NodeConfig::default()
        .consumes()
        .bootstrap(provider.ready.bootstrap());
    let buying = NodeHome::new("consumer", &buying);
    let consumer = talkative(&buying).await;
    let base = consumer.ready.openai_url();
    wait_model(base, MODEL).await;
    wait_model(base, FAULTY).await;
    let url = format!("{base}/chat/completions");
    let mut ledger = Ledger::open(&provider.ready, &consumer.ready).await;
    for stream in [false, true] {
        let answer = http::post_json(&url, &chat(MODEL, stream)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        ledger.one_signed().await;
        let failed = http::post_json(&url, &chat(FAULTY, stream)).await.unwrap();
        assert!(failed.status >= 500, "{}", failed.text());
        ledger.one_failed().await;
    }
    for node in [&provider, &consumer] {
        let log = node.process().output();
        assert!(log.contains("DEBUG"), "the log is talkative");
        for secret in [SECRET, BACKEND_KEY] {
            let told = log.lines().find(|line| line.contains(secret));
            assert_eq!(told, None, "{secret} is in the log");
        }
    }
}

#[tokio::test]
async fn logs_can_be_lines_of_json() {
    let config = NodeConfig::default().with("log", json!({"format": "json"}));
    let home = NodeHome::new("json", &config);
    let node = home.start(DEROUTER).await;
    let lines = node.process().stderr();
    assert!(!lines.is_empty());
    for line in lines {
        let entry: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        assert!(
            entry["level"].is_string() && entry["timestamp"].is_string(),
            "{line}"
        );
    }
    node.terminate().await;
}

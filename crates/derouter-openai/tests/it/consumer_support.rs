//! A gateway before a played node, and what its clients read.

use std::sync::Arc;

use derouter_openai::consumer::{self, ConsumerConfig, RunningConsumer};
use serde_json::{Value, json};
use tokio::time::timeout;

pub(crate) use crate::consumer_node::*;

/// A gateway before a fake node.
pub(crate) struct Gateway {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) running: RunningConsumer,
    pub(crate) http: reqwest::Client,
}

impl Gateway {
    pub(crate) async fn start(node: Arc<FakeNode>) -> Self {
        Self::start_with(node, ConsumerConfig::default()).await
    }

    pub(crate) async fn start_with(node: Arc<FakeNode>, config: ConsumerConfig) -> Self {
        let gateway = Self::start_cold(node, config).await;
        gateway.until_ready().await;
        gateway
    }

    pub(crate) async fn start_cold(node: Arc<FakeNode>, config: ConsumerConfig) -> Self {
        let running = consumer::start(node.clone(), config).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            node,
            running,
            http,
        }
    }

    /// Waits until the gateway no longer says that it is starting.
    pub(crate) async fn until_ready(&self) {
        let asking = async {
            loop {
                // No such model: answered 404 once all is known, and no provider is asked.
                let request = json!({"model": "is it ready?", "messages": []});
                let response = self.post("/chat/completions", &request).await;
                let body: Value = json_of(response).await;
                if body["error"]["code"] != "starting" {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asking).await.expect("ready in time");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.running.base_url())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(self.url(path));
        let request = request.header("content-type", "application/json");
        let sent = request.body(body.to_string()).send();
        timeout(PATIENCE, sent).await.expect("in time").unwrap()
    }

    pub(crate) async fn chat(&self, more: &Value) -> reqwest::Response {
        self.post("/chat/completions", &chat_request(more)).await
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }
}

/// A chat for model `m` with more fields.
pub(crate) fn chat_request(more: &Value) -> Value {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// The body of an answer.
pub(crate) async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// The status and the error of an answer that must be one in OpenAI's shape.
pub(crate) async fn error_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = json_of(response).await;
    let error = body["error"].clone();
    for field in ["message", "type", "param", "code"] {
        assert!(error.get(field).is_some(), "{field} of {body}");
    }
    assert!(error["message"].is_string() && error["type"].is_string());
    (status, error)
}

/// The data of a stream's events, and whether `[DONE]` ended it.
pub(crate) async fn events_of(response: reqwest::Response) -> (Vec<Value>, bool) {
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let text = timeout(PATIENCE, response.text())
        .await
        .expect("in time")
        .unwrap();
    let mut events = Vec::new();
    let mut done = false;
    for event in text.split_terminator("\n\n") {
        assert!(!done, "nothing follows [DONE]");
        if event.starts_with(':') {
            continue;
        }
        match event.strip_prefix("data: ").unwrap() {
            "[DONE]" => done = true,
            data => events.push(serde_json::from_str(data).unwrap()),
        }
    }
    (events, done)
}

/// The text of a stream's events.
pub(crate) fn text_of(events: &[Value]) -> String {
    let texts = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    texts.collect()
}

/// What a request costs at most at 1,000,000 wei for a million tokens, one wei for each token: what the
/// gateway says when it may spend nothing.
pub(crate) async fn worst_case(more: &Value) -> u128 {
    let node = FakeNode::new();
    node.provider(1_000_000, Script::plain("hello"));
    let config = ConsumerConfig {
        limits: derouter_openai::consumer::Limits {
            total: Some(derouter_sdk::Wei::ZERO),
            ..derouter_openai::consumer::Limits::NONE
        },
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(node, config).await;
    let (_, error) = error_of(gateway.chat(more).await).await;
    let message = error["message"].as_str().unwrap();
    let (_, most) = message.split_once("may cost up to ").unwrap();
    let (most, _) = most.split_once(" POL").unwrap();
    let most = derouter_sdk::Wei::from_pol_text(most).unwrap();
    most.to_string().parse().unwrap()
}

use std::time::Duration;

use derouter_testkit::backend::answer::{self, Kind};
use derouter_testkit::{Backend, Outcome};
use reqwest::Response;
use serde_json::{Value, json};

async fn post(backend: &Backend, path: &str, body: &Value) -> Response {
    let url = format!("{}/{path}", backend.url());
    let request = reqwest::Client::new().post(url).body(body.to_string());
    request.send().await.unwrap()
}

async fn chat(backend: &Backend, body: &Value) -> Response {
    post(backend, "chat/completions", body).await
}

fn request(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "stream": stream, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Say something"}],
    })
}

/// The JSON of each event, and whether `[DONE]` came.
fn events(text: &str) -> (Vec<Value>, bool) {
    let data = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    let (done, events): (Vec<&str>, Vec<&str>) = data.partition(|data| *data == "[DONE]");
    let parsed = events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap());
    (parsed.collect(), !done.is_empty())
}

fn streamed_text(events: &[Value]) -> String {
    let contents = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    contents.collect()
}

#[tokio::test]
async fn plain_and_streamed_answers_say_the_same() {
    let backend = Backend::start().await;
    let plain = chat(&backend, &request("m", false))
        .await
        .bytes()
        .await
        .unwrap();
    let plain: Value = serde_json::from_slice(&plain).unwrap();
    let said = plain["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(said, answer::text(Kind::Chat, &request("m", false), 8));
    assert_eq!(plain["usage"]["completion_tokens"], 8);

    let streamed = chat(&backend, &request("m", true))
        .await
        .text()
        .await
        .unwrap();
    let (events, done) = events(&streamed);
    assert!(done);
    assert_eq!(streamed_text(&events), said);
    assert_eq!(events.last().unwrap()["usage"], plain["usage"]);
}

#[tokio::test]
async fn completions_and_tool_calls_and_images_are_answered() {
    let backend = Backend::start().await;
    let body = json!({"model": "m", "prompt": "once", "stream": false});
    let text = post(&backend, "completions", &body)
        .await
        .text()
        .await
        .unwrap();
    assert!(text.contains("\"text\":\"word0 word1"), "{text}");

    let mut body = request("m", true);
    body["tools"] = json!([{"type": "function", "function": {"name": "weather"}}]);
    let text = chat(&backend, &body).await.text().await.unwrap();
    let (events, _) = events(&text);
    let calls: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"].get("tool_calls"))
        .collect();
    let arguments: String = calls
        .iter()
        .filter_map(|call| call[0]["function"]["arguments"].as_str())
        .collect();
    assert_eq!(calls[0][0]["function"]["name"], "weather");
    assert_eq!(arguments, answer::TOOL_ARGUMENTS);

    let mut body = request("m", false);
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}});
    body["messages"][0]["content"] = json!([{"type": "text", "text": "what?"}, image]);
    let text = chat(&backend, &body).await.text().await.unwrap();
    assert!(text.contains("images:1"), "{text}");
}

#[tokio::test]
async fn each_fault_happens() {
    let backend = Backend::start().await;
    for (name, status) in [("500", 500), ("429", 429), ("401", 401), ("400", 400)] {
        let response = chat(&backend, &request(&format!("fault-{name}"), true)).await;
        assert_eq!(response.status().as_u16(), status);
        if status == 429 {
            assert_eq!(response.headers()["retry-after"], "7");
        }
    }
    for stream in [false, true] {
        let broken = chat(&backend, &request("fault-close-early", stream)).await;
        assert!(broken.bytes().await.is_err(), "stream {stream}");
        let ended = chat(&backend, &request("fault-end-early", stream)).await;
        let text = ended.text().await.unwrap();
        assert!(!text.is_empty() && !text.contains("[DONE]"), "{text}");
        assert!(!(stream && text.contains("stop")), "{text}");
        let no_usage = chat(&backend, &request("fault-no-usage", stream)).await;
        assert!(!no_usage.text().await.unwrap().contains("_tokens"));
        let inflated = chat(&backend, &request("fault-inflated-usage", stream)).await;
        assert!(
            inflated
                .text()
                .await
                .unwrap()
                .contains("\"completion_tokens\":8000")
        );
        let html = chat(&backend, &request("fault-content-type", stream)).await;
        assert_eq!(html.headers()["content-type"], "text/html");
        let empty = chat(&backend, &request("fault-empty", stream)).await;
        assert!(empty.bytes().await.unwrap().is_empty());
        let huge = chat(&backend, &request("fault-huge-chunk", stream)).await;
        assert!(huge.bytes().await.unwrap().len() > answer::HUGE_CHUNK_CHARS);
        let garbage = chat(&backend, &request("fault-garbage", stream)).await;
        assert!(std::str::from_utf8(&garbage.bytes().await.unwrap()).is_err());
    }
    let malformed = chat(&backend, &request("fault-malformed-sse", true)).await;
    let bytes = malformed.bytes().await.unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("[{\"delta\n"));
}

#[tokio::test]
async fn a_stalled_answer_ends_only_when_the_client_leaves_and_is_told_apart() {
    let backend = Backend::start().await;
    for fault in ["fault-stall-first", "fault-stall-middle"] {
        backend.forget();
        let body = request(fault, true);
        let waiting = async { chat(&backend, &body).await.bytes().await };
        let limit = Duration::from_millis(300);
        assert!(tokio::time::timeout(limit, waiting).await.is_err());
        let left = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::ClientLeft;
        backend.wait_seen("the client left", left).await;
    }
    backend.forget();
    chat(&backend, &request("m", true))
        .await
        .bytes()
        .await
        .unwrap();
    let answered = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::Answered;
    let seen = backend.wait_seen("an answer", answered).await;
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.header("authorization"), None);
}

//! Who and what the gateway does not serve.

use std::net::SocketAddr;
use std::time::Duration;

use derouter_openai::consumer::{self, ConsumerConfig, StartError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

async fn gateway() -> Gateway {
    let node = FakeNode::new();
    node.provider(POL, Script::plain("hello"));
    Gateway::start(node).await
}

/// Sends bytes as they are and reads the status of the answer.
async fn raw(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .unwrap();
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let gateway = gateway().await;
    let address = gateway.running.local_addr();
    let port = address.port();
    let status = async |host: String| {
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n");
        raw(address, &request).await
    };
    assert_eq!(status(format!("localhost:{port}")).await, 200);
    assert_eq!(status(format!("127.0.0.1:{port}")).await, 200);
    assert_eq!(status(format!("[::1]:{port}")).await, 200);
    assert_eq!(status(format!("evil.example:{port}")).await, 403);
    assert_eq!(status("localhost".into()).await, 403);
    assert_eq!(raw(address, "GET /v1/models HTTP/1.0\r\n\r\n").await, 403);
    let absolute =
        format!("GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    assert_eq!(raw(address, &absolute).await, 403);
}

#[tokio::test]
async fn a_configured_host_is_served() {
    let config = ConsumerConfig {
        allowed_hosts: vec!["ai.example.com".into()],
        ..ConsumerConfig::default()
    };
    let gateway = Gateway::start_with(FakeNode::new(), config).await;
    let request = "GET /v1/models HTTP/1.1\r\nHost: ai.example.com\r\n\r\n";
    assert_eq!(raw(gateway.running.local_addr(), request).await, 200);
}

#[tokio::test]
async fn a_web_page_is_refused_and_gets_no_cors_headers() {
    let gateway = gateway().await;
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let request = gateway.http.post(gateway.url("/chat/completions"));
        let response = request
            .header(name, value)
            .header("content-type", "application/json")
            .body(chat_request(&json!({})).to_string())
            .send()
            .await
            .unwrap();
        let headers = response.headers();
        assert!(
            !headers
                .keys()
                .any(|name| name.as_str().starts_with("access-control"))
        );
        assert_eq!(error_of(response).await.0, 403);
    }
    let preflight = gateway
        .http
        .request(reqwest::Method::OPTIONS, gateway.url("/chat/completions"));
    let response = preflight.send().await.unwrap();
    let headers = response.headers();
    assert!(
        !headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control"))
    );
    assert_eq!(error_of(response).await.0, 405);
    assert!(gateway.node.asked.borrow().is_empty());
}

#[tokio::test]
async fn only_json_is_taken() {
    let gateway = gateway().await;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = gateway.http.post(gateway.url("/chat/completions"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = chat_request(&json!({})).to_string();
        let response = request.body(body).send().await.unwrap();
        assert_eq!(error_of(response).await.0, 415);
    }
    assert!(gateway.node.asked.borrow().is_empty());
}

#[tokio::test]
async fn any_bearer_is_accepted_and_goes_nowhere() {
    let gateway = gateway().await;
    let request = gateway.http.post(gateway.url("/chat/completions"));
    let response = request
        .bearer_auth("sk-secret")
        .header("content-type", "application/json; charset=utf-8")
        .body(chat_request(&json!({})).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let asked = gateway.node.asked.borrow().clone();
    assert!(!asked[0].1.contains("sk-secret"));
}

#[tokio::test]
async fn other_urls_and_methods_are_refused_in_openai_shape() {
    let gateway = gateway().await;
    let (status, error) = error_of(gateway.get("/fine_tuning/jobs").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("unknown_url")));
    let (status, _) = error_of(gateway.get("/chat/completions").await).await;
    assert_eq!(status, 405);
    let (status, _) = error_of(gateway.post("/models", &json!({})).await).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_bad_body_is_400() {
    let gateway = gateway().await;
    for body in ["", "{", "[]", "\"x\"", r#"{"messages": []}"#] {
        let request = gateway.http.post(gateway.url("/chat/completions"));
        let request = request.header("content-type", "application/json");
        let response = request.body(body).send().await.unwrap();
        let (status, error) = error_of(response).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn a_request_that_nobody_could_be_sent_is_413() {
    let gateway = gateway().await;
    for bytes in [33 << 20, 40 << 20] {
        let content = "x".repeat(bytes);
        let request = json!({"messages": [{"role": "user", "content": content}]});
        let (status, error) = error_of(gateway.chat(&request).await).await;
        assert_eq!((status, &error["code"]), (413, &json!("request_too_large")));
    }
    assert!(gateway.node.asked.borrow().is_empty());
}

#[tokio::test]
async fn a_body_that_never_comes_is_408() {
    let mut config = ConsumerConfig::default();
    config.deadlines.request_body = Duration::from_millis(50);
    let gateway = Gateway::start_with(FakeNode::new(), config).await;
    let address = gateway.running.local_addr();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    );
    assert_eq!(raw(address, &request).await, 408);
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let gateway = gateway().await;
    let config = ConsumerConfig {
        port: gateway.running.local_addr().port(),
        ..ConsumerConfig::default()
    };
    let error = consumer::start(FakeNode::new(), config).await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }));
    let text = error.to_string();
    let address = gateway.running.local_addr().to_string();
    assert!(text.contains(&address) && text.contains("in use"), "{text}");
}

#[tokio::test]
async fn more_requests_than_the_gateway_runs_are_told_to_come_back() {
    let node = FakeNode::new();
    let never = Step::Gate(std::sync::Arc::default());
    node.provider(1, Script::of(vec![prologue(), never]));
    let gateway = Gateway::start(node).await;
    let request = json!({"max_tokens": 1});
    let waiting = (0..512).map(|_| gateway.chat(&request));
    let waiting = futures::future::join_all(waiting);
    tokio::select! {
        _ = waiting => panic!("they wait for ever"),
        () = async {
            until(&gateway.node.asked, 512).await;
            let response = gateway.chat(&json!({"max_tokens": 1})).await;
            assert!(response.headers().contains_key("retry-after"));
            let body: Value = json_of(response).await;
            assert_eq!(body["error"]["code"], "gateway_full");
        } => {}
    }
}

//! What docs/clients.md promises of who is served and what others are told, line by line, as plain HTTP
//! against real nodes.

use derouter_testkit::{Pair, Process, eventually, http};
use reqwest::Method;
use serde_json::{Value, json};

use super::wire::{chat, expect_error, post, with};
use super::{MODEL, NARROW};
use crate::DEROUTER;

const PAGE: &str = "https://chat.example.org";

async fn errors_have_openais_shape(pair: &Pair) {
    expect_error(&post(pair, &json!({"model": MODEL})).await, 400, None);
    expect_error(
        &post(pair, &with(chat(), &json!({"model": "none"}))).await,
        404,
        Some("model_not_found"),
    );
    for (status, told) in [
        (400, 400),
        (404, 404),
        (409, 409),
        (413, 413),
        (422, 422),
        (500, 502),
        (401, 502),
    ] {
        let body = with(chat(), &json!({"derouter_test": {"status": status}}));
        let answer = post(pair, &body).await;
        let code = (told == 502).then_some("provider_failed");
        expect_error(&answer, told, code);
    }
    let slow = json!({"model": NARROW, "stream": true, "messages": [{"role": "user", "content": "Go on"}],
        "derouter_test": {"chunks": 100_000, "pace_ms": 20}});
    let mut holding = http::stream(&format!("{}/chat/completions", pair.url()), &slow)
        .await
        .unwrap();
    holding.next().await.unwrap().unwrap();
    let busy = post(pair, &with(chat(), &json!({"model": NARROW}))).await;
    expect_error(&busy, 429, Some("all_providers_busy"));
    assert_eq!(busy.header("retry-after"), Some("5"));
}

/// A request of any kind, with these headers.
async fn ask(pair: &Pair, method: Method, headers: &[(&str, &str)]) -> http::Answer {
    let url = format!("{}/chat/completions", pair.url());
    let mut request = reqwest::Client::new().request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(chat().to_string()).send().await.unwrap();
    http::Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn who_is_let_in(pair: &Pair, page_is_allowed: bool) {
    for host in ["evil.test", "127.0.0.1", "127.0.0.1.evil.test:80", ""] {
        let answer = ask(pair, Method::POST, &[JSON, ("host", host)]).await;
        assert!(
            matches!(answer.status, 400 | 403),
            "{host}: {}",
            answer.text()
        );
    }
    let port = pair
        .url()
        .rsplit(':')
        .next()
        .unwrap()
        .trim_end_matches("/v1")
        .to_owned();
    let local = format!("localhost:{port}");
    assert_eq!(
        ask(pair, Method::POST, &[JSON, ("host", &local)])
            .await
            .status,
        200
    );
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let answer = ask(pair, Method::POST, &[("content-type", content_type)]).await;
        expect_error(&answer, 415, Some("unsupported_content_type"));
    }
    let charset = ("content-type", "application/json; charset=utf-8");
    assert_eq!(ask(pair, Method::POST, &[charset]).await.status, 200);

    let preflight = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type,x-stainless-os",
        ),
    ];
    let answer = ask(pair, Method::OPTIONS, &preflight).await;
    let page = ask(pair, Method::POST, &[JSON, ("origin", PAGE)]).await;
    let allowed = answer.header("access-control-allow-origin");
    if page_is_allowed {
        assert_eq!((answer.status, allowed), (204, Some(PAGE)));
        let headers = answer.header("access-control-allow-headers").unwrap();
        assert!(headers.contains("x-stainless-os"), "{headers}");
        assert_eq!(
            (page.status, page.header("access-control-allow-origin")),
            (200, Some(PAGE))
        );
    } else {
        expect_error(&answer, 403, Some("forbidden"));
        expect_error(&page, 403, Some("forbidden"));
        assert_eq!(allowed, None);
    }
    let other = ask(
        pair,
        Method::OPTIONS,
        &[("origin", "https://evil.test"), preflight[1]],
    )
    .await;
    assert_eq!(
        (other.status, other.header("access-control-allow-origin")),
        (403, None)
    );
}

async fn any_bearer_will_do(pair: &Pair) {
    let all: [&[(&str, &str)]; 6] = [
        &[JSON],
        &[JSON, ("authorization", "Bearer sk-anything")],
        &[JSON, ("authorization", "Bearer ")],
        &[JSON, ("authorization", "Bearer null")],
        &[JSON, ("x-api-key", "any")],
        &[JSON, ("api-key", "any")],
    ];
    for headers in all {
        assert_eq!(
            ask(pair, Method::POST, headers).await.status,
            200,
            "{headers:?}"
        );
    }
}

async fn keys_are_asked_for_once_there_are_any(pair: &Pair) {
    let config = pair.consumer_home.config_path();
    let create = [
        "token",
        "create",
        "ci",
        "--models",
        "llama*",
        "-c",
        config.to_str().unwrap(),
    ];
    let made = Process::run("token", DEROUTER, &create).exit().await;
    let key = made.stdout.trim().to_owned();
    eventually("keys are needed", async || {
        let status = ask(pair, Method::POST, &[JSON]).await.status;
        (status == 401).then_some(())
    })
    .await;
    let bearer = format!("Bearer {key}");
    for (headers, status, code) in [
        (vec![JSON], 401, "missing_api_key"),
        (
            vec![JSON, ("authorization", "Bearer sk-anything")],
            401,
            "invalid_api_key",
        ),
        (
            vec![JSON, ("authorization", bearer.as_str())],
            403,
            "model_not_allowed",
        ),
        (
            vec![JSON, ("x-api-key", key.as_str())],
            403,
            "model_not_allowed",
        ),
    ] {
        expect_error(&ask(pair, Method::POST, &headers).await, status, Some(code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_are_served_who_may_be_and_others_are_told_why_not() {
    let pair = super::pair(&Value::Null).await;
    who_is_let_in(&pair, false).await;
    any_bearer_will_do(&pair).await;
    errors_have_openais_shape(&pair).await;
    keys_are_asked_for_once_there_are_any(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_served_that_the_configuration_names() {
    let server = json!({"host": "127.0.0.1", "port": 0, "allowedOrigins": [PAGE]});
    let limits = json!({"request": {"$pol": "0.0000001"}});
    let pair = super::pair(&json!({"server": server})).await;
    who_is_let_in(&pair, true).await;
    drop(pair);
    let poor = super::pair(&json!({"limits": limits})).await;
    expect_error(
        &post(&poor, &chat()).await,
        402,
        Some("spending_limit_request"),
    );
}

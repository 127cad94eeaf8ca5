//! What docs/clients.md promises of streams and answers, line by line, as plain HTTP against real nodes.

use derouter_testkit::{Pair, http};
use serde_json::{Value, json};

use super::MODEL;

pub(super) fn chat() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]})
}

pub(super) fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

/// A streamed chat whose backend sends these events.
fn sent(events: &Value) -> Value {
    with(
        chat(),
        &json!({"stream": true, "derouter_test": {"events": events}}),
    )
}

pub(super) async fn post(pair: &Pair, body: &Value) -> http::Answer {
    let url = format!("{}/chat/completions", pair.url());
    http::post_json(&url, body).await.unwrap()
}

/// The events of a stream, each of its lines of data JSON by itself, and `[DONE]` the last.
async fn events(pair: &Pair, body: &Value) -> Vec<Value> {
    let answer = post(pair, body).await;
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    let content_type = answer.header("content-type").unwrap();
    assert!(
        content_type.starts_with("text/event-stream"),
        "{content_type}"
    );
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(':'));
    let data: Vec<&str> = lines
        .map(|line| {
            line.strip_prefix("data: ")
                .unwrap_or_else(|| panic!("{line}: {text}"))
        })
        .collect();
    let (_, chunks) = data.split_last().unwrap();
    let parsed = chunks.iter().map(|line| serde_json::from_str(line));
    parsed
        .collect::<Result<_, _>>()
        .unwrap_or_else(|_| panic!("{text}"))
}

fn choice(delta: &Value, finish_reason: &Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})
}

fn usage() -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
}

#[track_caller]
pub(super) fn expect_error(answer: &http::Answer, status: u16, code: Option<&str>) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{text}"
    );
    let body = answer.json();
    let error = body["error"]
        .as_object()
        .unwrap_or_else(|| panic!("{text}"));
    let mut names: Vec<&str> = error.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "message", "param", "type"], "{text}");
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{text}"
    );
    assert_eq!(error["code"].as_str(), code, "{text}");
}

async fn models_are_listed(pair: &Pair) {
    let list = http::get(&format!("{}/models", pair.url()))
        .await
        .unwrap()
        .json();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    for model in models {
        assert!(
            model["id"].is_string() && model["owned_by"].is_string(),
            "{model}"
        );
        assert!(
            model["created"].is_u64() && model["object"] == "model",
            "{model}"
        );
    }
    for id in [MODEL.to_owned(), MODEL.replace('/', "%2F")] {
        let one = http::get(&format!("{}/models/{id}", pair.url()))
            .await
            .unwrap();
        assert_eq!(one.json()["id"], MODEL, "{}", one.text());
    }
    let none = http::get(&format!("{}/models/no/such", pair.url()))
        .await
        .unwrap();
    expect_error(&none, 404, Some("model_not_found"));
}

pub(super) async fn each_line_of_data_is_json_and_done_is_last(pair: &Pair) {
    let split = "data: {\"choices\": [{\"index\": 0,\ndata: \"delta\": {\"content\": \"a\"}}]}\n\n";
    let tight = "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\r\n\r\n";
    let named = "event: chunk\nid: 1\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    for end in ["data: [DONE]\n\n", ""] {
        let chunks = events(
            pair,
            &sent(&json!([": a comment\n\n", split, tight, named, end])),
        )
        .await;
        let texts: Vec<&str> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .filter(|text| !text.is_empty())
            .collect();
        assert_eq!(texts, ["a", "b"]);
    }
}

pub(super) async fn roles_and_reasons_are_always_there(pair: &Pair) {
    let bare = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
    let twice = choice(&json!({"role": "assistant", "content": "b"}), &Value::Null);
    let end = choice(&json!({}), &json!("length"));
    let chunks = events(pair, &sent(&json!([bare, twice, end]))).await;
    let roles: Vec<bool> = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant")
        .collect();
    assert_eq!(roles, [true, false, false], "{chunks:?}");
    for chunk in &chunks {
        assert!(
            chunk["choices"][0].get("finish_reason").is_some(),
            "{chunk}"
        );
    }
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );

    // A server that never says why it ends, but what was used.
    let text = choice(&json!({"role": "assistant", "content": "a"}), &Value::Null);
    let alone = json!({"id": "c", "choices": [], "usage": usage()});
    let chunks = events(pair, &sent(&json!([text, alone]))).await;
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop", "{chunks:?}");
    assert_eq!(last["id"], "c", "{chunks:?}");
}

pub(super) async fn usage_comes_alone_and_for_those_who_ask(pair: &Pair) {
    let text = choice(&json!({"role": "assistant", "content": "a"}), &Value::Null);
    let mut end = choice(&json!({}), &json!("stop"));
    let alone = json!({"id": "c", "choices": [], "usage": usage()});
    let mut beside = end.clone();
    beside["usage"] = usage();
    let bare = json!({"usage": usage()});
    end["usage"] = Value::Null;
    for told in [
        json!([text, end, alone]),
        json!([text, beside]),
        json!([text, end, bare]),
    ] {
        let without = events(pair, &sent(&told)).await;
        assert!(
            without.iter().all(|chunk| chunk.get("usage").is_none()),
            "{without:?}"
        );
        assert!(
            without.iter().all(|chunk| chunk["choices"][0].is_object()),
            "{without:?}"
        );
        let asking = with(
            sent(&told),
            &json!({"stream_options": {"include_usage": true}}),
        );
        let asked = events(pair, &asking).await;
        let (last, before) = asked.split_last().unwrap();
        assert_eq!(last["choices"], json!([]), "{asked:?}");
        assert_eq!(last["usage"], usage(), "{asked:?}");
        assert!(
            before.iter().all(|chunk| !chunk["usage"].is_object()),
            "{asked:?}"
        );
    }
}

pub(super) async fn calls_have_whole_indices_with_id_and_name_first(pair: &Pair) {
    let whole = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": "{}"}});
    let part =
        |text: &str| json!({"index": "0", "id": "a", "function": {"name": "f", "arguments": text}});
    let calls = |calls: Value| choice(&json!({"tool_calls": calls}), &Value::Null);
    let end = choice(&json!({}), &json!("tool_calls"));
    for (told, count) in [
        (json!([calls(json!([whole("a"), whole("b")])), end]), 2),
        (
            json!([calls(json!([part("{")])), calls(json!([part("}")])), end]),
            1,
        ),
    ] {
        let chunks = events(pair, &sent(&told)).await;
        let mut known: Vec<(u64, String)> = Vec::new();
        let deltas = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array());
        for call in deltas.flatten() {
            let index = call["index"].as_u64().unwrap_or_else(|| panic!("{call}"));
            let arguments = call["function"]["arguments"].as_str().unwrap();
            if let Some((_, so_far)) = known.iter_mut().find(|(other, _)| *other == index) {
                assert!(
                    call.get("id").is_none() && call["function"].get("name").is_none(),
                    "{call}"
                );
                so_far.push_str(arguments);
                continue;
            }
            assert!(
                call["id"].is_string() && call["type"] == "function",
                "{call}"
            );
            assert_eq!(call["function"]["name"], "f", "{call}");
            known.push((index, arguments.to_owned()));
        }
        let right: Vec<(u64, String)> = (0..count).map(|index| (index, "{}".to_owned())).collect();
        assert_eq!(known, right, "{chunks:?}");
    }
}

async fn unknown_fields_and_reasoning_pass(pair: &Pair) {
    let more = json!({"new_field": {"x": [1, null]}, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": true}});
    let thought = json!({"role": "assistant", "content": "a", "reasoning_content": "hm", "reasoning": "so", "new_part": 1});
    let mut first = choice(&thought, &Value::Null);
    first["new_name"] = json!({"y": 1.5});
    let body = with(
        sent(&json!([first, choice(&json!({}), &json!("stop"))])),
        &more,
    );
    let chunks = events(pair, &body).await;
    assert_eq!(chunks.first(), Some(&first), "as the backend wrote it");
    let seen = pair.backend.seen().pop().unwrap();
    for (key, value) in body.as_object().unwrap() {
        assert_eq!(seen.body[key], *value, "{key}");
    }

    let message = json!({"role": "assistant", "content": "a", "reasoning_content": "hm", "reasoning": "so", "new_part": 1});
    let fields = json!({"new_name": {"y": 1.5},
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "new": true}]});
    let plain = post(
        pair,
        &with(chat(), &json!({"derouter_test": {"fields": fields}})),
    )
    .await;
    for (key, value) in fields.as_object().unwrap() {
        assert_eq!(plain.json()[key], *value, "{}", plain.text());
    }
}

async fn headers_about_the_answer_reach_the_backend_and_no_others(pair: &Pair) {
    let url = format!("{}/chat/completions", pair.url());
    let request = reqwest::Client::new().post(url).body(chat().to_string());
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("openai-beta", "assistants=v2"),
        ("anthropic-beta", "tools-2024-04-04"),
        ("authorization", "Bearer consumer-secret"),
        ("x-stainless-os", "Linux"),
        ("cookie", "secret=1"),
        ("openai-organization", "org-secret"),
    ];
    let add = |request: reqwest::RequestBuilder, (name, value)| request.header(name, value);
    let request = headers.into_iter().fold(request, add);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = pair.backend.seen().pop().unwrap();
    for (name, value) in headers.into_iter().take(4) {
        assert_eq!(seen.header(name), Some(value));
    }
    for name in ["x-stainless-os", "cookie", "openai-organization"] {
        assert_eq!(seen.header(name), None);
    }
    assert!(!format!("{seen:?}").contains("consumer-secret"));
}

pub(super) async fn errors_in_the_middle_are_events(pair: &Pair) {
    let text = choice(&json!({"role": "assistant", "content": "a"}), &Value::Null);
    let error = json!({"error": {"message": "out of memory", "type": "server_error"}});
    for told in [
        json!([text, error]),
        json!([text]),
        json!([text, "data: {\n\n"]),
    ] {
        let mut body = sent(&told);
        // So that the first has been passed on when the second comes.
        body["derouter_test"]["pace_ms"] = json!(300);
        let answer = post(pair, &body).await;
        let shown = answer.text();
        assert_eq!(answer.status, 200, "{shown}");
        let last = shown.trim_end().lines().next_back().unwrap();
        let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        let error = last["error"]
            .as_object()
            .unwrap_or_else(|| panic!("{shown}"));
        for name in ["message", "type", "param", "code"] {
            assert!(error.contains_key(name), "{shown}");
        }
        assert!(!shown.contains("[DONE]"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_answers_are_what_openais_would_be() {
    let pair = super::pair(&Value::Null).await;
    models_are_listed(&pair).await;
    each_line_of_data_is_json_and_done_is_last(&pair).await;
    roles_and_reasons_are_always_there(&pair).await;
    usage_comes_alone_and_for_those_who_ask(&pair).await;
    calls_have_whole_indices_with_id_and_name_first(&pair).await;
    unknown_fields_and_reasoning_pass(&pair).await;
    headers_about_the_answer_reach_the_backend_and_no_others(&pair).await;
    errors_in_the_middle_are_events(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_hears_that_the_answer_still_comes() {
    let pair = super::pair(&Value::Null).await;
    let stalling = json!({"stream": true, "derouter_test": {"fault": "stall-middle"}});
    let url = format!("{}/chat/completions", pair.url());
    let mut stream = http::stream(&url, &with(chat(), &stalling)).await.unwrap();
    let mut text = String::new();
    while !text.ends_with("\n\n: keep-alive\n\n") {
        let piece = stream.next().await.unwrap();
        text += &piece.unwrap_or_else(|| panic!("it ended: {text}"));
    }
    assert!(text.contains("word0 "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_without_its_answer_when_that_is_long_in_coming() {
    let timeouts = json!({"begin_stream": 0.3, "first_token": 3});
    let pair = super::pair(&json!({"timeouts": timeouts})).await;
    let slow = json!({"stream": true, "derouter_test": {"chunks": 2, "pace_ms": 600}});
    let answer = post(&pair, &with(chat(), &slow)).await;
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(answer.header("x-derouter-provider"), None);
    assert!(text.starts_with(": keep-alive\n\ndata: "), "{text}");
    assert!(
        text.contains("word1 ") && text.ends_with("data: [DONE]\n\n"),
        "{text}"
    );

    let stuck = json!({"stream": true, "derouter_test": {"fault": "stall-first"}});
    let answer = post(&pair, &with(chat(), &stuck)).await;
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    let error = text.strip_prefix(": keep-alive\n\ndata: ").unwrap();
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["code"], "timeout", "{error}");

    // In one piece, it waits for its status.
    let stuck = json!({"stream": false, "derouter_test": {"chunks": 2, "pace_ms": 500}});
    let answer = post(&pair, &with(chat(), &stuck)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("x-derouter-provider").is_some());
}

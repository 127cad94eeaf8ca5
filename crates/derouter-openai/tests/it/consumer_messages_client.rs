//! The `anthropic` package for Python as a client of the gateway.

use serde_json::{Value, json};

use crate::client::{Client, Language};
use crate::consumer_messages::messages_request;
use crate::consumer_support::*;

const POL: u128 = 1_000_000_000_000_000_000;

/// A gateway before one provider that answers each request with another script.
async fn scene(scripts: Vec<Script>) -> Option<(Gateway, Client)> {
    let node = FakeNode::new();
    node.provider_of("m", 8192, POL, scripts);
    let gateway = Gateway::start(node).await;
    let client = Client::start(Language::Python, &gateway.running.base_url())?;
    Some((gateway, client))
}

fn chunk_of(delta: &Value, finish_reason: &Value) -> Step {
    Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}),
    )
}

/// An answer that thinks, says something and calls two tools.
fn thoughtful() -> Script {
    let call = |index: u64, id: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": "weather", "arguments": ""}});
    let more = |index: u64, text: &str| json!({"index": index, "function": {"arguments": text}});
    let deltas = [
        json!({"role": "assistant", "content": "", "reasoning_content": "Which cities?"}),
        json!({"content": "I look."}),
        json!({"content": "", "tool_calls": [call(0, "call_a")]}),
        json!({"content": "", "tool_calls": [more(0, "{\"city\":")]}),
        json!({"content": "", "tool_calls": [more(0, "\"Paris\"}"), call(1, "call_b")]}),
        json!({"content": "", "tool_calls": [more(1, "{\"city\":\"Rome\"}")]}),
    ];
    let mut steps = vec![prologue()];
    steps.extend(deltas.iter().map(|delta| chunk_of(delta, &Value::Null)));
    steps.push(chunk_of(&json!({"content": ""}), &json!("tool_calls")));
    steps.extend([usage_chunk(USAGE), honest()]);
    Script::of(steps)
}

fn weather() -> Value {
    json!({"tools": [{"name": "weather", "description": "The weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048})
}

#[tokio::test]
async fn anthropics_package_gets_plain_and_streamed_messages() {
    let scripts = vec![
        Script::plain("hello"),
        Script::streamed(&["hel", "lo"]),
        Script::streamed(&["hel", "lo"]),
        Script::plain("hello"),
    ];
    let Some((gateway, mut client)) = scene(scripts).await else {
        return;
    };
    let request = messages_request(&json!({}));
    let plain = client.good("messages", &request).await;
    let streamed = messages_request(&json!({"stream": true}));
    let events = client.good("messages", &streamed).await;
    let joined = client.good("messages_helper", &request).await;
    for message in [&plain, &joined] {
        assert_eq!(message["content"][0]["text"], "hello", "{message}");
        assert_eq!(message["stop_reason"], "end_turn");
        assert_eq!(message["role"], "assistant");
        assert_eq!(message["usage"]["input_tokens"], 10);
        assert_eq!(message["usage"]["output_tokens"], 4);
    }
    let types: Vec<_> = events.as_array().unwrap().iter().collect();
    assert_eq!(types.first().unwrap()["type"], "message_start");
    assert_eq!(types.last().unwrap()["type"], "message_stop");
    let count = client
        .good(
            "count_tokens",
            &json!({"model": "m", "messages": request["messages"]}),
        )
        .await;
    assert!(count["input_tokens"].as_u64().unwrap() > 0);
    // The same gateway, by its other name.
    let chat = client.good("chat", &chat_request(&json!({}))).await;
    assert_eq!(chat["choices"][0]["message"]["content"], "hello");
    let ended = until(&gateway.node.ended, 4).await;
    assert!(
        ended
            .iter()
            .all(|(_, ended)| matches!(ended, Ended::Completed(_)))
    );
}

#[tokio::test]
async fn anthropics_package_thinks_and_calls_tools() {
    let scripts = vec![thoughtful(), Script::plain("Sunny.")];
    let Some((gateway, mut client)) = scene(scripts).await else {
        return;
    };
    let request = messages_request(&weather());
    let message = client.good("messages_helper", &request).await;
    assert_eq!(message["stop_reason"], "tool_use", "{message}");
    let content = message["content"].as_array().unwrap();
    assert_eq!(content[0]["thinking"], "Which cities?");
    assert_eq!(content[1]["text"], "I look.");
    assert_eq!(content[2]["id"], "call_a");
    assert_eq!(content[2]["input"], json!({"city": "Paris"}));
    assert_eq!(content[3]["input"], json!({"city": "Rome"}));

    // What the package made of the answer is what it sends back.
    let mut next = request.clone();
    let results = json!([
        {"type": "tool_result", "tool_use_id": "call_a", "content": "sun"},
        {"type": "tool_result", "tool_use_id": "call_b", "content": [{"type": "text", "text": "rain"}], "is_error": true},
    ]);
    next["messages"] = json!([request["messages"][0], {"role": "assistant", "content": content},
        {"role": "user", "content": results}]);
    let answer = client.good("messages", &next).await;
    assert_eq!(answer["content"][0]["text"], "Sunny.");
    let asked = until(&gateway.node.asked, 2).await;
    let sent: Value = serde_json::from_str(&asked[1].1).unwrap();
    assert_eq!(sent["reasoning_effort"], "low");
    assert_eq!(sent["tools"][0]["function"]["name"], "weather");
    let messages = &sent["messages"];
    assert_eq!(messages[1]["content"], "I look.");
    assert_eq!(
        messages[1]["tool_calls"][1]["function"]["arguments"],
        "{\"city\":\"Rome\"}"
    );
    assert_eq!(
        messages[2],
        json!({"role": "tool", "tool_call_id": "call_a", "content": "sun"})
    );
    assert_eq!(messages[3]["content"], "Error: rain");
}

#[tokio::test]
async fn anthropics_package_raises_the_right_errors() {
    let broken = Script::of(vec![prologue(), chunk("hello"), Step::Close]);
    let Some((_gateway, mut client)) = scene(vec![broken]).await else {
        return;
    };
    let streamed = messages_request(&json!({"stream": true}));
    let result = client.bad("messages", &streamed).await;
    assert_eq!(result["error"]["type"], "api_error", "{result}");
    assert!(!result["chunks"].as_array().unwrap().is_empty());
    for (more, class, status, kind) in [
        (
            json!({"model": "other"}),
            "NotFoundError",
            404,
            "not_found_error",
        ),
        (
            json!({"max_tokens": 0}),
            "BadRequestError",
            400,
            "invalid_request_error",
        ),
        (
            json!({"system": "x".repeat(34_000_000)}),
            "ContentTooLargeError",
            413,
            "request_too_large",
        ),
    ] {
        let result = client.bad("messages", &messages_request(&more)).await;
        let error = &result["error"];
        assert_eq!(error["class"], class, "{result}");
        assert_eq!(
            (&error["status"], &error["type"]),
            (&json!(status), &json!(kind))
        );
    }
}

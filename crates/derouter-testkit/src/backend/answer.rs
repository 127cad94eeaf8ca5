//! What a backend says: pure, so that a test can compute what it must get.

use serde_json::{Map, Value, json};

use crate::fault::{Fault, REQUEST_FIELD};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// The characters of [`Fault::HugeChunk`]: above the 256 KiB that 0.1 modules can read at once.
pub const HUGE_CHUNK_CHARS: usize = 300_000;

/// The model that an answer with [`Fault::WrongModel`] names.
pub const WRONG_MODEL: &str = "another-model";

/// The arguments of the tool call that is answered when tools are given.
pub const TOOL_ARGUMENTS: &str = r#"{"city":"Paris","unit":"celsius"}"#;

/// What stands in each word of a request that asks for stamps until the word is sent, which is put in its
/// place: nanoseconds of the wall clock, in as many digits until the year 2286.
pub const STAMP: &str = "@0000000000000000000";

/// The answer's words, one for each chunk.
pub fn words(kind: Kind, body: &Value, chunks: usize) -> Vec<String> {
    let images = count_images(body);
    let stamp = match body[REQUEST_FIELD]["stamp"] == true {
        true => STAMP,
        false => "",
    };
    let word = |index| format!("word{index} {stamp}");
    let mut words: Vec<String> = (0..chunks).map(word).collect();
    if let Some(first) = words.first_mut() {
        if kind == Kind::Chat && images > 0 {
            *first = format!("images:{images} ");
        } else if let Some(result) = tool_result(body) {
            *first = format!("tool:{result} ");
        }
    }
    words
}

/// The whole text of an answer.
pub fn text(kind: Kind, body: &Value, chunks: usize) -> String {
    words(kind, body, chunks).concat()
}

/// The tool that is called: the first given one, unless its result is there already.
pub fn called_tool(body: &Value) -> Option<&str> {
    if tool_result(body).is_some() {
        return None;
    }
    body["tools"][0]["function"]["name"].as_str()
}

fn tool_result(body: &Value) -> Option<&str> {
    let last = body["messages"].as_array()?.last()?;
    let is_tool = last["role"] == "tool";
    is_tool.then(|| last["content"].as_str()).flatten()
}

fn count_images(body: &Value) -> usize {
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let parts = messages
        .iter()
        .filter_map(|message| message["content"].as_array());
    parts
        .flatten()
        .filter(|part| part["type"] == "image_url")
        .count()
}

/// One token for each word of prompt and answer.
pub fn usage(kind: Kind, body: &Value, chunks: usize, fault: Option<Fault>) -> Value {
    let prompt = match kind {
        Kind::Chat => body["messages"].to_string(),
        Kind::Text => body["prompt"].to_string(),
    };
    let factor = if fault == Some(Fault::InflatedUsage) {
        1_000
    } else {
        1
    };
    let prompt_tokens = prompt.split_whitespace().count().max(1) * factor;
    let completion_tokens = chunks * factor;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}

fn head(kind: Kind, body: &Value, streamed: bool) -> Map<String, Value> {
    let (id, object) = match (kind, streamed) {
        (Kind::Chat, false) => ("chatcmpl-test", "chat.completion"),
        (Kind::Chat, true) => ("chatcmpl-test", "chat.completion.chunk"),
        (Kind::Text, _) => ("cmpl-test", "text_completion"),
    };
    let mut head = Map::new();
    head.insert("id".to_owned(), id.into());
    head.insert("object".to_owned(), object.into());
    head.insert("created".to_owned(), 1_700_000_000.into());
    head.insert("model".to_owned(), body["model"].clone());
    head
}

fn tool_call(name: &str, arguments: &str) -> Value {
    json!({
        "id": "call_test",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    })
}

/// The whole answer to a plain request.
pub fn plain(kind: Kind, body: &Value, chunks: usize) -> Map<String, Value> {
    let choice = match (kind, called_tool(body)) {
        (Kind::Text, _) => json!({
            "index": 0, "text": text(kind, body, chunks), "logprobs": null,
            "finish_reason": "stop",
        }),
        (Kind::Chat, None) => json!({
            "index": 0, "logprobs": null, "finish_reason": "stop",
            "message": {"role": "assistant", "content": text(kind, body, chunks)},
        }),
        (Kind::Chat, Some(name)) => json!({
            "index": 0, "logprobs": null, "finish_reason": "tool_calls",
            "message": {
                "role": "assistant", "content": null,
                "tool_calls": [tool_call(name, TOOL_ARGUMENTS)],
            },
        }),
    };
    let mut answer = head(kind, body, false);
    answer.insert("choices".to_owned(), json!([choice]));
    answer
}

fn chunk(kind: Kind, body: &Value, choices: Value) -> Value {
    let mut chunk = head(kind, body, true);
    chunk.insert("choices".to_owned(), choices);
    Value::Object(chunk)
}

/// The chunks of a streamed answer, without usage.
pub fn streamed(kind: Kind, body: &Value, chunks: usize) -> Vec<Value> {
    match (kind, called_tool(body)) {
        (Kind::Text, _) => streamed_text(body, chunks),
        (Kind::Chat, None) => streamed_chat(body, chunks),
        (Kind::Chat, Some(name)) => streamed_tool_call(body, name),
    }
}

fn streamed_text(body: &Value, chunks: usize) -> Vec<Value> {
    let words = words(Kind::Text, body, chunks);
    let last = words.len().saturating_sub(1);
    let choice = |(index, word): (usize, &String)| {
        let finish = if index == last {
            "stop".into()
        } else {
            Value::Null
        };
        json!([{"index": 0, "text": word, "logprobs": null, "finish_reason": finish}])
    };
    let choices = words.iter().enumerate().map(choice);
    choices
        .map(|choices| chunk(Kind::Text, body, choices))
        .collect()
}

fn chat_choice(delta: &Value, finish_reason: &Value) -> Value {
    json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}])
}

fn streamed_chat(body: &Value, chunks: usize) -> Vec<Value> {
    let mut all = vec![json!({"role": "assistant", "content": ""})];
    let words = words(Kind::Chat, body, chunks);
    all.extend(words.iter().map(|word| json!({"content": word})));
    finish(body, &all, "stop")
}

fn streamed_tool_call(body: &Value, name: &str) -> Vec<Value> {
    let mut first = tool_call(name, "");
    first["index"] = 0.into();
    let mut all = vec![json!({"role": "assistant", "content": null, "tool_calls": [first]})];
    let (begin, end) = TOOL_ARGUMENTS.split_at(TOOL_ARGUMENTS.len() / 2);
    for part in [begin, end] {
        let call = json!({"index": 0, "function": {"arguments": part}});
        all.push(json!({"tool_calls": [call]}));
    }
    finish(body, &all, "tool_calls")
}

fn finish(body: &Value, deltas: &[Value], reason: &str) -> Vec<Value> {
    let mut chunks: Vec<Value> = deltas
        .iter()
        .map(|delta| chunk(Kind::Chat, body, chat_choice(delta, &Value::Null)))
        .collect();
    let last = chat_choice(&json!({}), &reason.into());
    chunks.push(chunk(Kind::Chat, body, last));
    chunks
}

/// The chunk that carries usage: no choices.
pub fn usage_chunk(kind: Kind, body: &Value, usage: &Value) -> Value {
    let mut chunk = head(kind, body, true);
    chunk.insert("choices".to_owned(), json!([]));
    chunk.insert("usage".to_owned(), usage.clone());
    Value::Object(chunk)
}

/// A chunk with [`HUGE_CHUNK_CHARS`] characters of text.
pub fn huge_chunk(kind: Kind, body: &Value) -> Value {
    let text = "x".repeat(HUGE_CHUNK_CHARS);
    let choices = match kind {
        Kind::Chat => chat_choice(&json!({"content": text}), &Value::Null),
        Kind::Text => json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]),
    };
    chunk(kind, body, choices)
}

//! The messages of an Anthropic request as those of an OpenAI request.

use serde_json::{Map, Value, json};

use super::request::{Refusal, object, refuse, short, text_field};

/// The system prompt and the conversation, in OpenAI's form.
pub(super) fn messages(system: Option<&Value>, messages: &Value) -> Result<Vec<Value>, Refusal> {
    let Some(messages) = messages.as_array().filter(|list| !list.is_empty()) else {
        return refuse("messages", "an array of at least one message is required");
    };
    let mut out = Vec::new();
    if let Some(system) = system {
        add_system("system", system, &mut out)?;
    }
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages.{index}");
        let role = message.get("role").and_then(Value::as_str);
        let content = message.get("content").unwrap_or(&Value::Null);
        let at_content = format!("{at}.content");
        match role {
            Some("user") => add_user(&at_content, content, &mut out)?,
            Some("assistant") => add_assistant(&at_content, content, &mut out)?,
            Some("system") => add_system(&at_content, content, &mut out)?,
            _ => return refuse(&at, "role must be user or assistant"),
        }
    }
    Ok(out)
}

/// What a message's content is.
enum Content<'a> {
    Text(&'a str),
    Blocks(&'a [Value]),
}

fn content_of<'a>(at: &str, content: &'a Value) -> Result<Content<'a>, Refusal> {
    match content {
        Value::String(text) => Ok(Content::Text(text)),
        Value::Array(blocks) => Ok(Content::Blocks(blocks)),
        _ => refuse(at, "must be a text or an array of blocks"),
    }
}

/// A block's type.
fn kind<'a>(at: &str, block: &'a Value) -> Result<&'a str, Refusal> {
    match block.get("type").and_then(Value::as_str) {
        Some(kind) => Ok(kind),
        None => refuse(at, "a block must be an object with a type"),
    }
}

fn unsupported<T>(at: &str, kind: &str) -> Result<T, Refusal> {
    let kind = short(kind);
    refuse(at, format!("blocks of type {kind} are not supported here"))
}

fn add_system(at: &str, system: &Value, out: &mut Vec<Value>) -> Result<(), Refusal> {
    let text = text_only(at, system)?;
    if !text.is_empty() {
        out.push(json!({"role": "system", "content": text}));
    }
    Ok(())
}

/// Content that can be nothing but text.
fn text_only(at: &str, content: &Value) -> Result<String, Refusal> {
    let blocks = match content_of(at, content)? {
        Content::Text(text) => return Ok(text.to_owned()),
        Content::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{at}.{index}");
        match kind(&at, block)? {
            "text" => texts.push(text_field(&at, block, "text")?),
            other => return unsupported(&at, other),
        }
    }
    Ok(texts.join("\n"))
}

fn add_user(at: &str, content: &Value, out: &mut Vec<Value>) -> Result<(), Refusal> {
    let blocks = match content_of(at, content)? {
        Content::Text(text) => {
            out.push(json!({"role": "user", "content": text}));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    // Results must follow the calls directly, so what else the user says comes behind them.
    let mut parts = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{at}.{index}");
        match kind(&at, block)? {
            "tool_result" => out.push(tool_result(&at, block, &mut parts)?),
            "thinking" | "redacted_thinking" => {}
            kind => parts.push(part(&at, kind, block)?),
        }
    }
    if !parts.is_empty() {
        out.push(json!({"role": "user", "content": joined(parts)}));
    }
    Ok(())
}

/// Parts as one text where that is possible: some servers take nothing else.
fn joined(parts: Vec<Value>) -> Value {
    let texts: Option<Vec<&str>> = parts
        .iter()
        .map(|part| part.get("text")?.as_str())
        .collect();
    match texts {
        Some(texts) => Value::String(texts.join("\n")),
        None => Value::Array(parts),
    }
}

/// A block that a user or a tool may send, as a part.
fn part(at: &str, kind: &str, block: &Value) -> Result<Value, Refusal> {
    let text = match kind {
        "text" => text_field(at, block, "text")?.to_owned(),
        "image" => return image(at, block),
        "document" => document(at, block)?,
        "search_result" => {
            let title = text_field(at, block, "title")?;
            let source = text_field(at, block, "source")?;
            let content = block.get("content").unwrap_or(&Value::Null);
            let text = text_only(&format!("{at}.content"), content)?;
            format!("{title}\n{source}\n{text}")
        }
        other => return unsupported(at, other),
    };
    Ok(json!({"type": "text", "text": text}))
}

fn image(at: &str, block: &Value) -> Result<Value, Refusal> {
    let at = format!("{at}.source");
    let source = block.get("source").unwrap_or(&Value::Null);
    let url = match kind(&at, source)? {
        "base64" => {
            let media_type = text_field(&at, source, "media_type")?;
            let data = text_field(&at, source, "data")?;
            if !media_type.starts_with("image/") || media_type.contains([',', ';']) {
                return refuse(&at, "media_type must be one of an image, such as image/png");
            }
            format!("data:{media_type};base64,{data}")
        }
        "url" => {
            let url = text_field(&at, source, "url")?;
            if !url.starts_with("https://") && !url.starts_with("http://") {
                return refuse(&at, "url must be an http or https URL");
            }
            url.to_owned()
        }
        other => {
            let other = short(other);
            return refuse(
                &at,
                format!("images of type {other} are not supported here"),
            );
        }
    };
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

/// The text of a document. Providers read no other kind.
fn document(at: &str, block: &Value) -> Result<String, Refusal> {
    let at_source = format!("{at}.source");
    let source = block.get("source").unwrap_or(&Value::Null);
    let text = match kind(&at_source, source)? {
        "text" => text_field(&at_source, source, "data")?.to_owned(),
        "content" => {
            let content = source.get("content").unwrap_or(&Value::Null);
            text_only(&format!("{at_source}.content"), content)?
        }
        _ => {
            let message = "only documents of plain text are supported here; send the text of other ones, or their pages as images";
            return refuse(&at_source, message);
        }
    };
    let heading = |name: &str| block.get(name).and_then(Value::as_str);
    let lines = [heading("title"), heading("context"), Some(&text)];
    let lines: Vec<_> = lines.into_iter().flatten().collect();
    Ok(lines.join("\n"))
}

/// A tool's result. OpenAI's can hold text alone, so images are added to what the user says.
fn tool_result(at: &str, block: &Value, parts: &mut Vec<Value>) -> Result<Value, Refusal> {
    let id = text_field(at, block, "tool_use_id")?;
    let content = block.get("content").filter(|content| !content.is_null());
    let mut text = match content {
        None => String::new(),
        Some(content) => result_text(&format!("{at}.content"), content, id, parts)?,
    };
    if block.get("is_error").and_then(Value::as_bool) == Some(true) {
        text.insert_str(0, "Error: ");
    }
    Ok(json!({"role": "tool", "tool_call_id": id, "content": text}))
}

fn result_text(
    at: &str,
    content: &Value,
    id: &str,
    parts: &mut Vec<Value>,
) -> Result<String, Refusal> {
    let blocks = match content_of(at, content)? {
        Content::Text(text) => return Ok(text.to_owned()),
        Content::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{at}.{index}");
        let part = part(&at, kind(&at, block)?, block)?;
        if let Some(text) = part.get("text").and_then(Value::as_str) {
            texts.push(text.to_owned());
        } else {
            texts.push("(The image follows.)".into());
            let label = format!("The image of the result of {id}:");
            parts.push(json!({"type": "text", "text": label}));
            parts.push(part);
        }
    }
    Ok(texts.join("\n"))
}

fn add_assistant(at: &str, content: &Value, out: &mut Vec<Value>) -> Result<(), Refusal> {
    let blocks = match content_of(at, content)? {
        Content::Text(text) => {
            out.push(json!({"role": "assistant", "content": text}));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{at}.{index}");
        match kind(&at, block)? {
            "text" => texts.push(text_field(&at, block, "text")?),
            "tool_use" => calls.push(tool_use(&at, block)?),
            // Most servers refuse a field for it.
            "thinking" | "redacted_thinking" => {}
            other => return unsupported(&at, other),
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = match texts.is_empty() && !calls.is_empty() {
        true => Value::Null,
        false => Value::String(texts.join("\n")),
    };
    message.insert("content".into(), content);
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    out.push(message.into());
    Ok(())
}

fn tool_use(at: &str, block: &Value) -> Result<Value, Refusal> {
    let id = text_field(at, block, "id")?;
    let name = text_field(at, block, "name")?;
    let arguments = match block.get("input") {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(input) => {
            object(&format!("{at}.input"), input)?;
            input.to_string()
        }
    };
    let function = json!({"name": name, "arguments": arguments});
    Ok(json!({"id": id, "type": "function", "function": function}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(list: &Value) -> Value {
        messages(None, list).unwrap().into()
    }

    fn refused(list: &Value) -> String {
        messages(None, list).unwrap_err().0
    }

    fn user(blocks: &Value) -> Value {
        json!([{"role": "user", "content": blocks}])
    }

    #[test]
    fn texts_stay_texts() {
        let list = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": [{"type": "text", "text": "c", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "d"}]}]);
        assert_eq!(
            translated(&list),
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c\nd"}])
        );
    }

    #[test]
    fn the_system_prompt_comes_first() {
        let list = json!([{"role": "user", "content": "a"}]);
        let blocks = json!([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]);
        for (system, expected) in [(json!("x"), "x"), (blocks, "x\ny")] {
            let out = messages(Some(&system), &list).unwrap();
            assert_eq!(out[0], json!({"role": "system", "content": expected}));
        }
        assert_eq!(messages(Some(&json!([])), &list).unwrap().len(), 1);
        let error = messages(Some(&json!([{"type": "image"}])), &list).unwrap_err();
        assert_eq!(
            error.0,
            "system.0: blocks of type image are not supported here"
        );
    }

    #[test]
    fn images_become_urls() {
        let out = translated(&user(&json!([
            {"type": "text", "text": "see"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
        ])));
        assert_eq!(
            out[0]["content"],
            json!([
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            ])
        );
        let of = |source: Value| refused(&user(&json!([{"type": "image", "source": source}])));
        assert!(of(json!({"type": "file", "file_id": "f"})).contains("images of type file"));
        assert!(of(json!({"type": "url", "url": "file:///etc/passwd"})).contains("https URL"));
        assert!(
            of(json!({"type": "base64", "media_type": "text/html", "data": ""}))
                .contains("media_type")
        );
        assert!(of(Value::Null).starts_with("messages.0.content.0.source: "));
    }

    #[test]
    fn calls_and_their_results_keep_their_ids() {
        let out = translated(&json!([
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "t2", "name": "g"},
            ]},
            {"role": "user", "content": [
                {"type": "text", "text": "so?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [{"type": "text", "text": "two"}]},
                {"type": "tool_result", "tool_use_id": "t3"},
            ]},
        ]));
        assert_eq!(
            out,
            json!([
                {"role": "assistant", "content": "I look.", "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "t1", "content": "one"},
                {"role": "tool", "tool_call_id": "t2", "content": "Error: two"},
                {"role": "tool", "tool_call_id": "t3", "content": ""},
                {"role": "user", "content": "so?"},
            ])
        );
        let only_call = json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]);
        assert_eq!(translated(&only_call)[0]["content"], Value::Null);
    }

    #[test]
    fn an_image_that_a_tool_gives_is_shown_by_the_user() {
        let out = translated(&user(
            &json!([{"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "done"},
                {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
            ]}]),
        ));
        assert_eq!(out[0]["content"], "done\n(The image follows.)");
        assert_eq!(
            out[1]["content"][0]["text"],
            "The image of the result of t1:"
        );
        assert_eq!(out[1]["content"][1]["type"], "image_url");
    }

    #[test]
    fn documents_of_text_are_read_and_others_refused() {
        let of =
            |source: Value| user(&json!([{"type": "document", "title": "T", "source": source}]));
        let plain = json!({"type": "text", "media_type": "text/plain", "data": "words"});
        assert_eq!(translated(&of(plain))[0]["content"], "T\nwords");
        let blocks = json!({"type": "content", "content": [{"type": "text", "text": "words"}]});
        assert_eq!(translated(&of(blocks))[0]["content"], "T\nwords");
        let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "x"});
        let message = refused(&of(pdf));
        assert!(
            message.starts_with("messages.0.content.0.source: only documents of plain text"),
            "{message}"
        );
    }

    #[test]
    fn what_no_provider_could_read_is_refused_with_its_place() {
        for (list, message) in [
            (
                Value::Null,
                "messages: an array of at least one message is required",
            ),
            (
                json!([]),
                "messages: an array of at least one message is required",
            ),
            (json!([1]), "messages.0: role must be user or assistant"),
            (
                json!([{"role": "tool", "content": "x"}]),
                "messages.0: role must be user or assistant",
            ),
            (
                json!([{"role": "user"}]),
                "messages.0.content: must be a text or an array of blocks",
            ),
            (
                user(&json!(["x"])),
                "messages.0.content.0: a block must be an object with a type",
            ),
            (
                user(&json!([{"type": "text"}])),
                "messages.0.content.0.text: a text is required",
            ),
            (
                user(&json!([{"type": "container_upload"}])),
                "messages.0.content.0: blocks of type container_upload are not supported here",
            ),
            (
                json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": [1]}]}]),
                "messages.0.content.0.input: must be an object",
            ),
        ] {
            assert_eq!(refused(&list), message);
        }
    }
}

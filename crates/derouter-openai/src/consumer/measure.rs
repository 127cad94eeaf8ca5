//! Counts the text in requests and answers: what bounds the tokens that anyone may bill.

use serde_json::{Map, Value};

use crate::estimate;

/// What a prompt consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of text.
    pub(crate) text_bytes: u64,
    /// The most tokens that it can be, names of fields included: tools are shown to a model as JSON.
    pub(crate) most_tokens: u64,
    /// Parts whose tokens have nothing to do with their bytes: images, sound, files.
    pub(crate) opaque_parts: u64,
}

/// Bytes that one token id in a prompt stands for.
const TOKEN_ID_BYTES: u64 = 4;

/// Fields of the request that the model reads.
pub(super) const PROMPT_FIELDS: [&str; 9] = [
    "messages",
    "prompt",
    "suffix",
    "tools",
    "functions",
    "input",
    "instructions",
    "query",
    "documents",
];

/// Those of them that it reads as JSON.
pub(super) const SHOWN_FIELDS: [&str; 2] = ["tools", "functions"];

/// Signs around a value in JSON.
const JSON_SIGNS: u64 = 6;

/// Parts of a message that are not text.
pub(super) const OPAQUE_PARTS: [&str; 7] = [
    "image_url",
    "input_image",
    "image",
    "input_audio",
    "audio_url",
    "video_url",
    "file",
];

/// Fields of a choice that hold no generated text, or repeat it.
pub(crate) const SILENT_FIELDS: [&str; 9] = [
    "role",
    "type",
    "id",
    "index",
    "object",
    "logprobs",
    "finish_reason",
    "native_finish_reason",
    "stop_reason",
];

/// Measures the prompt of a request.
pub(crate) fn prompt_extent(fields: &Map<String, Value>) -> Extent {
    let mut extent = Extent::default();
    for field in PROMPT_FIELDS {
        if let Some(value) = fields.get(field) {
            measure_prompt(value, &mut extent);
        }
    }
    // Some servers show the model what form its answer must have.
    if let Some(format) = fields.get("response_format") {
        let mut shown = Extent::default();
        measure_prompt(format, &mut shown);
        add(&mut extent.most_tokens, shown.most_tokens);
    }
    extent
}

fn measure_prompt(value: &Value, extent: &mut Extent) {
    match value {
        Value::String(text) => {
            add(&mut extent.text_bytes, byte_count(text));
            add(&mut extent.most_tokens, estimate::most_tokens(text));
        }
        Value::Number(number) => {
            add(&mut extent.text_bytes, TOKEN_ID_BYTES);
            add(&mut extent.most_tokens, byte_count(&number.to_string()));
        }
        Value::Array(items) => items.iter().for_each(|item| measure_prompt(item, extent)),
        Value::Object(object) => {
            for (name, inner) in object {
                let named = estimate::most_tokens(name).saturating_add(JSON_SIGNS);
                add(&mut extent.most_tokens, named);
                if OPAQUE_PARTS.contains(&name.as_str()) {
                    add(&mut extent.opaque_parts, 1);
                } else {
                    measure_prompt(inner, extent);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// Bytes of generated text in a choice: content, reasoning, calls and their arguments, under
/// whatever names. Each token of it has at least one.
pub(crate) fn generated_bytes(choice: &Value) -> u64 {
    match choice {
        Value::String(text) => byte_count(text),
        Value::Array(items) => items
            .iter()
            .map(generated_bytes)
            .fold(0, u64::saturating_add),
        Value::Object(object) => object
            .iter()
            .filter(|(name, _)| !SILENT_FIELDS.contains(&name.as_str()))
            .map(|(_, inner)| generated_bytes(inner))
            .fold(0, u64::saturating_add),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn byte_count(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_model_reads_is_prompt() {
        let request = json!({"model": "mmmmmmmm", "user": "uuuuuuuu", "messages": [
            {"role": "user", "content": "12345"},
            {"role": "user", "content": [{"type": "text", "text": "678"}]}]});
        let extent = prompt_extent(request.as_object().unwrap());
        assert_eq!(extent.text_bytes, 4 + 5 + 4 + 4 + 3);
        assert_eq!(extent.opaque_parts, 0);
    }

    #[test]
    fn an_image_is_not_measured_by_its_bytes() {
        let request = json!({"messages": [{"content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAAAAAAAAAA"}}]}]});
        let extent = prompt_extent(request.as_object().unwrap());
        assert_eq!(extent.opaque_parts, 1);
        assert_eq!(extent.text_bytes, 9, "the part's type");
    }

    #[test]
    fn roles_ids_and_logprobs_are_not_generated_text() {
        let choice = json!({"index": 0, "finish_reason": "stop",
            "logprobs": {"content": [{"token": "hello"}]},
            "delta": {"role": "assistant", "content": "hello", "reasoning_content": "hm",
                "tool_calls": [{"id": "call_123", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}});
        assert_eq!(generated_bytes(&choice), 5 + 2 + 1 + 2);
    }
}

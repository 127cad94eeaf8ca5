//! An estimate of a request's tokens. The gateway has no tokenizer of the models that it buys, so
//! it can't say more; what an answer was billed for is in its usage.

use serde_json::{Map, Value};

/// Of English text and code, a token is about four ASCII characters.
const ASCII_PER_TOKEN: u64 = 4;

/// Of other scripts, three characters are about two tokens.
const OTHER_PER_TWO_TOKENS: u64 = 3;

/// An image that was not made smaller is about so much, whatever its bytes.
const IMAGE_TOKENS: u64 = 1_600;

/// What the template of a chat adds to each message and tool.
const TOKENS_AROUND: u64 = 4;

/// What was found in a request.
#[derive(Default)]
struct Found {
    ascii: u64,
    other: u64,
    images: u64,
}

/// About how many tokens the prompt of a translated request has; at least one.
pub(crate) fn estimate(fields: &Map<String, Value>) -> u64 {
    let mut found = Found::default();
    let mut around = 0_u64;
    for name in ["messages", "tools"] {
        let items = fields.get(name).and_then(Value::as_array);
        for item in items.into_iter().flatten() {
            around = around.saturating_add(TOKENS_AROUND);
            if name == "tools" {
                // Templates show the model a tool as the JSON that it is.
                found.read(&item.to_string());
            } else {
                found.look_at(item);
            }
        }
    }
    let text = found.ascii.div_ceil(ASCII_PER_TOKEN);
    let other = found.other.saturating_mul(2).div_ceil(OTHER_PER_TWO_TOKENS);
    let images = found.images.saturating_mul(IMAGE_TOKENS);
    let sum = text.saturating_add(other).saturating_add(images);
    sum.saturating_add(around).max(1)
}

impl Found {
    fn look_at(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.read(text),
            Value::Array(items) => items.iter().for_each(|item| self.look_at(item)),
            Value::Object(object) => {
                for (name, inner) in object {
                    match name.as_str() {
                        "image_url" => self.images = self.images.saturating_add(1),
                        // They say what the rest is, and are in the template's share.
                        "role" | "type" => {}
                        _ => self.look_at(inner),
                    }
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, text: &str) {
        for character in text.chars() {
            let count = if character.is_ascii() {
                &mut self.ascii
            } else {
                &mut self.other
            };
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn estimated(fields: &Value) -> u64 {
        estimate(fields.as_object().unwrap())
    }

    fn of(content: &Value) -> u64 {
        estimated(&json!({"model": "m", "messages": [{"role": "user", "content": content}]}))
    }

    #[test]
    fn text_counts_by_its_characters() {
        assert_eq!(of(&json!("hello, world")), 3 + TOKENS_AROUND);
        assert_eq!(of(&json!("你好世")), 2 + TOKENS_AROUND);
        assert_eq!(estimated(&json!({})), 1);
    }

    #[test]
    fn an_image_does_not_count_by_its_bytes() {
        let url = format!("data:image/png;base64,{}", "A".repeat(100_000));
        let image = json!([{"type": "image_url", "image_url": {"url": url}}]);
        assert_eq!(of(&image), IMAGE_TOKENS + TOKENS_AROUND);
    }

    #[test]
    fn tools_count_too() {
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
        assert!(estimated(&json!({"messages": [], "tools": tools})) > 15);
    }
}

//! What a model must be able to do and read for a request, from the request itself.

use serde_json::{Map, Value};

/// Parts of messages deeper than this are not looked at: none is.
const MOST_DEPTH: usize = 8;

/// What a request needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What the model must be able to do, by the names that offers use.
    pub features: Vec<&'static str>,
    /// What it must be able to read besides text.
    pub modalities: Vec<&'static str>,
}

/// Kinds of message parts, and what they are.
const PARTS: [(&str, &str); 8] = [
    ("image_url", "image"),
    ("input_image", "image"),
    ("image", "image"),
    ("input_audio", "audio"),
    ("audio_url", "audio"),
    ("video_url", "video"),
    ("file", "file"),
    ("input_file", "file"),
];

impl Needs {
    /// The needs of a request.
    pub fn of(fields: &Map<String, Value>) -> Self {
        let mut needs = Self::default();
        let list = |name: &str| {
            let value = fields.get(name).and_then(Value::as_array);
            value.is_some_and(|list| !list.is_empty())
        };
        let given = |name: &str| {
            let value = fields.get(name).filter(|value| !value.is_null());
            value.is_some_and(|value| value != &Value::Bool(false))
        };
        needs.feature("tools", list("tools") || list("functions"));
        let format = fields.get("response_format").and_then(|it| it.get("type"));
        let format = format.and_then(Value::as_str);
        needs.feature("json_schema", format == Some("json_schema"));
        // Completions ask for a number of them, which may be 0.
        needs.feature("logprobs", given("logprobs") || given("top_logprobs"));
        let effort = fields.get("reasoning_effort").and_then(Value::as_str);
        let thinks = effort.is_some_and(|effort| effort != "none") || given("reasoning");
        needs.feature("reasoning", thinks);
        for name in ["messages", "input"] {
            if let Some(value) = fields.get(name) {
                needs.look_for_parts(value, MOST_DEPTH);
            }
        }
        needs
    }

    fn feature(&mut self, name: &'static str, needed: bool) {
        if needed {
            self.features.push(name);
        }
    }

    fn look_for_parts(&mut self, value: &Value, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        match value {
            Value::Array(items) => items.iter().for_each(|it| self.look_for_parts(it, depth)),
            Value::Object(object) => {
                let kind = object.get("type").and_then(Value::as_str).unwrap_or("");
                if let Some((_, modality)) = PARTS.iter().find(|(part, _)| *part == kind) {
                    self.modality(modality);
                }
                if let Some(content) = object.get("content") {
                    self.look_for_parts(content, depth);
                }
            }
            _ => {}
        }
    }

    fn modality(&mut self, modality: &'static str) {
        if !self.modalities.contains(&modality) {
            self.modalities.push(modality);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn needs(request: &Value) -> (Vec<&'static str>, Vec<&'static str>) {
        let needs = Needs::of(request.as_object().unwrap());
        (needs.features, needs.modalities)
    }

    #[test]
    fn a_plain_chat_needs_nothing() {
        let plain = json!({"messages": [{"role": "user", "content": "hi"}], "tools": [], "stream": true,
            "logprobs": false, "reasoning_effort": "none", "response_format": {"type": "text"}});
        assert_eq!(needs(&plain), (vec![], vec![]));
    }

    #[test]
    fn what_is_asked_for_is_needed() {
        let all = json!({"tools": [{}], "response_format": {"type": "json_schema"}, "logprobs": true,
            "reasoning_effort": "low", "messages": [{"content": [{"type": "text", "text": "hi"},
            {"type": "image_url", "image_url": {"url": "u"}}, {"type": "image_url"}, {"type": "input_audio"}]}]});
        let features = vec!["tools", "json_schema", "logprobs", "reasoning"];
        assert_eq!(needs(&all), (features, vec!["image", "audio"]));
    }

    #[test]
    fn deep_nesting_ends_somewhere() {
        let mut deep = json!({"type": "image_url"});
        for _ in 0..50 {
            deep = json!({"content": [deep]});
        }
        assert_eq!(needs(&json!({"messages": [deep]})).1, [""; 0]);
    }
}

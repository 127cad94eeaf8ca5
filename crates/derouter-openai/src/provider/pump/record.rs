//! Keeps what was asked and answered for the operator's own records, when the operator wants that.

use derouter_sdk::wire::limits;
use serde_json::{Value, json};

/// Room for the rest of the private payload.
const FRAME_BYTES: usize = 1_024;

/// What was said so far. Values that no longer fit are left out, which the record says.
pub(in crate::provider) struct Recorder {
    request: String,
    /// JSON texts.
    values: Vec<String>,
    bytes: usize,
    cut: bool,
    stream: bool,
}

impl Recorder {
    pub(in crate::provider) fn new(request: &str, stream: bool) -> Self {
        Self {
            request: request.to_owned(),
            values: Vec::new(),
            bytes: request.len().saturating_add(FRAME_BYTES),
            cut: false,
            stream,
        }
    }

    pub(super) fn add(&mut self, value: &Value) {
        let text = value.to_string();
        let bytes = self.bytes.saturating_add(text.len()).saturating_add(1);
        if self.cut || bytes > limits::PRIVATE_PAYLOAD_BYTES {
            self.cut = true;
            return;
        }
        self.bytes = bytes;
        self.values.push(text);
    }

    /// The private payload: JSON with the request, and the response or its chunks.
    pub(super) fn payload(self) -> String {
        let Self {
            request,
            values,
            cut,
            stream,
            ..
        } = self;
        let name = if stream { "chunks" } else { "response" };
        let said = match (stream, values.first()) {
            (true, _) => format!("[{}]", values.join(",")),
            (false, Some(response)) => response.clone(),
            (false, None) => json!(null).to_string(),
        };
        format!(r#"{{"request":{request},"{name}":{said},"cut":{cut}}}"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(recorder: Recorder) -> Value {
        serde_json::from_str(&recorder.payload()).unwrap()
    }

    #[test]
    fn a_record_is_json_and_says_when_it_is_cut() {
        let mut streamed = Recorder::new(r#"{"a":1}"#, true);
        streamed.add(&json!({"b": 2}));
        streamed.add(&json!({"c": 3}));
        let expected = json!({"request": {"a": 1}, "chunks": [{"b": 2}, {"c": 3}], "cut": false});
        assert_eq!(read(streamed), expected);

        let mut plain = Recorder::new("{}", false);
        plain.add(&json!("x".repeat(limits::PRIVATE_PAYLOAD_BYTES)));
        let expected = json!({"request": {}, "response": null, "cut": true});
        assert_eq!(read(plain), expected);
    }
}

//! What an answer used, counted from what passes: by the provider for its bill, and by the consumer to
//! check that.

use serde_json::Value;

use crate::choices::Choices;
use crate::consumer::{Said, generated_bytes};
use crate::estimate;
use crate::terms::{Endpoint, Metered};

/// Counts an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    /// The latest usage object.
    usage: Option<Value>,
    /// Events with generated text.
    text_events: u64,
    text_bytes: u64,
    /// The most tokens that the text can be.
    most_tokens: u64,
    choices: Choices,
    /// The answer says itself that it is over.
    is_over: bool,
    images: u64,
    seconds: u64,
    /// Bytes of a body that is not JSON.
    opaque_bytes: u64,
    /// Parts of an answer that are no text: vectors, results.
    items: u64,
    /// The text itself, where a tokenizer is to count it.
    said: Option<Box<Said>>,
}

impl Meter {
    /// One that may keep the text.
    pub(crate) fn keeping(said: Option<Box<Said>>) -> Self {
        Self {
            said,
            ..Self::default()
        }
    }

    /// The text, where it was kept.
    pub(crate) fn take_said(&mut self) -> Option<Box<Said>> {
        self.said.take()
    }

    /// Counts an event of a stream: what its client reads of it, no more. What it says must be an object.
    pub(crate) fn event(&mut self, endpoint: Endpoint, event: &Value) {
        self.note_usage(event);
        if let Some(said) = &mut self.said {
            said.event(event);
        }
        match endpoint {
            Endpoint::Chat | Endpoint::Completions => self.choices(event),
            _ => {
                let kind = event.get("type").and_then(Value::as_str);
                self.typed_event(kind.unwrap_or_default(), event);
            }
        }
    }

    /// An event that came when the answer was over for its client: only a usage that is missing counts.
    pub(crate) fn late(&mut self, event: &Value) {
        if self.usage.is_none() {
            self.note_usage(event);
        }
    }

    /// Counts a whole JSON answer.
    pub(crate) fn body(&mut self, endpoint: Endpoint, body: &Value) {
        self.note_usage(body);
        if let Some(said) = &mut self.said {
            said.body(body);
        }
        match endpoint {
            Endpoint::Chat | Endpoint::Completions => self.choices(body),
            Endpoint::Responses => {
                if let Some(output) = body.get("output") {
                    self.text(output);
                }
                self.is_over = true;
            }
            Endpoint::Transcriptions | Endpoint::Translations => {
                if let Some(text) = body.get("text") {
                    self.text(text);
                }
                self.note_duration(body);
            }
            Endpoint::ImageGenerations | Endpoint::ImageEdits => self.images = items(body, "data"),
            Endpoint::Embeddings => self.items = items(body, "data"),
            Endpoint::Rerank | Endpoint::Moderations => self.items = items(body, "results"),
            Endpoint::Speech => {}
        }
    }

    /// Counts bytes of a body that is not JSON.
    pub(crate) fn opaque(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.opaque_bytes = self.opaque_bytes.saturating_add(bytes);
    }

    /// What the answer itself says it used; `None` when it does not say.
    pub(crate) fn reported(&self) -> Option<Metered> {
        let usage = self.usage.as_ref()?;
        let count = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| usage.get(*name));
            found.and_then(whole)
        };
        let cached = ["prompt_tokens_details", "input_tokens_details"];
        let cached = cached.iter().find_map(|name| {
            let details = usage.get(*name)?;
            whole(details.get("cached_tokens")?)
        });
        let input = count(["prompt_tokens", "input_tokens"]);
        let output = count(["completion_tokens", "output_tokens"]);
        if input.is_none() && output.is_none() && self.seconds == 0 {
            return None;
        }
        let input = input.unwrap_or(0);
        Some(Metered {
            input,
            cached_input: cached.unwrap_or(0).min(input),
            output: output.unwrap_or(0),
            images: self.images,
            seconds: self.seconds,
        })
    }

    /// Reasoning that the usage reports; 0 when it reports none.
    pub(crate) fn reasoning_tokens(&self) -> u64 {
        let details = ["completion_tokens_details", "output_tokens_details"];
        let found = details.iter().find_map(|name| {
            let details = self.usage.as_ref()?.get(*name)?;
            whole(details.get("reasoning_tokens")?)
        });
        found.unwrap_or(0)
    }

    /// What is billed for an answer whose usage is not reported, to the consumer's side: a token for
    /// each event with text, as servers stream token by token, between 2 and 8 bytes a token; a token
    /// for each 4 bytes of a plain answer.
    pub(crate) fn estimated_output(&self) -> u64 {
        if self.text_events <= 1 {
            return estimate::billed(self.text_bytes);
        }
        estimate::billed_in_parts(self.text_events, self.text_bytes)
    }

    /// The most tokens that the text which passed can be.
    pub(crate) fn most_tokens(&self) -> u64 {
        self.most_tokens
    }

    /// Images that came.
    pub(crate) fn images(&self) -> u64 {
        self.images
    }

    /// Seconds of sound that the answer tells of.
    pub(crate) fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Whether there is anything in the answer: text, a call, an image, sound, a vector.
    pub(crate) fn says_something(&self) -> bool {
        [self.text_bytes, self.images, self.opaque_bytes, self.items]
            .iter()
            .any(|count| *count > 0)
    }

    /// Whether a streamed answer has come to its end: it says so itself, or each choice of it that
    /// began has a reason for its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_over || self.choices.have_ended()
    }

    /// Whether what has come of a stream can be all of it. Some servers give no reason for an answer's end:
    /// then text and a usage will do.
    pub(crate) fn is_whole(&self) -> bool {
        let without_reason = !self.choices.give_reasons() && self.text_bytes > 0;
        self.is_ended() || without_reason && self.usage.is_some()
    }

    /// Whether so many choices have ended: all that a client of a chat waits for.
    pub(crate) fn has_ended(&self, answers: u64) -> bool {
        self.is_over || self.is_ended() && self.choices.ended() >= answers.max(1)
    }

    fn note_usage(&mut self, value: &Value) {
        let within = value.get("response").and_then(|v| v.get("usage"));
        let usage = value.get("usage").or(within);
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
            self.note_duration(usage);
        }
    }

    fn note_duration(&mut self, value: &Value) {
        let seconds = ["seconds", "duration"].iter().find_map(|name| {
            let seconds = value.get(*name)?;
            seconds.as_f64().or_else(|| seconds.as_str()?.parse().ok())
        });
        if let Some(seconds) = seconds.and_then(whole_seconds) {
            self.seconds = self.seconds.max(seconds);
        }
    }

    fn choices(&mut self, value: &Value) {
        let choices = value.get("choices").and_then(Value::as_array);
        for choice in choices.into_iter().flatten() {
            self.choices.count(choice);
            self.text(choice);
        }
    }

    /// An event that names its type, as those of `responses` and of audio do.
    fn typed_event(&mut self, kind: &str, event: &Value) {
        if let Some(delta) = event.get("delta") {
            self.text(delta);
        }
        for field in ["audio", "b64_json"] {
            if let Some(data) = event.get(field).and_then(Value::as_str) {
                self.opaque(data.len());
            }
        }
        self.is_over |= matches!(
            kind,
            "response.completed"
                | "response.incomplete"
                | "transcript.text.done"
                | "speech.audio.done"
        );
        if kind == "image_generation.completed" {
            self.images = self.images.saturating_add(1);
            self.is_over = true;
        }
    }

    fn text(&mut self, value: &Value) {
        let bytes = generated_bytes(value);
        if bytes > 0 {
            self.text_events = self.text_events.saturating_add(1);
            self.text_bytes = self.text_bytes.saturating_add(bytes);
            let most = estimate::most_tokens_of_answer(value);
            self.most_tokens = self.most_tokens.saturating_add(most);
        }
    }
}

fn items(body: &Value, field: &str) -> u64 {
    let items = body.get(field).and_then(Value::as_array);
    items.map_or(0, |items| u64::try_from(items.len()).unwrap_or(u64::MAX))
}

/// About how many values JSON has, by its commas and brackets: to be known before each takes memory.
pub(crate) fn json_items(text: &[u8]) -> usize {
    let (mut items, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text {
        match (in_text, *byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b'[' | b'{') => items = items.saturating_add(1),
            _ => {}
        }
    }
    items
}

/// A whole count, also when it is written as a float.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|float| float.fract() == 0.0)?;
        whole_seconds(float)
    })
}

/// Begun seconds. `None` for what is no time.
fn whole_seconds(seconds: f64) -> Option<u64> {
    const MOST: f64 = 4_294_967_296.0;
    let whole = seconds.ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked here"
    )]
    (0.0..MOST).contains(&whole).then_some(whole as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(endpoint: Endpoint, events: &[Value]) -> Meter {
        let mut meter = Meter::default();
        for event in events {
            meter.event(endpoint, event);
        }
        meter
    }

    #[test]
    fn a_chat_is_counted_from_its_chunks() {
        let mut meter = stream(
            Endpoint::Chat,
            &[json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})],
        );
        assert!(!meter.says_something());
        for text in ["Hel", "lo", " world"] {
            meter.event(
                Endpoint::Chat,
                &json!({"choices": [{"index": 0, "delta": {"content": text}}]}),
            );
        }
        assert!(meter.says_something() && !meter.is_ended());
        assert_eq!((meter.estimated_output(), meter.reported()), (3, None));
        meter.event(
            Endpoint::Chat,
            &json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        );
        meter.event(
            Endpoint::Chat,
            &json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4}}}),
        );
        assert!(meter.is_ended());
        let used = Metered {
            input: 9,
            cached_input: 4,
            output: 3,
            ..Metered::default()
        };
        assert_eq!(meter.reported(), Some(used));
        assert!(meter.most_tokens() >= 3);
    }

    #[test]
    fn a_response_is_over_when_it_says_so() {
        let mut meter = stream(
            Endpoint::Responses,
            &[
                json!({"type": "response.created", "response": {"usage": null}}),
                json!({"type": "response.output_text.delta", "delta": "Hello"}),
            ],
        );
        assert!(meter.says_something() && !meter.is_ended());
        meter.event(Endpoint::Responses, &json!({"type": "response.completed", "response": {"usage":
            {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}}}));
        assert!(meter.is_ended());
        assert_eq!(meter.reasoning_tokens(), 1);
        assert_eq!(
            meter.reported().map(|used| (used.input, used.output)),
            Some((5, 2))
        );
    }

    #[test]
    fn values_are_counted_without_being_read() {
        let text = r#"{"a":[1,2,{"b":"x,y\",["}],"c":"d"}"#;
        assert_eq!(json_items(text.as_bytes()), 6);
        assert_eq!(json_items(b"\"[[[["), 0);
    }

    #[test]
    fn other_answers_are_counted_by_their_parts() {
        let body = |endpoint, body: Value| {
            let mut meter = Meter::default();
            meter.body(endpoint, &body);
            meter
        };
        let images = body(Endpoint::ImageGenerations, json!({"data": [{}, {}]}));
        assert_eq!(images.images(), 2);
        let vectors = body(
            Endpoint::Embeddings,
            json!({"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}),
        );
        assert!(vectors.says_something());
        assert_eq!(vectors.reported().map(|used| used.input), Some(7));
        let sound = body(
            Endpoint::Transcriptions,
            json!({"text": "hi", "duration": 2.1}),
        );
        assert_eq!(sound.seconds(), 3);
        assert!(!body(Endpoint::Chat, json!({"choices": []})).says_something());
        let absurd = body(
            Endpoint::Transcriptions,
            json!({"duration": 1e300, "usage": {"seconds": -4}}),
        );
        assert_eq!((absurd.seconds(), absurd.reported()), (0, None));
    }
}

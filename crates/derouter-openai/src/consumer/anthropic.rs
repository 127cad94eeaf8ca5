//! Anthropic's Messages API (`/v1/messages`) on top of chat completions, for clients that speak
//! nothing else. A request is translated, answered as any other, and its answer translated back.
//!
//! All but `http` is pure.

mod answer;
mod content;
mod count;
mod error;
mod http;
mod openai;
mod reader;
mod request;
mod stream;

use serde_json::{Map, Value};

use request::{Purpose, translate};

pub(crate) use http::{adapt, count_tokens, messages};

/// What an answer's translation must know of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// The id that the message gets.
    pub(crate) message_id: String,
    /// The model, as the client named it.
    pub(crate) model: String,
    /// Where the client wanted the answer to stop.
    pub(crate) stop_sequences: Vec<String>,
    /// Whether the client asked to see what the model thinks. Anthropic shows it to nobody else,
    /// and programs take the first block for the text then.
    pub(crate) show_thinking: bool,
}

impl Context {
    /// The id of a tool call to which the provider gave none: no other message has the same.
    fn tool_use_id(&self, position: usize) -> String {
        let message = self.message_id.trim_start_matches("msg_");
        format!("toolu_{message}_{position}")
    }
}

/// See [`crate::fuzz::messages_request`].
pub(crate) fn fuzz_request(data: &[u8]) {
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(data) else {
        return;
    };
    let counted = translate(fields.clone(), Purpose::Count);
    let Ok(asked) = translate(fields, Purpose::Answer) else {
        return;
    };
    assert!(counted.is_ok(), "what can be answered can be counted");
    assert!(count::estimate(&asked.fields) > 0);
    assert_eq!(asked.fields.get("model"), Some(&asked.model.into()));
    let messages = asked.fields.get("messages").and_then(Value::as_array);
    assert!(messages.is_some());
    // None of what makes a chat another kind of request, or more than one answer.
    for name in ["prompt", "n", "best_of"] {
        assert!(!asked.fields.contains_key(name));
    }
}

/// See [`crate::fuzz::messages_answer`]. Returns the events for a client.
pub(crate) fn fuzz_answer(data: &[u8], size: usize) -> Vec<u8> {
    let context = Context {
        show_thinking: true,
        ..Context::default()
    };
    if let Ok(completion) = serde_json::from_slice(data) {
        let message = answer::message(&completion, &context);
        let content = message.as_ref().map(|message| message.get("content"));
        assert!(content.is_none_or(|content| content.is_some_and(Value::is_array)));
    }
    let mut reader = reader::Reader::new(context);
    let pieces = data.chunks(size.max(1));
    let mut events: Vec<_> = pieces.flat_map(|piece| reader.push(piece)).collect();
    events.extend(reader.finish());
    assert!(reader.ended());
    let mut out = Vec::new();
    events.iter().for_each(|event| event.write(&mut out));
    out
}

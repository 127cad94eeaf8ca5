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
mod request;
mod stream;

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

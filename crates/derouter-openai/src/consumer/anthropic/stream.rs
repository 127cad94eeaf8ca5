//! A streamed OpenAI answer as Anthropic's events. Pure.
//!
//! Anthropic's blocks come one after another, while OpenAI's tool calls may come mixed, and in
//! parts. What belongs to the open block is passed on at once; the rest waits, in order, until that
//! block is over.

mod call;

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::openai::{self, Finish};
use super::{Context, error};
use call::Call;

/// The most tool calls of one answer: OpenAI's servers allow 128 tools.
const MAX_CALLS: usize = 128;

/// The most that waits for the open block to end. Servers that mix their calls send whole files as
/// arguments now and then; 4 MiB is far above them.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// What a block that waits counts besides its text.
const BLOCK_BYTES: usize = 128;

/// An event for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) data: Value,
}

impl Event {
    fn new(name: &'static str, fields: &Value) -> Self {
        let mut data = Map::new();
        data.insert("type".into(), name.into());
        for (name, value) in fields.as_object().into_iter().flatten() {
            data.insert(name.clone(), value.clone());
        }
        Self {
            name,
            data: data.into(),
        }
    }

    /// That the answer still comes.
    fn ping() -> Self {
        Self::new("ping", &Value::Null)
    }

    /// The event's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let text = format!("event: {}\ndata: {}\n\n", self.name, self.data);
        out.extend_from_slice(text.as_bytes());
    }
}

/// What a block is. A call is named by its place in the list of all calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Call(usize),
}

/// A block that waits, with what has come of it.
struct Waiting {
    kind: Kind,
    text: String,
}

/// The translation of one answer.
pub(crate) struct Translation {
    context: Context,
    started: bool,
    ended: bool,
    failed: bool,
    /// The block that is open.
    open: Option<Kind>,
    /// The number of the next block to open.
    next_index: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    calls: Vec<Call>,
    finish: Finish,
    usage: Option<Value>,
    events: Vec<Event>,
}

impl Translation {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            started: false,
            ended: false,
            failed: false,
            open: None,
            next_index: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            calls: Vec::new(),
            finish: Finish::default(),
            usage: None,
            events: Vec::new(),
        }
    }

    /// Whether the last event was given.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the last event was an error.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// That the answer still comes. The first event of a message is its beginning.
    pub(crate) fn ping(&mut self) -> Vec<Event> {
        match self.started {
            true => self.events.push(Event::ping()),
            false => self.start(),
        }
        std::mem::take(&mut self.events)
    }

    /// The events for a chunk.
    pub(crate) fn chunk(&mut self, chunk: &Value) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let message = openai::non_empty(error, "message");
            let kind = error::kind_of_code(openai::non_empty(error, "code"));
            return self.fail_with(kind, message.unwrap_or("The answer broke off."));
        }
        self.start();
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
        }
        let choices = chunk.get("choices").and_then(Value::as_array);
        let first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        let choice = choices.and_then(|choices| choices.iter().find(first));
        let read = choice.map_or(Ok(()), |choice| self.read(choice));
        if let Err(why) = read {
            return self.fail(&format!("The answer broke off: {why}."));
        }
        // Nothing but the usage follows the end, so the client need not wait for the bill.
        if choice.is_none() && self.finish.ended() && self.usage.is_some() {
            return self.end();
        }
        std::mem::take(&mut self.events)
    }

    /// The events for the end of a whole answer.
    pub(crate) fn end(&mut self) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        self.start();
        self.advance(true);
        let (reason, sequence) = self.finish.stop(&self.context);
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        let usage = openai::usage(self.usage.as_ref());
        self.emit("message_delta", &json!({"delta": delta, "usage": usage}));
        self.emit("message_stop", &Value::Null);
        self.ended = true;
        std::mem::take(&mut self.events)
    }

    /// The events for an answer that broke.
    pub(crate) fn fail(&mut self, message: &str) -> Vec<Event> {
        self.fail_with("api_error", message)
    }

    fn fail_with(&mut self, kind: &str, message: &str) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        self.emit("error", &error::envelope(kind, message));
        self.ended = true;
        self.failed = true;
        self.waiting = VecDeque::new();
        std::mem::take(&mut self.events)
    }

    fn emit(&mut self, name: &'static str, fields: &Value) {
        self.events.push(Event::new(name, fields));
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        // The counts come with the end.
        let message = json!({
            "id": self.context.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.context.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": openai::usage(None),
        });
        self.emit("message_start", &json!({"message": message}));
        self.events.push(Event::ping());
    }

    fn read(&mut self, choice: &Value) -> Result<(), &'static str> {
        self.finish.read(choice);
        let Some(delta) = choice.get("delta") else {
            return Ok(());
        };
        if self.context.show_thinking {
            self.add(Kind::Thinking, openai::reasoning(delta))?;
        }
        self.add(Kind::Text, &openai::text(delta))?;
        let refusal = openai::refusal(delta);
        self.finish.refused |= !refusal.is_empty();
        self.add(Kind::Text, refusal)?;
        for part in openai::tool_calls(delta) {
            self.add_call(part)?;
        }
        Ok(())
    }

    fn add_call(&mut self, part: &Value) -> Result<(), &'static str> {
        let number = match call::find(&self.calls, part) {
            Some(number) => number,
            None if self.calls.len() >= MAX_CALLS => return Err("it has too many tool calls"),
            None => {
                self.calls.push(Call::new(part));
                self.calls.len().saturating_sub(1)
            }
        };
        let Some(call) = self.calls.get_mut(number) else {
            return Ok(());
        };
        if call.closed {
            return match call::is_blank(part) {
                true => Ok(()),
                false => Err("it goes on with a tool call that was over"),
            };
        }
        let text = call.take(part);
        self.place(Kind::Call(number), &text)
    }

    /// Adds text that says something.
    fn add(&mut self, kind: Kind, text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return Ok(());
        }
        self.place(kind, text)
    }

    /// Passes text on if its block is open; else it waits.
    fn place(&mut self, kind: Kind, text: &str) -> Result<(), &'static str> {
        let is_call = matches!(kind, Kind::Call(_));
        if self.open == Some(kind) && (is_call || self.waiting.is_empty()) {
            self.delta(kind, text);
            self.advance(false);
            return self.check_waiting();
        }
        let mut places = self.waiting.iter_mut();
        let place = match is_call {
            true => places.find(|waiting| waiting.kind == kind),
            false => places.next_back().filter(|waiting| waiting.kind == kind),
        };
        let mut added = text.len();
        match place {
            Some(waiting) => waiting.text.push_str(text),
            None => {
                added = added.saturating_add(BLOCK_BYTES);
                let text = text.to_owned();
                self.waiting.push_back(Waiting { kind, text });
            }
        }
        self.waiting_bytes = self.waiting_bytes.saturating_add(added);
        self.advance(false);
        self.check_waiting()
    }

    fn check_waiting(&self) -> Result<(), &'static str> {
        let held = self.calls.iter().map(Call::held_bytes);
        let bytes = held.fold(self.waiting_bytes, usize::saturating_add);
        if bytes > MAX_WAITING_BYTES {
            return Err("too much of it waits for a tool call to end");
        }
        Ok(())
    }

    fn call(&self, number: usize) -> Option<&Call> {
        self.calls.get(number)
    }

    /// Closes and opens blocks as far as what has come allows, or all of them at the end.
    fn advance(&mut self, at_end: bool) {
        loop {
            if let Some(open) = self.open {
                let may_close = at_end || !self.waiting.is_empty() && self.is_over(open);
                if !may_close {
                    return;
                }
                self.close(open);
            }
            let Some(next) = self.waiting.front() else {
                return;
            };
            let ready = self.is_ready(next.kind, at_end);
            if !ready && !at_end {
                return;
            }
            let Some(next) = self.waiting.pop_front() else {
                return;
            };
            let bytes = next.text.len().saturating_add(BLOCK_BYTES);
            self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
            // A call that never got a name can't be made.
            if ready {
                self.open(&next);
            }
        }
    }

    /// Whether nothing more is expected of an open block once another one is there.
    fn is_over(&self, kind: Kind) -> bool {
        match kind {
            Kind::Thinking | Kind::Text => true,
            Kind::Call(number) => self.call(number).is_none_or(Call::is_complete),
        }
    }

    fn is_ready(&self, kind: Kind, at_end: bool) -> bool {
        match kind {
            Kind::Thinking | Kind::Text => true,
            Kind::Call(number) => self.call(number).is_some_and(|call| call.is_ready(at_end)),
        }
    }

    fn open(&mut self, block: &Waiting) {
        let content = match block.kind {
            Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Kind::Text => json!({"type": "text", "text": ""}),
            Kind::Call(number) => {
                self.finish.calls = true;
                let call = self.call(number);
                let id = call.and_then(|call| call.id.clone());
                json!({
                    "type": "tool_use",
                    "id": id.unwrap_or_else(|| self.context.tool_use_id(number)),
                    "name": call.and_then(|call| call.name.clone()).unwrap_or_default(),
                    "input": {},
                })
            }
        };
        let index = self.next_index;
        self.emit(
            "content_block_start",
            &json!({"index": index, "content_block": content}),
        );
        self.open = Some(block.kind);
        self.delta(block.kind, &block.text);
    }

    fn delta(&mut self, kind: Kind, text: &str) {
        if text.is_empty() {
            return;
        }
        let delta = match kind {
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
            Kind::Text => json!({"type": "text_delta", "text": text}),
            Kind::Call(_) => json!({"type": "input_json_delta", "partial_json": text}),
        };
        let index = self.next_index;
        self.emit(
            "content_block_delta",
            &json!({"index": index, "delta": delta}),
        );
    }

    fn close(&mut self, kind: Kind) {
        if let Kind::Call(number) = kind {
            let rest = self.calls.get_mut(number).and_then(Call::close);
            self.delta(kind, &rest.unwrap_or_default());
        }
        let index = self.next_index;
        self.emit("content_block_stop", &json!({"index": index}));
        self.next_index = index.saturating_add(1);
        self.open = None;
    }
}

#[cfg(test)]
mod tests;

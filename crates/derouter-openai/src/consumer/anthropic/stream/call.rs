//! A tool call whose parts come one after another.

use serde_json::{Map, Value};

use crate::consumer::anthropic::openai;

/// A tool call, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// Its number, of servers that give one.
    index: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    arguments: Arguments,
    /// Its block is over.
    pub(super) closed: bool,
}

/// The arguments, as far as they have come.
#[derive(Debug, Default)]
enum Arguments {
    /// Nothing but white space.
    #[default]
    Empty,
    /// An object, which is passed on as it comes.
    Object(Nesting),
    /// Something else, kept until it is whole: clients can read objects only.
    Other(String),
}

/// Where in a JSON text its end is. It need not be right for what is no JSON: that a call is over
/// only decides when the next one may begin.
#[derive(Debug, Default)]
struct Nesting {
    depth: u64,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_text,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if !self.in_text => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// The call that a part belongs to; `None` when it begins one.
pub(super) fn find(calls: &[Call], part: &Value) -> Option<usize> {
    let index = part.get("index").and_then(Value::as_u64);
    let id = openai::call_id(part);
    let found = match (index, id) {
        (Some(_), _) => calls.iter().rposition(|call| call.index == index),
        (None, Some(id)) => calls
            .iter()
            .rposition(|call| call.id.as_deref() == Some(id)),
        // Without number and id: a name begins a call, and the rest goes on with the last one.
        (None, None) if openai::call_name(part).is_some() => None,
        (None, None) => calls.len().checked_sub(1),
    }?;
    // Some servers give the same number to each call, and only the ids differ.
    let known = calls.get(found)?.id.as_deref();
    let is_another = id.is_some() && known.is_some() && id != known;
    (!is_another || openai::call_name(part).is_none()).then_some(found)
}

/// Whether a part has no arguments.
pub(super) fn is_blank(part: &Value) -> bool {
    openai::call_arguments(part).trim().is_empty()
}

impl Call {
    /// The call that a part begins. [`Call::take`] is for its content.
    pub(super) fn new(part: &Value) -> Self {
        Self {
            index: part.get("index").and_then(Value::as_u64),
            ..Self::default()
        }
    }

    /// Takes a part; returns what of its arguments can be passed on.
    pub(super) fn take(&mut self, part: &Value) -> String {
        if self.id.is_none() {
            self.id = openai::call_id(part).map(str::to_owned);
        }
        if self.name.is_none() {
            self.name = openai::call_name(part).map(str::to_owned);
        }
        let text = openai::call_arguments(part);
        if matches!(self.arguments, Arguments::Empty) {
            let text = text.trim_start();
            self.arguments = match text.chars().next() {
                None => Arguments::Empty,
                Some('{') => Arguments::Object(Nesting::default()),
                Some(_) => Arguments::Other(String::new()),
            };
            return self.pass(text);
        }
        self.pass(&text)
    }

    fn pass(&mut self, text: &str) -> String {
        match &mut self.arguments {
            Arguments::Empty => String::new(),
            Arguments::Object(nesting) => {
                nesting.read(text);
                text.to_owned()
            }
            Arguments::Other(held) => {
                held.push_str(text);
                String::new()
            }
        }
    }

    /// Bytes that are kept until the call is over.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.arguments {
            Arguments::Other(held) => held.len(),
            _ => 0,
        }
    }

    /// Whether its block can be opened: what the client is told first is there, or won't come.
    pub(super) fn is_ready(&self, at_end: bool) -> bool {
        let begun = at_end || self.id.is_some() || !matches!(self.arguments, Arguments::Empty);
        self.name.is_some() && begun
    }

    /// Whether its arguments are whole.
    pub(super) fn is_complete(&self) -> bool {
        matches!(&self.arguments, Arguments::Object(nesting) if nesting.depth == 0)
    }

    /// Its block is over. Returns the rest of its arguments.
    pub(super) fn close(&mut self) -> Option<String> {
        self.closed = true;
        let Arguments::Other(held) = std::mem::take(&mut self.arguments) else {
            return None;
        };
        let input = openai::tool_input(&held);
        (input != Value::Object(Map::new())).then(|| input.to_string())
    }
}

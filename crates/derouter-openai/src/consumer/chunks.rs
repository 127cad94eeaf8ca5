//! What a client can count on in the chunks of a stream, whatever a provider's backend sends: a role
//! first and once, a reason for each end, calls of tools by whole indices with id and name first and
//! once, and the usage in a chunk of its own for those who ask. All else stays as it came. Pure, but
//! for the ids that it gives to calls that have none.

use axum::body::Bytes;
use bytes::BytesMut;
use rand::Rng;
use serde_json::{Map, Value, json};

use super::relay::data;
use super::request::Asked;
use super::tally::is_usage_chunk;
use crate::meter::whole;
use crate::terms::Endpoint;

/// Calls of an answer that are looked after, over all choices. More than any model makes; those beyond
/// pass as they are.
const MAX_CALLS: usize = 1024;

/// The longest id of a call that is remembered, in bytes. Servers' have under a hundred.
const MAX_ID_BYTES: usize = 256;

/// The longest id or model of an answer that chunks made here say again.
const MAX_NAME_BYTES: usize = 1024;

/// What names an answer in each of its chunks.
const NAMES: [&str; 4] = ["id", "object", "created", "model"];

/// The chunks of one answer.
pub(super) struct Chunks {
    is_chat: bool,
    include_usage: bool,
    /// The client wants the usage so far in every chunk.
    continuous_usage: bool,
    /// The chunk that holds nothing but the usage has come.
    usage_came: bool,
    /// The latest usage that came beside a choice.
    usage: Option<Value>,
    names: Map<String, Value>,
    /// Choices by index, of which OpenAI allows 128: those that began, and those that have ended.
    begun: u128,
    ended: u128,
    calls: Vec<Call>,
}

/// A call of a tool.
struct Call {
    choice: u64,
    /// The index that the backend gives it, if it gives one.
    given: Option<u64>,
    /// The index that the client knows.
    index: u64,
    /// Its id, as the backend gave it.
    id: Option<String>,
    named: bool,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Corrected {
    /// It passes as it is.
    As,
    /// It passes as it is now.
    Changed,
    /// There is nothing in it for the client.
    Nothing,
}

impl Chunks {
    pub(super) fn new(asked: &Asked) -> Self {
        let options = asked.fields.get("stream_options");
        let continuous = options.and_then(|options| options.get("continuous_usage_stats"));
        Self {
            is_chat: asked.endpoint == Endpoint::Chat,
            include_usage: asked.include_usage,
            continuous_usage: continuous.and_then(Value::as_bool).unwrap_or(false),
            usage_came: false,
            usage: None,
            names: Map::new(),
            begun: 0,
            ended: 0,
            calls: Vec::new(),
        }
    }

    /// Whether the client waits for a usage that has not come.
    pub(super) fn wants_usage(&self) -> bool {
        self.include_usage && !self.usage_came
    }

    /// Makes a chunk what OpenAI's own would be, where it is not.
    pub(super) fn correct(&mut self, chunk: &mut Value) -> Corrected {
        let is_usage = is_usage_chunk(chunk);
        self.usage_came |= is_usage;
        let Some(fields) = chunk.as_object_mut() else {
            return Corrected::Nothing;
        };
        if is_usage && !self.include_usage {
            return Corrected::Nothing;
        }
        let mut changed = false;
        if is_usage && !fields.contains_key("choices") {
            // Clients look into the choices of every chunk; some servers leave them out here.
            fields.insert("choices".to_owned(), json!([]));
            changed = true;
        }
        if !is_usage {
            changed |= self.take_usage(fields);
        }
        if self.names.is_empty() {
            let names = NAMES.iter();
            let told = names.filter_map(|name| {
                let value = fields.get(*name).filter(|value| is_short(value))?;
                Some(((*name).to_owned(), value.clone()))
            });
            self.names = told.collect();
        }
        let Some(choices) = fields.get_mut("choices").and_then(Value::as_array_mut) else {
            return Corrected::Nothing;
        };
        for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
            changed |= self.choice(choice);
        }
        match changed {
            true => Corrected::Changed,
            false => Corrected::As,
        }
    }

    /// Takes the usage out of a chunk with choices: clients add up what they find, so that it may come
    /// once, and OpenAI's comes alone.
    fn take_usage(&mut self, fields: &mut Map<String, Value>) -> bool {
        if !self.include_usage {
            // As OpenAI: the field is there only if it was asked for. The order of fields does not
            // matter, so the cheaper removal will do.
            return fields.swap_remove("usage").is_some();
        }
        if self.continuous_usage || !fields.get("usage").is_some_and(Value::is_object) {
            return false;
        }
        self.usage = fields.swap_remove("usage");
        true
    }

    fn choice(&mut self, choice: &mut Map<String, Value>) -> bool {
        let mut changed = false;
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        let finish = choice.entry("finish_reason").or_insert_with(|| {
            changed = true;
            Value::Null
        });
        if !finish.is_null() {
            self.ended |= bit(index);
        }
        let is_first = self.begun & bit(index) == 0;
        self.begun |= bit(index);
        if !self.is_chat {
            return changed;
        }
        if !choice.get("delta").is_some_and(Value::is_object) {
            choice.insert("delta".to_owned(), json!({}));
            changed = true;
        }
        let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else {
            return changed;
        };
        if bit(index) != 0 {
            changed |= say_role(delta, is_first);
        }
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten().filter_map(Value::as_object_mut) {
            changed |= self.call(index, call);
        }
        changed
    }

    fn call(&mut self, choice: u64, delta: &mut Map<String, Value>) -> bool {
        let given = delta.get("index").and_then(whole_number);
        let id = filled(delta.get("id"));
        let named = filled(function(delta).and_then(|function| function.get("name"))).is_some();
        let known = self.known(choice, given, id.as_deref(), named);
        if let Some(call) = known.and_then(|place| self.calls.get_mut(place)) {
            return call.go_on(delta);
        }
        if self.calls.len() >= MAX_CALLS {
            return false;
        }
        let call = self.new_call(choice, given, id, named);
        let changed = call.begin(delta);
        self.calls.push(call);
        changed
    }

    /// The place of the call that a delta goes on with. Some servers give each call the same index, and some each
    /// delta another id: a new call has a name.
    fn known(
        &self,
        choice: u64,
        given: Option<u64>,
        id: Option<&str>,
        named: bool,
    ) -> Option<usize> {
        let all = self.calls.iter().enumerate().rev();
        let mut own = all.filter(|(_, call)| call.choice == choice);
        let found = if given.is_some() {
            let (place, call) = own.find(|(_, call)| call.given == given)?;
            let is_another = named && call.named && id.is_some() && call.id.as_deref() != id;
            return (!is_another).then_some(place);
        } else if id.is_some() {
            own.find(|(_, call)| call.id.as_deref() == id)
        } else {
            own.next().filter(|_| !named)
        };
        found.map(|(place, _)| place)
    }

    fn new_call(&self, choice: u64, given: Option<u64>, id: Option<String>, named: bool) -> Call {
        let own = || self.calls.iter().filter(|call| call.choice == choice);
        let is_free = |index: &u64| own().all(|call| call.index != *index);
        let next = || own().map(|call| call.index.saturating_add(1)).max();
        Call {
            choice,
            given,
            index: given.filter(is_free).or_else(next).unwrap_or(0),
            id: id.filter(|id| id.len() <= MAX_ID_BYTES),
            named,
        }
    }

    /// What is missing when the answer has ended: reasons for the end of choices, which some servers do
    /// not give, the usage in a chunk of its own, and the end of the stream.
    pub(super) fn close(&mut self, done: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        let open = self.begun & !self.ended;
        for index in (0..u128::BITS)
            .map(u64::from)
            .filter(|index| open & bit(*index) != 0)
        {
            out.extend_from_slice(&data(&self.end_of(index)));
        }
        self.ended |= open;
        if let Some(usage) = self.usage.take().filter(|_| self.wants_usage()) {
            let chunk = self.chunk([("choices", json!([])), ("usage", usage)]);
            out.extend_from_slice(&data(&chunk));
            self.usage_came = true;
        }
        out.extend_from_slice(done);
        out.freeze()
    }

    fn end_of(&self, index: u64) -> Value {
        let calls = self.calls.iter().any(|call| call.choice == index);
        let reason = if calls { "tool_calls" } else { "stop" };
        let choice = match self.is_chat {
            true => json!({"index": index, "delta": {}, "finish_reason": reason}),
            false => json!({"index": index, "text": "", "finish_reason": reason}),
        };
        self.chunk([("choices", json!([choice]))])
    }

    fn chunk<const N: usize>(&self, more: [(&str, Value); N]) -> Value {
        let mut chunk = self.names.clone();
        chunk.extend(more.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(chunk)
    }
}

/// Whether a value may be said again in each chunk that is made here, of which there may be many.
fn is_short(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= MAX_NAME_BYTES,
        Value::Number(_) | Value::Bool(_) | Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

impl Call {
    /// Makes the first delta of a call say all that only the first one says.
    fn begin(&self, delta: &mut Map<String, Value>) -> bool {
        let mut changed = self.set_index(delta);
        if filled(delta.get("id")).is_none() {
            let id: u128 = rand::rng().random();
            delta.insert("id".to_owned(), json!(format!("call_{id:032x}")));
            changed = true;
        }
        if filled(delta.get("type")).is_none() {
            delta.insert("type".to_owned(), json!("function"));
            changed = true;
        }
        changed | arguments_are_text(delta)
    }

    /// Takes out of a further delta what clients would append to what they have.
    fn go_on(&mut self, delta: &mut Map<String, Value>) -> bool {
        let mut changed = self.set_index(delta);
        if filled(delta.get("id")).is_some() {
            delta.shift_remove("id");
            changed = true;
        }
        let function = delta.get_mut("function").and_then(Value::as_object_mut);
        if let Some(function) = function
            && filled(function.get("name")).is_some()
        {
            if self.named {
                function.shift_remove("name");
                changed = true;
            }
            self.named = true;
        }
        changed | arguments_are_text(delta)
    }

    fn set_index(&self, delta: &mut Map<String, Value>) -> bool {
        if delta.get("index").and_then(Value::as_u64) == Some(self.index) {
            return false;
        }
        delta.insert("index".to_owned(), json!(self.index));
        true
    }
}

/// Says the role in the first delta of a choice and in no other: client libraries that join deltas
/// would read "assistantassistant". 0.1 consumers need it in each, so providers repeat it.
fn say_role(delta: &mut Map<String, Value>, is_first: bool) -> bool {
    if !is_first {
        return delta.shift_remove("role").is_some();
    }
    if filled(delta.get("role")).is_some() {
        return false;
    }
    delta.insert("role".to_owned(), json!("assistant"));
    true
}

/// Some servers give arguments as the object that they stand for.
fn arguments_are_text(delta: &mut Map<String, Value>) -> bool {
    let function = delta.get_mut("function").and_then(Value::as_object_mut);
    let arguments = function.and_then(|function| function.get_mut("arguments"));
    match arguments {
        Some(arguments) if arguments.is_object() => {
            *arguments = json!(arguments.to_string());
            true
        }
        _ => false,
    }
}

fn function(delta: &Map<String, Value>) -> Option<&Map<String, Value>> {
    delta.get("function").and_then(Value::as_object)
}

/// A text that is not empty.
fn filled(value: Option<&Value>) -> Option<String> {
    let text = value.and_then(Value::as_str);
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A whole number, however it is written.
fn whole_number(value: &Value) -> Option<u64> {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| whole(value))
}

/// A choice's place; none beyond those that are looked after.
fn bit(index: u64) -> u128 {
    let shift = u32::try_from(index).ok();
    shift
        .and_then(|shift| 1_u128.checked_shl(shift))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;

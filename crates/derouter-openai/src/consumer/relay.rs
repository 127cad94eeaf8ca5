//! A streamed answer on its way to the client: each value becomes a server-sent event as it comes.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, is_epilogue};
use super::attempt::error_message;
use super::tally::is_usage_chunk;
use crate::frames::ReadValueError;

/// The end of a complete stream.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// What keeps proxies and clients from giving up: a comment.
pub(super) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// A chunk's usual size as an event.
const EVENT_BYTES: usize = 512;

/// A streamed answer on its way.
struct Relay {
    /// `None` once it has ended.
    answer: Option<Answer>,
    /// The first value, until it is sent.
    first: Option<Value>,
    /// When the whole answer must have come.
    ends_at: Instant,
    /// Since when the provider is waited for.
    waiting_since: Option<Instant>,
    /// When the client was last sent something.
    said_at: Instant,
    roles: Roles,
}

/// The choices whose role the client knows, by index. 0.1 consumers need the role in every delta, so
/// providers repeat it; OpenAI says it once, and client libraries that join deltas would read
/// "assistantassistant".
#[derive(Default)]
pub(super) struct Roles(u128);

impl Roles {
    /// Takes the role out of deltas whose choice has had one. True when there was one to take.
    pub(super) fn say_once(&mut self, chunk: &mut Value) -> bool {
        let mut taken = false;
        let choices = chunk.get_mut("choices").and_then(Value::as_array_mut);
        for choice in choices.into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            // OpenAI allows 128 choices; more are passed on as they are.
            let Some(bit) = u32::try_from(index)
                .ok()
                .and_then(|index| 1_u128.checked_shl(index))
            else {
                continue;
            };
            let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else {
                continue;
            };
            if !delta.contains_key("role") {
                continue;
            }
            if self.0 & bit != 0 {
                delta.shift_remove("role");
                taken = true;
            }
            self.0 |= bit;
        }
        taken
    }
}

/// What waiting for the provider led to.
enum Waited {
    Value(Value),
    /// Nothing yet: the client is owed a sign of life.
    Quiet,
    /// Nothing will come any more.
    Over(&'static str),
}

/// The body of a streamed answer. When it is dropped before its end, so is the job.
pub(crate) fn body(answer: Answer, first: Value) -> Body {
    let total = answer.gateway.config.deadlines.streamed_answer;
    let relay = Relay {
        answer: Some(answer),
        first: Some(first),
        ends_at: Instant::now() + total,
        waiting_since: None,
        said_at: Instant::now(),
        roles: Roles::default(),
    };
    let events = futures::stream::unfold(relay, |mut relay| async {
        let event = relay.next_event().await?;
        Some((Ok::<_, Infallible>(event), relay))
    });
    Body::from_stream(events)
}

impl Relay {
    /// The next bytes for the client; `None` at the end.
    async fn next_event(&mut self) -> Option<Bytes> {
        loop {
            let mut value = match self.first.take() {
                Some(first) => first,
                None => match self.wait().await? {
                    Waited::Value(value) => value,
                    Waited::Quiet => {
                        self.said_at = Instant::now();
                        return Some(KEEP_ALIVE);
                    }
                    Waited::Over(why) => return self.over(why),
                },
            };
            if is_epilogue(&value) {
                return self.epilogue(value);
            }
            if error_message(&value).is_some() || !value.is_object() {
                return self.over("the provider reported an error in the middle of the answer");
            }
            self.roles.say_once(&mut value);
            let include_usage = self.answer.as_ref()?.asked.include_usage;
            // A value that says nothing is no sign of life.
            if is_usage_chunk(&value) {
                self.waiting_since = None;
            }
            if let Some(event) = event(value, include_usage) {
                self.waiting_since = None;
                self.said_at = Instant::now();
                return Some(event);
            }
        }
    }

    /// Waits for the provider, but not longer than the client wants to hear something.
    async fn wait(&mut self) -> Option<Waited> {
        let answer = self.answer.as_mut()?;
        let deadlines = answer.gateway.config.deadlines;
        let patience = if answer.complete() {
            deadlines.done
        } else {
            deadlines.next_value
        };
        let now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        let over_at = (since + patience).min(self.ends_at);
        let wake_at = over_at.min(self.said_at + deadlines.keep_alive);
        let waited = match timeout_at(wake_at, answer.reader.next::<Value>()).await {
            Ok(Ok(value)) => {
                answer.count(&value);
                Waited::Value(value)
            }
            Ok(Err(ReadValueError::Ended)) => Waited::Over("the provider ended the stream early"),
            Ok(Err(_)) => Waited::Over("the connection to the provider broke"),
            Err(_) if wake_at < over_at => Waited::Quiet,
            Err(_) => Waited::Over("the provider went silent"),
        };
        answer.tally.waited(now.elapsed());
        Some(waited)
    }

    /// Nothing more comes from the provider's side in time. That is the end of a complete answer,
    /// whose bill may still come, and an error otherwise.
    fn over(&mut self, why: &'static str) -> Option<Bytes> {
        let answer = self.answer.take()?;
        if answer.complete() {
            answer.settle_later();
            return Some(DONE);
        }
        answer.break_off(why);
        Some(error_event(why))
    }

    /// The provider's last value came. The bill is checked here, which takes microseconds, and
    /// signed in the background.
    fn epilogue(&mut self, epilogue: Value) -> Option<Bytes> {
        let answer = self.answer.take()?;
        if !answer.tally.ended() {
            let why = "the provider billed it before its end";
            answer.break_off(why);
            return Some(error_event(why));
        }
        answer.settle(epilogue);
        Some(DONE)
    }
}

impl Drop for Relay {
    /// The client went away. If it has read its answer, which some do without waiting for
    /// `[DONE]`, the provider gets its due; else the job is given up, and the provider cancels.
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take_if(|answer| answer.complete()) {
            answer.settle_later();
        }
    }
}

/// A chunk as an event, unless it is the usage that nobody asked for, or nothing that an OpenAI
/// client could read.
fn event(mut chunk: Value, include_usage: bool) -> Option<Bytes> {
    let is_usage = is_usage_chunk(&chunk);
    if is_usage && !include_usage {
        return None;
    }
    let fields = chunk.as_object_mut()?;
    if is_usage {
        // Clients look into the choices of every chunk; some servers leave them out here.
        fields.entry("choices").or_insert_with(|| json!([]));
    }
    if !include_usage {
        // As OpenAI: the field is there only if it was asked for. The order of fields does not
        // matter, so the cheaper removal will do.
        fields.swap_remove("usage");
    }
    fields.get("choices")?.as_array()?;
    Some(data(&chunk))
}

pub(super) fn data(value: &Value) -> Bytes {
    let mut text = Vec::with_capacity(EVENT_BYTES);
    text.extend_from_slice(b"data: ");
    // Values from the wire have text keys only, so this can't fail; and if it did, the client
    // would see a broken event and not a wrong one.
    let _ = serde_json::to_writer(&mut text, value);
    text.extend_from_slice(b"\n\n");
    Bytes::from(text)
}

/// An error after the first byte, as OpenAI's own server sends it.
pub(super) fn error_event(why: &str) -> Bytes {
    data(&json!({"error": {
        "message": format!("The answer broke off: {why}."),
        "type": "server_error",
        "param": null,
        "code": "provider_failed",
    }}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(event: Option<Bytes>) -> Option<String> {
        event.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn the_role_of_each_choice_is_said_once() {
        let mut roles = Roles::default();
        let said = |roles: &mut Roles, index: u64| {
            let mut chunk = json!({"choices": [{"index": index, "delta": {"role": "assistant", "content": "a"}}]});
            roles.say_once(&mut chunk);
            assert_eq!(chunk["choices"][0]["delta"]["content"], "a");
            chunk["choices"][0]["delta"].get("role").is_some()
        };
        assert!(said(&mut roles, 0));
        assert!(!said(&mut roles, 0));
        assert!(said(&mut roles, 1));
        assert!(!said(&mut roles, 1));
        assert!(said(&mut roles, 1_000), "no shift beyond the mask");
        let mut odd = json!({"choices": [{"delta": "x"}, 1], "model": "m"});
        roles.say_once(&mut odd);
    }

    #[test]
    fn the_usage_is_for_those_who_asked() {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 1}});
        assert_eq!(event(usage.clone(), false), None);
        let shown = text(event(usage, true)).unwrap();
        assert_eq!(
            shown,
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n"
        );
        let chunk = json!({"choices": [{"delta": {"content": "a\n\nb"}}], "usage": null});
        let shown = text(event(chunk, false)).unwrap();
        assert_eq!(
            shown,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\\n\\nb\"}}]}\n\n"
        );
    }

    #[test]
    fn a_chunk_without_choices_that_is_no_usage_passes() {
        let filter = json!({"choices": [], "prompt_filter_results": []});
        assert!(event(filter, false).is_some());
        assert_eq!(
            event(json!({"ping": 1}), true),
            None,
            "no client could read it"
        );
        let bare = text(event(json!({"usage": {}}), true)).unwrap();
        assert_eq!(bare, "data: {\"usage\":{},\"choices\":[]}\n\n");
    }
}

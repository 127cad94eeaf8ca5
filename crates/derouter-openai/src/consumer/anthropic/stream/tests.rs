use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::consumer::anthropic::answer;

fn context() -> Context {
    Context {
        message_id: "msg_7".into(),
        model: "m".into(),
        stop_sequences: vec!["END".into()],
        show_thinking: true,
    }
}

/// All events of a stream.
fn events_of(context: Context, chunks: &[Value]) -> Vec<Event> {
    let mut translation = Translation::new(context);
    let mut events = Vec::new();
    for chunk in chunks {
        events.extend(translation.chunk(chunk));
    }
    events.extend(translation.end());
    assert!(translation.ended() && translation.end().is_empty());
    assert!(translation.fail("too late").is_empty());
    events
}

/// A client that joins events to a message. `None` for a stream that ended with an error. Panics
/// when the events are not well formed.
fn joined(events: &[Event]) -> Option<Value> {
    let mut events = events.iter();
    let first = events.next().unwrap();
    if first.name == "error" {
        assert!(events.next().is_none());
        return None;
    }
    assert_eq!(first.name, "message_start");
    let mut message = first.data["message"].clone();
    let mut content = Vec::new();
    let mut open: Option<(Value, String)> = None;
    let mut has_delta = false;
    for event in events {
        assert_eq!(event.data["type"], event.name);
        assert_ne!(message["ended"], true, "nothing follows the end");
        let index = json!(content.len());
        match event.name {
            "ping" => {}
            "content_block_start" => {
                assert!(open.is_none() && !has_delta);
                assert_eq!(event.data["index"], index);
                open = Some((event.data["content_block"].clone(), String::new()));
            }
            "content_block_delta" => {
                assert_eq!(event.data["index"], index);
                let (block, text) = open.as_mut().unwrap();
                let delta = &event.data["delta"];
                let (kind, field) = match block["type"].as_str().unwrap() {
                    "text" => ("text_delta", "text"),
                    "thinking" => ("thinking_delta", "thinking"),
                    _ => ("input_json_delta", "partial_json"),
                };
                assert_eq!(delta["type"], kind);
                let piece = delta[field].as_str().unwrap();
                assert!(!piece.is_empty());
                text.push_str(piece);
            }
            "content_block_stop" => {
                assert_eq!(event.data["index"], index);
                let (mut block, text) = open.take().unwrap();
                match block["type"].as_str().unwrap().to_owned().as_str() {
                    "tool_use" if text.is_empty() => {}
                    "tool_use" => {
                        let input = serde_json::from_str(&text);
                        block["input"] = input.unwrap_or_else(|_| json!({"INVALID_JSON": text}));
                    }
                    kind => block[kind] = text.into(),
                }
                content.push(block);
            }
            "message_delta" => {
                assert!(open.is_none() && !has_delta);
                has_delta = true;
                message["stop_reason"] = event.data["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event.data["delta"]["stop_sequence"].clone();
                message["usage"] = event.data["usage"].clone();
            }
            "message_stop" => {
                assert!(has_delta);
                message["ended"] = true.into();
            }
            "error" => {
                assert!(!has_delta);
                message["ended"] = true.into();
                message["failed"] = true.into();
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(message["ended"], true);
    if message["failed"] == true {
        return None;
    }
    message.as_object_mut().unwrap().shift_remove("ended");
    message["content"] = content.into();
    Some(message)
}

fn delta(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}], "usage": null})
}

fn part(index: u64, id: &str, name: &str, arguments: &str) -> Value {
    let mut call = json!({"index": index, "function": {"arguments": arguments}});
    if !id.is_empty() {
        call["id"] = id.into();
    }
    if !name.is_empty() {
        call["function"]["name"] = name.into();
    }
    delta(&json!({"tool_calls": [call]}))
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3}})
}

fn content(chunks: &[Value]) -> Value {
    joined(&events_of(context(), chunks)).unwrap()["content"].clone()
}

#[test]
fn a_text_comes_as_one_block() {
    let chunks = [
        delta(&json!({"role": "assistant", "content": ""})),
        delta(&json!({"content": "Hel"})),
        delta(&json!({"content": "lo"})),
        finish("stop"),
        usage(),
    ];
    let mut translation = Translation::new(context());
    let mut text = Vec::new();
    for chunk in &chunks {
        for event in translation.chunk(chunk) {
            event.write(&mut text);
        }
    }
    assert!(translation.ended(), "the usage is the last");
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_7","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

event: ping
data: {"type":"ping"}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":10,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":3}}

event: message_stop
data: {"type":"message_stop"}

"#
    );
}

#[test]
fn several_calls_come_one_after_another_as_they_are_written() {
    let chunks = [
        delta(&json!({"content": "I look."})),
        part(0, "a", "f", ""),
        part(0, "", "", "{\"x\":"),
        part(0, "", "", "1}"),
        part(1, "b", "g", ""),
        part(1, "", "", "{}"),
    ];
    let mut translation = Translation::new(context());
    let mut seen = Vec::new();
    for chunk in &chunks {
        let names = translation.chunk(chunk).into_iter().map(|event| event.name);
        seen.push(names.collect::<Vec<_>>().join(" "));
    }
    assert_eq!(
        seen,
        [
            "message_start ping content_block_start content_block_delta",
            "content_block_stop content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop content_block_start",
            "content_block_delta",
        ]
    );
    assert_eq!(
        content(&chunks),
        json!([
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        ])
    );
}

#[test]
fn mixed_calls_are_put_in_order() {
    let chunks = [
        part(0, "a", "f", "{"),
        part(1, "b", "g", "{"),
        delta(&json!({"content": "between"})),
        part(0, "", "", "\"x\": \"}\\\"\""),
        part(1, "", "", "\"y\": 2}"),
        part(0, "", "", "}"),
        delta(&json!({"content": "after"})),
        finish("tool_calls"),
    ];
    assert_eq!(
        content(&chunks),
        json!([
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "}\""}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {"y": 2}},
            {"type": "text", "text": "betweenafter"},
        ])
    );
}

#[test]
fn calls_of_servers_with_ways_of_their_own_are_told_apart() {
    let no_index = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": "{}"}});
    let together = delta(&json!({"tool_calls": [no_index("a"), no_index("b")]}));
    assert_eq!(content(&[together]).as_array().unwrap().len(), 2);
    let same_index = [part(0, "a", "f", "{}"), part(0, "b", "f", "{}")];
    assert_eq!(content(&same_index)[1]["id"], "b");
    let id_each_time = [part(0, "a", "f", "{"), part(0, "a", "f", "}")];
    assert_eq!(content(&id_each_time).as_array().unwrap().len(), 1);
    let no_ids = [part(0, "", "f", "{}"), part(1, "", "f", "null")];
    let ids = content(&no_ids);
    assert_eq!(
        (&ids[0]["id"], &ids[1]["id"]),
        (&json!("toolu_7_0"), &json!("toolu_7_1"))
    );
    assert_eq!(ids[1]["input"], json!({}));
    let late_name = [
        part(0, "a", "", ""),
        part(0, "", "f", ""),
        part(0, "", "", "{}"),
    ];
    assert_eq!(content(&late_name)[0]["name"], "f");
    assert_eq!(
        content(&[part(0, "a", "", "{}")]),
        json!([]),
        "a call of nothing"
    );
    let odd = [part(0, "a", "f", "[1"), part(0, "", "", "]")];
    assert_eq!(content(&odd)[0]["input"], json!({"INVALID_JSON": "[1]"}));
}

#[test]
fn thinking_and_text_alternate() {
    let chunks = [
        delta(&json!({"reasoning_content": "hm"})),
        delta(&json!({"reasoning": "m"})),
        delta(&json!({"content": "A"})),
        delta(&json!({"reasoning_content": "so", "content": "B"})),
    ];
    assert_eq!(
        content(&chunks),
        json!([
            {"type": "thinking", "thinking": "hmm", "signature": ""},
            {"type": "text", "text": "A"},
            {"type": "thinking", "thinking": "so", "signature": ""},
            {"type": "text", "text": "B"},
        ])
    );
    let hidden = joined(&events_of(Context::default(), &chunks)).unwrap();
    assert_eq!(hidden["content"], json!([{"type": "text", "text": "AB"}]));
}

#[test]
fn an_error_in_the_middle_is_told_and_is_the_last() {
    let mut translation = Translation::new(context());
    translation.chunk(&delta(&json!({"content": "Hel"})));
    let events = translation.chunk(&json!({"error": {"message": "It broke.", "code": "x"}}));
    let expected = json!({"type": "error", "error": {"type": "api_error", "message": "It broke."}});
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].data, expected);
    assert!(translation.ended());
    assert!(translation.chunk(&finish("stop")).is_empty());
}

#[test]
fn a_call_that_goes_on_after_its_end_is_an_error() {
    let chunks = |late: &str| {
        let second = part(1, "b", "g", "{}");
        [part(0, "a", "f", "{}"), second, part(0, "", "", late)]
    };
    assert!(joined(&events_of(context(), &chunks(" "))).is_some());
    assert!(joined(&events_of(context(), &chunks("{}"))).is_none());
}

#[test]
fn what_waits_is_bounded() {
    let mut translation = Translation::new(context());
    translation.chunk(&part(0, "a", "f", "{"));
    let large = delta(&json!({"content": "x".repeat(1 << 20)}));
    let ended = (0..8).any(|_| {
        translation.chunk(&large);
        translation.ended()
    });
    assert!(ended && translation.waiting.is_empty());

    let mut translation = Translation::new(context());
    let held = part(0, "a", "f", &"x".repeat(1 << 20));
    assert!((0..8).any(|_| {
        translation.chunk(&held);
        translation.ended()
    }));

    let mut translation = Translation::new(context());
    let numbers = 0..=u64::try_from(MAX_CALLS).unwrap();
    for number in numbers {
        assert!(!translation.ended());
        translation.chunk(&part(number, "", "f", "{}"));
    }
    assert!(translation.ended());
}

#[test]
fn only_the_first_choice_is_read() {
    let other =
        json!({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]});
    let message = joined(&events_of(context(), &[other, finish("stop")])).unwrap();
    assert_eq!(message["content"], json!([]));
    assert_eq!(message["stop_reason"], "end_turn");
}

/// Chunks of the fields that the translation looks at, with anything in them.
fn any_chunk() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!("x")),
        Just(json!(" ")),
        Just(json!("{")),
        Just(json!("}")),
        Just(json!("\"")),
        Just(json!("\\")),
        Just(json!(1)),
        Just(json!([{"text": "p"}, 1])),
        Just(json!({"k": {}})),
    ];
    let index = prop_oneof![
        Just(Value::Null),
        Just(json!(-1)),
        (0_u64..4).prop_map(Value::from)
    ];
    let part = (index.clone(), text.clone(), text.clone(), text.clone()).prop_map(
        |(index, id, name, arguments)| json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}}),
    );
    let parts = proptest::collection::vec(part, 0..3);
    let reason = prop_oneof![
        8 => Just(Value::Null),
        1 => Just(json!("stop")),
        1 => Just(json!("length")),
        1 => Just(json!(7)),
    ];
    let choice = (index, text.clone(), text.clone(), text.clone(), parts, reason).prop_map(
        |(index, content, reasoning, refusal, parts, reason)| {
            json!({"index": index, "finish_reason": reason, "delta":
                {"content": content, "reasoning": reasoning, "refusal": refusal, "tool_calls": parts}})
        },
    );
    prop_oneof![
        12 => proptest::collection::vec(choice, 0..3).prop_map(|choices| json!({"choices": choices})),
        1 => Just(usage()),
        1 => text.prop_map(|any| json!({"choices": any, "usage": any})),
        1 => Just(json!([])),
    ]
}

/// A whole answer.
fn any_message() -> impl Strategy<Value = Value> {
    let text = "[a-zé\"\\\\{}]{0,12}";
    let call = (text, "[a-z]{1,8}").prop_map(|(value, name)| {
        let arguments = json!({"k": value, "l": [1, {}]}).to_string();
        json!({"id": format!("id-{name}"), "function": {"name": name, "arguments": arguments}})
    });
    let calls = proptest::collection::vec(call, 0..4);
    (text, text, calls).prop_map(|(reasoning, content, calls)| {
        json!({"reasoning_content": reasoning, "content": content, "tool_calls": calls})
    })
}

/// Cuts a text into pieces of so many characters.
fn pieces(text: &str, size: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters
        .chunks(size)
        .map(|piece| piece.iter().collect())
        .collect()
}

/// An answer as a server would stream it.
fn streamed(message: &Value, finish_reason: &str, size: usize) -> Vec<Value> {
    let mut chunks = vec![delta(&json!({"role": "assistant", "content": ""}))];
    for field in ["reasoning_content", "content"] {
        for piece in pieces(message[field].as_str().unwrap(), size) {
            chunks.push(delta(&json!({field: piece})));
        }
    }
    for (index, call) in message["tool_calls"].as_array().unwrap().iter().enumerate() {
        let mut named = call.clone();
        named["index"] = index.into();
        named["function"]["arguments"] = "".into();
        chunks.push(delta(&json!({"tool_calls": [named]})));
        for piece in pieces(call["function"]["arguments"].as_str().unwrap(), size) {
            chunks.push(part(u64::try_from(index).unwrap(), "", "", &piece));
        }
    }
    chunks.extend([finish(finish_reason), usage()]);
    chunks
}

proptest! {
    #[test]
    fn any_chunks_give_well_formed_events(chunks in proptest::collection::vec(any_chunk(), 0..24), shown in any::<bool>()) {
        let context = Context { show_thinking: shown, ..context() };
        joined(&events_of(context, &chunks));
    }

    #[test]
    fn a_plain_answer_and_the_same_as_a_stream_say_the_same(
        message in any_message(),
        reason in prop_oneof![Just("stop"), Just("length"), Just("tool_calls"), Just("content_filter")],
        size in 1_usize..6,
        shown in any::<bool>(),
    ) {
        let context = Context { show_thinking: shown, ..context() };
        let completion = json!({
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": usage()["usage"],
        });
        let plain = answer::message(&completion, &context);
        let chunks = streamed(&message, reason, size);
        prop_assert_eq!(joined(&events_of(context, &chunks)), plain);
    }

    #[test]
    fn calls_that_come_mixed_are_those_that_were_sent(
        message in any_message(),
        order in proptest::collection::vec(0_usize..4, 0..80),
    ) {
        let calls = message["tool_calls"].as_array().unwrap();
        let mut rest: HashMap<usize, Vec<String>> = HashMap::new();
        let mut chunks = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let mut cut = pieces(call["function"]["arguments"].as_str().unwrap(), 3);
            cut.reverse();
            rest.insert(index, cut);
            let (id, name) = (call["id"].as_str().unwrap(), call["function"]["name"].as_str().unwrap());
            chunks.push(part(u64::try_from(index).unwrap(), id, name, ""));
        }
        let whole = (0..calls.len()).flat_map(|index| std::iter::repeat_n(index, 80));
        for index in order.into_iter().chain(whole) {
            if let Some(piece) = rest.get_mut(&index).and_then(Vec::pop) {
                chunks.push(part(u64::try_from(index).unwrap(), "", "", &piece));
            }
        }
        let only_calls = json!({"content": null, "tool_calls": calls});
        let completion = json!({"choices": [{"message": only_calls}]});
        let plain = answer::message(&completion, &context()).unwrap();
        prop_assert_eq!(&content(&chunks), &plain["content"]);
    }
}

use super::*;
use crate::protocol;

fn chunks(options: &Value) -> Chunks {
    let request = json!({"model": "m", "messages": [], "stream": true, "stream_options": options});
    let text = request.to_string();
    Chunks::new(&Asked::parse(protocol::Endpoint::Chat, text.as_bytes()).unwrap())
}

fn delta(delta: &Value) -> Value {
    json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

/// What a client joins of the calls of deltas, by index, as the simplest of them do.
fn joined(deltas: &[Value]) -> Vec<(u64, String, String, String)> {
    let mut chunks = chunks(&json!({}));
    let mut calls: Vec<(u64, String, String, String)> = Vec::new();
    for calls_of in deltas {
        let mut chunk = delta(&json!({"tool_calls": calls_of}));
        chunks.correct(&mut chunk);
        for call in chunk["choices"][0]["delta"]["tool_calls"]
            .as_array()
            .unwrap()
        {
            let index = call["index"].as_u64().unwrap();
            if !calls.iter().any(|known| known.0 == index) {
                assert_eq!(call["type"], "function", "{call}");
                assert!(filled(call.get("id")).is_some(), "{call}");
                calls.push((index, String::new(), String::new(), String::new()));
            }
            let known = calls.iter_mut().find(|known| known.0 == index).unwrap();
            known.1 += call["id"].as_str().unwrap_or_default();
            known.2 += call["function"]["name"].as_str().unwrap_or_default();
            known.3 += call["function"]["arguments"].as_str().unwrap_or_default();
        }
    }
    calls
}

fn call(index: u64, id: &str, name: &str, arguments: &str) -> (u64, String, String, String) {
    (index, id.into(), name.into(), arguments.into())
}

#[test]
fn the_role_of_each_choice_is_said_first_and_once() {
    let mut chunks = chunks(&json!({}));
    let mut said = |index: u64, role: &Value| {
        let mut chunk = json!({"choices": [{"index": index, "delta": {"content": "a"}}]});
        if !role.is_null() {
            chunk["choices"][0]["delta"]["role"] = role.clone();
        }
        chunks.correct(&mut chunk);
        assert_eq!(chunk["choices"][0]["delta"]["content"], "a");
        chunk["choices"][0]["delta"].get("role").cloned()
    };
    let assistant = json!("assistant");
    assert_eq!(said(0, &assistant), Some(assistant.clone()));
    assert_eq!(said(0, &assistant), None);
    assert_eq!(said(1, &Value::Null), Some(assistant.clone()));
    assert_eq!(said(1, &Value::Null), None);
    assert_eq!(said(2, &json!("")), Some(assistant.clone()));
    for _ in 0..2 {
        let beyond = said(1_000, &assistant);
        assert_eq!(beyond.as_ref(), Some(&assistant), "passes as it is");
    }
    let mut odd = json!({"choices": [{"delta": "x"}, 1], "model": "m"});
    assert_eq!(chunks.correct(&mut odd), Corrected::Changed);
    assert_eq!(odd["choices"][0]["delta"], json!({}));
}

#[test]
fn a_chunk_that_is_right_is_not_touched() {
    let mut chunks = chunks(&json!({"include_usage": true}));
    let call = json!([{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}]);
    let more = json!([{"index": 0, "function": {"arguments": "{}"}}]);
    for right in [
        delta(&json!({"role": "assistant", "content": "", "reasoning_content": "hm"})),
        delta(&json!({"tool_calls": call})),
        delta(&json!({"tool_calls": more, "new_field": 1})),
        json!({"choices": [], "usage": {"prompt_tokens": 1}}),
        json!({"choices": [], "prompt_filter_results": [], "usage": null}),
    ] {
        let mut chunk = right.clone();
        assert_eq!(chunks.correct(&mut chunk), Corrected::As, "{right}");
        assert_eq!(chunk, right);
    }
}

#[test]
fn calls_have_whole_indices_and_say_id_and_name_once() {
    let begin = |index: Value, id: &str| json!({"index": index, "id": id, "function": {"name": "f", "arguments": "{"}});
    let more = |index: Value, id: &str| json!({"index": index, "id": id, "function": {"name": "f", "arguments": "}"}});
    for index in [json!(0), json!(0.0), json!("0")] {
        let deltas = [
            json!([begin(index.clone(), "a")]),
            json!([more(index, "a")]),
        ];
        assert_eq!(joined(&deltas), [call(0, "a", "f", "{}")]);
    }
    // Another id in each delta, of which only the first has the name.
    let nameless = json!([{"index": 0, "id": "b", "function": {"arguments": "}"}}]);
    let deltas = [json!([begin(json!(0), "a")]), nameless];
    assert_eq!(joined(&deltas), [call(0, "a", "f", "{}")]);
}

#[test]
fn calls_without_indices_or_with_the_same_are_told_apart() {
    let whole = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": "{}"}});
    let expected = [call(0, "a", "f", "{}"), call(1, "b", "f", "{}")];
    assert_eq!(joined(&[json!([whole("a"), whole("b")])]), expected);
    assert_eq!(
        joined(&[json!([whole("a")]), json!([whole("b")])]),
        expected
    );
    let same =
        |id: &str| json!([{"index": 0, "id": id, "function": {"name": "f", "arguments": "{}"}}]);
    assert_eq!(joined(&[same("a"), same("b")]), expected);
    let rest = json!([{"function": {"arguments": "}"}}]);
    let first = json!([{"id": "a", "function": {"name": "f", "arguments": "{"}}]);
    assert_eq!(joined(&[first, rest]), [call(0, "a", "f", "{}")]);
}

#[test]
fn a_call_without_id_gets_one_and_arguments_are_text() {
    let calls = joined(&[json!([{"index": 0, "function": {"name": "f", "arguments": {"x": 1}}}])]);
    let [(0, id, name, arguments)] = calls.as_slice() else {
        panic!("{calls:?}");
    };
    assert!(id.starts_with("call_") && name == "f", "{calls:?}");
    assert_eq!(arguments, r#"{"x":1}"#);
    let other = joined(&[json!([{"index": 0, "function": {"name": "f"}}])]);
    assert_ne!(other.first().map(|call| &call.1), Some(id));
}

#[test]
fn calls_beyond_what_is_looked_after_pass_as_they_are() {
    let mut chunks = chunks(&json!({}));
    let many: Vec<Value> = (0..MAX_CALLS + 5)
        .map(|index| json!({"index": index, "id": "x"}))
        .collect();
    let mut chunk = delta(&json!({"role": "assistant", "tool_calls": many}));
    chunks.correct(&mut chunk);
    assert_eq!(chunks.calls.len(), MAX_CALLS);
}

#[test]
fn the_usage_is_for_those_who_asked_and_comes_once_and_alone() {
    let usage = json!({"prompt_tokens": 1});
    let alone = json!({"choices": [], "usage": usage});
    assert_eq!(
        chunks(&json!({})).correct(&mut alone.clone()),
        Corrected::Nothing
    );
    let mut bare = json!({"usage": usage});
    let mut asked = chunks(&json!({"include_usage": true}));
    assert_eq!(asked.correct(&mut bare), Corrected::Changed);
    assert_eq!(bare, json!({"usage": usage, "choices": []}));
    assert!(!asked.wants_usage());
    let mut none = json!({"ping": 1});
    assert_eq!(
        asked.correct(&mut none),
        Corrected::Nothing,
        "no client could read it"
    );

    let mut beside = delta(&json!({"role": "assistant"}));
    beside["usage"] = usage.clone();
    let mut asked = chunks(&json!({"include_usage": true}));
    let mut taken = beside.clone();
    assert_eq!(asked.correct(&mut taken), Corrected::Changed);
    assert_eq!(taken.get("usage"), None);
    let closed = asked.close(b"end");
    let text = String::from_utf8(closed.to_vec()).unwrap();
    assert!(
        text.ends_with(
            "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\nend"
        ),
        "{text}"
    );
    assert_eq!(asked.close(b"end"), "end", "nothing is said twice");

    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    assert_eq!(chunks(&options).correct(&mut beside), Corrected::As);
}

#[test]
fn an_answer_without_a_reason_for_its_end_gets_one() {
    let mut open = chunks(&json!({}));
    open.correct(&mut delta(&json!({"role": "assistant", "content": "a"})));
    let text = String::from_utf8(open.close(b"").to_vec()).unwrap();
    assert!(
        text.contains(r#""finish_reason":"stop""#) && text.contains(r#""id":"c""#),
        "{text}"
    );
    let mut calling = chunks(&json!({}));
    calling.correct(&mut delta(
        &json!({"tool_calls": [{"index": 0, "id": "a"}]}),
    ));
    let text = String::from_utf8(calling.close(b"").to_vec()).unwrap();
    assert!(text.contains(r#""finish_reason":"tool_calls""#), "{text}");
    let mut ended = chunks(&json!({}));
    ended.correct(&mut json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}));
    assert_eq!(ended.close(b""), "");
}

#[test]
fn a_long_name_is_not_said_again_for_each_choice() {
    let mut chunks = chunks(&json!({}));
    let choices: Vec<_> = (0..100)
        .map(|index| json!({"index": index, "delta": {"content": "x"}, "finish_reason": null}))
        .collect();
    let mut first = json!({"id": "c", "model": "m".repeat(100_000), "choices": choices});
    chunks.correct(&mut first);
    let end = chunks.close(b"");
    assert!(end.len() < 100 * 200, "{}", end.len());
    assert!(end.starts_with(b"data: "));
}

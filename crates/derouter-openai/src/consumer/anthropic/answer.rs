//! A plain OpenAI completion as an Anthropic message.

use serde_json::{Value, json};

use super::Context;
use super::openai::{self, Finish};

/// The message; `None` when the completion holds none.
pub(crate) fn message(completion: &Value, context: &Context) -> Option<Value> {
    let choice = completion.get("choices")?.as_array()?.first()?;
    let message = choice
        .get("message")
        .filter(|message| message.is_object())?;
    let mut finish = Finish::default();
    finish.read(choice);
    let content = content(message, context, &mut finish);
    let (stop_reason, stop_sequence) = finish.stop(context);
    Some(json!({
        "id": context.message_id,
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": openai::usage(completion.get("usage")),
    }))
}

fn content(message: &Value, context: &Context, finish: &mut Finish) -> Vec<Value> {
    let mut blocks = Vec::new();
    let reasoning = openai::reasoning(message);
    if context.show_thinking && !reasoning.is_empty() {
        // Nobody signs it here. Clients want the field all the same.
        blocks.push(json!({"type": "thinking", "thinking": reasoning, "signature": ""}));
    }
    let refusal = openai::refusal(message);
    finish.refused = !refusal.is_empty();
    let text = format!("{}{refusal}", openai::text(message));
    if !text.is_empty() {
        blocks.push(json!({"type": "text", "text": text}));
    }
    for (position, call) in openai::tool_calls(message).enumerate() {
        // A call of nothing can't be made.
        let Some(name) = openai::call_name(call) else {
            continue;
        };
        finish.calls = true;
        let id = openai::call_id(call).map(str::to_owned);
        blocks.push(json!({
            "type": "tool_use",
            "id": id.unwrap_or_else(|| context.tool_use_id(position)),
            "name": name,
            "input": openai::tool_input(&openai::call_arguments(call)),
        }));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            message_id: "msg_7".into(),
            model: "m".into(),
            stop_sequences: vec!["END".into()],
            show_thinking: true,
        }
    }

    fn answered(message: &Value, finish: &str) -> Value {
        let completion = json!({"choices": [{"message": message, "finish_reason": finish}]});
        super::message(&completion, &context()).unwrap()
    }

    #[test]
    fn a_text_comes_with_its_end_and_its_usage() {
        let completion = json!({
            "id": "chatcmpl-1", "model": "other",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 4}},
        });
        assert_eq!(
            message(&completion, &context()).unwrap(),
            json!({
                "id": "msg_7", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": "Hi"}],
                "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": 6, "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 4, "output_tokens": 3},
            })
        );
    }

    #[test]
    fn tool_calls_become_blocks_with_parsed_input() {
        let call = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
        let message = json!({"content": null, "tool_calls": [
            call("a", json!("{\"x\": [1]}")), call("b", json!("")), call("", json!("not json")),
            call("d", json!({"y": 1})), call("e", json!("[1]")), {"id": "f", "function": {}}, 3,
        ]});
        let answer = answered(&message, "stop");
        let blocks = answer["content"].as_array().unwrap().iter();
        let inputs: Vec<_> = blocks
            .map(|block| (&block["id"], &block["input"]))
            .collect();
        assert_eq!(
            json!(inputs),
            json!([
                ["a", {"x": [1]}],
                ["b", {}],
                ["toolu_7_2", {"INVALID_JSON": "not json"}],
                ["d", {"y": 1}],
                ["e", {"INVALID_JSON": "[1]"}],
            ])
        );
        assert_eq!(answer["stop_reason"], "tool_use");
    }

    #[test]
    fn thinking_is_shown_to_those_who_asked() {
        for name in ["reasoning_content", "reasoning"] {
            let completion = json!({"choices": [{"message": {name: "hm", "content": "Hi"}}]});
            let shown = message(&completion, &context()).unwrap();
            let thinking = json!({"type": "thinking", "thinking": "hm", "signature": ""});
            assert_eq!(shown["content"][0], thinking);
            assert_eq!(shown["content"][1]["text"], "Hi");
            let hidden = message(&completion, &Context::default()).unwrap();
            assert_eq!(hidden["content"], json!([{"type": "text", "text": "Hi"}]));
        }
    }

    #[test]
    fn each_end_has_its_reason() {
        let text = json!({"content": "Hi"});
        for (finish, reason) in [
            ("stop", "end_turn"),
            ("length", "max_tokens"),
            ("content_filter", "refusal"),
            ("tool_calls", "end_turn"),
            ("new_reason", "end_turn"),
        ] {
            assert_eq!(answered(&text, finish)["stop_reason"], reason, "{finish}");
        }
        let refused = answered(&json!({"content": null, "refusal": "I won't."}), "stop");
        assert_eq!(refused["stop_reason"], "refusal");
        assert_eq!(refused["content"][0]["text"], "I won't.");
    }

    #[test]
    fn a_stop_sequence_is_named_when_the_server_names_one_of_the_clients() {
        let stopped = |named: Value| {
            let choice =
                json!({"message": {"content": "x"}, "finish_reason": "stop", "stop_reason": named});
            let answer = message(&json!({"choices": [choice]}), &context()).unwrap();
            (
                answer["stop_reason"].clone(),
                answer["stop_sequence"].clone(),
            )
        };
        assert_eq!(
            stopped(json!("END")),
            (json!("stop_sequence"), json!("END"))
        );
        assert_eq!(stopped(json!("</s>")), (json!("end_turn"), Value::Null));
        assert_eq!(stopped(json!(128_001)), (json!("end_turn"), Value::Null));
    }

    #[test]
    fn what_is_no_completion_is_no_message() {
        for odd in [
            json!({}),
            json!([]),
            json!({"choices": []}),
            json!({"choices": {}}),
            json!({"choices": [{"text": "x"}]}),
        ] {
            assert_eq!(message(&odd, &context()), None);
        }
        let parts =
            json!({"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"text": "b"}]});
        assert_eq!(answered(&parts, "stop")["content"][0]["text"], "ab");
        assert_eq!(
            answered(&json!({"content": 3}), "stop")["content"],
            json!([])
        );
    }
}

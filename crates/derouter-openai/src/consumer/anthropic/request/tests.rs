use proptest::prelude::*;

use super::*;
use crate::consumer::request::Asked;
use crate::protocol::Endpoint;

/// A small request with more fields.
fn request(more: &Value) -> Map<String, Value> {
    let mut request =
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request.as_object().unwrap().clone()
}

fn asked(more: &Value) -> Translated {
    translate(request(more), Purpose::Answer).unwrap()
}

fn fields(more: &Value) -> Value {
    asked(more).fields.into()
}

fn refused(more: &Value) -> String {
    translate(request(more), Purpose::Answer).unwrap_err().0
}

#[test]
fn a_small_request_is_a_small_request() {
    let expected =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9});
    assert_eq!(fields(&json!({})), expected);
    assert_eq!(
        fields(&json!({"system": null, "tools": [], "stop_sequences": []})),
        expected
    );
}

#[test]
fn options_get_their_other_names() {
    let out = asked(&json!({
        "stream": true, "stop_sequences": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "metadata": {"user_id": "u", "x": 1}, "system": "s",
    }));
    assert!(out.stream && !out.show_thinking);
    assert_eq!(out.stop_sequences, ["END"]);
    let fields = Value::from(out.fields);
    assert_eq!(fields["messages"][0]["role"], "system");
    assert_eq!(fields["stream_options"], json!({"include_usage": true}));
    assert_eq!(fields["stop"], json!(["END"]));
    assert_eq!(fields["user"], "u");
    assert_eq!(fields["top_k"], 40);
    assert_eq!(fields.get("metadata"), None);
    assert_eq!(fields.get("stop_sequences"), None);
}

#[test]
fn harmless_fields_pass_and_anthropics_own_are_left_out() {
    let out = fields(
        &json!({"seed": 7, "min_p": 0.1, "x": {"y": 1}, "service_tier": "auto",
        "cache_control": {"type": "ephemeral"}, "context_management": {"edits": []}, "mcp_servers": []}),
    );
    assert_eq!((&out["seed"], &out["x"]), (&json!(7), &json!({"y": 1})));
    for left_out in ["service_tier", "cache_control", "context_management"] {
        assert_eq!(out.get(left_out), None, "{left_out}");
    }
}

#[test]
fn what_would_make_another_request_is_refused() {
    for name in FOREIGN {
        assert_eq!(
            refused(&json!({name: 2})),
            format!("{name}: Extra inputs are not permitted")
        );
    }
    let servers = refused(&json!({"mcp_servers": [{"url": "https://x.example"}]}));
    assert_eq!(servers, "mcp_servers: is not supported here");
}

#[test]
fn tools_become_functions() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}});
    let tool = json!({"name": "f", "description": "d", "input_schema": schema, "strict": true,
        "cache_control": {"type": "ephemeral"}});
    let out = |choice: Value| fields(&json!({"tools": [tool], "tool_choice": choice}));
    let made = out(json!({"type": "auto"}));
    assert_eq!(
        made["tools"],
        json!([{"type": "function", "function":
            {"name": "f", "description": "d", "parameters": schema, "strict": true}}])
    );
    assert_eq!(made["tool_choice"], "auto");
    assert_eq!(made.get("parallel_tool_calls"), None);
    let any = out(json!({"type": "any", "disable_parallel_tool_use": true}));
    assert_eq!(
        (&any["tool_choice"], &any["parallel_tool_calls"]),
        (&json!("required"), &json!(false))
    );
    assert_eq!(out(json!({"type": "none"}))["tool_choice"], "none");
    assert_eq!(
        out(json!({"type": "tool", "name": "f"}))["tool_choice"],
        json!({"type": "function", "function": {"name": "f"}})
    );
}

#[test]
fn tools_that_only_anthropic_has_are_refused() {
    let search = json!({"type": "web_search_20250305", "name": "web_search"});
    let message = refused(&json!({"tools": [search]}));
    assert!(
        message.starts_with("tools.0: tools of type web_search_20250305 are Anthropic's own"),
        "{message}"
    );
    assert_eq!(
        refused(&json!({"tools": [{"name": "f"}]})),
        "tools.0.input_schema: must be an object"
    );
    assert_eq!(
        refused(&json!({"tool_choice": {"type": "any"}})),
        "tool_choice: there are no tools to choose from"
    );
    assert_eq!(
        fields(&json!({"tool_choice": {"type": "auto"}})).get("tool_choice"),
        None
    );
}

#[test]
fn thinking_becomes_an_effort() {
    let of = |budget: u64| {
        let out = asked(&json!({"thinking": {"type": "enabled", "budget_tokens": budget}}));
        assert!(out.show_thinking);
        out.fields["reasoning_effort"].clone()
    };
    assert_eq!(
        (of(1024), of(10_000), of(31_999)),
        (json!("low"), json!("medium"), json!("high"))
    );
    let adaptive = asked(&json!({"thinking": {"type": "adaptive"}}));
    assert!(adaptive.show_thinking && !adaptive.fields.contains_key("reasoning_effort"));
    let with_effort = json!({"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "max"}});
    let with_effort = asked(&with_effort);
    assert!(!with_effort.show_thinking);
    assert_eq!(with_effort.fields["reasoning_effort"], "high");
    let none = asked(&json!({"output_config": {"effort": "low"}}));
    assert!(!none.fields.contains_key("reasoning_effort"));
    let own = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "reasoning_effort": "minimal"});
    assert_eq!(fields(&own)["reasoning_effort"], "minimal");
    assert!(refused(&json!({"thinking": {"type": "enabled"}})).contains("budget_tokens"));
}

#[test]
fn a_schema_for_the_answer_becomes_a_response_format() {
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    for field in [
        json!({"output_config": {"format": format}}),
        json!({"output_format": format}),
    ] {
        let made = fields(&field);
        assert_eq!(made["response_format"]["type"], "json_schema");
        let schema = &made["response_format"]["json_schema"]["schema"];
        assert_eq!(schema, &json!({"type": "object"}));
        assert_eq!(made.get("output_format"), None);
    }
}

#[test]
fn wrong_types_are_refused_with_their_place() {
    for (more, message) in [
        (
            json!({"model": ""}),
            "model: the name of a model is required",
        ),
        (json!({"max_tokens": null}), "max_tokens: Field required"),
        (
            json!({"max_tokens": 0}),
            "max_tokens: must be a whole number above 0",
        ),
        (
            json!({"max_tokens": "9"}),
            "max_tokens: must be a whole number above 0",
        ),
        (json!({"stream": 1}), "stream: must be true or false"),
        (
            json!({"stop_sequences": "x"}),
            "stop_sequences: must be an array of texts",
        ),
        (
            json!({"temperature": "hot"}),
            "temperature: must be a number",
        ),
        (json!({"tools": {}}), "tools: must be an array"),
        (
            json!({"tool_choice": "auto"}),
            "tool_choice: type must be auto, any, tool or none",
        ),
        (
            json!({"output_config": {"effort": "x"}}),
            "output_config.effort: is not a known effort",
        ),
    ] {
        assert_eq!(refused(&more), message);
    }
}

#[test]
fn tokens_are_counted_without_a_limit_of_the_answer() {
    let mut without = request(&json!({}));
    without.shift_remove("max_tokens");
    assert!(translate(without.clone(), Purpose::Answer).is_err());
    assert!(translate(without, Purpose::Count).is_ok());
}

#[test]
fn a_request_of_a_coding_agent_is_translated() {
    let cached = json!({"type": "ephemeral"});
    let schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
        "properties": {"path": {"type": "string"}}, "required": ["path"], "additionalProperties": false});
    let more = json!({
        "system": [
            {"type": "text", "text": "You are an agent."},
            {"type": "text", "text": "Be careful.", "cache_control": cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<reminder>x</reminder>"},
                {"type": "text", "text": "Read it.", "cache_control": cached}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "call_1", "name": "Read", "input": {"path": "a"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1",
                "content": [{"type": "text", "text": "text of a"}], "cache_control": cached}]},
        ],
        "tools": [{"name": "Read", "description": "Reads a file.", "input_schema": schema,
            "cache_control": cached, "eager_input_streaming": true}],
        "metadata": {"user_id": "user_1"},
        "max_tokens": 32_000,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "betas": ["interleaved-thinking-2025-05-14"],
        "stream": true,
    });
    let out = Value::from(asked(&more).fields);
    assert_eq!(
        out,
        json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "You are an agent.\nBe careful."},
                {"role": "user", "content": "<reminder>x</reminder>\nRead it."},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
                    "function": {"name": "Read", "arguments": "{\"path\":\"a\"}"}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": "text of a"},
            ],
            "max_tokens": 32_000,
            "stream": true,
            "stream_options": {"include_usage": true},
            "tools": [{"type": "function", "function":
                {"name": "Read", "description": "Reads a file.", "parameters": schema}}],
            "user": "user_1",
            "reasoning_effort": "medium",
        })
    );
}

/// Any JSON of the words that the translation looks for.
fn any_value() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("text"),
        Just("image"),
        Just("base64"),
        Just("url"),
        Just("tool_use"),
        Just("tool_result"),
        Just("document"),
        Just("user"),
        Just("assistant"),
        Just("enabled"),
        Just("auto"),
        Just("any"),
        Just("https://x.example"),
    ];
    let name = prop_oneof![
        Just("type"),
        Just("text"),
        Just("role"),
        Just("content"),
        Just("source"),
        Just("url"),
        Just("id"),
        Just("name"),
        Just("input"),
        Just("tool_use_id"),
        Just("input_schema"),
        Just("budget_tokens"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..9).prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let fields = proptest::collection::vec((name.clone(), inner.clone()), 0..5);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            fields.prop_map(|fields| {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(fields.collect())
            }),
        ]
    })
}

/// Fields of the API with any content.
fn any_fields() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let name = prop_oneof![
        Just("messages"),
        Just("system"),
        Just("tools"),
        Just("tool_choice"),
        Just("thinking"),
        Just("stream"),
        Just("stop_sequences"),
        Just("metadata"),
        Just("output_config"),
        Just("seed"),
        Just("prompt"),
    ];
    proptest::collection::vec((name, any_value()), 0..4)
}

proptest! {
    #[test]
    fn what_is_translated_is_a_chat_that_the_gateway_takes(more in any_fields()) {
        let mut fields = request(&json!({}));
        fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if let Ok(out) = translate(fields, Purpose::Answer) {
            let text = Value::from(out.fields.clone()).to_string();
            let taken = Asked::parse(Endpoint::Chat, text.as_bytes()).unwrap();
            prop_assert_eq!(taken.stream, out.stream);
            prop_assert_eq!(taken.include_usage, out.stream);
            prop_assert_eq!(taken.fields, out.fields);
            for message in taken_messages(&text) {
                let role = message["role"].as_str().unwrap();
                prop_assert!(["system", "user", "assistant", "tool"].contains(&role));
            }
        }
    }
}

fn taken_messages(text: &str) -> Vec<Value> {
    let fields: Value = serde_json::from_str(text).unwrap();
    fields["messages"].as_array().unwrap().clone()
}

//! The calls that well-known programs make, as they make them: method, path, headers and body, taken
//! from the source of Open WebUI 0.12.4, SillyTavern 1.19.0, Continue (core 1.1.0, openai-adapters
//! 1.37.0), and aider 0.86.2 with its litellm 1.81.10. The call of Claude Code has the shape of the
//! Messages API and headers of its kind; its source was not read.

use derouter_testkit::backend::answer::{self, Kind};
use derouter_testkit::{Pair, http};
use reqwest::Method;
use serde_json::{Value, json};

use super::{MODEL, NARROW, weather};

/// What a program takes from an answer.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// The ids of a list of models.
    Models,
    /// The text of a chat in one piece.
    Chat,
    /// The text of a chat, or of a completion, from events, line by line.
    ChatEvents,
    TextEvents,
    /// A chat's events, and the usage in the last.
    ChatEventsAndUsage,
    /// The name of a call in events.
    CallEvents,
    /// Vectors, one for each text.
    Vectors,
    /// Events of the Responses API.
    ResponseEvents,
    /// The text of a message in Anthropic's events.
    MessageEvents,
}

/// A call.
struct Call {
    program: &'static str,
    method: Method,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Value,
    reads: Reads,
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// What the openai packages send with each request; aider does through litellm.
const STAINLESS: &[(&str, &str)] = &[
    JSON,
    ("Accept", "application/json"),
    ("Authorization", "Bearer any"),
    ("User-Agent", "OpenAI/Python 2.20.0"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-Package-Version", "2.20.0"),
    ("X-Stainless-OS", "Linux"),
    ("X-Stainless-Arch", "x64"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.11.7"),
    ("X-Stainless-Async", "false"),
    ("X-Stainless-Raw-Response", "true"),
    ("X-Stainless-Retry-Count", "0"),
    ("X-Stainless-Read-Timeout", "600.0"),
];

const CONTINUE: &[(&str, &str)] = &[JSON, ("Authorization", "Bearer any"), ("api-key", "any")];

const OPEN_WEBUI: &[(&str, &str)] = &[
    JSON,
    ("Authorization", "Bearer any"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("User-Agent", "Python/3.11 aiohttp/3.14.5"),
];

/// Without a key it sends what JavaScript makes of none.
const SILLY_TAVERN: &[(&str, &str)] = &[
    JSON,
    ("Authorization", "Bearer null"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("User-Agent", "node-fetch"),
];

fn messages() -> Value {
    json!([{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Say some words"}])
}

fn call(
    program: &'static str,
    headers: &'static [(&'static str, &'static str)],
    path: &'static str,
    body: Value,
    reads: Reads,
) -> Call {
    Call {
        program,
        method: Method::POST,
        path,
        headers,
        body,
        reads,
    }
}

fn list(program: &'static str, headers: &'static [(&'static str, &'static str)]) -> Call {
    Call {
        method: Method::GET,
        ..call(program, headers, "/models", Value::Null, Reads::Models)
    }
}

fn open_webui() -> Vec<Call> {
    let name = "Open WebUI";
    let chat = "/chat/completions";
    let streamed = json!({"stream": true, "model": MODEL, "messages": messages(),
        "stream_options": {"include_usage": true}, "temperature": 0.7, "max_tokens": 500});
    let title =
        json!({"model": MODEL, "messages": messages(), "stream": false, "max_tokens": 1000});
    let tools = json!({"stream": true, "model": MODEL, "messages": messages(), "tools": weather()});
    let vectors = json!({"input": ["some words", "more"], "model": MODEL});
    let response = json!({"model": MODEL, "stream": true, "store": false, "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]});
    vec![
        list(name, &OPEN_WEBUI[1..]),
        call(name, OPEN_WEBUI, chat, streamed, Reads::ChatEventsAndUsage),
        call(name, OPEN_WEBUI, chat, title, Reads::Chat),
        call(name, OPEN_WEBUI, chat, tools, Reads::CallEvents),
        call(name, OPEN_WEBUI, "/embeddings", vectors, Reads::Vectors),
        call(
            name,
            OPEN_WEBUI,
            "/responses",
            response,
            Reads::ResponseEvents,
        ),
    ]
}

fn silly_tavern() -> Vec<Call> {
    let name = "SillyTavern";
    let chat = json!({"messages": messages(), "model": MODEL, "temperature": 1, "max_tokens": 300,
        "stream": true, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "logit_bias": {},
        "stop": ["\nUser:"], "custom_field": true});
    let mut plain = chat.clone();
    plain["stream"] = json!(false);
    let text = json!({"model": MODEL, "prompt": "Alice: hello\nBob:", "stream": true,
        "temperature": 0.7, "top_p": 0.5, "frequency_penalty": 0, "presence_penalty": 0,
        "stop": ["\nAlice:", "\nBob:"], "seed": 7, "max_tokens": 250, "n": 1, "logit_bias": {}});
    vec![
        list(name, &SILLY_TAVERN[1..]),
        call(
            name,
            SILLY_TAVERN,
            "/chat/completions",
            chat,
            Reads::ChatEvents,
        ),
        call(name, SILLY_TAVERN, "/chat/completions", plain, Reads::Chat),
        call(name, SILLY_TAVERN, "/completions", text, Reads::TextEvents),
    ]
}

fn continue_() -> Vec<Call> {
    let name = "Continue";
    let chat = json!({"messages": messages(), "model": MODEL, "max_tokens": 4096, "temperature": 0.5,
        "stream": true, "stop": [], "stream_options": {"include_usage": true}});
    let agent = json!({"messages": messages(), "model": MODEL, "stream": true, "tools": weather(),
        "stream_options": {"include_usage": true}});
    let complete = json!({"model": MODEL, "prompt": "fn main() {", "max_tokens": 100, "temperature": 0.01,
        "stop": ["\n\n", "```"], "stream": true});
    let vectors = json!({"input": ["fn a() {}", "fn b() {}", "fn c() {}"], "model": MODEL});
    vec![
        list(name, CONTINUE),
        call(
            name,
            CONTINUE,
            "/chat/completions",
            chat,
            Reads::ChatEventsAndUsage,
        ),
        call(
            name,
            CONTINUE,
            "/chat/completions",
            agent,
            Reads::CallEvents,
        ),
        call(name, CONTINUE, "/completions", complete, Reads::TextEvents),
        call(name, CONTINUE, "/embeddings", vectors, Reads::Vectors),
    ]
}

fn aider() -> Vec<Call> {
    let name = "aider";
    let edit = json!({"messages": messages(), "model": MODEL, "stream": true, "temperature": 0});
    let commit = json!({"messages": messages(), "model": MODEL, "temperature": 0});
    let function = json!({"messages": messages(), "model": MODEL, "stream": true, "temperature": 0,
        "tools": weather(), "tool_choice": {"type": "function", "function": {"name": "weather"}}});
    vec![
        call(
            name,
            STAINLESS,
            "/chat/completions",
            edit,
            Reads::ChatEvents,
        ),
        call(name, STAINLESS, "/chat/completions", commit, Reads::Chat),
        call(
            name,
            STAINLESS,
            "/chat/completions",
            function,
            Reads::CallEvents,
        ),
    ]
}

fn claude_code() -> Vec<Call> {
    const HEADERS: &[(&str, &str)] = &[
        JSON,
        ("Accept", "application/json"),
        ("Authorization", "Bearer any"),
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "claude-code-20250219,interleaved-thinking-2025-05-14",
        ),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("x-app", "cli"),
        ("User-Agent", "claude-cli/2.0 (external, cli)"),
    ];
    let text = |text: &str| json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]);
    let body = json!({"model": MODEL, "max_tokens": 32_000, "stream": true, "temperature": 1,
        "system": text("You are helpful."), "messages": [{"role": "user", "content": text("Say some words")}],
        "metadata": {"user_id": "user_1"}});
    vec![call(
        "Claude Code",
        HEADERS,
        "/messages?beta=true",
        body,
        Reads::MessageEvents,
    )]
}

/// The JSON of each line of data, as programs read that know no more of the format.
fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let json = lines
        .filter(|line| *line != "[DONE]")
        .map(serde_json::from_str);
    json.collect::<Result<_, _>>()
        .unwrap_or_else(|_| panic!("{text}"))
}

fn joined<'a>(events: &'a [Value], part: impl Fn(&'a Value) -> &'a Value) -> String {
    events
        .iter()
        .filter_map(|event| part(event).as_str())
        .collect()
}

impl Call {
    async fn make(&self, pair: &Pair) -> http::Answer {
        let url = format!("{}{}", pair.url(), self.path);
        let mut request = reqwest::Client::new().request(self.method.clone(), url);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        if !self.body.is_null() {
            request = request.body(self.body.to_string());
        }
        let response = request.send().await.unwrap();
        http::Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    fn check(&self, answer: &http::Answer) {
        let (text, body) = (answer.text(), answer.json());
        let shown = format!("{} {} {:?}: {text}", self.program, self.path, self.reads);
        assert_eq!(answer.status, 200, "{shown}");
        let said = answer::text(Kind::Chat, &json!({}), 8);
        let delta = |event: &Value| event["choices"][0]["delta"]["content"].clone();
        match self.reads {
            Reads::Models => {
                let models = body["data"].as_array().unwrap();
                let has = |id: &str| models.iter().any(|model| model["id"] == id);
                assert!(has(MODEL) && has(NARROW), "{shown}");
            }
            Reads::Chat => assert_eq!(body["choices"][0]["message"]["content"], said, "{shown}"),
            Reads::ChatEvents | Reads::ChatEventsAndUsage => {
                let events = lines(&text);
                let read: String = events
                    .iter()
                    .filter_map(|event| delta(event).as_str().map(str::to_owned))
                    .collect();
                assert_eq!(read, said, "{shown}");
                let wants_usage = matches!(self.reads, Reads::ChatEventsAndUsage);
                let usage = &events.last().unwrap()["usage"];
                assert_eq!(
                    usage["completion_tokens"].as_u64(),
                    wants_usage.then_some(8),
                    "{shown}"
                );
                assert!(text.ends_with("data: [DONE]\n\n"), "{shown}");
            }
            Reads::TextEvents => {
                let read = joined(&lines(&text), |event| &event["choices"][0]["text"]);
                assert_eq!(read, said, "{shown}");
            }
            Reads::CallEvents => {
                let events = lines(&text);
                let name = joined(&events, |event| {
                    &event["choices"][0]["delta"]["tool_calls"][0]["function"]["name"]
                });
                assert_eq!(name, "weather", "{shown}");
            }
            Reads::Vectors => {
                let vectors = body["data"].as_array().unwrap().iter();
                let vectors: Vec<&Value> = vectors.map(|item| &item["embedding"]).collect();
                assert_eq!(
                    vectors.len(),
                    self.body["input"].as_array().unwrap().len(),
                    "{shown}"
                );
                assert!(
                    vectors.iter().all(|vector| **vector == json!([0.25, -0.5])),
                    "{shown}"
                );
            }
            Reads::ResponseEvents => {
                let deltas = joined(&lines(&text), |event| &event["delta"]);
                assert_eq!(deltas, "Hello there", "{shown}");
            }
            Reads::MessageEvents => {
                let deltas = joined(&lines(&text), |event| &event["delta"]["text"]);
                assert_eq!(deltas, said, "{shown}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn well_known_programs_are_served() {
    let pair = super::pair(&Value::Null).await;
    for calls in [
        open_webui(),
        silly_tavern(),
        continue_(),
        aider(),
        claude_code(),
    ] {
        for call in calls {
            call.check(&call.make(&pair).await);
        }
    }
}

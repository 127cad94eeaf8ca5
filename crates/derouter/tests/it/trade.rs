//! What two people do with it: ask, be answered, pay. With both OpenAI packages, the modules
//! inside the nodes and as processes.

use derouter_testkit::backend::answer::{self, Kind, TOOL_ARGUMENTS};
use derouter_testkit::home::BACKEND_KEY;
use derouter_testkit::{Ledger, Modules, Outcome, Pair, Trade};
use serde_json::{Value, json};

use crate::DEROUTER;
use crate::client::{Client, Language, text_of, usages_of};

const MODEL: &str = "test-model";

/// Content chunks that the testkit's backend answers by default.
const CHUNKS: usize = 8;

fn chat() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]})
}

fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

fn streamed(body: Value) -> Value {
    with(body, "stream", true.into())
}

fn with_usage(body: Value) -> Value {
    with(
        streamed(body),
        "stream_options",
        json!({"include_usage": true}),
    )
}

/// One trade's actors.
struct Scene {
    pair: Pair,
    client: Client,
    ledger: Ledger,
}

/// What the backend counted for a request is what the consumer signed, at 1e12 and 2e12 wei.
fn check_price(trade: &Trade, usage: &Value) {
    let payload = trade.consumer.public_payload.as_deref().unwrap();
    let payload: Value = serde_json::from_str(payload).unwrap();
    assert_eq!(
        payload["usage"]["input"], usage["prompt_tokens"],
        "{payload}"
    );
    assert_eq!(
        payload["usage"]["output"], usage["completion_tokens"],
        "{payload}"
    );
    let [prompt, completion] =
        ["prompt_tokens", "completion_tokens"].map(|key| u128::from(usage[key].as_u64().unwrap()));
    let owed = (prompt + 2 * completion) * 1_000_000_000_000;
    assert_eq!(
        trade.consumer.balance_delta.as_deref(),
        Some(owed.to_string().as_str())
    );
}

impl Scene {
    async fn start(language: Language, modules: Modules) -> Option<Self> {
        // Before anything is started: without the package there is nothing to see.
        Client::start(language, "http://127.0.0.1:1/v1")?;
        let pair = Pair::start_with(DEROUTER, &[MODEL], modules).await;
        let client = Client::start(language, pair.url())?;
        let ledger = pair.ledger().await;
        Some(Self {
            pair,
            client,
            ledger,
        })
    }

    async fn models(&mut self) {
        let list = self.client.good("models", &json!({})).await;
        let ids: Vec<&str> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        assert_eq!(ids, [MODEL]);
        self.ledger.none().await;
    }

    async fn plain_chat(&mut self) {
        let body = chat();
        let answer = self.client.good("chat", &body).await;
        let choice = &answer["choices"][0];
        assert_eq!(
            choice["message"]["content"],
            answer::text(Kind::Chat, &body, CHUNKS)
        );
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["finish_reason"], "stop");
        let usage = answer::usage(Kind::Chat, &body, CHUNKS, None);
        assert_eq!(answer["usage"]["total_tokens"], usage["total_tokens"]);
        check_price(&self.ledger.one_signed().await, &usage);
    }

    async fn credentials_stay_apart(&mut self) {
        let seen = self.pair.backend.seen();
        assert!(!seen.is_empty());
        for request in seen {
            let expected = format!("Bearer {BACKEND_KEY}");
            assert_eq!(request.header("authorization"), Some(expected.as_str()));
            let all = format!("{:?}", request.headers);
            assert!(!all.contains("consumer-secret"), "{all}");
        }
    }

    async fn streamed_chat(&mut self) {
        let body = streamed(chat());
        let chunks = self.client.good("chat", &body).await;
        assert_eq!(text_of(&chunks), answer::text(Kind::Chat, &body, CHUNKS));
        assert!(
            usages_of(&chunks).is_empty(),
            "usage was not asked for: {chunks}"
        );
        let last = &chunks.as_array().unwrap().last().unwrap()["choices"][0];
        assert_eq!(last["finish_reason"], "stop");
        let usage = answer::usage(Kind::Chat, &body, CHUNKS, None);
        check_price(&self.ledger.one_signed().await, &usage);
    }

    async fn streamed_chat_with_usage(&mut self) {
        let body = with_usage(chat());
        let chunks = self.client.good("chat", &body).await;
        assert_eq!(text_of(&chunks), answer::text(Kind::Chat, &body, CHUNKS));
        let usage = answer::usage(Kind::Chat, &body, CHUNKS, None);
        let told = usages_of(&chunks);
        assert_eq!(told.len(), 1, "{chunks}");
        assert_eq!(told[0]["total_tokens"], usage["total_tokens"]);
        let last = chunks.as_array().unwrap().last().unwrap();
        assert_eq!(last["choices"], json!([]));
        check_price(&self.ledger.one_signed().await, &usage);
    }

    async fn the_packages_own_stream_helper(&mut self) {
        let answer = self.client.good("helper", &chat()).await;
        let content = &answer["choices"][0]["message"]["content"];
        assert_eq!(*content, answer::text(Kind::Chat, &chat(), CHUNKS));
        self.ledger.one_signed().await;
    }

    async fn usage_that_the_backend_does_not_tell_is_counted(&mut self) {
        let body = with(
            with_usage(chat()),
            "derouter_test",
            json!({"fault": "no-usage"}),
        );
        let chunks = self.client.good("chat", &body).await;
        assert_eq!(text_of(&chunks), answer::text(Kind::Chat, &body, CHUNKS));
        let told = usages_of(&chunks);
        assert_eq!(told.len(), 1, "{chunks}");
        assert!(told[0]["prompt_tokens"].as_u64().unwrap() > 0);
        assert!(told[0]["completion_tokens"].as_u64().unwrap() > 0);
        check_price(&self.ledger.one_signed().await, &told[0]);
    }

    async fn completions(&mut self) {
        let body = json!({"model": MODEL, "prompt": "Once upon a time"});
        let answer = self.client.good("completion", &body).await;
        let text = answer::text(Kind::Text, &body, CHUNKS);
        assert_eq!(answer["choices"][0]["text"], text);
        let usage = answer::usage(Kind::Text, &body, CHUNKS, None);
        check_price(&self.ledger.one_signed().await, &usage);

        let chunks = self
            .client
            .good("completion", &streamed(body.clone()))
            .await;
        assert_eq!(text_of(&chunks), text);
        assert!(usages_of(&chunks).is_empty(), "{chunks}");
        check_price(&self.ledger.one_signed().await, &usage);

        let chunks = self.client.good("completion", &with_usage(body)).await;
        assert_eq!(usages_of(&chunks).len(), 1, "{chunks}");
        self.ledger.one_signed().await;
    }

    async fn tool_calls(&mut self) {
        let tools = json!([{"type": "function", "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }}]);
        let body = with(chat(), "tools", tools);
        let answer = self.client.good("chat", &body).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
        let call = answer["choices"][0]["message"]["tool_calls"][0].clone();
        assert_eq!(call["function"]["name"], "weather");
        assert_eq!(call["function"]["arguments"], TOOL_ARGUMENTS);
        self.ledger.one_signed().await;

        let chunks = self.client.good("chat", &streamed(body.clone())).await;
        let deltas: Vec<&Value> = chunks
            .as_array()
            .unwrap()
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
            .collect();
        let arguments: String = deltas
            .iter()
            .filter_map(|call| call["function"]["arguments"].as_str())
            .collect();
        assert_eq!(arguments, TOOL_ARGUMENTS);
        let names: Vec<&str> = deltas
            .iter()
            .filter_map(|call| call["function"]["name"].as_str())
            .collect();
        assert_eq!(names, ["weather"]);
        self.ledger.one_signed().await;

        // The tool's result goes back with an assistant message whose content is null.
        let mut body = body;
        let messages = body["messages"].as_array_mut().unwrap();
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
        messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "21C"}));
        let answer = self.client.good("chat", &body).await;
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.starts_with("tool:21C "), "{content}");
        self.ledger.one_signed().await;
    }

    async fn image_parts(&mut self) {
        let image = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(40_000));
        let parts = json!([
            {"type": "text", "text": "What is on these?"},
            {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ]);
        let body = json!({"model": MODEL, "messages": [{"role": "user", "content": parts}]});
        let answer = self.client.good("chat", &body).await;
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.starts_with("images:2 "), "{content}");
        self.ledger.one_signed().await;
        let seen = self.pair.backend.seen().pop().unwrap();
        assert_eq!(seen.body["messages"], body["messages"]);
    }

    async fn request_fields_pass_through(&mut self) {
        let format = json!({"type": "json_schema", "json_schema": {
            "name": "answer", "strict": true,
            "schema": {"type": "object", "properties": {"n": {"type": "integer"}},
                       "required": ["n"], "additionalProperties": false},
        }});
        let mut body = chat();
        body["response_format"] = format;
        body["temperature"] = 0.25.into();
        body["top_p"] = 1.into();
        body["seed"] = 42.into();
        body["stop"] = json!(["END"]);
        body["max_completion_tokens"] = 500.into();
        body["derouter_test"] = json!({"chunks": 3});
        let answer = self.client.good("chat", &body).await;
        assert_eq!(answer["usage"]["completion_tokens"], 3);
        self.ledger.one_signed().await;
        let seen = self.pair.backend.seen().pop().unwrap();
        for (key, value) in body.as_object().unwrap() {
            assert_eq!(seen.body[key], *value, "{key}");
        }
    }

    async fn sixteen_at_once(&mut self) {
        // Slow enough that all are on their way together.
        let test = json!({"chunks": 20, "pace_ms": 20});
        let body = with(streamed(chat()), "derouter_test", test);
        let step = json!({"op": "chat", "request": body, "times": 16});
        let answers = self.client.step(&step).await;
        let answers = answers["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 16);
        for answer in answers {
            assert_eq!(answer["ok"], true, "{answer}");
            assert_eq!(
                text_of(&answer["chunks"]),
                answer::text(Kind::Chat, &body, 20)
            );
        }
        self.ledger.signed(16).await;
    }

    async fn a_client_that_leaves_cancels_the_backend_and_pays_for_what_came(&mut self) {
        self.pair.backend.forget();
        let test = json!({"chunks": 2_000, "pace_ms": 20});
        let body = with(streamed(chat()), "derouter_test", test);
        let step = json!({"op": "chat", "request": body, "abort_after": 3});
        let answer = self.client.step(&step).await;
        assert_eq!(answer["aborted"], true, "{answer}");
        let left = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::ClientLeft;
        self.pair
            .backend
            .wait_seen("the backend's client left", left)
            .await;
        let trade = self.ledger.one_signed().await;
        let payload = trade.consumer.public_payload.as_deref().unwrap();
        let payload: Value = serde_json::from_str(payload).unwrap();
        assert_eq!(payload["cancelled"], true, "{payload}");
        let output = payload["usage"]["output"].as_u64().unwrap();
        assert!((1..500).contains(&output), "{payload}");
        let usage =
            json!({"prompt_tokens": payload["usage"]["input"], "completion_tokens": output});
        check_price(&trade, &usage);
    }

    async fn a_plain_request_that_is_given_up_cancels_the_backend_too(&mut self) {
        self.pair.backend.forget();
        let body = with(chat(), "derouter_test", json!({"fault": "stall-first"}));
        let step = json!({"op": "chat", "request": body, "timeout": 1});
        let answer = self.client.step(&step).await;
        assert_eq!(answer["ok"], false, "{answer}");
        let left = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::ClientLeft;
        self.pair
            .backend
            .wait_seen("the backend's client left", left)
            .await;
        self.ledger.one_failed().await;
    }

    async fn a_wrong_model_is_told(&mut self) {
        let body = with(chat(), "model", "no-such-model".into());
        for op in ["chat", "helper"] {
            let result = self.client.bad(op, &body).await;
            let error = &result["error"];
            assert_eq!(error["status"], 404, "{error}");
            assert_eq!(error["code"], "model_not_found", "{error}");
            assert!(
                error["message"].as_str().unwrap().contains("no-such-model"),
                "{error}"
            );
            assert_eq!(error["class"], "NotFoundError");
        }
        self.ledger.none().await;
    }
}

async fn run(language: Language, modules: Modules) {
    let Some(mut scene) = Scene::start(language, modules).await else {
        return;
    };
    scene.models().await;
    scene.plain_chat().await;
    scene.credentials_stay_apart().await;
    scene.streamed_chat().await;
    scene.streamed_chat_with_usage().await;
    scene.the_packages_own_stream_helper().await;
    scene
        .usage_that_the_backend_does_not_tell_is_counted()
        .await;
    scene.completions().await;
    scene.tool_calls().await;
    scene.image_parts().await;
    scene.request_fields_pass_through().await;
    scene.sixteen_at_once().await;
    scene
        .a_client_that_leaves_cancels_the_backend_and_pays_for_what_came()
        .await;
    scene
        .a_plain_request_that_is_given_up_cancels_the_backend_too()
        .await;
    scene.a_wrong_model_is_told().await;
    // After all that went wrong the next one is served as the first.
    scene.plain_chat().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_trades_with_the_modules_inside_the_nodes() {
    run(Language::Python, Modules::Inside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_trades_with_the_modules_inside_the_nodes() {
    run(Language::JavaScript, Modules::Inside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_trades_with_the_modules_as_processes() {
    run(Language::Python, Modules::AsProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_trades_with_the_modules_as_processes() {
    run(Language::JavaScript, Modules::AsProcesses).await;
}

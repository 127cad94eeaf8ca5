//! Each client library against real nodes: chats, streams, tools, usage, embeddings, lists, errors and
//! leaving. One process for each language drives all of its libraries (tests/clients/libraries.*).

use std::time::Duration;

use derouter_testkit::backend::answer::{self, Kind, TOOL_ARGUMENTS};
use derouter_testkit::fault::{Behaviour, Fault};
use derouter_testkit::{Ledger, Outcome, Pair, Process, eventually, http};
use serde_json::{Value, json};

use super::{MODEL, NARROW, weather};
use crate::DEROUTER;
use crate::client::{Client, Language};

/// Content chunks that the testkit's backend answers by default.
const CHUNKS: usize = 8;

/// What is different between libraries.
struct Library {
    name: &'static str,
    /// What it makes of the end of a text, and of one with a call.
    ends: [&'static str; 2],
    /// Whether it tells the usage of a stream for which it was not asked.
    always_usage: bool,
    embeds: bool,
    /// Whether it can list models, and look one up.
    lists: [bool; 2],
    /// Its errors by status: of it or of what it is derived from.
    errors: [(u16, &'static str); 6],
}

const OPENAI_ENDS: [&str; 2] = ["stop", "tool_calls"];

const PYTHON_ERRORS: [(u16, &str); 6] = [
    (401, "AuthenticationError"),
    (402, "APIStatusError"),
    (403, "PermissionDeniedError"),
    (404, "NotFoundError"),
    (429, "RateLimitError"),
    (502, "InternalServerError"),
];

/// It has no classes for two of them, and another one for a failure.
const LITELLM_ERRORS: [(u16, &str); 6] = {
    let [
        unauthorized,
        (poor, _),
        (forbidden, _),
        unknown,
        busy,
        (failed, _),
    ] = PYTHON_ERRORS;
    [
        unauthorized,
        (poor, "APIError"),
        (forbidden, "APIError"),
        unknown,
        busy,
        (failed, "BadGatewayError"),
    ]
};

const JAVASCRIPT_ERRORS: [(u16, &str); 6] = [
    (401, "AuthenticationError"),
    (402, "APIError"),
    (403, "PermissionDeniedError"),
    (404, "NotFoundError"),
    (429, "RateLimitError"),
    (502, "InternalServerError"),
];

/// The gateway's 502 is a 500 in Anthropic's API.
const fn anthropics(errors: [(u16, &'static str); 6]) -> [(u16, &'static str); 6] {
    let [a, b, c, d, e, (_, failed)] = errors;
    [a, b, c, d, e, (500, failed)]
}

const AI_SDK_ERRORS: [(u16, &str); 6] = {
    let class = "APICallError";
    [
        (401, class),
        (402, class),
        (403, class),
        (404, class),
        (429, class),
        (502, class),
    ]
};

const PYTHON: [Library; 4] = [
    Library {
        name: "openai",
        ends: OPENAI_ENDS,
        always_usage: false,
        embeds: true,
        lists: [true, true],
        errors: PYTHON_ERRORS,
    },
    Library {
        name: "langchain",
        ends: OPENAI_ENDS,
        always_usage: false,
        embeds: true,
        lists: [false, false],
        errors: PYTHON_ERRORS,
    },
    Library {
        name: "litellm",
        ends: OPENAI_ENDS,
        always_usage: false,
        embeds: true,
        lists: [true, false],
        errors: LITELLM_ERRORS,
    },
    Library {
        name: "anthropic",
        ends: ["end_turn", "tool_use"],
        always_usage: true,
        embeds: false,
        lists: [false, false],
        errors: anthropics(PYTHON_ERRORS),
    },
];

const JAVASCRIPT: [Library; 4] = [
    Library {
        name: "openai",
        ends: OPENAI_ENDS,
        always_usage: false,
        embeds: true,
        lists: [true, true],
        errors: JAVASCRIPT_ERRORS,
    },
    Library {
        name: "ai-sdk-compatible",
        ends: ["stop", "tool-calls"],
        always_usage: false,
        embeds: true,
        lists: [false, false],
        errors: AI_SDK_ERRORS,
    },
    Library {
        name: "ai-sdk-openai",
        ends: ["stop", "tool-calls"],
        always_usage: true,
        embeds: true,
        lists: [false, false],
        errors: AI_SDK_ERRORS,
    },
    Library {
        name: "anthropic",
        ends: ["end_turn", "tool_use"],
        always_usage: true,
        embeds: false,
        lists: [false, false],
        errors: anthropics(JAVASCRIPT_ERRORS),
    },
];

/// The actors of a language's libraries.
struct Scene {
    pair: Pair,
    client: Client,
    ledger: Ledger,
}

fn text() -> String {
    answer::text(Kind::Chat, &json!({}), CHUNKS)
}

impl Scene {
    async fn step(&mut self, library: &Library, call: &str, more: &Value) -> Value {
        let mut step = json!({"op": "library", "library": library.name, "call": call,
            "request": {"model": MODEL}});
        for (key, value) in more.as_object().into_iter().flatten() {
            step[key] = value.clone();
        }
        self.client.step(&step).await
    }

    async fn good(&mut self, library: &Library, call: &str, more: &Value) -> Value {
        let answer = self.step(library, call, more).await;
        assert_eq!(answer["ok"], true, "{} {call}: {answer}", library.name);
        answer["answer"].clone()
    }

    async fn bad(&mut self, library: &Library, status: u16, more: &Value) -> Value {
        let answer = self.step(library, "chat", more).await;
        let shown = format!("{} {status}: {answer}", library.name);
        assert_eq!(answer["ok"], false, "{shown}");
        let error = &answer["error"];
        let mut classes = library.errors.iter().filter(|(known, _)| *known == status);
        let (_, class) = classes.next().unwrap();
        let bases = error["bases"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(
            error["class"] == *class || bases.iter().any(|base| base == class),
            "{class}: {shown}"
        );
        assert_eq!(error["status"], status, "{shown}");
        error.clone()
    }

    async fn models(&mut self, library: &Library) {
        let [all, one] = library.lists;
        if all {
            let list = self.good(library, "models", &json!({})).await;
            let mut ids: Vec<&str> = list["ids"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, [NARROW, MODEL], "{}", library.name);
        }
        if one {
            let found = self.good(library, "model", &json!({})).await;
            assert_eq!(found["ids"], json!([MODEL]), "{}", library.name);
        }
    }

    async fn chats(&mut self, library: &Library) {
        let plain = self.good(library, "chat", &json!({})).await;
        let usage = plain["usage"].clone();
        assert_eq!(usage["output"], CHUNKS, "{}: {plain}", library.name);
        assert!(usage["input"].as_u64().unwrap() > 0, "{plain}");
        let streamed = self.good(library, "stream", &json!({})).await;
        let with_usage = json!({"request": {"model": MODEL, "usage": true}});
        let counted = self.good(library, "stream", &with_usage).await;
        for answer in [&plain, &streamed, &counted] {
            let shown = format!("{}: {answer}", library.name);
            assert_eq!(answer["text"], text(), "{shown}");
            assert_eq!(answer["finish"], library.ends[0], "{shown}");
            assert_eq!(answer["calls"], json!([]), "{shown}");
        }
        for answer in [&streamed, &counted] {
            // Some join what comes together.
            assert!(answer["pieces"].as_u64().unwrap() > 0, "{answer}");
        }
        assert_eq!(counted["usage"], usage, "{}", library.name);
        if !library.always_usage {
            assert_eq!(streamed["usage"], Value::Null, "{}", library.name);
        }
        self.ledger.signed(3).await;
    }

    async fn tools(&mut self, library: &Library) {
        let with_tools = json!({"request": {"model": MODEL, "tools": weather()}});
        for call in ["chat", "stream"] {
            let answer = self.good(library, call, &with_tools).await;
            let shown = format!("{} {call}: {answer}", library.name);
            assert_eq!(answer["finish"], library.ends[1], "{shown}");
            let [made] = answer["calls"].as_array().unwrap().as_slice() else {
                panic!("{shown}");
            };
            assert_eq!(made["id"], "call_test", "{shown}");
            assert_eq!(made["name"], "weather", "{shown}");
            let arguments: Value =
                serde_json::from_str(made["arguments"].as_str().unwrap()).unwrap();
            let right: Value = serde_json::from_str(TOOL_ARGUMENTS).unwrap();
            assert_eq!(arguments, right, "{shown}");
        }
        self.ledger.signed(2).await;
    }

    async fn embeddings(&mut self, library: &Library) {
        if !library.embeds {
            return;
        }
        let request = json!({"request": {"model": MODEL, "texts": ["some words", "other words"]}});
        let answer = self.good(library, "embed", &request).await;
        assert_eq!(
            answer["vectors"],
            json!([[0.25, -0.5], [0.25, -0.5]]),
            "{}",
            library.name
        );
        self.ledger.one_signed().await;
    }

    async fn failures(&mut self, library: &Library) {
        let unknown = json!({"request": {"model": "no-such/model"}});
        let error = self.bad(library, 404, &unknown).await;
        assert!(
            error["message"].as_str().unwrap().contains("no-such/model"),
            "{error}"
        );
        self.ledger.none().await;

        let failing = |fault| Behaviour {
            fault: Some(fault),
            ..Behaviour::default()
        };
        self.pair.backend.set_behaviour(failing(Fault::ServerError));
        let [.., (failed, _)] = library.errors;
        self.bad(library, failed, &json!({})).await;
        self.ledger.one_failed().await;

        self.pair.backend.set_behaviour(failing(Fault::ErrorEvent));
        let broken = self.step(library, "stream", &json!({})).await;
        assert_eq!(broken["ok"], false, "{}: {broken}", library.name);
        self.ledger.one_failed().await;
        self.pair.backend.set_behaviour(Behaviour::default());
    }

    /// The stream has begun when the answer comes, or when none does.
    async fn long_in_coming(&mut self, library: &Library) {
        self.pair.backend.set_behaviour(Behaviour {
            chunks: 2,
            pace: Duration::from_millis(200),
            ..Behaviour::default()
        });
        let answer = self.good(library, "stream", &json!({})).await;
        let text = answer::text(Kind::Chat, &json!({}), 2);
        assert_eq!(answer["text"], text, "{}: {answer}", library.name);
        self.ledger.one_signed().await;
        self.pair.backend.set_behaviour(Behaviour {
            fault: Some(Fault::StallFirst),
            ..Behaviour::default()
        });
        let failed = self.step(library, "stream", &json!({})).await;
        assert_eq!(failed["ok"], false, "{}: {failed}", library.name);
        self.ledger.one_failed().await;
        self.pair.backend.set_behaviour(Behaviour::default());
    }

    /// A provider with one place, which somebody else has.
    async fn busy(&mut self, library: &Library) {
        let url = format!("{}/chat/completions", self.pair.url());
        let slow = json!({"model": NARROW, "stream": true, "messages": [{"role": "user", "content": "Go on"}],
            "derouter_test": {"chunks": 100_000, "pace_ms": 20}});
        let mut holding = http::stream(&url, &slow).await.unwrap();
        // Comments may come first.
        while !holding.next().await.unwrap().unwrap().contains("word") {}
        let error = self
            .bad(library, 429, &json!({"request": {"model": NARROW}}))
            .await;
        assert_eq!(error["retry_after"], "5", "{}: {error}", library.name);
        drop(holding);
        self.ledger.one_signed().await;
    }

    async fn leaving(&mut self, library: &Library) {
        self.pair.backend.forget();
        self.pair.backend.set_behaviour(Behaviour {
            chunks: 100_000,
            pace: Duration::from_millis(20),
            ..Behaviour::default()
        });
        let left = self
            .good(library, "stream", &json!({"abort_after": 3}))
            .await;
        assert!(
            left["pieces"].as_u64().unwrap() >= 3,
            "{}: {left}",
            library.name
        );
        let what = format!("the backend is left by {}", library.name);
        let is_left = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::ClientLeft;
        self.pair.backend.wait_seen(&what, is_left).await;
        let trade = self.ledger.one_signed().await;
        let payload: Value =
            serde_json::from_str(trade.consumer.public_payload.as_deref().unwrap()).unwrap();
        assert_eq!(payload["cancelled"], true, "{}: {payload}", library.name);
        self.pair.backend.set_behaviour(Behaviour::default());
    }

    async fn create_key(&self, arguments: &[&str]) -> String {
        let config = self.pair.consumer_home.config_path();
        let mut all = vec!["token", "create"];
        all.extend(arguments);
        all.extend(["-c", config.to_str().unwrap()]);
        let exit = Process::run("token", DEROUTER, &all).exit().await;
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.stdout.trim().to_owned()
    }

    /// The first key makes keys needed, so this comes last.
    async fn keys(&mut self, libraries: &[Library]) {
        let good = self.create_key(&["good"]).await;
        let poor = self.create_key(&["poor", "--total", "0.000001"]).await;
        let other = self.create_key(&["other", "--models", "llama*"]).await;
        let url = format!("{}/models", self.pair.url());
        eventually("keys are needed, and the last is known", async || {
            let status = async |key: &str| {
                let request = reqwest::Client::new().get(&url).bearer_auth(key);
                request
                    .send()
                    .await
                    .ok()
                    .map(|answer| answer.status().as_u16())
            };
            let both = (status("nothing").await, status(&other).await);
            (both == (Some(401), Some(200))).then_some(())
        })
        .await;
        for library in libraries {
            for (key, status) in [("dr-wrong", 401), (&poor, 402), (&other, 403)] {
                self.bad(library, status, &json!({"key": key})).await;
            }
            self.ledger.none().await;
            self.good(library, "chat", &json!({"key": good})).await;
            self.ledger.one_signed().await;
        }
    }
}

async fn run(language: Language, libraries: &[Library]) {
    if Client::start(language, "http://127.0.0.1:1/v1").is_none() {
        return;
    }
    let timeouts = json!({"begin_stream": 0.2, "first_token": 4});
    let pair = super::pair(&json!({"timeouts": timeouts})).await;
    let client = Client::start(language, pair.url()).unwrap();
    let ledger = pair.ledger().await;
    let mut scene = Scene {
        pair,
        client,
        ledger,
    };
    for library in libraries {
        scene.models(library).await;
        scene.chats(library).await;
        scene.tools(library).await;
        scene.embeddings(library).await;
        scene.failures(library).await;
        scene.long_in_coming(library).await;
        scene.busy(library).await;
        scene.leaving(library).await;
    }
    scene.keys(libraries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_libraries_get_all_that_they_know_of() {
    run(Language::Python, &PYTHON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascripts_libraries_get_all_that_they_know_of() {
    run(Language::JavaScript, &JAVASCRIPT).await;
}

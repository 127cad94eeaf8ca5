//! Backends that fail in every way: the client gets an OpenAI error, both sides record a failed
//! job, and the next request is served.

use derouter_testkit::{Fault, Ledger, Modules, Pair};
use serde_json::{Value, json};

use crate::DEROUTER;
use crate::client::{Client, Language};

const MODEL: &str = "test-model";

fn request(fault: &str, stream: bool) -> Value {
    json!({
        "model": MODEL, "stream": stream,
        "messages": [{"role": "user", "content": "Say some words"}],
        "derouter_test": {"fault": fault},
    })
}

/// Faults that no request survives, and whether the client sees chunks before, when streamed.
const FATAL: [(&str, bool); 9] = [
    ("500", false),
    ("429", false),
    ("401", false),
    ("400", false),
    ("empty", false),
    ("garbage", false),
    ("close-early", true),
    ("end-early", true),
    ("error-event", true),
];

fn check_error(fault: &str, stream: bool, chunks_before: bool, result: &Value) {
    let shown = format!("{fault}, stream {stream}: {result}");
    let error = &result["error"];
    let message = error["message"].as_str().unwrap();
    assert!(!message.is_empty(), "{shown}");
    // The backend's own words may carry what is not the consumer's business: keys, hosts.
    assert!(!message.contains("backend-key"), "{shown}");
    let chunks = result["chunks"].as_array().unwrap();
    if stream && chunks_before {
        assert!(!chunks.is_empty(), "{shown}");
        assert_eq!(error["status"], Value::Null, "{shown}");
    } else {
        let status = error["status"].as_u64().unwrap_or_default();
        assert!((400..600).contains(&status), "{shown}");
        assert!(chunks.is_empty(), "{shown}");
    }
    assert!(error["type"].is_string(), "{shown}");
}

async fn each_fault_fails(client: &mut Client, ledger: &mut Ledger) {
    for (fault, chunks_before) in FATAL {
        assert!(Fault::named(fault).is_some());
        for stream in [false, true] {
            let result = client.bad("chat", &request(fault, stream)).await;
            check_error(fault, stream, chunks_before, &result);
            let trade = ledger.one_failed().await;
            for job in [&trade.consumer, &trade.provider] {
                assert_eq!(job.reason_class, Some(0), "{fault} {stream}: {job:?}");
                assert_eq!(job.balance_delta, None, "{fault} {stream}");
            }
        }
    }
}

/// Malformed events fail the job or are left out; what must not happen is a silent half answer,
/// or a signature for it.
async fn malformed_events_are_never_half_an_answer(client: &mut Client, ledger: &mut Ledger) {
    let step = json!({"op": "chat", "request": request("malformed-sse", true)});
    let result = client.step(&step).await;
    if result["ok"] == true {
        let text = crate::client::text_of(&result["chunks"]);
        assert!(
            text.contains("word0 ") && text.contains("word7 "),
            "{result}"
        );
        ledger.one_signed().await;
    } else {
        assert!(result["error"]["type"].is_string(), "{result}");
        ledger.one_failed().await;
    }
}

async fn a_huge_chunk_passes(client: &mut Client, ledger: &mut Ledger) {
    let chunks = client.good("chat", &request("huge-chunk", true)).await;
    let length = crate::client::text_of(&chunks).len();
    assert!(
        length > derouter_testkit::backend::answer::HUGE_CHUNK_CHARS,
        "{length}"
    );
    ledger.one_signed().await;
}

async fn run(language: Language) {
    let modules = match language {
        Language::Python => Modules::Inside,
        Language::JavaScript => Modules::AsProcesses,
    };
    let Some(_) = Client::start(language, "http://127.0.0.1:1/v1") else {
        return;
    };
    let pair = Pair::start_with(DEROUTER, &[MODEL], modules).await;
    let mut client = Client::start(language, pair.url()).unwrap();
    let mut ledger = pair.ledger().await;
    each_fault_fails(&mut client, &mut ledger).await;
    malformed_events_are_never_half_an_answer(&mut client, &mut ledger).await;
    a_huge_chunk_passes(&mut client, &mut ledger).await;
    client.good("chat", &request("none", true)).await;
    ledger.one_signed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_is_told_what_a_failing_backend_does() {
    run(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_is_told_what_a_failing_backend_does() {
    run(Language::JavaScript).await;
}

//! The bytes that 0.1 modules send on job streams.

use derouter_openai::frames::{Json, read_value};
use derouter_openai::protocol::{Epilogue, Prologue};
use derouter_openai::provider::Limits;
use derouter_sdk::wire::cbor;
use derouter_testkit::Backend;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::provider_support::{Bought, Market, RawBackend, config, offer};

const VECTORS: &str = include_str!("../../../../testdata/vectors/modules-0.1.json");

/// The entries of `job_stream`: name, JSON, bytes without the length.
fn entries() -> Vec<(String, Value, Vec<u8>)> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let entries = vectors["job_stream"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let name = entry["name"].as_str().unwrap().to_owned();
            let hex = entry["cbor_hex"].as_str().unwrap();
            (name, entry["json"].clone(), unhex(hex))
        })
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn entry(name: &str) -> (Value, Vec<u8>) {
    let mut entries = entries().into_iter();
    let found = entries.find(|(known, ..)| known == name);
    let (_, json, bytes) = found.unwrap_or_else(|| panic!("no entry {name}"));
    (json, bytes)
}

/// A value as our reader takes it from a stream.
async fn read<T: DeserializeOwned>(name: &str) -> T {
    let (_, bytes) = entry(name);
    let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(bytes);
    read_value(&mut framed.as_slice()).await.unwrap()
}

/// What our bytes say, JSON for JSON.
fn written(bytes: &[u8]) -> Value {
    cbor::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn prologues_are_read_and_written_byte_for_byte() {
    for (name, expected) in [
        ("prologue.ok", Prologue::Ok),
        (
            "prologue.service_error",
            Prologue::ServiceError { message: None },
        ),
    ] {
        assert_eq!(read::<Prologue>(name).await, expected);
        assert_eq!(cbor::to_vec(&expected), entry(name).1, "{name}");
    }
}

#[tokio::test]
async fn every_value_reads_as_its_json_and_is_written_as_it() {
    for (name, json, _) in entries() {
        assert_eq!(read::<Value>(&name).await, json, "{name}");
        assert_eq!(written(&cbor::to_vec(&Json(&json))), json, "{name}");
    }
}

#[tokio::test]
async fn epilogues_are_read_and_written() {
    for (name, object) in [
        ("epilogue.streaming", Some("derouter.epilogue")),
        ("epilogue.plain", None),
    ] {
        let (json, _) = entry(name);
        let epilogue: Epilogue = read(name).await;
        assert_eq!(epilogue.object.as_deref(), object);
        assert_eq!(epilogue.public_payload, json["public_payload"]);
        assert_eq!(
            epilogue.balance_delta.unwrap().to_string(),
            json["balance_delta"]
        );
        assert_eq!(
            json!(epilogue.completed_at_sync.0),
            json["completed_at_sync"]
        );
        assert_eq!(written(&cbor::to_vec(&epilogue)), json);
    }
}

/// What our provider sends in front of a backend that says the vectors' values.
async fn bought(body: String, stream: bool) -> Bought {
    let raw = RawBackend::start(vec![body]).await;
    let mut offer = offer();
    offer.model_id = "mock".to_owned();
    let mut config = config(raw.url.clone(), offer);
    config.limits = Limits::default();
    let market = Market::open_at(Backend::start().await, config).await;
    let mut request = json!({"model": "mock", "messages": [{"role": "user", "content": "hi"}]});
    if stream {
        request["stream"] = json!(true);
    }
    market.buy(&request).await.1
}

#[tokio::test]
async fn our_provider_sends_what_a_0_1_provider_sends() {
    let streamed = [
        "chunk.first",
        "chunk.text",
        "chunk.usage",
        "epilogue.streaming",
    ];
    let mut expected = streamed.map(|name| entry(name).0);
    let events = expected[..3]
        .iter()
        .map(|chunk| format!("data: {chunk}\n\n"));
    let body = events.collect::<String>() + "data: [DONE]\n\n";
    // 0.1 consumers need it in every delta.
    expected[1]["choices"][0]["delta"]["role"] = json!("assistant");
    let sent = bought(body, true).await;
    assert_eq!(
        (sent.prologue, sent.values),
        (Prologue::Ok, expected.into())
    );

    let expected = ["response.plain", "epilogue.plain"].map(|name| entry(name).0);
    let sent = bought(expected[0].to_string(), false).await;
    assert_eq!(
        (sent.prologue, sent.values),
        (Prologue::Ok, expected.into())
    );
}

#[test]
fn every_entry_is_named_in_these_tests() {
    let source = include_str!("golden.rs");
    let entries = entries();
    assert_eq!(entries.len(), 8);
    for (name, ..) in entries {
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}

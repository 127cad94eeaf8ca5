//! The provider module: puts OpenAI-compatible servers ("backends") on the market.
//!
//! A job flows like this: `service` checks it and claims a slot, a pump (`pump`) asks the
//! `backend` at once and writes the values of the answer to the job's `log`, and each connection
//! (`connection`) of the job's consumer reads that log from its beginning. So a later connection
//! replays for free, and a slow one never holds a faster one up.

mod admission;
pub mod backend;
mod blocklist;
pub mod config;
mod connection;
pub mod counters;
pub mod detect;
pub mod echo;
mod health;
mod job;
mod keeper;
mod load;
mod log;
mod models;
mod monitor;
mod normalize;
mod outward;
pub mod prices;
mod pump;
mod queue;
mod rates;
mod registry;
mod request;
mod running;
mod service;
mod trial;
mod usage;
mod v0_2;
mod window;

pub use admission::MAX_QUEUE_TIME;
pub use blocklist::ConsumerLists;
pub use config::{
    Announced, BackendCheck, BackendConfig, BackendOptions, Discover, Limits, OfferConfig,
    OfferTerms, ProviderConfig, Secret,
};
pub use counters::{Counters, CountersSnapshot};
pub use detect::{DetectedBackend, detect_backends};
pub use echo::{EchoBackend, start_echo_backend};
pub use outward::MediaLinks;
pub use rates::RateLimits;
pub use running::{RunningProvider, StartError, start};

/// See [`crate::fuzz::sse`].
pub(crate) fn fuzz_sse(data: &[u8]) {
    let Some((size, body)) = data.split_first() else {
        return;
    };
    let whole = crate::sse::fuzz(body, body.len().max(1));
    let pieces = crate::sse::fuzz(body, usize::from(*size).max(1));
    assert_eq!(whole, pieces);
}

/// See [`crate::fuzz::job_args`].
pub(crate) fn fuzz_job_args(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let offer = fuzz_offer();
    let Ok(parsed) = request::Request::parse(Some(text), &offer) else {
        return;
    };
    let body: Result<serde_json::Value, _> = serde_json::from_slice(&parsed.body);
    assert!(body.is_ok_and(|body| body.is_object()));
    // As much as one answer can be, for each answer that was asked for.
    let usage = usage::settle(None, &parsed, usage::Tally::default());
    assert!(usage.usage.prompt_tokens <= parsed.most_billed.prompt_tokens);
    assert!(usage.usage.completion_tokens <= parsed.most_billed.completion_tokens);
    let signed = parsed.public_payload(&usage.json);
    assert!(signed.len() <= derouter_sdk::wire::limits::PUBLIC_PAYLOAD_BYTES);
}

/// See [`crate::fuzz::backend_answer`].
pub(crate) fn fuzz_answer(data: &[u8]) {
    use crate::protocol::Endpoint;
    let args = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":100}"#;
    let Ok(request) = request::Request::parse(Some(args), &fuzz_offer()) else {
        return;
    };
    let mut stream = normalize::Stream::new(Endpoint::Chat, Some("m".to_owned()));
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else {
            continue;
        };
        if let Ok(plain) = normalize::Plain::new(value.clone(), Some("m")) {
            fuzz_usage(plain.usage.clone(), &request, plain.tally);
        }
        if let Ok(Some(chunk)) = stream.chunk(value) {
            assert!(chunk.get("choices").is_some());
            assert_eq!(chunk.get("model"), Some(&serde_json::json!("m")));
        }
    }
    fuzz_usage(stream.usage.clone(), &request, stream.tally);
}

fn fuzz_usage(
    reported: Option<serde_json::Value>,
    request: &request::Request,
    tally: usage::Tally,
) {
    let settled = usage::settle(reported, request, tally);
    let (most, usage) = (request.most_billed, settled.usage);
    assert!(usage.prompt_tokens <= most.prompt_tokens);
    assert!(usage.completion_tokens <= most.completion_tokens);
    assert_eq!(
        crate::protocol::Usage::from_json(&settled.json),
        Some(usage)
    );
}

fn fuzz_offer() -> OfferConfig {
    OfferConfig {
        model_id: "m".to_owned(),
        context_size: 8_192,
        description: None,
        input_token_price: derouter_sdk::Wei::ZERO,
        output_token_price: derouter_sdk::Wei::ZERO,
        max_concurrency: None,
        backend_model: None,
        terms: OfferTerms::default(),
    }
}
